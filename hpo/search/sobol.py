"""Quasi-random search: trial numbers are points of a scrambled Sobol sequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from hpo.search.looked_up import LookedUpSampler
from hpo.seeds import derive_seed
from hpo.surrogate import UnitCube


class SobolSampler(LookedUpSampler):
    """Trial ``n`` is point ``n`` of the sequence, which fills a space more evenly than chance.

    Optuna's own draws its first trial at random, and counts points in the study's attributes: one
    that is killed and resumed leaves points out. Source: Owen 1998, "Scrambling Sobol' and
    Niederreiter-Xing points".
    """

    def __init__(self, space: Mapping[str, BaseDistribution], study_seed: int) -> None:
        self._space, self._study_seed = dict(space), study_seed

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The coordinate of ``param_name``; at random if the space does not have it."""
        if self._space.get(param_name) != param_distribution:
            seed = derive_seed(self._study_seed, trial.number, f"proposal of {param_name}")
            sampler = RandomSampler(seed=seed)
            return sampler.sample_independent(study, trial, param_name, param_distribution)
        from scipy.stats import qmc  # here: most searches do without, and it takes long to load

        sequence = qmc.Sobol(
            len(self._space), rng=derive_seed(self._study_seed, 0, "sobol"), scramble=True
        )
        if trial.number:  # scipy cannot go forward by nothing
            sequence.fast_forward(trial.number)
        cube = UnitCube(self._space)
        return cube.decode(cube.from_uniform(sequence.random(1))[0])[param_name]
