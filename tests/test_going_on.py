"""A trial that was cut off goes on under its own number, from its last whole checkpoint."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from one_worker import OneWorker, outline, trained
from without_ray import KilledError

from hpo.execution import TrialDrive
from storage import EpochRecord

KEEPS = """
import torch

def train(config, trial):
    total, first = 0.0, 1
    if (kept := trial.checkpoints.load()) is not None:
        epoch, state = kept
        total, first = state["total"], epoch + 1
    for epoch in range(first, 5):
        with (trial.folder.parents[1] / "trained.txt").open("a") as file:
            print(trial.folder.name, epoch, file=file)
        torch.manual_seed(trial.seed + epoch)
        total += config["x"] * float(torch.rand(())) / epoch
        trial.checkpoints.save(epoch, {"total": total})
        yield {"loss": total, "elsewhere": 1.0}
"""
SPEC = """
name: cut
trainable: keeps:train
objective: {metric: loss, direction: minimize}
search_space: {x: {type: float, low: 0, high: 9}}
sampler: {name: tpe, n_startup_trials: 2}
budget: {n_trials: 5, max_epochs: 4}
"""
SCHEDULERS = {
    "none": "none",
    "asha": "{name: asha, reduction_factor: 2}",
    "hyperband": "{name: hyperband, reduction_factor: 2}",
    "median": "{name: median, min_trials: 2}",
    "one_epoch_top_k": "{name: one_epoch_top_k, k: 2}",
}
Begin = Callable[..., OneWorker]


@pytest.fixture
def begin(tmp_path: Path) -> Begin:
    """The searches of the spec; a second call of one name is a new process."""

    def make(name: str = "cut", scheduler: str = "none") -> OneWorker:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        text = SPEC.replace("name: cut", f"name: {name}")
        (folder / "keeps.py").write_text(KEEPS)
        return OneWorker(f"{text}scheduler: {SCHEDULERS[scheduler]}\n", folder)

    return make


def checkpoints(worker: OneWorker) -> list[Path]:
    return sorted(worker.folder.glob("trials/*/checkpoints/*"))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("n_reports", [3, 7])
def test_killed_and_resumed_a_search_is_what_it_would_have_been(
    n_reports: int, scheduler: str, begin: Begin
) -> None:
    """Whatever judges it; and no epoch that was acknowledged is trained again."""
    whole = begin("whole", scheduler)
    whole.search()
    with pytest.raises(KilledError):
        begin("cut", scheduler).search(n_reports=n_reports)
    resumed = begin("cut", scheduler)
    acknowledged = resumed.epochs
    resumed.search()
    assert acknowledged.items() <= resumed.epochs.items()  # and none was written again
    assert outline(resumed) == outline(whole)
    assert resumed.epochs.keys() == whole.epochs.keys()
    assert trained(resumed) == trained(whole)
    assert set(trained(whole).values()) == {1}
    assert checkpoints(resumed) == checkpoints(whole) == []
    assert resumed.warnings == []


def cut_in_trial_0(begin: Begin, n_reports: int = 3) -> OneWorker:
    """Its next start."""
    with pytest.raises(KilledError):
        begin().search(n_reports=n_reports)
    return begin()


def test_a_damaged_checkpoint_costs_one_epoch_and_the_user_is_told_once(begin: Begin) -> None:
    whole, resumed = begin("whole"), cut_in_trial_0(begin)
    whole.search()
    _, newest = checkpoints(resumed)
    newest.write_bytes(b"not what it was")
    resumed.search()
    assert outline(resumed) == outline(whole)
    assert trained(resumed) - trained(whole) == Counter({"00000 3": 1})
    assert [epoch for number, epoch in resumed.trained if number == 0] == [4]  # reported, that is
    ((number, warning),) = resumed.warnings
    assert number == 0
    assert "the checkpoint of epoch 3 is damaged" in warning


def test_without_a_whole_checkpoint_it_begins_again_to_the_same_end(begin: Begin) -> None:
    whole, resumed = begin("whole"), cut_in_trial_0(begin)
    whole.search()
    for path in checkpoints(resumed):
        path.unlink()
    resumed.search()
    assert outline(resumed) == outline(whole)
    assert (trained(resumed) - trained(whole)).keys() == {"00000 1", "00000 2", "00000 3"}
    assert "begins again with epoch 1" in resumed.warnings[-1][1]


def test_the_time_limit_counts_what_was_trained_before(begin: Begin) -> None:
    resumed = cut_in_trial_0(begin)
    first = resumed.epochs[0, 1]
    resumed.ledger.put_epoch(resumed.experiment.id, replace(first, seconds=3600.0))
    resumed.search("budget.trial_time_limit_s=600", "budget.n_trials=1")
    (trial,) = resumed.study.trials
    assert trial.user_attrs["fail_cause"] == "timeout"
    assert "for 4 epochs" in trial.user_attrs["fail_reason"]


def test_a_driver_that_dies_between_ledger_and_study_loses_nothing(begin: Begin) -> None:
    """The ledger is written first: what the study lacks of the epochs comes from there."""
    whole, killed = begin("whole"), begin()
    whole.search()
    task = killed.source().next_task()
    assert task is not None
    report = TrialDrive(task).next_report()
    epoch = EpochRecord(
        trial_number=0,
        epoch=1,
        metrics=report.metrics,
        seconds=report.seconds,
        reported_at=dt.datetime(2026, 1, 1),
        checkpoint=report.checkpoint,
    )
    killed.ledger.put_epoch(killed.experiment.id, epoch)
    resumed = begin()
    resumed.search()
    assert outline(resumed) == outline(whole)
    assert trained(resumed) == trained(whole)


def test_an_epoch_that_is_called_something_else_is_told(begin: Begin) -> None:
    worker = begin()
    worker.text = worker.text.replace("keeps:", "from_0:")
    (worker.folder / "from_0.py").write_text(KEEPS.replace("save(epoch,", "save(epoch - 1,"))
    worker.search("budget.n_trials=1")
    reason = worker.study.trials[0].user_attrs["fail_reason"]
    assert "saved a checkpoint of epoch 0 and then yielded epoch 1; epochs count from 1" in reason
