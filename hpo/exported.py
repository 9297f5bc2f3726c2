"""An exported model of any format as one function from images to numbers.

Each format needs its own library alone: nothing is imported before a file of it is loaded.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.errors import UsageError
from trainables import DESCRIPTION, TrainableError, find_trainable

Images = npt.NDArray[np.uint8]
Outputs = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """A model that was loaded.

    Attributes:
        run: (B, C, H, W) uint8 images of any size -> (B, n_classes) probabilities, (B, n_values)
            values, or (B, n_classes, H, W) probabilities.
        class_names: of the second axis of what ``run`` returns; empty if the file does not say.
        in_channels: 1 takes grey images, 3 takes RGB; 0 if the file does not say.
        target: "classes", "values" or "masks".
    """

    run: Callable[[Images], Outputs]
    class_names: tuple[str, ...]
    in_channels: int
    target: str


@dataclass(frozen=True, kw_only=True)
class Format:
    """A way to write a model down: the file in ``runs/NAME``, and who reads it."""

    file: str
    load: Callable[[Path], ExportedModel]


def load_exported(path: Path) -> ExportedModel:
    """Load a model by what its name ends in.

    Raises:
        UsageError: if there is no such file, or it is no exported model.
    """
    by_suffix = {Path(known.file).suffix: known for known in FORMATS.values()}
    known_files = ", ".join(known.file for known in FORMATS.values())
    if path.suffix not in by_suffix:
        raise UsageError(f"{path}: is no exported model; known are {known_files}")
    if not path.is_file():
        raise UsageError(f"{path}: there is no such model; `hpo run` and `hpo export` write them")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated and says so sixty times
            return by_suffix[path.suffix].load(path)
    except UsageError:
        raise
    except Exception as error:  # noqa: BLE001  another file under this name makes it raise anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(
            f"{path}: is no model exported by `hpo run` or `hpo export` ({known_files}), "
            f"or damaged: {reason}"
        ) from None


def _load_torchscript(path: Path) -> ExportedModel:
    import torch

    model = torch.jit.load(str(path), map_location="cpu")
    described = {
        # A user's own predictor need not have them.
        "class_names": getattr(model, "class_names", ()),
        "in_channels": getattr(model, "in_channels", 0),
        "target": getattr(model, "target", "classes"),
    }
    return _exported(described, _torch_run(model))


def _load_pt2(path: Path) -> ExportedModel:
    import torch

    # It logs a traceback before it raises, and has no other voice at this level.
    logging.getLogger("torch.export").setLevel(logging.ERROR)
    extra = {DESCRIPTION: ""}
    model = torch.export.load(str(path), extra_files=extra).module()
    return _exported(json.loads(extra[DESCRIPTION]), _torch_run(model))


def _load_onnx(path: Path) -> ExportedModel:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    described = json.loads(session.get_modelmeta().custom_metadata_map[DESCRIPTION])
    name = session.get_inputs()[0].name
    return _exported(described, lambda images: session.run(None, {name: images})[0])


def _load_safetensors(path: Path) -> ExportedModel:
    return _exported(read_description(path), _torch_run(rebuilt(path)))


def read_description(path: Path) -> dict[str, Any]:
    """What the metadata of a file of weights say of its predictor; needs no torch."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        described: dict[str, Any] = json.loads(file.metadata()[DESCRIPTION])
    return described


def rebuilt(path: Path) -> Any:
    """The predictor, a `torch.nn.Module`, of a file of weights.

    Raises:
        UsageError: if its trainable is not there, or cannot rebuild it.
    """
    from safetensors.torch import load_file

    description = read_description(path)
    name = description["trainable"]
    try:
        rebuild = find_trainable(name, (Path.cwd(),)).rebuild
    except TrainableError as error:
        raise UsageError(f"{path}: its predictor cannot be rebuilt: {error}") from None
    if rebuild is None:
        raise UsageError(f"{path}: its trainable {name!r} has no function `rebuild`")
    predictor = rebuild(description)
    predictor.load_state_dict(load_file(path))
    return predictor.eval()


def _torch_run(model: Any) -> Callable[[Images], Outputs]:
    import torch

    def run(images: Images) -> Outputs:
        with torch.no_grad():
            outputs: Outputs = model(torch.from_numpy(images)).numpy()
        return outputs

    return run


def _exported(described: Mapping[str, Any], run: Callable[[Images], Outputs]) -> ExportedModel:
    return ExportedModel(
        run=run,
        class_names=tuple(described["class_names"]),
        in_channels=int(described["in_channels"]),
        target=str(described["target"]),
    )


FORMATS: dict[str, Format] = {
    "torchscript": Format(file="standalone_model.pt", load=_load_torchscript),
    "pt2": Format(file="standalone_model.pt2", load=_load_pt2),
    "onnx": Format(file="standalone_model.onnx", load=_load_onnx),
    "safetensors": Format(file="weights.safetensors", load=_load_safetensors),
}
