"""Many searches side by side on the same workers, each of them one trial at a time."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.search.shared import SharedCourses
from hpo.search.source import StudySource
from hpo.tasks import EpochReport, TrialTask

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler


@dataclass(order=True)
class _Turn:
    """A study between two of its trials, or in one; the one with the fewest is asked next.

    So all end at about one time. ``task`` is its next one, if the study has been asked for it.
    """

    n_ended: int
    index: int
    study: StudySource = field(compare=False)
    task: TrialTask | None = field(default=None, compare=False)
    reports: list[EpochReport] = field(default_factory=list, compare=False)


class ManyStudies:
    """One stage made of several studies.

    A study gets its next trial when the one before it has ended. What it asks for then depends on
    its own trials alone, whatever the workers do with those of other studies; so it may be asked
    ahead of time, and the workers never wait for a sampler that is slow.

    What one study has trained is not trained again for another one. While it is being trained, a
    study that asks for the same waits, and the workers turn to those that do not.
    """

    knows_ahead = True
    is_over_time = False

    def __init__(
        self,
        studies: Sequence[StudySource],
        courses: SharedCourses | None = None,
        on_work: Callable[[float], None] = lambda _: None,
    ) -> None:
        """``courses`` were trained before; ``on_work`` is told the seconds of what is trained."""
        self._idle = [_Turn(study.n_finished, index, study) for index, study in enumerate(studies)]
        heapq.heapify(self._idle)
        self._running: dict[Path, _Turn] = {}
        self._waiting: dict[str, list[_Turn]] = {}  # for each identity that runs
        self._courses = courses or SharedCourses()
        self._on_work = on_work

    def next_task(self) -> TrialTask | None:
        """A trial of the study that has had the fewest, of those in which none runs or waits."""
        while self._idle:
            turn = heapq.heappop(self._idle)
            task = turn.task = turn.task or turn.study.next_task()
            if task is None:
                continue
            if task.identity in self._waiting:
                self._waiting[task.identity].append(turn)
            elif self._courses.answer(turn.study, task):
                self._end(turn)
            else:
                self._waiting[task.identity] = []
                self._running[task.context.folder] = turn
                return task
        return None

    def scheduler_of(self, task: TrialTask) -> TrialScheduler:
        """That of the trial's study."""
        return self._running[task.context.folder].study.scheduler_of(task)

    def reported(self, task: TrialTask, report: EpochReport) -> None:
        """Tell the trial's study."""
        turn = self._running[task.context.folder]
        self._take(turn, report)
        turn.study.reported(task, report)

    def ended(self, task: TrialTask, report: EpochReport) -> None:
        """Tell the trial's study, which may be asked again, and whoever waits for the same."""
        turn = self._running.pop(task.context.folder)
        self._take(turn, report)
        turn.study.ended(task, report)
        if not report.is_lost:  # else it goes on, and nothing of it is an answer yet
            self._courses.remember(task.identity, turn.reports)
        self._end(turn)
        for waiting in self._waiting.pop(task.identity):
            heapq.heappush(self._idle, waiting)

    def _take(self, turn: _Turn, report: EpochReport) -> None:
        is_told_again = report.ending == "complete" and report.epoch == len(turn.reports)
        if not is_told_again and not report.is_known:
            self._on_work(report.seconds)
        turn.reports.append(report)

    def _end(self, turn: _Turn) -> None:
        heapq.heappush(self._idle, _Turn(turn.n_ended + 1, turn.index, turn.study))
