"""The network with everything around it that production needs, in one scriptable module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional
from torchvision import transforms


class Predictor(nn.Module):
    """(B, C, H, W) uint8 images of any size -> (B, n_classes) probabilities.

    Resizes the shorter side, crops the centre, converts to float, normalizes, runs the network and
    applies softmax, so that whoever loads the file need not know how it was trained.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        image_size: int,
        in_channels: int,
        class_names: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.class_names = list(class_names)
        self.in_channels = in_channels
        self.transforms = nn.Sequential(
            transforms.Resize([image_size], antialias=True),
            transforms.CenterCrop(image_size),
            transforms.ConvertImageDtype(torch.float),
            transforms.Normalize(list(mean), list(std)),
        )
        self.network = network.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.network(self.transforms(images))
        return functional.softmax(logits, dim=1)
