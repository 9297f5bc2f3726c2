"""Classify image files with an exported model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.errors import UsageError

MAX_PIXELS = 50_000_000  # a photograph has 12 to 50 million; more is a mistake or an attack


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """An image's most probable class, and the probability of every class, the highest first."""

    image: Path
    label: str
    probability: float
    probabilities: dict[str, float]


def predict(model_path: Path, image_paths: Sequence[Path]) -> list[Prediction]:
    """Classify each image.

    Raises:
        UsageError: if the model or any of the images cannot be read; all are named at once.
    """
    import torch

    model = _load(model_path)
    images = _read_images(image_paths, n_channels=int(model.in_channels))
    predictions = []
    for path, image in zip(image_paths, images, strict=True):
        with torch.no_grad():
            probabilities = model(torch.from_numpy(image).unsqueeze(0))[0].tolist()
        ranked = sorted(
            zip(model.class_names, probabilities, strict=True), key=lambda pair: -pair[1]
        )
        label, probability = ranked[0]
        predictions.append(
            Prediction(image=path, label=label, probability=probability, probabilities=dict(ranked))
        )
    return predictions


def _load(path: Path) -> Any:
    import torch

    if not path.is_file():
        raise UsageError(f"{path}: there is no such model; `hpo run` writes standalone_model.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = torch.jit.load(str(path), map_location="cpu")
            _ = (model.in_channels, model.class_names)
        except (RuntimeError, AttributeError, ValueError):
            raise UsageError(
                f"{path}: is no model exported by `hpo run` (standalone_model.pt)"
            ) from None
    return model


def _read_images(paths: Sequence[Path], n_channels: int) -> list[Any]:
    images, problems = [], []
    for path in paths:
        try:
            images.append(_read_image(path, n_channels))
        except (OSError, ValueError, SyntaxError) as error:
            reason = "there is no such file" if isinstance(error, FileNotFoundError) else error
            problems.append(f"{path}: {reason}")
    if problems:
        raise UsageError("\n  ".join(["cannot read:", *problems]))
    return images


def _read_image(path: Path, n_channels: int) -> Any:
    """(C, H, W) uint8, grey or RGB as the model wants it."""
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(
                        f"has {image.width}x{image.height} pixels, more than {MAX_PIXELS:,}"
                    )
                upright = ImageOps.exif_transpose(image)
                pixels = np.array(upright.convert("L" if n_channels == 1 else "RGB"))
    except UnidentifiedImageError:
        raise ValueError("is no image of a format that Pillow reads") from None
    except Image.DecompressionBombError:
        raise ValueError(f"has more than {MAX_PIXELS:,} pixels") from None
    return (
        pixels[np.newaxis] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    )
