"""Serve the curve of any config: as it was recorded, or as the surrogate has it, and say which."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.curves import Curve, FloatArray, Origin
from hpo.simulation.limits import Limits, LimitsError, judge
from hpo.simulation.recorded import Trained
from hpo.simulation.surrogate import Encoding, Space, Surrogate, SurrogateError, cross_validate
from hpo.spec import LimitSpec
from hpo.tasks import EpochReport, TrialTask

ABSENT = object()


class ServedCurves:
    """What each config of a search space does, as far as a record tells.

    - A config that was trained is served as it was. Trained several times: with the trial's seed if
      that was one of theirs, else the seed says which of them. Its curve, if it was stopped, goes
      on as the surrogate says, from the value where it stopped.
    - Another config is predicted, with all that ``constraints`` limit. It is refused if it then
      breaks a limit on what is known beforehand. It fails if the nearest one did that nothing but a
      limit could have kept from training, in the same way.
    - An epoch is extrapolated beyond what the nearest config, or the config itself, was trained
      for, and wherever the config lies outside of all that were: a number beyond the smallest or
      largest, a choice never made, a parameter present or absent as in no other.
    """

    def __init__(
        self,
        trained: Sequence[Trained],
        space: Space,
        *,
        max_epochs: int | None,
        start_s: float,
        seed: int,
        constraints: Mapping[str, LimitSpec] | None = None,
        keeps_checkpoints: bool = False,
    ) -> None:
        """``start_s`` seconds pass before the first epoch of every trial.

        With ``keeps_checkpoints`` one that is handed out again goes on where it was.

        At least one config must be complete: it tells how long a curve is.
        """
        self._trained, self._names = list(trained), tuple(space)
        self._encoding = Encoding(space)
        self._max_epochs, self._start_s, self._seed = max_epochs, start_s, seed
        self._constraints, self._keeps_checkpoints = constraints or {}, keeps_checkpoints
        self._by_config: dict[tuple[Any, ...], list[int]] = {}
        for index, config in enumerate(self._trained):
            self._by_config.setdefault(self._key(config.params), []).append(index)

    def __call__(self, task: TrialTask) -> Curve:
        """The whole curve of a task's config."""
        indices = self._by_config.get(self._key(task.config))
        if indices is None:
            return self._predicted(task)
        index = self._trained_like(task, indices)
        trained = self._trained[index]
        if trained.is_stopped:
            return self._continued(index, trained)
        return self._as_recorded(trained)

    def _trained_like(self, task: TrialTask, indices: Sequence[int]) -> int:
        """Which of several trainings of its config a task repeats."""
        seed = task.context.seed
        of_seed = [index for index in indices if self._trained[index].seed == seed]
        for index in of_seed:
            if self._trained[index].number == task.number:
                return index
        return of_seed[0] if of_seed else indices[seed % len(indices)]

    @cached_property
    def limits_error(self) -> LimitsError | None:
        """How often a predicted config is judged wrongly; None if nothing is limited."""
        if not self._constraints:
            return None
        return judge(self._trained, self._encoded, self._constraints, self._seed, self._limits)

    @cached_property
    def error(self) -> SurrogateError:
        """How far predictions are off."""
        indices = self._with_values
        chosen = [self._trained[index] for index in indices]
        return cross_validate(chosen, self._encoded[indices], self._seed, self._surrogate)

    def _key(self, params: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(params.get(name, ABSENT) for name in self._names)

    def _predicted(self, task: TrialTask) -> Curve:
        row = self._encoding.row(task.config)
        facts = self._limits.facts(row)
        if (broken := task.broken_limit(facts)) is not None:
            failure = _refused(*broken, facts)
            return Curve(values=(), seconds=(), origins=(), start_s=self._start_s, failure=failure)
        nearest = self._trained[self._nearest_of(self._within_limits, row)]
        n_epochs = self._n_epochs(row)
        if nearest.failure is not None:
            n_epochs = len(nearest.values)
        if n_epochs == 0:
            return self._cut((), (), "interpolated", nearest, facts, {})
        values, seconds = self._surrogate.predict(row, n_epochs)
        n_inside = 0 if self._is_outside(row) else len(nearest.values)
        origins = _origins(n_epochs, "interpolated", n_inside)
        limited = self._limited(row, n_epochs)
        return self._cut(values.tolist(), seconds.tolist(), origins, nearest, facts, limited)

    def _as_recorded(self, trained: Trained) -> Curve:
        values, seconds = trained.values, trained.seconds
        return self._cut(values, seconds, "recorded", trained, trained.facts, trained.limited)

    def _continued(self, index: int, trained: Trained) -> Curve:
        row, n_recorded = self._encoded[index], len(trained.values)
        n_epochs = max(self._n_epochs(row), n_recorded)
        if n_recorded == n_epochs:
            return self._as_recorded(trained)
        limited = self._limited(row, n_epochs, trained)
        values, seconds = self._surrogate.predict(row, n_epochs)
        shift = trained.values[-1] - values[n_recorded - 1] if n_recorded else 0.0
        return self._cut(
            [*trained.values, *np.clip(values[n_recorded:] + shift, *self._range).tolist()],
            [*trained.seconds, *seconds[n_recorded:].tolist()],
            _origins(n_epochs, "recorded", n_recorded),
            trained,
            trained.facts,
            limited,
        )

    def _limited(
        self, row: FloatArray, n_epochs: int, trained: Trained | None = None
    ) -> dict[str, Sequence[float]]:
        """Limited metrics, told after those epochs in which the nearest complete config tells them.

        Of one that was ``trained`` and stopped its own, which go on from where it stopped.
        """
        like = self._nearest_complete(row).limited
        n_own = 0 if trained is None else len(trained.values)
        limited: dict[str, Sequence[float]] = {}
        for name, predicted in self._limits.metrics(row, n_epochs).items():
            own = np.full(n_own, np.nan)
            if trained is not None and name in trained.limited:
                own = np.array(trained.limited[name])
            shift = np.nan_to_num(own[-1] - predicted[n_own - 1]) if n_own else 0.0
            known = np.array(like.get(name, [np.nan]))
            is_told = ~np.isnan(known[np.minimum(np.arange(n_epochs), known.size - 1)])
            rest = np.where(is_told, predicted + shift, np.nan)[n_own:]
            limited[name] = [*own.tolist(), *rest.tolist()]
        return limited

    def _cut(
        self,
        values: Sequence[float],
        seconds: Sequence[float],
        origins: Origin | Sequence[Origin],
        like: Trained,
        facts: Mapping[str, float],
        limited: Mapping[str, Sequence[float]],
    ) -> Curve:
        """The curve, of no more epochs than the search wants; it fails if ``like`` did."""
        n_epochs, failure = len(values), like.failure
        if isinstance(origins, str):
            origins = [origins] * n_epochs
        if self._max_epochs is not None and n_epochs >= self._max_epochs:
            n_epochs, failure = self._max_epochs, None
        return Curve(
            values=values[:n_epochs],
            seconds=seconds[:n_epochs],
            origins=origins[:n_epochs],
            start_s=self._start_s,
            failure=failure,
            keeps_checkpoints=self._keeps_checkpoints,
            facts=facts,
            limited={name: told[:n_epochs] for name, told in limited.items()},
        )

    def _n_epochs(self, row: FloatArray) -> int:
        """As many as the nearest config that is complete."""
        return len(self._nearest_complete(row).values)

    def _nearest_complete(self, row: FloatArray) -> Trained:
        return self._trained[self._nearest_of(self._complete, row)]

    def _nearest_of(self, indices: Sequence[int], row: FloatArray) -> int:
        return indices[int(np.square(self._encoded[indices] - row).sum(axis=1).argmin())]

    def _is_outside(self, row: FloatArray) -> bool:
        low, high, has_absent = self._box
        is_beyond = (row < low) | (row > high)
        return bool(np.where(row < 0, ~has_absent, is_beyond).any())

    @cached_property
    def _encoded(self) -> FloatArray:
        return np.array([self._encoding.row(config.params) for config in self._trained])

    @cached_property
    def _complete(self) -> list[int]:
        return [index for index, config in enumerate(self._trained) if config.is_whole]

    @cached_property
    def _within_limits(self) -> list[int]:
        """All but those that were refused by a limit: that is asked for each config anew."""
        return [i for i, config in enumerate(self._trained) if not config.is_beyond_limit]

    @cached_property
    def _with_values(self) -> list[int]:
        return [index for index, config in enumerate(self._trained) if config.values]

    @cached_property
    def _box(self) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
        """Smallest and largest of each column, and whether it was ever absent."""
        encoded = self._encoded[self._with_values]
        is_absent: npt.NDArray[np.bool_] = encoded < 0
        low = np.where(is_absent, np.inf, encoded).min(axis=0)
        high = np.where(is_absent, -np.inf, encoded).max(axis=0)
        return low, high, np.asarray(is_absent.any(axis=0))

    @cached_property
    def _range(self) -> tuple[float, float]:
        values = list(itertools.chain(*(config.values for config in self._trained)))
        return min(values), max(values)

    @cached_property
    def _limits(self) -> Limits:
        return Limits(self._trained, self._encoded, self._seed)

    @cached_property
    def _surrogate(self) -> Surrogate:
        indices = self._with_values
        chosen = [self._trained[index] for index in indices]
        return Surrogate(chosen, self._encoded[indices], self._seed)


def _refused(message: str, place: str, facts: Mapping[str, float]) -> EpochReport:
    """The report of a config that is not trained, as a worker makes it."""
    return EpochReport(
        epoch=0,
        metrics={},
        seconds=0.0,
        ending="failed",
        fail_reason=f"infeasible: {message}",
        fail_place=f"infeasible: {place}",
        fail_cause="infeasible",
        facts=facts,
    )


def _origins(n_epochs: int, inside: Origin, n_inside: int) -> list[Origin]:
    n_inside = min(n_inside, n_epochs)
    return [inside] * n_inside + ["extrapolated"] * (n_epochs - n_inside)
