"""The rule by which ``sampler: auto`` chooses, and the words for it."""

from __future__ import annotations

from hpo.search.space import Space, is_conditional
from hpo.spec import GpSpec, Nsga2Spec, SamplerSpec, TpeSpec

MAX_GP_TRIALS = 200
"""A Gaussian process costs the cube of the trials: a second each from here on."""
MAX_GP_PARAMETERS = 20
"""Beyond these, a few dozen trials say little of any length scale."""


def choose_sampler(space: Space, n_trials: int, n_objectives: int = 1) -> tuple[SamplerSpec, str]:
    """The sampler for a search of ``n_trials`` over ``space``, and why it is this one."""
    if is_conditional(space):
        return TpeSpec(name="tpe"), "some parameters are conditional"
    several = f", {n_objectives} objectives" if n_objectives > 1 else ""
    large = Nsga2Spec(name="nsga2") if several else TpeSpec(name="tpe")
    if n_trials > MAX_GP_TRIALS:
        return large, f"{n_trials} trials are more than {MAX_GP_TRIALS}{several}"
    if len(space) > MAX_GP_PARAMETERS:
        return large, f"{len(space)} parameters are more than {MAX_GP_PARAMETERS}{several}"
    reason = (
        f"{n_trials} trials (at most {MAX_GP_TRIALS}) over {len(space)} parameters (at most "
        f"{MAX_GP_PARAMETERS}), none of them conditional{several}"
    )
    return GpSpec(name="gp"), reason
