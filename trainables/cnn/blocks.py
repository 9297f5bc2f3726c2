"""What a backbone repeats: VGG, ResNet, Inception and DenseNet blocks."""

from __future__ import annotations

from collections.abc import Callable

from trainables.cnn.convolutions import conv, convolutions
from trainables.cnn.layers import Concat, InfeasibleError, Layer, Node, Sequence, Sum
from trainables.cnn.network_config import NetworkConfig
from trainables.cnn.units import Named, activated, normalized, unit


def block(
    config: NetworkConfig,
    in_channels: int,
    out_channels: int,
    *,
    stride: int = 1,
    pool: Layer | None = None,
) -> Sequence:
    """One block of ``config.block``; its first convolution has ``stride``, its end the pool.

    Raises:
        InfeasibleError: if its channels cannot be shared out.
    """
    return Sequence(tuple(BLOCKS[config.block](config, in_channels, out_channels, stride, pool)))


def _vgg(config: NetworkConfig, c: int, n: int, stride: int, pool: Layer | None) -> list[Named]:
    """Convolutions in a row (Simonyan & Zisserman 2014, arXiv:1409.1556)."""
    last = config.convs_per_block
    parts: list[Named] = []
    for index in range(1, last + 1):
        behind = (
            activated(config, n, pool=pool, dropout=config.dropout)
            if index == last
            else activated(config, n)
        )
        layers = convolutions(
            config, c, n, kernel=config.kernel_size, stride=stride if index == 1 else 1
        )
        parts.append((f"unit{index}", unit(config, layers, behind)))
        c = n
    return parts


def _resnet(config: NetworkConfig, c: int, n: int, stride: int, pool: Layer | None) -> list[Named]:
    """Convolutions that learn what to add to their input (He et al. 2015, arXiv:1512.03385).

    The shortcut is the identity; a 1x1 projection where channels or sizes differ.
    """
    last, width = config.convs_per_block, c
    body: list[Named] = []
    for index in range(1, last + 1):
        layers = convolutions(
            config, width, n, kernel=config.kernel_size, stride=stride if index == 1 else 1
        )
        behind = normalized(config, n) if index == last else activated(config, n)
        body.append((f"unit{index}", unit(config, layers, behind)))
        width = n
    projection = conv(config, c, n, (1, 1), (stride, stride))
    is_identity = c == n and stride == 1
    shortcut = Sequence() if is_identity else unit(config, [projection], normalized(config, n))
    return [
        ("sum", Sum((("body", Sequence(tuple(body))), ("shortcut", shortcut)))),
        *activated(config, n, pool=pool, dropout=config.dropout, is_normalized=True),
    ]


def _inception(
    config: NetworkConfig, c: int, n: int, stride: int, pool: Layer | None
) -> list[Named]:
    """Kernels of 1, k and k + 2 side by side (Szegedy et al. 2014, arXiv:1409.4842).

    The larger ones look at channels that a 1x1 convolution has reduced first.
    """
    last, kernels = config.convs_per_block, (1, config.kernel_size, config.kernel_size + 2)
    if n < len(kernels):
        raise InfeasibleError(f"{n} channels cannot be shared by {len(kernels)} branches")
    parts: list[Named] = []
    for index in range(1, last + 1):
        step = stride if index == 1 else 1
        branches: list[tuple[str, Node]] = []
        for number, k in enumerate(kernels):
            width = n // len(kernels) + (number < n % len(kernels))
            if k == 1:
                layers = [conv(config, c, width, (1, 1), (step, step))]
            else:
                wide = convolutions(config, width, width, kernel=k, stride=step)
                layers = [conv(config, c, width, (1, 1)), *wide]
            branches.append((f"kernel{number + 1}", unit(config, layers, [])))
        is_last = index == last
        behind = activated(
            config, n, pool=pool if is_last else None, dropout=config.dropout if is_last else 0.0
        )
        module = Sequence((("concat", Concat(tuple(branches))), *behind))
        parts.append((f"unit{index}", module))
        c = n
    return parts


def _dense(config: NetworkConfig, c: int, n: int, stride: int, pool: Layer | None) -> list[Named]:
    """Each convolution sees the input and all outputs before it (arXiv:1608.06993).

    A convolution at the end, the transition, brings the channels to ``n``; it has the stride, since
    what is concatenated has one size.
    """
    width = -(-n // config.convs_per_block)
    parts: list[Named] = []
    for index in range(1, config.convs_per_block + 1):
        layers = convolutions(config, c, width, kernel=config.kernel_size)
        new = unit(config, layers, activated(config, width))
        parts.append((f"unit{index}", Concat((("input", Sequence()), ("new", new)))))
        c += width
    k = 1 if stride == 1 else config.kernel_size
    behind = activated(config, n, pool=pool, dropout=config.dropout)
    transition = unit(config, [conv(config, c, n, (k, k), (stride, stride))], behind)
    return [*parts, ("transition", transition)]


BLOCKS: dict[str, Callable[[NetworkConfig, int, int, int, Layer | None], list[Named]]] = {
    "vgg": _vgg,
    "resnet": _resnet,
    "inception": _inception,
    "dense": _dense,
}
