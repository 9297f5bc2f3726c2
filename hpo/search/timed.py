"""What a sampler costs, apart from what its trials do."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState


class TimedSampler(BaseSampler):
    """Another sampler, with the seconds that it has taken for the last trial.

    They include its reading of the study, not the writing of what it drew.
    """

    def __init__(self, sampler: BaseSampler) -> None:
        self._sampler = sampler
        self.seconds = 0.0

    @contextmanager
    def _counting(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """A new trial: count from zero."""
        self.seconds = 0.0
        with self._counting():
            self._sampler.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """As the sampler says."""
        with self._counting():
            return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the sampler says."""
        with self._counting():
            return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """As the sampler says."""
        with self._counting():
            return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """As the sampler says."""
        self._sampler.after_trial(study, trial, state, values)
