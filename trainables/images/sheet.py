"""A picture that shows what an augmentation does."""

from __future__ import annotations

import torch
from PIL import Image

from trainables.images.arrays import Pixels
from trainables.images.augmentation import TrainingTransforms, evaluation_transforms
from trainables.images.config import AugmentationConfig, DataConfig

GAP = 4  # pixels between images
MIN_SIDE = 64  # smaller images are enlarged by a whole factor, so that single pixels can be seen


def augmentation_sheet(
    images: Pixels,
    data: DataConfig,
    augmentation: AugmentationConfig,
    seed: int,
    *,
    n_rows: int = 5,
) -> Image.Image:
    """Originals in the first row, as a network is tested on them; augmented in ``n_rows`` more.

    Args:
        images: (n, C, H, W) uint8, grey or RGB; one column each.
        data: sizes before and after the crop.
        augmentation: what is done to the images at random.
        seed: of the draws; the caller's generator is left alone.
        n_rows: augmented versions of each image.
    """
    originals = torch.from_numpy(images)
    augment = TrainingTransforms(data, augmentation)
    rows = [evaluation_transforms(data)(originals)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # One at a time: side by side in a batch, images would share the draws of their group.
        rows += [torch.cat([augment(one) for one in originals.split(1)]) for _ in range(n_rows)]
    factor = max(1, -(-MIN_SIDE // data.image_size))
    side = data.image_size * factor
    sheet = Image.new(
        "RGB", (GAP + len(images) * (side + GAP), GAP + len(rows) * (side + GAP)), "white"
    )
    for row, batch in enumerate(rows):
        for column, image in enumerate(batch):
            pixels = image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
            tile = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(tile, (GAP + column * (side + GAP), GAP + row * (side + GAP)))
    return sheet
