"""``manifest.json``: each file of an exported model with its SHA-256 and how it was compared."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hpo.errors import StorageError
from hpo.exported import FORMATS

MANIFEST_FILE = "manifest.json"
MODEL_FILE = FORMATS["torchscript"].file
WEIGHTS_FILE = FORMATS["safetensors"].file


@dataclass(frozen=True, kw_only=True)
class ManifestEntry:
    """One file in the folder of the manifest.

    Attributes:
        file: its name.
        format: a key of ``FORMATS``; "evidence" of what the exports are compared with.
        trial_number: of the winner it was made of.
        sha256: of its bytes.
        n_bytes: its size.
        n_compared: real images on which a new process compared it; 0 if none did yet.
        max_difference: largest difference of an output from the trained model's.
        max_difference_resized: the same on the images in another size; None if not compared.
        argmax_agreement: share of equal largest outputs; None of a regression.
        argmax_agreement_resized: the same on the images in another size.
        seconds: to write, reload and compare it.
        libraries: the large ones that the process which compared it had to import.
        schedule: how the winner's params changed while it trained; empty if they did not.
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
    argmax_agreement_resized: float | None = None
    seconds: float | None = None
    libraries: list[str] = field(default_factory=list)
    schedule: str = ""

    def as_text(self) -> str:
        """Of a file that was compared, for a reader."""
        parts = [
            f"largest difference {self.max_difference:.1e}{_argmax(self.argmax_agreement)}",
            f"{self.n_compared} images",
        ]
        if self.max_difference_resized is not None:
            argmax = _argmax(self.argmax_agreement_resized)
            parts.append(f"resized ones {self.max_difference_resized:.1e}{argmax}")
        return ", ".join([*parts, f"{self.n_bytes / 1e3:,.0f} kB", f"{self.seconds:.1f} s"])


def _argmax(share: float | None) -> str:
    return "" if share is None else f" (same argmax {share:.2%})"


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
        raise StorageError(
            f"{path} is damaged: {error}; restore it, or run the experiment again under another "
            "name: -o name=..."
        ) from None
    return {entry.file: entry for entry in entries}


def write_manifest(folder: Path, entries: Iterable[ManifestEntry]) -> None:
    """Replace the manifest as a whole.

    Raises:
        StorageError: if there is no room, or the folder cannot be written.
    """
    listed = [asdict(entry) for entry in sorted(entries, key=lambda entry: entry.file)]
    replace_file(folder / MANIFEST_FILE, (json.dumps({"files": listed}, indent=2) + "\n").encode())


def replace_file(path: Path, content: bytes) -> None:
    """Write a file that is there as a whole or as it was before.

    Raises:
        StorageError: as `write_file`.
    """
    beside = unfinished(path)
    write_file(beside, content)
    beside.replace(path)


def write_file(path: Path, content: bytes) -> None:
    """Write a file, or leave none.

    Raises:
        StorageError: if there is no room, or the folder cannot be written.
    """
    try:
        path.write_bytes(content)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise StorageError(
            f"{path} cannot be written: {error.strerror}; it needs {len(content) / 1e3:,.0f} kB of "
            "room in a folder that may be written. Then try again"
        ) from error


def unfinished(path: Path) -> Path:
    """Where a file lies until it is whole, a model until it is compared; its suffix stays."""
    return path.with_name(f"part-{path.name}")


def verified(folder: Path, file: str, manifest: Mapping[str, ManifestEntry]) -> Path:
    """The path of ``file``, whose bytes are what the manifest says.

    Raises:
        StorageError: if it is missing or was changed.
    """
    path = folder / file
    way_out = "restore it, or run the experiment again under another name: -o name=..."
    if file == MODEL_FILE and WEIGHTS_FILE in manifest:
        way_out = f"to write it anew: hpo export {folder.name} --format torchscript"
    if file not in manifest:
        raise StorageError(f"{folder / MANIFEST_FILE} knows no {file}; {way_out}")
    if not path.is_file():
        raise StorageError(f"{path} is missing; {way_out}")
    if (found := sha256_of(path)) != manifest[file].sha256:
        raise StorageError(
            f"{path} is damaged: its SHA-256 is {found[:12]}..., the manifest says "
            f"{manifest[file].sha256[:12]}...; {way_out}"
        )
    return path


def sha256_of(path: Path) -> str:
    """Of the bytes of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
