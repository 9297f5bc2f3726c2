"""A whole network from a config: backbone, neck and head, checked for the image it will see."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from trainables.cnn.blocks import block
from trainables.cnn.heads import pixel_head, vector_head
from trainables.cnn.layers import (
    Concat,
    InfeasibleError,
    Layer,
    Node,
    Pool,
    Sequence,
    Shape,
    Sum,
)
from trainables.cnn.necks import neck
from trainables.cnn.network_config import NetworkConfig
from trainables.cnn.progression import channels_of_blocks, is_downsampling

Target = Literal["classes", "values", "masks"]
"""What is learned of an image: its class, some numbers, or the class of each pixel."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network for images of ``in_shape`` (C, H, W); its output has ``out_shape``."""

    in_shape: Shape
    out_shape: Shape
    backbone: Sequence
    neck: Sequence
    head: Sequence

    @property
    def parts(self) -> dict[str, Sequence]:
        """The three parts by name, in the order of the data."""
        return {"backbone": self.backbone, "neck": self.neck, "head": self.head}


def architecture(
    config: NetworkConfig, in_shape: Shape, n_outputs: int, target: Target = "classes"
) -> Architecture:
    """The network of ``config`` for images of ``in_shape`` (C, H, W).

    Raises:
        InfeasibleError: if it cannot be built; names the layer.
    """
    backbone = _backbone(config, in_shape[0])
    features = shape_behind(backbone, in_shape, "backbone")
    if target == "masks":
        between = Sequence()
        head = pixel_head(config, features[0], n_outputs, (in_shape[1], in_shape[2]))
    else:
        between = Sequence(((config.neck, neck(config)),))
        embedding = shape_behind(between, features, "neck")
        head = vector_head(config, math.prod(embedding), n_outputs)
    out_shape = shape_behind(head, shape_behind(between, features, "neck"), "head")
    return Architecture(
        in_shape=in_shape, out_shape=out_shape, backbone=backbone, neck=between, head=head
    )


def _backbone(config: NetworkConfig, in_channels: int) -> Sequence:
    parts: list[tuple[str, Node]] = []
    blocks = zip(channels_of_blocks(config), is_downsampling(config), strict=True)
    for index, (channels, is_halving) in enumerate(blocks, start=1):
        stride = config.stride if index == 1 else 1
        pool: Layer | None = None
        if is_halving:
            if config.downsampling == "strided":
                stride *= 2
            else:
                pool = Pool(config.downsampling, config.fractional_ratio)
        with _named(f"backbone.block{index}"):
            parts.append(
                (f"block{index}", block(config, in_channels, channels, stride=stride, pool=pool))
            )
        in_channels = channels
    return Sequence(tuple(parts))


def shape_behind(node: Node, shape: Shape, path: str) -> Shape:
    """Shape of a node's output for an input of ``shape``.

    Raises:
        InfeasibleError: if there is none; names the layer, whose place is below ``path``.
    """
    if isinstance(node, Sequence):
        for name, part in node.parts:
            shape = shape_behind(part, shape, f"{path}.{name}")
        return shape
    if isinstance(node, Sum | Concat):
        shapes = {
            name: shape_behind(branch, shape, f"{path}.{name}") for name, branch in node.branches
        }
        return _joined(node, shapes, path)
    with _named(f"{path} ({node.kind})"):
        return node.out_shape(shape)


def _joined(node: Sum | Concat, shapes: dict[str, Shape], path: str) -> Shape:
    first, *others = shapes.values()
    must_agree = slice(None) if isinstance(node, Sum) else slice(1, None)
    if any(other[must_agree] != first[must_agree] for other in others):
        listed = ", ".join(f"{name} {text(shape)}" for name, shape in shapes.items())
        verb = "added" if isinstance(node, Sum) else "concatenated"
        raise InfeasibleError(
            f"{path}: these cannot be {verb}: {listed}; "
            "padding same and an odd kernel_size keep sizes"
        )
    if isinstance(node, Sum):
        return first
    return (sum(shape[0] for shape in shapes.values()), *first[1:])


def text(shape: Shape) -> str:
    """(64, 8, 8) as "64x8x8"."""
    return "x".join(str(size) for size in shape)


@contextmanager
def _named(place: str) -> Iterator[None]:
    """Put the place of a layer before the message of its error."""
    try:
        yield
    except InfeasibleError as error:
        raise InfeasibleError(f"{place}: {error}") from None
