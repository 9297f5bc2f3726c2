"""The network with everything around it that production needs, in one module to export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torchvision import transforms

from trainables.cnn.architecture import Target
from trainables.cnn.build import Network
from trainables.cnn.config import CnnConfig
from trainables.cnn.description import network_for
from trainables.images.augmentation import evaluation_transforms
from trainables.images.dataset import DataFacts


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
        class_names: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        target: Target = "classes",
    ) -> None:
        """``fit`` brings images of any size to that of the network."""
        super().__init__()
        self.class_names = list(class_names)
        self.target: str = target
        self.transforms = nn.Sequential(
            fit,
            transforms.ConvertImageDtype(torch.float),
            Normalize(mean, std),
        )
        self.network = network.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.network(self.transforms(images))
        if self.target == "values":
            return outputs
        return functional.softmax(outputs, dim=1)


class Normalize(nn.Module):
    """Each channel of (B, C, H, W) fractions minus its mean, by its deviation.

    As torchvision's, which asks in Python whether a deviation is 0: of more than one channel
    `torch.export` cannot know.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        # Not persistent: the description has them, not the weights.
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # Undeclared: TorchScript reads no annotation of a buffer.
        normalized: torch.Tensor = (images - self.mean) / self.std  # type: ignore[operator]
        return normalized


def build_predictor(
    network: nn.Module,
    config: CnnConfig,
    data: DataFacts,
    mean: Sequence[float],
    std: Sequence[float],
) -> Predictor:
    """The predictor of a network for images like ``data``, of fractions with ``mean``, ``std``."""
    return Predictor(
        network,
        fit=evaluation_transforms(config),
        class_names=data.class_names,
        mean=mean,
        std=std,
        target=data.target,
    )


def describe_predictor(
    config: CnnConfig, data: DataFacts, mean: Sequence[float], std: Sequence[float]
) -> dict[str, Any]:
    """Everything of a predictor but its weights, ready for JSON."""
    return {
        "target": data.target,
        "shorter_side": config.shorter_side,
        "mean": list(mean),
        "std": list(std),
        "config": config.model_dump(),
        "data": asdict(data),
    }


def rebuild(description: Mapping[str, Any]) -> Predictor:
    """The predictor of `describe_predictor`, with any weights.

    Raises:
        CnnConfigError: if its config breaks a rule of `CnnConfig`.
        InfeasibleError: if its network cannot be built.
    """
    config = CnnConfig.from_mapping(description["config"])
    facts = description["data"]
    data = DataFacts(**{**facts, "class_names": tuple(facts["class_names"])})
    network = Network(network_for(config, data))
    return build_predictor(network, config, data, description["mean"], description["std"]).eval()
