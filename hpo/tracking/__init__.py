"""Tracking: MLflow as a projection of the ledger, and its registry of models."""

from hpo.tracking.projection import Projection
from hpo.tracking.registry import (
    RegisteredVersion,
    model_name_problem,
    register_model,
    tracking_errors,
)
from hpo.tracking.tracker import Tracker, short_reason

__all__ = [
    "Projection",
    "RegisteredVersion",
    "Tracker",
    "model_name_problem",
    "register_model",
    "short_reason",
    "tracking_errors",
]
