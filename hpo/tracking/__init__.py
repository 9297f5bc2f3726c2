"""Tracking: MLflow as a projection of the ledger."""

from hpo.tracking.projection import Projection
from hpo.tracking.tracker import Tracker, short_reason

__all__ = ["Projection", "Tracker", "short_reason"]
