"""`hpo audit`: clean after any run, and it finds, tells and mends whatever was done to one."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from commands import Shell, assert_no_traceback
from conftest import OWN_TRAINABLE
from here import places_of, run_here, spec_of
from mlflow import MlflowClient
from mlflow.entities import Run
from without_ray import KilledError

from hpo.audit import audit_experiment
from hpo.auditing import Audit, audit_text
from hpo.errors import StorageError
from hpo.places import Places
from hpo.storage_errors import exclusive
from hpo.workspace import Workspace, find_workspace
from storage import EpochRecord

NOBODY = "http://127.0.0.1:9"  # the discard port: connections are refused at once

COURSES = """
import math
from trainables import Checkpoint

def train(config, trial):
    total, first = 0.0, 1
    if (kept := trial.checkpoints.load()) is not None:
        first, total = kept[0] + 1, kept[1]["total"]
    for epoch in range(first, trial.max_epochs + 1):
        if config["x"] < 0.1:
            raise ValueError(f"x is too small: {config['x']}")
        if config["x"] > 0.9 and epoch == 2:
            yield {"score": math.nan, "a%b": 1.0}
        total += config["x"] / epoch
        trial.checkpoints.save(epoch, {"total": total})
        yield {"score": total, "a%b": 1.0, "unknown": math.nan, "endless": -math.inf}

def constraints(config, trial):
    if config["x"] > 0.97:
        raise ValueError("x is too large")
    return {"size": 10 * config["x"]}

changeable_while_training = ("x",)
"""
SPEC = """
trainable: courses:train
objective: {metric: score, direction: maximize}
search_space: {x: {type: float, low: 0, high: 1, step: 0.05}}
sampler: random
budget: {n_trials: 10, max_epochs: 4}
finalists: {k: 2, n_seeds: 2, confirmations: 1}
"""
UNDISTURBED = {
    "asha": ("scheduler={name: asha, reduction_factor: 2}",),
    # Some are answered by others, some are refused, some break a limit, the worst are stopped.
    "held": (
        "scheduler={name: one_epoch_top_k, k: 6}",
        "trial_seed=common",
        "search_space.x.step=0.25",
        "constraints={size: {max: 8}, score: {max: 1.4}}",
    ),
    "ended": ("sampler=grid", "search_space.x.step=0.25", "budget.target_value=0.4"),
    "pbt": ("scheduler={name: pbt, perturb: [x], quantile: 0.4}", "search_space.x.low=0.15"),
    "pareto": (
        "objective=[{metric: score, direction: maximize}, {metric: size, direction: minimize}]",
    ),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Places:
    """Of all experiments here, which share the databases."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "courses.py").write_text(COURSES)
    (folder / "audited.py").write_text(OWN_TRAINABLE)
    return places_of(folder, empty_store)


def audited(places: Places, name: str, *, repair: bool = False) -> Audit:
    return audit_experiment(name, places, repair=repair)


@pytest.mark.parametrize("name", UNDISTURBED)
def test_an_undisturbed_run_is_clean(name: str, places: Places) -> None:
    """Whatever became of its trials, with more than one worker, and after a raised budget."""
    spec = spec_of(f"name: {name}\n{SPEC}", places, *UNDISTURBED[name])
    run_here(spec, places, n_workers=2)
    found = audited(places, name)
    assert audit_text(found).endswith("compared: 0 differences"), audit_text(found)
    assert found.counts.mlflow_runs == found.counts.trials + 1
    assert found.counts.epochs > 0
    if name == "asha":
        raised = spec.model_copy(update={"budget": spec.budget.model_copy(update={"n_trials": 16})})
        run_here(raised, places, n_workers=2, resume=True)
        assert audited(places, name).differences == ()


# --- an experiment that is finished, and what may be done to it ---

MODEL = """
name: model
trainable: audited:train
objective: {metric: val, direction: maximize}
fixed: {pixels: false, rebuilds: false}
search_space: {lr: {type: float, low: 0, high: 1}}
sampler: random
enqueue: [{lr: 0.5}, {lr: 0.6}, {lr: 0.4}, {lr: 0.3}, {lr: 0.9}]
budget: {n_trials: 5, max_epochs: 3}
finalists: {k: 2, n_seeds: 1, confirmations: 0}
"""
EPOCHS = """
def train(config):
    for epoch in range(1, 4):
        if config["lr"] > 0.8:
            raise ValueError("too far")
        yield {"val": config["lr"] * epoch, "width": 1.0}
"""


@pytest.fixture(scope="module")
def model(places: Places) -> Workspace:
    """A small experiment whose winner was exported: four trials are COMPLETE, the fifth is FAIL."""
    text = OWN_TRAINABLE[: OWN_TRAINABLE.index("def train")] + EPOCHS
    text += OWN_TRAINABLE[OWN_TRAINABLE.index("def finish") - 1 :]
    (places.imports[0] / "audited.py").write_text(text)
    return run_here(spec_of(MODEL, places), places)


@dataclass(frozen=True)
class Damage:
    """Something that is done to an experiment, and what the audit says of it."""

    do: Callable[[Workspace], Any]
    told: str
    is_mended: bool = True


def ledger_sql(statement: str, workspace: Workspace) -> None:
    _sql(workspace.places.runs / "hpo.db", statement, workspace)


def mlflow_sql(statement: str, workspace: Workspace) -> None:
    _sql(workspace.places.runs / "mlflow.db", statement, workspace)


def _sql(database: Path, statement: str, workspace: Workspace) -> None:
    """EXPERIMENT, TRIAL (0) and RUN (of it) stand for their ids, FIRST_EPOCH for its condition."""
    first_epoch = "experiment_id = EXPERIMENT AND trial_number = 0 AND epoch = 1"
    statement = statement.replace("FIRST_EPOCH", first_epoch)
    statement = statement.replace("EXPERIMENT", repr(workspace.experiment.id))
    statement = statement.replace("TRIAL", str(workspace.study.trials[0]._trial_id))
    if "RUN" in statement:
        statement = statement.replace("RUN", repr(run_of(workspace, "0").info.run_id))
    with closing(sqlite3.connect(database)) as connection, connection:
        assert connection.execute(statement).rowcount > 0


def client_of(workspace: Workspace) -> MlflowClient:
    return MlflowClient(workspace.places.tracking_uri)


def run_of(workspace: Workspace, trial: str | None = None) -> Run:
    """Of a trial, or the parent."""
    client = client_of(workspace)
    experiment = client.get_experiment_by_name(workspace.spec.name)
    assert experiment is not None
    wanted = "tags.`hpo.kind` = 'parent'" if trial is None else f"tags.`hpo.trial_number`='{trial}'"
    (run,) = client.search_runs([experiment.experiment_id], wanted)
    return run


def on_run(trial: str | None, change: Callable[[MlflowClient, str], Any]) -> Any:
    """A change of the run of a trial, or of the parent."""
    return lambda workspace: change(client_of(workspace), run_of(workspace, trial).info.run_id)


def second_run(workspace: Workspace, **tags: str) -> None:
    """A run like that of trial 0, cut off after it was created."""
    run = run_of(workspace, "0")
    client_of(workspace).create_run(run.info.experiment_id, tags={**run.data.tags, **tags})


def write(name: str, text: str) -> Any:
    def do(workspace: Workspace) -> None:
        path = workspace.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return do


def later_epoch(workspace: Workspace, trial: int, epoch: int) -> None:
    known = workspace.ledger.epochs(workspace.experiment.id)[0][0]
    values = {**vars(known), "trial_number": trial, "epoch": epoch}
    workspace.ledger.put_epoch(workspace.experiment.id, EpochRecord(**values))


DAMAGES = {
    "an intermediate value": Damage(
        partial(
            ledger_sql,
            "UPDATE trial_intermediate_values SET intermediate_value = 7 WHERE trial_id = TRIAL "
            "AND step = 2",
        ),
        "trial 0, ledger: val of epoch 2: expected 7.0, found ",
        is_mended=False,
    ),
    "an intermediate value is gone": Damage(
        partial(
            ledger_sql, "DELETE FROM trial_intermediate_values WHERE trial_id = TRIAL AND step = 1"
        ),
        "trial 0, study: val of epoch 1: expected 0.",
        is_mended=False,
    ),
    "a value": Damage(
        partial(ledger_sql, "UPDATE trial_values SET value = 9 WHERE trial_id = TRIAL"),
        "trial 0, study: value of val: expected ",
        is_mended=False,
    ),
    "a seed": Damage(
        partial(
            ledger_sql,
            "UPDATE trial_user_attributes SET value_json = '12' WHERE trial_id = TRIAL AND "
            "key = 'seed'",
        ),
        ", found 12; no copy of it is left",
        is_mended=False,
    ),
    "a parameter": Damage(
        partial(ledger_sql, "UPDATE trial_params SET param_value = 0.45 WHERE trial_id = TRIAL"),
        "trial 0, mlflow: parameter lr: expected 0.45, found 0.5",
    ),
    "a failure without a reason": Damage(
        partial(
            ledger_sql,
            "UPDATE trials SET state = 'FAIL' WHERE trial_id = TRIAL",
        ),
        "trial 0, study: fail_reason: expected a reason, found nothing",
        is_mended=False,
    ),
    "a trial too many": Damage(
        lambda workspace: workspace.study.add_trial(workspace.study.trials[0]),
        "experiment, study: trials spent: expected 5, the budget, found 6",
        is_mended=False,
    ),
    "an epoch": Damage(
        partial(ledger_sql, "DELETE FROM hpo_epochs WHERE FIRST_EPOCH"),
        "trial 0, ledger: epoch 1: expected its metrics, found nothing; no copy of it",
        is_mended=False,
    ),
    "a metric of the ledger": Damage(
        partial(ledger_sql, "UPDATE hpo_epochs SET metrics = '{\"val\": 4}' WHERE FIRST_EPOCH"),
        "trial 0, ledger: val of epoch 1: expected ",
        is_mended=False,
    ),
    "an epoch behind the last": Damage(
        partial(later_epoch, trial=0, epoch=4),
        "trial 0, ledger: epoch 4: expected nothing, found its metrics",
        is_mended=False,
    ),
    "an epoch of nobody": Damage(
        partial(later_epoch, trial=77, epoch=1),
        "trial 77, study: trial: expected the trial of 1 epochs, found nothing",
        is_mended=False,
    ),
    "a run": Damage(
        on_run("0", lambda client, run: client.delete_run(run)),
        "trial 0, mlflow: run: expected one, found nothing",
    ),
    "the parent run": Damage(
        on_run(None, lambda client, run: client.delete_run(run)),
        "experiment, mlflow: run: expected one, found nothing",
    ),
    "the whole MLflow experiment": Damage(
        lambda workspace: client_of(workspace).delete_experiment(
            run_of(workspace).info.experiment_id
        ),
        "trial 4, mlflow: run: expected one, found nothing",
    ),
    "a second run": Damage(second_run, "trial 0, mlflow: runs: expected one, "),
    "a run of no trial": Damage(
        partial(second_run, **{"hpo.trial_number": "99"}),
        "experiment, mlflow: run of no trial that has ended: expected nothing, found run ",
    ),
    "a status": Damage(
        on_run("0", lambda client, run: client.set_terminated(run, "KILLED")),
        "trial 0, mlflow: status: expected FINISHED, found KILLED",
    ),
    "the status of the parent": Damage(
        on_run(None, lambda client, run: client.update_run(run, "RUNNING")),
        "experiment, mlflow: status: expected FINISHED, found RUNNING",
    ),
    "a point of a metric": Damage(
        partial(
            mlflow_sql, "DELETE FROM metrics WHERE run_uuid = RUN AND key = 'width' AND step = 2"
        ),
        "trial 0, mlflow: metric width of epoch 2: expected 1.0, found nothing",
    ),
    "a metric told twice": Damage(
        on_run("0", lambda client, run: client.log_metric(run, "width", 3.0, step=2)),
        "trial 0, mlflow: metric width of epoch 2: expected 1.0, found 1.0 and 3.0",
    ),
    "a parameter in MLflow": Damage(
        partial(mlflow_sql, "UPDATE params SET value = '5' WHERE run_uuid = RUN AND key = 'seed'"),
        ", found 5",
    ),
    "a reason": Damage(
        on_run("4", lambda client, run: client.delete_tag(run, "hpo.fail_reason")),
        "trial 4, mlflow: tag hpo.fail_reason: expected ValueError: too far",
    ),
    "a rank": Damage(
        on_run("4", lambda client, run: client.set_tag(run, "hpo.finalist_rank", "1")),
        "trial 4, mlflow: tag hpo.finalist_rank: expected nothing, found 1",
    ),
    "a result of the parent": Damage(
        on_run(None, lambda client, run: client.log_metric(run, "rerun_mean", 3.0)),
        "experiment, mlflow: metric rerun_mean: expected ",
    ),
    "the spec in MLflow": Damage(
        on_run(None, lambda client, run: client.log_text(run, "name: x", "spec.yaml")),
        "experiment, mlflow: artifact spec.yaml: expected what is recorded, found another content",
    ),
    "the spec": Damage(
        write("spec.yaml", "name: other\n"),
        "experiment, files: spec.yaml: expected the recorded spec, found another one",
    ),
    "the report": Damage(
        lambda workspace: (workspace.folder / "report.html").unlink(),
        "experiment, files: report.html: expected a file, found nothing",
    ),
    "an empty model card": Damage(
        write("model_card.md", ""), "experiment, files: model_card.md: expected a file"
    ),
    "a folder of no trial": Damage(
        write("trials/00099/output.txt", "?"),
        "experiment, files: trials/00099: expected nothing, found a folder of no trial",
    ),
    "a checkpoint of a trial that has ended": Damage(
        write("trials/00000/checkpoints/epoch-000003.pt", "?"),
        "trial 0, files: checkpoints: expected nothing, found 1 of a trial that has ended",
    ),
    "half a file": Damage(
        write("report.part", "<html>"), "experiment, files: report.part: expected nothing, found "
    ),
    "the exported model": Damage(
        write("standalone_model.pt", "?"),
        "experiment, files: standalone_model.pt: expected SHA-256 ",
        is_mended=False,
    ),
    "the manifest": Damage(
        write("manifest.json", "{"),
        "experiment, files: manifest.json: expected a manifest, found no JSON",
        is_mended=False,
    ),
    "the record of the export": Damage(
        partial(ledger_sql, "DELETE FROM hpo_exports WHERE experiment_id = EXPERIMENT"),
        "experiment, files: export: expected a record of the winner's model, found nothing",
        is_mended=False,
    ),
}


@pytest.fixture
def whole(model: Workspace, tmp_path: Path) -> Iterator[Workspace]:
    """The experiment; afterwards folder and database are put back, and MLflow is mended."""
    kept, database = tmp_path / "kept", model.places.runs / "hpo.db"
    shutil.copytree(model.folder, kept)
    with closing(sqlite3.connect(database)) as live, closing(sqlite3.connect(":memory:")) as copy:
        live.backup(copy)
        yield model
        copy.backup(live)
    shutil.rmtree(model.folder)
    shutil.copytree(kept, model.folder)
    assert audited(model.places, model.spec.name, repair=True).left == ()


@pytest.mark.parametrize("kind", DAMAGES)
def test_what_was_done_to_an_experiment_is_found_and_mended(kind: str, whole: Workspace) -> None:
    """If study and ledger hold what it takes; else it is told, and what to do."""
    damage, name = DAMAGES[kind], whole.spec.name
    damage.do(whole)
    found = audited(whole.places, name)
    sentences = [f"{one.sentence}; {one.way_out}" for one in found.differences]
    assert any(damage.told in sentence for sentence in sentences), sentences
    assert found.left == found.differences
    mended = audited(whole.places, name, repair=True)
    again = audited(whole.places, name)
    if damage.is_mended:
        assert mended.differences == found.differences
        assert mended.left == again.differences == ()
    else:
        assert again.differences != ()
        assert all(one.way_out for one in again.differences)


def test_the_text_fits_a_terminal_and_sums_up(whole: Workspace) -> None:
    for kind in ("a reason", "an epoch", "the exported model"):
        DAMAGES[kind].do(whole)
    lines = audit_text(audited(whole.places, "model")).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1].startswith("model: 5 trials, ")
    assert sum(not line.startswith("  ") for line in lines) >= 4
    told = audit_text(audited(whole.places, "model", repair=True))
    assert "; mended" in told
    assert " differences, " in told


def test_the_command_ends_with_3_where_something_differs(whole: Workspace) -> None:
    shell = Shell(whole.places.runs.parent)
    clean = shell.hpo("audit", "model")
    assert (clean.returncode, clean.stderr) == (0, "")
    assert "model: 5 trials, 12 epochs, 6 MLflow runs, " in clean.stdout
    assert clean.stdout.endswith("compared: 0 differences\n")
    DAMAGES["the report"].do(whole)
    found = shell.hpo("audit", "model", "--json")
    assert found.returncode == 3
    assert "1 difference in experiment 'model', 1 of which can be mended: hpo audit" in (
        found.stderr.replace("python -m ", "")
    )
    told = json.loads(found.stdout)
    assert told["compared"]["trials"] == 5
    (difference,) = told["differences"]
    assert difference == {
        "trial": None,
        "place": "files",
        "what": "report.html",
        "expected": "a file",
        "found": "nothing",
        "way_out": "",
        "repairable": True,
        "repaired": False,
    }
    mended = shell.hpo("audit", "model", "--repair")
    assert mended.returncode == 0, mended.stderr
    assert "report.html: expected a file, found nothing; mended" in mended.stdout
    assert_no_traceback(mended)


def test_without_mlflow_the_rest_is_compared_and_that_is_said(whole: Workspace) -> None:
    shell = Shell(whole.places.runs.parent)
    done = shell.hpo("audit", "model", "--tracking-uri", NOBODY)
    assert done.returncode == 5
    assert "MLflow was not compared: http://127.0.0.1:9 cannot be read" in done.stdout
    assert "0 MLflow runs, " in done.stdout
    assert_no_traceback(done)
    DAMAGES["the report"].do(whole)
    assert shell.hpo("audit", "model", "--tracking-uri", NOBODY).returncode == 3


def test_an_experiment_that_is_being_run_is_not_audited(whole: Workspace) -> None:
    with (
        exclusive(whole.places, "model"),
        pytest.raises(StorageError, match="is being run by process"),
    ):
        audited(whole.places, "model")


def test_in_another_folder_the_files_are_said_to_be_missing(
    whole: Workspace, tmp_path: Path
) -> None:
    shell = Shell(tmp_path)
    urls = ("--storage", whole.places.storage_url, "--tracking-uri", whole.places.tracking_uri)
    done = shell.hpo("audit", "model", *urls)
    assert done.returncode == 3
    assert "go to the folder in which it was run" in " ".join(done.stdout.split())
    assert not (tmp_path / "runs" / "model").exists()


# --- one that was cut off ---


@pytest.fixture
def cut_off(tmp_path: Path, empty_store: Path) -> Workspace:
    """Killed in its second trial, of which two epochs are acknowledged."""
    (tmp_path / "courses.py").write_text(COURSES)
    places = places_of(tmp_path, empty_store)
    spec = spec_of(
        f"name: cut\n{SPEC}", places, "search_space.x.low=0.2", "search_space.x.high=0.8"
    )
    with pytest.raises(KilledError):
        run_here(spec, places, n_reports=6)
    return find_workspace("cut", places)


def test_a_trial_of_a_driver_that_died_is_put_back_into_the_queue(cut_off: Workspace) -> None:
    found = audited(cut_off.places, "cut")
    assert [one.sentence for one in found.differences] == [
        "trial 1, study: state: expected WAITING, found RUNNING"
    ]
    assert audited(cut_off.places, "cut", repair=True).left == ()
    assert cut_off.study.trials[1].state.name == "WAITING"
    run_here(cut_off.spec, cut_off.places, resume=True)
    assert audited(cut_off.places, "cut").differences == ()


@pytest.mark.parametrize("damage", ["damaged", "missing"])
def test_the_checkpoint_that_a_trial_goes_on_from_is_looked_at(
    damage: str, cut_off: Workspace
) -> None:
    audited(cut_off.places, "cut", repair=True)
    newest = cut_off.tasks.trial_folder(1) / "checkpoints" / "epoch-000002.pt"
    if damage == "missing":
        newest.unlink()
    else:
        newest.write_bytes(b"not what it was")
    (difference,) = audited(cut_off.places, "cut").differences
    assert (difference.place, difference.what, difference.repair) == ("checkpoints", "epoch 2", "")
    assert f"the checkpoint of epoch 2 is {damage}" in difference.found


def test_a_checkpoint_that_nobody_acknowledged_is_no_difference(cut_off: Workspace) -> None:
    """The worker was ahead of its driver: it had saved the next one, and dropped the oldest."""
    audited(cut_off.places, "cut", repair=True)
    folder = cut_off.tasks.trial_folder(1) / "checkpoints"
    (folder / "epoch-000001.pt").rename(folder / "epoch-000003.pt")
    assert audited(cut_off.places, "cut").differences == ()
