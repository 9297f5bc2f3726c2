"""The search space as Optuna's distributions, its grid and its size."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from hpo.spec import FloatParameter, IntParameter, Parameter

Space = Mapping[str, Parameter]


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The same space in Optuna's words, parameter by parameter."""
    return {name: _distribution(parameter) for name, parameter in space.items()}


def _distribution(parameter: Parameter) -> BaseDistribution:
    if isinstance(parameter, IntParameter):
        return IntDistribution(
            parameter.low, parameter.high, log=parameter.log, step=parameter.step
        )
    if isinstance(parameter, FloatParameter):
        return FloatDistribution(
            parameter.low, parameter.high, log=parameter.log, step=parameter.step
        )
    return CategoricalDistribution(parameter.choices)


def grid(space: Space) -> list[dict[str, Any]]:
    """Every combination of values once; `high` is included.

    Raises:
        ValueError: if a parameter is continuous.
    """
    axes = {name: values(parameter) for name, parameter in space.items()}
    if continuous := [name for name, axis in axes.items() if axis is None]:
        raise ValueError(f"continuous parameters have no grid: {', '.join(continuous)}")
    return [
        dict(zip(axes, combination, strict=True))
        for combination in itertools.product(*(axis or [] for axis in axes.values()))
    ]


def n_distinct_configs(space: Space) -> int | None:
    """How many configs the space holds; None if a parameter is continuous."""
    count = 1
    for parameter in space.values():
        axis = values(parameter)
        if axis is None:
            return None
        count *= len(axis)
    return count


def values(parameter: Parameter) -> list[Any] | None:
    """Every value of a parameter, ascending; None if it is continuous."""
    if isinstance(parameter, IntParameter):
        return list(range(parameter.low, parameter.high + 1, parameter.step))
    if isinstance(parameter, FloatParameter):
        if parameter.low == parameter.high:
            return [parameter.low]
        if parameter.step is None:
            return None
        # In decimal: 0.1 + 0.1 + 0.1 is not 0.3 in binary, and 3 * 0.1 is not either.
        low, step = Decimal(str(parameter.low)), Decimal(str(parameter.step))
        n_steps = int((Decimal(str(parameter.high)) - low) / step)
        return [float(low + index * step) for index in range(n_steps + 1)]
    return list(parameter.choices)
