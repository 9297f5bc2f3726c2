"""Export the retrained winner as TorchScript, reload it in a new process and compare.

All of torch.jit stands in this file: it is deprecated, and warns some sixty times a call.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

from hpo.errors import ExportMismatchError
from storage import ExportRecord
from trainables import FinalModel

MODEL_FILE = "standalone_model.pt"
TOLERANCE = 1e-5
"""Largest difference of a probability between the trained and the reloaded model."""


def export_model(model: FinalModel, trial_number: int, folder: Path) -> ExportRecord:
    """Write ``standalone_model.pt`` and prove that a new process computes the same with it.

    Raises:
        ExportMismatchError: if a probability differs by more than ``TOLERANCE``.
    """
    import torch

    path = folder / MODEL_FILE
    beside = path.with_suffix(".part")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(model.predictor.cpu().eval()).save(str(beside))
    with torch.no_grad():
        expected = model.predictor(model.test_images)
    difference = reloaded_difference(beside, model.test_images, expected)
    if not difference <= TOLERANCE:  # also for NaN
        raise ExportMismatchError(
            f"{beside}: probabilities of the reloaded model differ by up to {difference:.2g} from "
            f"the trained one's, more than {TOLERANCE:g}; the file is not fit for use"
        )
    beside.replace(path)
    return ExportRecord(
        path=str(path),
        trial_number=trial_number,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        max_difference=difference,
        n_compared=len(model.test_images),
        exported_at=dt.datetime.now(dt.UTC).replace(tzinfo=None),
    )


def reloaded_difference(path: Path, images: object, expected: object) -> float:
    """Largest absolute difference to ``expected`` when a new process loads ``path``.

    Args:
        path: a TorchScript file.
        images: (n, C, H, W) uint8 tensor.
        expected: (n, n_classes) float32 tensor.
    """
    import torch

    with tempfile.TemporaryDirectory(prefix="hpo-export-") as folder:
        inputs = Path(folder) / "inputs.pt"
        torch.save({"images": images, "expected": expected}, inputs)
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


def save_examples(model: FinalModel, folder: Path) -> list[Path]:
    """One test image of each class as a PNG named after it, to try `hpo predict` with."""
    from PIL import Image

    folder.mkdir(exist_ok=True)
    paths = []
    labels = model.test_labels.tolist()
    for label, name in enumerate(model.class_names):
        if label in labels:
            pixels = model.test_images[labels.index(label)].permute(1, 2, 0).squeeze(-1).numpy()
            paths.append(folder / f"{name}.png")
            Image.fromarray(pixels).save(paths[-1])
    return paths
