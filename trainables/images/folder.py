"""A folder of the user's own pictures: its classes, its parts, and its pictures as arrays."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from trainables.images.arrays import TEST, TRAIN, UNREADABLE, VALIDATION, ImageArrays, Pixels
from trainables.images.cache import create, stamp, stored
from trainables.images.decoding import SUFFIXES, PictureError, check_resized, decode
from trainables.images.errors import DataError
from trainables.images.hashing import content_hashes

DECODER = 1
"""Counts the changes of how a file becomes pixels; older entries of the cache are then left."""

PART_NAMES = {
    "train": TRAIN, "valid": VALIDATION, "val": VALIDATION, "validation": VALIDATION, "test": TEST
}  # fmt: skip
MAX_SHOWN = 20
N_DECODERS = 4  # threads; each may hold a picture of 50 megapixels as floats, 600 MB


@dataclass(frozen=True)
class Picture:
    """A file that is to be decoded; ``name`` is its path within the folder."""

    path: Path
    name: str
    class_index: int
    part: int


@dataclass(frozen=True)
class PictureFolder:
    """What lies in a folder, before any picture is opened.

    ``n_hidden`` and ``n_others`` count what is passed over: names that begin with a dot, and files
    whose name does not end like a picture's.
    """

    root: Path
    class_names: tuple[str, ...]
    pictures: tuple[Picture, ...]
    n_hidden: int
    n_others: int


def class_names(root: Path) -> tuple[str, ...]:
    """Names of the class folders of ``root``, sorted; with a given split those of train/.

    Raises:
        DataError: if there is no such folder, or none or only one in it.
    """
    train = _part_folders(root).get(TRAIN, root)
    names = sorted(entry.name for entry in _visible(train) if _is_folder(entry))
    if not names:
        raise DataError(f"{train} has no class folders: put the pictures of each class into one")
    if len(names) == 1:
        raise DataError(f"{train} has one class folder only, {names[0]!r}; at least 2 are needed")
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(f"{train} has a class folder {name!r}, which is not UTF-8") from None
    return tuple(names)


def find_pictures(root: Path) -> PictureFolder:
    """List the pictures of all classes and parts, in the order of their names.

    Raises:
        DataError: as `class_names`, and if a class has no pictures or links run in a circle.
    """
    classes = class_names(root)
    parts = _part_folders(root) or {TRAIN: root}
    pictures: list[Picture] = []
    counts = Counter[str]()
    for part, folder in sorted(parts.items()):
        for entry in sorted(_visible(folder), key=lambda entry: entry.name):
            if not _is_folder(entry):
                counts["others"] += 1
            elif entry.name not in classes:
                raise DataError(f"{entry.path} is no class of {parts[TRAIN]}")
            else:
                label = classes.index(entry.name)
                files = sorted(files_below(entry.path, (), counts))
                pictures += [
                    Picture(Path(path), path.removeprefix(f"{root}/"), label, part)
                    for path in files
                ]
    _refuse_empty(root, classes, parts, pictures)
    return PictureFolder(root, classes, tuple(pictures), counts["hidden"], counts["others"])


def read_folder(
    folder: PictureFolder, *, channels: int, size: int, data_dir: Path
) -> tuple[ImageArrays, list[str]]:
    """All pictures as (n, channels, size, size), decoded once; and what is worth a warning.

    The shorter side is resized to ``size`` and the centre cut out, as the exported model does. A
    picture that cannot be used is a row of part UNREADABLE; ``notes["bad"]`` says why.

    Raises:
        DataError: if a file changes while it is read, or there is no room for the arrays.
    """
    paths = [picture.path for picture in folder.pictures]
    hashes = content_hashes(paths, data_dir)
    content = [
        (picture.name, picture.class_index, picture.part, digest)
        for picture, digest in zip(folder.pictures, hashes, strict=True)
    ]
    makers = [DECODER, version("pillow"), version("torchvision")]
    key = hashlib.sha256(json.dumps([makers, channels, size, content]).encode()).hexdigest()

    def build(place: Path) -> Mapping[str, Any]:
        return _decode_all(folder.pictures, channels, size, place)

    arrays = stored(key, build, data_dir)
    usable = [digest for digest, part in zip(hashes, arrays.parts, strict=True) if part >= 0]
    return arrays, _warnings(folder, usable)


def _part_folders(root: Path) -> dict[int, Path]:
    """The folders of a given split by part; none if ``root`` holds the classes themselves."""
    folders = [root / entry.name for entry in _visible(root) if _is_folder(entry)]
    named = [path for path in folders if path.name in PART_NAMES]
    if not named:
        return {}
    others = sorted(path.name for path in folders if path not in named)
    found = ", ".join(sorted(f"{path.name}/" for path in named))
    if others:
        raise DataError(
            f"{root} has {found} and beside it {others[0]}/: either the folders are "
            "train/, valid/ and test/ with the classes in them, or they are the classes"
        )
    parts = {PART_NAMES[path.name]: path for path in named}
    if len(parts) < len(named):
        raise DataError(f"{root} has {found}: one folder for validation is enough")
    if TRAIN not in parts:
        raise DataError(f"{root} has {found} but no train/")
    return parts


def _visible(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except FileNotFoundError:
        raise DataError(f"there is no folder {folder}") from None
    except NotADirectoryError:
        raise DataError(f"{folder} is a file, not a folder of pictures") from None
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from None
    if not os.access(folder, os.X_OK, effective_ids=True):  # it may be listed and no more
        raise DataError(f"{folder} cannot be entered: Permission denied")
    return visible


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Without asking the disk again, but for links; one that leads to itself is no folder."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def files_below(folder: str, above: tuple[str, ...], counts: Counter[str]) -> Iterator[str]:
    """Picture files at any depth, through links; counts what is passed over."""
    here = os.path.realpath(folder)
    if here in above:
        raise DataError(f"{folder} is a link to a folder that it lies in: remove it")
    visible = _visible(folder)
    counts["hidden"] += len(os.listdir(folder)) - len(visible)
    for entry in visible:
        if _is_folder(entry):
            yield from files_below(entry.path, (*above, here), counts)
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
            yield entry.path
        else:
            counts["others"] += 1


def _refuse_empty(
    root: Path, classes: tuple[str, ...], parts: Mapping[int, Path], pictures: list[Picture]
) -> None:
    in_training = {picture.class_index for picture in pictures if picture.part == TRAIN}
    empty = [name for index, name in enumerate(classes) if index not in in_training]
    if empty:
        raise DataError(
            f"{parts[TRAIN]}: no pictures ({', '.join(sorted(SUFFIXES))}) in {_shown(empty)}"
        )
    for part, folder in parts.items():
        if not any(picture.part == part for picture in pictures):
            raise DataError(f"{folder} has no pictures: fill or remove it")


def _decode_all(
    pictures: tuple[Picture, ...], channels: int, size: int, place: Path
) -> Mapping[str, Any]:
    """Write the arrays of the cache's entry; its notes name the pictures that are bad."""
    before = [_stamp(picture) for picture in pictures]
    pixels = create(place, "pixels", (len(pictures), channels, size, size), np.uint8)

    def decode_one(row: int) -> str | None:
        try:
            pixels[row] = _fitted(decode(pictures[row].path, channels), size)
        except PictureError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(min(N_DECODERS, os.cpu_count() or 1)) as threads:
        reasons = list(threads.map(decode_one, range(len(pictures))))
    for picture, was in zip(pictures, before, strict=True):
        if _stamp(picture) != was:
            raise DataError(f"{picture.path} changed while it was read: try again")
    parts = [
        p.part if reason is None else UNREADABLE
        for p, reason in zip(pictures, reasons, strict=True)
    ]
    np.save(place / "parts.npy", np.array(parts, np.int8))
    np.save(place / "targets.npy", np.array([p.class_index for p in pictures], np.int64))
    bad = [[p.name, reason] for p, reason in zip(pictures, reasons, strict=True) if reason]
    return {"bad": bad}


def _stamp(picture: Picture) -> list[int] | None:
    try:
        return stamp(picture.path)
    except OSError:  # decoding it says why
        return None


def _fitted(pixels: Pixels, size: int) -> Pixels:
    """The centre of a picture, (C, size, size), with the exported model's own functions."""
    import torch

    from trainables.images.fitting import Fit

    check_resized(pixels, size)
    fitted: Pixels = Fit(size)(torch.from_numpy(pixels)[None])[0].numpy()
    return fitted


def _warnings(folder: PictureFolder, usable: list[str]) -> list[str]:
    found = []
    if folder.n_hidden or folder.n_others:
        found.append(
            f"{folder.root}: {folder.n_hidden} hidden files and {folder.n_others} files that are "
            "no pictures were passed over"
        )
    n_copies = sum(count - 1 for count in Counter(usable).values())
    if n_copies:
        found.append(
            f"{folder.root}: {n_copies} pictures are copies of others, so that a test picture may "
            "be among those trained on"
        )
    return found


def bad_pictures(arrays: ImageArrays) -> list[str]:
    """A sentence for each picture that cannot be used, ``MAX_SHOWN`` at most and how many more."""
    sentences = [f"{name}: {reason}" for name, reason in arrays.notes["bad"]]
    n_more = len(sentences) - MAX_SHOWN
    return sentences[:MAX_SHOWN] + ([f"and {n_more} more"] if n_more > 0 else [])


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(names[:MAX_SHOWN]) + more
