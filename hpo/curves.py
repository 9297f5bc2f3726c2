"""Learning curves with a clock, and what workers made of them: words of simulated searches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from hpo.tasks import EpochReport

FloatArray = npt.NDArray[np.float64]
Origin = Literal["recorded", "interpolated", "extrapolated"]
"""Where an epoch comes from: a record; a prediction among recorded ones; one beyond them."""
Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """All that a config does if nothing stops it; all sequences are as long as its epochs.

    Attributes:
        values: of the objective after each epoch.
        seconds: that each epoch takes.
        origins: of each epoch.
        start_s: seconds before the first epoch begins.
        failure: the report that follows the last epoch, ``failure.seconds`` later; None if the
            config is complete with its last epoch.
        keeps_checkpoints: whether a trial that is handed out again goes on where it was.
        facts: what is known of the config before it is trained; None if nothing is.
        limited: other metrics after each epoch, by name; NaN after one that does not tell it.
    """

    values: Sequence[float]
    seconds: Sequence[float]
    origins: Sequence[Origin]
    start_s: float = 0.0
    failure: EpochReport | None = None
    keeps_checkpoints: bool = False
    facts: Mapping[str, float] | None = None
    limited: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Course:
    """One task from start to end: as much of its curve as was run, without what was known before.

    ``state`` is "complete" at the end of the curve, "stopped" by a scheduler or the time limit,
    else "failed". Times are seconds since the beginning of the search. One ``is_infeasible`` that
    was refused before its training, or breaks a constraint at its end. One that ``is_answered`` was
    not trained: its curve is that of an earlier one.
    """

    number: int
    seed_index: int | None = None
    started_s: float
    ended_s: float
    values: Sequence[float]
    seconds: Sequence[float]
    origins: Sequence[Origin]
    state: Literal["complete", "stopped", "failed"]
    is_infeasible: bool = False
    is_answered: bool = False

    @property
    def is_candidate(self) -> bool:
        """Whether its last value may be the best."""
        return self.state == "complete" and not self.is_infeasible


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """What workers did, in the order in which the tasks ended."""

    n_workers: int
    courses: Sequence[Course]

    @property
    def makespan_s(self) -> float:
        """Seconds until the last task ended."""
        return max((course.ended_s for course in self.courses), default=0.0)

    @property
    def trained(self) -> list[Course]:
        """The tasks that workers were busy with."""
        return [course for course in self.courses if not course.is_answered]

    @property
    def n_epochs(self) -> int:
        """Epochs of all tasks that were trained."""
        return sum(len(course.values) for course in self.trained)

    @property
    def utilization(self) -> float:
        """Share of the workers' time until the last task ended in which an epoch was trained."""
        trained_s = sum(sum(course.seconds) for course in self.courses)
        return trained_s / (self.n_workers * self.makespan_s) if self.makespan_s else 0.0

    @property
    def origins(self) -> Counter[Origin]:
        """How many epochs there are of each origin."""
        return Counter(origin for course in self.trained for origin in course.origins)

    def best_so_far(self, direction: Direction) -> tuple[FloatArray, FloatArray]:
        """The incumbent: (n,) times at which the best final value improves, (n,) these values.

        Only what is complete and feasible counts, as in the study: a trial that was stopped has no
        final value.
        """
        times: list[float] = []
        bests: list[float] = []
        for course in self.courses:
            if not course.is_candidate:
                continue
            value = course.values[-1]
            if not bests or (value > bests[-1] if direction == "maximize" else value < bests[-1]):
                times.append(course.ended_s)
                bests.append(value)
        return np.array(times, dtype=np.float64), np.array(bests, dtype=np.float64)
