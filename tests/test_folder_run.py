"""What is the user's own, from start to export and back: a folder of pictures, a trainable."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import optuna
import pytest
from commands import Done, Shell, assert_no_traceback
from conftest import OWN_TRAINABLE
from PIL import Image

from hpo.results import read_evidence

FOLDER = """
name: pets
trainable: cnn
objective: {metric: val_accuracy, direction: maximize}
fixed:
  dataset: folder:pictures
  resize: 18
  image_size: 16
  random_crop: true
  depth: 2
  filters: 8
  batch_size: 16
search_space: {lr: {type: float, low: 5e-3, high: 2e-2, log: true}}
sampler: random
budget: {n_trials: 2, max_epochs: 6}
finalists: {k: 1, n_seeds: 1}
concurrency: 1
"""
KINDS = [
    ("L", "png"),
    ("RGB", "jpg"),
    ("RGBA", "png"),
    ("P", "gif"),
    ("CMYK", "tiff"),
    ("LA", "png"),
    ("1", "bmp"),
    ("I;16", "png"),
]


def picture(is_bright_above: bool, mode: str, number: int) -> Image.Image:
    """An image of a size of its own, bright in its upper or in its lower half."""
    generator = np.random.default_rng(number)
    height, width = generator.integers(20, 60, 2)
    pixels = generator.integers(0, 60, (height, width)).astype(np.uint8)
    half = slice(0, height // 2) if is_bright_above else slice(height // 2, None)
    pixels[half] += 180
    if mode == "I;16":
        return Image.fromarray(pixels.astype(np.uint16) * 257)
    return Image.fromarray(pixels).convert("RGB").convert(mode)


@pytest.fixture(scope="module")
def user(shell: Shell) -> Shell:
    """A folder data/pictures with two classes of 40 pictures each."""
    for name, is_bright_above in (("above", True), ("below", False)):
        folder = shell.folder / "data" / "pictures" / name
        folder.mkdir(parents=True)
        for number in range(40):
            mode, suffix = KINDS[number % len(KINDS)]
            image = picture(is_bright_above, mode, number + 100 * is_bright_above)
            image.save(folder / f"{number:03d}.{suffix}")
    shell.write("pets.yaml", FOLDER)
    return shell


@pytest.fixture(scope="module")
def finished(user: Shell) -> Done:
    return user.hpo("run", "pets.yaml")


def test_it_runs_from_start_to_export(user: Shell, finished: Done) -> None:
    assert finished.returncode == 0, finished.stderr
    assert "of 16" in finished.stdout  # a fifth of 80 pictures is the test set
    assert (user.folder / "runs" / "pets" / "standalone_model.pt").is_file()


@pytest.mark.usefixtures("finished")
def test_every_format_recognizes_the_original_files(user: Shell) -> None:
    """Compared on all 80 pictures, 16 of which are the test set, as they are and enlarged."""
    done = user.hpo("export", "pets", "--json")
    assert done.returncode == 0, done.stderr
    probabilities = {}
    for exported in json.loads(done.stdout)["files"]:
        name = exported["format"]
        assert exported["n_compared"] == 80
        assert exported["max_difference"] <= 1e-5, "nothing is resized: they come at 18 pixels"
        assert exported["max_difference_resized"] <= (0.05 if name == "onnx" else 1e-5)
        model = user.folder / "runs" / "pets" / exported["file"]
        done = user.hpo("predict", str(model), str(user.folder / "data" / "pictures"), "--json")
        assert done.returncode == 0, done.stderr
        rows = json.loads(done.stdout)["predictions"]
        is_right = [row["label"] == Path(row["image"]).parent.name for row in rows]
        assert len(is_right) == 80
        assert np.mean(is_right) > 0.9
        probabilities[name] = [row["probabilities"]["above"] for row in rows]
    reference = probabilities.pop("torchscript")
    for name, found in probabilities.items():
        atol = 0.05 if name == "onnx" else 1e-6
        np.testing.assert_allclose(found, reference, atol=atol, err_msg=name)
    evidence = read_evidence(user.folder / "runs" / "pets" / "test_evidence.npz")
    assert evidence.labels is not None
    assert len(evidence.labels) == 16


def test_a_bad_picture_ends_the_run_before_its_first_trial_and_is_named(user: Shell) -> None:
    bad = user.folder / "data" / "pictures" / "above" / "cut.jpg"
    bad.write_bytes((user.folder / "data/pictures/above/001.jpg").read_bytes()[:200])
    try:
        done = user.hpo("run", "pets.yaml", "-oname=refused")
        assert done.returncode == 5
        assert "above/cut.jpg" in done.stderr
        assert "bad_images: skip" in done.stderr
        assert_no_traceback(done)
        trials = optuna.load_study(study_name="refused", storage=user.storage_url).trials
        assert [trial.state.name for trial in trials] == ["WAITING"]

        small = "-obudget={n_trials: 1, max_epochs: 1}"
        skip = "-ofixed.bad_images=skip"
        skipped = user.hpo("run", "pets.yaml", "-oname=skipped", skip, small)
        assert skipped.returncode == 0, skipped.stderr
        assert skipped.stderr.count("warning: ") == 1
        assert "above/cut.jpg" in skipped.stderr
    finally:
        bad.unlink()


def test_a_trainable_of_ones_own_ends_with_a_card_and_weights_to_export(user: Shell) -> None:
    user.write("shades.py", OWN_TRAINABLE)
    options = ("-oname=shades", "-otrainable=shades:train", "-obudget.n_trials=1")
    done = user.hpo("run", "pets.yaml", *options, "-ofixed={pixels: false, rebuilds: true}")
    assert done.returncode == 0, done.stderr
    assert "2 correct" in (user.folder / "runs" / "shades" / "model_card.md").read_text()
    done = user.hpo("export", "shades", "--format", "safetensors", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["files"][0]["max_difference_resized"] <= 1e-5
