"""Folders of the user's own pictures: any kind of file in, arrays or one clear sentence out."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from trainables import BEST_WEIGHTS, TrialContext
from trainables.cnn.predictor import Predictor
from trainables.cnn.training import train
from trainables.images.augmentation import evaluation_transforms
from trainables.images.config import DataConfig
from trainables.images.dataset import SplitImages, describe, load_split
from trainables.images.decoding import MAX_PIXELS, PictureError, decode
from trainables.images.errors import DataError

NOBODY = 65534


def picture(width: int = 12, height: int = 10, seed: int = 0) -> Image.Image:
    """Noise, no two pixels alike."""
    rng = np.random.default_rng([seed, width, height])
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def fill(root: Path, counts: dict[str, int], width: int = 12, height: int = 10) -> Path:
    """Write so many pictures into each folder below ``root``."""
    for number, (folder, n) in enumerate(counts.items()):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(n):
            image = picture(width, height, seed=1000 * number + index)
            image.save(root / folder / f"{index:03}.png")
    return root


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return fill(tmp_path / "pets", {"cat": 10, "dog": 10})


def load(root: Path, **changes: Any) -> SplitImages:
    config = DataConfig(**{"dataset": f"folder:{root}", "image_size": 8, **changes})
    return load_split(config, root.parent / "data")


# --- one picture ---


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("1", "png"), ("L", "png"), ("LA", "png"), ("P", "png"), ("P", "gif"), ("RGB", "png"),
        ("RGB", "jpg"), ("RGB", "webp"), ("RGB", "bmp"), ("RGB", "ppm"), ("RGB", "tif"),
        ("RGBA", "png"), ("RGBA", "webp"), ("RGBA", "tif"), ("CMYK", "jpg"), ("CMYK", "tif"),
        ("YCbCr", "jpg"), ("YCbCr", "tif"), ("L", "jpg"), ("LA", "tif"), ("1", "tif"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_is_read_as_pillow_shows_it(
    mode: str, suffix: str, channels: int, tmp_path: Path
) -> None:
    path = saved(picture().convert(mode), tmp_path / f"a.{suffix}")
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB" if channels == 3 else "L"))
    pixels = decode(path, channels)
    assert (pixels.shape, pixels.dtype) == ((channels, 10, 12), np.uint8)
    assert np.array_equal(pixels.transpose(1, 2, 0).squeeze(), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparency_lies_on_white(mode: str, channels: int, tmp_path: Path) -> None:
    """Left: opaque black; middle: half; right: nothing of it is seen."""
    black = Image.new("RGBA", (3, 1))
    for x, alpha in enumerate((255, 128, 0)):
        black.putpixel((x, 0), (0, 0, 0, alpha))
    image = black.quantize() if mode == "P" else black.convert(mode)
    pixels = decode(saved(image, tmp_path / "a.png"), channels)
    assert pixels[:, 0].tolist() == [[0, 127, 255]] * channels


def test_a_transparent_colour_lies_on_white(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 1), (10, 20, 30))
    image.putpixel((1, 0), (1, 2, 3))
    path = saved(image, tmp_path / "a.png", transparency=(1, 2, 3))
    assert decode(path, 3)[:, 0].T.tolist() == [[10, 20, 30], [255, 255, 255]]


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bits_are_scaled_and_not_cut_off(suffix: str, tmp_path: Path) -> None:
    values = np.array([[0, 255, 257, 32768, 65535]], np.uint16)
    path = saved(Image.fromarray(values), tmp_path / f"a.{suffix}")
    assert decode(path, 1)[0].tolist() == [[0, 1, 1, 128, 255]]
    assert decode(path, 3)[1].tolist() == [[0, 1, 1, 128, 255]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 100.4, 255.0], [0, 100, 255])],
)
def test_floats_count_to_1_or_to_255(
    values: list[float], expected: list[int], tmp_path: Path
) -> None:
    path = saved(Image.fromarray(np.array([values], np.float32)), tmp_path / "a.tif")
    assert decode(path, 1)[0].tolist() == [expected]


@pytest.mark.parametrize("values", [[-1.0, 0.0], [0.0, 256.0], [float("nan"), 0.0]])
def test_floats_of_another_range_are_refused(values: list[float], tmp_path: Path) -> None:
    path = saved(Image.fromarray(np.array([values], np.float32)), tmp_path / "a.tif")
    with pytest.raises(PictureError, match=r"has pixels from .* mode F may have 0 to"):
        decode(path, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_that_was_taken_sideways_is_upright(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = picture()
    path = saved(image, tmp_path / "a.png", exif=exif)
    pixels = np.asarray(image)
    upright = {
        1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1],
        5: pixels.transpose(1, 0, 2), 6: np.rot90(pixels, -1),
        7: np.rot90(pixels, 2).transpose(1, 0, 2), 8: np.rot90(pixels, 1),
    }[orientation]  # fmt: skip
    assert np.array_equal(decode(path, 3).transpose(1, 2, 0), upright)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.tif", "a.mpo"])
def test_the_first_of_several_pictures_in_a_file_is_taken(name: str, tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), value) for value in (10, 200)]
    options = {"lossless": True} if name == "a.webp" else {}
    path = saved(frames[0], tmp_path / name, save_all=True, append_images=frames[1:], **options)
    assert (decode(path, 1) == 10).all()


def png_of(width: int, height: int) -> bytes:
    """The head of a PNG that claims a size, and no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def bytes_of(suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return saved(picture(64, 64), Path(folder) / f"a.{suffix}").read_bytes()


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty.png": (b"", "is empty"),
    "text.jpg": (b"this is no picture", "is no picture of a known format"),
    "cut.png": (bytes_of("png")[:2000], "truncated"),
    "cut.jpg": (bytes_of("jpg")[:1500], "truncated"),
    "cut.webp": (bytes_of("webp")[:1500], "."),
    "cut.tif": (bytes_of("tif")[:1500], "."),
    "cut.bmp": (bytes_of("bmp")[:1500], "truncated"),
    "head.png": (bytes_of("png")[:20], "."),
    "garbled.png": (bytes_of("png")[:60] + b"\0" * 500 + bytes_of("png")[560:], "."),
    "wide.png": (png_of(10_000, 6_000), "has 60.0 megapixels, more than 50"),
    "bomb.png": (png_of(30_000, 30_000), "megapixels"),
    "flat.png": (png_of(0, 10), "."),
    "script.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture of a known"),
}


@pytest.mark.parametrize("name", sorted(BAD_FILES))
def test_a_bad_file_has_its_reason(name: str, tmp_path: Path) -> None:
    content, words = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PictureError, match=words):
        decode(tmp_path / name, 3)


def test_a_bomb_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    """300 megabytes of black in a few kilobytes; less than a fifth of it is ever in memory.

    Of so many pixels Pillow would warn, with a line of its own source.
    """
    width = height = 10_000
    path = tmp_path / "bomb.png"
    compressor = zlib.compressobj(1)
    body = b"".join(compressor.compress(b"\0" * (1 + 3 * width)) for _ in range(height))
    body += compressor.flush()
    head = png_of(width, height)
    data = struct.pack(">I", len(body)) + b"IDAT" + body
    data += struct.pack(">I", zlib.crc32(b"IDAT" + body))
    path.write_bytes(head[:33] + data + head[-12:])
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from trainables.images.decoding import PictureError, decode\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"try: decode(Path({str(path)!r}), 3)\n"
        "except PictureError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    reason, grown_kb = done.stdout.splitlines()
    assert reason == "has 100.0 megapixels, more than 50"
    assert done.stderr == ""
    assert int(grown_kb) < 60_000
    assert width * height > MAX_PIXELS


# --- a folder ---


def test_classes_are_the_sorted_folders_and_each_picture_has_its_own(tmp_path: Path) -> None:
    root = tmp_path / "letters"
    for name, value in (("b", 100), ("a", 50), ("Z", 200)):
        (root / name).mkdir(parents=True)
        for index in range(10):
            Image.new("RGB", (9, 9), (value, index, 0)).save(root / name / f"{index}.png")
    data = load(root)
    assert data.class_names == ("Z", "a", "b")
    everything = [part.batch() for part in (data.train, data.validation, data.test)]
    images, labels = (np.concatenate(arrays) for arrays in zip(*everything, strict=True))
    assert images.shape == (30, 3, 8, 8)
    assert np.array_equal(np.array([200, 50, 100])[labels], images[:, 0, 0, 0])
    assert len({(red, green) for red, green, _ in images[:, :, 0, 0].tolist()}) == 30


def test_a_folder_is_described_by_its_folders_alone(tmp_path: Path) -> None:
    """No picture is opened: these are none."""
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "a.png").write_bytes(b"no picture")
    for channels, expected in (("auto", 3), ("rgb", 3), ("grey", 1)):
        config = DataConfig(dataset="folder:pets", image_size=16, channels=channels)
        facts = describe(config, tmp_path)
        assert (facts.channels, facts.height, facts.width) == (expected, 16, 16)
        assert (facts.class_names, facts.target, facts.n_images) == (
            ("cat", "dog"),
            "classes",
            None,
        )


def test_a_path_is_relative_to_the_data_folder_or_absolute(pets: Path) -> None:
    relative = load_split(DataConfig(dataset="folder:pets"), pets.parent)
    absolute = load_split(DataConfig(dataset=f"folder:{pets}"), pets.parent)
    assert relative.fingerprint == absolute.fingerprint


@pytest.mark.parametrize(("width", "height"), [(8, 8), (31, 17), (17, 31), (5, 4), (1, 1), (99, 8)])
@pytest.mark.parametrize(("image_size", "resize"), [(8, None), (8, 11), (7, 12)])
@pytest.mark.parametrize("channels", ["grey", "rgb"])
def test_an_exported_model_sees_the_pixels_that_were_cached(
    width: int, height: int, image_size: int, resize: int | None, channels: str, tmp_path: Path
) -> None:
    """From the original file, whatever its size, it computes what training had from the cache."""
    root = fill(tmp_path / "pets", {"cat": 5, "dog": 5}, width, height)
    config = DataConfig(
        dataset="folder:pets",
        image_size=image_size,
        resize=resize,
        channels="grey" if channels == "grey" else "rgb",
    )
    data = load_split(config, tmp_path)
    transforms = evaluation_transforms(config)
    everything = data.train.arrays.pixels
    assert everything.shape[2:] == (resize or image_size,) * 2
    in_training = transforms(torch.from_numpy(everything.copy()))
    files = sorted(root.glob("*/*.png"))
    n_channels = everything.shape[1]
    in_use = [transforms(torch.from_numpy(decode(file, n_channels))[None]) for file in files]
    assert in_training.shape == (10, n_channels, image_size, image_size)
    assert torch.equal(in_training, torch.cat(in_use))


def test_the_predictor_itself_sees_them_as_well(pets: Path) -> None:
    data = load(pets, image_size=8)
    predictor = Predictor(
        nn.Flatten(),
        fit=evaluation_transforms(DataConfig(image_size=8)),
        class_names=[],
        mean=[0.0] * 3,
        std=[1.0] * 3,
    )
    files = sorted(pets.glob("*/*.png"))
    originals = torch.cat([torch.from_numpy(decode(file, 3))[None] for file in files])
    cached = torch.from_numpy(data.train.arrays.pixels.copy())
    assert torch.equal(predictor(originals), predictor(cached))


def parts_of(data: SplitImages) -> list[int]:
    return [len(part) for part in (data.train, data.validation, data.test)]


def test_without_given_parts_a_folder_is_split_by_its_seed(pets: Path) -> None:
    data = load(pets)
    assert parts_of(data) == [12, 4, 4]
    assert np.bincount(data.test.targets).tolist() == [2, 2]
    assert load(pets).fingerprint == data.fingerprint
    assert load(pets, split_seed=1).fingerprint != data.fingerprint


@pytest.mark.parametrize("validation", ["valid", "val", "validation"])
def test_given_parts_are_kept(validation: str, tmp_path: Path) -> None:
    counts = {
        "train/cat": 6, "train/dog": 7, f"{validation}/cat": 2, f"{validation}/dog": 3,
        "test/cat": 1, "test/dog": 4,
    }  # fmt: skip
    data = load(fill(tmp_path / "pets", counts))
    assert parts_of(data) == [13, 5, 5]
    assert np.bincount(data.test.targets).tolist() == [1, 4]
    assert data.class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("given", "expected"), [([], [12, 4, 4]), (["valid"], [16, 4, 4]), (["test"], [16, 4, 4])]
)
def test_a_missing_part_is_split_off_from_train(
    given: list[str], expected: list[int], tmp_path: Path
) -> None:
    counts = {f"train/{name}": 10 for name in ("cat", "dog")}
    counts |= {f"{part}/{name}": 2 for part in given for name in ("cat", "dog")}
    assert parts_of(load(fill(tmp_path / "pets", counts))) == expected


def test_a_class_may_be_missing_from_a_given_test_part(tmp_path: Path) -> None:
    """Its classes are still those of train/; torchvision's ImageFolder would count them anew."""
    root = fill(tmp_path / "pets", {"train/cat": 10, "train/dog": 10, "test/dog": 3})
    assert load(root).test.targets.tolist() == [1, 1, 1]


def test_pictures_lie_at_any_depth_and_behind_links(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets", {"cat/2023/may": 5, "cat/2024": 5, "dog": 10})
    elsewhere = fill(tmp_path / "elsewhere", {"more": 5}, width=20)
    (root / "dog" / "more").symlink_to(elsewhere / "more")
    (root / "cat" / "link.png").symlink_to(elsewhere / "more" / "000.png")
    data = load(root)
    assert sum(parts_of(data)) == 26
    assert np.bincount(data.train.arrays.targets).tolist() == [11, 15]


def test_hidden_files_and_other_files_are_passed_over_and_counted(pets: Path) -> None:
    (pets / "cat" / ".DS_Store").write_bytes(b"x")
    (pets / "cat" / "._000.png").write_bytes(b"x")
    (pets / ".git").mkdir()
    (pets / "notes.txt").write_text("x")
    (pets / "cat" / "Thumbs.db").write_bytes(b"x")
    (pets / "dog" / "upper.PNG").write_bytes((pets / "dog" / "000.png").read_bytes() + b" ")
    data = load(pets)
    assert sum(parts_of(data)) == 21
    assert data.warnings == (
        f"{pets}: 2 hidden files and 2 files that are no pictures were passed over",
    )
    assert load(fill(pets.parent / "clean", {"cat": 5, "dog": 5})).warnings == ()


def test_copies_are_told_because_a_test_picture_may_be_trained_on(pets: Path) -> None:
    shutil.copy(pets / "cat" / "000.png", pets / "cat" / "copy.png")
    (warning,) = load(pets).warnings
    assert "1 pictures are copies of others" in warning


@pytest.fixture
def spoilt(pets: Path) -> Path:
    """A folder with every kind of bad file in it, and a link to nowhere."""
    for name, (content, _) in BAD_FILES.items():
        (pets / "cat" / name).write_bytes(content)
    picture(9000, 1).save(pets / "cat" / "ribbon.png")
    (pets / "dog" / "broken.png").symlink_to("nowhere.png")
    (pets / "dog" / "loop.png").symlink_to("loop.png")
    return pets


def test_bad_files_are_refused_all_at_once(spoilt: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(spoilt, image_size=100)
    message = str(caught.value)
    assert "16 of 36 pictures cannot be used; remove them, or set `bad_images: skip`" in message
    assert all(f"cat/{name}: " in message for name in BAD_FILES)
    assert "ribbon.png: is 9000 times as long as wide; resized it has 90.0 megapixels" in message
    assert "dog/broken.png: No such file or directory" in message
    assert "dog/loop.png: Too many levels of symbolic links" in message


def test_bad_files_may_be_skipped_and_are_named_in_a_warning(spoilt: Path) -> None:
    data = load(spoilt, bad_images="skip", image_size=8)
    assert sum(parts_of(data)) == 21, "the ribbon is small enough at this size"
    (warning,) = data.warnings
    assert "15 of 36 pictures were left out" in warning
    assert "cat/empty.png: is empty" in warning
    assert all(image.any() for part in (data.train, data.test) for image in part.batch()[0])


@pytest.mark.parametrize(("channels", "n_channels"), [("auto", 3), ("grey", 1), ("rgb", 3)])
def test_a_network_is_trained_on_what_can_be_read(
    channels: str, n_channels: int, spoilt: Path, tmp_path: Path
) -> None:
    """An epoch; the weights that it keeps are for that many channels."""
    data = {"dataset": f"folder:{spoilt}", "bad_images": "skip", "channels": channels}
    small = {"depth": 1, "filters": 2, "batch_size": 4}
    trial = TrialContext(seed=1, folder=tmp_path, max_epochs=1, data_dir=tmp_path / "data")
    (report,) = train({**data, **small}, trial)
    assert all(np.isfinite(value) for value in report.values())
    weights = torch.load(tmp_path / BEST_WEIGHTS, weights_only=True)
    assert weights["backbone.block1.unit1.conv.weight"].shape[1] == n_channels


def test_of_many_bad_files_twenty_are_shown(pets: Path) -> None:
    for index in range(30):
        (pets / "cat" / f"bad{index:02}.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        load(pets)
    lines = str(caught.value).splitlines()
    assert "30 of 50 pictures cannot be used" in lines[0]
    assert len(lines) == 22
    assert lines[1].strip() == "cat/bad00.png: is empty"
    assert lines[-1].strip() == "and 10 more"


def test_a_file_that_is_mended_is_read_again(pets: Path) -> None:
    (pets / "cat" / "bad.png").write_bytes(b"")
    with pytest.raises(DataError):
        load(pets)
    picture(seed=77).save(pets / "cat" / "bad.png")
    assert sum(parts_of(load(pets))) == 21


@contextmanager
def without_rights() -> Iterator[None]:
    """Root may read anything, so root becomes somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public_pets() -> Iterator[Path]:
    """Pictures in a folder that other users may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp())
    (folder / "data").mkdir()
    for path in (folder, folder / "data"):
        path.chmod(0o777)
    yield fill(folder / "pets", {"cat": 10, "dog": 10})
    for path in folder.rglob("*"):
        path.chmod(0o777)
    shutil.rmtree(folder)


def test_a_file_that_may_not_be_read_is_a_bad_file(public_pets: Path) -> None:
    (public_pets / "cat" / "003.png").chmod(0)
    with without_rights(), pytest.raises(DataError, match=r"cat/003.png: Permission denied"):
        load(public_pets)


@pytest.mark.parametrize("folder", [".", "cat"])
@pytest.mark.parametrize("mode", [0o000, 0o444])
def test_a_folder_that_may_not_be_read_is_named(folder: str, mode: int, public_pets: Path) -> None:
    (public_pets / folder).chmod(mode)
    words = f"{(public_pets / folder)} cannot be .*: Permission denied"
    with without_rights(), pytest.raises(DataError, match=words):
        load(public_pets)


def nothing(_: Path) -> None:
    pass


def a_file(root: Path) -> None:
    root.write_text("x")


def a_loop(root: Path) -> None:
    fill(root, {"cat": 3, "dog": 3})
    (root / "cat" / "again").symlink_to(root / "cat")


def a_class_of_another_part(root: Path) -> None:
    fill(root, {"train/cat": 3, "train/dog": 3, "test/bird": 1})


BAD_FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (nothing, "there is no folder {root}"),
    "a file": (a_file, "{root} is a file, not a folder of pictures"),
    "empty": (Path.mkdir, "{root} has no class folders"),
    "no classes": (lambda root: fill(root, {".": 3}), "{root} has no class folders"),
    "one class": (lambda root: fill(root, {"cat": 3}), "one class folder only, 'cat'; at least 2"),
    "empty class": (lambda root: fill(root, {"cat": 3, "dog": 0}), r"no pictures \(.*\) in dog"),
    "small class": (
        lambda root: fill(root, {"cat": 20, "dog": 1}),
        "every class in both parts: 'dog' has 1",
    ),
    "no train": (
        lambda root: fill(root, {"test/cat": 3, "test/dog": 3}),
        r"{root} has test/ but no train/",
    ),
    "parts beside classes": (
        lambda root: fill(root, {"train/cat": 3, "cat": 3, "dog": 3}),
        "{root} has train/ and beside it cat/: either",
    ),
    "two validations": (
        lambda root: fill(root, {"train/cat": 3, "train/dog": 3, "val/cat": 1, "valid/cat": 1}),
        "{root} has train/, val/, valid/: one folder for validation is enough",
    ),
    "empty part": (
        lambda root: fill(root, {"train/cat": 3, "train/dog": 3, "test/cat": 0}),
        "{root}/test has no pictures: fill or remove it",
    ),
    "unknown class": (a_class_of_another_part, "{root}/test/bird is no class of {root}/train"),
    "loop": (a_loop, "{root}/cat/again is a link to a folder that it lies in"),
}


@pytest.mark.parametrize("case", sorted(BAD_FOLDERS))
def test_a_folder_that_cannot_be_used_is_one_sentence(case: str, tmp_path: Path) -> None:
    make, words = BAD_FOLDERS[case]
    root = tmp_path / "pets"
    make(root)
    with pytest.raises(DataError, match=words.format(root=root)) as caught:
        load(root)
    assert "\n" not in str(caught.value)


def test_a_folder_of_which_nothing_can_be_read_has_nothing_to_train_on(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "a.png").write_bytes(b"x")
    with pytest.raises(DataError, match="0 images are too few to split"):
        load(tmp_path / "pets", bad_images="skip")


@pytest.mark.parametrize("change", ["pixels", "name", "class", "removed"])
def test_the_fingerprint_tells_a_changed_folder(change: str, pets: Path) -> None:
    before = load(pets).fingerprint
    first = pets / "cat" / "000.png"
    match change:
        case "pixels":
            picture(seed=99).save(first)
        case "name":
            first.rename(first.with_name("zzz.png"))
        case "class":
            first.rename(pets / "dog" / "zzz.png")
        case "removed":
            first.unlink()
    assert load(pets).fingerprint != before


def test_a_moved_folder_is_the_same_data_and_is_not_decoded_again(pets: Path) -> None:
    before = load(pets)
    moved = shutil.move(pets, pets.parent / "moved")
    assert load(Path(moved)) is before
