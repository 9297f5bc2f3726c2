"""What a model is told of trials that did not end as one would wish."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial, TrialState

from storage import is_infeasible


def told_scores(trials: Sequence[FrozenTrial], *, is_maximized: bool) -> dict[int, float]:
    """A score for every trial that ended, by its number: the higher, the better.

    A COMPLETE trial has its value. One that was stopped early is told as if it had gained from
    there as much as the complete ones did on average, but never more than the best of these. One
    that failed, or broke a constraint, is told as the worst of all: its like are to be avoided.
    Nothing is told before a trial was worth something.
    """
    sign = 1.0 if is_maximized else -1.0
    complete = [t for t in trials if t.state == TrialState.COMPLETE and not is_infeasible(t)]
    scores = {trial.number: sign * trial.values[0] for trial in complete}
    best = max(scores.values(), default=float("inf"))
    for trial in trials:
        if trial.state == TrialState.PRUNED and trial.intermediate_values:
            epoch = max(trial.intermediate_values)
            reached = sign * trial.intermediate_values[epoch]
            scores[trial.number] = min(best, reached + _mean_gain(complete, epoch, sign))
    worst = min(scores.values(), default=None)
    if worst is not None:
        told = {t.number: worst for t in trials if t.state == TrialState.FAIL or is_infeasible(t)}
        scores.update(told)
    return dict(sorted(scores.items()))


def training_seeds(trials: Sequence[FrozenTrial]) -> npt.NDArray[np.int64]:
    """(n,) equal where trials were trained with the same seed; one without has its own."""
    seeds = [trial.user_attrs.get("seed", f"of {trial.number}") for trial in trials]
    return np.unique(np.array(seeds, dtype=str), return_inverse=True)[1].astype(np.int64)


def _mean_gain(complete: Sequence[FrozenTrial], epoch: int, sign: float) -> float:
    """From ``epoch`` to the end."""
    gains = [
        sign * (trial.values[0] - trial.intermediate_values[epoch])
        for trial in complete
        if epoch in trial.intermediate_values
    ]
    return statistics.fmean(gains) if gains else 0.0
