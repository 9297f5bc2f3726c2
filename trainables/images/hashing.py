"""SHA-256 of many files, remembered by their size and times, so that none is read twice."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from trainables.images.cache import stamp, writable_folder

# A file that is changed twice within a tick of the clock keeps its times; git waits likewise.
SETTLED_NS = 2_000_000_000


def content_hashes(paths: Sequence[Path], data_dir: Path) -> list[str]:
    """SHA-256 of each file's content; of one that cannot be read "unreadable: " and the reason.

    What is known already stands in an index in the cache of ``data_dir``, one for each first
    path's folder; it is a convenience and may be deleted.
    """
    if not paths:
        return []
    place = hashlib.sha256(os.fsencode(paths[0].parent)).hexdigest()[:16]
    index = writable_folder(data_dir) / f"hashes-{place}.json"
    known = _read(index)
    found, hashes = {}, []
    for path in paths:
        digest, times = _hash(path, known.get(str(path), []))
        hashes.append(digest)
        if times and max(times[1:]) < time.time_ns() - SETTLED_NS:
            found[str(path)] = [*times, digest]
    if found != known:
        beside = index.with_name(f"{index.name}.{os.getpid()}")
        with suppress(OSError):  # then the files are read again next time
            beside.write_text(json.dumps(found))
            beside.replace(index)
    return hashes


def _hash(path: Path, known: list[int | str]) -> tuple[str, list[int]]:
    try:
        times = stamp(path)
        if known[:-1] == times:
            return str(known[-1]), times
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), times
    except OSError as error:
        return f"unreadable: {error.strerror}", []


def _read(index: Path) -> dict[str, list[int | str]]:
    try:
        known = json.loads(index.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
