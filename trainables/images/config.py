"""Hyperparameters of data and augmentation, their meaning, their ranges. Needs no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from trainables.hyperparameters import Hyperparameters
from trainables.images.arrays import Target
from trainables.images.catalogue import DATASETS, FOLDER

Fraction = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0)]


class DataConfig(Hyperparameters):
    """Which images, at what size, split how.

    Attributes:
        dataset: a name of ``DATASETS``, or "folder:PATH": your own pictures, a folder per class,
            PATH absolute or relative to the data folder.
        image_size: height and width of the network's input in pixels, at least 4.
        resize: shorter side in pixels to which an image is resized before ``image_size`` is cut
            out of it, at least ``image_size``; None means ``image_size``, nothing is cut off.
        split_seed: of the train/validation/test split, the same in all trials of a search.
        validation_fraction: of the images that a data set leaves unassigned, the part that is
            held out for validation; unused where a data set has its own validation part.
        test_fraction: the same for testing; unused where a data set has its own test part.
        n_train: how many training images a search uses, each class in proportion; fewer are a
            cheaper fidelity, and always a subset of more. None uses all of them, and so does the
            retraining of the winner.
        channels: "grey" or "rgb" converts; "auto" is what the data set has, rgb for a folder.
        download: whether a data set that is missing may be fetched from the network.
        bad_images: "refuse" fails if a picture of a folder cannot be read and lists all of them;
            "skip" leaves them out and says so.
    """

    dataset: str = "digits"
    image_size: int = Field(default=8, ge=4)
    resize: int | None = Field(default=None, ge=4)
    split_seed: int = Field(default=0, ge=0, lt=2**32)
    validation_fraction: float = Field(default=0.2, gt=0, lt=1)
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    n_train: int | None = Field(default=None, ge=1)
    channels: Literal["auto", "grey", "rgb"] = "auto"
    download: bool = False
    bad_images: Literal["refuse", "skip"] = "refuse"

    @field_validator("dataset")
    @classmethod
    def _is_known(cls, dataset: str) -> str:
        is_folder = dataset.startswith(FOLDER) and dataset != FOLDER
        if dataset not in DATASETS and not is_folder:
            raise ValueError(f"must be one of {', '.join(DATASETS)}, or {FOLDER}PATH")
        return dataset

    @property
    def shorter_side(self) -> int:
        """Pixels of an image's shorter side before ``image_size`` is cut out of it."""
        return self.resize or self.image_size

    def breaches(self) -> list[tuple[str, str]]:
        """Rules between the keys that are broken."""
        found = super().breaches()
        if self.shorter_side < self.image_size:
            found.append(("resize", f"must be >= image_size, which is {self.image_size}"))
        if self.validation_fraction + self.test_fraction >= 1:
            rule = f"must be < 1 - test_fraction, which is {1 - self.test_fraction:g}"
            found.append(("validation_fraction", rule))
        return found + self._breaches_by_target()

    def _breaches_by_target(self) -> list[tuple[str, str]]:
        """Targets that lie in the image would have to follow whatever is done to it."""
        known = DATASETS.get(self.dataset)
        found: list[tuple[str, str]] = []
        if known is None or known.target == "classes":
            return found
        if self.shorter_side > self.image_size:
            rule = (
                f"must be image_size, which is {self.image_size}, or left out: the "
                f"{known.target} of dataset {self.dataset} lie in the image"
            )
            found.append(("resize", rule))
        if known.target == "masks" and self.image_size != known.height:
            rule = f"must be {known.height} like the masks of dataset {self.dataset}"
            found.append(("image_size", rule))
        return found


class AugmentationConfig(Hyperparameters):
    """Random changes of the training images, in the order in which they are made; all are off.

    Attributes:
        affine_degrees: rotation by up to so many degrees to either side, 0 to 180.
        affine_translate: shift by up to this fraction of height and width, 0 to 1.
        affine_scale: zoom by a factor from ``1 - affine_scale`` to ``1 + affine_scale``.
        jitter_brightness: brightness times a factor of up to this much more or less than 1.
        jitter_contrast: the same for contrast.
        jitter_saturation: the same for saturation; without effect on grey images.
        jitter_hue: shift of the hue by up to this fraction of the colour circle to either side,
            0 to 0.5; without effect on grey images.
        horizontal_flip: probability of a flip, left for right.
        crop_padding: the crop is shifted by up to so many pixels from its place; what lies
            outside the image is its reflection.
        random_crop: cut ``image_size`` out of a random place of the resized image, not out of
            its centre; without effect unless ``resize`` is larger than ``image_size``.
        randaugment_num_ops: transformations per image; 0 turns RandAugment off.
        randaugment_magnitude: their strength, 0 to 30.
        auto_augment: policy of AutoAugment, named after the data set it was found on.
    """

    affine_degrees: float = Field(default=0.0, ge=0, le=180)
    affine_translate: Probability = 0.0
    affine_scale: Fraction = 0.0
    jitter_brightness: Strength = 0.0
    jitter_contrast: Strength = 0.0
    jitter_saturation: Strength = 0.0
    jitter_hue: float = Field(default=0.0, ge=0, le=0.5)
    horizontal_flip: Probability = 0.0
    crop_padding: int = Field(default=0, ge=0)
    random_crop: bool = False
    randaugment_num_ops: int = Field(default=0, ge=0)
    randaugment_magnitude: int = Field(default=9, ge=0, le=30)
    auto_augment: Literal["none", "imagenet", "cifar10", "svhn"] = "none"

    def problem_with(self, target: Target) -> str:
        """Why these cannot be done where ``target`` is learned; empty if they can."""
        moving = [key for key in MOVING if getattr(self, key)]
        moving += ["auto_augment"] if self.auto_augment != "none" else []
        if target == "classes" or not moving:
            return ""
        return (
            f"{', '.join(moving)}: must be off where targets are {target}, which lie in the "
            "image and would stay where they are; colour jitter is fine"
        )


MOVING = (
    "affine_degrees", "affine_translate", "affine_scale", "horizontal_flip", "crop_padding",
    "random_crop", "randaugment_num_ops",
)  # fmt: skip
"""Keys of `AugmentationConfig` that move pixels when they are not 0; and so does AutoAugment."""
