"""The data sets by name: what is known of each before anything is loaded, and how to read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainables.images.arrays import ImageArrays, Target
from trainables.images.digits import read_digits
from trainables.images.discs import N_DISCS, read_disc_masks, read_discs
from trainables.images.downloads import Download, read_cifar10, read_cifar100, read_idx, read_svhn

FOLDER = "folder:"
"""Prefix of a data set that is a folder of the user's own pictures."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set as it is described and read.

    Attributes:
        channels: 1 is grey, 3 is RGB.
        height: of all images, in pixels.
        width: the same.
        n_images: in all parts together.
        class_names: of what a network predicts: classes, or the values of a regression.
        target: a class per image, values per image, or a mask with a class per pixel.
        read: decodes all images; takes the folder that ``download`` was found in, if there is one.
        download: the files it consists of; None is made in memory within milliseconds.
    """

    channels: int
    height: int
    width: int
    n_images: int
    class_names: tuple[str, ...]
    target: Target = "classes"
    read: Callable[[], ImageArrays] | Callable[[Path], ImageArrays]
    download: Download | None = None


DIGITS = tuple("0123456789")
FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
CIFAR10 = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
CIFAR100 = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
    "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
    "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup",
    "dinosaur", "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house",
    "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man",
    "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy",
    "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal",
    "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar",
    "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor",
    "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman",
    "worm",
)  # fmt: skip
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

DATASETS: dict[str, DataSet] = {
    "digits": DataSet(
        channels=1, height=8, width=8, n_images=1797, class_names=DIGITS, read=read_digits
    ),
    "discs": DataSet(
        channels=1,
        height=32,
        width=32,
        n_images=N_DISCS,
        class_names=("x", "y", "radius"),
        target="values",
        read=read_discs,
    ),
    "disc_masks": DataSet(
        channels=1,
        height=32,
        width=32,
        n_images=N_DISCS,
        class_names=("background", "disc"),
        target="masks",
        read=read_disc_masks,
    ),
    "mnist": DataSet(
        channels=1,
        height=28,
        width=28,
        n_images=70_000,
        class_names=DIGITS,
        read=read_idx,
        download=Download(torchvision_class="MNIST", folder="MNIST/raw", files=IDX_FILES),
    ),
    "fashion_mnist": DataSet(
        channels=1,
        height=28,
        width=28,
        n_images=70_000,
        class_names=FASHION,
        read=read_idx,
        download=Download(
            torchvision_class="FashionMNIST",
            folder="FashionMNIST/raw",
            files=IDX_FILES,
            debian_package="dataset-fashion-mnist",
            debian_folder=Path("/usr/share/datasets/fashion-mnist"),
        ),
    ),
    "cifar10": DataSet(
        channels=3,
        height=32,
        width=32,
        n_images=60_000,
        class_names=CIFAR10,
        read=read_cifar10,
        download=Download(
            torchvision_class="CIFAR10",
            files=(
                *(f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)),
                "cifar-10-batches-py/test_batch",
                "cifar-10-batches-py/batches.meta",
            ),
        ),
    ),
    "cifar100": DataSet(
        channels=3,
        height=32,
        width=32,
        n_images=60_000,
        class_names=CIFAR100,
        read=read_cifar100,
        download=Download(
            torchvision_class="CIFAR100",
            files=tuple(f"cifar-100-python/{name}" for name in ("train", "test", "meta")),
        ),
    ),
    "svhn": DataSet(
        channels=3,
        height=32,
        width=32,
        n_images=99_289,
        class_names=DIGITS,
        read=read_svhn,
        download=Download(torchvision_class="SVHN", files=("train_32x32.mat", "test_32x32.mat")),
    ),
}
