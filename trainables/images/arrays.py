"""Images as arrays: pixels, targets, and the part of the data set that each belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Targets = npt.NDArray[np.int64] | npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Target = Literal["classes", "values", "masks"]

TRAIN, VALIDATION, TEST, UNREADABLE = 0, 1, 2, -1
"""Parts. What a data set leaves unassigned is TRAIN; the rows of UNREADABLE mean nothing."""

CHUNK = 4096
"""Images that are worked on at a time, so that no whole data set stands in memory as numbers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageArrays:
    """All images of a data set, in memory or memory-mapped.

    Attributes:
        pixels: (n, C, H, W) uint8.
        targets: (n,) int64 classes, (n, k) float32 values or (n, H, W) int64 masks.
        parts: (n,) int8, of TRAIN, VALIDATION, TEST, UNREADABLE.
        digest: SHA-256 of the three.
        notes: what else was found while decoding, ready for JSON.
    """

    pixels: Pixels
    targets: Targets
    parts: npt.NDArray[np.int8]
    digest: str
    notes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, pixels: Pixels, targets: Targets, parts: npt.NDArray[np.int8] | None = None
    ) -> ImageArrays:
        """Arrays with their digest; without ``parts`` the data set leaves all unassigned."""
        parts = np.zeros(len(pixels), np.int8) if parts is None else parts
        # An axis of length 1 may have any stride, and torch chooses by strides how it convolves:
        # with another layout the same images would give another last digit.
        pixels = pixels.reshape(-1).reshape(pixels.shape)
        return cls(
            pixels=pixels,
            targets=targets,
            parts=parts,
            digest=digest_of(pixels, targets, parts),
        )


def digest_of(*arrays: npt.NDArray[Any]) -> str:
    """SHA-256 of the types, shapes and values of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str((array.dtype, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def chunks(n: int) -> Iterator[slice]:
    """Slices of at most `CHUNK` that cover ``n`` rows."""
    return (slice(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK))


def with_channels(pixels: Pixels, channels: int) -> Pixels:
    """(n, C, H, W) grey or RGB images with 1 or 3 channels; grey as Pillow weighs it.

    Source: ITU-R BT.601 luma in 16-bit integers, as in Pillow's ``convert("L")``.
    """
    if pixels.shape[1] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=1)
    grey = np.empty((len(pixels), 1, *pixels.shape[2:]), np.uint8)
    for chunk in chunks(len(pixels)):
        red, green, blue = pixels[chunk].astype(np.uint32).transpose(1, 0, 2, 3)
        grey[chunk, 0] = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
    return grey
