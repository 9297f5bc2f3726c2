"""Necks: from feature maps (C, H, W) to one vector (N,)."""

from __future__ import annotations

from trainables.cnn.layers import Flatten, GlobalPool, Layer, Pyramid
from trainables.cnn.network_config import NetworkConfig


def neck(config: NetworkConfig) -> Layer:
    """The layer of ``config.neck``.

    "flatten" keeps every position, and ties the head to the size of the image; the others do not.
    """
    if config.neck == "flatten":
        return Flatten()
    if config.neck == "pyramid":
        return Pyramid(config.pyramid_levels)
    return GlobalPool(config.neck)
