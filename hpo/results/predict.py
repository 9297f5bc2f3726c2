"""What an exported model says of image files: `hpo predict`."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.errors import UsageError
from hpo.exported import ExportedModel, Images, Outputs, load_exported
from trainables import DataError
from trainables.images.decoding import MAX_PIXELS, SUFFIXES, PictureError, check_resized, decode
from trainables.images.folder import files_below

BATCH = 64
"""Images of one size that the model sees at a time, at most."""

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
        """For a program; a file name that is not UTF-8 is what `os.fsencode` takes back."""
        label = {} if self.target == "values" else {"label": self.label}
        return {"image": str(self.image), **label, WHAT[self.target]: self.numbers}

    def as_line(self) -> str:
        """For a reader: at most three classes, or all values."""
        image = printable(self.image)
        first, *others = [f"{name} {number:.4f}" for name, number in self.numbers.items()]
        if self.target == "values":
            return f"{image}: {', '.join([first, *others])}"
        return f"{image}: {first}" + (f" (then {', '.join(others[:2])})" if others else "")


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What came of all images.

    Attributes:
        items: in the order of the images, without those that cannot be read.
        problems: why not, by image.
        seconds: of decoding and predicting; loading the model is not counted.
    """

    items: tuple[Prediction, ...]
    problems: dict[Path, str]
    seconds: float

    @property
    def images_per_second(self) -> float:
        """Of those that were predicted."""
        return len(self.items) / self.seconds

    def as_json(self) -> dict[str, Any]:
        """For a program."""
        return {
            "predictions": [item.as_json() for item in self.items],
            "unreadable": [
                {"image": str(image), "reason": reason} for image, reason in self.problems.items()
            ],
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
        }

    def refuse_problems(self) -> None:
        """Raise UsageError that names every image that cannot be read, if there are any."""
        if self.problems:
            listed = [f"{printable(image)}: {reason}" for image, reason in self.problems.items()]
            raise UsageError("\n  ".join(["cannot read:", *listed]))


def predict(model_path: Path, image_paths: Sequence[Path], trainable: str = "") -> Predictions:
    """What the model of a file says of images, decoded as they are for training.

    Args:
        model_path: an exported file of any format.
        image_paths: image files; folders stand for the images in and below them, sorted.
        trainable: a user's own, whose module may be imported if the file is of its weights.

    Raises:
        UsageError: if the model or a folder cannot be used.
    """
    images = find_images(image_paths)
    model = load_exported(model_path, trainable)
    if model.in_channels not in (1, 3):
        raise UsageError(
            f"{model_path}: takes images of {model.in_channels} channels; `hpo predict` reads "
            "pictures as grey (1) or RGB (3)"
        )
    started = time.perf_counter()
    found: dict[int, Prediction] = {}
    problems: dict[Path, str] = {}
    for portion in _portions(images, model, problems):
        for numbers, pixels in _batches(portion, model):
            outputs = _outputs(model_path, model, pixels)
            for number, output in zip(numbers, outputs, strict=True):
                found[number] = _prediction(images[number], output, model)
    return Predictions(
        items=tuple(found[number] for number in sorted(found)),
        problems=problems,
        seconds=time.perf_counter() - started,
    )


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The files as they are given; for a folder, the images that training would find in it.

    Raises:
        UsageError: for folders that cannot be read or have no image, all of them.
    """
    images: list[Path] = []
    problems: list[str] = []
    for path in paths:
        if not os.path.isdir(path):  # unlike Path.is_dir it never raises; decoding says why
            images.append(path)
            continue
        try:
            inside = sorted(files_below(str(path), (), Counter()))
        except DataError as error:
            problems.append(printable(str(error)))
            continue
        images += map(Path, inside)
        if not inside:
            suffixes = ", ".join(sorted(SUFFIXES))
            problems.append(f"no image in {printable(path)}; looked for {suffixes}")
    if problems:
        raise UsageError("\n  ".join(["cannot look for images:", *problems]))
    return images


def printable(path: Path | str) -> str:
    """A file name with its bytes that are no UTF-8 as escapes, which every terminal prints."""
    return str(path).encode(errors="backslashreplace").decode()


Numbered = tuple[int, Images]
"""The place of an image among all, and its pixels (C, H, W)."""


def _portions(
    paths: Sequence[Path], model: ExportedModel, problems: dict[Path, str]
) -> Iterator[list[Numbered]]:
    """Decoded images, as many at a time as memory should hold; why not, goes into ``problems``."""
    portion: list[Numbered] = []
    n_pixels = 0
    for number, path in enumerate(paths):
        try:
            pixels = decode(path, model.in_channels)
            if model.shorter_side:  # a user's own model need not say what it resizes to
                check_resized(pixels, model.shorter_side)
        except PictureError as error:
            problems[path] = str(error)
            continue
        portion.append((number, pixels))
        n_pixels += _n_pixels(pixels, model)
        if n_pixels >= MAX_PIXELS:
            yield portion
            portion, n_pixels = [], 0
    yield portion


def _n_pixels(pixels: Images, model: ExportedModel) -> int:
    """Pixels of an image as it is or as the model resizes it, whichever are more."""
    height, width = pixels.shape[1:]
    resized = model.shorter_side * model.shorter_side * max(height, width) // min(height, width)
    n_pixels: int = max(height * width, resized)
    return n_pixels


def _batches(
    portion: Sequence[Numbered], model: ExportedModel
) -> Iterator[tuple[list[int], Images]]:
    """Images of one size together, (B, C, H, W), and their numbers."""
    by_size: dict[tuple[int, ...], list[Numbered]] = {}
    for number, pixels in portion:
        by_size.setdefault(pixels.shape, []).append((number, pixels))
    for alike in by_size.values():
        size = max(1, min(BATCH, MAX_PIXELS // _n_pixels(alike[0][1], model)))
        for start in range(0, len(alike), size):
            batch = alike[start : start + size]
            yield [number for number, _ in batch], np.stack([pixels for _, pixels in batch])


def _outputs(path: Path, model: ExportedModel, images: Images) -> Outputs:
    """What the model computes.

    Raises:
        UsageError: if it fails on these images, or computes something else than it says.
    """
    n, _, height, width = images.shape
    try:
        outputs = model.run(images)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")
        raise UsageError(
            f"{path}: fails on images of {width}x{height} pixels: {type(error).__name__}: {reason}"
            "; if it takes one size only, resize them to it before"
        ) from error
    expected = (n, len(model.class_names), *(["H", "W"] if model.target == "masks" else []))
    if outputs.shape[:2] != expected[:2] or outputs.ndim != len(expected):
        raise UsageError(
            f"{path}: gives outputs of shape {outputs.shape} for images of {width}x{height} "
            f"pixels; for {model.target} called {', '.join(model.class_names)} it should be "
            f"({', '.join(map(str, expected))})"
        )
    return outputs


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
