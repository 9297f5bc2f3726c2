"""Who drives what: one process at a time, and a way to take over from one that is no more.

A lease stands in the database, so it holds wherever that is reached from. Its owner renews it.
What the owner of a lost lease would still write is refused within the transaction that writes it.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from storage.database import open_engine
from storage.errors import DatabaseError, LeaseHeldError, LostLeaseError
from storage.fencing import fenced
from storage.patience import patience_with
from storage.records import metadata
from storage.secrets import shown_url
from storage.tables import with_tables

LEASE_S = 60.0
"""Not renewed for so long, a lease of another machine may be taken over."""
RENEW_S = 15.0

leases = sa.Table(
    "hpo_leases",
    metadata,
    sa.Column("name", sa.String(96), primary_key=True),
    sa.Column("token", sa.String(32), nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("process", sa.String(128), nullable=False),
    sa.Column("acquired_at", sa.DateTime, nullable=False),
    sa.Column("renewed_at", sa.DateTime, nullable=False),
)


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right of this process to drive something.

    Attributes:
        name: what it drives, in words.
        token: of this lease alone.
        engine: of its database.
        lost: set as soon as it is known that another process has taken over.
    """

    name: str
    token: str
    engine: sa.Engine
    lost: threading.Event = field(default_factory=threading.Event, compare=False)

    @property
    def is_lost(self) -> bool:
        """Whether another process is known to have taken over."""
        return self.lost.is_set()

    def check(self, connection: sa.Connection) -> None:
        """Hold the lease until the transaction of ``connection`` is over.

        SQLite has one writer at a time as it is; elsewhere the row is locked against a takeover.

        Raises:
            LostLeaseError: if another process has taken over.
        """
        query = sa.select(leases.c.token, leases.c.host, leases.c.pid)
        query = query.where(leases.c.name == self.name).with_for_update(read=True)
        row = connection.execute(query).one_or_none()
        if row is None or row.token != self.token:
            self.lost.set()
            by = "another process" if row is None else f"process {row.pid} on {row.host}"
            raise LostLeaseError(
                f"{by} has taken over {self.name}, because this one had not been heard of for a "
                "while. It ends here, and has written nothing since"
            )

    def confirm(self) -> None:
        """Ask the database.

        Raises:
            LostLeaseError: if another process has taken over.
            DatabaseError: if the database does not answer.
        """

        def attempt(_is_repeated: bool) -> None:
            with self.engine.begin() as connection:
                self.check(connection)

        patience_with(shown_url(self.engine.url))(attempt)

    def renew(self) -> None:
        """Say that its owner lives.

        Raises:
            LostLeaseError: if another process has taken over.
        """
        with self.engine.begin() as connection:
            self.check(connection)
            renewed = leases.update().where(leases.c.token == self.token)
            connection.execute(renewed.values(renewed_at=_now(self.engine)))

    def release(self) -> None:
        """Leave nothing behind; one that is lost is not ours to remove."""
        with self.engine.begin() as connection:
            connection.execute(leases.delete().where(leases.c.token == self.token))


@contextmanager
def hold_lease(url: str, name: str, lease_s: float = LEASE_S) -> Iterator[Lease]:
    """Be the only process that drives ``name``; inside, what it writes to ``url`` is fenced.

    Args:
        url: of the database.
        name: what is driven, in words.
        lease_s: after how long without a renewal to take over from a process on another machine.

    Raises:
        LeaseHeldError: if another process drives it.
        LostLeaseError: inside, at a commit, if another process has taken over.
        DatabaseError: if the database cannot be opened.
    """
    engine = open_engine(url)
    try:
        with_tables(lambda: metadata.create_all(engine, tables=[leases]))
        lease = take_lease(engine, name, lease_s)
        try:
            with _renewed(lease), fenced(engine.url, lease.check):
                yield lease
        finally:
            # Where the database is gone it stays; this process, too, soon is.
            with suppress(sa.exc.SQLAlchemyError):
                lease.release()
    finally:
        engine.dispose()


def refuse_if_held(url: str, name: str, lease_s: float = LEASE_S) -> None:
    """Look whether another process drives ``name``, and change nothing.

    Raises:
        LeaseHeldError: if one does.
        DatabaseError: if the database cannot be opened.
    """
    engine = open_engine(url)
    try:
        if sa.inspect(engine).has_table(leases.name):
            with engine.begin() as connection:
                _held_by_the_dead(connection, engine, name, lease_s)
    finally:
        engine.dispose()


def take_lease(engine: sa.Engine, name: str, lease_s: float = LEASE_S) -> Lease:
    """The lease of ``name``, new or taken over; for those who renew and release it themselves.

    Raises:
        LeaseHeldError: if another process drives it.
    """
    try:
        return _take(engine, name, lease_s)
    except sa.exc.IntegrityError:  # somebody else was the first to write it, in this very moment
        return _take(engine, name, lease_s)


def _take(engine: sa.Engine, name: str, lease_s: float) -> Lease:
    lease = Lease(name=name, token=uuid.uuid4().hex, engine=engine)
    is_named = leases.c.name == name
    with engine.begin() as connection:
        # A write that changes nothing: from here on nobody else looks at the lease.
        connection.execute(leases.update().where(is_named).values(name=name))
        is_there = _held_by_the_dead(connection, engine, name, lease_s)
        owner = _this_process()
        times = {"acquired_at": _now(engine), "renewed_at": _now(engine)}
        row = {"name": name, "token": lease.token, **owner, **times}
        write = leases.update().where(is_named) if is_there else leases.insert()
        connection.execute(write.values(row))
    return lease


def _held_by_the_dead(
    connection: sa.Connection, engine: sa.Engine, name: str, lease_s: float
) -> bool:
    """Whether there is a lease, whose owner is no more; False if there is none.

    Raises:
        LeaseHeldError: if its owner lives.
    """
    query = sa.select(leases, sa.type_coerce(_now(engine), sa.DateTime).label("now"))
    held = connection.execute(query.where(leases.c.name == name)).one_or_none()
    if held is None:
        return False
    unheard_s = (held.now - held.renewed_at).total_seconds()
    if not _is_dead(held.process, held.pid) and unheard_s < lease_s:
        raise LeaseHeldError(
            f"{name} is being run by process {held.pid} on {held.host}, "
            f"heard of {max(0.0, unheard_s):.0f} s ago"
        )
    return True


@contextmanager
def _renewed(lease: Lease) -> Iterator[None]:
    is_over = threading.Event()

    def renew() -> None:
        while not lease.is_lost and not is_over.wait(RENEW_S):
            # Of a database that is away the user hears from whoever needs it.
            with suppress(sa.exc.SQLAlchemyError, DatabaseError):
                lease.renew()

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(RENEW_S)


def _now(engine: sa.Engine) -> sa.ColumnElement[Any]:
    """The present in UTC, by the server's clock: machines need not agree on the time."""
    if engine.dialect.name == "postgresql":
        return sa.func.timezone("utc", sa.func.clock_timestamp())
    return sa.literal(dt.datetime.now(dt.UTC).replace(tzinfo=None))


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname()[:255], "pid": pid, "process": _identity(pid) or ""}


def _is_dead(process: str, pid: int) -> bool:
    """Whether a process of this machine is no more; False where that cannot be told."""
    here, _, _ = (_identity(os.getpid()) or "").rpartition(" ")
    there, _, _ = process.rpartition(" ")
    if not here or here != there:
        return False
    return _identity(pid) != process and not _is_hidden(pid)


def _is_hidden(pid: int) -> bool:
    """Whether it lives and belongs to a user whose processes /proc does not show us (hidepid)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return not Path(f"/proc/{pid}").exists()
    except OSError:
        pass
    return False


def _identity(pid: int) -> str | None:
    """What no other process is called: boot, name space of numbers, and start in clock ticks.

    None if it has ended, or if this is no Linux.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = os.readlink("/proc/self/ns/pid")
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is the program's name in parentheses, which may hold anything.
    state, *fields = re.sub(r"^.*\)", "", stat, flags=re.DOTALL).split()
    has_ended = state in "ZX"  # nobody has asked yet how
    return None if has_ended else f"{boot} {space} {fields[18]}"
