"""MLflow shows what the ledger knows, however late, and however often it is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from commands import Shell, assert_no_traceback
from conftest import BRANIN
from here import places_of, run_here, spec_of
from mlflow import MlflowClient

from hpo.audit import audit_experiment
from hpo.places import Places
from hpo.synchronization import synchronize_by_name
from hpo.workspace import find_workspace, now
from storage import tracking_is_late

NOBODY = "http://127.0.0.1:9"  # the discard port: connections are refused at once

SOMETIMES = """
def train(config):
    if config["x1"] > 5:
        raise ValueError("too far")
    for epoch in range(3):
        yield {"loss": config["x2"] / (epoch + 1), "width": 1.0}
"""


@pytest.fixture(scope="module")
def tracked(shell: Shell) -> Shell:
    """A folder with a search that was tracked, and one during which MLflow was down."""
    shell.write("sometimes.py", SOMETIMES)
    shell.write("branin.yaml", BRANIN)
    options = (
        "-otrainable=sometimes:train",
        "-obudget={n_trials: 10, max_epochs: 3}",
        "-oscheduler={name: asha, reduction_factor: 2}",
    )
    up = shell.hpo("run", "branin.yaml", "-oname=up", *options)
    assert up.returncode == 0, up.stderr
    down = shell.hpo("run", "branin.yaml", "-oname=down", *options, MLFLOW_TRACKING_URI=NOBODY)
    assert down.returncode == 0, down.stderr
    assert down.stderr.count("The search goes on") == 1
    assert "hpo sync down" in down.stderr
    return shell


def runs(shell: Shell, name: str) -> pd.DataFrame:
    with pytest.MonkeyPatch.context() as patch:  # `mlflow.set_tracking_uri` would stay set
        patch.setenv("MLFLOW_TRACKING_URI", shell.tracking_uri)
        found = mlflow.search_runs(experiment_names=[name])
    assert isinstance(found, pd.DataFrame)
    return found


def children(shell: Shell, name: str) -> pd.DataFrame:
    found = runs(shell, name)
    trials = found[found["tags.hpo.kind"] == "trial"]
    return trials.sort_values("tags.hpo.trial_number").reset_index(drop=True)


def test_there_is_one_parent_and_one_nested_run_for_each_trial(tracked: Shell) -> None:
    found = runs(tracked, "up")
    parents = found[found["tags.hpo.kind"] == "parent"]
    assert len(parents) == 1
    assert parents.iloc[0]["status"] == "FINISHED"
    trials = children(tracked, "up")
    assert sorted(trials["tags.hpo.trial_number"].astype(int)) == list(range(10))
    assert set(trials["tags.mlflow.parentRunId"]) == set(parents["run_id"])
    assert set(trials["tags.hpo.study"]) == {"up"}


def test_a_runs_status_says_how_its_trial_ended(tracked: Shell) -> None:
    expected = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
    trials = children(tracked, "up")
    assert set(trials["tags.hpo.state"]) == set(expected)
    for _, run in trials.iterrows():
        assert run["status"] == expected[run["tags.hpo.state"]]
        if run["status"] == "FAILED":
            assert "too far" in run["tags.hpo.fail_reason"]


def test_each_epoch_and_parameter_is_there(tracked: Shell) -> None:
    client = MlflowClient(tracked.tracking_uri)
    for _, run in children(tracked, "up").iterrows():
        x2 = float(run["params.x2"])
        history = client.get_metric_history(run["run_id"], "loss")
        if run["status"] == "FAILED":
            assert history == []
            continue
        assert [(point.step, point.value) for point in history] == [
            (epoch, pytest.approx(x2 / epoch)) for epoch in range(1, len(history) + 1)
        ]
        assert len(client.get_metric_history(run["run_id"], "width")) == len(history)


def test_the_spec_is_an_artifact_of_the_parent(tracked: Shell) -> None:
    found = runs(tracked, "up")
    parent = found[found["tags.hpo.kind"] == "parent"].iloc[0]
    client = MlflowClient(tracked.tracking_uri)
    path = client.download_artifacts(parent["run_id"], "spec.yaml")
    assert "trainable: sometimes:train" in Path(path).read_text(encoding="utf-8")


def test_finalists_carry_their_reruns(tracked: Shell) -> None:
    trials = children(tracked, "up")
    finalists = trials[trials["tags.hpo.finalist_rank"].notna()]
    n_finalists = min(3, (trials["status"] == "FINISHED").sum())
    assert sorted(finalists["tags.hpo.finalist_rank"].astype(int)) == list(
        range(1, n_finalists + 1)
    )
    assert finalists["metrics.rerun_mean"].notna().all()
    assert finalists["metrics.rerun_2"].notna().all()


def test_sync_catches_up_without_duplicates(tracked: Shell) -> None:
    """After a run without MLflow it shows what it would have shown; twice changes nothing."""
    assert tracked.hpo("sync", "down").returncode == 0
    once = children(tracked, "down")
    assert tracked.hpo("sync", "down").returncode == 0
    twice = children(tracked, "down")
    pd.testing.assert_frame_equal(once, twice)
    assert len(runs(tracked, "down")) == 11
    client = MlflowClient(tracked.tracking_uri)
    for run_id in twice["run_id"]:
        steps = [point.step for point in client.get_metric_history(run_id, "loss")]
        assert len(steps) == len(set(steps))
    there = children(tracked, "up")
    columns = ["status", "params.x1", "metrics.loss", "metrics.rerun_mean", "tags.hpo.state"]
    pd.testing.assert_frame_equal(twice[columns], there[columns])


def test_a_deleted_run_is_made_anew(tracked: Shell) -> None:
    before = children(tracked, "up")
    MlflowClient(tracked.tracking_uri).delete_run(before["run_id"][0])
    assert tracked.hpo("sync", "up").returncode == 0
    after = children(tracked, "up")
    assert list(after["tags.hpo.trial_number"]) == list(before["tags.hpo.trial_number"])
    assert after["run_id"][0] != before["run_id"][0]


def test_sync_says_when_mlflow_is_still_down(tracked: Shell) -> None:
    done = tracked.hpo("sync", "down", "--tracking-uri", NOBODY)
    assert done.returncode == 5
    assert NOBODY in done.stderr
    assert_no_traceback(done)


def test_sync_of_an_unknown_experiment_names_the_known_ones(tracked: Shell) -> None:
    done = tracked.hpo("sync", "upp")
    assert done.returncode == 2
    assert "down" in done.stderr
    assert_no_traceback(done)


def test_a_raised_budget_shows_the_new_spec_and_the_finalists_of_all_trials(tracked: Shell) -> None:
    options = (
        "-oname=up",
        "-otrainable=sometimes:train",
        "-oscheduler={name: asha, reduction_factor: 2}",
    )
    budget = "-obudget={n_trials: 30, max_epochs: 3}"
    before = children(tracked, "up")
    done = tracked.hpo("run", "branin.yaml", *options, budget, "--resume")
    assert done.returncode == 0, done.stderr
    after = children(tracked, "up")
    assert len(after) == 30
    ranks = after["tags.hpo.finalist_rank"]
    assert sorted(ranks.dropna()) == ["1", "2", "3"]
    assert list(ranks[:10]) != list(before["tags.hpo.finalist_rank"])
    found = runs(tracked, "up")
    parent = found[found["tags.hpo.kind"] == "parent"]["run_id"].iloc[0]
    path = MlflowClient(tracked.tracking_uri).download_artifacts(parent, "spec.yaml")
    assert "n_trials: 30" in Path(path).read_text(encoding="utf-8")


# --- what MLflow missed, without Ray ---

HALF_DONE = """
import os, signal, sys
from pathlib import Path
from mlflow import MlflowClient
from hpo.places import Places
from hpo.synchronization import synchronize_by_name

step, n = sys.argv[1], int(sys.argv[2])
call = getattr(MlflowClient, step)

def until_killed(*args, **keys):
    global n
    found = call(*args, **keys)
    n -= 1
    if n == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return found

setattr(MlflowClient, step, until_killed)
synchronize_by_name("late", Places.of(Path.cwd(), {}))
"""
LATE = BRANIN.replace("name: branin", "name: late")


@pytest.fixture
def late(tmp_path: Path, empty_store: Path) -> Places:
    """An experiment that is finished, and of which MLflow, which was down, knows nothing."""
    places = places_of(tmp_path, empty_store)
    run_here(spec_of(LATE, places), replace(places, tracking_uri=NOBODY))
    (tmp_path / "late.yaml").write_text(LATE)
    assert tracking_is_late(find_workspace("late", places).study)
    return places


def n_runs(places: Places) -> int:
    client = MlflowClient(places.tracking_uri)
    experiment = client.get_experiment_by_name("late")
    return 0 if experiment is None else len(client.search_runs([experiment.experiment_id]))


@pytest.mark.parametrize("command", ["run", "sync", "audit"])
def test_what_mlflow_missed_is_replayed(command: str, late: Places) -> None:
    """By the next start, which has nothing else to do, or by whoever is asked for it."""
    shell = Shell(late.runs.parent)
    arguments = {
        "run": ("run", "late.yaml", "--resume"),
        "sync": ("sync", "late"),
        "audit": ("audit", "late", "--repair"),
    }
    done = shell.hpo(*arguments[command])
    assert done.returncode == 0, done.stderr
    assert audit_experiment("late", late, repair=False).differences == ()
    assert n_runs(late) == 6 + 1
    assert not tracking_is_late(find_workspace("late", late).study)


def test_while_mlflow_is_still_down_a_finished_experiment_says_how_to_catch_up(
    late: Places,
) -> None:
    shell = Shell(late.runs.parent)
    done = shell.hpo("run", "late.yaml", "--resume", "--tracking-uri", NOBODY)
    assert done.returncode == 0, done.stderr
    assert "catch up with: hpo sync late" in done.stderr
    assert tracking_is_late(find_workspace("late", late).study)


@pytest.mark.parametrize(("step", "n"), [("create_run", 3), ("log_batch", 4)])
def test_killed_while_it_is_told_mlflow_has_no_second_run_afterwards(
    step: str, n: int, late: Places
) -> None:
    """A run that was begun is found again by its tags, and gone on with."""
    killed = subprocess.run(
        [sys.executable, "-c", HALF_DONE, step, str(n)],
        cwd=late.runs.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = n_runs(late)
    assert 0 < before < 6 + 1
    assert audit_experiment("late", late, repair=False).differences != ()
    assert synchronize_by_name("late", late) == 6
    assert n_runs(late) == 6 + 1
    assert audit_experiment("late", late, repair=False).differences == ()


OPEN_STORE = """
import sys
from hpo.tracking.projection import open_client
print(len(open_client(sys.argv[1]).search_experiments()))
"""


def test_a_store_whose_making_is_killed_is_made_anew_and_by_one_of_two(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OPEN_STORE, f"sqlite:///{tmp_path}/mlflow.db"]
    part = tmp_path / "mlflow.db.part"
    with subprocess.Popen(command) as killed:
        while not part.is_file() or part.stat().st_size < 100_000:  # in the midst of its tables
            assert killed.poll() is None
        killed.kill()
    assert os.listdir(tmp_path) == [part.name] or part.with_name(f"{part.name}-journal").exists()
    two = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [one.communicate()[0] for one in two] == ["1\n", "1\n"]
    assert os.listdir(tmp_path) == ["mlflow.db"]


def test_a_run_that_is_there_twice_is_there_once_after_a_sync(late: Places) -> None:
    """A server may keep a run whose answer never arrived; the one that tells more stays."""
    synchronize_by_name("late", late)
    client = MlflowClient(late.tracking_uri)
    experiment = client.get_experiment_by_name("late")
    assert experiment is not None
    for run in client.search_runs([experiment.experiment_id]):
        client.create_run(experiment.experiment_id, tags=run.data.tags)
    assert n_runs(late) == 2 * (6 + 1)
    synchronize_by_name("late", late)
    assert n_runs(late) == 6 + 1
    assert audit_experiment("late", late, repair=False).differences == ()


def test_results_that_change_show_their_newest_value(late: Places) -> None:
    """MLflow takes the larger one of two values of one time."""
    workspace = find_workspace("late", late)
    synchronize_by_name("late", late)
    first = workspace.outcome().winner
    assert first is not None
    worse = replace(first.reruns[0], seed_index=9, value=-1e6, finished_at=now())
    workspace.ledger.add_rerun(workspace.experiment.id, worse)
    synchronize_by_name("late", late)
    assert audit_experiment("late", late, repair=False).differences == ()
    run = MlflowClient(late.tracking_uri).search_runs(
        [MlflowClient(late.tracking_uri).get_experiment_by_name("late").experiment_id],
        "tags.`hpo.kind` = 'parent'",
    )[0]
    second = workspace.outcome().winner
    assert second is not None
    assert run.data.metrics["rerun_mean"] == second.mean < first.mean
