"""The flagship journey on real digits: search, re-runs, retraining, test, export, prediction."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Done, Shell, assert_no_traceback
from conftest import ROOT
from mlflow import MlflowClient
from PIL import Image

from hpo.places import Places
from hpo.results import Outcome
from hpo.workspace import find_workspace
from trainables.images.config import DataConfig
from trainables.images.dataset import SplitImages, load_split

SMALL = (
    "-obudget={n_trials: 3, max_epochs: 2}",
    "-oscheduler=none",
    "-ofinalists={k: 2, n_seeds: 2}",
    "-osearch_space={lr: {type: float, low: 0.01, high: 0.05}}",
    "-ofixed={filters: 8, batch_size: 128}",
    "-oconcurrency=1",
)


def digits() -> SplitImages:
    return load_split(DataConfig(), Path("data"))


@pytest.fixture(scope="module")
def finished(shell: Shell) -> tuple[Shell, Done]:
    """A small run of search_spaces/cnn.yaml."""
    return shell, shell.hpo("run", str(ROOT / "search_spaces" / "cnn.yaml"), *SMALL)


@pytest.fixture(scope="module")
def outcome(finished: tuple[Shell, Done]) -> Outcome:
    shell, done = finished
    assert done.returncode == 0, done.stderr
    return find_workspace("cnn", Places.of(shell.folder)).outcome()


@pytest.fixture(scope="module")
def model(finished: tuple[Shell, Done]) -> Path:
    return finished[0].folder / "runs" / "cnn" / "standalone_model.pt"


def test_the_three_values_stand_side_by_side(
    finished: tuple[Shell, Done], outcome: Outcome
) -> None:
    stdout = finished[1].stdout
    assert len(stdout.splitlines()) <= 10
    assert outcome.winner is not None
    assert outcome.winner.confirmed is not None
    assert outcome.test is not None
    assert f"{outcome.winner.search_value:.4f}" in stdout
    assert f"{outcome.winner.confirmed.mean:.4f}" in stdout
    assert f"{outcome.test.n_correct} of {outcome.test.n_test}" in stdout


def test_the_winner_has_the_best_mean_and_the_test_set_was_read_once(outcome: Outcome) -> None:
    means = [finalist.mean for finalist in outcome.finalists]
    assert all(mean is not None for mean in means)
    assert means == sorted(means, key=lambda mean: -(mean or 0.0))
    assert len(outcome.test_readings) == 1
    assert outcome.test_readings[0].n_test == 360


def test_the_data_and_the_code_are_recorded(outcome: Outcome) -> None:
    assert outcome.experiment.data_fingerprint == digits().fingerprint
    assert outcome.experiment.versions["torch"] == torch.__version__.partition("+")[0]


def test_the_exported_model_was_compared_in_a_new_process(outcome: Outcome, model: Path) -> None:
    assert outcome.export is not None
    assert outcome.export.max_difference <= 1e-5
    assert outcome.export.n_compared >= 256
    assert Path(outcome.export.path) == model


def test_the_exported_model_needs_torch_alone_and_scores_what_was_reported(
    outcome: Outcome, model: Path, tmp_path: Path
) -> None:
    """In a process that imports nothing but torch, on the real test images."""
    images, labels = map(torch.from_numpy, digits().test.batch())
    torch.save({"images": images, "labels": labels}, tmp_path / "test.pt")
    code = (
        "import sys, torch\n"
        f"model = torch.jit.load({str(model)!r})\n"
        f"test = torch.load({str(tmp_path / 'test.pt')!r})\n"
        "print((model(test['images']).argmax(1) == test['labels']).sum().item())\n"
        "assert model.class_names == list('0123456789')\n"
        "assert 'torchvision' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert outcome.test is not None
    assert int(done.stdout) == outcome.test.n_correct


def test_best_valid_weights_of_each_finalist_are_in_mlflow_and_of_nobody_else(
    finished: tuple[Shell, Done], outcome: Outcome
) -> None:
    client = MlflowClient(finished[0].tracking_uri)
    experiment = client.get_experiment_by_name("cnn")
    assert experiment is not None
    for run in client.search_runs([experiment.experiment_id], "tags.`hpo.kind` = 'trial'"):
        artifacts = [item.path for item in client.list_artifacts(run.info.run_id)]
        is_finalist = int(run.data.tags["hpo.trial_number"]) in {
            finalist.number for finalist in outcome.finalists
        }
        assert artifacts == (["best_valid.pt"] if is_finalist else [])
    kept = (finished[0].folder / "runs" / "cnn" / "trials").glob("*/best_valid.pt")
    assert len(list(kept)) == 2


def test_predict_prints_labels_and_probabilities(shell: Shell, model: Path) -> None:
    images = sorted((model.parent / "examples").glob("*.png"))
    assert len(images) == 10
    done = shell.hpo("predict", str(model), *map(str, images), "--json")
    assert done.returncode == 0, done.stderr
    for row in json.loads(done.stdout)["predictions"]:
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert row["label"] == max(row["probabilities"], key=row["probabilities"].__getitem__)
    text = shell.hpo("predict", str(model), str(images[0])).stdout
    assert text.startswith(f"{images[0]}: ")


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "I;16", "CMYK"])
def test_predict_takes_images_of_any_mode_and_size(
    shell: Shell, model: Path, tmp_path: Path, mode: str
) -> None:
    gradient = np.linspace(0, 255, 40 * 30).reshape(40, 30).astype(np.uint8)
    image = Image.fromarray(gradient)
    if mode == "I;16":
        image = Image.fromarray(gradient.astype(np.uint16) * 257)
    path = tmp_path / ("image.tiff" if mode == "CMYK" else "image.png")
    (image if mode == "I;16" else image.convert(mode)).save(path)
    done = shell.hpo("predict", str(model), str(path))
    assert done.returncode == 0, done.stderr


def test_images_that_cannot_be_read_are_all_named(
    shell: Shell, model: Path, tmp_path: Path
) -> None:
    text, cut = tmp_path / "notes.png", tmp_path / "cut.png"
    text.write_text("no image")
    whole = (model.parent / "examples" / "3.png").read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    done = shell.hpo("predict", str(model), str(text), str(cut), str(tmp_path / "missing.png"))
    assert done.returncode == 2
    for name in ("notes.png", "cut.png", "missing.png"):
        assert name in done.stderr
    assert_no_traceback(done)


def test_a_file_that_is_no_exported_model_is_named(shell: Shell, tmp_path: Path) -> None:
    other = tmp_path / "weights.pt"
    torch.save({"a": torch.zeros(1)}, other)
    for path in (other, tmp_path / "missing.pt"):
        done = shell.hpo("predict", str(path), "x.png")
        assert done.returncode == 2
        assert path.name in done.stderr
        assert_no_traceback(done)
