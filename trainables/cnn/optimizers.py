"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable

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
