"""What is done to images before a network sees them: in training at random, in use always alike.

All steps take and return (B, C, H, W) uint8 batches, grey or RGB, and draw from torch's global
generator on the CPU, as torchvision does; the caller seeds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional
from torchvision import transforms
from torchvision.transforms import v2

from trainables.images.arrays import Target
from trainables.images.config import AugmentationConfig, DataConfig
from trainables.images.errors import DataConfigError
from trainables.images.fitting import Fit

# Images that share one draw of those transformations that torchvision makes on whole batches only.
# Nearly all of the time of a draw is fixed cost (0.5 ms on 8x8 images, as long for 1 image as for
# 256); one draw per image would take ten times as long as training the network on it. Affine, flip
# and crop are computed here for a whole batch with a draw for each image.
IMAGES_PER_DRAW = 8

Step = Callable[[torch.Tensor], torch.Tensor]

POLICIES = {
    "imagenet": v2.AutoAugmentPolicy.IMAGENET,
    "cifar10": v2.AutoAugmentPolicy.CIFAR10,
    "svhn": v2.AutoAugmentPolicy.SVHN,
}


def evaluation_transforms(data: DataConfig) -> nn.Sequential:
    """From (B, C, H, W) uint8 images of any size to the network's input size; scriptable.

    Pictures of a folder have been through the first half when they come from the cache, which
    changes nothing when it is done again, so that a file and its cached pixels end up the same.
    """
    return nn.Sequential(
        Fit(data.shorter_side), transforms.CenterCrop([data.image_size, data.image_size])
    )


def normalize(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """(B, C, H, W) uint8 images as float32, each channel with ``mean`` 0 and ``std`` 1.

    Both are those of the training images as fractions from 0 to 1, see `channel_statistics`.
    """
    normalized: torch.Tensor = transforms.functional.normalize(
        images.float() / 255, list(mean), list(std)
    )
    return normalized


class TrainingTransforms:
    """Resize, affine, colour jitter, flip, crop, RandAugment, AutoAugment: those that are on.

    Raises:
        DataConfigError: if pixels would be moved while the targets, values or masks, stay.
    """

    def __init__(
        self, data: DataConfig, augmentation: AugmentationConfig, target: Target = "classes"
    ) -> None:
        if problem := augmentation.problem_with(target):
            raise DataConfigError(problem)
        self._steps = list(_steps(data, augmentation))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) uint8 -> (B, C, image_size, image_size) uint8."""
        for step in self._steps:
            images = step(images)
        return images


def _steps(data: DataConfig, augmentation: AugmentationConfig) -> list[Step]:
    on = augmentation
    steps: list[Step] = [Fit(data.shorter_side)]
    if on.affine_degrees or on.affine_translate or on.affine_scale:
        steps.append(RandomAffine(on.affine_degrees, on.affine_translate, on.affine_scale))
    if on.jitter_brightness or on.jitter_contrast or on.jitter_saturation or on.jitter_hue:
        # On grey images torchvision leaves saturation and hue out.
        steps.append(
            in_groups(
                v2.ColorJitter(
                    on.jitter_brightness, on.jitter_contrast, on.jitter_saturation, on.jitter_hue
                )
            )
        )
    if on.horizontal_flip:
        steps.append(RandomFlip(on.horizontal_flip))
    steps.append(Crop(data.image_size, on.crop_padding, anywhere=on.random_crop))
    if on.randaugment_num_ops:
        # Cubuk et al. 2019, arXiv:1909.13719; magnitudes in 31 bins as in torchvision.
        steps.append(in_groups(v2.RandAugment(on.randaugment_num_ops, on.randaugment_magnitude)))
    if on.auto_augment != "none":
        # Cubuk et al. 2018, arXiv:1805.09501.
        steps.append(in_groups(v2.AutoAugment(POLICIES[on.auto_augment])))
    return steps


def in_groups(transform: Step) -> Step:
    """``transform`` with a draw of its own for every `IMAGES_PER_DRAW` images of a batch."""
    return lambda images: torch.cat([transform(group) for group in images.split(IMAGES_PER_DRAW)])


class RandomAffine:
    """Rotate, zoom and shift each image about its centre; black comes in from outside.

    As `torchvision.transforms.v2.RandomAffine` with bilinear interpolation, on square images.
    """

    def __init__(self, degrees: float, translate: float, scale: float) -> None:
        self._degrees, self._translate, self._scale = degrees, translate, scale

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        draws = torch.rand(4, len(images)) * 2 - 1  # from -1 to 1
        angle = draws[0] * math.radians(self._degrees)
        zoom = 1 + draws[1] * self._scale
        shift = draws[2:].T * 2 * self._translate  # a grid is 2 wide: from -1 to 1
        cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
        backward = torch.stack([cos, sin, -sin, cos], dim=1).view(-1, 2, 2)
        origin = -backward @ shift.unsqueeze(2)  # where an output pixel comes from
        theta = torch.cat([backward, origin], dim=2).to(images.device)  # (B, 2, 3)
        grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
        moved = functional.grid_sample(images.float(), grid, align_corners=False)
        return moved.round().to(torch.uint8)


class RandomFlip:
    """Mirror each image left for right with a probability."""

    def __init__(self, probability: float) -> None:
        self._probability = probability

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        chosen = (torch.rand(len(images)) < self._probability).to(images.device)
        return torch.where(chosen.view(-1, 1, 1, 1), images.flip(-1), images)


class Crop:
    """Cut a square of ``size`` out of each image: its centre, or ``anywhere`` within it.

    The place is shifted by up to ``padding`` pixels; outside the image lies its reflection.
    """

    def __init__(self, size: int, padding: int = 0, *, anywhere: bool = False) -> None:
        self._size, self._padding, self._anywhere = size, padding, anywhere

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        n, _, height, width = images.shape
        if (height, width) == (self._size, self._size) and not self._padding:
            return images
        rows = self._places(n, height).to(images.device)  # (B, size)
        columns = self._places(n, width).to(images.device)
        whole_rows = images.gather(2, rows.view(n, 1, -1, 1).expand(-1, images.shape[1], -1, width))
        return whole_rows.gather(
            3, columns.view(n, 1, 1, -1).expand(-1, images.shape[1], self._size, -1)
        )

    def _places(self, n: int, length: int) -> torch.Tensor:
        """(n, size) indices into an image of ``length`` pixels along one axis."""
        spare = length - self._size
        centre = round(spare / 2)  # as torchvision rounds
        low, high = (0, spare) if self._anywhere else (centre, centre)
        starts = torch.randint(low - self._padding, high + self._padding + 1, (n, 1))
        period = 2 * (length - 1)
        unfolded = (starts + torch.arange(self._size)) % period
        return torch.where(unfolded < length, unfolded, period - unfolded)
