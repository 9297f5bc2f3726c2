"""The vocabulary of a network: layers as formulas. Describes what is built, builds no tensor.

A network is a tree: single layers, and three ways to join them: one after the other (`Sequence`),
side by side and added (`Sum`, a shortcut of ResNet), side by side and concatenated (`Concat`, of
Inception and DenseNet). `trainables.cnn.build` makes torch modules of it,
`trainables.cnn.inspection` a table. Shapes are (C, H, W), or (N,) behind a neck.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

Shape = tuple[int, ...]
Pair = tuple[int, int]
"""Height and width."""

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
ActivationName = Literal["relu", "leaky_relu", "gelu", "silu"]


class InfeasibleError(ValueError):
    """A network that cannot be built: the message names the layer and the rule."""


class Layer(Protocol):
    """One layer by its formulas."""

    @property
    def kind(self) -> str:
        """What a reader calls it: "conv 3x3"."""

    def out_shape(self, shape: Shape) -> Shape:
        """Shape of the output for an input of ``shape``.

        Raises:
            InfeasibleError: if it cannot be applied to it.
        """

    def n_parameters(self) -> int:
        """Learned numbers."""

    def multiply_adds(self, shape: Shape) -> int:
        """Products that are summed for one input; of convolutions and linear layers."""

    def window(self) -> tuple[Pair, float] | None:
        """Height and width of what one output value sees of the input, and the step between two.

        None if it sees all of it.
        """


@dataclass(frozen=True)
class _Pointwise:
    """Keeps the shape, looks at one position."""

    def out_shape(self, shape: Shape) -> Shape:
        return shape

    def n_parameters(self) -> int:
        return 0

    def multiply_adds(self, shape: Shape) -> int:
        return 0

    def window(self) -> tuple[Pair, float] | None:
        return (1, 1), 1


@dataclass(frozen=True)
class _Global(_Pointwise):
    """Looks at all positions at once."""

    def window(self) -> None:
        return None


@dataclass(frozen=True)
class Conv(_Pointwise):
    """A convolution; n_k filters of k x k over c channels have n_k (c k^2 / groups + 1) parameters.

    Each output position sees ``kernel``; o = floor((i + 2p - k) / s) + 1.
    """

    in_channels: int
    out_channels: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    padding_mode: PaddingMode = "zeros"
    groups: int = 1
    has_bias: bool = True

    @property
    def kind(self) -> str:
        """E.g. "conv 3x3 /2, 4 groups"."""
        stride = "" if self.stride == (1, 1) else f" /{max(self.stride)}"
        groups = "" if self.groups == 1 else f", {self.groups} groups"
        if self.groups > 1 and self.groups == self.in_channels == self.out_channels:
            groups = ", depthwise"
        return f"conv {self.kernel[0]}x{self.kernel[1]}{stride}{groups}"

    def out_shape(self, shape: Shape) -> Shape:
        """(C, H, W) -> (out_channels, H', W')."""
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise InfeasibleError(
                f"{self.groups} groups do not divide {self.in_channels} input and "
                f"{self.out_channels} output channels"
            )
        size = []
        for i, k, s, p in zip(shape[1:], self.kernel, self.stride, self.padding, strict=True):
            # torch: a reflection needs a pixel more than it reflects, a circle no more than it has
            if p > {"reflect": i - 1, "circular": i}.get(self.padding_mode, p):
                raise InfeasibleError(
                    f"{self.padding_mode} padding of {p} is too wide for {i} pixels"
                )
            if i + 2 * p < k:
                raise InfeasibleError(
                    f"the kernel of {k} is larger than the image of {i}"
                    + (f" with its padding of {p}" if p else "")
                )
            size.append((i + 2 * p - k) // s + 1)
        return (self.out_channels, *size)

    def n_parameters(self) -> int:
        """n_k (c k^2 / groups + 1)."""
        per_filter = self.in_channels // self.groups * math.prod(self.kernel)
        return self.out_channels * (per_filter + self.has_bias)

    def multiply_adds(self, shape: Shape) -> int:
        """Each output value is a sum of c k^2 / groups products."""
        per_value = self.in_channels // self.groups * math.prod(self.kernel)
        return math.prod(self.out_shape(shape)) * per_value

    def window(self) -> tuple[Pair, float]:
        """The kernel and its stride."""
        return self.kernel, max(self.stride)


@dataclass(frozen=True)
class BatchNorm(_Pointwise):
    """Batch normalization with a learned scale and shift for each channel (2d) or value (1d)."""

    n_channels: int
    n_dims: Literal[1, 2] = 2

    @property
    def kind(self) -> str:
        """The name of both."""
        return "batch norm"

    def n_parameters(self) -> int:
        """Scale and shift."""
        return 2 * self.n_channels


@dataclass(frozen=True)
class Activation(_Pointwise):
    """An element-wise non-linearity."""

    name: ActivationName

    @property
    def kind(self) -> str:
        """Its name."""
        return self.name


@dataclass(frozen=True)
class Dropout(_Pointwise):
    """Sets values to zero in training; whole channels in feature maps (``n_dims`` 2)."""

    probability: float
    n_dims: Literal[1, 2]

    @property
    def kind(self) -> str:
        """E.g. "dropout2d 0.2"."""
        return f"dropout{'2d' if self.n_dims == 2 else ''} {self.probability:g}"


PoolName = Literal["max", "average", "fractional", "mixed", "stochastic"]


@dataclass(frozen=True)
class Pool(_Pointwise):
    """A 2x2 window that moves by 2; "fractional" keeps ``ratio`` of height and width instead."""

    name: PoolName
    ratio: float = 0.5

    @property
    def kind(self) -> str:
        """E.g. "max pool 2x2"."""
        return f"{self.name} pool " + (f"x{self.ratio:g}" if self.name == "fractional" else "2x2")

    def out_shape(self, shape: Shape) -> Shape:
        """(C, H, W) -> (C, H / 2, W / 2), rounded down."""
        if min(shape[1:]) < 2:
            raise InfeasibleError(
                f"an image of {shape[1]}x{shape[2]} cannot be pooled by 2x2 windows"
            )
        ratio = self.ratio if self.name == "fractional" else 0.5
        return (shape[0], *(max(1, int(size * ratio)) for size in shape[1:]))

    def n_parameters(self) -> int:
        """The weight of the maximum against the average, of mixed pooling."""
        return int(self.name == "mixed")

    def window(self) -> tuple[Pair, float]:
        """2x2; the mean step of fractional pooling is 1 / ratio."""
        return (2, 2), 1 / self.ratio if self.name == "fractional" else 2


@dataclass(frozen=True)
class Flatten(_Global):
    """Feature maps row by row as one vector."""

    @property
    def kind(self) -> str:
        """Its name."""
        return "flatten"

    def out_shape(self, shape: Shape) -> Shape:
        """(C, H, W) -> (C H W,)."""
        return (math.prod(shape),)


@dataclass(frozen=True)
class GlobalPool(_Global):
    """One value of each feature map, whatever its size."""

    name: Literal["average", "max"]

    @property
    def kind(self) -> str:
        """E.g. "global average pool"."""
        return f"global {self.name} pool"

    def out_shape(self, shape: Shape) -> Shape:
        """(C, H, W) -> (C,)."""
        return (shape[0],)


@dataclass(frozen=True)
class Pyramid(_Global):
    """Maxima over 1x1, 2x2, 4x4, ... bins of each feature map (He et al. 2014, arXiv:1406.4729)."""

    n_levels: int

    @property
    def kind(self) -> str:
        """E.g. "pyramid pool 1+2+4"."""
        return "pyramid pool " + "+".join(str(bins) for bins in self.bins)

    @property
    def bins(self) -> tuple[int, ...]:
        """Bins in a row, of each level."""
        return tuple(2**level for level in range(self.n_levels))

    def out_shape(self, shape: Shape) -> Shape:
        """(C, H, W) -> (C (1 + 4 + 16 + ...),)."""
        if self.bins[-1] > min(shape[1:]):
            raise InfeasibleError(
                f"{self.bins[-1]}x{self.bins[-1]} bins are too many for "
                f"{shape[1]}x{shape[2]} pixels"
            )
        return (shape[0] * sum(bins**2 for bins in self.bins),)


@dataclass(frozen=True)
class Linear(_Global):
    """A fully connected layer."""

    in_features: int
    out_features: int
    has_bias: bool = True

    @property
    def kind(self) -> str:
        """Its name."""
        return "linear"

    def out_shape(self, shape: Shape) -> Shape:
        """(N,) -> (out_features,)."""
        return (self.out_features,)

    def n_parameters(self) -> int:
        """A weight for each pair, a bias for each output."""
        return self.out_features * (self.in_features + self.has_bias)

    def multiply_adds(self, shape: Shape) -> int:
        """A product for each weight."""
        return self.out_features * self.in_features


@dataclass(frozen=True)
class Upsample(_Pointwise):
    """Bilinear interpolation back to ``size`` pixels."""

    size: Pair

    @property
    def kind(self) -> str:
        """E.g. "upsample 32x32"."""
        return f"upsample {self.size[0]}x{self.size[1]}"

    def out_shape(self, shape: Shape) -> Shape:
        """(C, H, W) -> (C, size)."""
        return (shape[0], *self.size)


@dataclass(frozen=True)
class Sequence:
    """Parts one after the other, each with its name; without parts it is the identity."""

    parts: tuple[tuple[str, Node], ...] = ()


@dataclass(frozen=True)
class Sum:
    """Branches of one input, added."""

    branches: tuple[tuple[str, Node], ...]


@dataclass(frozen=True)
class Concat:
    """Branches of one input, their channels one behind the other."""

    branches: tuple[tuple[str, Node], ...]


Node = Layer | Sequence | Sum | Concat
