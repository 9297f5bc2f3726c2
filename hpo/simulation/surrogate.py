"""Predict the learning curve of a config that nobody trained from those that were.

Two Gaussian processes (Rasmussen & Williams 2006, algorithm 2.1), one for the values and one for
the logarithm of the seconds, over params and epoch, with a Matern 5/2 kernel that has a length
scale per column. Why: a study records some tens of configs, and on so few that lie all over a space
a Gaussian process is off by far less than forests of either kind; where they lie close together it
is not (benchmarks/surrogates.py, docs/replay.md). Forests, which Eggensperger et al. 2015,
"Efficient benchmarking of hyperparameter optimizers via surrogates" (AAAI-15), prefer for large
records, need more of them.

What is predicted is a mean: it lacks the noise of a training.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.curves import FloatArray
from hpo.simulation.recorded import Trained
from hpo.spec import CategoricalParameter, FloatParameter, IntParameter, Parameter

N_FOLDS = 5
N_ROWS = 1_500
"""Epochs to predict from, at most: the time of a fit grows with their third power."""
N_ROWS_TUNED = 200
"""Epochs that the length scales are chosen on: that fit is repeated some hundred times."""
FARTHEST = 10
"""A value is learned from as if it were no more interquartile ranges than this off the median: one
diverged training would flatten all the rest."""
MIN_SECONDS = 1e-6

Space = Mapping[str, Parameter]


class Encoding:
    """Params as numbers from 0 to 1, on each parameter's own scale; -1 stands for an absent one.

    A choice has a column of its own, so two different choices are as far from each other as the two
    ends of a range.
    """

    def __init__(self, space: Space) -> None:
        self._space = dict(space)

    def row(self, params: Mapping[str, Any]) -> FloatArray:
        """(n_columns,)."""
        columns: list[float] = []
        for name, parameter in self._space.items():
            if isinstance(parameter, CategoricalParameter):
                value = params.get(name, self)  # None may be a choice
                columns += [math.sqrt(0.5) * (value == choice) for choice in parameter.choices]
            elif isinstance(parameter, IntParameter | FloatParameter):
                columns.append(_unit(parameter, params[name]) if name in params else -1.0)
        return np.array(columns)


def _unit(parameter: IntParameter | FloatParameter, value: float) -> float:
    low, high = float(parameter.low), float(parameter.high)
    if low == high:
        return 0.5
    if parameter.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


class Surrogate:
    """Both processes, conditioned on what was trained."""

    def __init__(
        self,
        trained: Sequence[Trained],
        encoded: FloatArray,
        seed: int,
        scales_of: Surrogate | None = None,
    ) -> None:
        """``encoded`` holds the params of ``trained``, (n, n_columns).

        The kernels' parameters are those of ``scales_of``, else they are fitted.
        """
        rows, values, seconds = _table(trained, encoded, np.random.default_rng(seed))
        self._range = float(values.min()), float(values.max())
        kernels = (None, None) if scales_of is None else scales_of.kernels
        self._values = Process(rows, without_outliers(values), kernels[0])
        logs = np.log(np.maximum(seconds, MIN_SECONDS))
        self._log_seconds = Process(rows, without_outliers(logs), kernels[1])

    @property
    def kernels(self) -> tuple[Any, Any]:
        """Of values and seconds, with their parameters."""
        return self._values.kernel, self._log_seconds.kernel

    def predict(self, encoded: FloatArray, n_epochs: int) -> tuple[FloatArray, FloatArray]:
        """Values and seconds of the epochs of one config: (n_epochs,) each.

        No value is better or worse than all that were recorded.
        """
        rows = with_epochs(encoded, np.arange(1, n_epochs + 1))
        seconds: FloatArray = np.exp(self._log_seconds.mean(rows))
        return np.clip(self._values.mean(rows), *self._range), seconds


class Process:
    """A Gaussian process that predicts its mean alone."""

    def __init__(self, rows: FloatArray, targets: FloatArray, kernel: Any = None) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor

        self._shift, self._scale = float(targets.mean()), float(targets.std()) or 1.0
        targets = (targets - self._shift) / self._scale
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a length scale at its bound
            if kernel is None:
                tuned = GaussianProcessRegressor(_kernel(rows.shape[1]))
                kernel = tuned.fit(rows[:N_ROWS_TUNED], targets[:N_ROWS_TUNED]).kernel_
            process = GaussianProcessRegressor(kernel, optimizer=None).fit(rows, targets)
        self.kernel = kernel
        self._rows, self._weights = rows, process.alpha_

    def mean(self, rows: FloatArray) -> FloatArray:
        """(n_rows,). The library's own `predict` takes several times as long for one curve."""
        predicted: FloatArray = self.kernel(rows, self._rows) @ self._weights
        return self._shift + self._scale * predicted


def _kernel(n_columns: int) -> Any:
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    smooth = Matern(np.ones(n_columns), length_scale_bounds=(0.05, 100.0), nu=2.5)
    return ConstantKernel(1.0) * smooth + WhiteKernel(0.01, noise_level_bounds=(1e-6, 1.0))


def _table(
    trained: Sequence[Trained], encoded: FloatArray, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Rows, values and seconds of at most ``N_ROWS`` epochs, in a random order.

    Of long curves, epochs that lie the further apart the later they are: 1, 2, 3, 5, 8, 13, ...,
    and the last one.
    """
    rows, values, seconds = [], [], []
    for config, row in zip(trained, encoded, strict=True):
        epochs = told_epochs(len(config.values))
        rows.append(with_epochs(row, epochs))
        values.append(np.array(config.values)[epochs - 1])
        seconds.append(np.array(config.seconds)[epochs - 1])
    chosen = rng.permutation(sum(len(part) for part in values))[:N_ROWS]
    table = (np.concatenate(parts)[chosen] for parts in (rows, values, seconds))
    return tuple(table)  # type: ignore[return-value]


def told_epochs(n_epochs: int) -> npt.NDArray[np.int64]:
    """Those that are learned from of a curve of at least one epoch."""
    epochs, step = [1], 1
    while epochs[-1] + step <= n_epochs:
        epochs.append(epochs[-1] + step)
        step = epochs[-2] if len(epochs) > 2 else 1
    return np.unique([*epochs, n_epochs])


def with_epochs(encoded: FloatArray, epochs: npt.NDArray[np.int64]) -> FloatArray:
    """(n_epochs, n_columns + 1): the last column tells the epoch, early ones further apart."""
    repeated = np.broadcast_to(encoded, (len(epochs), encoded.size))
    return np.column_stack([repeated, np.log2(epochs)])


def without_outliers(targets: FloatArray) -> FloatArray:
    """(n,) as they are, but none farther from the median than `FARTHEST` says."""
    low, middle, high = np.quantile(targets, [0.25, 0.5, 0.75])
    reach = FARTHEST * (high - low)
    return np.clip(targets, middle - reach, middle + reach) if reach else targets


@dataclass(frozen=True, kw_only=True)
class SurrogateError:
    """How far predictions are off on configs that were held out, by cross-validation over configs.

    Final values are those of complete configs, seconds those of whole trials. Rank correlations are
    Spearman's; None where there are fewer than three, or all are alike.

    Attributes:
        n_final: complete configs that were held out.
        final_mae: mean absolute error of their final values.
        final_spread: the same error of predicting their median: what has to be beaten.
        final_rank_correlation: between predicted and true final values.
        n_seconds: configs whose seconds were compared.
        seconds_mae: mean absolute error of a trial's seconds.
        seconds_rank_correlation: between predicted and true seconds.
    """

    n_final: int
    final_mae: float | None
    final_spread: float | None
    final_rank_correlation: float | None
    n_seconds: int
    seconds_mae: float | None
    seconds_rank_correlation: float | None


def cross_validate(
    trained: Sequence[Trained], encoded: FloatArray, seed: int, whole: Surrogate
) -> SurrogateError:
    """Predict each config from the others.

    The length scales are those of ``whole``, which has seen all.
    """
    final: list[tuple[float, float]] = []
    total: list[tuple[float, float]] = []
    for kept, held_out in folds(encoded, seed):
        surrogate = Surrogate([trained[index] for index in kept], encoded[kept], seed, whole)
        for index in held_out:
            config = trained[index]
            values, seconds = surrogate.predict(encoded[index], len(config.values))
            total.append((sum(config.seconds), float(seconds.sum())))
            if config.is_whole:
                final.append((config.values[-1], float(values[-1])))
    return SurrogateError(
        n_final=len(final),
        final_mae=_mae(final),
        final_spread=_spread(final),
        final_rank_correlation=_rank_correlation(final),
        n_seconds=len(total),
        seconds_mae=_mae(total),
        seconds_rank_correlation=_rank_correlation(total),
    )


def folds(encoded: FloatArray, seed: int) -> Iterator[tuple[list[int], list[int]]]:
    """Configs to predict from, and those to predict, a fifth at a time; equal ones go together.

    None of a single config.
    """
    _, config_of = np.unique(encoded, axis=0, return_inverse=True)
    config_of = config_of.ravel()
    n_configs = int(config_of.max()) + 1
    n_folds = min(N_FOLDS, n_configs)
    fold_of = np.random.default_rng(seed).permutation(n_configs)[config_of] % n_folds
    for fold in range(n_folds if n_configs > 1 else 0):
        kept, held_out = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        yield kept.tolist(), held_out[:N_ROWS].tolist()


def _mae(pairs: Sequence[tuple[float, float]]) -> float | None:
    return float(np.mean([abs(true - predicted) for true, predicted in pairs])) if pairs else None


def _spread(pairs: Sequence[tuple[float, float]]) -> float | None:
    true = [true for true, _ in pairs]
    return float(np.mean(np.abs(np.array(true) - np.median(true)))) if pairs else None


def _rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    from scipy.stats import spearmanr

    true, predicted = (set(column) for column in zip(*pairs, strict=True)) if pairs else ((), ())
    if len(pairs) < 3 or len(true) < 2 or len(predicted) < 2:
        return None
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)
