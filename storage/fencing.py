"""Nothing is committed by a process that has lost the right to write: each commit asks first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

Check = Callable[[sa.Connection], None]
"""Raises, within the transaction that is about to be committed, if it must not be."""

_checks: list[tuple[sa.URL, Check]] = []
"""Of this process. Whatever it opens the database with, before or after, is behind the fence."""

_HAS_WRITTEN = "hpo: has written"


@contextmanager
def fenced(url: sa.URL, check: Check) -> Iterator[None]:
    """Inside, every transaction of this process that writes to ``url`` has to pass ``check``."""
    entry = (url, check)
    _checks.append(entry)
    try:
        yield
    finally:
        _checks[:] = [other for other in _checks if other is not entry]


def put_behind_fence(engine: sa.Engine) -> None:
    """Have the transactions of ``engine`` pass whatever checks there are when they commit.

    A check that raises leaves the transaction to be rolled back by whoever began it.
    """

    def on_statement(connection: sa.Connection, *given: Any) -> None:
        *_, context, _is_many = given
        if context.isinsert or context.isupdate or context.isdelete:
            connection.info[_HAS_WRITTEN] = True

    def on_commit(connection: sa.Connection) -> None:
        if connection.info.pop(_HAS_WRITTEN, False):
            for url, check in tuple(_checks):
                if url == connection.engine.url:
                    check(connection)

    def on_rollback(connection: sa.Connection) -> None:
        if not connection.invalidated:
            connection.info.pop(_HAS_WRITTEN, None)

    sa.event.listen(engine, "after_cursor_execute", on_statement)
    sa.event.listen(engine, "commit", on_commit)
    sa.event.listen(engine, "rollback", on_rollback)
