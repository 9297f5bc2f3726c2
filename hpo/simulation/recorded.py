"""What a study's record says of its trials: the curve of each, and when it ran."""

from __future__ import annotations

import heapq
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from hpo.curves import Course, Origin, Timeline
from hpo.tasks import EpochReport
from storage import EpochRecord, is_infeasible, was_answered, was_refused

STATES: dict[TrialState, Any] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A config that was trained, as far as it was.

    Attributes:
        params: the searched ones.
        values: of the objective after each epoch.
        seconds: that each epoch took.
        is_stopped: its curve would have gone on.
        failure: the report that ended it, if it failed.
        number, seed: of the trial that trained it; None if nobody knows.
        facts: limited quantities that were known before the training.
        limited: limited metrics after each epoch, by name; NaN after one that did not tell it.
    """

    params: Mapping[str, Any]
    values: tuple[float, ...]
    seconds: tuple[float, ...]
    is_stopped: bool = False
    failure: EpochReport | None = None
    number: int | None = None
    seed: int | None = None
    facts: Mapping[str, float] = field(default_factory=dict)
    limited: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether its curve was trained to its end."""
        return not self.is_stopped and self.failure is None

    @property
    def is_beyond_limit(self) -> bool:
        """Whether it was refused for its facts; without any it could not be built."""
        return self.failure is not None and self.failure.is_infeasible and bool(self.facts)


def trained_configs(
    trials: Sequence[FrozenTrial],
    epochs: Mapping[int, Sequence[EpochRecord]],
    metric: str,
    limited: Collection[str] = (),
) -> list[Trained]:
    """The trials that ended, in the order of their numbers, but for those that nobody trained.

    Of what ``constraints`` limit, the quantities ``limited`` are kept.
    """
    return [
        _trained(trial, epochs.get(trial.number, ()), metric, limited)
        for trial in trials
        if trial.state in STATES and not was_answered(trial)
    ]


def recorded_timeline(
    trials: Sequence[FrozenTrial], epochs: Mapping[int, Sequence[EpochRecord]], metric: str
) -> Timeline:
    """The search as it was: its trials in their order and at their times, gaps included."""
    ended = [t for t in trials if t.state in STATES and t.datetime_start and t.datetime_complete]
    begin = min((t.datetime_start for t in ended if t.datetime_start), default=None)
    courses, recorded = [], list[Origin](["recorded"])
    for trial in ended:
        assert begin is not None
        assert trial.datetime_start is not None
        assert trial.datetime_complete is not None
        trained = _trained(trial, epochs.get(trial.number, ()), metric, ())
        courses.append(
            Course(
                number=trial.number,
                started_s=(trial.datetime_start - begin).total_seconds(),
                ended_s=(trial.datetime_complete - begin).total_seconds(),
                values=trained.values,
                seconds=trained.seconds,
                origins=recorded * len(trained.values),
                state=STATES[trial.state],
                is_infeasible=trial.state != TrialState.PRUNED and is_infeasible(trial),
                is_answered=was_answered(trial),
            )
        )
    courses.sort(key=lambda course: course.ended_s)
    return Timeline(n_workers=_most_at_a_time(courses), courses=tuple(courses))


def start_seconds(timeline: Timeline) -> float:
    """What a trial took beside its epochs: the median over those trained that did not fail.

    Imports and data at its start, the way to the driver and back after each epoch.
    """
    beside = [
        course.ended_s - course.started_s - sum(course.seconds)
        for course in timeline.trained
        if course.state != "failed"
    ]
    return max(0.0, statistics.median(beside)) if beside else 0.0


def _trained(
    trial: FrozenTrial, epochs: Sequence[EpochRecord], metric: str, limited: Collection[str]
) -> Trained:
    epochs = [epoch for epoch in epochs if metric in epoch.metrics]
    facts = {name: trial.user_attrs[name] for name in limited if name in trial.user_attrs}
    told = {name for epoch in epochs for name in epoch.metrics}
    return Trained(
        params=trial.params,
        values=tuple(epoch.metrics[metric] for epoch in epochs),
        seconds=tuple(epoch.seconds for epoch in epochs),
        is_stopped=trial.state == TrialState.PRUNED,
        failure=_failure(trial, epochs, facts) if trial.state == TrialState.FAIL else None,
        number=trial.number,
        seed=trial.user_attrs.get("seed"),
        facts=facts,
        limited={
            name: tuple(epoch.metrics.get(name, math.nan) for epoch in epochs)
            for name in limited
            if name in told
        },
    )


def _failure(
    trial: FrozenTrial, epochs: Sequence[EpochRecord], facts: Mapping[str, float]
) -> EpochReport:
    """The report that a failed trial ended with; nobody has recorded how long it took."""
    taken_s = 0.0
    if trial.datetime_start and trial.datetime_complete:
        taken_s = (trial.datetime_complete - trial.datetime_start).total_seconds()
    reason = str(trial.user_attrs.get("fail_reason", "no reason recorded"))
    return EpochReport(
        epoch=len(epochs),
        metrics={},
        seconds=max(0.0, taken_s - sum(epoch.seconds for epoch in epochs)),
        ending="failed",
        fail_reason=reason,
        fail_place=str(trial.user_attrs.get("fail_place", reason)),
        fail_cause=trial.user_attrs.get("fail_cause", "error"),
        facts=facts if was_refused(trial) else None,
    )


def _most_at_a_time(courses: Sequence[Course]) -> int:
    """How many workers it takes to run them all at their times; at least 1."""
    most, ends = 1, list[float]()
    for course in sorted(courses, key=lambda course: course.started_s):
        while ends and ends[0] <= course.started_s:
            heapq.heappop(ends)
        heapq.heappush(ends, course.ended_s)
        most = max(most, len(ends))
    return most
