"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from trainables.cnn.optimization_config import OptimizationConfig


def build_optimizer(
    config: OptimizationConfig, parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """The optimizer of ``config.optimizer`` for these weights."""
    return OPTIMIZERS[config.optimizer](config, parameters)


def _sgd(config: OptimizationConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
    )


def _adamw(config: OptimizationConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)


def _rmsprop(
    config: OptimizationConfig, parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(
        parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )


OPTIMIZERS: dict[
    str, Callable[[OptimizationConfig, Iterable[nn.Parameter]], torch.optim.Optimizer]
] = {"sgd": _sgd, "adamw": _adamw, "rmsprop": _rmsprop}


def take_over(optimizer: torch.optim.Optimizer, state: Mapping[int, Mapping[str, Any]]) -> None:
    """Go on with the moments in ``state``; rates and the like stay those of this optimizer."""
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for group in optimizer.param_groups:
        # Without a momentum RMSprop has kept no buffer, and it looks for one if there is one now.
        if isinstance(optimizer, torch.optim.RMSprop) and group["momentum"] > 0:
            for weight in group["params"]:
                moments = optimizer.state[weight]
                moments.setdefault("momentum_buffer", torch.zeros_like(weight))
