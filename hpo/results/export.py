"""Export the retrained winner as TorchScript, and keep what the other formats are made of."""

from __future__ import annotations

import datetime as dt
import io
import re
from dataclasses import replace
from pathlib import Path

from hpo.exported import FORMATS
from hpo.results.comparison import Comparison, compare_reloaded, refuse_mismatch
from hpo.results.evidence import EVIDENCE_FILE, evidence_of
from hpo.results.manifest import (
    MODEL_FILE,
    WEIGHTS_FILE,
    ManifestEntry,
    replace_file,
    sha256_of,
    unfinished,
    write_file,
    write_manifest,
)
from storage import ExportRecord
from trainables import PackedModel

N_EXAMPLES = 10
MAX_NAME = 100
"""Characters of an example's file name; file systems take 255 bytes."""


def export_model(
    model: PackedModel, trial_number: int, folder: Path, schedule: str = ""
) -> ExportRecord:
    """Write ``standalone_model.pt`` and prove that a new process computes the same with it.

    Beside it lie the plain weights and the evidence of the test set, of which `hpo export` makes
    other formats, and the manifest of all of them. What an earlier winner left is removed.

    Raises:
        ExportMismatchError: if an output differs by more than the tolerance, or the file cannot
            be loaded.
        StorageError: if there is no room, or the folder cannot be written.
    """
    path, evidence = folder / MODEL_FILE, evidence_of(model)
    beside = unfinished(path)
    write_file(beside, model.torchscript)
    comparison = compare_reloaded(beside, evidence.inputs())
    refuse_mismatch(beside, comparison)
    for known in FORMATS.values():
        (folder / known.file).unlink(missing_ok=True)
    beside.replace(path)
    entries = [entry_of(path, "torchscript", trial_number, comparison)]
    replace_file(folder / EVIDENCE_FILE, evidence.as_bytes())
    entries.append(entry_of(folder / EVIDENCE_FILE, "evidence", trial_number))
    if model.weights is not None:
        replace_file(folder / WEIGHTS_FILE, model.weights)
        entries.append(entry_of(folder / WEIGHTS_FILE, "safetensors", trial_number))
    write_manifest(folder, [replace(entry, schedule=schedule) for entry in entries])
    return record_of(path, entries[0])


def entry_of(
    path: Path,
    format_name: str,
    trial_number: int,
    comparison: Comparison | None = None,
    seconds: float | None = None,
) -> ManifestEntry:
    """What the manifest says of a file that lies in its place."""
    entry = ManifestEntry(
        file=path.name,
        format=format_name,
        trial_number=trial_number,
        sha256=sha256_of(path),
        n_bytes=path.stat().st_size,
        seconds=seconds,
    )
    if comparison is None:
        return entry
    return replace(
        entry,
        n_compared=comparison.n_compared,
        max_difference=comparison.max_difference,
        max_difference_resized=comparison.max_difference_resized,
        argmax_agreement=comparison.argmax_agreement,
        argmax_agreement_resized=comparison.argmax_agreement_resized,
        libraries=comparison.libraries,
    )


def record_of(path: Path, entry: ManifestEntry) -> ExportRecord:
    """What the ledger keeps of a file that was compared."""
    assert entry.max_difference is not None
    return ExportRecord(
        path=str(path),
        trial_number=entry.trial_number,
        sha256=entry.sha256,
        max_difference=entry.max_difference,
        n_compared=entry.n_compared,
        exported_at=dt.datetime.now(dt.UTC).replace(tzinfo=None),
    )


def save_examples(model: PackedModel, folder: Path) -> list[Path]:
    """Test images to try `hpo predict` with: one of each class with its name, or the first ones.

    None where images are neither grey nor RGB, of which no file of a picture could be made.

    Raises:
        StorageError: if there is no room, or the folder cannot be written.
    """
    from PIL import Image

    folder.mkdir(exist_ok=True)
    paths: dict[str, Path] = {}
    for name, index in _examples(model):
        stem = re.sub(r"[^\w.-]", "_", name)[:MAX_NAME].lstrip(".") or "_"
        while stem.casefold() in paths:  # "a b" and "a_b"; or "A" and "a", on some disks one file
            stem += "_"
        pixels, buffer = model.images[index].transpose(1, 2, 0), io.BytesIO()
        Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
        paths[stem.casefold()] = folder / f"{stem}.png"
        write_file(paths[stem.casefold()], buffer.getvalue())
    return list(paths.values())


def _examples(model: PackedModel) -> list[tuple[str, int]]:
    """Names of example images and their places; the first images are of the test set."""
    if model.images.shape[1] not in (1, 3):
        return []
    if model.labels is None:
        return [(str(index), index) for index in range(min(N_EXAMPLES, len(model.images)))]
    labels = model.labels.tolist()
    return [
        (name, labels.index(label))
        for label, name in enumerate(model.class_names)
        if label in labels
    ]
