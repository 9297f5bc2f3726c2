"""Run in a process of its own: load an exported file, compare what it computes, print JSON.

Imports what the file's format needs and nothing else, as a machine would that only serves it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from hpo.exported import ExportedModel, Images, Outputs, load_exported
from trainables.packing import BATCH, resized

LIBRARIES = ("torch", "onnxruntime", "safetensors", "trainables.cnn.training")


def main() -> None:
    """``reload_check.py MODEL INPUTS TRAINABLE``: INPUTS holds images and the outputs expected.

    "resized_outputs" may be missing; TRAINABLE is trusted with being imported.
    """
    model_path, inputs_path, trainable = sys.argv[1:]
    model, inputs = load_exported(Path(model_path), trainable), np.load(inputs_path)
    images, expected = inputs["images"], inputs["outputs"]
    actual = outputs_of(model, images)
    found = {
        "n_compared": len(actual),
        "max_difference": max_difference(actual, expected),
        "argmax_agreement": argmax_agreement(actual, expected, model),
        "libraries": [name for name in LIBRARIES if name in sys.modules],
    }
    if "resized_outputs" in inputs:
        expected = inputs["resized_outputs"]
        actual = outputs_of(model, resized(images))
        found["max_difference_resized"] = max_difference(actual, expected)
        found["argmax_agreement_resized"] = argmax_agreement(actual, expected, model)
    print(json.dumps(found))


def outputs_of(model: ExportedModel, images: Images) -> Outputs:
    """What ``model`` computes for all images; a batch at a time, so that large ones fit."""
    starts = range(0, len(images), BATCH)
    return np.concatenate([model.run(images[start : start + BATCH]) for start in starts])


def max_difference(actual: Outputs, expected: Outputs) -> float:
    """Largest difference of an output; NaN if there is one.

    Of a class or value whose outputs get larger than 1, in units of its largest: a price in
    dollars has no digits for 1e-5.

    Raises:
        ValueError: if the shapes differ.
    """
    if actual.shape != expected.shape:
        raise ValueError(f"outputs of shape {actual.shape} instead of {expected.shape}")
    all_but_classes = tuple(axis for axis in range(expected.ndim) if axis != 1)
    largest = np.abs(expected).max(axis=all_but_classes, keepdims=True)
    return float((np.abs(actual - expected) / np.maximum(largest, 1)).max())


def argmax_agreement(actual: Outputs, expected: Outputs, model: ExportedModel) -> float | None:
    """Share of images, or pixels of masks, whose largest output is the same; None of values."""
    if model.target == "values":
        return None
    return float((actual.argmax(axis=1) == expected.argmax(axis=1)).mean())


if __name__ == "__main__":
    main()
