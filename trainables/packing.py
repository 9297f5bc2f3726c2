"""Pack a final model for its way from a worker to the driver: bytes that need no class of ours.

Scripting is here, beside the network it knows; whoever unpacks needs torch alone, or, to pass the
bytes on, not even that. torch.jit is deprecated and warns some sixty times a call.
"""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainables.contract import FinalModel

DESCRIPTION = "hpo"
"""Key of an exported file's metadata: the predictor's description and its trainable, as JSON."""


@dataclass(frozen=True, kw_only=True)
class PackedModel:
    """A `FinalModel` without torch.

    Attributes:
        torchscript: the scripted predictor, as `torch.jit.load` reads it.
        class_names: label of each column of ``probabilities``.
        metric: what was measured on the test set.
        test_value: its value.
        n_correct: test images classified correctly; None where ``metric`` is no accuracy.
        n_test: images in the test set.
        images: (n, C, H, W) uint8, some test images.
        labels: (n,) int64, their classes; None if what is learned is something else.
        outputs: (n, ...) float32, what the model computed for them when packed.
        confusion: (n_classes, n_classes) int64, the test set by true and predicted class; or None.
        rms_errors: (n_values,) float64, error of each value on the test set; or None.
        weights: the predictor's state as safetensors, which says in its metadata how to rebuild
            the predictor; None where the trainable cannot.
    """

    torchscript: bytes
    class_names: tuple[str, ...]
    metric: str
    test_value: float
    n_correct: int | None
    n_test: int
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64] | None
    outputs: npt.NDArray[np.float32]
    confusion: npt.NDArray[np.int64] | None = None
    rms_errors: npt.NDArray[np.float64] | None = None
    weights: bytes | None = None


def pack(model: FinalModel, trainable: str = "") -> PackedModel:
    """Script the predictor on the CPU, and keep what it computes for its test images.

    ``trainable`` is the name by which ``rebuild`` is found again.
    """
    import torch

    predictor, buffer = model.predictor.cpu().eval(), io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(predictor), buffer)
        outputs = predictor(model.test_images)
    return PackedModel(
        torchscript=buffer.getvalue(),
        class_names=model.class_names,
        metric=model.metric,
        test_value=model.test_value,
        n_correct=model.n_correct,
        n_test=model.n_test,
        images=model.test_images.numpy(),
        labels=None if model.test_labels is None else model.test_labels.numpy(),
        outputs=outputs.numpy(),
        confusion=None if model.confusion is None else model.confusion.numpy(),
        rms_errors=None if model.rms_errors is None else model.rms_errors.numpy(),
        weights=None if model.description is None else _weights(model, trainable),
    )


def _weights(model: FinalModel, trainable: str) -> bytes:
    """The state of the predictor, its description beside it."""
    from safetensors.torch import save

    assert model.description is not None
    description = {"trainable": trainable, **model.description}
    state = {name: value.contiguous() for name, value in model.predictor.state_dict().items()}
    return save(state, {DESCRIPTION: json.dumps(description)})
