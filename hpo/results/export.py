"""Export the retrained winner as TorchScript, and keep what the other formats are made of."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import replace
from pathlib import Path

from hpo.exported import FORMATS
from hpo.results.comparison import Comparison, compare_reloaded, refuse_mismatch
from hpo.results.evidence import EVIDENCE_FILE, keep_evidence
from hpo.results.manifest import ManifestEntry, sha256_of, write_manifest
from storage import ExportRecord
from trainables import PackedModel

MODEL_FILE = FORMATS["torchscript"].file
WEIGHTS_FILE = FORMATS["safetensors"].file
N_EXAMPLES = 10


def export_model(model: PackedModel, trial_number: int, folder: Path) -> ExportRecord:
    """Write ``standalone_model.pt`` and prove that a new process computes the same with it.

    Beside it lie the plain weights and the evidence of the test set, of which `hpo export` makes
    other formats, and the manifest of all of them. What an earlier winner left is removed.

    Raises:
        ExportMismatchError: if an output differs by more than the tolerance, or the file cannot
            be loaded.
    """
    path = folder / MODEL_FILE
    beside = unfinished(path)
    beside.write_bytes(model.torchscript)
    comparison = compare_reloaded(beside, {"images": model.images, "outputs": model.outputs})
    refuse_mismatch(beside, comparison)
    for known in FORMATS.values():
        (folder / known.file).unlink(missing_ok=True)
    beside.replace(path)
    entries = [entry_of(path, "torchscript", trial_number, comparison)]
    keep_evidence(model, folder / EVIDENCE_FILE)
    entries.append(entry_of(folder / EVIDENCE_FILE, "evidence", trial_number))
    if model.weights is not None:
        (folder / WEIGHTS_FILE).write_bytes(model.weights)
        entries.append(entry_of(folder / WEIGHTS_FILE, "safetensors", trial_number))
    write_manifest(folder, entries)
    return record_of(path, entries[0])


def unfinished(path: Path) -> Path:
    """Where a file is written until it is compared; its suffix still names its format."""
    return path.with_name(f"part-{path.name}")


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
    """Test images to try `hpo predict` with: one of each class with its name, or the first ones."""
    from PIL import Image

    folder.mkdir(exist_ok=True)
    paths = []
    for name, index in _examples(model).items():
        pixels = model.images[index].transpose(1, 2, 0)
        paths.append(folder / (re.sub(r"[^\w.-]", "_", name) + ".png"))
        Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(paths[-1])
    return paths


def _examples(model: PackedModel) -> dict[str, int]:
    """Names of example images and their places."""
    if model.labels is None:
        return {str(index): index for index in range(min(N_EXAMPLES, len(model.images)))}
    labels = model.labels.tolist()
    return {
        name: labels.index(label) for label, name in enumerate(model.class_names) if label in labels
    }
