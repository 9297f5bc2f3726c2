"""`lr: {from: lr_finder}`: what the search space becomes once the range is found."""

from __future__ import annotations

from hpo.spec import ExperimentSpec, FloatParameter, FoundParameter
from trainables import LR


def awaits_lr_range(spec: ExperimentSpec) -> bool:
    """Whether a range has to be found before the search."""
    return isinstance(spec.search_space.get(LR), FoundParameter)


def narrowed(spec: ExperimentSpec, low: float, high: float) -> ExperimentSpec:
    """The spec that searches from ``low`` to ``high``, cut to its own limits.

    It stays as it is if it awaits no range, or if its limits leave nothing of this one.
    """
    parameter = spec.search_space.get(LR)
    if not isinstance(parameter, FoundParameter):
        return spec
    low = low if parameter.low is None else max(low, parameter.low)
    high = high if parameter.high is None else min(high, parameter.high)
    if low >= high:
        return spec
    found = FloatParameter(type="float", low=low, high=high, log=True)
    return spec.model_copy(update={"search_space": {**spec.search_space, LR: found}})
