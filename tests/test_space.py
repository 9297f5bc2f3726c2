"""The search space: its values, its grid, its size, and the same space in Optuna's words."""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.search import Space, distributions, grid, n_distinct_configs, values
from hpo.spec import CategoricalParameter, FloatParameter, IntParameter, Parameter

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
