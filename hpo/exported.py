"""An exported model of any format as one function from images to numbers.

Nothing is imported before a file is loaded that needs it: torch for TorchScript and ``.pt2``,
onnxruntime for ONNX, torch and the trainable for safetensors, whose code makes the network anew.
Load only files that you trust: a ``.pt2`` may hold pickled objects.
"""

from __future__ import annotations

import json
import logging
import stat
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from hpo.errors import UsageError
from trainables import DESCRIPTION, TRAINABLES, TrainableError, find_trainable
from trainables.images.arrays import Target

Images = npt.NDArray[np.uint8]
Outputs = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """A model that was loaded.

    Attributes:
        run: (B, C, H, W) uint8 images -> (B, n_classes) probabilities, (B, n_values) values, or
            (B, n_classes, H, W) probabilities.
        class_names: of the second axis of what ``run`` returns.
        in_channels: 1 takes grey images, 3 takes RGB.
        target: "classes", "values" or "masks".
        shorter_side: pixels to which it resizes an image's shorter side; 0 if the file tells none.
    """

    run: Callable[[Images], Outputs]
    class_names: tuple[str, ...]
    in_channels: int
    target: str
    shorter_side: int = 0


@dataclass(frozen=True, kw_only=True)
class Format:
    """A way to write a model down: the file in ``runs/NAME``, and who reads it.

    ``load`` takes the path and the name of a trainable that is trusted.
    """

    file: str
    load: Callable[[Path, str], ExportedModel]


def load_exported(path: Path, trainable: str = "") -> ExportedModel:
    """Load a model by what its name ends in.

    Args:
        path: of the file.
        trainable: a user's own, whose module may be imported if the file is of its weights.

    Raises:
        UsageError: if there is no such file, or it is no exported model, or one of a trainable
            that is neither registered nor ``trainable``.
    """
    by_suffix = {Path(known.file).suffix: known for known in FORMATS.values()}
    known_files = ", ".join(known.file for known in FORMATS.values())
    if path.suffix not in by_suffix:
        raise UsageError(f"{path}: is no exported model; known are {known_files}")
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read: {error.strerror}; `hpo run` and `hpo export` write models"
        ) from None
    try:
        if not is_file:
            raise ValueError("it is no regular file")  # noqa: TRY301
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated and says so sixty times
            return by_suffix[path.suffix].load(path, trainable)
    except UsageError:
        raise
    except Exception as error:  # noqa: BLE001  another file under this name makes it raise anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(
            f"{path}: is no model exported by `hpo run` or `hpo export` ({known_files}), "
            f"or damaged: {reason}"
        ) from None


def _load_torchscript(path: Path, _trainable: str) -> ExportedModel:
    import torch

    extra = {DESCRIPTION: ""}
    model = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
    return _exported(json.loads(extra[DESCRIPTION]), _torch_run(model))


def _load_pt2(path: Path, _trainable: str) -> ExportedModel:
    import torch

    # It logs a traceback before it raises, and has no other voice at this level.
    logging.getLogger("torch.export").setLevel(logging.ERROR)
    extra = {DESCRIPTION: ""}
    model = torch.export.load(str(path), extra_files=extra).module()
    return _exported(json.loads(extra[DESCRIPTION]), _torch_run(model))


def _load_onnx(path: Path, _trainable: str) -> ExportedModel:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    described = json.loads(session.get_modelmeta().custom_metadata_map[DESCRIPTION])
    name = session.get_inputs()[0].name
    return _exported(described, lambda images: session.run(None, {name: images})[0])


def _load_safetensors(path: Path, trainable: str) -> ExportedModel:
    return _exported(_read_description(path), _torch_run(rebuilt(path, trainable)))


def _read_description(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        described: dict[str, Any] = json.loads(file.metadata()[DESCRIPTION])
    return described


def rebuilt(path: Path, trainable: str = "") -> Any:
    """The predictor, a `torch.nn.Module`, of a file of weights.

    Args:
        path: of the file. It names its trainable, whose module is imported only if it is a
            registered one or ``trainable``: a file of data shall not choose what code is run.
        trainable: a user's own that is trusted.

    Raises:
        UsageError: if its trainable is not trusted, not there, or cannot rebuild it.
    """
    from safetensors.torch import load_file

    description = _read_description(path)
    name = str(description["trainable"])
    if name not in TRAINABLES and name != trainable:
        raise UsageError(
            f"{path}: is made by {name!r}, which is none of ours: to use the file would run that "
            f"module's code. If you trust it, say so: --trainable {name}"
        )
    try:
        rebuild = find_trainable(name, (Path.cwd(),)).rebuild
    except TrainableError as error:
        raise UsageError(f"{path}: its predictor cannot be rebuilt: {error}") from None
    if rebuild is None:
        raise UsageError(f"{path}: its trainable {name!r} has no function `rebuild`")
    try:
        predictor = rebuild(description)
        predictor.load_state_dict(load_file(path))
        return predictor.eval()
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"{path}: `rebuild` of {name!r} makes no predictor that takes these weights: "
            f"{type(error).__name__}: {reason}; is it the code that trained them?"
        ) from error


def _torch_run(model: Any) -> Callable[[Images], Outputs]:
    import torch

    def run(images: Images) -> Outputs:
        with torch.no_grad():
            outputs: Outputs = model(torch.from_numpy(images)).numpy()
        return outputs

    return run


def _exported(described: Mapping[str, Any], run: Callable[[Images], Outputs]) -> ExportedModel:
    if described["target"] not in get_args(Target):
        raise ValueError(f"its target is {described['target']!r}")
    return ExportedModel(
        run=run,
        class_names=tuple(described["class_names"]),
        in_channels=int(described["in_channels"]),
        target=str(described["target"]),
        shorter_side=int(described.get("shorter_side", 0)),
    )


FORMATS: dict[str, Format] = {
    "torchscript": Format(file="standalone_model.pt", load=_load_torchscript),
    "pt2": Format(file="standalone_model.pt2", load=_load_pt2),
    "onnx": Format(file="standalone_model.onnx", load=_load_onnx),
    "safetensors": Format(file="weights.safetensors", load=_load_safetensors),
}
