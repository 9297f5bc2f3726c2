"""Many searches side by side on the same workers, each of them one trial at a time."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from pathlib import Path

from ray.tune.schedulers import TrialScheduler

from hpo.search.source import StudySource
from hpo.tasks import EpochReport, TrialTask


class ManyStudies:
    """One stage made of several studies.

    A study gets its next trial when the one before it has ended. What it asks for then depends on
    its own trials alone, whatever the workers do with those of other studies; so it may be asked
    ahead of time, and the workers never wait for a sampler that is slow.
    """

    knows_ahead = True
    is_over_time = False

    def __init__(self, studies: Sequence[StudySource]) -> None:
        # (trials that have ended, index, study): the one with the fewest is asked next, so that
        # all end at about one time.
        self._idle = [(study.n_finished, index, study) for index, study in enumerate(studies)]
        heapq.heapify(self._idle)
        self._running: dict[Path, tuple[int, int, StudySource]] = {}

    def next_task(self) -> TrialTask | None:
        """A trial of the study that has had the fewest, of those in which none runs."""
        while self._idle:
            n_ended, index, study = heapq.heappop(self._idle)
            if (task := study.next_task()) is not None:
                self._running[task.context.folder] = (n_ended, index, study)
                return task
        return None

    def scheduler_of(self, task: TrialTask) -> TrialScheduler:
        """That of the trial's study."""
        _, _, study = self._running[task.context.folder]
        return study.scheduler_of(task)

    def reported(self, task: TrialTask, report: EpochReport) -> None:
        """Tell the trial's study."""
        _, _, study = self._running[task.context.folder]
        study.reported(task, report)

    def ended(self, task: TrialTask, report: EpochReport | None) -> None:
        """Tell the trial's study, which may be asked again."""
        n_ended, index, study = self._running.pop(task.context.folder)
        study.ended(task, report)
        heapq.heappush(self._idle, (n_ended + 1, index, study))
