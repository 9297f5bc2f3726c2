"""Retrain the winner on everything but the test set, and read the test set, once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import replace

from hpo.errors import NoSuccessfulTrialError
from hpo.results.outcome import Finalist
from hpo.task_factory import TaskFactory
from hpo.tasks import EpochReport, TaskList, TrialTask
from storage import TestReading
from trainables import PackedModel


def retrain_task(
    winner: Finalist,
    tasks: TaskFactory,
    keep: Callable[[PackedModel, TestReading], None],
    say: Callable[[str], None],
) -> TaskList:
    """The one task of this stage; ``keep`` gets the model and what it scored on the test set.

    ``say`` shows a line to the user.
    """

    def on_end(task: TrialTask, report: EpochReport, seconds: float) -> None:
        model = report.final_model
        if report.ending == "failed":
            raise NoSuccessfulTrialError(
                f"the retraining of trial {task.number} failed: {report.fail_reason}"
            )
        if model is None:
            return  # the trainable offers no `finish`
        keep(
            model,
            TestReading(
                trial_number=task.number,
                metric=model.metric,
                value=model.test_value,
                n_correct=model.n_correct,
                n_test=model.n_test,
                seconds=seconds,
                read_at=dt.datetime.now(dt.UTC).replace(tzinfo=None),
            ),
        )

    task = tasks.retrain(winner.number, winner.params, winner.lineage)
    whole_s = max((one.seconds for one in (*winner.reruns, *winner.confirmations)), default=0.0)
    return TaskList([replace(task, whole_s=whole_s)], on_end, say)


def test_interval(reading: TestReading) -> tuple[float, float] | None:
    """95 % confidence interval of a test accuracy; None of another metric."""
    if reading.n_correct is None:
        return None
    return accuracy_interval(reading.n_correct, reading.n_test)


def accuracy_interval(n_correct: int, n_test: int) -> tuple[float, float]:
    """95 % confidence interval of an accuracy, after Wilson 1927 (JASA 22, 209-212)."""
    from scipy.stats import binomtest

    interval = binomtest(n_correct, n_test).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
