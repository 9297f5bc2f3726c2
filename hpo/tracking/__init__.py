"""Tracking: MLflow as a projection of the ledger, and its registry of models."""

from hpo.tracking.projection import Projection
from hpo.tracking.registry import RegisteredVersion, register_model
from hpo.tracking.tracker import Tracker, short_reason

__all__ = ["Projection", "RegisteredVersion", "Tracker", "register_model", "short_reason"]
