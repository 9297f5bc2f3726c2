"""Wait for a database that is locked, full or gone, as long as somebody may be mending it."""

from __future__ import annotations

import functools
import logging
import sqlite3
import time
from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa

from storage.errors import DatabaseError

PATIENCE_S = 90.0
"""For one outage: a server is restarted within it, and a disk is tidied up."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 2.0
QUIET_S = 1.0
"""What passes by itself within it is not worth a word."""

SQLITE_OUTAGES = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,  # a file system that has failed is mounted again for reading alone
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,  # a race for the log, which SQLite has tried to win for ten seconds
}
"""Its primary codes; all else, such as a table that is not there, is for ever."""

Answer = TypeVar("Answer")

_logger = logging.getLogger("hpo.storage")


class Patience:
    """With one database; call it with an operation that is one transaction.

    ``database`` is its URL as it may be shown. Once the patience is spent nothing waits any more:
    what a process still tries on its way out fails at once, unless the database has come back.
    """

    def __init__(self, database: str) -> None:
        self._database = database
        self._is_spent = False

    def __call__(self, operation: Callable[[bool], Answer]) -> Answer:
        """The answer of ``operation``, which is told whether it is repeated.

        One that is repeated may have been committed before: the connection can be lost between a
        commit and the word that it has happened. It may even be in the midst of it: then the
        database first refuses what is there twice, and another attempt finds it.

        Raises:
            DatabaseError: if the database has not answered for ``PATIENCE_S``.
            Exception: whatever else ``operation`` raises.
        """
        began, wait_s, is_repeated, is_told = time.monotonic(), FIRST_WAIT_S, False, False
        has_been_refused = False
        while True:
            try:
                answer = operation(is_repeated)
            except sa.exc.IntegrityError:
                if not is_repeated or has_been_refused:
                    raise
                has_been_refused = True
                continue
            except Exception as error:
                if (reason := outage(error)) is None:
                    raise
                lasted_s = time.monotonic() - began
                if self._is_spent or lasted_s >= PATIENCE_S:
                    self._is_spent = True
                    raise DatabaseError(self._given_up(reason)) from error
            else:
                if is_told:
                    _logger.warning("the database answers again")
                return answer
            if lasted_s >= QUIET_S and not is_told:
                is_told = True
                _logger.warning(
                    "the database %s does not answer (%s): waiting up to %.0f s",
                    *(self._database, reason, PATIENCE_S),
                )
            time.sleep(wait_s)
            wait_s, is_repeated = min(2 * wait_s, LONGEST_WAIT_S), True

    def _given_up(self, reason: str) -> str:
        return (
            f"the database {self._database} does not answer ({reason}) and was waited for in vain. "
            "What was acknowledged is in it: go on with --resume when it is back"
        )


@functools.cache
def patience_with(database: str) -> Patience:
    """The one that this process has with a database."""
    return Patience(database)


def outage(error: BaseException) -> str | None:
    """Why a database could not be used just now; None if trying again would not help."""
    failure = error if isinstance(error, sa.exc.DBAPIError) else error.__cause__
    if not isinstance(failure, sa.exc.DBAPIError) or failure.orig is None:
        return None
    if isinstance(failure.orig, sqlite3.Error):
        code = getattr(failure.orig, "sqlite_errorcode", sqlite3.SQLITE_OK)
        is_passing = code & 0xFF in SQLITE_OUTAGES  # the rest says more precisely which
    else:
        is_passing = failure.connection_invalidated or isinstance(failure, sa.exc.OperationalError)
    lines = str(failure.orig).strip().splitlines() or [type(failure.orig).__name__]
    return lines[0] if is_passing else None
