"""Open the ledger's database: SQLite made safe and fast on one machine, or a server by URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.storages import RDBStorage

from storage.secrets import parse_url, shown_url, without_passwords

BUSY_TIMEOUT_S = 30

UNUSABLE = (sa.exc.SQLAlchemyError, optuna.exceptions.OptunaError, ImportError, OSError, ValueError)
"""What SQLAlchemy, Optuna and the drivers raise for a URL or a database that cannot be used."""


class DatabaseError(Exception):
    """The database cannot be opened or used; the message says which and why."""


def database_exists(url: str) -> bool:
    """Whether there is something to open; only an SQLite file can be told to be missing."""
    try:
        parsed = sa.make_url(url)
    except UNUSABLE:
        return True  # opening it says what is wrong
    is_file = parsed.get_backend_name() == "sqlite" and bool(parsed.database)
    return not is_file or Path(str(parsed.database)).exists()


def open_engine(url: str) -> sa.Engine:
    """An engine for ``url``; the folder of an SQLite file is made if it is missing.

    Raises:
        DatabaseError: if the URL is malformed or the database cannot be reached.
    """
    try:
        parsed = parse_url(url)
        if parsed.get_backend_name() == "sqlite" and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(parsed, **_options(parsed))
        _set_pragmas(engine)
        with engine.connect():
            pass
    except UNUSABLE as error:
        raise DatabaseError(f"cannot open database {shown_url(url)}: {_reason(error)}") from None
    return engine


def open_optuna_storage(url: str) -> RDBStorage:
    """Optuna's storage in the same database; creates its tables if they are missing.

    Raises:
        DatabaseError: if the database cannot be used by this version of Optuna.
    """
    try:
        storage = RDBStorage(url, engine_kwargs=_options(parse_url(url)))
        _set_pragmas(storage.engine)
        storage.engine.dispose()  # connections from before the pragmas
    except UNUSABLE as error:
        raise DatabaseError(f"cannot open database {shown_url(url)}: {_reason(error)}") from None
    return storage


def _options(url: sa.URL) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": BUSY_TIMEOUT_S}}
    return {"pool_pre_ping": True}


def _set_pragmas(engine: sa.Engine) -> None:
    """Readers never block the writer (WAL), and what is committed survives a loss of power."""
    if engine.dialect.name != "sqlite":
        return

    def on_connect(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    sa.event.listen(engine, "connect", on_connect)


def _reason(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error.__cause__ or error
    reason = f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else ''}"
    if isinstance(error, sa.exc.ArgumentError):  # also of an unknown kind of database
        reason += "; a URL is such as sqlite:////folder/hpo.db or postgresql://user@host/name"
    elif isinstance(error, ModuleNotFoundError):
        reason += f"; install its driver: pip install {error.name}"
    return without_passwords(reason)
