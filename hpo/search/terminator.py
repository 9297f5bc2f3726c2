"""Whether a model of the objective still expects a gain worth having; Optuna's evaluators."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from optuna.exceptions import ExperimentalWarning
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from hpo.seeds import derive_seed
from hpo.spec import TERMINATOR_MIN_TRIALS
from hpo.surrogate import one_thread

N_WARM_UP = 10
"""Trials left out of the measure of what a gain is worth: the first ones are drawn at random."""


class Terminator:
    """Stops where the expected minimum model regret falls below a hundredth of what it once was.

    Source: Ishibashi et al. 2023, AISTATS, https://proceedings.mlr.press/v206/ishibashi23a.html.
    "Once" is the median over trials 11 to 30, so that it fits any scale. Optuna's default, a bound
    on the regret, is compared with the error of a cross-validation, which our trials do not have.
    """

    def __init__(self, study_seed: int, direction: StudyDirection) -> None:
        self._seed, self._direction = study_seed, direction
        self._threshold: float | None = None
        self._n_judged = 0

    def says_stop(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether ``trials``, all COMPLETE, leave nothing to hope for; takes two fits of a GP."""
        if len(trials) < TERMINATOR_MIN_TRIALS or len(trials) == self._n_judged:
            return False
        self._n_judged = len(trials)
        with one_thread(), warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return self._regret(list(trials)) < self._worth_having(list(trials))

    def _regret(self, trials: list[FrozenTrial]) -> float:
        from optuna.terminator import EMMREvaluator

        evaluator = EMMREvaluator(seed=derive_seed(self._seed, len(trials), "terminator"))
        return evaluator.evaluate(trials, self._direction)

    def _worth_having(self, trials: list[FrozenTrial]) -> float:
        """Computed once: it takes twenty times as long as a judgement."""
        from optuna.terminator import EMMREvaluator, MedianErrorEvaluator

        if self._threshold is None:
            evaluator = EMMREvaluator(seed=derive_seed(self._seed, 0, "terminator"))
            n_initial = TERMINATOR_MIN_TRIALS - N_WARM_UP
            median = MedianErrorEvaluator(evaluator, N_WARM_UP, n_initial)
            self._threshold = median.evaluate(trials, self._direction)
        return self._threshold
