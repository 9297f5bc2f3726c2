"""An experiment that has come to nothing stands in nobody's way: it is begun anew."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from commands import Shell, assert_no_traceback
from conftest import BRANIN
from optuna.study import StudyDirection
from optuna.trial import TrialState

from hpo.errors import UsageError
from hpo.going_on import find_record
from hpo.places import Places
from hpo.spec import parse_spec
from hpo.workspace import Workspace, open_workspace
from storage import EpochRecord, LrRangeRecord, put_intermediate_value

OTHER = ("fixed.noise=0.5", "objective.direction=maximize", "enqueue=[{x1: 1, x2: 2}]")


def begin(folder: Path, *overrides: str, resume: bool = False) -> Workspace:
    """The workspace of the branin spec, as `hpo run` lays it out."""
    spec, places = parse_spec(BRANIN, "branin.yaml", overrides), Places.of(folder)
    return open_workspace(spec, places, find_record(spec, places, resume=resume))


@pytest.mark.parametrize("resume", [False, True])
def test_nothing_is_left_of_a_start_no_trial_of_which_has_ended(
    resume: bool, tmp_path: Path
) -> None:
    """Neither trials in the queue, nor epochs, nor what a trainable might go on from."""
    before = begin(tmp_path)
    before.study.enqueue_trial({"x1": 0, "x2": 0})
    before.study.ask()
    epoch = EpochRecord(
        trial_number=0, epoch=1, metrics={}, seconds=1.0, reported_at=dt.datetime(2026, 1, 1)
    )
    before.ledger.put_epoch(before.experiment.id, epoch)
    checkpoint = before.tasks.trial_folder(0) / "last.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()

    after = begin(tmp_path, *OTHER, resume=resume)
    assert after.spec.fixed["noise"] == 0.5
    assert after.study.direction == StudyDirection.MAXIMIZE
    assert after.study.trials == []
    assert after.ledger.epochs(before.experiment.id) == {}
    assert after.ledger.epochs(after.experiment.id) == {}
    assert not checkpoint.exists()
    assert after.recorded().spec == (after.folder / "spec.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
def test_one_with_a_trial_that_has_ended_stays(state: TrialState, tmp_path: Path) -> None:
    study = begin(tmp_path).study
    value = 1.0 if state == TrialState.COMPLETE else None
    study.tell(study.ask(), value, state=state)
    for resume in (False, True):
        with pytest.raises(UsageError, match=r"another spec(?s:.*)noise(?s:.*)-o name=branin-2"):
            begin(tmp_path, *OTHER, resume=resume)
    assert len(begin(tmp_path, resume=True).study.trials) == 1


def test_one_with_an_epoch_to_lose_stays(tmp_path: Path) -> None:
    """Its trial was cut off, or is held back until others have trained as long."""
    put_intermediate_value(begin(tmp_path).study.ask(), 1, 0.5)
    with pytest.raises(UsageError, match="exists with another spec"):
        begin(tmp_path, *OTHER)


def test_one_whose_learning_rates_were_looked_for_stays(tmp_path: Path) -> None:
    lr = ("search_space={lr: {from: lr_finder}}", "trainable=cnn", "objective.metric=val_loss")
    before = begin(tmp_path, *lr, "fixed={dataset: digits}", "enqueue=[]")
    found = LrRangeRecord(
        suggested=0.03, low=0.003, high=0.3, seconds=1.0, found_at=dt.datetime(2026, 1, 1)
    )
    before.ledger.put_lr_range(before.experiment.id, found)
    with pytest.raises(UsageError, match="exists with another spec"):
        begin(tmp_path, *lr, "fixed={dataset: fashion_mnist}")


def test_with_the_same_spec_it_goes_on(tmp_path: Path) -> None:
    before = begin(tmp_path)
    with pytest.raises(UsageError, match="Go on with --resume"):
        begin(tmp_path)
    assert begin(tmp_path, resume=True).experiment.id == before.experiment.id


def test_a_new_spec_that_is_refused_removes_nothing(tmp_path: Path) -> None:
    before = begin(tmp_path)
    for unknown in ("nobody", "branin"):
        with pytest.raises(UsageError, match=f"warm_start: no experiment '{unknown}'"):
            begin(tmp_path, *OTHER, f"warm_start=[{unknown}]")
    assert begin(tmp_path, resume=True).experiment.id == before.experiment.id


MY_DATA = """
from pathlib import Path
from trainables import DataError

def train(config):
    if not Path(config["data"]).is_file():
        raise DataError(f"there are no data in {config['data']}; set `data` to a file")
    return config["x"]
"""
MINE = """
name: mine
trainable: my_data:train
objective: {metric: objective, direction: maximize}
fixed: {data: /nowhere}
search_space: {x: {type: float, low: 0, high: 1}}
sampler: random
budget: {n_trials: 3}
finalists: {k: 1, n_seeds: 1}
"""


def test_a_user_mends_the_spec_as_the_message_says_and_runs_it(shell: Shell) -> None:
    shell.write("my_data.py", MY_DATA)
    path = shell.write("mine.yaml", MINE)
    done = shell.hpo("run", "mine.yaml")
    assert done.returncode == 5, done.stderr
    assert "set `data` to a file" in done.stderr
    assert_no_traceback(done)
    path.write_text(MINE.replace("/nowhere", str(path)))
    done = shell.hpo("run", "mine.yaml")
    assert done.returncode == 0, done.stderr
    assert "'mine' had not finished a trial: it begins anew" in done.stderr
    assert done.stdout.startswith("mine     3 trials (3 complete")
