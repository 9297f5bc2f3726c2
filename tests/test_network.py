"""The network of a config: what its description says is what torch builds, block by block."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from hpo.spec import load_spec
from trainables.cnn.architecture import Architecture, architecture
from trainables.cnn.build import Network
from trainables.cnn.config import CnnConfig
from trainables.cnn.initialization import initialize
from trainables.cnn.inspection import advice, layer_facts
from trainables.cnn.layers import InfeasibleError
from trainables.cnn.network_config import NetworkConfig
from trainables.cnn.pooling import FractionalMaxPool, MixedPool, PyramidPool, StochasticPool
from trainables.cnn.progression import channels_of_blocks, is_downsampling

slow = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.filter_too_much])


def choices(field: str) -> list[Any]:
    """The words that a hyperparameter may be."""

    def words(annotation: Any) -> list[Any]:
        arguments = get_args(annotation)
        return [word for a in arguments for word in (words(a) or [a]) if isinstance(word, str)]

    return words(NetworkConfig.model_fields[field].annotation)


WORDS = {field: choices(field) for field in NetworkConfig.model_fields if choices(field)}

configs = st.builds(
    NetworkConfig,
    **{field: st.sampled_from(words) for field, words in WORDS.items()},
    depth=st.integers(1, 3),
    convs_per_block=st.integers(1, 3),
    filters=st.integers(1, 9),
    growth=st.floats(1, 2.5),
    max_filters=st.integers(4, 24),
    groups=st.integers(1, 4),
    bottleneck_ratio=st.integers(1, 4),
    kernel_size=st.integers(1, 6),
    stride=st.integers(1, 3),
    n_downsamplings=st.none() | st.integers(0, 3),
    dropout=st.sampled_from([0.0, 0.3]),
    head_width=st.integers(1, 20),
    pyramid_levels=st.integers(1, 3),
)
shapes = st.tuples(st.integers(1, 4), st.integers(4, 33), st.integers(4, 33))
targets = st.sampled_from(["classes", "values", "masks"])


def feasible(config: NetworkConfig, shape: tuple[int, ...], **kwargs: Any) -> Architecture | None:
    try:
        return architecture(config, shape, **kwargs)
    except InfeasibleError:
        return None


# --- the description against torch ---


@slow
@given(config=configs, shape=shapes, target=targets)
def test_every_layer_has_the_parameters_shape_and_multiply_adds_that_torch_counts(
    config: NetworkConfig, shape: tuple[int, int, int], target: Any
) -> None:
    described = feasible(config, shape, n_outputs=5, target=target)
    if described is None:
        return
    network = Network(described).eval()
    facts = {f"{one.part}.{one.path}": one for one in layer_facts(described)}
    modules = dict(network.named_modules())
    seen: dict[str, tuple[int, ...]] = {}

    def watch(path: str) -> Any:
        return lambda _module, _inputs, output: seen.update({path: tuple(output.shape[1:])})

    for path in facts:
        modules[path].register_forward_hook(watch(path))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, *shape))
    for path, one in facts.items():
        assert seen[path] == one.out_shape
        assert math.prod(one.out_shape) == one.n_values
        assert sum(p.numel() for p in modules[path].parameters()) == one.n_parameters
    assert sum(p.numel() for p in network.parameters()) == sum(
        one.n_parameters for one in facts.values()
    )
    assert counter.get_total_flops() == 2 * sum(one.multiply_adds for one in facts.values())


@slow
@given(config=configs, shape=shapes)
def test_what_the_formulas_refuse_torch_cannot_run(
    config: NetworkConfig, shape: tuple[int, int, int]
) -> None:
    """The other direction is the test above: what they allow torch runs."""
    described = feasible(config, (shape[0], 512, 512), n_outputs=5)
    if described is None or feasible(config, shape, n_outputs=5) is not None:
        return
    # The modules for a large image must fail on the small one, but for adaptive pools, which repeat
    # pixels, and for pools of ours, which make an empty image of a single pixel.
    if config.neck == "pyramid" or config.downsampling in ("stochastic", "fractional"):
        return
    network = Network(described).eval()
    with pytest.raises((RuntimeError, IndexError)), torch.no_grad():
        network(torch.zeros(1, *shape))


@pytest.mark.parametrize(
    ("overrides", "shape", "place"),
    [
        (
            {"depth": 4},
            (1, 8, 8),
            r"backbone\.block4\.unit1\.pool \(max pool 2x2\): an image of 1x1",
        ),
        ({"padding": "valid", "kernel_size": 9}, (1, 8, 8), r"block1\.unit1\.conv .*kernel of 9"),
        ({"conv": "grouped", "filters": 6}, (3, 8, 8), r"block2\.unit1\.conv .*4 groups do not"),
        ({"padding_mode": "reflect", "kernel_size": 7}, (1, 3, 3), "reflect padding of 3 is too"),
        ({"block": "resnet", "padding": "valid"}, (1, 9, 9), r"block1\.sum: .*cannot be added"),
        ({"block": "inception", "padding": "valid"}, (1, 9, 9), r"concat: .*cannot be concat"),
        ({"block": "inception", "filters": 2}, (1, 9, 9), r"block1: 2 channels cannot be shared"),
        ({"neck": "pyramid", "depth": 3}, (1, 16, 16), r"neck\.pyramid .*4x4 bins are too many"),
    ],
)
def test_a_network_that_cannot_be_built_names_the_layer_and_the_rule(
    overrides: dict[str, Any], shape: tuple[int, ...], place: str
) -> None:
    with pytest.raises(InfeasibleError, match=place):
        architecture(NetworkConfig(**overrides), shape, 10)


@pytest.mark.parametrize("block", WORDS["block"])
@pytest.mark.parametrize("conv", WORDS["conv"])
def test_a_value_sees_as_much_of_the_image_as_its_gradient_touches(block: str, conv: str) -> None:
    config = NetworkConfig(
        block=block,
        conv=conv,
        filters=4,
        groups=2,
        bottleneck_ratio=2,
        convs_per_block=2,
        downsampling="average",
        normalization="none",
        dropout=0.0,
    )
    described = architecture(config, (1, 64, 64), 1, "masks")
    backbone = Network(described).backbone
    for parameter in backbone.parameters():
        nn.init.ones_(parameter)  # nothing cancels out, and ReLU lets everything through
    images = torch.ones(1, 1, 64, 64, requires_grad=True)
    maps = backbone(images)
    maps[0, :, maps.shape[2] // 2, maps.shape[3] // 2].sum().backward()
    assert images.grad is not None
    rows = images.grad[0, 0].sum(dim=1).nonzero().flatten()
    touched = int(rows.max() - rows.min() + 1)
    of_backbone = [one for one in layer_facts(described) if one.part == "backbone"]
    assert of_backbone[-1].receptive_field == touched


# --- the facts of the notes ---


def test_64_filters_of_3x3_on_rgb_have_1792_parameters() -> None:
    config = NetworkConfig(filters=64, normalization="none")
    assert layer_facts(architecture(config, (3, 32, 32), 10))[0].n_parameters == 1792


@pytest.mark.parametrize(
    ("overrides", "size"),
    [({"padding": "valid"}, 30), ({"padding": "same"}, 32), ({"stride": 2}, 16)],
)
def test_a_3x3_kernel_on_32x32_pixels(overrides: dict[str, Any], size: int) -> None:
    first = layer_facts(architecture(NetworkConfig(**overrides), (3, 32, 32), 10))[0]
    assert first.out_shape[1:] == (size, size)


def test_five_blocks_take_224_pixels_to_7_while_channels_grow_to_512() -> None:
    config = NetworkConfig(depth=5, filters=64, growth=2.0, max_filters=512)
    facts = layer_facts(architecture(config, (3, 224, 224), 1000))
    blocks = [
        list(group)[-1]
        for key, group in itertools.groupby(facts, key=lambda one: one.path.partition(".")[0])
        if key.startswith("block")
    ]
    assert [one.out_shape for one in blocks] == [
        (64, 112, 112),
        (128, 56, 56),
        (256, 28, 28),
        (512, 14, 14),
        (512, 7, 7),
    ]
    assert [one.n_values for one in blocks] == [802_816, 401_408, 200_704, 100_352, 25_088]


class MyCNN(nn.Module):
    """The notes' network, as it stands there."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.MaxPool2d(2, 2),
            nn.ReLU(),
            nn.Dropout2d(0.2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.MaxPool2d(2, 2),
            nn.ReLU(),
            nn.Dropout2d(0.2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.MaxPool2d(2, 2),
            nn.ReLU(),
            nn.Dropout2d(0.2),
            nn.Flatten(),
            nn.Linear(1024, 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, n_classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.model(x)
        return output


def leaves(network: nn.Module) -> list[nn.Module]:
    return [one for one in network.modules() if not list(one.children())]


def test_my_cnn_is_built_layer_for_layer_and_computes_the_same() -> None:
    """By the committed search_spaces/my_cnn.yaml, whose search leaves the network alone."""
    spec = load_spec(ROOT / "search_spaces" / "my_cnn.yaml")
    assert not set(spec.search_space) & set(NetworkConfig.model_fields)
    config = CnnConfig.from_mapping(spec.fixed)
    ours, notes = Network(architecture(config, (3, 32, 32), 7)), MyCNN(7)
    assert [repr(layer) for layer in leaves(ours)] == [repr(layer) for layer in leaves(notes)]
    values = list(ours.state_dict().values())
    assert [v.shape for v in values] == [v.shape for v in notes.state_dict().values()]
    notes.load_state_dict(dict(zip(notes.state_dict(), values, strict=True)))
    images = torch.rand(4, 3, 32, 32)
    assert torch.equal(ours.eval()(images), notes.eval()(images))
    ours.train(), notes.train()
    torch.manual_seed(0)
    trained = ours(images)
    torch.manual_seed(0)
    assert torch.equal(trained, notes(images))


# --- channels and downsampling ---


@pytest.mark.parametrize(
    ("filters", "growth", "cap", "depth", "channels"),
    [
        (16, 2.0, 512, 3, [16, 32, 64]),
        (64, 2.0, 512, 5, [64, 128, 256, 512, 512]),
        (10, 1.5, 99, 3, [10, 15, 22]),
        (8, 1.0, 512, 3, [8, 8, 8]),
    ],
)
def test_channels_grow_up_to_the_cap(
    filters: int, growth: float, cap: int, depth: int, channels: list[int]
) -> None:
    config = NetworkConfig(filters=filters, growth=growth, max_filters=cap, depth=depth)
    assert channels_of_blocks(config) == channels


@pytest.mark.parametrize(
    ("schedule", "halving"), [("early", "xx..."), ("late", "...xx"), ("gradual", "..x.x")]
)
def test_two_halvings_of_five_blocks(schedule: Any, halving: str) -> None:
    config = NetworkConfig(depth=5, n_downsamplings=2, downsampling_schedule=schedule)
    assert "".join(".x"[is_halving] for is_halving in is_downsampling(config)) == halving


@given(
    depth=st.integers(1, 12),
    n=st.none() | st.integers(0, 14),
    schedule=st.sampled_from(WORDS["downsampling_schedule"]),
)
def test_as_many_blocks_halve_the_image_as_was_asked(
    depth: int, n: int | None, schedule: Any
) -> None:
    config = NetworkConfig(depth=depth, n_downsamplings=n, downsampling_schedule=schedule)
    assert sum(is_downsampling(config)) == min(depth, depth if n is None else n)


# --- pools and blocks against plain references ---


@pytest.mark.parametrize("size", [2, 3, 7, 12, 13])
@pytest.mark.parametrize("is_training", [False, True])
def test_fractional_pooling_is_torchs_with_the_same_steps(size: int, is_training: bool) -> None:
    images, ratio = torch.rand(3, 2, size, size + 1), 0.7
    pool = FractionalMaxPool(ratio).train(is_training)
    torch.manual_seed(5)
    steps = torch.full((2,), 0.5)
    if is_training:
        steps = torch.rand(2)
    torch.manual_seed(5)
    wanted = functional.fractional_max_pool2d(
        images,
        2,
        output_size=(max(1, int(size * ratio)), max(1, int((size + 1) * ratio))),
        # torch wants width before height
        _random_samples=steps.flip(0).expand(3, 2, 2).contiguous(),
    )
    assert torch.equal(pool(images), wanted)


@pytest.mark.parametrize(
    ("name", "of_window"), [("max", torch.amax), ("average", torch.mean)], ids=["max", "average"]
)
def test_a_plain_pool_takes_the_maximum_or_the_mean_of_each_2x2_window(
    name: str, of_window: Callable[..., torch.Tensor]
) -> None:
    network = network_of(downsampling=name)
    maps = convolved(weights(network), "unit1.conv", IMAGES, padding=1)
    windows = maps.reshape(2, 6, 4, 2, 4, 2)
    wanted = functional.relu(of_window(windows, dim=(3, 5)))
    assert torch.allclose(network.backbone(IMAGES), wanted, atol=1e-6)


def test_strided_downsampling_is_a_convolution_of_every_second_place() -> None:
    network = network_of(downsampling="strided")
    whole = convolved(weights(network), "unit1.conv", IMAGES, padding=1)
    wanted = functional.relu(whole[:, :, ::2, ::2])
    assert torch.allclose(network.backbone(IMAGES), wanted, atol=1e-6)


def test_mixed_pooling_begins_in_the_middle_and_learns_its_weight() -> None:
    images, pool = torch.rand(2, 3, 6, 7), MixedPool()
    middle = (functional.max_pool2d(images, 2) + functional.avg_pool2d(images, 2)) / 2
    assert torch.allclose(pool(images), middle)
    nn.init.constant_(pool.weight, 100.0)
    assert torch.allclose(pool(images), functional.max_pool2d(images, 2))
    pool(images).sum().backward()
    assert pool.weight.grad is not None


def test_stochastic_pooling_picks_in_proportion_and_averages_in_use() -> None:
    window = torch.tensor([[1.0, 3.0], [0.0, -2.0]])
    pool = StochasticPool()
    assert pool.eval()(window.reshape(1, 1, 2, 2)).item() == pytest.approx(1 / 4 * 1 + 3 / 4 * 3)
    many = window.repeat(100, 100).reshape(1, 1, 200, 200)
    torch.manual_seed(0)
    picked = pool.train()(many)
    assert picked.shape == (1, 1, 100, 100)
    assert set(picked.unique().tolist()) == {1.0, 3.0}
    assert (picked == 3).float().mean().item() == pytest.approx(0.75, abs=0.02)
    dead = torch.tensor([[-1.0, -3.0], [0.0, -4.0]]).reshape(1, 1, 2, 2)
    assert pool.eval()(dead).item() == pytest.approx(-2.0)


def test_the_spatial_pyramid_is_the_maximum_of_each_bin() -> None:
    images = np.random.default_rng(0).random((1, 2, 8, 8)).astype(np.float32)
    bins = [
        images[0, channel, row * step : (row + 1) * step, column * step : (column + 1) * step].max()
        for n in (1, 2, 4)
        for channel in range(2)
        for row, column in itertools.product(range(n), repeat=2)
        for step in [8 // n]
    ]
    pooled = PyramidPool((1, 2, 4))(torch.from_numpy(images))
    assert pooled[0].tolist() == bins


NECKS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "average": lambda maps: maps.mean(dim=(2, 3)),
    "max": lambda maps: maps.amax(dim=(2, 3)),
    "flatten": lambda maps: maps.reshape(2, 6 * 8 * 8),
}  # the pyramid has a test of its own


@pytest.mark.parametrize("name", NECKS)
def test_a_neck_makes_one_vector_of_feature_maps(name: str) -> None:
    network = network_of(neck=name, n_downsamplings=0)
    assert torch.allclose(network.neck(IMAGES), NECKS[name](IMAGES), atol=1e-6)
    vector = NECKS[name](network.backbone(IMAGES))
    assert torch.allclose(network(IMAGES), network.head(vector), atol=1e-6)


def network_of(**overrides: Any) -> Network:
    config = NetworkConfig(
        **{"depth": 1, "filters": 6, "normalization": "none", "dropout": 0.0, **overrides}
    )
    return Network(architecture(config, (6, 8, 8), 3)).eval()


def weights(network: Network) -> dict[str, torch.Tensor]:
    return {key.removeprefix("backbone.block1."): v for key, v in network.state_dict().items()}


def convolved(
    w: dict[str, torch.Tensor], name: str, x: torch.Tensor, **kwargs: Any
) -> torch.Tensor:
    return functional.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], **kwargs)


IMAGES = torch.rand(2, 6, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_vgg_block_is_its_convolutions_in_a_row() -> None:
    network = network_of(convs_per_block=2)
    w = weights(network)
    x = functional.relu(convolved(w, "unit1.conv", IMAGES, padding=1))
    x = functional.relu(functional.max_pool2d(convolved(w, "unit2.conv", x, padding=1), 2))
    assert torch.allclose(network.backbone(IMAGES), x, atol=1e-6)


def test_a_resnet_block_adds_its_input() -> None:
    network = network_of(block="resnet", convs_per_block=2)
    w = weights(network)
    assert not any("shortcut" in key for key in w)
    x = functional.relu(convolved(w, "sum.body.unit1.conv", IMAGES, padding=1))
    x = convolved(w, "sum.body.unit2.conv", x, padding=1) + IMAGES
    wanted = functional.relu(functional.max_pool2d(x, 2))
    assert torch.allclose(network.backbone(IMAGES), wanted, atol=1e-6)


def test_a_resnet_block_projects_where_shapes_differ() -> None:
    network = network_of(block="resnet", filters=5, downsampling="strided")
    w = weights(network)
    body = convolved(w, "sum.body.unit1.conv", IMAGES, padding=1, stride=2)
    shortcut = convolved(w, "sum.shortcut.conv", IMAGES, stride=2)
    wanted = functional.relu(body + shortcut)
    assert torch.allclose(network.backbone(IMAGES), wanted, atol=1e-6)


def test_an_inception_block_has_three_kernels_side_by_side() -> None:
    network = network_of(block="inception", filters=7)
    w = weights(network)
    branches = [convolved(w, "unit1.concat.kernel1.conv", IMAGES)]
    for number, padding in ((2, 1), (3, 2)):
        reduced = convolved(w, f"unit1.concat.kernel{number}.conv1.conv", IMAGES)
        branches.append(
            convolved(
                w,
                f"unit1.concat.kernel{number}.conv2",
                functional.relu(reduced),
                padding=padding,
            )
        )
    assert [branch.shape[1] for branch in branches] == [3, 2, 2]
    wanted = functional.relu(functional.max_pool2d(torch.cat(branches, dim=1), 2))
    assert torch.allclose(network.backbone(IMAGES), wanted, atol=1e-6)


def test_a_dense_block_concatenates_all_that_came_before() -> None:
    network = network_of(block="dense", convs_per_block=2)
    w = weights(network)
    x = IMAGES
    for number in (1, 2):
        new = functional.relu(convolved(w, f"unit{number}.new.conv", x, padding=1))
        x = torch.cat([x, new], dim=1)
    wanted = functional.relu(functional.max_pool2d(convolved(w, "transition.conv", x), 2))
    assert torch.allclose(network.backbone(IMAGES), wanted, atol=1e-6)


def in_groups(
    w: dict[str, torch.Tensor], name: str, x: torch.Tensor, n_groups: int
) -> torch.Tensor:
    """Each group of channels convolved by itself, as if it were an image of its own."""
    groups = zip(
        x.chunk(n_groups, dim=1),
        w[f"{name}.weight"].chunk(n_groups),
        w[f"{name}.bias"].chunk(n_groups),
        strict=True,
    )
    return torch.cat([functional.conv2d(*one, padding="same") for one in groups], dim=1)


CONVOLUTIONS: dict[str, list[tuple[str, int, tuple[int, ...]]]] = {
    "plain": [("conv", 1, (8, 6, 3, 3))],
    "factorized": [("conv1.conv", 1, (8, 6, 1, 3)), ("conv2", 1, (8, 8, 3, 1))],
    "bottleneck": [
        ("conv1.conv", 1, (2, 6, 1, 1)),
        ("conv2.conv", 1, (2, 2, 3, 3)),
        ("conv3", 1, (8, 2, 1, 1)),
    ],
    "separable": [("conv1.conv", 6, (6, 1, 3, 3)), ("conv2", 1, (8, 6, 1, 1))],
    "grouped": [("conv", 2, (8, 3, 3, 3))],
}
"""Of each kind the convolutions that it consists of: name, groups and shape of the weights."""


@pytest.mark.parametrize("conv", WORDS["conv"])
def test_a_kind_of_convolution_is_its_plain_ones_in_a_row(conv: str) -> None:
    network = network_of(conv=conv, filters=8, groups=2)
    w, x = weights(network), IMAGES
    for name, n_groups, shape in CONVOLUTIONS[conv]:
        assert w[f"unit1.{name}.weight"].shape == shape
        x = functional.relu(in_groups(w, f"unit1.{name}", x, n_groups))
    assert torch.allclose(network.backbone(IMAGES), functional.max_pool2d(x, 2), atol=1e-6)


NUMPYS_NAMES: dict[str, Any] = {
    "zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap",
}  # fmt: skip


@pytest.mark.parametrize("mode", WORDS["padding_mode"])
def test_a_padding_mode_is_numpys(mode: str) -> None:
    network = network_of(padding_mode=mode, kernel_size=5)
    edges = ((0, 0), (0, 0), (2, 2), (2, 2))
    padded = torch.from_numpy(np.pad(IMAGES.numpy(), edges, mode=NUMPYS_NAMES[mode]))
    wanted = functional.relu(
        functional.max_pool2d(convolved(weights(network), "unit1.conv", padded), 2)
    )
    assert torch.allclose(network.backbone(IMAGES), wanted, atol=1e-6)


FORMULAS: dict[str, Callable[[float], float]] = {
    "relu": lambda x: max(x, 0.0),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "silu": lambda x: x / (1 + math.exp(-x)),
}


@pytest.mark.parametrize("name", WORDS["activation"])
def test_an_activation_is_its_formula(name: str) -> None:
    network = network_of(activation=name)
    before = functional.max_pool2d(convolved(weights(network), "unit1.conv", IMAGES, padding=1), 2)
    wanted = before.clone().apply_(FORMULAS[name])
    assert (before < 0).any()
    assert torch.allclose(network.backbone(IMAGES), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("position", "order"),
    [
        ("before_activation", ["Conv2d", "BatchNorm2d", "MaxPool2d", "ReLU", "Dropout2d"]),
        ("after_activation", ["Conv2d", "MaxPool2d", "ReLU", "BatchNorm2d", "Dropout2d"]),
        ("after_dropout", ["Conv2d", "MaxPool2d", "ReLU", "Dropout2d", "BatchNorm2d"]),
    ],
)
def test_batch_normalization_stands_where_the_config_says(position: str, order: list[str]) -> None:
    network = network_of(normalization="batch", normalization_position=position, dropout=0.2)
    assert [type(layer).__name__ for layer in leaves(network.backbone)] == order


def test_with_normalization_a_dense_head_is_normalized_before_its_activation() -> None:
    network = network_of(normalization="batch", head="mlp")
    order = ["Linear", "BatchNorm1d", "ReLU", "Dropout", "Linear"]
    assert [type(layer).__name__ for layer in leaves(network.head)] == order


# --- weights ---


@pytest.mark.parametrize("name", WORDS["initialization"])
def test_an_initialization_draws_weights_of_its_own_from_the_seed(name: str) -> None:
    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        network = network_of()
        initialize(network, name)
        return weights(network)["unit1.conv.weight"]

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    flat = drawn(1).flatten(1)
    if name == "kaiming":  # variance 2 / fan_in keeps the activations of ReLU alive
        assert flat.var().item() == pytest.approx(2 / 54, rel=0.25)
    if name == "xavier":
        assert flat.abs().max().item() <= math.sqrt(6 / (54 + 54)) + 1e-6
    if name == "orthogonal":
        assert torch.allclose(flat @ flat.T, torch.eye(6), atol=1e-5)


# --- advice ---


@pytest.mark.parametrize(
    ("overrides", "batch_size", "word"),
    [
        ({"depth": 5}, 4, "batch_size=4"),
        ({"normalization": "none", "depth": 5}, 4, None),
        ({"depth": 1, "kernel_size": 3}, 64, "sees 4 of 32 pixels"),
        ({"depth": 5, "normalization_position": "after_dropout"}, 64, "after_dropout"),
        ({"depth": 5, "normalization_position": "after_dropout", "dropout": 0.0}, 64, None),
        ({"depth": 4, "kernel_size": 4}, 64, "kernel_size=4 is even"),
        ({"depth": 5}, 64, None),
    ],
)
def test_advice_is_given_where_the_notes_have_a_rule(
    overrides: dict[str, Any], batch_size: int, word: str | None
) -> None:
    config = NetworkConfig(**overrides)
    given_advice = advice(config, architecture(config, (3, 32, 32), 10), batch_size)
    if word is None:
        assert given_advice == []
    else:
        assert len(given_advice) == 1
        assert word in given_advice[0]
