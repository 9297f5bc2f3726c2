"""The network with everything around it that production needs, in one scriptable module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional
from torchvision import transforms

from trainables.cnn.architecture import Target


class Predictor(nn.Module):
    """(B, C, H, W) uint8 images of any size -> (B, n_classes) probabilities.

    Resizes the shorter side, crops the centre, converts to float, normalizes, runs the network and
    applies softmax, so that whoever loads the file need not know how it was trained. A regression's
    output is (B, n_values) values, a segmentation's (B, n_classes, H, W) probabilities.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        fit: nn.Module,
        in_channels: int,
        class_names: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        target: Target = "classes",
    ) -> None:
        """``fit`` brings images of any size to that of the network."""
        super().__init__()
        self.class_names = list(class_names)
        self.in_channels = in_channels
        self.target: str = target
        self.transforms = nn.Sequential(
            fit,
            transforms.ConvertImageDtype(torch.float),
            transforms.Normalize(list(mean), list(std)),
        )
        self.network = network.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.network(self.transforms(images))
        if self.target == "values":
            return outputs
        return functional.softmax(outputs, dim=1)
