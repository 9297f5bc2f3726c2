"""What the one reading of the test set left behind: exports are compared with it, cards cite it."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
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
    """Some images with what the trained model computed for them, and counts of the test set.

    Attributes:
        description: of the predictor, see `PackedModel`.
        images: (n, C, H, W) uint8, of the test set, then others if those are few.
        outputs: (n, ...) float32.
        resized_outputs: the same for `packing.resized` images; None if it takes one size only.
        labels: (k,) int64, true classes of the first k images, those of the test set; or None.
        confusion: (n_classes, n_classes) int64, the whole test set by true class (rows) and
            predicted class (columns), images or pixels of masks; None if the trainable gave none.
        rms_errors: (n_values,) float64, of each value on the whole test set; None if none.
    """

    description: Mapping[str, Any]
    images: npt.NDArray[np.uint8]
    outputs: npt.NDArray[np.float32]
    resized_outputs: npt.NDArray[np.float32] | None = None
    labels: npt.NDArray[np.int64] | None = None
    confusion: npt.NDArray[np.int64] | None = None
    rms_errors: npt.NDArray[np.float64] | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the outputs."""
        return tuple(self.description["class_names"])

    def inputs(self) -> dict[str, npt.NDArray[Any]]:
        """What `compare_reloaded` compares with."""
        inputs: dict[str, npt.NDArray[Any]] = {"images": self.images, "outputs": self.outputs}
        if self.resized_outputs is not None:
            inputs["resized_outputs"] = self.resized_outputs
        return inputs

    def as_bytes(self) -> bytes:
        """The content of a file that `read_evidence` reads."""
        kept = {key: value for key, value in vars(self).items() if value is not None}
        kept["description"] = np.array(json.dumps(self.description))
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **kept)
        return buffer.getvalue()


def evidence_of(model: PackedModel) -> Evidence:
    """What ``model`` brought along from its reading of the test set."""
    return Evidence(
        description=model.description,
        images=model.images,
        outputs=model.outputs,
        resized_outputs=model.resized_outputs,
        labels=model.labels,
        confusion=model.confusion,
        rms_errors=model.rms_errors,
    )


def read_evidence(path: Path) -> Evidence:
    """The evidence of a file.

    Raises:
        StorageError: if it is not there, or not of this version.
    """
    try:
        with np.load(path) as kept:
            found: dict[str, Any] = {key: kept[key] for key in kept}
        return Evidence(**{**found, "description": json.loads(str(found["description"]))})
    except (FileNotFoundError, KeyError, TypeError):
        raise StorageError(
            f"{path}: there is no such file, or it was written by an older version. "
            "Run the experiment again under another name: -o name=..."
        ) from None
