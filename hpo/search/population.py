"""Population-based training as arithmetic: who ends, who goes on from whom, with what params.

Jaderberg et al. 2017, arXiv:1711.09846: truncation selection, perturbation by a fifth. Everything
that is drawn depends on (study seed, number of the new trial), so on no timing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from hpo.lineage import PARENT, REPLACES, n_replaced_of
from hpo.search.space import Space
from hpo.seeds import derive_seed
from hpo.spec import (
    CategoricalParameter,
    FloatParameter,
    FoundParameter,
    IntParameter,
    Parameter,
    PbtSpec,
)
from storage import was_refused

FACTORS = (0.8, 1.25)
"""A number becomes a fifth less, or a quarter more: back and forth it is what it was."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What follows from one generation: recorded before it is done, so that it is done whole.

    Attributes:
        epoch: at which the population was judged.
        first_child: number of the first new trial; the others follow.
        replaced: of each new trial, whom it replaces and whose checkpoint it goes on from.
    """

    epoch: int
    first_child: int
    replaced: tuple[tuple[int, int], ...]


def judged(
    values: Mapping[int, float],
    failed: Sequence[int],
    *,
    epoch: int,
    first_child: int,
    sign: int,
    quantile: float,
    seed: int,
) -> Generation:
    """The generation that ends at ``epoch``.

    Args:
        values: of the trials that have come so far, by their numbers; at least one.
        failed: numbers of the trials that have failed on the way, each to be replaced.
        epoch: at which they are judged.
        first_child: number of the next trial of the study.
        sign: what a value is multiplied by to become a cost.
        quantile: share of the trials that is replaced, 0 to 0.5.
        seed: of the study.
    """
    ranked = sorted(values, key=lambda number: (sign * values[number], number))
    n = n_replaced_of(len(ranked), quantile)
    best, worst = ranked[: max(1, n)], ranked[len(ranked) - n :]
    replaced = []
    for child, loser in enumerate([*worst, *sorted(failed)], start=first_child):
        parent = best[int(_rng(seed, child, "parent").integers(len(best)))]
        replaced.append((loser, parent))
    return Generation(epoch=epoch, first_child=first_child, replaced=tuple(replaced))


def is_founder(trial: FrozenTrial) -> bool:
    """Whether a trial began a lineage; a config that was refused before any training has not."""
    return PARENT not in trial.user_attrs and not was_refused(trial)


def failed_members(trials: Sequence[FrozenTrial]) -> list[int]:
    """Numbers of the trials that failed and were not replaced yet."""
    replaced = {trial.user_attrs.get(REPLACES) for trial in trials}
    return [
        trial.number
        for trial in trials
        if trial.state == TrialState.FAIL
        and trial.number not in replaced
        and (PARENT in trial.user_attrs or is_founder(trial))
    ]


def perturbed(
    params: Mapping[str, Any], space: Space, spec: PbtSpec, seed: int, child: int
) -> dict[str, Any]:
    """The params of trial ``child``, which goes on from a trial that has ``params``."""
    changed = dict(params)
    for name in spec.perturb:
        rng = _rng(seed, child, f"perturbation of {name}")
        change = _drawn if rng.random() < spec.resample else _moved
        changed[name] = change(space[name], params[name], rng)
    return changed


def _rng(seed: int, child: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, child, purpose))


def _drawn(parameter: Parameter, _value: Any, rng: np.random.Generator) -> Any:
    """Anew, uniformly on the parameter's own scale."""
    assert not isinstance(parameter, FoundParameter), "its range is found before the search"
    if isinstance(parameter, CategoricalParameter):
        return parameter.choices[int(rng.integers(len(parameter.choices)))]
    if parameter.log:
        point = math.exp(rng.uniform(math.log(parameter.low), math.log(parameter.high)))
        return _fitted(parameter, point)
    if isinstance(parameter, IntParameter) or parameter.step is not None:
        n_steps = round((parameter.high - parameter.low) / (parameter.step or 1))
        return _at_step(parameter, int(rng.integers(n_steps + 1)))
    return float(rng.uniform(parameter.low, parameter.high))


def _moved(parameter: Parameter, value: Any, rng: np.random.Generator) -> Any:
    """A step down or up: by a factor, to the choice beside it, one step of the space at least.

    At an end of the range, where one of the two leads nowhere, it is the other one. A 0 stays.
    """
    assert not isinstance(parameter, FoundParameter), "its range is found before the search"
    ways = [_one_step(parameter, value, direction) for direction in (0, 1)]
    leading = [way for way in ways if way != value] or ways
    return leading[int(rng.integers(len(leading)))]


def _one_step(
    parameter: IntParameter | FloatParameter | CategoricalParameter, value: Any, direction: int
) -> Any:
    """Down (0) or up (1), or the same value where there is no further one."""
    sign = 2 * direction - 1
    if isinstance(parameter, CategoricalParameter):
        index = parameter.choices.index(value) + sign
        return parameter.choices[min(max(index, 0), len(parameter.choices) - 1)]
    moved = _fitted(parameter, value * FACTORS[direction])
    if moved == value and _has_steps(parameter):
        return _fitted(parameter, value + sign * (parameter.step or 1))
    return moved


def _has_steps(parameter: IntParameter | FloatParameter) -> bool:
    return isinstance(parameter, IntParameter) or parameter.step is not None


def _fitted(parameter: IntParameter | FloatParameter, value: float) -> int | float:
    """The nearest value that the parameter accepts."""
    value = min(max(value, parameter.low), parameter.high)
    if not _has_steps(parameter):
        return float(value)
    return _at_step(parameter, round((value - parameter.low) / (parameter.step or 1)))


def _at_step(parameter: IntParameter | FloatParameter, index: int) -> int | float:
    if isinstance(parameter, IntParameter):
        return parameter.low + index * parameter.step
    # Twelve digits: 3 * 0.1 is 0.30000000000000004 to a computer.
    return float(f"{parameter.low + index * (parameter.step or 0):.12g}")
