"""A task that reports nothing any more ends; and so does a run that finds no worker."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import optuna
import pytest
from commands import Shell, assert_no_traceback
from conftest import BRANIN
from ray.util import placement_group, remove_placement_group

from hpo.execution.stalls import (
    MIN_PATIENCE_S,
    N_LONGEST,
    NO_WORKER_S,
    UNKNOWN_PATIENCE_S,
    StallWatch,
)
from hpo.results import retrain_task
from hpo.results.outcome import Finalist
from hpo.spec import parse_spec
from hpo.task_factory import TaskFactory
from hpo.tasks import EpochReport, TrialTask
from storage import RerunRecord


class Clock:
    """Seconds that a test lets go by."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Driver:
    """Looks at its watch once a second."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.watch = StallWatch(self.clock)
        self.tasks = TaskFactory(
            spec=parse_spec(BRANIN, "branin.yaml"),
            import_paths=(),
            folder=Path("runs"),
            data_dir=Path("data"),
        )

    def task(self, number: int, *overrides: str) -> TrialTask:
        """A trial of the spec with overrides."""
        tasks = TaskFactory(
            spec=parse_spec(BRANIN, "branin.yaml", overrides),
            import_paths=(),
            folder=Path("runs"),
            data_dir=Path("data"),
        )
        return tasks.trial(number, {})

    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.now_s += 1.0
            self.watch.look(is_anything_to_do=True)

    def stalled_after(self, at_most: int) -> int | None:
        """In how many seconds from now the first task is called stalled."""
        for second in range(1, at_most + 1):
            self.wait(1)
            if self.watch.stalled():
                return second
        return None


def epoch(number: int, seconds: float, **more: object) -> EpochReport:
    return EpochReport(epoch=number, metrics={"loss": 0.0}, seconds=seconds, **more)  # type: ignore[arg-type]


def test_a_given_timeout_holds_from_the_start_on() -> None:
    driver = Driver()
    driver.watch.started("a", driver.task(0, "budget.stall_timeout_s=5"))
    driver.wait(4)
    driver.watch.reported("a", epoch(1, 4.0))
    assert driver.stalled_after(100) == 6
    (report,) = driver.watch.stalled().values()
    assert (report.ending, report.fail_cause, report.is_lost) == ("failed", "stalled", False)
    assert report.fail_reason == (
        "stalled: it has reported nothing for 6 s; budget.stall_timeout_s=5"
    )


def test_without_one_a_day_is_granted_before_anything_is_known() -> None:
    driver = Driver()
    driver.watch.started("a", driver.task(0))
    assert driver.stalled_after(100_000) == UNKNOWN_PATIENCE_S + 1


def test_a_first_epoch_is_judged_by_the_first_epochs_of_the_others() -> None:
    """From the start of the worker's task on: what it loads before counts."""
    driver = Driver()
    driver.watch.started("a", driver.task(0))
    driver.watch.started("b", driver.task(1))
    driver.wait(60)
    driver.watch.reported("a", epoch(1, 1.0))
    driver.watch.ended("a")
    assert driver.stalled_after(100_000) == N_LONGEST * 60 - 60 + 1


def test_later_epochs_are_judged_by_the_longest_of_their_own_trial() -> None:
    driver = Driver()
    driver.watch.started("a", driver.task(0))
    driver.watch.reported("a", epoch(1, 40.0))
    driver.watch.reported("a", epoch(2, 2.0))
    assert driver.stalled_after(100_000) == N_LONGEST * 40 + 1


def test_five_minutes_are_granted_to_the_fastest() -> None:
    driver = Driver()
    driver.watch.started("a", driver.task(0))
    driver.watch.reported("a", epoch(1, 0.001))
    assert driver.stalled_after(100_000) == MIN_PATIENCE_S + 1


def test_what_an_earlier_start_trained_says_nothing_of_a_first_epoch() -> None:
    """It is reported again within a moment; but its own epochs are as long as they were."""
    driver = Driver()
    driver.watch.started("a", driver.task(0))
    driver.watch.reported("a", epoch(1, 50.0, is_known=True))
    driver.watch.started("b", driver.task(1))
    driver.wait(10)
    assert driver.stalled_after(100_000) == N_LONGEST * 50 - 10 + 1  # trial a; b is not judged


def test_a_retraining_is_judged_by_whole_trainings() -> None:
    """It reports nothing before its end; a given timeout is of epochs."""
    driver = Driver()
    retraining = driver.tasks.retrain(0, {})
    driver.watch.started("a", driver.task(0))
    driver.wait(100)
    driver.watch.reported("a", epoch(4, 1.0, ending="complete"))
    driver.watch.ended("a")
    driver.watch.started("b", retraining)
    assert driver.stalled_after(100_000) == N_LONGEST * 100 + 1


def test_a_retraining_after_a_resume_is_judged_by_those_that_are_recorded() -> None:
    """This start has seen no training: the winner's re-runs were trained by the one before it."""
    driver = Driver()
    again = RerunRecord(
        trial_number=0,
        seed_index=0,
        seed=1,
        value=1.0,
        fail_reason=None,
        seconds=200.0,
        finished_at=dt.datetime(2026, 1, 1),
    )
    winner = Finalist(number=0, params={}, search_value=1.0, reruns=(again,), n_seeds=1)
    stage = retrain_task(winner, driver.tasks, lambda *_: None, lambda _: None)
    retraining = stage.next_task()
    assert retraining is not None
    driver.watch.started("a", retraining)
    assert driver.stalled_after(100_000) == N_LONGEST * 200 + 1


def test_while_the_driver_is_held_up_nobody_is_to_blame() -> None:
    """By a database that is locked, say: what the workers report meanwhile is not read."""
    driver = Driver()
    driver.watch.started("a", driver.task(0, "budget.stall_timeout_s=5"))
    driver.clock.now_s += 1000.0
    driver.watch.look(is_anything_to_do=True)
    assert driver.watch.stalled() == {}
    assert driver.stalled_after(100) == 5


def test_a_run_without_a_worker_is_without_one_after_a_while() -> None:
    driver = Driver()
    driver.watch.started("a", driver.task(0))
    driver.wait(int(NO_WORKER_S) * 2)
    driver.watch.ended("a")
    assert not driver.watch.is_without_workers
    driver.wait(int(NO_WORKER_S))
    assert not driver.watch.is_without_workers
    driver.wait(1)
    assert driver.watch.is_without_workers


# --- under Ray ---

WAITING = """
import os

def train(config, trial):
    for epoch in range(1, 4):
        if trial.folder.name == "00001" and epoch == 2:
            open("FOLDER/for_ever").close()
        yield {"score": config["x"] * epoch}
"""
SPEC = """
name: waiting
trainable: waiting:train
objective: {metric: score, direction: maximize}
search_space: {x: {type: float, low: 0, high: 1}}
sampler: random
budget: {n_trials: 3, max_epochs: 3, stall_timeout_s: 6}
finalists: {k: 1, n_seeds: 1, confirmations: 0}
concurrency: 1
"""


def test_a_trial_that_waits_for_ever_fails_and_the_others_are_trained(shell: Shell) -> None:
    """In a system call, at a pipe that nobody opens."""
    os.mkfifo(shell.folder / "for_ever")
    shell.write("waiting.py", WAITING.replace("FOLDER", str(shell.folder)))
    shell.write("waiting.yaml", SPEC)
    done = shell.hpo("run", "waiting.yaml")
    assert done.returncode == 0, done.stderr
    assert_no_traceback(done)
    study = optuna.load_study(study_name="waiting", storage=shell.storage_url)
    assert [t.state.name for t in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    stalled = study.trials[1]
    assert stalled.user_attrs["fail_cause"] == "stalled"
    assert list(stalled.intermediate_values) == [1]
    assert "budget.stall_timeout_s=6" in done.stderr


def test_a_run_that_finds_no_worker_ends_and_loses_nothing(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else has all CPUs; when they are free again it goes on."""
    monkeypatch.setattr("hpo.execution.stalls.NO_WORKER_S", 2.0)
    shell.write("branin.yaml", BRANIN)
    others = placement_group([{"CPU": 2}])
    assert others.wait(60)
    done = shell.hpo("run", "branin.yaml")
    remove_placement_group(others)
    assert done.returncode == 5, done.stderr
    assert "no trial could be started" in done.stderr
    assert "cpu=2 (0 free)" in done.stderr
    assert_no_traceback(done)
    study = optuna.load_study(study_name="branin", storage=shell.storage_url)
    assert [trial.state.name for trial in study.trials] == ["WAITING"]
    monkeypatch.undo()
    done = shell.hpo("resume", "branin")
    assert done.returncode == 0, done.stderr
    assert len(study.trials) == 6
