"""Data sets that torchvision downloads: find their files, and read them into arrays."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainables.images.archives import unpack
from trainables.images.arrays import TEST, TRAIN, ImageArrays
from trainables.images.cache import locked, writable_folder
from trainables.images.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Download:
    """The files of a data set and where they may lie.

    Attributes:
        torchvision_class: in ``torchvision.datasets``, which knows the addresses and checksums.
        files: all of them, relative to ``folder``; each may be compressed, with ".gz" at its end.
        folder: relative to the data folder, as torchvision lays it out.
        debian_package: that brings the files, too.
        debian_folder: where it installs them; preferred if they are there.
    """

    torchvision_class: str
    files: tuple[str, ...]
    folder: str = "."
    debian_package: str | None = None
    debian_folder: Path | None = None

    def find(self, data_dir: Path, *, fetch: bool) -> tuple[Path, list[Path]]:
        """The folder that has all files, and the files; fetched from the network if need be.

        Raises:
            DataError: if there are none and they may not or cannot be fetched.
        """
        own = data_dir / self.folder
        for folder in [self.debian_folder, own]:
            if folder is not None and (found := self._files_in(folder)):
                return folder, found
        if not fetch:
            package = self.debian_package
            raise DataError(
                f"{self.torchvision_class} is not in {own.resolve()}; set `download: true`"
                + (f", or run `apt-get install {package}`" if package else "")
            )
        with locked(writable_folder(data_dir), self.torchvision_class):
            if not self._files_in(own):
                self._fetch(data_dir)
        if not (found := self._files_in(own)):
            raise DataError(f"{self.torchvision_class} is not whole in {own.resolve()}")
        return own, found

    def _files_in(self, folder: Path) -> list[Path]:
        found = [
            next((path for path in (folder / name, _gz(folder / name)) if path.is_file()), None)
            for name in self.files
        ]
        paths = [path for path in found if path is not None]
        return paths if len(paths) == len(self.files) else []

    def _fetch(self, data_dir: Path) -> None:
        from torchvision import datasets
        from torchvision.datasets.utils import download_url

        set_class = getattr(datasets, self.torchvision_class)
        try:
            if archive_md5 := getattr(set_class, "tgz_md5", None):
                # torchvision would unpack it with a bare `extractall`.
                download_url(set_class.url, str(data_dir), set_class.filename, archive_md5)
                unpack(data_dir / set_class.filename, data_dir)
            elif self.torchvision_class == "SVHN":
                for part in ("train", "test"):
                    set_class(str(data_dir), split=part, download=True)
            else:
                set_class(str(data_dir), download=True)
        except (OSError, RuntimeError) as error:  # URLError is an OSError
            reason = str(error).strip().splitlines()[-1]
            raise DataError(
                f"{self.torchvision_class} cannot be downloaded to {data_dir.resolve()}: {reason}"
            ) from None


def _gz(path: Path) -> Path:
    return path.with_name(f"{path.name}.gz")


def read_idx(folder: Path) -> ImageArrays:
    """MNIST and what shares its format: 60,000 images to train with and 10,000 to test with."""
    images = [_idx(folder, f"{part}-images-idx3-ubyte") for part in ("train", "t10k")]
    labels = [_idx(folder, f"{part}-labels-idx1-ubyte") for part in ("train", "t10k")]
    return _official([image[:, np.newaxis] for image in images], labels)


def _idx(folder: Path, name: str) -> npt.NDArray[np.uint8]:
    """One file of the IDX format: 0, 0, type, number of dimensions, dimensions, values.

    Source: http://yann.lecun.com/exdb/mnist/
    """
    path = folder / name
    try:
        is_plain = path.is_file()
        content = path.read_bytes() if is_plain else gzip.decompress(_gz(path).read_bytes())
        n_dimensions = content[3]
        shape = tuple(int(n) for n in np.frombuffer(content, ">u4", n_dimensions, offset=4))
        return np.frombuffer(content, np.uint8, offset=4 + 4 * n_dimensions).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise DataError(f"{path} is damaged ({error}); remove it and fetch it again") from None


def read_cifar10(folder: Path) -> ImageArrays:
    """50,000 images to train with and 10,000 to test with. Source: Krizhevsky 2009."""
    return _read_cifar("CIFAR10", folder)


def read_cifar100(folder: Path) -> ImageArrays:
    """The same with 100 fine classes."""
    return _read_cifar("CIFAR100", folder)


def _read_cifar(name: str, folder: Path) -> ImageArrays:
    from torchvision import datasets

    parts = [_checked(getattr(datasets, name), folder, train=train) for train in (True, False)]
    return _official(
        [part.data.transpose(0, 3, 1, 2) for part in parts], [part.targets for part in parts]
    )


def read_svhn(folder: Path) -> ImageArrays:
    """73,257 images to train with and 26,032 to test with. Source: Netzer et al. 2011."""
    from torchvision import datasets

    parts = [_checked(datasets.SVHN, folder, split=part) for part in ("train", "test")]
    return _official([part.data for part in parts], [part.labels for part in parts])


def _checked(set_class: type, folder: Path, **part: bool | str) -> Any:
    """A data set of torchvision's, which compares checksums before it unpickles anything."""
    try:
        return set_class(str(folder), **part)
    except RuntimeError as error:
        raise DataError(f"{set_class.__name__} in {folder.resolve()} is damaged: {error}") from None


def _official(images: list[Any], labels: list[Any]) -> ImageArrays:
    """Training part and official test part in one."""
    n_images = [len(part) for part in images]
    if n_images != [len(part) for part in labels]:
        raise DataError(f"there are {n_images} images but {[len(part) for part in labels]} labels")
    return ImageArrays.of(
        np.concatenate(images),
        np.concatenate(labels).astype(np.int64),
        np.repeat(np.array([TRAIN, TEST], np.int8), n_images),
    )
