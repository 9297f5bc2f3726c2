"""What the one reading of the test set left behind: exports are compared with it, cards cite it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.errors import StorageError
from trainables import PackedModel

EVIDENCE_FILE = "test_evidence.npz"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Some test images with what the trained model computed for them, and counts of all of them.

    Attributes:
        class_names: of the outputs.
        images: (n, C, H, W) uint8.
        outputs: (n, ...) float32.
        labels: (n,) int64, the true classes; None where there are none.
        confusion: (n_classes, n_classes) int64, the whole test set by true class (rows) and
            predicted class (columns), images or pixels of masks; None if the trainable gave none.
        rms_errors: (n_values,) float64, of each value on the whole test set; None if none.
    """

    class_names: tuple[str, ...]
    images: npt.NDArray[np.uint8]
    outputs: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64] | None
    confusion: npt.NDArray[np.int64] | None
    rms_errors: npt.NDArray[np.float64] | None


def keep_evidence(model: PackedModel, path: Path) -> None:
    """Write what there is of ``model``'s reading of the test set."""
    kept: dict[str, Any] = {
        "class_names": np.array(model.class_names, dtype=np.str_),
        "images": model.images,
        "outputs": model.outputs,
        "labels": model.labels,
        "confusion": model.confusion,
        "rms_errors": model.rms_errors,
    }
    with path.open("wb") as file:
        np.savez_compressed(
            file, **{key: value for key, value in kept.items() if value is not None}
        )


def read_evidence(path: Path) -> Evidence:
    """The evidence that `keep_evidence` wrote.

    Raises:
        StorageError: if it is not there.
    """
    if not path.is_file():
        raise StorageError(
            f"{path}: there is no such file; the experiment was run by an older version. "
            "Run it again under another name: -o name=..."
        )
    with np.load(path) as kept:
        found = {key: kept[key] for key in kept}
    return Evidence(
        class_names=tuple(found["class_names"].tolist()),
        images=found["images"],
        outputs=found["outputs"],
        labels=found.get("labels"),
        confusion=found.get("confusion"),
        rms_errors=found.get("rms_errors"),
    )
