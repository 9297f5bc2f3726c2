"""What several tests of the database write into it: an experiment of nothing in particular."""

from __future__ import annotations

import datetime as dt

from optuna.distributions import FloatDistribution

from storage import ExperimentRecord

NOON = dt.datetime(2026, 1, 31, 12)
SPACE = {"x": FloatDistribution(0, 1)}
EXPERIMENT = ExperimentRecord(
    id="a" * 32,
    name="branin",
    spec="name: branin\n",
    created_at=NOON,
    versions={},
    git_commit=None,
    data_fingerprint=None,
)
