"""Training the CNN: every value that a config may have, the three targets, and the final model."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hpo.execution import TrialDrive
from hpo.tasks import TrialTask
from trainables import BEST_WEIGHTS, TRAINABLES, FinalModel, TrialContext, pack
from trainables.cnn.build import Network
from trainables.cnn.config import CnnConfig, CnnConfigError
from trainables.cnn.description import constraints, network_for
from trainables.cnn.lr_schedules import build_lr_schedule
from trainables.cnn.objectives import MeanIoU, RSquared
from trainables.cnn.optimization_config import OptimizationConfig
from trainables.cnn.optimizers import OPTIMIZERS, build_optimizer
from trainables.cnn.predictor import Predictor
from trainables.cnn.training import Training, fingerprint, finish, train
from trainables.images.arrays import ImageArrays
from trainables.images.augmentation import evaluation_transforms
from trainables.images.catalogue import DATASETS
from trainables.images.config import DataConfig
from trainables.images.dataset import SplitImages, channel_statistics, describe, load_split

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")

SMALL_CNN = {"depth": 1, "filters": 4, "batch_size": 256, "randaugment_num_ops": 1}


def context(folder: Path, seed: int = 1, max_epochs: int | None = 3) -> TrialContext:
    return TrialContext(seed=seed, folder=folder, max_epochs=max_epochs, data_dir=folder / "data")


def digits() -> SplitImages:
    return load_split(DataConfig(), Path("data"))


def task_of(module: str, folder: Path, config: Mapping[str, Any], metric: str) -> TrialTask:
    return TrialTask(
        number=0,
        trainable=f"{module}:train",
        import_paths=(),
        config={**config, "seed": 1},
        context=context(folder / "trial"),
        metric=metric,
    )


# --- every value of a config ---


def words_of(annotation: Any) -> list[Any]:
    arguments = get_args(annotation)
    return [word for a in arguments for word in (words_of(a) or [a]) if isinstance(word, str)]


Case = tuple[dict[str, Any], dict[str, Any]]
"""What a config has besides `A_NETWORK`, and the one value that is changed in it."""

A_NETWORK = {"depth": 2, "filters": 6, "groups": 2, "batch_size": 64, "n_train": 128}
SHOWN_ELSEWHERE = {"dataset", "bad_images", "download"}  # in test_images.py and test_folders.py
NEEDED = {
    "padding": {"image_size": 16},
    "neck": {"depth": 1},
    "downsampling_schedule": {"depth": 4, "n_downsamplings": 2},
}
"""What leaves a word of these keys room to be built, or to make a difference."""
WORDS: list[Case] = [
    (NEEDED.get(field, {}), {field: word})
    for field, info in CnnConfig.model_fields.items()
    if field not in {*SHOWN_ELSEWHERE, "channels"}
    for word in words_of(info.annotation)
    if word != info.default
]
NUMBERS: list[Case] = [
    ({}, {"depth": 1}),
    ({}, {"filters": 8}),
    ({}, {"convs_per_block": 3}),
    ({}, {"growth": 1.5}),
    ({}, {"max_filters": 5}),
    ({"conv": "grouped"}, {"groups": 3}),
    ({"conv": "bottleneck"}, {"bottleneck_ratio": 2}),
    ({}, {"kernel_size": 5}),
    ({}, {"stride": 2}),
    ({}, {"n_downsamplings": 1}),
    ({"downsampling": "fractional"}, {"fractional_ratio": 0.8}),
    ({}, {"dropout": 0.0}),
    ({"neck": "pyramid", "depth": 1}, {"pyramid_levels": 2}),
    ({"head": "mlp"}, {"head_width": 6}),
    ({"head": "mlp"}, {"head_dropout": 0.0}),
    ({}, {"batch_size": 32}),
    ({}, {"lr": 0.02}),
    ({"optimizer": "sgd", "lr_schedule": "constant"}, {"momentum": 0.5}),
    ({"optimizer": "rmsprop", "lr_schedule": "constant"}, {"momentum": 0.5}),
    ({"optimizer": "sgd", "lr_schedule": "onecycle"}, {"momentum": 0.5}),
    ({"optimizer": "rmsprop", "lr_schedule": "onecycle"}, {"momentum": 0.5}),
    ({"optimizer": "sgd"}, {"momentum": 0.0}),
    ({"optimizer": "sgd"}, {"nesterov": True}),
    ({}, {"weight_decay": 0.5}),
    ({"lr_schedule": "step"}, {"lr_step_epochs": 1}),
    ({"lr_schedule": "step", "lr_step_epochs": 1}, {"lr_gamma": 0.1}),
    ({"lr_schedule": "cosine"}, {"warmup_epochs": 1.0}),
    ({"lr_schedule": "onecycle"}, {"warmup_epochs": 1.0}),
    ({}, {"label_smoothing": 0.1}),
    ({}, {"clip_norm": 0.1}),
    ({}, {"n_train": 100}),
    ({}, {"split_seed": 1}),
    ({}, {"validation_fraction": 0.3}),
    ({}, {"test_fraction": 0.3}),
    ({}, {"channels": "rgb"}),
    ({}, {"resize": 10}),
    ({}, {"image_size": 12}),
    ({}, {"affine_degrees": 10.0}),
    ({}, {"affine_translate": 0.1}),
    ({}, {"affine_scale": 0.1}),
    ({}, {"jitter_brightness": 0.5}),
    ({}, {"jitter_contrast": 0.5}),
    ({"channels": "rgb"}, {"jitter_saturation": 0.5}),
    ({"channels": "rgb"}, {"jitter_hue": 0.2}),
    ({}, {"horizontal_flip": 0.5}),
    ({}, {"crop_padding": 1}),
    ({"resize": 10}, {"random_crop": True}),
    ({}, {"randaugment_num_ops": 2}),
    ({"randaugment_num_ops": 2}, {"randaugment_magnitude": 20}),
]


def name_of(case: Case) -> str:
    needed, changed = case
    return ",".join(f"{key}={value}" for key, value in {**needed, **changed}.items())


def reports_with(**values: Any) -> list[Mapping[str, float]]:
    """Of two epochs of `A_NETWORK` with these values."""
    return reports_of(frozenset({**A_NETWORK, **values}.items()))


@cache
def reports_of(config: frozenset[tuple[str, Any]]) -> list[Mapping[str, float]]:
    with TemporaryDirectory() as folder:
        return list(train(dict(config), context(Path(folder), max_epochs=2)))


@pytest.mark.parametrize("case", [*WORDS, *NUMBERS], ids=name_of)
def test_every_value_of_a_config_trains_and_makes_a_difference(case: Case) -> None:
    """To the very same config with another value of that one key."""
    needed, changed = case
    before, after = reports_with(**needed), reports_with(**{**needed, **changed})
    for reports in (before, after):
        assert len(reports) == 2
        assert all(math.isfinite(value) for report in reports for value in report.values())
    assert after != before


def test_no_key_of_a_config_is_left_out() -> None:
    shown = {key for _, changed in [*WORDS, *NUMBERS] for key in changed}
    assert shown | SHOWN_ELSEWHERE == set(CnnConfig.model_fields)


LAYERS = {"block", "conv", "downsampling", "padding_mode", "activation", "neck", "head"}


@pytest.mark.parametrize(
    "case",
    [({}, {}), *(case for case in WORDS if LAYERS & case[1].keys())],
    ids=name_of,
)
def test_every_kind_of_layer_computes_the_same_as_torchscript(case: Case, tmp_path: Path) -> None:
    needed, changed = case
    config = CnnConfig(**{**A_NETWORK, "image_size": 16, **needed, **changed})
    predictor = Predictor(
        Network(network_for(config, describe(config, tmp_path))),
        fit=evaluation_transforms(config),
        class_names=tuple("0123456789"),
        mean=[0.3],
        std=[0.4],
    ).eval()
    images = torch.randint(0, 256, (5, 1, 20, 17), dtype=torch.uint8)
    scripted = torch.jit.script(predictor)
    torch.testing.assert_close(scripted(images), predictor(images))


# --- what is learned ---


@pytest.mark.parametrize(
    ("overrides", "metric", "least"),
    [
        ({"dataset": "digits"}, "val_accuracy", 0.9),
        (
            {"dataset": "discs", "image_size": 16, "depth": 1, "neck": "flatten", "head": "mlp",
             "head_dropout": 0.0},
            "val_r2",
            0.8,
        ),
        (
            {"dataset": "disc_masks", "image_size": 32, "head": "mlp", "head_width": 16,
             "n_train": 400},
            "val_iou",
            0.8,
        ),
    ],
)  # fmt: skip
def test_each_target_is_learned(
    overrides: dict[str, Any], metric: str, least: float, tmp_path: Path
) -> None:
    config = {"depth": 2, "filters": 8, "dropout": 0.0, "batch_size": 32, **overrides}
    *_, last = train(config, context(tmp_path, max_epochs=4))
    assert set(last) == {"train_loss", "val_loss", metric}
    assert last[metric] > least


@pytest.mark.parametrize(
    ("overrides", "metric", "shape"),
    [
        ({"dataset": "discs"}, "r2", (3,)),
        ({"dataset": "disc_masks"}, "iou", (2, 32, 32)),
    ],
)
def test_values_and_masks_are_finished_and_packed_too(
    overrides: dict[str, Any], metric: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    config = {"image_size": 32, "depth": 1, "filters": 4, "n_train": 128, **overrides}
    packed = pack(finish(config, context(tmp_path, max_epochs=1)))
    assert (packed.metric, packed.n_correct, packed.labels) == (metric, None, None)
    assert packed.test_value <= 1
    loaded = torch.jit.load(io.BytesIO(packed.torchscript))
    outputs = loaded(torch.from_numpy(packed.images))
    assert tuple(outputs.shape[1:]) == shape
    torch.testing.assert_close(outputs, torch.from_numpy(packed.outputs))
    if metric == "iou":
        torch.testing.assert_close(outputs.sum(dim=1), torch.ones(outputs.shape[0], 32, 32))


def test_r_squared_is_scikit_learns() -> None:
    from sklearn.metrics import r2_score

    generator = np.random.default_rng(0)
    truth = generator.normal(5, 2, (50, 3)).astype(np.float32)
    found = truth + generator.normal(0, 1, truth.shape).astype(np.float32)
    score = RSquared()
    for part in (slice(20), slice(20, None)):
        score.add(torch.from_numpy(found[part]), torch.from_numpy(truth[part]))
    wanted = r2_score(truth, found, multioutput="variance_weighted")
    assert score.value() == pytest.approx(wanted, abs=1e-5)


def test_the_mean_intersection_over_union_is_scikit_learns_jaccard_score() -> None:
    from sklearn.metrics import jaccard_score

    logits = torch.randn(6, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    truth = torch.randint(0, 3, (6, 9, 7), generator=torch.Generator().manual_seed(1))
    score = MeanIoU()
    for part in (slice(4), slice(4, None)):
        score.add(logits[part], truth[part])
    found = logits.argmax(dim=1).flatten().numpy()
    wanted = jaccard_score(truth.flatten().numpy(), found, average="macro")
    assert score.value() == pytest.approx(wanted)


# --- the step of an optimizer ---


def training_of(folder: Path, **values: Any) -> Training:
    """Of a network that computes the same in training and in use, but for its normalization."""
    config = CnnConfig(**{**A_NETWORK, "dropout": 0.0, **values})
    return Training(config, context(folder), digits().train)


def a_batch() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = digits().train.batch(slice(64))
    return torch.from_numpy(images), torch.from_numpy(labels)


def all_weights(training: Training) -> torch.Tensor:
    return torch.cat([one.detach().flatten() for one in training.network.parameters()])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_cross_entropy_with_smoothed_labels(
    smoothing: float, tmp_path: Path
) -> None:
    """Each class is given an equal share of ``smoothing``, the true one the rest as well."""
    training, (images, labels) = training_of(tmp_path, label_smoothing=smoothing), a_batch()
    pixels = images.float() / 255
    mean, std = channel_statistics(digits().train)
    logits = training.network((pixels - mean[0]) / std[0])
    wanted = 0.0
    for scores, label in zip(logits.tolist(), labels.tolist(), strict=True):
        log_of_sum = math.log(sum(math.exp(score) for score in scores))
        shares = [smoothing / 10 + (1 - smoothing) * (one == label) for one in range(10)]
        wanted -= sum(p * (s - log_of_sum) for p, s in zip(shares, scores, strict=True)) / 64
    assert training.step(images, labels) == pytest.approx(wanted, rel=1e-5)


def test_a_gradient_that_is_too_long_is_cut_to_its_length_and_no_other(tmp_path: Path) -> None:
    """Plain gradient descent at a rate of 1 moves the weights by the gradient."""

    def moved_by(clip_norm: float) -> torch.Tensor:
        plain = {"optimizer": "sgd", "momentum": 0.0, "lr": 1.0, "lr_schedule": "constant"}
        training = training_of(tmp_path, **plain, weight_decay=0.0, clip_norm=clip_norm)
        before = all_weights(training)
        training.step(*a_batch())
        return all_weights(training) - before

    whole = moved_by(0.0)
    length = whole.norm().item()
    torch.testing.assert_close(moved_by(length / 4), whole / 4, rtol=1e-3, atol=1e-6)
    assert torch.equal(moved_by(length * 2), whole)


# --- optimizers and schedules ---


def settings_of_steps(n_epochs: int, per_epoch: int, **overrides: Any) -> list[dict[str, Any]]:
    """The optimizer's settings at each step; the schedule is moved behind the last one, too."""
    config = OptimizationConfig(lr=1.0, **overrides)
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.ones(1)
    optimizer = build_optimizer(config, [weight])
    schedule = build_lr_schedule(config, optimizer, n_epochs=n_epochs, steps_per_epoch=per_epoch)
    found = []
    for _ in range(n_epochs * per_epoch):
        found.append({**optimizer.param_groups[0]})
        optimizer.step()
        schedule.step()
    return found


def rates_of_steps(n_epochs: int, per_epoch: int, **overrides: Any) -> list[float]:
    """The learning rate of each step."""
    return [step["lr"] for step in settings_of_steps(n_epochs, per_epoch, **overrides)]


def rates(n_epochs: int = 10, per_epoch: int = 4, **overrides: Any) -> list[float]:
    """The learning rate at the begin of each epoch."""
    return rates_of_steps(n_epochs, per_epoch, **overrides)[::per_epoch]


@settings(deadline=None, max_examples=150)
@given(
    schedule=st.sampled_from(words_of(OptimizationConfig.model_fields["lr_schedule"].annotation)),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    n_epochs=st.integers(1, 6),
    per_epoch=st.integers(1, 25),
    warmup_epochs=st.just(0.0) | st.floats(0, 8),
)
@example(schedule="onecycle", optimizer="adamw", n_epochs=3, per_epoch=20, warmup_epochs=0.05)
@example(schedule="onecycle", optimizer="sgd", n_epochs=3, per_epoch=10, warmup_epochs=0.1)
@example(schedule="onecycle", optimizer="rmsprop", n_epochs=3, per_epoch=1, warmup_epochs=1.0)
@example(schedule="onecycle", optimizer="adamw", n_epochs=2, per_epoch=1, warmup_epochs=1.0)
@example(schedule="cosine", optimizer="adamw", n_epochs=1, per_epoch=1, warmup_epochs=1.0)
def test_every_schedule_goes_through_all_steps_at_rates_between_0_and_lr(
    schedule: str, optimizer: str, n_epochs: int, per_epoch: int, warmup_epochs: float
) -> None:
    found = rates_of_steps(
        n_epochs,
        per_epoch,
        lr_schedule=schedule,
        optimizer=optimizer,
        warmup_epochs=warmup_epochs,
    )
    assert all(0 < rate < 1 + 1e-6 for rate in found)
    assert max(found) > 0.5, "somewhere it is about the rate that was asked for"


@pytest.mark.parametrize(("warmup_epochs", "peak"), [(0.01, 1), (0.05, 1), (0.1, 1), (0.5, 9)])
def test_a_short_warm_up_of_one_cycle_has_two_steps(warmup_epochs: float, peak: int) -> None:
    found = rates_of_steps(3, 20, lr_schedule="onecycle", warmup_epochs=warmup_epochs)
    assert found[0] == pytest.approx(1 / 25)
    assert found.index(max(found)) == peak
    assert found[peak] == pytest.approx(1.0)


def test_a_constant_rate_is_constant() -> None:
    assert rates(lr_schedule="constant") == [1.0] * 10


def test_steps_multiply_the_rate_every_so_many_epochs() -> None:
    found = rates(lr_schedule="step", lr_step_epochs=4, lr_gamma=0.5)
    assert found == pytest.approx([1.0] * 4 + [0.5] * 4 + [0.25] * 2)


def test_a_cosine_comes_down_to_zero() -> None:
    wanted = [(1 + math.cos(math.pi * epoch / 10)) / 2 for epoch in range(10)]
    assert rates(lr_schedule="cosine") == pytest.approx(wanted)


def test_an_exponential_multiplies_the_rate_each_epoch() -> None:
    found = rates(lr_schedule="exponential", lr_gamma=0.9)
    assert found == pytest.approx([0.9**epoch for epoch in range(10)])


def test_one_cycle_rises_to_the_rate_and_falls() -> None:
    found = rates(lr_schedule="onecycle", n_epochs=10)
    assert max(found) == pytest.approx(1.0, abs=0.01)
    assert found.index(max(found)) == 3
    assert found[0] < 0.05
    assert found[-1] < 0.1


@settings(deadline=None, max_examples=100)
@given(
    optimizer=st.sampled_from(["sgd", "rmsprop"]),
    momentum=st.just(0.0) | st.floats(1e-3, 0.999),
    n_epochs=st.integers(1, 6),
    per_epoch=st.integers(4, 25),
    warmup_epochs=st.just(0.0) | st.floats(0.01, 8),
)
@example(optimizer="rmsprop", momentum=0.05, n_epochs=1, per_epoch=4, warmup_epochs=0.5)
def test_the_momentum_of_a_config_is_the_peak_of_one_cycle(
    optimizer: str, momentum: float, n_epochs: int, per_epoch: int, warmup_epochs: float
) -> None:
    """It begins and ends there, and is a tenth lower, or 0, while the rate is at its own peak."""
    steps = settings_of_steps(
        n_epochs,
        per_epoch,
        lr_schedule="onecycle",
        optimizer=optimizer,
        momentum=momentum,
        warmup_epochs=warmup_epochs,
    )
    momenta = [step["momentum"] for step in steps]
    lowest = max(0.0, momentum - 0.1)
    assert momenta[0] == max(momenta) == pytest.approx(momentum)
    assert min(momenta) >= lowest - 1e-12
    at_peak = max(steps, key=lambda step: step["lr"])
    assert at_peak["momentum"] == min(momenta)
    if at_peak["lr"] == pytest.approx(1.0):  # a step may miss the peak by a fraction of itself
        assert at_peak["momentum"] == pytest.approx(lowest, abs=1e-4)


def test_one_cycle_moves_the_first_beta_of_adamw_whatever_the_momentum_is() -> None:
    steps = settings_of_steps(10, 10, lr_schedule="onecycle", optimizer="adamw", momentum=0.5)
    betas = [step["betas"][0] for step in steps]
    assert (max(betas), min(betas)) == pytest.approx((0.95, 0.85), abs=1e-4)


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine", "exponential"])
def test_a_warm_up_rises_to_the_rate_before_the_schedule_begins(schedule: str) -> None:
    found = rates(lr_schedule=schedule, warmup_epochs=2.0)
    assert found[0] == pytest.approx(0.01)
    assert found[1] == pytest.approx(0.505)
    assert found[2] == pytest.approx(1.0)
    assert max(found) == pytest.approx(1.0)


def test_a_warm_up_is_the_rising_part_of_one_cycle() -> None:
    found = rates(lr_schedule="onecycle", warmup_epochs=5.0)
    assert found.index(max(found)) == 5


@pytest.mark.parametrize(
    ("overrides", "kind", "settings"),
    [
        ({"optimizer": "sgd", "nesterov": True}, "SGD", {"momentum": 0.9, "nesterov": True}),
        ({"optimizer": "adamw"}, "AdamW", {"weight_decay": 1e-4}),
        ({"optimizer": "rmsprop", "momentum": 0.5}, "RMSprop", {"momentum": 0.5}),
    ],
)
def test_an_optimizer_is_torchs_with_the_settings_of_the_config(
    overrides: dict[str, Any], kind: str, settings: dict[str, Any]
) -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = build_optimizer(OptimizationConfig(lr=0.5, **overrides), [weight])
    assert type(optimizer).__name__ == kind
    assert settings.items() <= optimizer.param_groups[0].items()
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_nesterov_without_momentum_is_a_breach() -> None:
    with pytest.raises(CnnConfigError, match="nesterov: needs momentum > 0"):
        CnnConfig.from_mapping({"optimizer": "sgd", "nesterov": True, "momentum": 0.0})


# --- the CNN ---


def test_a_cnn_config_lists_every_breach_at_once() -> None:
    wrong = {
        "dataset": "digit", "image_size": 3, "depth": 0, "filters": 0, "dropout": 1.0, "lr": 0.0,
        "batch_size": 1, "weight_decay": -1.0, "randaugment_num_ops": -1,
        "randaugment_magnitude": 31,
    }  # fmt: skip
    with pytest.raises(CnnConfigError) as caught:
        CnnConfig.from_mapping(wrong)
    for key, value in wrong.items():
        assert re.search(rf"\b{key}: must be .*?, got {re.escape(repr(value))}", str(caught.value))


def test_unknown_names_wrong_types_and_bad_values_are_listed_together() -> None:
    with pytest.raises(CnnConfigError) as caught:
        CnnConfig.from_mapping({"depht": 2, "filters": "8", "batch_size": True, "lr": -1.0})
    message = str(caught.value)
    assert "unknown hyperparameter 'depht'; known: " in message
    assert "filters: must be of type int, got '8'" in message
    assert "batch_size: must be of type int, got True" in message
    assert "lr: must be > 0, got -1.0" in message


def test_what_is_known_of_a_config_before_training_are_its_costs(tmp_path: Path) -> None:
    known = constraints({"filters": 4, "depth": 1}, context(tmp_path))
    assert known == {
        "n_parameters": 36 + 8 + 50,
        "size_mb": 4 * (36 + 8 + 50) / 1e6,
        "multiply_adds": 8 * 8 * 36 + 40,
    }


def test_latency_is_measured_if_it_is_wanted_and_leaves_the_generator_alone(
    tmp_path: Path,
) -> None:
    before = torch.get_rng_state()
    wanting = replace(context(tmp_path), wanted=("latency_ms",))
    known = constraints({"filters": 4, "depth": 1}, wanting)
    assert set(known) == set(TRAINABLES["cnn"].facts)
    assert known["latency_ms"] > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_deeper_than_its_image_is_infeasible(tmp_path: Path) -> None:
    """Each block halves the image: 8 pixels are 4, 2, 1."""
    constraints({"depth": 3}, context(tmp_path))
    report = TrialDrive(
        task_of("trainables.cnn.trainable", tmp_path, config={"depth": 4}, metric="val_loss")
    ).next_report()
    assert report.is_infeasible
    assert "backbone.block4.unit1.pool" in report.fail_reason


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"n_train": 1078}, "n_train: must be <= the 1077 training images, got 1078"),
        ({"test_fraction": 0.004}, "test_fraction"),
        ({"dataset": "disc_masks"}, "image_size: must be 32 like the masks of dataset disc_masks"),
        ({"dataset": "discs", "horizontal_flip": 0.5}, "horizontal_flip: must be off where"),
    ],
)
def test_what_the_images_cannot_give_is_infeasible_before_training(
    config: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    task = task_of("trainables.cnn.trainable", tmp_path, config=config, metric="val_loss")
    report = TrialDrive(task).next_report()
    assert (report.is_infeasible, report.is_unfit, report.epoch) == (True, False, 0)
    assert reason in report.fail_reason


def test_images_that_are_missing_are_no_mistake_of_the_config(tmp_path: Path) -> None:
    missing = {"dataset": "svhn", "image_size": 32, "n_train": 5}
    task = task_of("trainables.cnn.trainable", tmp_path, config=missing, metric="val_loss")
    report = TrialDrive(task).next_report()
    assert (report.is_infeasible, report.is_unfit) == (False, True)
    assert "SVHN is not in" in report.fail_reason


def test_the_seed_and_whole_numbers_for_fractions_are_welcome() -> None:
    assert CnnConfig.from_mapping({"seed": 3, "lr": 1, "dropout": 0}) == CnnConfig(lr=1, dropout=0)


def test_a_training_that_diverges_fails_with_its_learning_rate(tmp_path: Path) -> None:
    task = task_of(
        "trainables.cnn.trainable", tmp_path, config={**SMALL_CNN, "lr": 1e30}, metric="val_loss"
    )
    report = TrialDrive(task).next_report()
    assert report.ending == "failed"
    assert report.fail_reason.startswith("TrainingDivergedError: the loss is ")
    assert "at lr=1e+30" in report.fail_reason


def test_the_fingerprint_of_a_config_is_that_of_its_split(tmp_path: Path) -> None:
    assert fingerprint({}, context(tmp_path)) == digits().fingerprint
    assert fingerprint({"split_seed": 1}, context(tmp_path)) != digits().fingerprint


def test_test_images_influence_neither_the_search_nor_the_retrained_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all test images blank, every metric and every weight is what it was."""

    def outcome() -> tuple[list[Any], dict[str, torch.Tensor]]:
        metrics = list(train(SMALL_CNN, context(tmp_path, max_epochs=1)))
        return metrics, finish(SMALL_CNN, context(tmp_path, max_epochs=1)).predictor.state_dict()

    metrics, weights = outcome()
    known, test = DATASETS["digits"], digits().test
    pixels = test.arrays.pixels.copy()
    pixels[test.indices] = 0
    blank = ImageArrays.of(pixels, test.arrays.targets)
    monkeypatch.setitem(DATASETS, "digits", replace(known, read=lambda: blank))
    assert not digits().test.batch()[0].any()
    blank_metrics, blank_weights = outcome()
    assert blank_metrics == metrics
    torch.testing.assert_close(blank_weights, weights, rtol=0, atol=0)


def test_the_kept_weights_are_those_of_the_best_epoch(tmp_path: Path) -> None:
    """They load without running code from the file, and reach the best reported accuracy."""
    reports = list(train({**SMALL_CNN, "lr": 0.1}, context(tmp_path, max_epochs=5)))
    accuracies = [report["val_accuracy"] for report in reports]
    assert max(accuracies) > accuracies[-1], "the best epoch must not be the last for this test"
    config, data = CnnConfig(**SMALL_CNN), digits()
    network = Network(network_for(config, describe(config, tmp_path)))
    network.load_state_dict(torch.load(tmp_path / BEST_WEIGHTS, weights_only=True))
    pixels = data.train.batch()[0] / np.float32(255)
    predictor = Predictor(
        network,
        fit=evaluation_transforms(config),
        class_names=data.class_names,
        mean=[float(pixels.mean())],
        std=[float(pixels.std())],
    )
    images, labels = data.validation.batch()
    predicted = predictor(torch.from_numpy(images)).argmax(dim=1).numpy()
    accuracy = (predicted == labels).mean()
    assert accuracy == pytest.approx(max(accuracies))
    assert [file.name for file in tmp_path.iterdir()] == [BEST_WEIGHTS]


def test_a_full_disk_costs_the_best_weights_and_no_trial(tmp_path: Path) -> None:
    trial = context(tmp_path, max_epochs=1)
    (tmp_path / f"{BEST_WEIGHTS}.part").symlink_to("/dev/full")
    assert len(list(train(SMALL_CNN, trial))) == 1
    (complaint,) = trial.checkpoints.complaints
    assert complaint == f"no room for the best weights: {tmp_path / BEST_WEIGHTS}"
    assert not (tmp_path / BEST_WEIGHTS).exists()


@pytest.fixture(scope="module")
def final_model(tmp_path_factory: pytest.TempPathFactory) -> FinalModel:
    return finish(
        {**SMALL_CNN, "filters": 16, "batch_size": 64},
        context(tmp_path_factory.mktemp("retrain"), max_epochs=8),
    )


def test_a_final_model_predicts_what_its_test_reading_says(final_model: FinalModel) -> None:
    images, labels = digits().test.batch()
    probabilities = final_model.predictor(torch.from_numpy(images))
    assert probabilities.shape == (360, 10)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(360))
    assert probabilities.min() >= 0
    n_correct = int((probabilities.argmax(dim=1).numpy() == labels).sum())
    assert (final_model.n_correct, final_model.n_test) == (n_correct, 360)
    assert final_model.test_value == n_correct / 360
    assert final_model.test_value > 0.5  # chance is 0.1
    assert final_model.class_names == tuple("0123456789")


def test_a_final_model_brings_test_images_to_compare_its_export_with(
    final_model: FinalModel,
) -> None:
    images, labels = digits().test.batch()
    known = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    found = [known[image.tobytes()] for image in final_model.test_images.numpy()]
    assert len(found) == 256
    assert found == final_model.test_labels.tolist()


def test_a_packed_final_model_predicts_the_same(final_model: FinalModel) -> None:
    packed = pack(final_model)
    loaded = torch.jit.load(io.BytesIO(packed.torchscript))
    probabilities = loaded(torch.from_numpy(packed.images))
    torch.testing.assert_close(probabilities, torch.from_numpy(packed.outputs))
    assert np.array_equal(packed.images, final_model.test_images.numpy())
    assert loaded(torch.zeros(1, 1, 20, 13, dtype=torch.uint8)).shape == (1, 10)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (20, 13), (13, 20), (3, 40), (1, 1)])
def test_a_predictor_takes_an_image_of_any_size(
    height: int, width: int, final_model: FinalModel
) -> None:
    image = torch.randint(0, 256, (1, 1, height, width), dtype=torch.uint8)
    probabilities = final_model.predictor(image)
    assert probabilities.shape == (1, 10)
    assert probabilities.sum().item() == pytest.approx(1)


def test_a_predictor_looks_at_the_centre_of_an_oblong_image(final_model: FinalModel) -> None:
    wide = torch.randint(0, 256, (1, 1, 8, 14), dtype=torch.uint8)
    centre = wide[:, :, :, 3:11]
    torch.testing.assert_close(final_model.predictor(wide), final_model.predictor(centre))


def test_an_image_is_classified_alike_alone_and_in_a_batch(final_model: FinalModel) -> None:
    images = final_model.test_images[:16]
    alone = torch.cat([final_model.predictor(image) for image in images.split(1)])
    torch.testing.assert_close(alone, final_model.predictor(images))
