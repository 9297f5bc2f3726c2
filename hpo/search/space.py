"""The search space as Optuna's distributions, its grid and its size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from hpo.spec import (
    CategoricalParameter,
    FloatParameter,
    FoundParameter,
    IntParameter,
    Parameter,
    RangedParameter,
)

Space = Mapping[str, Parameter]


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The same space in Optuna's words; a parameter whose range is yet to be found is not in it."""
    return {
        name: _distribution(parameter)
        for name, parameter in space.items()
        if not isinstance(parameter, FoundParameter)
    }


def _distribution(parameter: RangedParameter) -> BaseDistribution:
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
    counts = [n_values(parameter) for parameter in space.values()]
    return None if None in counts else math.prod(count or 0 for count in counts)


def n_values(parameter: Parameter) -> int | None:
    """How many values a parameter has; None if it is continuous."""
    if isinstance(parameter, IntParameter):
        return len(range(parameter.low, parameter.high + 1, parameter.step))
    if isinstance(parameter, FloatParameter):
        if parameter.low == parameter.high:
            return 1
        if parameter.step is None:
            return None
        # As written: 3 * 0.1 is not 0.3 in binary.
        span = Fraction(str(parameter.high)) - Fraction(str(parameter.low))
        return int(span / Fraction(str(parameter.step))) + 1
    if isinstance(parameter, FoundParameter):
        return None
    return len(parameter.choices)


def values(parameter: Parameter) -> list[Any] | None:
    """Every value of a parameter, ascending; None if it is continuous."""
    if isinstance(parameter, CategoricalParameter):
        return list(parameter.choices)
    count = n_values(parameter)
    if count is None:
        return None
    if isinstance(parameter, IntParameter):
        return list(range(parameter.low, parameter.high + 1, parameter.step))
    assert isinstance(parameter, FloatParameter)
    low, step = Fraction(str(parameter.low)), Fraction(str(parameter.step or 0))
    return [float(low + index * step) for index in range(count)]
