"""``manifest.json``: each file of an exported model with its SHA-256 and how it was compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from hpo.errors import StorageError

MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class ManifestEntry:
    """One file in the folder of the manifest.

    Attributes:
        file: its name.
        format: a key of ``FORMATS``; "evidence" of what the exports are compared with.
        trial_number: of the winner it was made of.
        sha256: of its bytes.
        n_bytes: its size.
        n_compared: real test images on which a new process compared it; 0 if none did yet.
        max_difference: largest difference of an output from the trained model's.
        max_difference_resized: the same on the images in another size; None if not compared.
        argmax_agreement: share of equal largest outputs; None of a regression.
        seconds: to write, reload and compare it.
    """

    file: str
    format: str
    trial_number: int
    sha256: str
    n_bytes: int
    n_compared: int = 0
    max_difference: float | None = None
    max_difference_resized: float | None = None
    argmax_agreement: float | None = None
    seconds: float | None = None


def read_manifest(folder: Path) -> dict[str, ManifestEntry]:
    """Entries by file name; none where nothing was exported.

    Raises:
        StorageError: if the file is damaged.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return {}
    try:
        entries = [ManifestEntry(**entry) for entry in json.loads(path.read_text("utf-8"))["files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{path} is damaged: {error}") from None
    return {entry.file: entry for entry in entries}


def write_manifest(folder: Path, entries: Iterable[ManifestEntry]) -> None:
    """Replace the manifest as a whole."""
    listed = [asdict(entry) for entry in sorted(entries, key=lambda entry: entry.file)]
    beside = folder / f"{MANIFEST_FILE}.part"
    beside.write_text(json.dumps({"files": listed}, indent=2) + "\n", encoding="utf-8")
    beside.replace(folder / MANIFEST_FILE)


def verified(folder: Path, file: str, manifest: Mapping[str, ManifestEntry]) -> Path:
    """The path of ``file``, whose bytes are what the manifest says.

    Raises:
        StorageError: if it is missing or was changed.
    """
    path = folder / file
    if not path.is_file() or file not in manifest:
        raise StorageError(
            f"{path if file in manifest else folder / MANIFEST_FILE}: {file} is missing; "
            "the experiment was run by an older version, or the file was removed. "
            "Run it again under another name: -o name=..."
        )
    if (found := sha256_of(path)) != manifest[file].sha256:
        raise StorageError(
            f"{path} is damaged: its SHA-256 is {found[:12]}..., the manifest says "
            f"{manifest[file].sha256[:12]}...; restore the file, or run the experiment again "
            "under another name: -o name=..."
        )
    return path


def sha256_of(path: Path) -> str:
    """Of the bytes of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
