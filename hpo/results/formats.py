"""Write a predictor in each format. All of it is torch; imported by `hpo export` alone.

Into memory: torch ends the process, or calls the network unfit, where it meets a full disk.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from hpo.errors import UsageError
from trainables import DESCRIPTION

Description = Mapping[str, Any]
Size = tuple[int, int]

EXAMPLE_SIZE = (37, 53)
"""Of images to trace with, oblong: equal sizes might be taken for one and the same."""


def write_format(
    name: str, predictor: nn.Module, description: Description, size: Size | None = None
) -> bytes:
    """The content of a file with ``predictor`` in the format called ``name``.

    Args:
        name: a key of ``WRITERS``.
        predictor: (B, C, H, W) uint8 images -> outputs.
        description: goes into the file; its "in_channels" are the images'.
        size: the only height and width that it takes; None if all are free. The batch always is.

    Raises:
        UsageError: if torch cannot write this network so; names the format and the reason.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            return WRITERS[name](predictor, description, size)
        except Exception as error:  # torch raises whatever its tracing meets
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = lines[0] if lines else type(error).__name__
            others = ", ".join(other for other in WRITERS if other != name)
            raise UsageError(
                f"this network cannot be written as {name}: {type(error).__name__}: {reason}; "
                f"export it as another format: {others}"
            ) from error


def _torchscript(predictor: nn.Module, description: Description, _size: Size | None) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(predictor), buffer, _extra_files=_metadata(description))
    return buffer.getvalue()


def _pt2(predictor: nn.Module, description: Description, size: Size | None) -> bytes:
    example, free = _traced_with(description, size)
    program = torch.export.export(predictor, (example,), dynamic_shapes=(free,))
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files=_metadata(description))
    return buffer.getvalue()


def _onnx(predictor: nn.Module, description: Description, size: Size | None) -> bytes:
    """Traced on its own: `Fit` resizes by other means in ONNX."""
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    example, free = _traced_with(description, size)
    program = torch.onnx.export(
        predictor,
        (example,),
        dynamo=True,
        dynamic_shapes=(free,),
        input_names=["images"],
        output_names=["outputs"],
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(_metadata(description))
    content: bytes = program.model_proto.SerializeToString()
    return content


def _metadata(description: Description) -> dict[str, str]:
    return {DESCRIPTION: json.dumps(dict(description))}


def _traced_with(
    description: Description, size: Size | None
) -> tuple[torch.Tensor, dict[int, Any]]:
    """Images to trace with, and which of their axes are free."""
    images = torch.zeros(
        2, int(description["in_channels"]), *(size or EXAMPLE_SIZE), dtype=torch.uint8
    )
    axes = (0,) if size else (0, 2, 3)
    return images, dict.fromkeys(axes, torch.export.Dim.DYNAMIC)


WRITERS: dict[str, Callable[[nn.Module, Description, Size | None], bytes]] = {
    "torchscript": _torchscript,
    "pt2": _pt2,
    "onnx": _onnx,
}
"""Every format but safetensors: the weights are what the others are made of."""
