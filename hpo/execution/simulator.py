"""Run stages on a simulated clock: what Ray Tune does with processes, done with a queue of events.

Searcher and scheduler are those that Ray is given, and are called in the order in which Ray calls
them, so a stage cannot tell the difference. Left out is what Ray and the driver need for
themselves: asking for a task and telling of its end take no simulated time.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from hpo.curves import Course, Curve, Timeline
from hpo.execution.actor import TASK, result_of
from hpo.execution.searcher import StageScheduler, TaskSearcher
from hpo.tasks import EpochReport, TaskSource, TrialTask, excesses


@dataclass
class SimulatedClock:
    """Seconds since the beginning; call it for the time, as `time.monotonic`."""

    now_s: float = 0.0

    def __call__(self) -> float:
        """The present."""
        return self.now_s


@dataclass(eq=False)
class _Run:
    """A task on a worker; to Ray's schedulers it is a trial."""

    trial_id: str
    task: TrialTask
    curve: Curve
    started_s: float
    config: dict[str, Any] = field(init=False)
    epoch: int = 0

    def __post_init__(self) -> None:
        self.config = {TASK: self.task}

    @property
    def next_s(self) -> float:
        """Seconds until its next report."""
        wait_s = self.curve.start_s if self.epoch == 0 else 0.0
        if self.epoch < len(self.task.known):
            return wait_s
        if self.epoch < len(self.curve.values):
            return wait_s + self.curve.seconds[self.epoch]
        assert self.curve.failure is not None, "a curve without a failure ends with its last epoch"
        return wait_s + self.curve.failure.seconds

    def next_report(self) -> EpochReport:
        """What its worker reports then."""
        curve = self.curve
        if self.epoch == len(curve.values) and curve.failure is not None:
            return curve.failure
        value, seconds = curve.values[self.epoch], curve.seconds[self.epoch]
        told = {name: values[self.epoch] for name, values in curve.limited.items()}
        limited = {name: each for name, each in told.items() if not math.isnan(each)}
        self.epoch += 1
        is_last = self.epoch == len(curve.values) and curve.failure is None
        return EpochReport(
            epoch=self.epoch,
            metrics={**limited, self.task.metric: value},
            seconds=seconds,
            ending="complete" if is_last else None,
            facts=curve.facts,
            checkpoint="simulated" if curve.keeps_checkpoints else None,
            is_known=self.epoch <= len(self.task.known),
        )

    def course(self, ended_s: float, report: EpochReport) -> Course:
        """What has become of it with its last report."""
        trained, ending = slice(len(self.task.known), self.epoch), report.ending
        beyond = excesses(self.task.constraints, report.quantities)
        is_beyond = ending == "complete" and any(excess > 0 for excess in beyond)
        return Course(
            number=self.task.number,
            seed_index=self.task.seed_index,
            started_s=self.started_s,
            ended_s=ended_s,
            values=self.curve.values[trained],
            seconds=self.curve.seconds[trained],
            origins=self.curve.origins[trained],
            state="stopped" if ending is None else "complete" if ending == "complete" else "failed",
            is_infeasible=report.is_infeasible or is_beyond,
        )


def simulate(
    stages: Iterator[TaskSource],
    curve_of: Callable[[TrialTask], Curve],
    n_workers: int,
    clock: SimulatedClock | None = None,
) -> Timeline:
    """Run every task of every stage, ``n_workers`` at a time, in this process.

    Args:
        stages: each begins when the one before it is over; code between two of them runs in the
            iterator.
        curve_of: what a task's config does; asked once, when the task starts.
        n_workers: at least 1.
        clock: is set to the simulated time; hand it to a stage that has a time limit.

    Raises:
        Exception: whatever a stage raised.
    """
    clock = clock or SimulatedClock()
    searcher = TaskSearcher(stages, lambda: n_workers)
    scheduler = StageScheduler(searcher)
    order = itertools.count()  # of two reports at one time, the one that was due first comes first
    due: list[tuple[float, int, _Run]] = []
    courses: list[Course] = []
    while True:
        while (run := _next_run(searcher, f"simulated-{next(order)}", curve_of, clock)) is not None:
            scheduler.on_trial_add(None, run)
            heapq.heappush(due, (clock.now_s + run.next_s, next(order), run))
        has_free_worker = False
        while due and not has_free_worker:
            clock.now_s, _, run = heapq.heappop(due)
            report = run.next_report()
            if _goes_on(searcher, scheduler, run, report):
                heapq.heappush(due, (clock.now_s + run.next_s, next(order), run))
            else:
                courses.append(run.course(clock.now_s, report))
                has_free_worker = True
        if searcher.error is not None:
            raise searcher.error
        if not has_free_worker:
            return Timeline(n_workers=n_workers, courses=tuple(courses))


def _next_run(
    searcher: TaskSearcher,
    trial_id: str,
    curve_of: Callable[[TrialTask], Curve],
    clock: SimulatedClock,
) -> _Run | None:
    """The next task on a free worker; None if no worker is free, or there is no task now."""
    suggested = searcher.suggest(trial_id)
    if suggested is None or suggested == Searcher.FINISHED:
        return None
    task = suggested[TASK]
    return _Run(trial_id=trial_id, task=task, curve=curve_of(task), started_s=clock.now_s)


def _goes_on(
    searcher: TaskSearcher, scheduler: StageScheduler, run: _Run, report: EpochReport
) -> bool:
    """Tell scheduler and searcher of a report as Ray does; whether the task goes on after it."""
    result = result_of(run.task, report)
    if report.ending is None:
        decision = scheduler.on_trial_result(None, run, result)
        if decision == TrialScheduler.CONTINUE:
            searcher.on_trial_result(run.trial_id, result)
            return True
        assert decision == TrialScheduler.STOP, "no scheduler of ours pauses a trial"
    scheduler.on_trial_complete(None, run, result)
    searcher.on_trial_complete(run.trial_id, result)
    return False
