"""A sampler whose proposals come from the trial's number, not from what was drawn before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from hpo.seeds import derive_seed


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
