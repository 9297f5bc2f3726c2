"""The search space: drawn from a study, as Optuna's distributions, its grid and its size."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import Study

from hpo.failpoints import failpoint
from hpo.spec import (
    CategoricalParameter,
    FloatParameter,
    FoundParameter,
    IntParameter,
    Parameter,
    RangedParameter,
    conditions,
    is_active,
)

Space = Mapping[str, Parameter]

OTHER = object()
"""Every value of a parameter that no condition names."""


def ask(study: Study, space: Space) -> optuna.Trial:
    """The next trial of the study, its parameters drawn: the one way to ask for one."""
    trial = study.ask()
    failpoint("trial begun")
    draw(trial, space)
    failpoint("trial asked")
    return trial


def draw(
    trial: optuna.Trial, space: Space, given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Draw the parameters of a trial one by one, in the order of the spec.

    One whose condition does not hold is passed over: it is in no config, so the trainable's own
    default holds. One whose range is yet to be found is passed over, too.

    Args:
        trial: is asked for each value.
        space: what to ask for.
        given: values that are chosen already and not asked for; they decide about others.

    Returns:
        The params of the trial, and those of ``given`` that are active.
    """
    params: dict[str, Any] = {}
    for name, parameter in space.items():
        if not is_active(parameter, params):
            continue
        if given is not None and name in given:
            params[name] = given[name]
        elif not isinstance(parameter, FoundParameter):
            params[name] = _suggested(trial, name, parameter)
            failpoint("param drawn")
    return params


def _suggested(trial: optuna.Trial, name: str, parameter: RangedParameter) -> Any:
    if isinstance(parameter, IntParameter):
        return trial.suggest_int(
            name, parameter.low, parameter.high, step=parameter.step, log=parameter.log
        )
    if isinstance(parameter, FloatParameter):
        return trial.suggest_float(
            name, parameter.low, parameter.high, step=parameter.step, log=parameter.log
        )
    return trial.suggest_categorical(name, parameter.choices)


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The same space in Optuna's words, conditions left aside.

    A parameter whose range is yet to be found is not in it.
    """
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


def is_conditional(space: Space) -> bool:
    """Whether some parameter is drawn in some trials only."""
    return any(conditions(parameter) for parameter in space.values())


def grid(space: Space, given: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Every distinct combination of grid points once; what a condition excludes is left out.

    Args:
        space: what to combine.
        given: values that are chosen already, on the grid or not; the others are combined.

    Raises:
        ValueError: if a parameter has no grid.
    """
    points = {name: grid_points(parameter) for name, parameter in space.items()}
    if continuous := [name for name, axis in points.items() if axis is None]:
        raise ValueError(f"continuous parameters have no grid: {', '.join(continuous)}")
    cells: list[dict[str, Any]] = [{}]
    for name, parameter in space.items():
        axis = [given[name]] if given is not None and name in given else points[name] or []
        cells = [
            {**cell, **value}
            for cell in cells
            for value in ([{name: one} for one in axis] if is_active(parameter, cell) else [{}])
        ]
    return cells


def n_grid_cells(space: Space) -> int | None:
    """How many cells `grid` would list; None if a parameter has no grid."""
    return _n_combinations(space, n_grid_points, is_grid_point)


def n_distinct_configs(space: Space) -> int | None:
    """How many configs the space holds; None if a parameter is continuous."""
    return _n_combinations(
        space,
        n_values,
        lambda parameter, value: (
            not isinstance(parameter, FoundParameter) and parameter.accepts(value)
        ),
    )


def _n_combinations(
    space: Space,
    count_of: Callable[[Parameter], int | None],
    has_value: Callable[[Parameter, Any], bool],
) -> int | None:
    """How many configs there are, counted and not listed.

    Parameters are gone through with children right behind their parents. Of what was chosen so
    far only the values that a condition yet to come asks for are told apart, so few cases remain.
    """
    counts = {name: count_of(parameter) for name, parameter in space.items()}
    children = _children(space)
    named = {
        name: list(dict.fromkeys(v for c in below for v in conditions(space[c])[name]))
        for name, below in children.items()
    }
    cases: Counter[frozenset[tuple[str, Any]]] = Counter({frozenset(): 1})
    placed: set[str] = set()
    for name in _parents_first(space, children):
        count = counts[name]
        if count is None:
            return None
        placed.add(name)
        told_apart: dict[Any, int] = {
            value: 1 for value in named[name] if has_value(space[name], value)
        }
        told_apart[OTHER] = count - len(told_apart)
        before, cases = cases, Counter()
        for case, n_cases in before.items():
            params = dict(case)
            is_drawn = is_active(space[name], params)
            for value, n_values_of in told_apart.items() if is_drawn else [(OTHER, 1)]:
                after = {**params, name: value}
                kept = [item for item in after.items() if not placed.issuperset(children[item[0]])]
                cases[frozenset(kept)] += n_cases * n_values_of
    return cases.total()


def _children(space: Space) -> dict[str, list[str]]:
    """The parameters that each one decides about."""
    children: dict[str, list[str]] = {name: [] for name in space}
    for name, parameter in space.items():
        for parent in conditions(parameter):
            children[parent].append(name)
    return children


def _parents_first(space: Space, children: Mapping[str, list[str]]) -> Iterator[str]:
    """Every parameter behind its parents, as close as can be."""
    placed: set[str] = set()
    waiting = [name for name in reversed(list(space)) if not conditions(space[name])]
    while waiting:
        name = waiting.pop()
        if name not in placed and placed.issuperset(conditions(space[name])):
            placed.add(name)
            yield name
            waiting += reversed(children[name])


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
    if count is None or isinstance(parameter, FoundParameter):
        return None
    return [_nth_value(parameter, index) for index in range(count)]


def _nth_value(parameter: IntParameter | FloatParameter, index: int) -> int | float:
    if isinstance(parameter, IntParameter):
        return parameter.low + index * parameter.step
    return float(Fraction(str(parameter.low)) + index * Fraction(str(parameter.step or 0)))


def n_grid_points(parameter: Parameter) -> int | None:
    """How many points a grid has of a parameter; None if it is continuous and has no ``grid``."""
    if isinstance(parameter, IntParameter | FloatParameter) and parameter.grid is not None:
        return len(grid_points(parameter) or ())
    return n_values(parameter)


def is_grid_point(parameter: Parameter, value: Any) -> bool:
    """Whether a grid tries ``value``."""
    if isinstance(parameter, FoundParameter) or not parameter.accepts(value):
        return False
    if isinstance(parameter, CategoricalParameter) or parameter.grid is None:
        return n_values(parameter) is not None
    return value in (grid_points(parameter) or ())


def grid_points(parameter: Parameter) -> list[Any] | None:
    """What a grid tries of a parameter: ``grid`` points of its range, else its values; ascending.

    They lie evenly on the parameter's own scale, both ends included. Those of an int, or of a float
    in steps, that round to one value are one point.
    """
    if not isinstance(parameter, IntParameter | FloatParameter) or parameter.grid is None:
        return values(parameter)
    inner = (Fraction(index, parameter.grid - 1) for index in range(1, parameter.grid - 1))
    points = [_point_between(parameter, share) for share in inner]
    return list(dict.fromkeys([parameter.low, *points, parameter.high]))


def start_value(parameter: RangedParameter) -> Any:
    """Where to begin: the default; else the first choice, or the middle on its own scale."""
    if parameter.has_default:
        return parameter.default
    if isinstance(parameter, CategoricalParameter):
        return parameter.choices[0]
    return _point_between(parameter, Fraction(1, 2))


def _point_between(parameter: IntParameter | FloatParameter, share: Fraction) -> int | float:
    """The value at ``share`` of the way from ``low`` to ``high``, on the parameter's own scale."""
    low, high = parameter.low, parameter.high
    if parameter.log:
        start, end = math.log(low), math.log(high)
        # Twelve digits: what is 0.0001 to a reader is 9.999999999999999e-05 to a computer.
        point = float(f"{math.exp(start + float(share) * (end - start)):.12g}")
        return min(max(round(point) if isinstance(parameter, IntParameter) else point, low), high)
    count = n_values(parameter)
    if count is not None:
        return _nth_value(parameter, round(share * (count - 1)))
    return float(Fraction(str(low)) + share * (Fraction(str(high)) - Fraction(str(low))))
