"""A sampler for few, noisy trials: it asks where a Gaussian process promises most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.surrogate import (
    GaussianProcess,
    UnitCube,
    fit_gaussian_process,
    log_expected_improvement,
    one_thread,
    to_normal,
    told_scores,
    training_seeds,
)

Array = npt.NDArray[np.float64]

N_AT_RANDOM = 1000
"""Configs at which the promise is looked up, besides those near the best ones."""
N_ANCHORS, N_STEPS = 5, 60
"""So many of the best configs are looked around, at so many configs each."""
REFINEMENTS = (0.05, 0.02, 0.007)
"""Widths of the steps that lead from the most promising config to one nearby that is more so."""


class GaussianProcessSampler(BaseSampler):
    """Bayesian optimization of a noisy function.

    Optuna's own improves on the highest value seen, which is the luckiest one; this one on what the
    process believes of the configs tried, so a lucky config may be tried again. What trials of one
    seed share is told from what their configs are worth. Values are bent to look normal. It learns
    from trials that were stopped or failed, and believes of running ones what it expects of them
    (Ginsbourger et al. 2010, "Kriging is well-suited to parallelize optimization").
    """

    def __init__(
        self,
        *,
        seed: int,
        space: Mapping[str, BaseDistribution],
        startup: BaseSampler,
        n_startup_trials: int,
        n_seeds: int | None = None,
    ) -> None:
        """``space`` is modelled, which every trial has; other parameters are left to ``startup``.

        So are all those of the first ``n_startup_trials``. With ``n_seeds`` trial n trains with the
        seed of trial ``n % n_seeds``: no config is proposed twice for one seed.
        """
        self._rng = np.random.default_rng(seed)
        self._space, self._startup = space, startup
        self._n_startup_trials, self._n_seeds = n_startup_trials, n_seeds

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All but parameters with a single value."""
        return {name: one for name, one in self._space.items() if not one.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The most promising config."""
        with one_thread():
            return self._most_promising_config(study, trial, search_space)

    def _most_promising_config(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self._raise_error_if_multi_objective(study)
        trials = [
            one
            for one in study._get_trials(deepcopy=False, use_cache=False)
            if search_space.keys() <= one.params.keys()
        ]
        scores = told_scores(trials, is_maximized=study.direction == StudyDirection.MAXIMIZE)
        if not search_space or len(scores) < self._n_startup_trials:
            return {}
        cube = UnitCube(search_space)
        told = [one for one in trials if one.number in scores]
        process = fit_gaussian_process(
            cube.encode([one.params for one in told]),
            to_normal(np.array([scores[one.number] for one in told])),
            cube.is_categorical,
            training_seeds(told),
        )
        running = [one.params for one in trials if one.state == TrialState.RUNNING]
        if running:
            process = process.believing(cube.encode(running))
        taken = cube.encode([one.params for one in trials if self._share_seed(one, trial)])
        return cube.decode(self._most_promising(process, cube, taken))

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """What is not modelled."""
        self._raise_error_if_multi_objective(study)
        return self._startup.sample_independent(study, trial, param_name, param_distribution)

    def _share_seed(self, trial: FrozenTrial, other: FrozenTrial) -> bool:
        return self._n_seeds is not None and (trial.number - other.number) % self._n_seeds == 0

    def _most_promising(self, process: GaussianProcess, cube: UnitCube, taken: Array) -> Array:
        """A config that is not among ``taken``, unless all that were looked at are."""
        known = {point.tobytes() for point in taken}
        beliefs, _ = process.posterior(process.points)
        threshold = float(beliefs.max())

        def promise(points: Array) -> Array:
            promised = log_expected_improvement(*process.posterior(points), threshold)
            promised[[point.tobytes() in known for point in points]] = -np.inf
            return promised

        order = np.argsort(-beliefs, kind="stable")
        anchors = list({point.tobytes(): point for point in process.points[order]}.values())
        near = [cube.neighbours(point, self._rng, N_STEPS) for point in anchors[:N_ANCHORS]]
        points = np.concatenate([cube.at_random(N_AT_RANDOM, self._rng), *near])
        best: Array = points[np.argmax(promise(points))]
        for width in REFINEMENTS:
            points = np.vstack([best, cube.steps_from(best, self._rng, N_STEPS, width)])
            best = points[np.argmax(promise(points))]
        return best
