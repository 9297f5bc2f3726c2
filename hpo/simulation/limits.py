"""Predict what `constraints` limit, and tell how often a config is judged wrongly by it.

A Gaussian process for each quantity, as for the values, because the best configs often lie at a
limit: with the quantity of the nearest config a search would find gaps in it. Quantities that are
above 0 are learned as logarithms: parameters and milliseconds range over decades.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpo.curves import FloatArray
from hpo.simulation.recorded import Trained
from hpo.simulation.surrogate import (
    N_ROWS,
    Process,
    folds,
    told_epochs,
    with_epochs,
    without_outliers,
)
from hpo.spec import LimitSpec
from hpo.tasks import excesses


class Limits:
    """What configs come to in all that is limited, learned from those that were trained."""

    def __init__(
        self,
        trained: Sequence[Trained],
        encoded: FloatArray,
        seed: int,
        scales_of: Limits | None = None,
    ) -> None:
        """``encoded`` holds the params of ``trained``, (n, n_columns).

        The kernels' parameters are those of ``scales_of``, else they are fitted.
        """
        rng = np.random.default_rng(seed)
        facts = {
            name: [[config.facts[name]] if name in config.facts else [] for config in trained]
            for name in sorted({name for config in trained for name in config.facts})
        }
        metrics = {
            name: [config.limited.get(name, ()) for config in trained]
            for name in sorted({name for config in trained for name in config.limited})
        }
        kernels = {} if scales_of is None else scales_of.kernels
        self._facts = _quantities(facts, encoded, rng, kernels)
        self._metrics = _quantities(metrics, encoded, rng, kernels)

    @property
    def kernels(self) -> dict[str, Any]:
        """Of each quantity, with its parameters."""
        return {name: one.kernel for name, one in (*self._facts.items(), *self._metrics.items())}

    def facts(self, row: FloatArray) -> dict[str, float]:
        """What is known of a config before any training."""
        first = with_epochs(row, np.array([1]))
        return {name: float(one.mean(first)[0]) for name, one in self._facts.items()}

    def metrics(self, row: FloatArray, n_epochs: int) -> dict[str, FloatArray]:
        """What it reports after each epoch: (n_epochs,) each."""
        rows = with_epochs(row, np.arange(1, n_epochs + 1))
        return {name: one.mean(rows) for name, one in self._metrics.items()}


class _Quantity:
    """One of them; no prediction is beyond everything recorded."""

    def __init__(self, rows: FloatArray, targets: FloatArray, kernel: Any) -> None:
        self._range = float(targets.min()), float(targets.max())
        self._is_log = self._range[0] > 0
        if self._is_log:
            targets = np.log(targets)
        self._process = Process(rows, without_outliers(targets), kernel)

    @property
    def kernel(self) -> Any:
        """With its parameters."""
        return self._process.kernel

    def mean(self, rows: FloatArray) -> FloatArray:
        """(n_rows,)."""
        predicted = self._process.mean(rows)
        return np.clip(np.exp(predicted) if self._is_log else predicted, *self._range)


def _quantities(
    curves: Mapping[str, Sequence[Sequence[float]]],
    encoded: FloatArray,
    rng: np.random.Generator,
    kernels: Mapping[str, Any],
) -> dict[str, _Quantity]:
    """Of each name a curve of every config, which may be empty; at most `N_ROWS` epochs."""
    found = {}
    for name, of_configs in curves.items():
        rows, targets = _table(of_configs, encoded)
        chosen = rng.permutation(len(targets))[:N_ROWS]
        if chosen.size:
            found[name] = _Quantity(rows[chosen], targets[chosen], kernels.get(name))
    return found


def _table(curves: Sequence[Sequence[float]], encoded: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Rows and values of the epochs to learn from: as of other curves, but only those told."""
    rows, targets = [], []
    for row, curve in zip(encoded, map(np.array, curves), strict=True):
        if curve.size:
            epochs = told_epochs(curve.size)
            epochs = epochs[~np.isnan(curve[epochs - 1])]
            rows.append(with_epochs(row, epochs))
            targets.append(curve[epochs - 1])
    return np.concatenate(rows), np.concatenate(targets)


@dataclass(frozen=True, kw_only=True)
class LimitsError:
    """How often configs that were held out are judged wrongly: feasible or not.

    Attributes:
        n_judged: configs whose own training said which; complete ones, or refused by a limit.
        share: of these that is judged wrongly; None if there is none.
        share_of_guess: the same of always guessing what most of them are: what has to be beaten.
    """

    n_judged: int
    share: float | None
    share_of_guess: float | None


def judge(
    trained: Sequence[Trained],
    encoded: FloatArray,
    constraints: Mapping[str, LimitSpec],
    seed: int,
    whole: Limits,
) -> LimitsError:
    """Judge each config by what is predicted from the others.

    The length scales are those of ``whole``, which has seen all.
    """
    verdicts: list[tuple[bool, bool]] = []
    for kept, held_out in folds(encoded, seed):
        limits = Limits([trained[index] for index in kept], encoded[kept], seed, whole)
        for index in held_out:
            config, row = trained[index], encoded[index]
            if config.is_whole or config.is_beyond_limit:
                told = limits.facts(row)
                for name, curve in limits.metrics(row, max(1, len(config.values))).items():
                    told[name] = float(curve[-1])
                verdicts.append((_breaks(constraints, _own(config)), _breaks(constraints, told)))
    n = len(verdicts)
    n_infeasible = sum(true for true, _ in verdicts)
    return LimitsError(
        n_judged=n,
        share=sum(true != predicted for true, predicted in verdicts) / n if n else None,
        share_of_guess=min(n_infeasible, n - n_infeasible) / n if n else None,
    )


def _own(config: Trained) -> dict[str, float]:
    last = {name: told[-1] for name, told in config.limited.items() if told}
    return {**config.facts, **{name: one for name, one in last.items() if not math.isnan(one)}}


def _breaks(constraints: Mapping[str, LimitSpec], quantities: Mapping[str, float]) -> bool:
    return any(excess > 0 for excess in excesses(constraints, quantities))
