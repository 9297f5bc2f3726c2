"""Heads: from an embedding to class scores or values, from feature maps to scores of pixels."""

from __future__ import annotations

from typing import Literal

from trainables.cnn.layers import (
    Activation,
    BatchNorm,
    Conv,
    Dropout,
    Linear,
    Pair,
    Sequence,
    Upsample,
)
from trainables.cnn.network_config import NetworkConfig
from trainables.cnn.units import Named


def vector_head(config: NetworkConfig, n_features: int, n_outputs: int) -> Sequence:
    """(n_features,) -> (n_outputs,): class scores, or the values of a regression."""
    if config.head == "linear":
        return Sequence((("linear", Linear(n_features, n_outputs)),))
    width = config.head_width
    return Sequence(
        (
            ("linear1", Linear(n_features, width, has_bias=not _is_normalized(config))),
            *_hidden(config, n_dims=1),
            ("linear2", Linear(width, n_outputs)),
        )
    )


def pixel_head(
    config: NetworkConfig, n_channels: int, n_outputs: int, image_size: Pair
) -> Sequence:
    """(n_channels, H, W) -> (n_outputs, image_size): a score of each class for each pixel."""
    upsample: Named = ("upsample", Upsample(image_size))
    if config.head == "linear":
        return Sequence((("conv", Conv(n_channels, n_outputs, (1, 1))), upsample))
    width, has_bias = config.head_width, not _is_normalized(config)
    return Sequence(
        (
            ("conv1", Conv(n_channels, width, (1, 1), has_bias=has_bias)),
            *_hidden(config, n_dims=2),
            ("conv2", Conv(width, n_outputs, (1, 1))),
            upsample,
        )
    )


def _is_normalized(config: NetworkConfig) -> bool:
    return config.normalization == "batch"


def _hidden(config: NetworkConfig, n_dims: Literal[1, 2]) -> list[Named]:
    """Behind the hidden layer: batch norm, activation, dropout, in this order."""
    norm = BatchNorm(config.head_width, n_dims=n_dims)
    dropout = Dropout(config.head_dropout, n_dims=n_dims)
    return [
        *([("norm", norm)] if _is_normalized(config) else []),
        ("activation", Activation(config.activation)),
        *([("dropout", dropout)] if config.head_dropout > 0 else []),
    ]
