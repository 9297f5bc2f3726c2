"""One winner, four formats: each loaded in a new process, registered, described, used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Done, Shell, assert_no_traceback
from conftest import BRANIN, ROOT
from mlflow import MlflowClient
from PIL import Image
from safetensors import safe_open
from torch import nn
from torchvision import transforms

from hpo.errors import ExportMismatchError
from hpo.exported import FORMATS, load_exported
from hpo.places import Places
from hpo.results import compare_reloaded, read_evidence, refuse_mismatch
from hpo.results.formats import WRITERS, write_format
from hpo.workspace import find_workspace
from trainables.cnn.config import CnnConfig
from trainables.cnn.predictor import Predictor, describe_predictor, rebuild
from trainables.images.config import DataConfig
from trainables.images.dataset import describe, load_split
from trainables.images.fitting import Fit

TINY = (
    "-obudget={n_trials: 1, max_epochs: 1}",
    "-oscheduler=none",
    "-ofinalists={k: 1, n_seeds: 1}",
    "-osearch_space={lr: {type: float, low: 0.01, high: 0.02}}",
)
NOBODY = "http://127.0.0.1:9"  # the discard port: connections are refused at once


def run(shell: Shell, name: str, fixed: str, *options: str) -> None:
    cnn = str(ROOT / "search_spaces" / "cnn.yaml")
    done = shell.hpo("run", cnn, *TINY, f"-oname={name}", f"-ofixed={fixed}", *options)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def digits(shell: Shell) -> Path:
    """The folder of a classifier of digits."""
    run(shell, "digits", "{filters: 8, batch_size: 128}", "-obudget.max_epochs=3")
    return shell.folder / "runs" / "digits"


@pytest.fixture(scope="module")
def exported(shell: Shell, digits: Path) -> tuple[Path, dict[str, Any], Done]:
    """The same with all formats, what `hpo export --json` said of them, and how it ended."""
    done = shell.hpo("export", "digits", "--json")
    assert done.returncode == 0, done.stderr
    return digits, {row["format"]: row for row in json.loads(done.stdout)["files"]}, done


# --- every format ---


def test_every_format_can_be_written_but_the_weights_which_every_run_leaves() -> None:
    assert set(WRITERS) | {"safetensors"} == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_computes_the_same_in_a_new_process(
    exported: tuple[Path, dict[str, Any], Done], name: str
) -> None:
    _, rows, _ = exported
    assert rows[name]["n_compared"] >= 256
    assert rows[name]["max_difference"] <= 1e-5
    assert rows[name]["max_difference_resized"] <= 1e-5
    assert rows[name]["argmax_agreement"] == 1


@pytest.mark.parametrize(
    ("name", "libraries"),
    [
        ("torchscript", {"torch"}),
        ("pt2", {"torch"}),
        ("onnx", {"onnxruntime"}),
        ("safetensors", {"torch", "safetensors", "trainables.cnn.training"}),
    ],
)
def test_each_format_needs_its_own_library_alone(
    exported: tuple[Path, dict[str, Any], Done], name: str, libraries: set[str]
) -> None:
    folder, _, _ = exported
    evidence = read_evidence(folder / "test_evidence.npz")
    inputs = {"images": evidence.images[:2], "outputs": evidence.outputs[:2]}
    assert set(compare_reloaded(folder / FORMATS[name].file, inputs).libraries) == libraries


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (3, 1, 31, 17), (2, 1, 9, 40), (1, 1, 1, 1)])
def test_batch_height_and_width_are_free_in_every_format(
    exported: tuple[Path, dict[str, Any], Done], name: str, shape: tuple[int, ...]
) -> None:
    folder, _, _ = exported
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    outputs = load_exported(folder / FORMATS[name].file).run(images)
    reference = load_exported(folder / FORMATS["torchscript"].file).run(images)
    assert outputs.shape == (shape[0], 10)
    # ONNX may round one pixel in thousands the other way when it resizes.
    np.testing.assert_allclose(outputs, reference, atol=0.05 if name == "onnx" else 1e-6)


def test_the_manifest_and_the_ledger_know_every_file_by_its_checksum(
    shell: Shell, exported: tuple[Path, dict[str, Any], Done]
) -> None:
    folder, rows, _ = exported
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    files = {row["file"]: row for row in listed}
    outcome = find_workspace("digits", Places.of(shell.folder)).outcome()
    ledger = {Path(export.path).name: export.sha256 for export in outcome.exports}
    for row in rows.values():
        path = folder / row["file"]
        sha256 = subprocess.run(
            ["sha256sum", path], capture_output=True, text=True, check=True
        ).stdout.split()[0]
        assert row["sha256"] == files[path.name]["sha256"] == ledger[path.name] == sha256
        assert row["n_bytes"] == path.stat().st_size
    assert not list(folder.glob("part-*"))


def test_the_weights_say_how_they_were_trained(digits: Path) -> None:
    with safe_open(digits / "weights.safetensors", framework="numpy") as file:
        described = json.loads(file.metadata()["hpo"])
        assert any(key.startswith("network.backbone") for key in file.keys())  # noqa: SIM118
    assert described["trainable"] == "cnn"
    assert described["config"]["filters"] == 8
    assert described["class_names"] == list("0123456789")
    assert described["n_trained_on"] == 1437


def test_a_file_that_computes_something_else_is_refused(
    exported: tuple[Path, dict[str, Any], Done],
) -> None:
    folder, _, _ = exported
    evidence = read_evidence(folder / "test_evidence.npz")
    inputs = {"images": evidence.images, "outputs": evidence.outputs + np.float32(2e-5)}
    path = folder / "standalone_model.onnx"
    with pytest.raises(ExportMismatchError, match="more than 1e-05"):
        refuse_mismatch(path, compare_reloaded(path, inputs))


# --- every network ---

NETWORKS = {
    "dense": {"block": "dense", "conv": "separable", "downsampling": "fractional",
              "neck": "pyramid", "activation": "gelu", "padding_mode": "reflect"},
    "inception": {"block": "inception", "conv": "factorized", "downsampling": "stochastic",
                  "neck": "flatten", "activation": "silu", "padding_mode": "replicate"},
    "resnet": {"block": "resnet", "conv": "bottleneck", "downsampling": "mixed", "neck": "max",
               "activation": "leaky_relu", "padding_mode": "circular", "head": "mlp"},
    "vgg": {"block": "vgg", "conv": "grouped", "downsampling": "strided", "filters": 8,
            "convs_per_block": 2, "normalization": "none", "resize": 26},
}  # fmt: skip


@pytest.mark.parametrize("block", NETWORKS)
def test_every_kind_of_layer_can_be_written_in_every_format(block: str, tmp_path: Path) -> None:
    """Together the networks have all blocks, convolutions, pools, necks and activations."""
    config = CnnConfig(**{"dataset": "digits", "image_size": 22, "filters": 6, **NETWORKS[block]})
    described = describe_predictor(config, describe(config, tmp_path), [0.3], [0.4])
    description = {**described, "trainable": "cnn"}
    predictor = with_statistics(rebuild(description))
    images = torch.randint(0, 256, (5, 1, 44, 66), dtype=torch.uint8)
    expected = predictor(images).detach()
    for name in WRITERS:
        path = tmp_path / FORMATS[name].file
        write_format(name, predictor, description, path)
        outputs = load_exported(path).run(images.numpy())
        assert np.abs(outputs - expected.numpy()).max() <= 1e-5, name


def with_statistics(predictor: Predictor) -> Predictor:
    """As if it had been trained: other means and deviations than 0 and 1."""
    torch.manual_seed(0)
    for module in predictor.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return predictor


@pytest.mark.parametrize("height", [1, 3, 5, 8, 13, 16, 100, 333])
@pytest.mark.parametrize("width", [3, 8, 9, 17, 200])
def test_images_are_fitted_to_the_bit_as_torchvision_does(height: int, width: int) -> None:
    images = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
    reference = nn.Sequential(transforms.Resize([8], antialias=True), transforms.CenterCrop([8, 8]))
    assert torch.equal(Fit(8)(images), reference(images))
    assert torch.equal(torch.jit.script(Fit(8))(images), reference(images))


# --- other targets ---


@pytest.mark.parametrize(
    ("dataset", "task", "figure", "formats"),
    [
        ("discs", "image-regression", "| radius | ", "onnx,safetensors"),
        ("disc_masks", "image-segmentation", "| disc | ", "onnx,pt2"),
    ],
)
def test_values_and_masks_are_exported_predicted_and_described(
    shell: Shell, dataset: str, task: str, figure: str, formats: str
) -> None:
    run(
        shell,
        dataset,
        f"{{dataset: {dataset}, image_size: 32, filters: 6, depth: 2}}",
        f"-oobjective.metric=val_{'r2' if dataset == 'discs' else 'iou'}",
    )
    done = shell.hpo("export", dataset, "--format", formats, "--json")
    assert done.returncode == 0, done.stderr
    assert [row["format"] for row in json.loads(done.stdout)["files"]] == formats.split(",")
    folder = shell.folder / "runs" / dataset
    card = (folder / "model_card.md").read_text()
    assert task in card
    assert figure in card
    for file in ("standalone_model.pt", "standalone_model.onnx"):
        arguments = ("predict", str(folder / file), str(folder / "examples"))
        rows = json.loads(shell.hpo(*arguments, "--json").stdout)
        assert len(rows) == 10
        if dataset == "discs":
            assert list(rows[0]["values"]) == ["x", "y", "radius"]
            assert "radius" in shell.hpo(*arguments).stdout.splitlines()[0]
        else:
            assert sum(rows[0]["pixel_shares"].values()) == pytest.approx(1)
            assert rows[0]["label"] == "background"


# --- the model card ---


def test_the_model_card_stands_there_after_a_run_and_adds_up(digits: Path) -> None:
    card = (digits / "model_card.md").read_text()
    evidence = read_evidence(digits / "test_evidence.npz")
    assert evidence.confusion is not None
    assert evidence.confusion.sum() == 360
    for heading in ("Intended use", "Data", "Results", "Confusion matrix", "Hyperparameters"):
        assert f"# {heading}" in card
    n_correct = int(evidence.confusion.trace())
    assert f"{n_correct / 360:.4g} | 95 % interval" in card
    assert f"{n_correct} correct" in card
    for index, row in enumerate(evidence.confusion.tolist()):
        assert f"| **{index}** | {' | '.join(map(str, row))} |" in card
    hits, n_found = evidence.confusion[0, 0], evidence.confusion[:, 0].sum()
    assert f"| 0 | {hits / n_found:.4g} | {hits / evidence.confusion[0].sum():.4g} |" in card


def test_an_export_brings_the_card_up_to_date(
    exported: tuple[Path, dict[str, Any], Done],
) -> None:
    folder, rows, _ = exported
    card = (folder / "model_card.md").read_text()
    for row in rows.values():
        assert row["sha256"] in card


# --- the registry ---


def test_a_registered_model_is_loaded_by_its_alias_without_a_line_of_ours(
    shell: Shell, exported: tuple[Path, dict[str, Any], Done]
) -> None:
    folder, _, _ = exported
    environment = dict(os.environ)
    for version in (1, 2):
        done = shell.hpo("export", "digits", "--format", "torchscript", "--register", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["registered"] == {
            "name": "digits",
            "version": version,
            "uri": "models:/digits@champion",
        }
    assert dict(os.environ) == environment, "whatever runs here next tracks where it did before"
    evidence = read_evidence(folder / "test_evidence.npz")
    np.save(shell.folder / "images.npy", evidence.images)
    code = (
        "import sys, mlflow, numpy as np\n"
        f"mlflow.set_tracking_uri({shell.tracking_uri!r})\n"
        "model = mlflow.pyfunc.load_model('models:/digits@champion')\n"
        "assert model.metadata.get_input_schema().inputs[0].shape == (-1, 1, -1, -1)\n"
        "assert model.input_example.shape == (2, 1, 8, 8)\n"
        f"np.save('outputs.npy', model.predict(np.load('images.npy')))\n"
        "ours = {'hpo', 'trainables', 'storage'} & set(sys.modules)\n"
        "assert not ours, ours\n"
    )
    done_by_others = subprocess.run(
        [sys.executable, "-c", code], cwd=shell.folder, capture_output=True, text=True, check=False
    )
    assert done_by_others.returncode == 0, done_by_others.stderr
    outputs = np.load(shell.folder / "outputs.npy")
    np.testing.assert_allclose(outputs, evidence.outputs, atol=1e-6)
    champion = MlflowClient(shell.tracking_uri).get_model_version_by_alias("digits", "champion")
    assert int(champion.version) == 2
    assert champion.tags["hpo.trial_number"] == "0"
    assert "Confusion matrix" in str(champion.description)


def test_the_experiments_run_is_finished_whether_or_not_it_is_registered(
    shell: Shell, exported: tuple[Path, dict[str, Any], Done]
) -> None:
    client = MlflowClient(shell.tracking_uri)
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len(runs) == 2


def test_without_mlflow_the_files_are_kept_and_the_way_out_is_named(
    shell: Shell, exported: tuple[Path, dict[str, Any], Done]
) -> None:
    folder, _, _ = exported
    done = shell.hpo(
        "export", "digits", "--format", "safetensors", "--register", "--tracking-uri", NOBODY
    )
    assert done.returncode == 5
    assert "hpo export digits --format torchscript --register" in done.stderr
    assert (folder / "weights.safetensors").is_file()
    assert_no_traceback(done)


# --- predictions ---


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Five images of three sizes in folders, and a text that is none."""
    generator = np.random.default_rng(0)
    for place, size in {
        "b/2.png": (8, 8),
        "b/1.PNG": (8, 8),
        "a.png": (16, 24),
        "c/d/e.bmp": (40, 30),
        "c/z.png": (8, 8),
    }.items():
        path = tmp_path / "album" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)).save(path)
    (tmp_path / "album" / "notes.txt").write_text("no image")
    return tmp_path / "album"


@pytest.mark.parametrize("name", FORMATS)
def test_predict_takes_every_format_and_folders(
    shell: Shell, exported: tuple[Path, dict[str, Any], Done], album: Path, name: str
) -> None:
    folder, _, _ = exported
    done = shell.hpo("predict", str(folder / FORMATS[name].file), str(album), "--json")
    assert done.returncode == 0, done.stderr
    assert "5 images in " in done.stderr
    assert "images/s" in done.stderr
    rows = json.loads(done.stdout)
    places = [Path(row["image"]).relative_to(album).as_posix() for row in rows]
    assert places == ["a.png", "b/1.PNG", "b/2.png", "c/d/e.bmp", "c/z.png"]
    alone = shell.hpo("predict", str(folder / "standalone_model.pt"), str(album / "b/2.png"))
    assert alone.stdout.startswith(f"{album / 'b/2.png'}: {rows[2]['label']} ")


def test_a_prediction_of_a_file_is_that_of_the_pixels_which_training_saw(
    shell: Shell, exported: tuple[Path, dict[str, Any], Done], tmp_path: Path
) -> None:
    folder, _, _ = exported
    generator = np.random.default_rng(1)
    for index in range(24):
        path = tmp_path / "pictures" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (37, 29, 4), dtype=np.uint8)).save(path)
    config = DataConfig(dataset="folder:pictures", image_size=8, channels="grey")
    arrays = load_split(config, tmp_path).train.arrays
    seen = load_exported(folder / "standalone_model.pt").run(np.array(arrays.pixels))
    arguments = ("predict", str(folder / "standalone_model.pt"), str(tmp_path / "pictures"))
    rows = json.loads(shell.hpo(*arguments, "--json").stdout)
    predicted = [[row["probabilities"][name] for name in "0123456789"] for row in rows]
    np.testing.assert_allclose(sorted(predicted), sorted(seen.tolist()), atol=1e-6)


def test_a_folder_without_images_is_named(shell: Shell, digits: Path, tmp_path: Path) -> None:
    done = shell.hpo("predict", str(digits / "standalone_model.pt"), str(tmp_path))
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr
    assert_no_traceback(done)


@pytest.mark.parametrize("file", ["model.pt", "model.pt2", "model.onnx", "w.safetensors", "m.txt"])
def test_a_file_that_is_no_model_is_named_with_what_would_be_one(
    shell: Shell, album: Path, tmp_path: Path, file: str
) -> None:
    (tmp_path / file).write_bytes(b"no model at all")
    done = shell.hpo("predict", str(tmp_path / file), str(album))
    assert done.returncode == 2
    assert file in done.stderr
    assert "standalone_model.onnx" in done.stderr
    assert_no_traceback(done)


# --- wrong ways ---


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("digits", "--format", "tflite,onnx,gguf"), "'tflite', 'gguf'; known: torchscript, pt2"),
        (("digitz",), "digitz"),
        (("digits", "--model-name", "x"), "--register"),
    ],
)
def test_what_cannot_be_followed_is_told_with_exit_code_2(
    shell: Shell, digits: Path, arguments: tuple[str, ...], told: str
) -> None:
    done = shell.hpo("export", *arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert_no_traceback(done)


def test_an_experiment_without_a_model_is_told_why(shell: Shell) -> None:
    shell.write("branin.yaml", BRANIN)
    assert shell.hpo("run", "branin.yaml").returncode == 0
    done = shell.hpo("export", "branin")
    assert done.returncode == 2
    assert "'analytic' offers no `finish`" in done.stderr
    assert_no_traceback(done)


def test_an_experiment_that_is_not_finished_is_told_so(shell: Shell) -> None:
    shell.write("fails.py", "def train(config):\n    raise ValueError('no')\n")
    shell.write("branin.yaml", BRANIN)
    options = ("-oname=unfinished", "-otrainable=fails:train", "-obudget.n_trials=1")
    assert shell.hpo("run", "branin.yaml", *options).returncode == 4
    done = shell.hpo("export", "unfinished")
    assert done.returncode == 2
    assert "not finished" in done.stderr
    assert "--resume" in done.stderr
    assert_no_traceback(done)


@pytest.mark.parametrize("file", ["weights.safetensors", "test_evidence.npz"])
def test_a_damaged_source_is_found_by_its_checksum(shell: Shell, digits: Path, file: str) -> None:
    whole = (digits / file).read_bytes()
    (digits / file).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        done = shell.hpo("export", "digits", "--format", "torchscript")
    finally:
        (digits / file).write_bytes(whole)
    assert done.returncode == 3
    assert f"{file} is damaged" in done.stderr
    assert_no_traceback(done)


OWN = """
import torch
from trainables import FinalModel

class Softmax(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1).float().softmax(dim=1)

def train(config): return config["x1"]

def finish(config, trial):
    images = torch.arange(6, dtype=torch.uint8).reshape(3, 1, 1, 2)
    return FinalModel(predictor=Softmax(), class_names=("no", "y|es"), n_correct=2, n_test=3,
                      test_images=images, test_labels=torch.tensor([1, 1, 0]))
"""


def test_a_trainable_that_cannot_rebuild_its_predictor_has_torchscript_alone(shell: Shell) -> None:
    shell.write("own.py", OWN)
    shell.write("branin.yaml", BRANIN)
    done = shell.hpo("run", "branin.yaml", "-oname=own", "-otrainable=own:train")
    assert done.returncode == 0, done.stderr
    card = (shell.folder / "runs" / "own" / "model_card.md").read_text()
    assert "2 correct" in card
    assert shell.hpo("export", "own").stdout.count("standalone_model.pt:") == 1
    done = shell.hpo("export", "own", "--format", "torchscript,onnx")
    assert done.returncode == 2
    assert "torchscript only, not as onnx" in done.stderr
    assert "`rebuild`" in done.stderr
    assert_no_traceback(done)
    model = str(shell.folder / "runs" / "own" / "standalone_model.pt")
    done = shell.hpo("predict", model, str(shell.folder / "runs" / "own" / "examples"))
    assert done.returncode == 2
    assert "`class_names`" in done.stderr


def test_a_network_that_a_format_cannot_express_is_told_with_the_format(tmp_path: Path) -> None:
    from hpo.errors import UsageError

    class Branching(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            total = images.float().mean()
            return images.float() if float(total) > 3 else -images.float()

    for name in ("pt2", "onnx"):
        with pytest.raises(UsageError, match=f"cannot be written as {name}"):
            write_format(name, Branching().eval(), {"in_channels": 1}, tmp_path / "model")
