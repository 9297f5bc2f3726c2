"""From block to block: how many channels, and which blocks make the image smaller."""

from __future__ import annotations

from trainables.cnn.network_config import NetworkConfig


def channels_of_blocks(config: NetworkConfig) -> list[int]:
    """Output channels of each block: ``filters``, times ``growth`` each, at most ``max_filters``.

    64 filters, growth 2 and a cap of 512 give 64, 128, 256, 512, 512.
    """
    return [
        min(config.max_filters, round(config.filters * config.growth**index))
        for index in range(config.depth)
    ]


def is_downsampling(config: NetworkConfig) -> list[bool]:
    """Whether each block halves the image.

    Early saves computation and loses detail, late keeps the resolution, gradual is in between.
    """
    wanted = config.depth if config.n_downsamplings is None else config.n_downsamplings
    n = min(wanted, config.depth)
    if config.downsampling_schedule == "early":
        chosen = set(range(n))
    elif config.downsampling_schedule == "late":
        chosen = set(range(config.depth - n, config.depth))
    else:  # the last block of each of n stretches of equal length
        chosen = {-(-(index + 1) * config.depth // n) - 1 for index in range(n)}
    return [index in chosen for index in range(config.depth)]
