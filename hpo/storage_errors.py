"""What a database, a disk or another process does to a command, told as a `StorageError`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import optuna
import sqlalchemy as sa

from hpo.errors import StorageError
from hpo.places import Places
from storage import (
    LEASE_S,
    DatabaseError,
    Lease,
    LeaseHeldError,
    database_exists,
    hold_lease,
    refuse_if_held,
)


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn whatever a database or a disk does into one `StorageError`."""
    try:
        yield
    except (DatabaseError, optuna.exceptions.StorageInternalError) as error:
        raise StorageError(str(error)) from error
    except sa.exc.SQLAlchemyError as error:
        raise StorageError(f"the database failed: {str(error).splitlines()[0]}") from error
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        raise StorageError(f"{place}{error.strerror or error}") from error


@contextmanager
def exclusive(places: Places, name: str, kind: str = "experiment") -> Iterator[Lease]:
    """Keep other processes from driving the experiment ``name``, or what else has a name.

    A process that is taken for dead and is not, because it was suspended, say, cannot write any
    more once another one has taken over.

    Raises:
        StorageError: if it is being driven.
        LostLeaseError: inside, at the next write, if another process has taken over.
    """
    with ExitStack() as stack:
        with _told_who_drives():
            lease = stack.enter_context(hold_lease(places.storage_url, f"{kind} {name!r}"))
        yield lease


def refuse_if_driven(places: Places, name: str, kind: str = "experiment") -> None:
    """The same look as that of `exclusive`, before anything else is said of what has that name.

    Raises:
        StorageError: if it is being driven.
    """
    if database_exists(places.storage_url):
        with _told_who_drives():
            refuse_if_held(places.storage_url, f"{kind} {name!r}")


@contextmanager
def _told_who_drives() -> Iterator[None]:
    try:
        yield
    except LeaseHeldError as error:
        raise StorageError(
            f"{error}. Wait for it, end it there, or begin another one under another name. "
            f"One that is dead is taken over: at once on this machine, from another one "
            f"{LEASE_S:.0f} s after it was last heard of"
        ) from None


def make_folder(folder: Path) -> None:
    """A folder for what a command writes, which the user may have named with --out.

    Raises:
        StorageError: if there can be no such folder, or nothing can be written into it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(
            f"cannot write into folder {folder}: {reason}. Name another one: --out DIR"
        ) from None
