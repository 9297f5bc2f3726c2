"""What a network costs and sees, layer by layer, from formulas alone, and advice about it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainables.cnn.architecture import Architecture, shape_behind
from trainables.cnn.layers import Concat, Layer, Node, Sequence, Shape, Sum
from trainables.cnn.network_config import NetworkConfig

SMALL_BATCH = 16
"""Images in a batch below which the mean and variance of batch normalization are too noisy."""


@dataclass(frozen=True, kw_only=True)
class LayerFacts:
    """One layer of a network.

    Attributes:
        part: "backbone", "neck" or "head".
        path: its place, e.g. "block1.unit1.conv"; the name of its torch module below ``part``.
        kind: e.g. "conv 3x3".
        out_shape: of its output, (C, H, W) or (N,).
        n_parameters: learned numbers.
        n_values: numbers in its output.
        receptive_field: pixels of the image, in height or width, that one output value can see;
            None behind a layer that sees the whole image.
        multiply_adds: for one image.
    """

    part: str
    path: str
    kind: str
    out_shape: Shape
    n_parameters: int
    n_values: int
    receptive_field: int | None
    multiply_adds: int


@dataclass(frozen=True)
class _View:
    """What one value sees: ``size`` pixels high and wide, ``jump`` pixels from the next one."""

    height: float = 1
    width: float = 1
    jump: float = 1
    is_whole: bool = False

    def behind(self, layer: Layer) -> _View:
        window = layer.window()
        if window is None:
            return _View(is_whole=True)
        (height, width), step = window
        return _View(
            self.height + (height - 1) * self.jump,
            self.width + (width - 1) * self.jump,
            self.jump * step,
            self.is_whole,
        )

    @property
    def pixels(self) -> int | None:
        return None if self.is_whole else math.ceil(max(self.height, self.width))


def layer_facts(network: Architecture) -> list[LayerFacts]:
    """Every layer of a network in the order of the data."""
    facts: list[LayerFacts] = []
    shape, view = network.in_shape, _View()
    for part, node in network.parts.items():
        of_part, view = _walk(node, shape, view, part, "")
        facts += of_part
        shape = shape_behind(node, shape, part)
    return facts


def _walk(
    node: Node, shape: Shape, view: _View, part: str, path: str
) -> tuple[list[LayerFacts], _View]:
    """The layers below ``node``, and what a value of its output sees."""
    if isinstance(node, Sequence):
        facts: list[LayerFacts] = []
        for name, child in node.parts:
            of_child, view = _walk(child, shape, view, part, _below(path, name))
            facts += of_child
            shape = shape_behind(child, shape, path)
        return facts, view
    if isinstance(node, Sum | Concat):
        walked = [
            _walk(branch, shape, view, part, _below(path, name)) for name, branch in node.branches
        ]
        views = [seen for _, seen in walked]
        widest = max(views, key=lambda seen: max(seen.height, seen.width))
        return [one for of_branch, _ in walked for one in of_branch], widest
    out_shape, seen = node.out_shape(shape), view.behind(node)
    one = LayerFacts(
        part=part,
        path=path,
        kind=node.kind,
        out_shape=out_shape,
        n_parameters=node.n_parameters(),
        n_values=math.prod(out_shape),
        receptive_field=seen.pixels,
        multiply_adds=node.multiply_adds(shape),
    )
    return [one], seen


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def advice(config: NetworkConfig, network: Architecture, batch_size: int) -> list[str]:
    """Sentences where a config breaks a rule of thumb; it can be trained all the same."""
    return [
        sentence
        for sentence in (
            _small_batch(config, batch_size),
            _narrow_view(network),
            _dropout_first(config),
            _even_kernel(config),
        )
        if sentence
    ]


def _small_batch(config: NetworkConfig, batch_size: int) -> str:
    if config.normalization == "none" or batch_size >= SMALL_BATCH:
        return ""
    return (
        f"batch_size={batch_size} makes the mean and variance of batch normalization noisy; take "
        f"{SMALL_BATCH} or more, or normalization=none"
    )


def _narrow_view(network: Architecture) -> str:
    of_backbone = [facts for facts in layer_facts(network) if facts.part == "backbone"]
    seen, size = of_backbone[-1].receptive_field, max(network.in_shape[1:])
    if seen is None or seen >= size:
        return ""
    return (
        f"a value behind the backbone sees {seen} of {size} pixels; more depth, convs_per_block, "
        "downsampling or a larger kernel_size would let it see whole objects"
    )


def _dropout_first(config: NetworkConfig) -> str:
    if (
        config.normalization == "none"
        or config.dropout == 0
        or config.normalization_position != "after_dropout"
    ):
        return ""
    return (
        "normalization_position=after_dropout: batch normalization sees other statistics in "
        "training, with dropout, than in use; before_activation avoids that"
    )


def _even_kernel(config: NetworkConfig) -> str:
    if config.padding == "valid" or config.kernel_size % 2:
        return ""
    return (
        f"kernel_size={config.kernel_size} is even: padding=same loses a pixel at each "
        "convolution; odd kernels keep the size"
    )
