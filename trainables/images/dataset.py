"""Images as a training needs them: split into train, validation and test, and described before."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import cast

import numpy as np

from trainables.images.arrays import (
    ImageArrays,
    Indices,
    Pixels,
    Target,
    Targets,
    chunks,
    digest_of,
    with_channels,
)
from trainables.images.cache import save, stored
from trainables.images.catalogue import DATASETS, FOLDER, DataSet
from trainables.images.config import DataConfig
from trainables.images.errors import DataError
from trainables.images.folder import bad_pictures, class_names, find_pictures, read_folder
from trainables.images.hashing import content_hashes
from trainables.images.split import split_parts, subset

READER = 1
"""Counts the changes of how a downloaded set becomes arrays; older cache entries are then left."""


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What a network has to know of its images; found without loading them.

    Attributes:
        channels: of the network's input, 1 or 3.
        height: of the network's input in pixels.
        width: the same.
        target: "classes" (n,), "values" (n, k) or "masks" (n, H, W).
        class_names: of the network's outputs; the names of the values in a regression.
        n_images: in all parts together; None if nobody has counted.
    """

    channels: int
    height: int
    width: int
    target: Target
    class_names: tuple[str, ...]
    n_images: int | None = None

    @property
    def n_outputs(self) -> int:
        """Numbers that a network predicts per image, or per pixel of a mask."""
        return len(self.class_names)


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Some of the images of a data set, and their targets; copies none until they are asked for.

    Attributes:
        arrays: the whole data set.
        indices: (n,) int64, which of its images these are, in this order.
    """

    arrays: ImageArrays
    indices: Indices

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of each image."""
        return cast("tuple[int, int, int]", self.arrays.pixels.shape[1:])

    @cached_property
    def targets(self) -> Targets:
        """(n,) int64 classes, (n, k) float32 values or (n, H, W) int64 masks."""
        return self.arrays.targets[self.indices]

    def batch(self, indices: Indices | slice = slice(None)) -> tuple[Pixels, Targets]:
        """Copies of the images (B, C, H, W) uint8 and targets at ``indices``; without them all."""
        rows = self.indices[indices]
        return self.arrays.pixels[rows], self.arrays.targets[rows]


@dataclass(frozen=True, eq=False)
class SplitImages:
    """A data set in three parts that share no image.

    ``fingerprint`` is a SHA-256 of pixels, targets and split: equal if and only if all are equal.
    ``warnings`` are sentences about what was left out or looks wrong.
    """

    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages
    class_names: tuple[str, ...]
    fingerprint: str
    warnings: tuple[str, ...] = ()

    def train_and_validation(self) -> LabelledImages:
        """Everything but the test set, for retraining; ``n_train`` still holds for its part."""
        both = np.concatenate([self.train.indices, self.validation.indices])
        return LabelledImages(self.train.arrays, both)


def describe(config: DataConfig, data_dir: Path) -> DataFacts:
    """Facts of the images of ``config``; nothing is downloaded, decoded or counted.

    A folder of pictures has the channels that ``channels`` asks for, and RGB for "auto": whether
    all pictures of a folder are grey is not known without reading each of them.

    Raises:
        DataError: if a folder has no classes.
    """
    if config.dataset.startswith(FOLDER):
        return DataFacts(
            channels=1 if config.channels == "grey" else 3,
            height=config.image_size,
            width=config.image_size,
            target="classes",
            class_names=class_names(_folder(config, data_dir)),
        )
    known = DATASETS[config.dataset]
    return DataFacts(
        channels={"auto": known.channels, "grey": 1, "rgb": 3}[config.channels],
        height=config.image_size,
        width=config.image_size,
        target=known.target,
        class_names=known.class_names,
        n_images=known.n_images,
    )


def check_images(config: DataConfig, data_dir: Path) -> None:
    """Look whether the images of ``config`` are there, or may be downloaded; none is read.

    Raises:
        DataError: if they are not.
    """
    if config.dataset.startswith(FOLDER):
        class_names(_folder(config, data_dir))
        return
    download = DATASETS[config.dataset].download
    if download is not None and not config.download:
        download.find(data_dir, fetch=False)


def load_split(config: DataConfig, data_dir: Path) -> SplitImages:
    """Load the images of ``config`` and split them; cheap when it is done again in one process.

    Pictures of a folder come resized and cropped to ``config.shorter_side``, all others in their
    own size. What is downloaded or decoded is kept in ``data_dir``.

    Raises:
        DataError: if the images are missing, cannot be read or cannot be split.
        DataConfigError: if they cannot be split as ``config`` asks for.
    """
    facts = describe(config, data_dir)
    if config.dataset.startswith(FOLDER):
        folder = find_pictures(_folder(config, data_dir))
        arrays, warnings = read_folder(
            folder, channels=facts.channels, size=config.shorter_side, data_dir=data_dir
        )
        warnings += _judge_bad(config, folder.root, arrays)
    else:
        arrays, warnings = _load(config, facts.channels, data_dir), []
    return _split(
        arrays,
        facts.class_names,
        tuple(warnings),
        config.split_seed,
        config.validation_fraction,
        config.test_fraction,
        config.n_train,
    )


@lru_cache(maxsize=8)
def channel_statistics(images: LabelledImages) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, of pixels as fractions from 0 to 1.

    The deviation is at least 1e-6, so that it can be divided by.
    """
    channels = images.shape[0]
    counts = np.zeros((channels, 256))  # of each grey value: exact, and no copy in floats
    for chunk in chunks(len(images)):
        pixels, _ = images.batch(chunk)
        for channel in range(channels):
            counts[channel] += np.bincount(pixels[:, channel].reshape(-1), minlength=256)
    weights = counts / counts.sum(axis=1, keepdims=True)
    values = np.arange(256) / 255
    mean = weights @ values
    variance = (weights * (values - mean[:, np.newaxis]) ** 2).sum(axis=1)
    return tuple(mean.tolist()), tuple(np.sqrt(variance).clip(min=1e-6).tolist())


def _folder(config: DataConfig, data_dir: Path) -> Path:
    return (data_dir / config.dataset.removeprefix(FOLDER)).absolute()


def _load(config: DataConfig, channels: int, data_dir: Path) -> ImageArrays:
    known = DATASETS[config.dataset]
    if known.download is None:
        return _made_in_memory(known, channels)
    folder, files = known.download.find(data_dir, fetch=config.download)
    hashes = content_hashes(files, data_dir)
    key = hashlib.sha256(repr((READER, config.dataset, channels, hashes)).encode()).hexdigest()

    def build(place: Path) -> dict[str, object]:
        return dict(save(place, _read(known, channels, folder)))

    return stored(key, build, data_dir)


@lru_cache(maxsize=4)
def _made_in_memory(known: DataSet, channels: int) -> ImageArrays:
    return _read(known, channels)


def _read(known: DataSet, channels: int, *folder: Path) -> ImageArrays:
    arrays = known.read(*folder)
    if channels == known.channels:
        return arrays
    return ImageArrays.of(with_channels(arrays.pixels, channels), arrays.targets, arrays.parts)


def _judge_bad(config: DataConfig, root: Path, arrays: ImageArrays) -> list[str]:
    n_bad, n = len(arrays.notes["bad"]), len(arrays.parts)
    if not n_bad:
        return []
    listed = "\n  ".join(bad_pictures(arrays))
    if config.bad_images == "refuse":
        raise DataError(
            f"{root}: {n_bad} of {n} pictures cannot be used; remove them, or set "
            f"`bad_images: skip`:\n  {listed}"
        )
    return [f"{root}: {n_bad} of {n} pictures were left out:\n  {listed}"]


@lru_cache(maxsize=8)
def _split(
    arrays: ImageArrays,
    names: Sequence[str],
    warnings: tuple[str, ...],
    seed: int,
    validation_fraction: float,
    test_fraction: float,
    n_train: int | None,
) -> SplitImages:
    train, validation, test = split_parts(
        arrays.targets,
        arrays.parts,
        seed=seed,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        class_names=names,
    )
    if n_train is not None:
        train = subset(train, arrays.targets, n_train, seed)
    digests = arrays.digest + digest_of(train, validation, test)
    return SplitImages(
        train=LabelledImages(arrays, train),
        validation=LabelledImages(arrays, validation),
        test=LabelledImages(arrays, test),
        class_names=tuple(names),
        fingerprint=hashlib.sha256(digests.encode()).hexdigest(),
        warnings=warnings,
    )
