"""How the weights of convolutions and linear layers begin; biases begin at zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

INITIALIZATIONS: dict[str, Callable[..., Any]] = {
    "kaiming": nn.init.kaiming_normal_,  # He et al. 2015, arXiv:1502.01852: for ReLU
    "xavier": nn.init.xavier_uniform_,  # Glorot & Bengio 2010: for symmetric activations
    "orthogonal": nn.init.orthogonal_,  # Saxe et al. 2013, arXiv:1312.6120
}


def initialize(network: nn.Module, name: str) -> None:
    """Draw all weights from torch's global generator; "default" leaves those of torch."""
    if name == "default":
        return
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            INITIALIZATIONS[name](layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
