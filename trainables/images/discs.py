"""Generated images for regression and segmentation: one bright, noisy disc on a dark ground."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trainables.images.arrays import ImageArrays, Pixels

SIZE = 32
N_DISCS = 2000
MIN_RADIUS, MAX_RADIUS = 3.0, 9.0
NOISE = 15.0  # standard deviation, of 255


def read_discs() -> ImageArrays:
    """(2000, 1, 32, 32) images; targets (x, y, radius) as fractions of the image's side.

    x counts from the left and y from the top; the whole disc lies within the image.
    """
    pixels, circles, _ = _draw()
    return ImageArrays.of(pixels, (circles / SIZE).astype(np.float32))


def read_disc_masks() -> ImageArrays:
    """The same images; targets (2000, 32, 32) are 1 where a pixel's centre is in the disc."""
    pixels, _, masks = _draw()
    return ImageArrays.of(pixels, masks.astype(np.int64))


def _draw() -> tuple[Pixels, npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    rng = np.random.default_rng(0)
    radius = rng.uniform(MIN_RADIUS, MAX_RADIUS, N_DISCS)
    x, y = rng.uniform(radius, SIZE - radius, (2, N_DISCS))
    centres = np.arange(SIZE) + 0.5
    dx = centres[np.newaxis, np.newaxis, :] - x[:, np.newaxis, np.newaxis]
    dy = centres[np.newaxis, :, np.newaxis] - y[:, np.newaxis, np.newaxis]
    masks = dx**2 + dy**2 <= radius[:, np.newaxis, np.newaxis] ** 2
    dark = rng.uniform(20, 80, (N_DISCS, 1, 1))
    bright = rng.uniform(120, 230, (N_DISCS, 1, 1))
    images = np.where(masks, bright, dark) + rng.normal(0, NOISE, masks.shape)
    pixels = images.round().clip(0, 255).astype(np.uint8)[:, np.newaxis]
    return pixels, np.stack([x, y, radius], axis=1), masks
