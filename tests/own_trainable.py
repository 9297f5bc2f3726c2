"""A trainable such as a user would write: tests copy it into a user's folder.

What a config may say: ``pixels``, a predictor of 2x2 images only; ``rebuilds``, one that other
formats can be made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from trainables import FinalModel


class Shades(torch.nn.Module):
    """Of images of any size: by how bright they are."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(1, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) uint8 -> (B, 2) probabilities."""
        shade = images.float().mean(dim=(1, 2, 3)).unsqueeze(1) / 255
        return self.linear(shade).softmax(dim=1)


class Pixels(torch.nn.Module):
    """Of RGB images of 2x2 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(12, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, 2, 2) uint8 -> (B, 2) probabilities."""
        return self.linear(images.flatten(1).float() / 255).softmax(dim=1)


def train(config: Mapping[str, Any]) -> float:
    """One report."""
    return float(config["lr"])


def finish(config: Mapping[str, Any], _trial: object) -> FinalModel:
    """Three test images, too few to compare on."""
    images = torch.randint(0, 256, (300, 3, 2, 2), dtype=torch.uint8)
    description = {"pixels": config["pixels"], "given_parts": ["test"]}
    return FinalModel(
        predictor=rebuild(description),
        class_names=("no", "y|es"),
        n_correct=2,
        n_test=3,
        test_images=images[:3],
        test_labels=torch.tensor([1, 1, 0]),
        other_images=images[3:],
        description=description if config["rebuilds"] else None,
    )


def rebuild(description: Mapping[str, Any]) -> torch.nn.Module:
    """Either predictor."""
    return Pixels() if description["pixels"] else Shades()
