"""Run in a process of its own: load an exported file, compare what it computes, print JSON.

Imports what the file's format needs and nothing else, as a machine would that only serves it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from hpo.exported import ExportedModel, Images, Outputs, load_exported

BATCH = 64  # so that large images fit into memory
LIBRARIES = ("torch", "onnxruntime", "safetensors", "trainables.cnn.training")


def main() -> None:
    """``reload_check.py MODEL INPUTS``: INPUTS holds images and outputs, as they are and resized.

    "resized" and "resized_outputs" may be missing.
    """
    model_path, inputs_path = sys.argv[1:]
    model, inputs = load_exported(Path(model_path)), np.load(inputs_path)
    actual = outputs_of(model, inputs["images"])
    found = {
        "n_compared": len(actual),
        "max_difference": largest(actual, inputs["outputs"]),
        "argmax_agreement": None
        if model.target == "values"
        else float((actual.argmax(axis=1) == inputs["outputs"].argmax(axis=1)).mean()),
        "max_difference_resized": largest(
            outputs_of(model, inputs["resized"]), inputs["resized_outputs"]
        )
        if "resized" in inputs
        else None,
        "libraries": [name for name in LIBRARIES if name in sys.modules],
    }
    print(json.dumps(found))


def outputs_of(model: ExportedModel, images: Images) -> Outputs:
    """What ``model`` computes for all images."""
    starts = range(0, len(images), BATCH)
    return np.concatenate([model.run(images[start : start + BATCH]) for start in starts])


def largest(actual: Outputs, expected: Outputs) -> float:
    """Largest absolute difference; NaN if there is one."""
    return float(np.abs(actual - expected).max())


if __name__ == "__main__":
    main()
