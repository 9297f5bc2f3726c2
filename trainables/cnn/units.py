"""What stands behind a convolution: normalization, pooling, activation, dropout, in this order.

Normalization comes before the activation and before dropout, as the config says by default. A pool
stands before the activation, which then has a quarter of the values to look at.
"""

from __future__ import annotations

from collections.abc import Sequence as Sequence_

from trainables.cnn.layers import Activation, BatchNorm, Conv, Dropout, Layer, Node, Sequence
from trainables.cnn.network_config import NetworkConfig

Named = tuple[str, Node]


def activated(
    config: NetworkConfig,
    n_channels: int,
    *,
    pool: Layer | None = None,
    dropout: float = 0.0,
    is_normalized: bool = False,
) -> list[Named]:
    """Everything between a convolution of ``n_channels`` and the next one.

    With ``is_normalized`` what comes in was normalized already, where the config wants that before
    the activation.
    """
    norm: list[Named] = [("norm", BatchNorm(n_channels))] if config.normalization == "batch" else []
    position = config.normalization_position
    if is_normalized and position == "before_activation":
        norm = []
    pooled: list[Named] = [] if pool is None else [("pool", pool)]
    dropped: list[Named] = [("dropout", Dropout(dropout, n_dims=2))] if dropout > 0 else []
    parts: list[Named] = []
    parts += norm if position == "before_activation" else []
    parts += [*pooled, ("activation", Activation(config.activation))]
    parts += norm if position == "after_activation" else []
    parts += dropped
    parts += norm if position == "after_dropout" else []
    return parts


def normalized(config: NetworkConfig, n_channels: int) -> list[Named]:
    """A branch that will be added to another: normalized, not yet activated."""
    if config.normalization == "none" or config.normalization_position != "before_activation":
        return []
    return [("norm", BatchNorm(n_channels))]


def unit(config: NetworkConfig, convs: Sequence_[Conv], behind: list[Named]) -> Sequence:
    """Convolutions, each but the last activated, and ``behind`` after the last."""
    parts: list[Named] = []
    for index, layer in enumerate(convs, start=1):
        name = "conv" if len(convs) == 1 else f"conv{index}"
        if index < len(convs):
            between = Sequence((("conv", layer), *activated(config, layer.out_channels)))
            parts.append((name, between))
        else:
            parts += [(name, layer), *behind]
    return Sequence(tuple(parts))
