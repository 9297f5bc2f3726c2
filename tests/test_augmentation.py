"""Augmentation: what each step does to pixels, and what every step promises."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as vision

from trainables.images.augmentation import (
    Crop,
    RandomAffine,
    RandomFlip,
    TrainingTransforms,
    evaluation_transforms,
    normalize,
)
from trainables.images.config import MOVING, AugmentationConfig, DataConfig
from trainables.images.dataset import channel_statistics, load_split
from trainables.images.errors import DataConfigError
from trainables.images.sheet import augmentation_sheet

ALONE: dict[str, dict[str, Any]] = {
    "affine_degrees": {"affine_degrees": 30.0},
    "affine_translate": {"affine_translate": 0.2},
    "affine_scale": {"affine_scale": 0.3},
    "jitter_brightness": {"jitter_brightness": 0.5},
    "jitter_contrast": {"jitter_contrast": 0.5},
    "jitter_saturation": {"jitter_saturation": 0.5},
    "jitter_hue": {"jitter_hue": 0.3},
    "horizontal_flip": {"horizontal_flip": 0.5},
    "crop_padding": {"crop_padding": 4},
    "random_crop": {"random_crop": True},
    "randaugment_num_ops": {"randaugment_num_ops": 2, "randaugment_magnitude": 20},
    "auto_augment": {"auto_augment": "imagenet"},
    "auto_augment cifar10": {"auto_augment": "cifar10"},
    "auto_augment svhn": {"auto_augment": "svhn"},
}
"""Every augmentation by itself."""

COLOUR_ONLY = {"jitter_saturation", "jitter_hue"}
EVERYTHING = {key: value for changes in ALONE.values() for key, value in changes.items()}

every_augmentation = pytest.mark.parametrize("name", ALONE)
grey_and_colour = pytest.mark.parametrize("channels", [1, 3])


def noise(channels: int, n: int = 20, side: int = 16) -> torch.Tensor:
    """(n, channels, side, side), no two pixels alike."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (n, channels, side, side), np.uint8))


def data_config(name: str = "") -> DataConfig:
    return DataConfig(image_size=16, resize=20 if name == "random_crop" else 16)


def augmented(
    changes: dict[str, Any], images: torch.Tensor, data: DataConfig, seed: int = 0
) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TrainingTransforms(data, AugmentationConfig(**changes))(images)


# --- every step ---


@every_augmentation
@grey_and_colour
def test_an_augmentation_alone_changes_images_and_keeps_their_shape_and_type(
    name: str, channels: int
) -> None:
    images, data = noise(channels), data_config(name)
    before = images.clone()
    result = augmented(ALONE[name], images, data)
    assert (result.shape, result.dtype) == (images.shape, torch.uint8)
    plain = evaluation_transforms(data)(images)
    has_no_colour = channels == 1 and name in COLOUR_ONLY
    assert torch.equal(result, plain) == has_no_colour
    assert torch.equal(images, before), "the caller's images are left alone"


@every_augmentation
@grey_and_colour
def test_an_augmentation_follows_from_the_seed_of_torch_alone(name: str, channels: int) -> None:
    images, data = noise(channels), data_config(name)
    first = augmented(ALONE[name], images, data, seed=1)
    np.random.seed(7)
    assert torch.equal(augmented(ALONE[name], images, data, seed=1), first)
    if not (channels == 1 and name in COLOUR_ONLY):
        others = [augmented(ALONE[name], images, data, seed=seed) for seed in range(2, 6)]
        assert not all(torch.equal(other, first) for other in others)


@every_augmentation
@pytest.mark.parametrize("n", [1, 8, 9])
def test_batches_of_any_size_are_augmented(name: str, n: int) -> None:
    result = augmented(ALONE[name], noise(3, n), data_config(name))
    assert result.shape == (n, 3, 16, 16)


@every_augmentation
def test_the_images_of_a_batch_are_augmented_each_in_its_own_way(name: str) -> None:
    """Affine, flip and crop draw for each image; what torchvision does, for every 8 of them."""
    copies = noise(3, 1).expand(64, -1, -1, -1)
    data = data_config(name)
    kinds = {image.numpy().tobytes() for image in augmented(ALONE[name], copies, data)}
    expected = {
        "affine_degrees": 60, "affine_translate": 60, "affine_scale": 60, "horizontal_flip": 2,
        "crop_padding": 35, "random_crop": 15,
    }  # fmt: skip
    assert len(kinds) >= expected.get(name, 3)


def test_everything_at_once_works_on_grey_and_colour() -> None:
    for channels in (1, 3):
        result = augmented(EVERYTHING, noise(channels), DataConfig(image_size=16, resize=20))
        assert (result.shape, result.dtype) == ((20, channels, 16, 16), torch.uint8)


@grey_and_colour
def test_without_augmentation_training_sees_what_evaluation_sees(channels: int) -> None:
    for size, resize in ((16, None), (8, None), (8, 12), (7, 12), (24, None), (20, 33)):
        data = DataConfig(image_size=size, resize=resize)
        images = noise(channels)
        plain = TrainingTransforms(data, AugmentationConfig())(images)
        assert plain.shape == (20, channels, size, size)
        assert torch.equal(plain, evaluation_transforms(data)(images))


def test_the_order_is_that_of_the_configs_documentation() -> None:
    """A flip before a crop with reflection: the draws are those of the two steps in that order."""
    images = noise(3)
    both = augmented({"horizontal_flip": 0.5, "crop_padding": 3}, images, data_config(), seed=5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        assert torch.equal(both, Crop(16, 3)(RandomFlip(0.5)(images)))


# --- flip, crop and affine against plain references ---


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_a_flip_mirrors_the_images_that_were_drawn(seed: int, probability: float) -> None:
    images = noise(3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        chosen = torch.rand(20) < probability
        torch.manual_seed(seed)
        flipped = RandomFlip(probability)(images).numpy()
    for result, image, is_chosen in zip(flipped, images.numpy(), chosen, strict=True):
        assert np.array_equal(result, np.flip(image, axis=2) if is_chosen else image)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(4, 12), st.integers(0, 8), st.integers(0, 14), st.booleans(),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_a_crop_is_one_of_those_that_are_allowed(
    size: int,
    spare: int,
    padding: int,
    anywhere: bool,
    seed: int,
) -> None:
    """Cut out of the image that numpy has padded with its reflection."""
    images = noise(2, n=3, side=size + spare)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        crops = Crop(size, padding, anywhere=anywhere)(images).numpy()
    centre = round(spare / 2)
    starts = range(spare + 1) if anywhere else [centre]
    allowed = {start + shift for start in starts for shift in range(-padding, padding + 1)}
    for crop, image in zip(crops, images.numpy(), strict=True):
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)), mode="reflect")
        windows = (
            padded[:, top + padding :, left + padding :][:, :size, :size]
            for top in allowed
            for left in allowed
        )
        assert any(np.array_equal(crop, window) for window in windows)


def test_all_places_of_a_crop_occur() -> None:
    """Of 3x3 shifts each comes about as often as any other."""
    ramp = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).expand(9000, -1, -1, -1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        corners = Crop(6, anywhere=True)(ramp)[:, 0, 0, 0]
    values, counts = np.unique(corners.numpy(), return_counts=True)
    assert values.tolist() == [0, 1, 2, 8, 9, 10, 16, 17, 18]
    assert counts.min() > 850


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.floats(0, 180), st.floats(0, 0.5), st.floats(0, 0.5))
def test_affine_is_that_of_torchvision_one_image_at_a_time(
    seed: int, degrees: float, translate: float, scale: float
) -> None:
    images = noise(3, n=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        draws = torch.rand(4, 4) * 2 - 1
        torch.manual_seed(seed)
        moved = RandomAffine(degrees, translate, scale)(images)
    for result, image, (turn, zoom, x, y) in zip(moved, images, draws.T.tolist(), strict=True):
        expected = vision.affine_image(
            image.double(),
            angle=turn * degrees,
            translate=[x * translate * 16, y * translate * 16],
            scale=1 + zoom * scale,
            shear=[0.0, 0.0],
            interpolation=InterpolationMode.BILINEAR,
        )
        assert (result.double() - expected).abs().max() <= 0.51


def test_shifts_and_turns_stay_within_their_bounds() -> None:
    """A white dot in the middle of each of many images; where is it afterwards?"""
    dots = torch.zeros(2000, 1, 33, 33, dtype=torch.uint8)
    dots[:, :, 16, 16] = 255
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        moved = RandomAffine(0, 0.25, 0)(dots)[:, 0].double()
    weights = moved / moved.sum(dim=(1, 2), keepdim=True)
    places = torch.arange(33, dtype=torch.float64)
    for shifts in ((weights.sum(1) * places).sum(1) - 16, (weights.sum(2) * places).sum(1) - 16):
        assert shifts.abs().max() <= 0.25 * 33 + 0.1
        assert shifts.min() < -7
        assert shifts.max() > 7
        assert abs(shifts.mean()) < 0.5


# --- torchvision's own ---


def test_randaugment_shares_a_draw_among_eight_images() -> None:
    images = noise(3, n=20)
    result = augmented({"randaugment_num_ops": 2}, images, data_config(), seed=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        plain = v2.RandAugment(2, 9)
        expected = torch.cat([plain(images[:8]), plain(images[8:16]), plain(images[16:])])
    assert torch.equal(result, expected)


def test_a_stronger_randaugment_changes_more() -> None:
    images = noise(3, n=400)

    def change(magnitude: int) -> float:
        changes = {"randaugment_num_ops": 1, "randaugment_magnitude": magnitude}
        result = augmented(changes, images, data_config())
        return (result.float() - images.float()).abs().mean().item()

    assert change(1) < change(10) < change(30)


# --- targets that lie in the image ---


@pytest.mark.parametrize("target", ["values", "masks"])
def test_pixels_may_not_move_where_targets_would_stay(target: Any) -> None:
    for name, changes in ALONE.items():
        config = AugmentationConfig(**changes)
        if name.startswith("jitter"):
            TrainingTransforms(data_config(), config, target)
        else:
            with pytest.raises(
                DataConfigError, match=f"^{name.split()[0]}: must be off .* {target}"
            ):
                TrainingTransforms(data_config(), config, target)


def test_all_that_would_have_to_be_off_is_named_at_once() -> None:
    with pytest.raises(DataConfigError, match=", ".join([*MOVING, "auto_augment"])):
        TrainingTransforms(data_config(), AugmentationConfig(**EVERYTHING), "masks")


# --- evaluation ---


def test_the_evaluation_pipeline_can_be_scripted_and_takes_any_size(
    recwarn: pytest.WarningsRecorder,
) -> None:
    transforms = evaluation_transforms(DataConfig(image_size=8, resize=11))
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(transforms), buffer)
    buffer.seek(0)
    loaded = torch.jit.load(buffer)
    for height, width in ((8, 8), (20, 13), (13, 21), (3, 40), (1, 1)):
        images = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
        assert torch.equal(loaded(images), transforms(images))
        assert loaded(images).shape == (2, 3, 8, 8)


def test_normalized_training_images_have_mean_0_and_deviation_1() -> None:
    train = load_split(DataConfig(), Path("data")).train
    images = normalize(torch.from_numpy(train.batch()[0]), *channel_statistics(train))
    assert images.dtype == torch.float32
    assert images.mean().item() == pytest.approx(0, abs=1e-5)
    assert images.std().item() == pytest.approx(1, abs=1e-4)


# --- the sheet ---


def tiles_of(sheet: Image.Image, n_columns: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(rows, columns, 64, 64, 3) of a sheet whose images have 64 pixels a side."""
    pixels = np.asarray(sheet)
    n_rows = (pixels.shape[0] - 4) // 68
    return np.array(
        [
            [pixels[4 + 68 * r : 68 + 68 * r, 4 + 68 * c : 68 + 68 * c] for c in range(n_columns)]
            for r in range(n_rows)
        ]
    )


@grey_and_colour
def test_a_sheet_shows_originals_and_below_them_augmented_versions(channels: int) -> None:
    images = noise(channels, n=3).numpy()
    config = AugmentationConfig(horizontal_flip=1.0)
    sheet = augmentation_sheet(images, data_config(), config, seed=0, n_rows=4)
    assert sheet.mode == "RGB"
    tiles = tiles_of(sheet, 3)
    assert tiles.shape == (5, 3, 64, 64, 3)
    small = tiles[:, :, ::4, ::4]  # each pixel is 4 wide and high
    shown = np.broadcast_to(images.transpose(0, 2, 3, 1), (3, 16, 16, 3))
    assert np.array_equal(small[0], shown)
    assert all(np.array_equal(row, shown[:, :, ::-1]) for row in small[1:])


def test_a_sheet_follows_from_its_seed_and_leaves_the_callers_alone() -> None:
    images, config = noise(3, n=2).numpy(), AugmentationConfig(**EVERYTHING)
    state = torch.get_rng_state()
    first, again, other = (
        augmentation_sheet(images, data_config(), config, seed).tobytes() for seed in (1, 1, 2)
    )
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


def test_images_side_by_side_on_a_sheet_are_augmented_differently() -> None:
    images = noise(3, n=1).repeat(8, 1, 1, 1).numpy()
    config = AugmentationConfig(randaugment_num_ops=2, randaugment_magnitude=20)
    tiles = tiles_of(augmentation_sheet(images, data_config(), config, 0), 8)
    assert len({tile.tobytes() for tile in tiles[1]}) > 4
