"""Unpack an archive from the network: files and folders into one place, and nothing else."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path

from trainables.images.errors import DataError

MAX_BYTES, MAX_FILES = 4_000_000_000, 1_000_000
"""CIFAR-100 has 2 * 10^8 bytes in 4 files; a bomb of some kilobytes would fill any disk."""


def unpack(archive: Path, folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
    """Unpack a tar file, compressed or not, into ``folder``; what lies there is replaced.

    All of it arrives, or nothing does.

    Raises:
        DataError: if it holds anything but plain files and folders with names below ``folder``, or
            more than ``max_bytes``, or is damaged.
    """
    with tempfile.TemporaryDirectory(prefix="unpacked-", dir=folder) as beside:
        try:
            with tarfile.open(archive) as tar:
                _extract(tar, Path(beside), max_bytes)
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            raise DataError(f"{archive} cannot be unpacked: {error}") from None
        for path in sorted(Path(beside).iterdir()):
            _put(path, folder / path.name)


def _extract(tar: tarfile.TarFile, folder: Path, max_bytes: int) -> None:
    """Member by member, so that the first that is not allowed ends it."""
    n_bytes = n_files = 0
    for member in tar:
        n_bytes, n_files = n_bytes + member.size, n_files + 1
        if n_bytes > max_bytes or n_files > MAX_FILES:
            raise ValueError(f"it holds more than {max_bytes:,} bytes or {MAX_FILES:,} files")
        # Links are harmless on their own. What follows one, `filter` has been wrong about before.
        if not (member.isreg() or member.isdir()):
            raise ValueError(f"{member.name!r} is neither a file nor a folder")
        if member.name.startswith("/"):
            raise ValueError(f"{member.name!r} is an absolute path")
        tar.extract(member, folder, filter="data")


def _put(path: Path, place: Path) -> None:
    """Move a file, or what is in a folder, to where it belongs."""
    if path.is_dir():
        place.mkdir(exist_ok=True)
        for inner in sorted(path.iterdir()):
            _put(inner, place / inner.name)
    else:
        path.replace(place)
