"""What the trials so far say of configs: a Gaussian process over the search space."""

from hpo.surrogate.beliefs import believed_scores
from hpo.surrogate.gaussian_process import (
    GaussianProcess,
    fit_gaussian_process,
    log_expected_improvement,
    to_normal,
)
from hpo.surrogate.one_thread import one_thread
from hpo.surrogate.told import told_scores, training_seeds
from hpo.surrogate.unit_cube import UnitCube

__all__ = [
    "GaussianProcess",
    "UnitCube",
    "believed_scores",
    "fit_gaussian_process",
    "log_expected_improvement",
    "one_thread",
    "to_normal",
    "told_scores",
    "training_seeds",
]
