"""Open the ledger's database: SQLite made safe and fast on one machine, or a server by URL.

What is opened here waits for a database that is away for a while, and writes nothing for a process
that has lost its lease.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa

from storage.errors import DatabaseError
from storage.fencing import put_behind_fence
from storage.secrets import parse_url, shown_url, without_passwords
from storage.study_storage import PatientStorage
from storage.tables import with_tables

UNUSABLE = (sa.exc.SQLAlchemyError, optuna.exceptions.OptunaError, ImportError, OSError, ValueError)
"""What SQLAlchemy, Optuna and the drivers raise for a URL or a database that cannot be used."""

BUSY_TIMEOUT_S = 5
"""Of SQLite itself, for a file that another process is writing to; then it is an outage."""

SERVER_OPTIONS = {
    "connect_timeout": 10,
    "tcp_user_timeout": 30_000,
    "keepalives_idle": 30,
    "client_encoding": "utf8",
}
"""Of PostgreSQL's driver: what a network swallows is noticed within seconds, not hours; the second
time is in ms, the others are in s. Databases of any encoding are read as text."""
IDLE_TRANSACTION_S = 60
"""After so long PostgreSQL ends a transaction of a process that has stopped in the midst of it:
nobody could take over what it drives."""


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
        _prepare(engine)
        with engine.connect():
            pass
    except UNUSABLE as error:
        raise DatabaseError(f"cannot open database {shown_url(url)}: {_reason(error)}") from None
    return engine


def open_optuna_storage(url: str) -> PatientStorage:
    """Optuna's storage in the same database; creates its tables if they are missing.

    Raises:
        DatabaseError: if the database cannot be used by this version of Optuna.
    """
    try:
        options, shown = _options(parse_url(url)), shown_url(url)
        storage = with_tables(lambda: PatientStorage(url, options, shown))
        _prepare(storage.engine)
        storage.engine.dispose()  # connections from before the settings
    except UNUSABLE as error:
        raise DatabaseError(f"cannot open database {shown_url(url)}: {_reason(error)}") from None
    return storage


def _options(url: sa.URL) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": BUSY_TIMEOUT_S}}
    if url.get_backend_name() != "postgresql":
        return {"pool_pre_ping": True}
    options = {key: value for key, value in SERVER_OPTIONS.items() if key not in url.query}
    return {"pool_pre_ping": True, "connect_args": options}


def _prepare(engine: sa.Engine) -> None:
    settings = _settings(engine.dialect.name)

    def on_connect(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for setting in settings:
            cursor.execute(setting)
        cursor.close()
        connection.commit()

    sa.event.listen(engine, "connect", on_connect)
    put_behind_fence(engine)


def _settings(dialect: str) -> tuple[str, ...]:
    """Of each connection; SQLite's readers never block its writer (WAL), and what is committed
    survives a loss of power.
    """
    if dialect == "sqlite":
        return (
            "PRAGMA journal_mode=WAL",
            "PRAGMA synchronous=FULL",
            "PRAGMA foreign_keys=ON",
        )
    if dialect == "postgresql":
        return (f"SET idle_in_transaction_session_timeout = '{IDLE_TRANSACTION_S}s'",)
    return ()


def _reason(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error.__cause__ or error
    reason = f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else ''}"
    if isinstance(error, sa.exc.ArgumentError):  # also of an unknown kind of database
        reason += "; a URL is such as sqlite:////folder/hpo.db or postgresql://user@host/name"
    elif isinstance(error, ModuleNotFoundError):
        reason += f"; install its driver: pip install {error.name}"
    return without_passwords(reason)
