"""What the ledgers of experiments and of comparisons share: records with names, and their rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

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
    """Reads and writes records that have a name; one commit per call, so what it wrote is kept."""

    def __init__(self, engine: sa.Engine, table: sa.Table, record: Callable[..., Record]) -> None:
        """``table`` has the columns of ``record``, among them id, name and created_at."""
        self._engine, self._table, self._record = engine, table, record
        metadata.create_all(engine)

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
        with self._engine.begin() as connection:
            changed = connection.execute(table.update().where(table.c.id == row["id"]).values(row))
            if changed.rowcount == 0:
                connection.execute(table.insert().values(row))

    def _select(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        with self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def _write(self, *statements: sa.Executable) -> None:
        with self._engine.begin() as connection:
            for statement in statements:
                connection.execute(statement)
