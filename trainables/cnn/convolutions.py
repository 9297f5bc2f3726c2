"""Kinds of convolution: five ways from some channels to others over a k x k neighbourhood."""

from __future__ import annotations

from collections.abc import Callable

from trainables.cnn.layers import Conv, Pair
from trainables.cnn.network_config import NetworkConfig

IMAGE_CHANNELS = 3


def convolutions(
    config: NetworkConfig, in_channels: int, out_channels: int, *, kernel: int, stride: int = 1
) -> list[Conv]:
    """The layers of one convolution of ``config.conv``, in their order."""
    return CONVOLUTIONS[config.conv](config, in_channels, out_channels, kernel, stride)


def conv(
    config: NetworkConfig,
    in_channels: int,
    out_channels: int,
    kernel: Pair,
    stride: Pair = (1, 1),
    groups: int = 1,
) -> Conv:
    """One layer with the padding of the config; without a bias where normalization has a shift."""
    is_normalized = (
        config.normalization == "batch" and config.normalization_position == "before_activation"
    )
    return Conv(
        in_channels,
        out_channels,
        kernel,
        stride,
        padding=(_padding(config, kernel[0]), _padding(config, kernel[1])),
        padding_mode=config.padding_mode,
        groups=groups,
        has_bias=not is_normalized,
    )


def _padding(config: NetworkConfig, kernel: int) -> int:
    """(k - 1) / 2 keeps the size for odd kernels; even ones lose a pixel."""
    return (kernel - 1) // 2 if config.padding == "same" else 0


def _plain(config: NetworkConfig, c: int, n: int, k: int, s: int) -> list[Conv]:
    return [conv(config, c, n, (k, k), (s, s))]


def _factorized(config: NetworkConfig, c: int, n: int, k: int, s: int) -> list[Conv]:
    """2k weights for a pair of channels, not k^2 (Szegedy et al. 2015, arXiv:1512.00567)."""
    return [conv(config, c, n, (1, k), (1, s)), conv(config, n, n, (k, 1), (s, 1))]


def _bottleneck(config: NetworkConfig, c: int, n: int, k: int, s: int) -> list[Conv]:
    """The expensive convolution on fewer channels (He et al. 2015, arXiv:1512.03385)."""
    narrow = max(1, n // config.bottleneck_ratio)
    return [
        conv(config, c, narrow, (1, 1)),
        conv(config, narrow, narrow, (k, k), (s, s)),
        conv(config, narrow, n, (1, 1)),
    ]


def _separable(config: NetworkConfig, c: int, n: int, k: int, s: int) -> list[Conv]:
    """Each channel by itself, then all of them at each position (arXiv:1704.04861)."""
    return [conv(config, c, c, (k, k), (s, s), groups=c), conv(config, c, n, (1, 1))]


def _grouped(config: NetworkConfig, c: int, n: int, k: int, s: int) -> list[Conv]:
    """Channels in groups that do not see each other (Xie et al. 2016, arXiv:1611.05431).

    The colours of an image stay together.
    """
    groups = config.groups if c > IMAGE_CHANNELS else 1
    return [conv(config, c, n, (k, k), (s, s), groups=groups)]


CONVOLUTIONS: dict[str, Callable[[NetworkConfig, int, int, int, int], list[Conv]]] = {
    "plain": _plain,
    "factorized": _factorized,
    "bottleneck": _bottleneck,
    "separable": _separable,
    "grouped": _grouped,
}
