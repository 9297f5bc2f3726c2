"""What was trained for one study answers another one that would train the very same thing."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial, TrialState

from hpo.search.holding import FIRST_VALUE
from hpo.search.source import RETRIES, StudySource
from hpo.tasks import EPOCH, NUMBER, OBJECTIVE, EpochReport, TrialTask
from storage import ANSWERED_BY, EpochRecord

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

NO_FACTS = frozenset(
    {"seed", "fail_reason", "fail_place", "fail_cause", "traceback", "search_stage"}
    | {ANSWERED_BY, FIRST_VALUE, RETRIES}
)
"""Attributes that a search gives its trials itself; the others are facts of their configs."""

Course = Sequence[EpochReport]
"""What a trial reported, in order; it was trained to its end if the last report says so.

A trainable that ends by itself, before the budget does, tells its last epoch twice."""


class SharedCourses:
    """The longest course of each thing that was trained, by `TrialTask.identity`.

    An answer is what training would have told: each study's own scheduler judges it, so one that
    was trained to its end may be stopped early here. Only where a scheduler would let a trial go on
    behind all that is known, because another one stopped it there, the trial is to be trained.
    """

    def __init__(self) -> None:
        self._courses: dict[str, Course] = {}

    def remember(self, identity: str, course: Course) -> None:
        """Keep a course, unless as much is known. Failures are none: each study meets its own."""
        course = [_told_again(report) for report in course if report.ending != "failed"]
        if len(course) > len(self._courses.get(identity, ())):
            self._courses[identity] = course

    def answer(self, study: StudySource, task: TrialTask) -> bool:
        """Tell a study how its task went, as if it had been trained; False if that is unknown."""
        course, scheduler = self._courses.get(task.identity), study.scheduler_of(task)
        if not course:
            return False
        if course[-1].ending is None and _end(course, task, copy.deepcopy(scheduler)) is None:
            return False
        *reports, last = course[: _end(course, task, scheduler)]
        for report in reports:
            study.reported(task, report)
        study.ended(task, last)
        return True


def recorded_course(
    trial: FrozenTrial, epochs: Sequence[EpochRecord], max_epochs: int | None
) -> Course:
    """What a trial that has ended once reported, from its record."""
    facts = {name: fact for name, fact in trial.user_attrs.items() if name not in NO_FACTS}
    course = [
        EpochReport(epoch=one.epoch, metrics=one.metrics, seconds=one.seconds, facts=facts)
        for one in epochs
    ]
    if trial.state == TrialState.COMPLETE and course:
        last = replace(course[-1], ending="complete")
        course = [*(course[:-1] if last.epoch == max_epochs else course), last]
    return course


def _told_again(report: EpochReport) -> EpochReport:
    """Without what is true of one training alone, such as what it has left in its folder."""
    return EpochReport(
        epoch=report.epoch,
        metrics=report.metrics,
        seconds=report.seconds,
        ending=report.ending,
        facts=report.facts,
    )


@dataclass(frozen=True)
class _AnsweredTrial:
    """As much of Ray's trial as its schedulers look at."""

    trial_id: str


def _end(course: Course, task: TrialTask, scheduler: TrialScheduler) -> int | None:
    """After how many reports of a course a trial ends; None if it would go on behind them.

    ``scheduler`` is told what it would be told if the trial was trained.
    """
    from ray.tune.schedulers import TrialScheduler

    ray: Any = None
    trial: Any = _AnsweredTrial(f"answered-{task.number}")
    scheduler.on_trial_add(ray, trial)
    for n_reports, report in enumerate(course, start=1):
        value = report.quantities[task.metric]
        result = {EPOCH: report.epoch, OBJECTIVE: value, NUMBER: task.number}
        is_over = report.ending is not None
        if not is_over and not task.runs_to_end:
            is_over = scheduler.on_trial_result(ray, trial, result) == TrialScheduler.STOP
        if is_over:
            scheduler.on_trial_complete(ray, trial, result)
            return n_reports
    return None
