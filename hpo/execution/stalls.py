"""How long a task may be silent, and how long a run may wait for its first worker."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from hpo.tasks import EpochReport, TrialTask

MIN_PATIENCE_S = 300.0
N_LONGEST = 20
"""So many times the longest epoch seen may the next one take."""
UNKNOWN_PATIENCE_S = 86_400.0
"""So long may a first epoch take where no other tells how long they are: a day is possible."""
NO_WORKER_S = 600.0
"""So long a run waits while no worker runs at all: for nodes, or for others to leave them."""
MAX_STEP_S = 1.0
"""The most that time goes on between two looks: while the driver is held up, by its database for
one, reports pile up unread, and nobody can be blamed for silence."""


@dataclass
class _Watched:
    """A task on a worker; times are those of the watch."""

    task: TrialTask
    started_s: float
    heard_s: float
    n_reports: int = 0
    longest_s: float | None = None
    """Of its epochs so far; None before it has reported one."""


class StallWatch:
    """Knows what runs on a worker and since when each was heard of.

    A task may be silent for its ``stall_timeout_s``. Without that its own epochs say how long; in
    its first epoch, which loads libraries and data, the first epochs of the others. Before anything
    is known, and of a range test, which comes first, it is a day. What reports at its end alone, a
    retraining, may take as much longer than the whole trainings before it, those of its config that
    are recorded among them; where there is none nobody can tell.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._read_s = clock, clock()
        self._now_s = self._at_work_s = 0.0
        self._watched: dict[str, _Watched] = {}
        self._longest_first_s = self._longest_whole_s = 0.0
        """Of all tasks: the first epoch with all that comes before it, and a whole training."""

    def look(self, *, is_anything_to_do: bool) -> None:
        """Time goes on."""
        now = self._clock()
        self._now_s += min(now - self._read_s, MAX_STEP_S)
        self._read_s = now
        if self._watched or not is_anything_to_do:
            self._at_work_s = self._now_s

    @property
    def is_without_workers(self) -> bool:
        """Whether there has been something to do for long, and no worker to do it."""
        return self._now_s - self._at_work_s > NO_WORKER_S

    def started(self, key: str, task: TrialTask) -> None:
        """A worker has taken a task."""
        self._watched[key] = _Watched(task, self._now_s, self._now_s)

    def reported(self, key: str, report: EpochReport) -> None:
        """A task has reported an epoch, maybe its last."""
        one = self._watched[key]
        one.n_reports += 1
        if one.n_reports == 1 and not report.is_known and one.task.done is None:
            self._longest_first_s = max(self._longest_first_s, self._now_s - one.heard_s)
        if report.ending == "complete" and one.task.purpose == "train" and not one.task.known:
            self._longest_whole_s = max(self._longest_whole_s, self._now_s - one.started_s)
        one.heard_s = self._now_s
        one.longest_s = max(one.longest_s or 0.0, report.seconds)

    def ended(self, key: str) -> None:
        """Its worker has nothing to do with a task any more."""
        self._watched.pop(key, None)

    def stalled(self) -> dict[str, EpochReport]:
        """What there is to report of each task that has been silent for too long."""
        return {
            key: _stalled(one, silent_s, patience_s)
            for key, one in self._watched.items()
            if (patience_s := self._patience_s(one)) is not None
            and (silent_s := self._now_s - one.heard_s) > patience_s
        }

    def _patience_s(self, one: _Watched) -> float | None:
        """How long a task may be silent; None if nobody can tell."""
        if one.task.purpose == "find_lr":
            return UNKNOWN_PATIENCE_S
        if one.task.purpose == "finish":
            longest_s = max(self._longest_whole_s, one.task.whole_s)
            return max(MIN_PATIENCE_S, N_LONGEST * longest_s) if longest_s > 0 else None
        if one.task.stall_timeout_s is not None:
            return one.task.stall_timeout_s
        longest_s = self._longest_first_s if one.longest_s is None else one.longest_s
        return max(MIN_PATIENCE_S, N_LONGEST * longest_s) if longest_s > 0 else UNKNOWN_PATIENCE_S


def _stalled(one: _Watched, silent_s: float, patience_s: float) -> EpochReport:
    is_given = one.task.purpose == "train" and one.task.stall_timeout_s is not None
    why = f"budget.stall_timeout_s={patience_s:g}" if is_given else f"{patience_s:.0f} s had to do"
    return EpochReport(
        epoch=0,
        metrics={},
        seconds=silent_s,
        ending="failed",
        fail_reason=f"stalled: it has reported nothing for {silent_s:.0f} s; {why}",
        fail_place="stalled",
        fail_cause="stalled",
    )
