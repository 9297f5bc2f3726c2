"""Configs as points of a unit cube, and back: what a model of them works with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

Array = npt.NDArray[np.float64]

MAX_LEVELS = 40
"""Of a parameter with more values than these, a few are tried at a time."""


class UnitCube:
    """A coordinate from 0 to 1 for each parameter, in the order of ``distributions``.

    Numbers lie evenly between their ends, on a logarithmic scale where they are drawn on one.
    A choice lies at its index; such coordinates are equal or not, and have no distance.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution]) -> None:
        self.names = list(distributions)
        self._axes = [_Axis(distribution) for distribution in distributions.values()]
        self.is_categorical = np.array([axis.choices is not None for axis in self._axes])

    def encode(self, configs: Sequence[Mapping[str, Any]]) -> Array:
        """(n, d); a parameter that a config lacks lies in the middle, or at no choice at all."""
        points = np.empty((len(configs), len(self._axes)))
        for column, (name, axis) in enumerate(zip(self.names, self._axes, strict=True)):
            points[:, column] = [
                axis.position(config[name]) if name in config else axis.nowhere
                for config in configs
            ]
        return points

    def decode(self, point: Array) -> dict[str, Any]:
        """The nearest config."""
        return {
            name: axis.value(float(u))
            for name, axis, u in zip(self.names, self._axes, point, strict=True)
        }

    def snap(self, points: Array) -> Array:
        """Move points to where configs are."""
        columns = [axis.snap(points[:, i]) for i, axis in enumerate(self._axes)]
        return np.stack(columns, axis=1)

    def at_random(self, n: int, rng: np.random.Generator) -> Array:
        """(n, d) configs drawn evenly."""
        return self.from_uniform(rng.random((n, len(self._axes))))

    def from_uniform(self, points: Array) -> Array:
        """Configs such that evenly spread ``points`` of [0, 1) give every value its even share."""
        columns = [axis.from_uniform(points[:, i]) for i, axis in enumerate(self._axes)]
        return np.stack(columns, axis=1)

    def neighbours(self, point: Array, rng: np.random.Generator, n_steps: int) -> Array:
        """Configs that differ in one parameter, and ``n_steps`` that lie near in all of them."""
        found = []
        for column, axis in enumerate(self._axes):
            levels = axis.levels(rng)
            moved = np.repeat(point[None], len(levels), axis=0)
            moved[:, column] = levels
            found.append(moved)
        found.append(self.steps_from(point, rng, n_steps, 0.15))
        return np.concatenate(found)

    def steps_from(self, point: Array, rng: np.random.Generator, n: int, width: float) -> Array:
        """``n`` configs around ``point``, numbers at ``width`` (standard deviation) from it.

        Choices are kept, but for one of them in every fifth config.
        """
        moved = point + width * rng.standard_normal((n, len(point)))
        drawn = self.at_random(n, rng)
        keeps = rng.random(moved.shape) > 0.2 / max(1, int(self.is_categorical.sum()))
        moved[:, self.is_categorical] = np.where(keeps, point, drawn)[:, self.is_categorical]
        moved[:, ~self.is_categorical] = moved[:, ~self.is_categorical].clip(0, 1)
        return self.snap(moved)


class _Axis:
    """One parameter."""

    def __init__(self, distribution: BaseDistribution) -> None:
        self.choices: Sequence[Any] | None = None
        self.nowhere = 0.5
        self._is_int = isinstance(distribution, IntDistribution)
        self._is_log, self._step = False, 0.0
        if isinstance(distribution, CategoricalDistribution):
            self.choices = distribution.choices
            self._to_index = distribution.to_internal_repr
            self.nowhere = -1.0
            return
        self._low, self._high = float(distribution.low), float(distribution.high)  # type: ignore[attr-defined]
        self._is_log = bool(distribution.log)  # type: ignore[attr-defined]
        self._step = float(distribution.step or 0.0)  # type: ignore[attr-defined]
        self._width = self._scale(self._high) - self._scale(self._low)

    def position(self, value: Any) -> float:
        if self.choices is not None:
            return float(self._to_index(value))
        if self._width == 0:
            return self.nowhere
        return (self._scale(float(value)) - self._scale(self._low)) / self._width

    def value(self, u: float) -> Any:
        if self.choices is not None:
            return self.choices[round(u)]
        value = float(self._values(np.array([u]))[0])
        return round(value) if self._is_int else value

    def snap(self, column: Array) -> Array:
        if self.choices is not None:
            return np.rint(column).clip(0, len(self.choices) - 1)
        if self._width == 0:
            return np.full_like(column, self.nowhere)
        if self._step == 0:
            return column
        return self._positions(self._values(column))

    def from_uniform(self, column: Array) -> Array:
        if self.choices is not None:
            return np.floor(column * len(self.choices))
        if self._step == 0 or self._width == 0:
            return self.snap(column)
        half = self._step / 2
        low, high = self._scale(self._low - half), self._scale(self._high + half)
        values = self._unscale(low + column * (high - low))
        return self._positions(self._on_grid(values))

    def levels(self, rng: np.random.Generator) -> Array:
        """Where its values are: all of them, or some at random if there are many."""
        if self.choices is not None:
            return np.arange(len(self.choices), dtype=np.float64)
        if self._step and self._width:
            n_values = round((self._high - self._low) / self._step) + 1
            if n_values <= MAX_LEVELS:
                every = np.arange(n_values, dtype=np.float64)
                return self._positions(self._low + self._step * every)
        return self.snap(rng.random(MAX_LEVELS // 2))

    def _values(self, column: Array) -> Array:
        return self._on_grid(self._unscale(self._scale(self._low) + column * self._width))

    def _on_grid(self, values: Array) -> Array:
        if self._step:
            values = self._low + self._step * np.rint((values - self._low) / self._step)
        return values.clip(self._low, self._high)

    def _positions(self, values: Array) -> Array:
        scaled = np.log(values) if self._is_log else values
        return (scaled - self._scale(self._low)) / self._width

    def _scale(self, value: float) -> float:
        return math.log(value) if self._is_log else value

    def _unscale(self, values: Array) -> Array:
        return np.exp(values) if self._is_log else values
