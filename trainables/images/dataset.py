"""Labelled images in memory, their split into train, validation and test, and their fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

VALIDATION_FRACTION = 0.2
TEST_FRACTION = 0.2


@dataclass(frozen=True)
class LabelledImages:
    """``images`` (n, C, H, W) uint8 and their classes ``labels`` (n,) int64."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: npt.NDArray[np.int64]) -> LabelledImages:
        """The images at ``indices``, in that order."""
        return LabelledImages(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class SplitImages:
    """A data set in three parts that share no image.

    ``fingerprint`` is a SHA-256 of pixels, labels and split: equal if and only if all are equal.
    """

    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages
    class_names: tuple[str, ...]
    fingerprint: str

    def train_and_validation(self) -> LabelledImages:
        """Everything but the test set, for retraining."""
        return LabelledImages(
            np.concatenate([self.train.images, self.validation.images]),
            np.concatenate([self.train.labels, self.validation.labels]),
        )


def load_digits() -> tuple[LabelledImages, tuple[str, ...]]:
    """scikit-learn's 1,797 handwritten digits, (1797, 1, 8, 8), grey on black; no download.

    Source: Alpaydin & Kaynak 1998, UCI "Optical Recognition of Handwritten Digits", test part.
    """
    from sklearn.datasets import load_digits as sklearn_digits

    digits = sklearn_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)  # ink is 0 to 16
    images = LabelledImages(pixels[:, np.newaxis], digits.target.astype(np.int64))
    return images, tuple(str(name) for name in digits.target_names)


DATASETS: dict[str, Callable[[], tuple[LabelledImages, tuple[str, ...]]]] = {
    "digits": load_digits,
}


def load_split(dataset: str, split_seed: int) -> SplitImages:
    """Load a data set of ``DATASETS`` and split it 60/20/20, each class in the same proportion."""
    images, class_names = DATASETS[dataset]()
    parts = stratified_split(images.labels, split_seed)
    digest = hashlib.sha256()
    for array in (images.images, images.labels, *parts):
        digest.update(str((array.dtype, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    train, validation, test = (images.take(part) for part in parts)
    return SplitImages(train, validation, test, class_names, digest.hexdigest())


def stratified_split(
    labels: npt.NDArray[np.int64], seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices of train, validation and test: disjoint, complete, classes in proportion."""
    from sklearn.model_selection import train_test_split

    everything = np.arange(len(labels), dtype=np.int64)
    rest, test = train_test_split(
        everything, test_size=TEST_FRACTION, random_state=seed, stratify=labels
    )
    train, validation = train_test_split(
        rest,
        test_size=VALIDATION_FRACTION / (1 - TEST_FRACTION),
        random_state=seed,
        stratify=labels[rest],
    )
    return train, validation, test
