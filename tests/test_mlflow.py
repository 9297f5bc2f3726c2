"""MLflow shows what the ledger knows, however late, and however often it is told."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pandas as pd
import pytest
from commands import Shell, assert_no_traceback
from conftest import BRANIN
from mlflow import MlflowClient

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
