"""What simulated searches came to: one strategy over several seeds, as figures and as bands."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpo.curves import Course, Direction, FloatArray, Origin, Timeline

N_TIMES = 200
"""Points in time that a band is drawn at."""
QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """One simulated search; ``computed_s`` is how long the simulation took."""

    seed: int
    timeline: Timeline
    computed_s: float


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """A sampler with a scheduler on some workers; ``is_record``: as it was, not simulated."""

    sampler: str
    scheduler: str
    n_workers: int
    is_record: bool = False
    searches: tuple[Replayed, ...]

    @property
    def label(self) -> str:
        """For a row or a legend."""
        return "recorded" if self.is_record else f"{self.sampler}/{self.scheduler}"

    @property
    def timelines(self) -> list[Timeline]:
        """Of all seeds."""
        return [search.timeline for search in self.searches]

    def final_values(self, direction: Direction) -> FloatArray:
        """(n_seeds,) best value at the end; NaN where nothing was complete."""
        bests = [timeline.best_so_far(direction)[1] for timeline in self.timelines]
        return np.array([best[-1] if best.size else math.nan for best in bests])

    def times_to_reach(self, target: float, direction: Direction) -> FloatArray:
        """(n_seeds,) seconds until the incumbent is as good as ``target``; infinite if never."""
        return np.array([_time_to_reach(t, target, direction) for t in self.timelines])

    def band(self, times: FloatArray, direction: Direction) -> FloatArray:
        """(3, n_times) quartiles over the seeds of the best value so far.

        A seed without a value yet counts as worse than all that have one; NaN where a quartile
        falls on such a seed.
        """
        sign = 1.0 if direction == "minimize" else -1.0
        costs = np.array([sign * _values_at(t, times, direction) for t in self.timelines])
        costs = np.where(np.isnan(costs), np.inf, costs)
        quartiles = np.quantile(costs, QUARTILES, axis=0, method="inverted_cdf")
        return np.where(np.isinf(quartiles), np.nan, sign * quartiles)[:: 1 if sign > 0 else -1]

    def mean(self, name: str) -> float:
        """Over the seeds, of a figure of the timeline: "makespan_s", "n_epochs", "utilization"."""
        return float(np.mean([getattr(timeline, name) for timeline in self.timelines]))

    def shares(self) -> dict[Origin, float]:
        """Which share of all epochs was recorded, interpolated, extrapolated."""
        counts = sum((timeline.origins for timeline in self.timelines), Counter[Origin]())
        total = max(1, counts.total())
        origins: tuple[Origin, ...] = ("recorded", "interpolated", "extrapolated")
        return {origin: counts[origin] / total for origin in origins}


def common_times(strategies: Sequence[Strategy]) -> FloatArray:
    """(N_TIMES,) seconds from the first value of any strategy to its last end, evenly in the log.

    Strategies may differ a thousandfold in their speed, so an even grid would show one of them.
    """
    timelines = [timeline for strategy in strategies for timeline in strategy.timelines]
    firsts = [c.ended_s for t in timelines for c in t.courses if c.is_candidate]
    last = max((timeline.makespan_s for timeline in timelines), default=0.0)
    first = min(firsts, default=last)
    if first <= 0 or first >= last:
        return np.linspace(0.0, last, N_TIMES)
    return np.geomspace(first, last, N_TIMES)


def median_time(times: FloatArray) -> float | None:
    """Over the seeds; None if half of them never get there."""
    middle = float(np.quantile(times, 0.5, method="inverted_cdf"))
    return middle if math.isfinite(middle) else None


def strategy_as_json(
    strategy: Strategy, targets: Sequence[float], direction: Direction
) -> dict[str, Any]:
    """All figures of a strategy; the curves stand in curves.csv."""
    finals = strategy.final_values(direction)
    return {
        "sampler": strategy.sampler,
        "scheduler": strategy.scheduler,
        "workers": strategy.n_workers,
        "recorded": strategy.is_record,
        "best_median": _or_none(_quartile(finals, 0.5, direction)),
        "best_quartiles": [
            _or_none(_quartile(finals, 0.25, direction)),
            _or_none(_quartile(finals, 0.75, direction)),
        ],
        "makespan_s": strategy.mean("makespan_s"),
        "epochs": strategy.mean("n_epochs"),
        "utilization": strategy.mean("utilization"),
        "shares": strategy.shares(),
        "reached": [
            {
                "value": target,
                "median_s": median_time(times := strategy.times_to_reach(target, direction)),
                "n_seeds": int(np.isfinite(times).sum()),
            }
            for target in targets
        ],
        "searches": [_search_as_json(search, direction) for search in strategy.searches],
    }


def _search_as_json(search: Replayed, direction: Direction) -> dict[str, Any]:
    timeline = search.timeline
    best = timeline.best_so_far(direction)[1]
    return {
        "seed": search.seed,
        "best": float(best[-1]) if best.size else None,
        "makespan_s": timeline.makespan_s,
        "epochs": timeline.n_epochs,
        "utilization": timeline.utilization,
        "trials": dict(Counter(_outcome(course) for course in timeline.trained)),
        "epoch_origins": dict(timeline.origins),
        "computed_s": search.computed_s,
    }


def _outcome(course: Course) -> str:
    return "infeasible" if course.is_infeasible else course.state


def _quartile(values: FloatArray, q: float, direction: Direction) -> float:
    """A search without a value is worse than any with one."""
    worst = math.inf if direction == "minimize" else -math.inf
    found = np.quantile(np.where(np.isnan(values), worst, values), q, method="inverted_cdf")
    return float(found) if np.isfinite(found) else math.nan


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _time_to_reach(timeline: Timeline, target: float, direction: Direction) -> float:
    times, values = timeline.best_so_far(direction)
    is_reached = values >= target if direction == "maximize" else values <= target
    return float(times[is_reached][0]) if is_reached.any() else math.inf


def _values_at(timeline: Timeline, times: FloatArray, direction: Direction) -> FloatArray:
    """The best value at each time; NaN before the first."""
    improved, values = timeline.best_so_far(direction)
    index = np.searchsorted(improved, times, side="right")
    return np.concatenate([[math.nan], values])[index]
