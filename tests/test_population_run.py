"""`hpo run` with scheduler pbt, under Ray, and what a user sees of it."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from commands import Shell, assert_no_traceback
from mlflow import MlflowClient
from test_population import GROWING, MAX_EPOCHS, N_TRIALS, SPEC, begun, children, outline

FINALISTS = "finalists: {k: 2, n_seeds: 2, confirmations: 1}\nconcurrency: 2\n"


@pytest.fixture(scope="module")
def user(shell: Shell) -> Shell:
    """A folder with a search that has been run."""
    shell.write("growing.py", GROWING.replace("FAILS", "False"))
    shell.write("grown.yaml", SPEC + FINALISTS)
    done = shell.hpo("run", "grown.yaml")
    assert done.returncode == 0, done.stderr
    shell.write("stdout.txt", done.stdout)
    shell.write("stderr.txt", done.stderr)
    return shell


def test_two_workers_under_ray_find_what_one_in_this_process_finds(
    user: Shell, tmp_path: Path
) -> None:
    alone = begun(tmp_path)
    alone.search()
    study = optuna.load_study(study_name="grown", storage=user.storage_url)
    assert [
        (t.state, t.params, t.values, t.intermediate_values, t.user_attrs) for t in study.trials
    ] == outline(alone)
    told = (user.folder / "stderr.txt").read_text()
    for child in children(alone):
        parent, epoch = child.user_attrs["parent"], child.user_attrs["parent_epoch"]
        line = next(line for line in told.splitlines() if f"trial {child.number:>3} " in line)
        assert f", from trial {parent} at epoch {epoch};" in line
    assert list(user.folder.glob("runs/grown/*/*/checkpoints")) == []


def test_summary_and_report_tell_how_the_winner_was_trained(user: Shell) -> None:
    told = (user.folder / "stdout.txt").read_text()
    page = (user.folder / "runs" / "grown" / "report.html").read_text()
    (schedule,) = [line for line in told.splitlines() if line.startswith("schedule ")]
    assert " until epoch " in schedule
    assert schedule.removeprefix("schedule ") in page
    assert "A population of 8 lineages of 6 epochs; after every 2 epochs the worst 2 end" in page


def test_mlflow_has_each_epoch_once_and_says_whose_child_a_run_is(user: Shell) -> None:
    client = MlflowClient(user.tracking_uri)
    experiment = client.get_experiment_by_name("grown")
    assert experiment is not None
    runs = [
        run
        for run in client.search_runs([experiment.experiment_id])
        if run.data.tags["hpo.kind"] == "trial"
    ]
    steps = [client.get_metric_history(run.info.run_id, "total") for run in runs]
    assert sum(map(len, steps)) == N_TRIALS * MAX_EPOCHS
    study = optuna.load_study(study_name="grown", storage=user.storage_url)
    for run in runs:
        trial = study.trials[int(run.data.tags["hpo.trial_number"])]
        assert run.data.tags.get("hpo.parent") == (
            str(trial.user_attrs["parent"]) if "parent" in trial.user_attrs else None
        )
        assert ("hpo.lineage" in run.data.tags) == ("parent" in trial.user_attrs)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["replay", "grown"], "was searched with scheduler pbt, and cannot be replayed"),
        (["compare", "grown.yaml"], "hpo compare does not go with scheduler pbt"),
        (
            ["run", "grown.yaml", "--resume", "-obudget.n_trials=10"],
            "budget.n_trials: 8 -> 10",
        ),
    ],
)
def test_what_does_not_go_with_a_population_is_told(
    arguments: list[str], told: str, user: Shell
) -> None:
    done = user.hpo(*arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert_no_traceback(done)


def test_a_finished_one_is_not_run_again(user: Shell) -> None:
    again = user.hpo("run", "grown.yaml", "--resume")
    assert again.returncode == 0
    assert "is finished: there is nothing left to do" in again.stderr


def test_before_anything_runs_a_user_is_told_what_it_does(user: Shell) -> None:
    sentence = (
        "8 lineages of 6 epochs; after every 2 epochs the worst 2 end, and as many go on from the "
        "best 2 with another speed, kind"
    )
    assert f"pbt: {sentence}" in user.hpo("run", "grown.yaml", "--dry-run", "-oname=new").stdout
    assert f"scheduler pbt: {sentence}" in user.hpo("validate", "grown.yaml").stdout
