"""Make tables where they are missing, also while other processes make the same ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa
from optuna.exceptions import StorageInternalError

MAX_ATTEMPTS = 20
"""As each finds what others have made by then, a few are enough."""

Made = TypeVar("Made")


def with_tables(make: Callable[[], Made]) -> Made:
    """What ``make`` returns, which first makes the tables that are missing.

    Of two processes that begin on an empty database one would fail, because the other one makes a
    table between its look and its own making: it looks again.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: or what else ``make`` raises that is no such meeting.
    """
    for _ in range(MAX_ATTEMPTS - 1):
        try:
            return make()
        except (sa.exc.DBAPIError, StorageInternalError) as error:
            if not _has_met_another(error):
                raise
    return make()


def _has_met_another(error: Exception) -> bool:
    """Optuna wraps what SQLAlchemy raises; PostgreSQL finds a table twice in its own catalogue."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return isinstance(cause, sa.exc.IntegrityError) or "already exists" in str(cause)
