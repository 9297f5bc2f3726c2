"""Pack a final model for its way from a worker to the driver: bytes that need no class of ours.

Scripting is here, beside the network it knows; whoever unpacks needs torch alone, or, to pass the
bytes on, not even that. torch.jit is deprecated and warns some sixty times a call.
"""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from trainables.contract import FinalModel
from trainables.images.arrays import Target

if TYPE_CHECKING:
    import torch

DESCRIPTION = "hpo"
"""Key of an exported file's metadata: what it is and needs to know of itself, as JSON."""

N_RESIZED = 64
"""Images that are compared in another size, too."""

BATCH = 64
"""Images that the predictor sees at a time."""


@dataclass(frozen=True, kw_only=True)
class PackedModel:
    """A `FinalModel` without torch.

    Attributes:
        torchscript: the scripted predictor, as `torch.jit.load` reads it.
        description: ``FinalModel.description``, and always its "class_names", "in_channels",
            "target" and "trainable"; plain JSON.
        metric: what was measured on the test set.
        test_value: its value.
        n_correct: test images classified correctly; None where ``metric`` is no accuracy.
        n_test: images in the test set.
        images: (n, C, H, W) uint8, some test images, then others if those are few.
        labels: (k,) int64, classes of the first k images, those of the test set; None if what is
            learned is something else.
        outputs: (n, ...) float32, what the model computed for the images when packed.
        resized_outputs: the same for `resized` images; None if it takes one size only.
        confusion: (n_classes, n_classes) int64, the test set by true and predicted class; or None.
        rms_errors: (n_values,) float64, error of each value on the test set; or None.
        weights: the predictor's state as safetensors, the description in its metadata; None where
            the trainable cannot rebuild the predictor.
    """

    torchscript: bytes
    description: dict[str, Any]
    metric: str
    test_value: float
    n_correct: int | None
    n_test: int
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64] | None
    outputs: npt.NDArray[np.float32]
    resized_outputs: npt.NDArray[np.float32] | None = None
    confusion: npt.NDArray[np.int64] | None = None
    rms_errors: npt.NDArray[np.float64] | None = None
    weights: bytes | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Label of each column of ``outputs``."""
        return tuple(self.description["class_names"])


def pack(model: FinalModel, trainable: str = "") -> PackedModel:
    """Script the predictor on the CPU, and keep what it computes for its images.

    ``trainable`` is the name by which ``rebuild`` is found again.

    Raises:
        ValueError: if the parts of ``model`` do not fit together.
    """
    import torch

    predictor, images = model.predictor.cpu().eval(), model.test_images
    if model.other_images is not None:
        images = torch.cat([images, model.other_images])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        outputs = _outputs(predictor, images)
        resized_outputs = _resized_outputs(predictor, images, outputs)
        description = _description(model, outputs, trainable)
        scripted, buffer = torch.jit.script(predictor), io.BytesIO()
        torch.jit.save(scripted, buffer, _extra_files={DESCRIPTION: json.dumps(description)})
    return PackedModel(
        torchscript=buffer.getvalue(),
        description=description,
        metric=model.metric,
        test_value=model.test_value,
        n_correct=model.n_correct,
        n_test=model.n_test,
        images=images.numpy(),
        labels=None if model.test_labels is None else model.test_labels.numpy(),
        outputs=outputs.numpy(),
        resized_outputs=None if resized_outputs is None else resized_outputs.numpy(),
        confusion=None if model.confusion is None else model.confusion.numpy(),
        rms_errors=None if model.rms_errors is None else model.rms_errors.numpy(),
        weights=None if model.description is None else _weights(predictor, description),
    )


def resized(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The first `N_RESIZED` images twice as high and three times as wide."""
    return images[:N_RESIZED].repeat(2, axis=2).repeat(3, axis=3)


def _outputs(predictor: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.cat([predictor(batch) for batch in images.split(BATCH)])


def _resized_outputs(
    predictor: torch.nn.Module, images: torch.Tensor, outputs: torch.Tensor
) -> torch.Tensor | None:
    """None where images of another size are none for this predictor."""
    import torch

    try:
        found = _outputs(predictor, torch.from_numpy(resized(images.numpy())))
    except Exception:  # noqa: BLE001  a user's network raises anything for a size it does not take
        return None
    return found if found.shape[1:] == outputs.shape[1:] else None


def _description(model: FinalModel, outputs: torch.Tensor, trainable: str) -> dict[str, Any]:
    """What the trainable says of its predictor, completed by what the model itself shows."""
    shown = "classes" if model.rms_errors is None else "values"
    described: dict[str, Any] = {
        "target": "masks" if outputs.ndim == 4 else shown,
        **(model.description or {}),
        "trainable": trainable,
        "class_names": list(model.class_names),
        "in_channels": model.test_images.shape[1],
    }
    n, n_outputs = len(model.class_names), outputs.shape[1] if outputs.ndim > 1 else 0
    if n_outputs != n:
        raise ValueError(
            f"FinalModel.class_names: {n} names for a predictor whose outputs have the shape "
            f"{tuple(outputs.shape)}; there must be one for each along the second axis"
        )
    if described["target"] not in get_args(Target):
        raise ValueError(
            f"FinalModel.description: target must be one of {', '.join(get_args(Target))}, "
            f"got {described['target']!r}"
        )
    if model.confusion is not None and model.confusion.shape != (n, n):
        raise ValueError(f"FinalModel.confusion: its shape must be {(n, n)}, one row per class")
    if model.rms_errors is not None and model.rms_errors.shape != (n,):
        raise ValueError(f"FinalModel.rms_errors: its shape must be {(n,)}, one for each value")
    plain: dict[str, Any] = json.loads(json.dumps(described))
    return plain


def _weights(predictor: torch.nn.Module, description: dict[str, Any]) -> bytes:
    """The state of the predictor, its description beside it."""
    from safetensors.torch import save

    # Copies: safetensors refuses tensors that share memory, as tied weights do.
    state = {name: value.clone().contiguous() for name, value in predictor.state_dict().items()}
    return save(state, {DESCRIPTION: json.dumps(description)})
