"""`lr: {from: lr_finder}`: what the search space becomes once the range is found."""

from __future__ import annotations

from hpo.errors import NoLrRangeError
from hpo.spec import ExperimentSpec, FloatParameter, FoundParameter
from trainables import LR

WRITE_IT_YOURSELF = f"`{LR}: {{type: float, low: 1e-4, high: 1e-1, log: true}}`"
"""The way out wherever nothing is found; its numbers are an example."""


def awaits_lr_range(spec: ExperimentSpec) -> bool:
    """Whether a range has to be found before the search."""
    return isinstance(spec.search_space.get(LR), FoundParameter)


def narrowed(spec: ExperimentSpec, low: float, high: float) -> ExperimentSpec:
    """The spec that searches from ``low`` to ``high`` within its own limits; as it is without any.

    Raises:
        NoLrRangeError: if the limits leave nothing of it.
    """
    parameter = spec.search_space.get(LR)
    if not isinstance(parameter, FoundParameter):
        return spec
    cut_low = low if parameter.low is None else max(low, parameter.low)
    cut_high = high if parameter.high is None else min(high, parameter.high)
    if cut_low >= cut_high:
        limits = [
            f"{key}={getattr(parameter, key):g}"
            for key in ("low", "high")
            if getattr(parameter, key) is not None
        ]
        raise NoLrRangeError(
            f"search_space.{LR}: the range found, {low:g} to {high:g}, lies outside of "
            f"{', '.join(limits)}; widen them, or write a range yourself, e.g. {WRITE_IT_YOURSELF}"
        )
    found = FloatParameter(type="float", low=cut_low, high=cut_high, log=True)
    return spec.model_copy(update={"search_space": {**spec.search_space, LR: found}})
