"""The search space: its values, conditions, grid and size, and the same space in Optuna's words."""

from __future__ import annotations

import itertools
import math
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.search import (
    Space,
    ask,
    distributions,
    grid,
    grid_points,
    n_distinct_configs,
    n_grid_cells,
    values,
)
from hpo.spec import (
    CategoricalParameter,
    FloatParameter,
    IntParameter,
    Parameter,
    check_params,
    is_active,
)

X = FloatParameter(type="float", low=0, high=1)


@st.composite
def stepped_ranges(draw: st.DrawFn) -> tuple[int, int, int]:
    """(low, step, n_steps) as integers; the range ends at ``low + n_steps * step``."""
    return draw(st.tuples(st.integers(-1000, 1000), st.integers(1, 50), st.integers(0, 20)))


@st.composite
def stepped_ints(draw: st.DrawFn) -> IntParameter:
    low, step, n_steps = draw(stepped_ranges())
    return IntParameter(type="int", low=low, high=low + n_steps * step, step=step)


@st.composite
def log_ints(draw: st.DrawFn) -> IntParameter:
    low = draw(st.integers(1, 50))
    return IntParameter(type="int", low=low, high=low + draw(st.integers(0, 20)), log=True)


@st.composite
def stepped_floats(draw: st.DrawFn) -> FloatParameter:
    low, step, n_steps = draw(stepped_ranges())
    scale = 10 ** draw(st.integers(0, 6))
    return FloatParameter(
        type="float", low=low / scale, high=(low + n_steps * step) / scale, step=step / scale
    )


texts = st.text(st.characters(exclude_categories=["C"]), max_size=20)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
)
categoricals = st.lists(scalars, min_size=1, max_size=6, unique=True).map(
    lambda choices: CategoricalParameter(type="categorical", choices=choices)
)
finite_parameters = st.one_of(stepped_ints(), log_ints(), stepped_floats(), categoricals)
finite_spaces = st.dictionaries(
    st.text("abc", min_size=1), finite_parameters, min_size=1, max_size=3
)


continuous = st.builds(
    FloatParameter,
    type=st.just("float"),
    low=st.floats(1e-6, 1),
    high=st.floats(1, 1e6),
    log=st.booleans(),
    grid=st.integers(2, 5),
)


@st.composite
def conditional_spaces(draw: st.DrawFn, parameters: st.SearchStrategy[Any]) -> dict[str, Parameter]:
    """Up to six parameters; each may hang on values of those before it, as a valid spec has it."""
    space: dict[str, Parameter] = {}
    for name in draw(st.permutations("abcdef"))[: draw(st.integers(1, 6))]:
        parameter = draw(parameters)
        deciding = [parent for parent, p in space.items() if p.type != "float"]
        parents = draw(st.lists(st.sampled_from(deciding), max_size=2)) if deciding else []
        when = {
            parent: draw(st.lists(st.sampled_from(values(space[parent])), min_size=1, max_size=3))
            for parent in parents
        }
        space[name] = parameter.model_copy(update={"when": when})
    return space


small = st.one_of(
    st.builds(lambda low, n: IntParameter(type="int", low=low, high=low + n),
              st.integers(-3, 3), st.integers(0, 3)),
    st.lists(scalars, min_size=1, max_size=3, unique=True).map(
        lambda choices: CategoricalParameter(type="categorical", choices=choices)
    ),
    continuous,
)  # fmt: skip
"""Parameters of few grid points: six of them can be listed."""


def every_config(space: Space) -> list[dict[str, Any]]:
    """What a grid should hold, by brute force: all combinations, without what is not drawn."""
    found: list[dict[str, Any]] = []
    axes = [grid_points(parameter) or [] for parameter in space.values()]
    for combination in itertools.product(*axes):
        config: dict[str, Any] = {}
        for (name, parameter), value in zip(space.items(), combination, strict=True):
            if is_active(parameter, config):
                config[name] = value
        if config not in found:
            found.append(config)
    return found


def accepts(space: Space, params: dict[str, Any]) -> bool:
    """Whether Optuna takes ``params`` for a trial of the space."""
    try:
        optuna.trial.create_trial(params=params, distributions=distributions(space), value=0.0)
    except ValueError:
        return False
    return True


@given(stepped_ranges())
def test_an_integer_range_includes_both_ends(bounds: tuple[int, int, int]) -> None:
    low, step, n_steps = bounds
    high = low + n_steps * step
    found = values(IntParameter(type="int", low=low, high=high, step=step))
    assert found == [low + index * step for index in range(n_steps + 1)]
    assert (found[0], found[-1]) == (low, high)


@given(stepped_ranges(), st.integers(0, 6))
def test_float_steps_are_the_decimals_a_reader_would_write(
    bounds: tuple[int, int, int], n_decimals: int
) -> None:
    """An integer over a power of ten is rounded once; adding floats up would round every time."""
    (low, step, n_steps), scale = bounds, 10**n_decimals
    high = (low + n_steps * step) / scale
    parameter = FloatParameter(type="float", low=low / scale, high=high, step=step / scale)
    assert values(parameter) == [(low + index * step) / scale for index in range(n_steps + 1)]


def test_a_tenth_three_times_is_three_tenths() -> None:
    assert values(FloatParameter(type="float", low=0, high=0.3, step=0.1)) == [0, 0.1, 0.2, 0.3]


@given(categoricals)
def test_choices_stand_in_the_order_they_were_written(parameter: CategoricalParameter) -> None:
    assert values(parameter) == parameter.choices


def test_a_continuous_range_has_no_list_of_values() -> None:
    assert values(X) is None
    assert n_distinct_configs({"x": X}) is None


def test_a_range_of_one_point_is_not_continuous() -> None:
    point = FloatParameter(type="float", low=0.5, high=0.5)
    assert values(point) == [0.5]
    assert n_distinct_configs({"x": point, "y": point}) == 1


@settings(deadline=None, max_examples=50)
@given(finite_spaces)
def test_a_grid_holds_every_combination_once(space: dict[str, Parameter]) -> None:
    cells = grid(space)
    axes = [values(parameter) or [] for parameter in space.values()]
    assert len(cells) == n_distinct_configs(space) == math.prod(len(axis) for axis in axes)
    assert len({tuple(cell.values()) for cell in cells}) == len(cells)
    assert all(list(cell) == list(space) for cell in cells)
    for name, axis in zip(space, axes, strict=True):
        assert {cell[name] for cell in cells} == set(axis)


@settings(deadline=None, max_examples=60)
@given(conditional_spaces(small))
def test_a_grid_with_conditions_holds_each_distinct_config_once(
    space: dict[str, Parameter],
) -> None:
    """No phantom: two cells never differ only in what is not drawn."""
    cells, expected = grid(space), every_config(space)
    assert len(cells) == len(expected) == n_grid_cells(space)
    assert all(cell in expected for cell in cells)
    assert not any(check_params(space, cell) for cell in cells)


@settings(deadline=None)
@given(conditional_spaces(small.filter(lambda parameter: parameter.type != "float")))
def test_distinct_configs_are_counted_as_the_grid_lists_them(space: dict[str, Parameter]) -> None:
    assert n_distinct_configs(space) == len(grid(space))


@settings(deadline=None, max_examples=60)
@given(conditional_spaces(st.one_of(finite_parameters, continuous)), st.integers(0, 99))
def test_what_is_drawn_is_a_config_of_the_space(space: dict[str, Parameter], seed: int) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(5):
        assert check_params(space, ask(study, space).params) == []


def test_what_the_condition_of_a_parameter_excludes_is_not_drawn() -> None:
    choice = CategoricalParameter(type="categorical", choices=["sgd", "adam"])
    space: Space = {
        "optimizer": choice,
        "momentum": FloatParameter(type="float", low=0, high=1, when={"optimizer": "sgd"}),
        "nesterov": CategoricalParameter(
            type="categorical", choices=[True, False], when={"optimizer": ["sgd", "adam"]}
        ),
    }
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    names = {trial.params["optimizer"]: list(trial.params) for trial in
             (ask(study, space) for _ in range(20))}  # fmt: skip
    assert names == {
        "sgd": ["optimizer", "momentum", "nesterov"],
        "adam": ["optimizer", "nesterov"],
    }


def test_a_parameter_goes_with_the_one_it_hangs_on() -> None:
    a, b, c = (IntParameter(type="int", low=0, high=1, when=when)
               for when in ({}, {"a": 1}, {"b": [0, 1]}))  # fmt: skip
    assert grid({"a": a, "b": b, "c": c}) == [
        {"a": 0},
        {"a": 1, "b": 0, "c": 0},
        {"a": 1, "b": 0, "c": 1},
        {"a": 1, "b": 1, "c": 0},
        {"a": 1, "b": 1, "c": 1},
    ]


@pytest.mark.parametrize(
    ("parameter", "points"),
    [
        (FloatParameter(type="float", low=0, high=0.3, grid=4), [0, 0.1, 0.2, 0.3]),
        (FloatParameter(type="float", low=1e-5, high=0.1, log=True, grid=5),
         [1e-5, 1e-4, 1e-3, 1e-2, 0.1]),
        (FloatParameter(type="float", low=0, high=1, step=0.25, grid=3), [0, 0.5, 1]),
        (FloatParameter(type="float", low=0, high=1, step=0.5, grid=9), [0, 0.5, 1]),
        (FloatParameter(type="float", low=2, high=2, grid=3), [2]),
        (IntParameter(type="int", low=1, high=10, grid=4), [1, 4, 7, 10]),
        (IntParameter(type="int", low=1, high=2, grid=5), [1, 2]),
        (IntParameter(type="int", low=0, high=100, step=10, grid=3), [0, 50, 100]),
        (IntParameter(type="int", low=1, high=256, log=True, grid=5), [1, 4, 16, 64, 256]),
        (IntParameter(type="int", low=1, high=4, log=True, grid=9), [1, 2, 3, 4]),
    ],
)  # fmt: skip
def test_points_of_a_grid_lie_evenly_on_the_scale_of_the_parameter(
    parameter: Parameter, points: list[float]
) -> None:
    assert grid_points(parameter) == points
    assert n_grid_cells({"x": parameter}) == len(points)


@settings(deadline=None)
@given(st.one_of(stepped_ints(), log_ints(), stepped_floats(), continuous), st.integers(2, 40))
def test_grid_points_lie_in_the_range_and_reach_both_ends(
    parameter: IntParameter | FloatParameter, n_points: int
) -> None:
    points = grid_points(parameter.model_copy(update={"grid": n_points})) or []
    assert (points[0], points[-1]) == (parameter.low, parameter.high)
    assert points == sorted(set(points))
    assert len(points) <= n_points
    assert all(parameter.accepts(point) for point in points)


def test_a_grid_names_the_parameters_that_have_none() -> None:
    with pytest.raises(ValueError, match="no grid: lr, momentum"):
        grid({"lr": X, "momentum": X, "depth": IntParameter(type="int", low=1, high=2)})


@settings(deadline=None)
@given(finite_parameters)
def test_optuna_accepts_every_value_of_a_parameter(parameter: Parameter) -> None:
    assert all(accepts({"x": parameter}, {"x": value}) for value in values(parameter) or [])


@pytest.mark.parametrize(
    ("parameter", "outside"),
    [
        (IntParameter(type="int", low=1, high=9, step=2), [-1, 2, 10, 11]),
        (IntParameter(type="int", low=1, high=9, log=True), [0, 10]),
        (FloatParameter(type="float", low=0, high=1, step=0.5), [-0.5, 0.25, 1.5]),
        (FloatParameter(type="float", low=1e-3, high=1, log=True), [0.0, 1.01]),
        (CategoricalParameter(type="categorical", choices=["a", None]), ["b", 1]),
    ],
)
def test_optuna_refuses_what_is_not_in_the_space(parameter: Parameter, outside: list[Any]) -> None:
    assert not any(accepts({"x": parameter}, {"x": value}) for value in outside)


def test_optuna_draws_evenly_on_the_scale_of_the_spec() -> None:
    """With `log`, half of the draws from 1e-4 to 1 fall below 1e-2; without, one in a hundred."""
    space = {
        "linear": FloatParameter(type="float", low=1e-4, high=1),
        "log": FloatParameter(type="float", low=1e-4, high=1, log=True),
    }
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [study.ask(distributions(space)).params for _ in range(200)]
    below = {name: sum(params[name] < 1e-2 for params in drawn) for name in space}
    assert below["linear"] < 10
    assert 70 < below["log"] < 130


def test_the_size_of_a_space_too_large_to_list_is_counted() -> None:
    """`hpo validate` says how many configs there are; the values need not fit into memory."""
    space = {"x": IntParameter(type="int", low=0, high=10**15)}
    assert n_distinct_configs(space) == 10**15 + 1


def test_a_conditional_space_of_billions_of_configs_is_counted_at_once() -> None:
    """Nine chains of three, all children at the end of the file: (9 + 1 + 2)^9 configs."""
    ten = IntParameter(type="int", low=0, high=9)
    two = CategoricalParameter(type="categorical", choices=["a", "b"])
    space: dict[str, Parameter] = {f"parent {n}": ten for n in range(9)}
    for n in range(9):
        space[f"child {n}"] = two.model_copy(update={"when": {f"parent {n}": 3}})
    for n in range(9):
        space[f"grandchild {n}"] = two.model_copy(update={"when": {f"child {n}": ["b"]}})
    assert n_distinct_configs(space) == 12**9


@pytest.mark.parametrize(
    ("params", "problems"),
    [
        ({"kind": "a", "n": 1}, []),
        ({"kind": "b", "x": 0.5}, []),
        ({"kind": "a"}, [("n", "is missing")]),
        ({"kind": "b", "x": 0.5, "n": 1},
         [("n", "is drawn only when kind is a; say so, or leave it out")]),
        ({"kind": "c"}, [("kind", "must be one of 'a', 'b', got 'c'")]),
        ({"kind": "b", "x": 2}, [("x", "must be a number from 0.0 to 1.0, got 2")]),
        ({"kind": "a", "n": True}, [("n", "must be a whole number from 1 to 3, got True")]),
        ({"kind": "a", "n": 1, "m": 1}, [("m", "unknown parameter: 'm'. Known: kind, n, x")]),
    ],
)  # fmt: skip
def test_params_that_are_no_trial_of_the_space_are_told_why(
    params: dict[str, Any], problems: list[tuple[str, str]]
) -> None:
    space: Space = {
        "kind": CategoricalParameter(type="categorical", choices=["a", "b"]),
        "n": IntParameter(type="int", low=1, high=3, when={"kind": "a"}),
        "x": X.model_copy(update={"when": {"kind": ["b"]}}),
    }
    assert check_params(space, params) == problems
