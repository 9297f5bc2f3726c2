"""The samplers: what a spec's ``sampler`` builds, seeded so that timing changes nothing."""

from __future__ import annotations

import logging
import random
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
from hpo.search.shown import with_failures
from hpo.search.sobol import SobolSampler
from hpo.search.space import Space, distributions, grid, is_conditional
from hpo.seeds import derive_seed
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
from storage import enqueued_params


class GridSampler(BaseSampler):
    """Trial ``n`` is cell ``n`` of the grid, in an order shuffled by the study's seed.

    Trials that were enqueued come on top, and a cell that was enqueued is not tried again. Optuna's
    own raises on the last `tell` under ask-and-tell, and draws cells at random, so two workers may
    get one cell.
    """

    def __init__(self, cells: list[dict[str, Any]], study_seed: int) -> None:
        self._cells = list(cells)
        random.Random(derive_seed(study_seed, 0, "grid")).shuffle(self._cells)  # noqa: S311
        self._n_enqueued, self._left = 0, self._cells

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Leave out the cells that were enqueued before the trial."""
        before = study.get_trials(deepcopy=False)[: trial.number]
        enqueued = [params for one in before if (params := enqueued_params(one)) is not None]
        if len(enqueued) != self._n_enqueued:
            self._n_enqueued = len(enqueued)
            self._left = [cell for cell in self._cells if cell not in enqueued] or self._cells

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Nothing: every parameter is looked up on its own."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing: every parameter is looked up on its own."""
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The value of ``param_name`` in the trial's cell."""
        return self._left[(trial.number - self._n_enqueued) % len(self._left)][param_name]


class SeededByTrial(BaseSampler):
    """Another sampler, made anew for each trial with a seed from (study seed, trial number).

    A study that was killed and resumed then asks for what it would have asked for anyway: nothing
    is left of the random numbers that were drawn before.
    """

    def __init__(
        self,
        make: Callable[[int], BaseSampler],
        study_seed: int,
        *,
        shown: Callable[[Study], Study] = lambda study: study,
    ) -> None:
        """``make`` builds the sampler for a seed; it sees ``shown(study)``."""
        self._make, self._study_seed, self._shown = make, study_seed, shown
        self._sampler = make(0)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Make the trial's own sampler."""
        self._sampler = self._make(derive_seed(self._study_seed, trial.number, "proposal"))
        self._sampler.before_trial(self._shown(study), trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """As the sampler says."""
        return self._sampler.infer_relative_search_space(self._shown(study), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the sampler says."""
        return self._sampler.sample_relative(self._shown(study), trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """As a sampler says that was made for this parameter of this trial alone.

        Optuna stores parameters one by one: a trial that was cut off between two of them draws
        the second as if nothing had happened.
        """
        purpose = f"proposal of {param_name}"
        sampler = self._make(derive_seed(self._study_seed, trial.number, purpose))
        return sampler.sample_independent(self._shown(study), trial, param_name, param_distribution)


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


def _gp(spec: GpSpec, space: Space, study_seed: int) -> BaseSampler:
    always = {name: one for name, one in space.items() if not conditions(one)}
    return SeededByTrial(
        lambda seed: GaussianProcessSampler(
            seed=seed,
            space=distributions(always),
            startup=SobolSampler(distributions(space), study_seed),
            n_startup_trials=spec.n_startup_trials,
        ),
        study_seed,
    )


def _gp_of_several(spec: GpSpec, space: Space, study_seed: int) -> BaseSampler:
    """Optuna's own, which models each objective and improves on the front.

    By the logarithm of the expected hypervolume improvement: Ament et al. 2023, arXiv:2310.20708.
    """
    return SeededByTrial(
        lambda seed: GPSampler(
            seed=seed,
            independent_sampler=SobolSampler(distributions(space), study_seed),
            n_startup_trials=spec.n_startup_trials,
        ),
        study_seed,
    )


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
    spec: SamplerSpec, space: Space, study_seed: int, n_trials: int, n_objectives: int = 1
) -> BaseSampler:
    """The sampler that ``spec`` names, or that ``auto`` chooses for ``n_trials``."""
    # They would say at each trial how they draw a conditional parameter, and why; we say it once.
    logging.getLogger("optuna.samplers").setLevel(logging.ERROR)
    if isinstance(spec, AutoSpec):
        spec, _ = choose_sampler(space, n_trials, n_objectives)
    if isinstance(spec, GpSpec) and n_objectives > 1:
        return _gp_of_several(spec, space, study_seed)
    return SAMPLERS[type(spec)](spec, space, study_seed)


def named_sampler(
    spec: SamplerSpec, space: Space, n_trials: int, n_objectives: int = 1
) -> tuple[str, str]:
    """``("auto (gp)", "60 trials over 2 ...")``: what proposes, and why if that was chosen."""
    if not isinstance(spec, AutoSpec):
        return spec.name, ""
    chosen, reason = choose_sampler(space, n_trials, n_objectives)
    return f"auto ({chosen.name})", reason
