"""scikit-learn's handwritten digits, which need no download."""

from __future__ import annotations

import numpy as np

from trainables.images.arrays import ImageArrays


def read_digits() -> ImageArrays:
    """1,797 handwritten digits, (1797, 1, 8, 8), grey on black, and their classes.

    Source: Alpaydin & Kaynak 1998, UCI "Optical Recognition of Handwritten Digits", test part.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)  # ink is 0 to 16
    return ImageArrays.of(pixels[:, np.newaxis], digits.target.astype(np.int64))
