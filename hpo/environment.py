"""What hpo takes from the environment for itself alone, and what it says there for all others."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

STORAGE_URL = "HPO_STORAGE_URL"
TRACKING_URI = "MLFLOW_TRACKING_URI"
DASHBOARD_TOKEN = "HPO_DASHBOARD_TOKEN"  # noqa: S105  a name

SECRETS = (
    STORAGE_URL,
    TRACKING_URI,
    DASHBOARD_TOKEN,
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "PGPASSWORD",
)
"""Keys to databases and servers. The driver alone writes to them, so it alone has these."""


PRIVATE = 0o077
"""The umask of all our processes: what they write is its user's alone, who may `chmod` it."""

NO_TELEMETRY = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Ray and MLflow would tell their makers how they are used. Whoever wants that sets it himself."""


@contextmanager
def without_secrets() -> Iterator[None]:
    """Processes that are started in a ``with`` block do not inherit what is in `SECRETS`."""
    kept = {name: os.environ.pop(name) for name in SECRETS if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def environment_of_children(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The same for one process: its whole environment."""
    return {name: value for name, value in environment.items() if name not in SECRETS}
