"""The rule by which ``sampler: auto`` chooses, and the words for it."""

from __future__ import annotations

from hpo.search.space import Space, is_conditional
from hpo.spec import GpSpec, SamplerSpec, TpeSpec

MAX_GP_TRIALS = 200
"""A Gaussian process costs the cube of the trials: a second each from here on."""
MAX_GP_PARAMETERS = 20
"""Beyond these, a few dozen trials say little of any length scale."""


def choose_sampler(space: Space, n_trials: int) -> tuple[SamplerSpec, str]:
    """The sampler for a search of ``n_trials`` over ``space``, and why it is this one."""
    if is_conditional(space):
        return TpeSpec(name="tpe"), "some parameters are conditional"
    if n_trials > MAX_GP_TRIALS:
        return TpeSpec(name="tpe"), f"{n_trials} trials are more than {MAX_GP_TRIALS}"
    if len(space) > MAX_GP_PARAMETERS:
        return TpeSpec(name="tpe"), f"{len(space)} parameters are more than {MAX_GP_PARAMETERS}"
    return GpSpec(name="gp"), f"{n_trials} trials over {len(space)} unconditional parameters"
