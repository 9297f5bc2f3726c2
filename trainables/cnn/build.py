"""From the description of a network to its torch modules; each keeps its name."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from trainables.cnn import layers
from trainables.cnn.architecture import Architecture
from trainables.cnn.pooling import FractionalMaxPool, MixedPool, PyramidPool, StochasticPool


class Network(nn.Module):
    """(B, C, H, W) float32 images -> (B, n_outputs), or (B, n_outputs, H, W) for masks."""

    def __init__(self, network: Architecture) -> None:
        super().__init__()
        self.backbone = module(network.backbone)
        self.neck = module(network.neck)
        self.head = module(network.head)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.head(self.neck(self.backbone(images)))
        return outputs


class Sum(nn.Sequential):
    """Adds what its branches, which are its children, make of one input."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(())
        for index, branch in enumerate(self):
            output = branch(images)
            total = output if index == 0 else total + output
        return total


class Concat(nn.Sequential):
    """Puts the channels of its branches, which are its children, one behind the other."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs: list[torch.Tensor] = []
        for branch in self:
            outputs.append(branch(images))  # noqa: PERF401  TorchScript comprehends no modules
        return torch.cat(outputs, dim=1)


def module(node: layers.Node) -> nn.Module:
    """The torch module of a layer, or of a tree of them."""
    if isinstance(node, layers.Sequence):
        return nn.Sequential(OrderedDict((name, module(part)) for name, part in node.parts))
    if isinstance(node, layers.Sum | layers.Concat):
        branches = OrderedDict((name, module(branch)) for name, branch in node.branches)
        return Sum(branches) if isinstance(node, layers.Sum) else Concat(branches)
    return MODULES[type(node)](node)


def _conv(layer: layers.Conv) -> nn.Module:
    return nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel,
        layer.stride,
        layer.padding,
        groups=layer.groups,
        bias=layer.has_bias,
        padding_mode=layer.padding_mode,
    )


def _batch_norm(layer: layers.BatchNorm) -> nn.Module:
    kind = nn.BatchNorm2d if layer.n_dims == 2 else nn.BatchNorm1d
    return kind(layer.n_channels)


def _dropout(layer: layers.Dropout) -> nn.Module:
    kind = nn.Dropout2d if layer.n_dims == 2 else nn.Dropout
    return kind(layer.probability)


def _pool(layer: layers.Pool) -> nn.Module:
    pools: dict[str, Callable[[], nn.Module]] = {
        "max": lambda: nn.MaxPool2d(2),
        "average": lambda: nn.AvgPool2d(2),
        "fractional": lambda: FractionalMaxPool(layer.ratio),
        "mixed": MixedPool,
        "stochastic": StochasticPool,
    }
    return pools[layer.name]()


def _global_pool(layer: layers.GlobalPool) -> nn.Module:
    pool = nn.AdaptiveAvgPool2d(1) if layer.name == "average" else nn.AdaptiveMaxPool2d(1)
    return nn.Sequential(pool, nn.Flatten())


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}

MODULES: dict[type[Any], Callable[[Any], nn.Module]] = {
    layers.Conv: _conv,
    layers.BatchNorm: _batch_norm,
    layers.Activation: lambda layer: ACTIVATIONS[layer.name](),
    layers.Dropout: _dropout,
    layers.Pool: _pool,
    layers.Flatten: lambda _: nn.Flatten(),
    layers.GlobalPool: _global_pool,
    layers.Pyramid: lambda layer: PyramidPool(layer.bins),
    layers.Linear: lambda layer: nn.Linear(
        layer.in_features, layer.out_features, bias=layer.has_bias
    ),
    layers.Upsample: lambda layer: nn.Upsample(
        size=layer.size, mode="bilinear", align_corners=False
    ),
}
