"""`hpo inspect --augmentations`: a picture of training images before and after augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpo.errors import UnfitEnvironmentError, UsageError
from hpo.places import Places

N_IMAGES, SEED = 8, 0


def draw_augmentations(config: Any, places: Places, path: Path) -> None:
    """Write a PNG: some training images in the first row, augmented versions below.

    Raises:
        UsageError: if it cannot be written, or the images cannot be split as ``config`` asks for.
        UnfitEnvironmentError: if the images cannot be read.
    """
    from trainables.images.dataset import load_split
    from trainables.images.errors import DataConfigError, DataError
    from trainables.images.sheet import augmentation_sheet

    try:
        images, _ = load_split(config, places.data).train.batch(slice(N_IMAGES))
    except DataError as error:
        raise UnfitEnvironmentError(str(error)) from None
    except DataConfigError as error:
        raise UsageError(str(error)) from None
    try:
        augmentation_sheet(images, config, config, SEED).save(path, format="PNG")
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from None
