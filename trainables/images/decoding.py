"""One picture file of any kind into pixels, or the reason why not."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from trainables.images.arrays import Pixels

MAX_PIXELS = 50_000_000
"""Larger pictures are refused before they are decoded: a file of kilobytes can hold gigabytes."""

# Pillow warns of what is refused here anyway. For good, as pictures are decoded in threads, and
# `warnings.catch_warnings` is for all of them.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)

# Pillow would hand an .eps that is called .png to Ghostscript; only these formats are tried.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = frozenset({
    ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm", ".pfm", ".pgm",
    ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
})  # fmt: skip


class PictureError(Exception):
    """A file is no picture that can be used; the message is the reason."""


def decode(path: Path, channels: int) -> Pixels:
    """Decode a picture, upright, into (channels, H, W) uint8; 1 channel is grey, 3 are RGB.

    The orientation of EXIF is respected, the first of several frames is taken, transparency lies
    on white. Pictures of 16 bits, and of Pillow's mode I, count from 0 to 65,535; floating-point
    ones from 0 to 1, or to 255 if a pixel is above 1.

    Raises:
        PictureError: if the file is empty, damaged, cut off, too large or no picture.
    """
    try:
        pixels = _read(path, "L" if channels == 1 else "RGB")
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError("is no picture of a known format") from None
    except Image.DecompressionBombError:
        raise PictureError(f"has more than {MAX_PIXELS / 1e6:g} megapixels") from None
    except OSError as error:
        raise PictureError(error.strerror or str(error)) from None
    except Exception as error:  # noqa: BLE001  a broken file makes Pillow raise nearly anything
        raise PictureError(f"is damaged: {type(error).__name__}: {error}") from None
    return pixels[np.newaxis] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _read(path: Path, mode: str) -> npt.NDArray[np.uint8]:
    if path.stat().st_size == 0:
        raise PictureError("is empty")
    with Image.open(path, formats=FORMATS) as image:
        check_size(image.width, image.height)
        upright = ImageOps.exif_transpose(image)
        return np.array(_on_white(_eight_bit(upright)).convert(mode))


def check_size(width: int, height: int) -> None:
    """Raise PictureError unless there are some pixels, and not too many."""
    if width * height == 0:
        raise PictureError(f"has {width}x{height} pixels")
    if width * height > MAX_PIXELS:
        raise PictureError(
            f"has {width * height / 1e6:.1f} megapixels, more than {MAX_PIXELS / 1e6:g}"
        )


def check_resized(picture: Pixels, shorter_side: int) -> None:
    """Raise PictureError for a (C, H, W) picture so thin that resizing would blow it up.

    Args:
        picture: at least one pixel high and wide.
        shorter_side: pixels to which `Fit` resizes the shorter of its sides, at least 1.
    """
    shorter, longer = sorted(picture.shape[1:])
    try:
        check_size(shorter_side, shorter_side * longer // shorter)
    except PictureError as error:
        raise PictureError(
            f"is {longer / shorter:.0f} times as long as wide; resized it {error}"
        ) from None


def _eight_bit(image: Image.Image) -> Image.Image:
    """Pillow's own conversion would cut 16 bits and floats off at 255."""
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.float64)
    highest = 65535.0 if image.mode != "F" else 255.0 if values.max() > 1 else 1.0
    if not (values.min() >= 0 and values.max() <= highest):  # NaN is neither
        raise PictureError(
            f"has pixels from {values.min():g} to {values.max():g}; mode {image.mode} may have "
            f"0 to {highest:g}"
        )
    return Image.fromarray(np.round(values * (255 / highest)).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
