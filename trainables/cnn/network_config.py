"""The hyperparameters of the network, their meaning, their ranges. Needs no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trainables.cnn.layers import ActivationName, PaddingMode, PoolName
from trainables.hyperparameters import Hyperparameters

Fraction = Annotated[float, Field(ge=0, lt=1)]


class NetworkConfig(Hyperparameters):
    """What is built: backbone, neck and head.

    Attributes:
        block: what the backbone repeats: "vgg" (convolutions in a row), "resnet" (with a shortcut),
            "inception" (parallel kernel sizes), "dense" (each convolution sees all before it).
        conv: the convolutions inside: "plain", "factorized" (1 x k, then k x 1), "bottleneck"
            (1 x 1 before and after), "separable" (depthwise, then 1 x 1), "grouped".
        depth: blocks.
        convs_per_block: convolutions of the chosen kind in each block.
        filters: output channels of the first block.
        growth: factor of the channels from a block to the next.
        max_filters: no block has more channels.
        groups: of conv "grouped"; must divide the channels.
        bottleneck_ratio: conv "bottleneck" works on so many times fewer channels.
        kernel_size: height and width of the kernels; odd ones keep the size with padding "same".
        stride: of the network's first convolution.
        padding: "same" keeps height and width, "valid" adds nothing.
        padding_mode: what the added pixels hold.
        downsampling: what halves the image: a pool, or "strided" convolutions.
        downsampling_schedule: which blocks do: "gradual" spreads them evenly, "early" takes the
            first blocks, "late" the last.
        n_downsamplings: how many blocks do; None for all.
        fractional_ratio: of height and width that fractional max pooling keeps.
        normalization: "batch" or "none"; with it a dense head is normalized, too.
        normalization_position: in a block; behind dropout it would see other statistics in training
            than in use.
        activation: the non-linearity.
        dropout: probability of `Dropout2d` at the end of each block.
        neck: feature maps to vector: "flatten", "average" or "max" over each whole map, "pyramid".
        pyramid_levels: of neck "pyramid": 1 x 1, 2 x 2, 4 x 4, ... bins.
        head: "linear", or "mlp" with one hidden layer.
        head_width: values of the hidden layer.
        head_dropout: probability of `Dropout` behind the hidden layer.
        initialization: of weights: torch's "default", "kaiming", "xavier", "orthogonal".
    """

    block: Literal["vgg", "resnet", "inception", "dense"] = "vgg"
    conv: Literal["plain", "factorized", "bottleneck", "separable", "grouped"] = "plain"
    depth: Annotated[int, Field(ge=1)] = 2
    convs_per_block: Annotated[int, Field(ge=1)] = 1
    filters: Annotated[int, Field(ge=1)] = 32
    growth: Annotated[float, Field(ge=1)] = 2.0
    max_filters: Annotated[int, Field(ge=1)] = 512
    groups: Annotated[int, Field(ge=1)] = 4
    bottleneck_ratio: Annotated[int, Field(ge=1)] = 4
    kernel_size: Annotated[int, Field(ge=1)] = 3
    stride: Annotated[int, Field(ge=1)] = 1
    padding: Literal["same", "valid"] = "same"
    padding_mode: PaddingMode = "zeros"
    downsampling: PoolName | Literal["strided"] = "max"
    downsampling_schedule: Literal["gradual", "early", "late"] = "gradual"
    n_downsamplings: Annotated[int, Field(ge=0)] | None = None
    fractional_ratio: Annotated[float, Field(gt=0.5, lt=1)] = 0.7
    normalization: Literal["none", "batch"] = "batch"
    normalization_position: Literal["before_activation", "after_activation", "after_dropout"] = (
        "before_activation"
    )
    activation: ActivationName = "relu"
    dropout: Fraction = 0.1
    neck: Literal["flatten", "average", "max", "pyramid"] = "average"
    pyramid_levels: Annotated[int, Field(ge=1, le=6)] = 3
    head: Literal["linear", "mlp"] = "linear"
    head_width: Annotated[int, Field(ge=1)] = 128
    head_dropout: Fraction = 0.5
    initialization: Literal["default", "kaiming", "xavier", "orthogonal"] = "default"
