"""What the ledgers of experiments and of comparisons share: records with names, and their rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from storage.patience import patience_with
from storage.secrets import shown_url
from storage.tables import with_tables

metadata = sa.MetaData()

Record = TypeVar("Record")


def rerun_columns() -> list[sa.Column[Any]]:
    """Of a table of re-runs, after those that say of which trial; made anew for each table."""
    return [
        sa.Column("seed_index", sa.Integer, primary_key=True),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("value", sa.Float),
        sa.Column("fail_reason", sa.Text),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("finished_at", sa.DateTime, nullable=False),
    ]


class NamedRecords(Generic[Record]):
    """Reads and writes records that have a name; one commit per call, so what it wrote is kept.

    A database that does not answer is waited for, see `Patience`.
    """

    def __init__(self, engine: sa.Engine, table: sa.Table, record: Callable[..., Record]) -> None:
        """``table`` has the columns of ``record``, among them id, name and created_at."""
        self._engine, self._table, self._record = engine, table, record
        self._patience = patience_with(shown_url(engine.url))
        with_tables(lambda: metadata.create_all(engine))

    def find(self, name: str) -> Record | None:
        """The record called ``name``, if there is one."""
        rows = self._select(sa.select(self._table).where(self._table.c.name == name))
        return self._record(**rows[0]) if rows else None

    def names(self) -> list[str]:
        """Names of all records, the newest first."""
        rows = self._select(sa.select(self._table).order_by(self._table.c.created_at.desc()))
        return [row["name"] for row in rows]

    def put(self, record: Record) -> None:
        """Write a record, or replace the one of the same id."""
        table, row = self._table, vars(record)

        def attempt(_is_repeated: bool) -> None:
            with self._engine.begin() as connection:
                change = table.update().where(table.c.id == row["id"]).values(row)
                if connection.execute(change).rowcount == 0:
                    connection.execute(table.insert().values(row))

        self._patience(attempt)

    def _select(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        def attempt(_is_repeated: bool) -> list[dict[str, Any]]:
            with self._engine.connect() as connection:
                return [dict(row) for row in connection.execute(query).mappings()]

        return self._patience(attempt)

    def _write(self, *statements: sa.Executable) -> None:
        """One transaction that does the same when it is done twice."""

        def attempt(_is_repeated: bool) -> None:
            with self._engine.begin() as connection:
                for statement in statements:
                    connection.execute(statement)

        self._patience(attempt)

    def _add(self, *rows: tuple[sa.Table, Mapping[str, Any]]) -> None:
        """Insert rows that are new, in one transaction.

        Raises:
            sqlalchemy.exc.IntegrityError: if one of that key is there, or what it refers to is not.
        """

        def attempt(is_repeated: bool) -> None:
            with self._engine.begin() as connection:
                # A commit of which nothing was heard may have happened all the same.
                if is_repeated and all(_has(connection, table, row) for table, row in rows):
                    return
                for table, row in rows:
                    connection.execute(table.insert().values(row))

        self._patience(attempt)


def _has(connection: sa.Connection, table: sa.Table, row: Mapping[str, Any]) -> bool:
    is_equal = (table.c[name] == value for name, value in row.items())
    return connection.execute(sa.select(table).where(*is_equal)).first() is not None
