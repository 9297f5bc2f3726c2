"""Reload an exported file in a new process and compare what it computes with the trained model."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hpo.environment import environment_of_children
from hpo.errors import ExportMismatchError

TOLERANCE = 1e-5
"""Largest difference of an output between the trained and the reloaded model.

Of outputs that get larger than 1 (values of a regression, logits) in units of the largest of its
column. Two outputs that are each off by at most this cannot change places unless they are nearer to
each other than twice of it: so the largest output of an image is the same one, but for such ties.
"""

ONNX_RESIZING_TOLERANCE = 0.05
"""The same where ONNX has to resize images: a pixel in 8,000 may be a grey level off, since torch
and onnxruntime add in another order before they round."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a new process found.

    Attributes:
        n_compared: images.
        max_difference: largest difference of an output, see `TOLERANCE`.
        argmax_agreement: share of images, or pixels of masks, whose largest output is the same;
            None of a regression.
        libraries: which of the large libraries the process had to import.
        max_difference_resized: the same on images in another size; None if not asked.
        argmax_agreement_resized: likewise.
    """

    n_compared: int
    max_difference: float
    argmax_agreement: float | None
    libraries: list[str]
    max_difference_resized: float | None = None
    argmax_agreement_resized: float | None = None


def compare_reloaded(
    path: Path, inputs: Mapping[str, npt.NDArray[np.generic]], trainable: str = ""
) -> Comparison:
    """Load ``path`` in a new process and compare it on ``inputs``.

    Args:
        path: an exported file; its suffix names the format.
        inputs: "images" (n, C, H, W) uint8, the "outputs" that are expected for them, and the
            "resized_outputs" for the same images in another size, or without those.
        trainable: a user's own, whose module the new process may import if the file needs it.

    Raises:
        ExportMismatchError: if it cannot be loaded or run there.
    """
    with tempfile.TemporaryDirectory(prefix="hpo-export-") as folder:
        inputs_path = Path(folder) / "inputs.npz"
        with inputs_path.open("wb") as file:
            np.savez(file, **inputs)  # type: ignore[arg-type]
        # -P: this folder holds a report.py and others, which no library shall import for its own.
        script = Path(__file__).with_name("reload_check.py")
        done = subprocess.run(
            [sys.executable, "-P", str(script), str(path), str(inputs_path), trainable],
            env=environment_of_children(),
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise ExportMismatchError(f"{path} cannot be used in a new process: {last[0]}")
    return Comparison(**json.loads(done.stdout.splitlines()[-1]))


def refuse_mismatch(
    path: Path,
    comparison: Comparison,
    tolerance: float = TOLERANCE,
    resized_tolerance: float = TOLERANCE,
) -> None:
    """Raise unless the reloaded model computes what the trained one does.

    Raises:
        ExportMismatchError: if an output differs by more than its tolerance.
    """
    differences = [(comparison.max_difference, tolerance, "")]
    if comparison.max_difference_resized is not None:
        differences.append(
            (comparison.max_difference_resized, resized_tolerance, " on resized images")
        )
    for difference, limit, where in differences:
        if not difference <= limit:  # also for NaN
            raise ExportMismatchError(
                f"{path}: outputs of the reloaded model differ by up to {difference:.2g} from "
                f"the trained one's{where}, more than {limit:g}; the file is not fit for use. Take "
                "another format; or if none agrees, make the predictor tell the same of an image "
                "each time, alone and in any batch"
            )
