"""The samplers: what a spec's ``sampler`` builds, seeded so that timing changes nothing."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.study import Study
from optuna.trial import FrozenTrial

from hpo.search.auto import choose_sampler
from hpo.search.gaussian_process import GaussianProcessSampler
from hpo.search.grid_sampler import GridSampler
from hpo.search.seeded import SeededByTrial
from hpo.search.shown import with_failures, with_failures_as_worst
from hpo.search.sobol import SobolSampler
from hpo.search.space import Space, distributions, grid, is_conditional
from hpo.spec import (
    AutoSpec,
    CmaesSpec,
    GpSpec,
    GridSpec,
    Nsga2Spec,
    RandomSpec,
    SamplerSpec,
    SobolSpec,
    TpeSpec,
    conditions,
)
from hpo.surrogate import one_thread


def _grid(_: GridSpec, space: Space, study_seed: int) -> BaseSampler:
    return GridSampler(grid(space), study_seed)


def _random(_: RandomSpec, _space: Space, study_seed: int) -> BaseSampler:
    return SeededByTrial(lambda seed: RandomSampler(seed=seed), study_seed)


def _sobol(_: SobolSpec, space: Space, study_seed: int) -> BaseSampler:
    return SobolSampler(distributions(space), study_seed)


def _tpe(spec: TpeSpec, space: Space, study_seed: int) -> BaseSampler:
    def make(seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # of `group`
            return TPESampler(
                seed=seed,
                n_startup_trials=spec.n_startup_trials,
                group=is_conditional(space),
                # Of several objectives Optuna would say at each trial that this is so.
                multivariate=is_conditional(space) or None,
            )

    return SeededByTrial(make, study_seed, shown=with_failures)


def _gp(spec: GpSpec, space: Space, study_seed: int, n_seeds: int | None = None) -> BaseSampler:
    always = {name: one for name, one in space.items() if not conditions(one)}
    return SeededByTrial(
        lambda seed: GaussianProcessSampler(
            seed=seed,
            space=distributions(always),
            startup=SobolSampler(distributions(space), study_seed),
            n_startup_trials=spec.n_startup_trials,
            n_seeds=n_seeds,
        ),
        study_seed,
    )


def _gp_of_several(spec: GpSpec, space: Space, study_seed: int) -> BaseSampler:
    """Optuna's own, which models each objective and improves on the front.

    By the logarithm of the expected hypervolume improvement: Ament et al. 2023, arXiv:2310.20708.
    """
    return SeededByTrial(
        lambda seed: _ParetoGpSampler(
            seed=seed,
            independent_sampler=SobolSampler(distributions(space), study_seed),
            n_startup_trials=spec.n_startup_trials,
        ),
        study_seed,
        shown=with_failures_as_worst,
    )


class _ParetoGpSampler(GPSampler):
    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        with one_thread():
            return super().sample_relative(study, trial, search_space)


def _cmaes(_: CmaesSpec, _space: Space, study_seed: int) -> BaseSampler:
    return SeededByTrial(lambda seed: CmaEsSampler(seed=seed), study_seed)


def _nsga2(spec: Nsga2Spec, _: Space, study_seed: int) -> BaseSampler:
    return SeededByTrial(
        lambda seed: NSGAIISampler(seed=seed, population_size=spec.population_size), study_seed
    )


SAMPLERS: dict[type[SamplerSpec], Callable[[Any, Space, int], BaseSampler]] = {
    GridSpec: _grid,
    RandomSpec: _random,
    SobolSpec: _sobol,
    TpeSpec: _tpe,
    GpSpec: _gp,
    CmaesSpec: _cmaes,
    Nsga2Spec: _nsga2,
}


def build_sampler(
    spec: SamplerSpec,
    space: Space,
    study_seed: int,
    n_trials: int,
    n_objectives: int = 1,
    n_seeds: int | None = None,
) -> BaseSampler:
    """The sampler that ``spec`` names, or that ``auto`` chooses for ``n_trials``.

    With ``n_seeds`` so many seeds of training are used in turn; else each trial has its own.
    """
    # They would say at each trial how they draw a conditional parameter, and why; we say it once.
    logging.getLogger("optuna.samplers").setLevel(logging.ERROR)
    if isinstance(spec, AutoSpec):
        spec, _ = choose_sampler(space, n_trials, n_objectives)
    if isinstance(spec, GpSpec) and n_objectives > 1:
        return _gp_of_several(spec, space, study_seed)
    if isinstance(spec, GpSpec):
        return _gp(spec, space, study_seed, n_seeds)
    return SAMPLERS[type(spec)](spec, space, study_seed)


def named_sampler(
    spec: SamplerSpec, space: Space, n_trials: int, n_objectives: int = 1
) -> tuple[str, str]:
    """``("auto (gp)", "60 trials over 2 ...")``: what proposes, and why if that was chosen."""
    if not isinstance(spec, AutoSpec):
        return spec.name, ""
    chosen, reason = choose_sampler(space, n_trials, n_objectives)
    return f"auto ({chosen.name})", reason
