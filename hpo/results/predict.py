"""What an exported model says of image files: `hpo predict`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.errors import UsageError
from hpo.exported import ExportedModel, Images, load_exported
from trainables.images.decoding import SUFFIXES, PictureError, decode

BATCH = 64
"""Images of one size that the model sees at a time."""

PIXELS_AT_ONCE = 50_000_000
"""Decoded pixels that are held before the model sees them; one large photograph may have them."""

WHAT = {"classes": "probabilities", "values": "values", "masks": "pixel_shares"}
"""What the numbers of a prediction are, by the model's target."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the model says of one image.

    Attributes:
        image: its file.
        target: "classes", "values" or "masks".
        numbers: the probability of each class, or the share of pixels of each class of a mask, the
            largest first; or each value by its name.
    """

    image: Path
    target: str
    numbers: dict[str, float]

    @property
    def label(self) -> str:
        """The most probable class, or the one with most pixels."""
        return next(iter(self.numbers))

    def as_json(self) -> dict[str, Any]:
        """For a program."""
        label = {} if self.target == "values" else {"label": self.label}
        return {"image": str(self.image), **label, WHAT[self.target]: self.numbers}

    def as_line(self) -> str:
        """For a reader: at most three classes, or all values."""
        first, *others = [f"{name} {number:.4f}" for name, number in self.numbers.items()]
        if self.target == "values":
            return f"{self.image}: {', '.join([first, *others])}"
        return f"{self.image}: {first}" + (f" (then {', '.join(others[:2])})" if others else "")


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """All of them in the order of the images, and the seconds of decoding and predicting."""

    items: tuple[Prediction, ...]
    seconds: float

    @property
    def images_per_second(self) -> float:
        """Loading the model is not counted."""
        return len(self.items) / self.seconds


def predict(model_path: Path, image_paths: Sequence[Path]) -> Predictions:
    """What the model of a file says of images, decoded as they are for training.

    Args:
        model_path: an exported file of any format.
        image_paths: image files; folders stand for the images in and below them, sorted.

    Raises:
        UsageError: if the model, a folder or any of the images cannot be used; all images that
            cannot are named at once.
    """
    images = find_images(image_paths)
    model = load_exported(model_path)
    if model.in_channels not in (1, 3) or not model.class_names:
        raise UsageError(
            f"{model_path}: cannot be used for images: its predictor needs the attributes "
            "`class_names` (a list of words) and `in_channels` (1 or 3)"
        )
    started = time.perf_counter()
    found: dict[int, Prediction] = {}
    problems: list[str] = []
    for portion in _portions(images, model.in_channels, problems):
        for numbers, pixels in _batches(portion):
            outputs = model.run(pixels)
            for number, output in zip(numbers, outputs, strict=True):
                found[number] = _prediction(images[number], output, model)
    if problems:
        raise UsageError("\n  ".join(["cannot read:", *problems]))
    return Predictions(
        items=tuple(found[number] for number in range(len(images))),
        seconds=time.perf_counter() - started,
    )


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The files as they are given; for a folder, the images in and below it, sorted.

    Raises:
        UsageError: for folders without an image, all of them.
    """
    images: list[Path] = []
    empty: list[str] = []
    for path in paths:
        if not path.is_dir():
            images.append(path)
            continue
        inside = sorted(file for file in path.rglob("*") if _is_image(file))
        images += inside
        empty += [] if inside else [str(path)]
    if empty:
        raise UsageError(
            f"no image in {', '.join(empty)}; looked for {', '.join(sorted(SUFFIXES))}"
        )
    return images


def _is_image(path: Path) -> bool:
    """By its name; hidden files are none, as in training."""
    is_hidden = path.name.startswith(".")
    return path.suffix.lower() in SUFFIXES and not is_hidden and path.is_file()


Numbered = tuple[int, Images]
"""The place of an image among all, and its pixels (C, H, W)."""


def _portions(
    paths: Sequence[Path], channels: int, problems: list[str]
) -> Iterator[list[Numbered]]:
    """Decoded images, as many at a time as memory should hold; why not, goes into ``problems``."""
    portion: list[Numbered] = []
    n_pixels = 0
    for number, path in enumerate(paths):
        try:
            pixels = decode(path, channels)
        except PictureError as error:
            problems.append(f"{path}: {error}")
            continue
        portion.append((number, pixels))
        n_pixels += pixels.size // channels
        if n_pixels >= PIXELS_AT_ONCE:
            yield portion
            portion, n_pixels = [], 0
    yield portion


def _batches(portion: Sequence[Numbered]) -> Iterator[tuple[list[int], Images]]:
    """Images of one size together, (B, C, H, W), and their numbers."""
    by_size: dict[tuple[int, ...], list[Numbered]] = {}
    for number, pixels in portion:
        by_size.setdefault(pixels.shape, []).append((number, pixels))
    for alike in by_size.values():
        for start in range(0, len(alike), BATCH):
            batch = alike[start : start + BATCH]
            yield [number for number, _ in batch], np.stack([pixels for _, pixels in batch])


def _prediction(image: Path, output: npt.NDArray[np.float32], model: ExportedModel) -> Prediction:
    """Of one image's output: (K,), or (K, H, W) of a mask."""
    numbers: list[float] = output.tolist()
    if model.target == "masks":
        found = output.argmax(axis=0).reshape(-1)
        numbers = (np.bincount(found, minlength=len(output)) / len(found)).tolist()
    named = list(zip(model.class_names, numbers, strict=True))
    if model.target != "values":
        named.sort(key=lambda pair: -pair[1])
    return Prediction(image=image, target=model.target, numbers=dict(named))
