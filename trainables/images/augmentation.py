"""RandAugment on batches of uint8 images."""

from __future__ import annotations

import torch
from torchvision.transforms import v2

# Images that share one draw of transformations. On 8x8 images nearly all of the time of a draw is
# fixed cost (0.5 ms here, as long for 1 image as for 256); one draw per image would take ten times
# as long as training the network on it.
IMAGES_PER_DRAW = 8


class RandAugment:
    """``num_ops`` random transformations of strength ``magnitude`` (0 to 30) on each image.

    Draws from torch's global generator, as torchvision does; the caller seeds it.
    Source: Cubuk et al. 2019, arXiv:1909.13719; magnitudes in 31 bins as in torchvision.
    """

    def __init__(self, num_ops: int, magnitude: int) -> None:
        self._transform = v2.RandAugment(num_ops, magnitude) if num_ops > 0 else None

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Transform (B, C, H, W) uint8 images into images of the same shape."""
        if self._transform is None:
            return images
        return torch.cat([self._transform(group) for group in images.split(IMAGES_PER_DRAW)])
