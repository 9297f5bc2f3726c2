"""Write a predictor in each format. All of it is torch; imported by `hpo export` alone."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from hpo.errors import UsageError
from trainables import DESCRIPTION

Description = Mapping[str, Any]

FREE_SIZES = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
"""Batch, height and width of the images; the channels are fixed."""


def write_format(name: str, predictor: nn.Module, description: Description, path: Path) -> None:
    """Write ``predictor`` to ``path`` in the format called ``name``.

    Raises:
        UsageError: if torch cannot write this network so; names the format and the reason.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            WRITERS[name](predictor, description, path)
        except OSError:
            raise
        except Exception as error:  # torch raises whatever its tracing meets
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = lines[0] if lines else type(error).__name__
            raise UsageError(
                f"this network cannot be written as {name}: {type(error).__name__}: {reason}; "
                f"export it as another format: {', '.join(set(WRITERS) - {name})}"
            ) from error


def _write_torchscript(predictor: nn.Module, description: Description, path: Path) -> None:
    torch.jit.save(torch.jit.script(predictor), str(path))


def _write_pt2(predictor: nn.Module, description: Description, path: Path) -> None:
    program = torch.export.export(predictor, (_example(description),), dynamic_shapes=(FREE_SIZES,))
    # By file object: torch.export would refuse a name that does not end in .pt2.
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={DESCRIPTION: json.dumps(dict(description))})


def _write_onnx(predictor: nn.Module, description: Description, path: Path) -> None:
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    program = torch.onnx.export(
        predictor,
        (_example(description),),
        dynamo=True,
        dynamic_shapes=(FREE_SIZES,),
        input_names=["images"],
        output_names=["outputs"],
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props[DESCRIPTION] = json.dumps(dict(description))
    program.save(str(path), external_data=False)


def _write_safetensors(predictor: nn.Module, description: Description, path: Path) -> None:
    state = {name: value.contiguous() for name, value in predictor.state_dict().items()}
    save_file(state, path, {DESCRIPTION: json.dumps(dict(description))})


def _example(description: Description) -> torch.Tensor:
    """Images to trace with, oblong: equal sizes might be taken for one and the same."""
    return torch.zeros(2, int(description["in_channels"]), 37, 53, dtype=torch.uint8)


WRITERS: dict[str, Callable[[nn.Module, Description, Path], None]] = {
    "torchscript": _write_torchscript,
    "pt2": _write_pt2,
    "onnx": _write_onnx,
    "safetensors": _write_safetensors,
}
