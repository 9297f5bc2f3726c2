"""Make MLflow's database of a file whole or not at all.

MLflow makes it in a hundred steps that take seconds. Killed in their midst, or met by another
process, it would leave a file that no MLflow opens any more.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from storage import database_exists


def make_store(tracking_uri: str) -> None:
    """Make the SQLite file of ``tracking_uri`` if that is one, and is missing.

    Raises:
        Exception: whatever MLflow raises if it cannot.
    """
    if database_exists(tracking_uri):
        return
    path = Path(str(sa.make_url(tracking_uri).database))
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone_in(path.parent):
        if not path.exists():
            (part := path.with_name(f"{path.name}.part")).unlink(missing_ok=True)
            _fill(part)
            os.replace(part, path)


def _fill(path: Path) -> None:
    from mlflow import MlflowClient
    from mlflow.tracking._tracking_service.utils import _get_store

    uri = f"sqlite:///{path}"
    MlflowClient(tracking_uri=uri).search_experiments()
    # Nobody shall hold the file by its first name.
    _get_store(uri).engine.dispose()  # type: ignore[no-untyped-call]


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait for others that make a store in ``folder``."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
