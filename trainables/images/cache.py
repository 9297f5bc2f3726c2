"""Decoded images on disk: built once per machine, memory-mapped by every process that needs them.

An entry is a folder that is named after its content. It is written beside and renamed, so that it
is there as a whole or not at all, and any entry may be deleted at any time.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainables.images.arrays import ImageArrays, digest_of
from trainables.images.errors import DataError

ARRAYS = ("pixels", "targets", "parts")
ENTRY = "entry.json"

Build = Callable[[Path], Mapping[str, Any]]
"""Writes `ARRAYS` into a folder with `save` or `create`; returns notes, ready for JSON."""


def stored(key: str, build: Build, data_dir: Path) -> ImageArrays:
    """The entry ``key``, memory-mapped for reading; built first if it is not there or damaged.

    Of several processes that ask at once, one builds and the others wait. The entry lies in
    ``data_dir / "cache"``, or in the user's temporary folder if that cannot be written.

    Raises:
        DataError: if there is no room; and whatever ``build`` raises, which leaves no entry.
    """
    shared = data_dir.resolve() / "cache" / key
    if _is_whole(shared):  # it may be there and not writable
        return _opened(shared)
    folder = writable_folder(data_dir)
    entry = folder / key
    if not _is_whole(entry):
        with locked(folder, key):
            if not _is_whole(entry):  # another process may have built it meanwhile
                _build(entry, build)
    return _opened(entry)


def create(folder: Path, name: str, shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
    """A writable array of zeros in ``folder``, memory-mapped."""
    array = np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
    # Without room on the disk a write into a hole of the map kills the process; this raises.
    with (folder / f"{name}.npy").open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    return array


def save(folder: Path, arrays: ImageArrays) -> Mapping[str, Any]:
    """Write arrays that stand in memory; returns their notes."""
    for name in ARRAYS:
        np.save(folder / f"{name}.npy", getattr(arrays, name))
    return arrays.notes


def writable_folder(data_dir: Path) -> Path:
    """``data_dir / "cache"``, or a folder of the user's own among the temporary ones.

    Raises:
        DataError: if neither can be written.
    """
    private = Path(tempfile.gettempdir()) / f"hpo-cache-{os.getuid()}"
    for folder in (data_dir / "cache", private):
        try:
            folder.mkdir(parents=folder is not private, exist_ok=True, mode=0o700)
        except OSError:
            continue
        # Whoever else owns a folder of that name could put his pictures in place of ours.
        is_ours = folder is not private or private.stat().st_uid == os.getuid()
        if is_ours and os.access(folder, os.W_OK | os.X_OK):
            return folder.resolve()
    raise DataError(f"neither {(data_dir / 'cache').resolve()} nor {private} can be written")


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Wait until no other process of this machine is in here; the lock goes with the process."""
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def stamp(path: Path) -> list[int]:
    """Size and times of change, which tell a changed file without reading it."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _build(entry: Path, build: Build) -> None:
    part = entry.with_name(f"{entry.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed while it held the lock
    try:
        part.mkdir()
        notes = build(part)
        arrays = {name: part / f"{name}.npy" for name in ARRAYS}
        for path in arrays.values():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        digest = digest_of(*(np.load(path, mmap_mode="r") for path in arrays.values()))
        stamps = {name: stamp(path)[:2] for name, path in arrays.items()}
        found = {"digest": digest, "stamps": stamps, "notes": notes}
        (part / ENTRY).write_text(json.dumps(found))
        if entry.exists():  # damaged; processes that have it mapped keep what they see
            shutil.rmtree(entry)
        part.rename(entry)
    except OSError as error:
        raise DataError(f"cannot keep decoded images in {entry}: {error.strerror}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _is_whole(entry: Path) -> bool:
    """Whether the files are those that were written, by their size and time of change."""
    try:
        stamps = json.loads((entry / ENTRY).read_text())["stamps"]
        return all(stamps[name] == stamp(entry / f"{name}.npy")[:2] for name in ARRAYS)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _opened(entry: Path) -> ImageArrays:
    return _mapped(entry, tuple(stamp(entry / ENTRY)))


@lru_cache(maxsize=4)
def _mapped(entry: Path, _stamp: tuple[int, ...]) -> ImageArrays:
    """One object per entry and process; ``_stamp`` tells an entry that was built again."""
    found = json.loads((entry / ENTRY).read_text())
    # As plain arrays: each indexing of an np.memmap makes a new Python object of its own.
    arrays = {name: np.asarray(np.load(entry / f"{name}.npy", mmap_mode="r")) for name in ARRAYS}
    return ImageArrays(**arrays, digest=found["digest"], notes=found["notes"])
