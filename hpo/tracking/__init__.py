"""Tracking: MLflow as a projection of the ledger, and its registry of models."""

from hpo.tracking.picture import (
    NOTHING,
    PARENT_RUN,
    RunPicture,
    nested,
    parent_picture,
    trial_picture,
    unlike,
    without_results,
)
from hpo.tracking.projection import Projection, shown_runs
from hpo.tracking.registry import (
    RegisteredVersion,
    model_name_problem,
    register_model,
    tracking_errors,
)
from hpo.tracking.tracker import Tracker, short_reason

__all__ = [
    "NOTHING",
    "PARENT_RUN",
    "Projection",
    "RegisteredVersion",
    "RunPicture",
    "Tracker",
    "model_name_problem",
    "nested",
    "parent_picture",
    "register_model",
    "short_reason",
    "shown_runs",
    "tracking_errors",
    "trial_picture",
    "unlike",
    "without_results",
]
