"""Start a Ray on this machine that nobody but us can reach.

Whoever can talk to Ray can run code as its user. The one started here listens on loopback alone,
asks for a token that only its own processes have, keeps its files where only its user may enter,
and hands its workers no key to a database.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from hpo.environment import without_secrets

AUTH_MODE, TOKEN, TOKEN_FILE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
MAX_PLACE = 20
"""Characters: 87 more make the path of a socket, which may have 107."""

PREFIX, LOCK_FILE = "hpo-", "driver.lock"
DYING_S = 600
"""What is left of a driver that was killed may write for a minute or two; then nobody does."""


@contextmanager
def private_folder() -> Iterator[str]:
    """A place for Ray's folder, as long as the block lasts; what the killed have left is removed.

    Ray opens its folder to all users, whichever it is; here it lies in one that is not.
    """
    place = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(place) > MAX_PLACE:
        place = "/tmp"  # noqa: S108
    _remove_abandoned(Path(place))
    with (
        tempfile.TemporaryDirectory("", PREFIX, place, ignore_cleanup_errors=True) as folder,
        Path(folder, LOCK_FILE).open("x") as lock,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield f"{folder}/ray"


def _remove_abandoned(place: Path) -> None:
    """Remove folders of Ray whose driver did not live to do it."""
    for file in place.glob(f"{PREFIX}*/{LOCK_FILE}"):
        with suppress(OSError), file.open() as lock:  # of another user, or gone in this moment
            if time.time() - file.stat().st_mtime > DYING_S:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(file.parent, ignore_errors=True)


def start_private_ray(folder: str, **options: Any) -> None:
    """`ray.init` of a Ray that keeps to itself and has its files in ``folder``.

    Raises:
        Exception: what Ray raises if it does not start.
    """
    # Ray would take the token of a cluster that is set here, which a whole team has, or the one in
    # ~/.ray, which any other Ray of this user has, too, and which it has made for all to read.
    os.environ.update({AUTH_MODE: "token", TOKEN: secrets.token_hex(32)})
    os.environ.pop(TOKEN_FILE, None)
    Config.initialize("")  # both were read when Ray was imported
    AuthenticationTokenLoader.instance().reset_cache()
    with without_secrets(), _on_loopback():
        ray.init(address="local", _temp_dir=folder, **options)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """A Ray that starts in the block is for one machine, as it is on macOS and Windows.

    There is no other way to say so: a node's address is never taken to be loopback, and the
    variable RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER is read when Ray is imported.
    """
    was_enabled = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = was_enabled
