"""Export the retrained winner as TorchScript, reload it in a new process and compare."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from hpo.errors import ExportMismatchError
from storage import ExportRecord
from trainables import PackedModel

MODEL_FILE = "standalone_model.pt"
N_EXAMPLES = 10
TOLERANCE = 1e-5
"""Largest difference of an output between the trained and the reloaded model."""


def export_model(model: PackedModel, trial_number: int, folder: Path) -> ExportRecord:
    """Write ``standalone_model.pt`` and prove that a new process computes the same with it.

    Raises:
        ExportMismatchError: if an output differs by more than ``TOLERANCE``, or the file
            cannot be loaded.
    """
    path = folder / MODEL_FILE
    beside = path.with_suffix(".part")
    beside.write_bytes(model.torchscript)
    difference = reloaded_difference(beside, model)
    if not difference <= TOLERANCE:  # also for NaN
        raise ExportMismatchError(
            f"{beside}: outputs of the reloaded model differ by up to {difference:.2g} from "
            f"the trained one's, more than {TOLERANCE:g}; the file is not fit for use"
        )
    beside.replace(path)
    return ExportRecord(
        path=str(path),
        trial_number=trial_number,
        sha256=hashlib.sha256(model.torchscript).hexdigest(),
        max_difference=difference,
        n_compared=len(model.images),
        exported_at=dt.datetime.now(dt.UTC).replace(tzinfo=None),
    )


def reloaded_difference(path: Path, model: PackedModel) -> float:
    """Largest absolute difference of an output when a new process loads ``path``.

    Raises:
        ExportMismatchError: if it cannot load it.
    """
    with tempfile.TemporaryDirectory(prefix="hpo-export-") as folder:
        inputs = Path(folder) / "inputs.npz"
        np.savez(inputs, images=model.images, expected=model.outputs)
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("reload_check.py")), str(path), inputs],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no output"]
        raise ExportMismatchError(f"{path} cannot be reloaded in a new process: {last[0]}")
    return float(json.loads(done.stdout)["max_difference"])


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
