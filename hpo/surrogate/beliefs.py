"""How good each trial is believed to be, once the luck of its seed is taken off."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from hpo.surrogate.gaussian_process import fit_gaussian_process, to_normal
from hpo.surrogate.one_thread import one_thread
from hpo.surrogate.told import told_scores, training_seeds
from hpo.surrogate.unit_cube import UnitCube

MIN_TRIALS = 8
"""Of fewer values a model says less than the values themselves."""
MAX_TRIALS = 300
"""A model of more costs many seconds; the best are in it, and some of all others."""


def believed_scores(trials: Sequence[FrozenTrial], *, is_maximized: bool) -> dict[int, float]:
    """What a Gaussian process over all trials believes of each that is told, by its number.

    The higher, the better; in no unit. A value that stands out from those of similar configs is
    luck, mostly, and is believed only in part.
    """
    scores = told_scores(trials, is_maximized=is_maximized)
    cube = UnitCube(_distributions(trials))
    if len(scores) < MIN_TRIALS or not cube.names:
        return scores
    by_number = {trial.number: trial for trial in trials}
    modelled = _modelled(scores)
    with one_thread():
        process = fit_gaussian_process(
            cube.encode([by_number[number].params for number in modelled]),
            to_normal(np.array([scores[number] for number in modelled])),
            cube.is_categorical,
            training_seeds([by_number[number] for number in modelled]),
        )
        means, _ = process.posterior(cube.encode([by_number[number].params for number in scores]))
    return dict(zip(scores, means.tolist(), strict=True))


def _distributions(trials: Sequence[FrozenTrial]) -> dict[str, BaseDistribution]:
    """Of all parameters that any trial has; what has a single value says nothing."""
    found: dict[str, BaseDistribution] = {}
    for trial in trials:
        found.update(trial.distributions)
    return {name: one for name, one in found.items() if not one.single()}


def _modelled(scores: dict[int, float]) -> list[int]:
    best_first = sorted(scores, key=lambda number: -scores[number])
    n_best = MAX_TRIALS // 2
    others = best_first[n_best:]
    every = max(1, -(-len(others) // n_best))
    return best_first[:n_best] + others[::every]
