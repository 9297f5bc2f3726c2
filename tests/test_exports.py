"""One winner, four formats: each loaded in a new process, registered, described, used."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import optuna
import pytest
import torch
from commands import Done, Shell, assert_no_traceback
from conftest import BRANIN, OWN_TRAINABLE, ROOT
from mlflow import MlflowClient
from PIL import Image
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torchvision import transforms

from hpo.errors import ExportMismatchError, StorageError, UsageError
from hpo.execution import TrialDrive
from hpo.experiment import keep_model, wind_up, winner_of
from hpo.exported import FORMATS, ExportedModel, load_exported
from hpo.exporting import register_experiment
from hpo.places import Places
from hpo.progress import RunProgress
from hpo.results import (
    Comparison,
    compare_reloaded,
    read_evidence,
    read_manifest,
    refuse_mismatch,
    retrain_task,
    save_examples,
)
from hpo.results.formats import WRITERS, write_format
from hpo.results.reload_check import max_difference
from hpo.spec import ExperimentSpec, load_spec, parse_spec
from hpo.storage_errors import exclusive
from hpo.workspace import Workspace, find_workspace, now, open_workspace
from storage import RerunRecord
from trainables import FinalModel, PackedModel, TrialContext, pack
from trainables.cnn.blocks import BLOCKS
from trainables.cnn.build import ACTIVATIONS, Network
from trainables.cnn.config import CnnConfig
from trainables.cnn.convolutions import CONVOLUTIONS
from trainables.cnn.description import network_for
from trainables.cnn.layers import PaddingMode, PoolName
from trainables.cnn.predictor import Predictor
from trainables.cnn.training import chosen_images, finish
from trainables.images.augmentation import evaluation_transforms
from trainables.images.config import DataConfig
from trainables.images.dataset import DataFacts, load_split
from trainables.images.fitting import Fit

TINY = (
    "budget={n_trials: 1, max_epochs: 1}",
    "scheduler=none",
    "finalists={k: 1, n_seeds: 1}",
    "search_space={lr: {type: float, low: 0.01, high: 0.02}}",
)
NOBODY = "http://127.0.0.1:9"  # the discard port: connections are refused at once
WHERE = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID")

Exported = tuple[Path, dict[str, dict[str, Any]], Done]
"""The folder of an experiment, what `hpo export --json` said of each format, how it ended."""


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A folder to run `hpo` in; nothing here is searched, so it needs no Ray."""
    return Shell(tmp_path_factory.mktemp("work"))


def cnn(*overrides: str) -> ExperimentSpec:
    return load_spec(ROOT / "search_spaces" / "cnn.yaml", (*TINY, *overrides))


def own(shell: Shell, *overrides: str) -> ExperimentSpec:
    return parse_spec(BRANIN, "branin.yaml", (*TINY, *overrides), (shell.folder,))


def begun(shell: Shell, spec: ExperimentSpec) -> Workspace:
    """An experiment whose search has one complete trial, re-run once; in this process."""
    workspace = open_workspace(spec, Places.of(shell.folder), None)
    lr = optuna.distributions.FloatDistribution(0.01, 0.02)
    workspace.study.add_trial(
        optuna.trial.create_trial(value=0.5, params={"lr": 0.015}, distributions={"lr": lr})
    )
    workspace.ledger.add_rerun(
        workspace.experiment.id,
        RerunRecord(
            trial_number=0, seed_index=0, seed=1, value=0.5, fail_reason=None, seconds=1.0,
            finished_at=now(),
        ),
    )  # fmt: skip
    return workspace


def finished(shell: Shell, spec: ExperimentSpec) -> Path:
    """The folder of an experiment as `hpo run` leaves it; its winner is trained in this process."""
    workspace, models = begun(shell, spec), list[PackedModel]()
    keep = partial(keep_model, workspace, models)
    stage = retrain_task(winner_of(workspace.outcome()), workspace.tasks, keep, print)
    task = stage.next_task()
    assert task is not None
    stage.ended(task, TrialDrive(task).next_report())
    wind_up(workspace, quiet(spec), models, is_quiet=False)
    return workspace.folder


def quiet(spec: ExperimentSpec) -> RunProgress:
    return RunProgress(spec, Console(file=io.StringIO()), 1)


def rows_of(done: Done) -> dict[str, dict[str, Any]]:
    return {row["format"]: row for row in json.loads(done.stdout)["files"]}


@pytest.fixture(scope="module")
def digits(shell: Shell) -> Path:
    """The folder of a classifier of digits."""
    fixed = "fixed={filters: 8, batch_size: 128}"
    return finished(shell, cnn("name=digits", fixed, "budget.max_epochs=3"))


@pytest.fixture(scope="module")
def exported(shell: Shell, digits: Path) -> Exported:
    """The same in all formats."""
    done = shell.hpo("export", "digits", "--json")
    assert done.returncode == 0, done.stderr
    return digits, rows_of(done), done


@pytest.fixture(scope="module")
def models(exported: Exported) -> dict[str, ExportedModel]:
    """All formats, loaded in this process."""
    folder, _, _ = exported
    return {name: load_exported(folder / known.file) for name, known in FORMATS.items()}


# --- every format ---


def test_every_format_can_be_written_but_the_weights_which_every_run_leaves() -> None:
    assert set(WRITERS) | {"safetensors"} == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_computes_the_same_in_a_new_process(exported: Exported, name: str) -> None:
    _, rows, _ = exported
    assert rows[name]["n_compared"] >= 256
    assert rows[name]["max_difference"] <= 1e-5
    assert rows[name]["max_difference_resized"] <= 1e-5
    assert rows[name]["argmax_agreement"] == 1
    assert rows[name]["argmax_agreement_resized"] == 1


@pytest.mark.parametrize(
    ("name", "libraries"),
    [
        ("torchscript", {"torch"}),
        ("pt2", {"torch"}),
        ("onnx", {"onnxruntime"}),
        ("safetensors", {"torch", "safetensors", "trainables.cnn.training"}),
    ],
)
def test_each_format_needs_its_own_libraries_alone(
    exported: Exported, name: str, libraries: set[str]
) -> None:
    _, rows, _ = exported
    assert set(rows[name]["libraries"]) == libraries


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (3, 1, 31, 17), (2, 1, 9, 40), (1, 1, 1, 1)])
def test_batch_height_and_width_are_free_in_every_format(
    models: Mapping[str, ExportedModel], shape: tuple[int, ...]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    reference = models["torchscript"].run(images)
    assert reference.shape == (shape[0], 10)
    for name, model in models.items():
        # ONNX may round one pixel in thousands the other way when it resizes.
        atol = 0.05 if name == "onnx" else 1e-6
        np.testing.assert_allclose(model.run(images), reference, atol=atol, err_msg=name)


def test_the_manifest_and_the_ledger_know_every_file_by_its_checksum(
    shell: Shell, exported: Exported
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


# --- what agrees, and what does not ---


def test_a_file_that_computes_something_else_is_refused(exported: Exported) -> None:
    folder, _, _ = exported
    evidence = read_evidence(folder / "test_evidence.npz")
    inputs = {**evidence.inputs(), "outputs": evidence.outputs + np.float32(2e-5)}
    path = folder / "standalone_model.onnx"
    with pytest.raises(ExportMismatchError, match="more than 1e-05"):
        refuse_mismatch(path, compare_reloaded(path, inputs))
    inputs = {**evidence.inputs(), "outputs": evidence.outputs[:, :1]}
    with pytest.raises(ExportMismatchError, match="outputs of shape"):
        compare_reloaded(path, inputs)


@pytest.mark.parametrize(("off", "agrees"), [(3e-6, True), (3e-5, False)])
def test_large_values_may_differ_in_proportion_to_their_size(off: float, agrees: bool) -> None:
    """A price of up to 100,000 beside a share: the price has no digits for 1e-5."""
    expected = np.array([[9e4, 0.5], [-1e5, 0.1], [3e4, 0.2]], np.float32)
    for column, is_fine in ((0, agrees), (1, True)):
        actual = expected.copy()
        actual[:, column] += np.float32(off) * (1e5 if column == 0 else 0.1)
        difference = max_difference(actual, expected)
        comparison = Comparison(
            n_compared=3, max_difference=difference, argmax_agreement=None, libraries=[]
        )
        with contextlib.nullcontext() if is_fine else pytest.raises(ExportMismatchError):
            refuse_mismatch(Path("a.onnx"), comparison)


@pytest.mark.parametrize("changes", [{"max_difference": 2e-5}, {"max_difference_resized": 2e-5}])
def test_a_mismatch_names_the_file_and_a_way_out(changes: dict[str, float]) -> None:
    same = {"max_difference": 0.0, "max_difference_resized": 0.0}
    comparison = Comparison(n_compared=9, argmax_agreement=1.0, libraries=[], **{**same, **changes})
    with pytest.raises(ExportMismatchError, match=r"a\.onnx.*2e-05.*Take another format"):
        refuse_mismatch(Path("a.onnx"), comparison)


# --- every network ---

NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "average": {"downsampling": "average"},
    "dense": {"block": "dense", "conv": "separable", "downsampling": "fractional",
              "neck": "pyramid", "activation": "gelu", "padding_mode": "reflect"},
    "inception": {"block": "inception", "conv": "factorized", "downsampling": "stochastic",
                  "neck": "flatten", "activation": "silu", "padding_mode": "replicate"},
    "resnet": {"block": "resnet", "conv": "bottleneck", "downsampling": "mixed", "neck": "max",
               "activation": "leaky_relu", "padding_mode": "circular", "head": "mlp"},
    "vgg": {"block": "vgg", "conv": "grouped", "downsampling": "strided", "filters": 8,
            "convs_per_block": 2, "normalization": "none"},
}  # fmt: skip


class SideBySide(nn.Sequential):
    """Several networks that see the same images; their outputs one behind the other."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs: list[torch.Tensor] = []
        for network in self:
            outputs.append(network(images))  # noqa: PERF401  TorchScript comprehends no modules
        return torch.cat(outputs, dim=1)


def test_the_networks_have_every_kind_of_layer() -> None:
    configs = [CnnConfig(**network) for network in NETWORKS.values()]
    for key, values in {
        "block": BLOCKS,
        "conv": CONVOLUTIONS,
        "activation": ACTIVATIONS,
        "downsampling": (*get_args(PoolName), "strided"),
        "padding_mode": get_args(PaddingMode),
        "neck": ("flatten", "average", "max", "pyramid"),
        "head": ("linear", "mlp"),
    }.items():
        assert {getattr(config, key) for config in configs} == set(values), key


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_layer_can_be_written_in_every_format(name: str, tmp_path: Path) -> None:
    """All networks and one for masks side by side, behind a resize and a crop, of colour images."""
    data = DataFacts(channels=3, height=22, width=22, target="values", class_names=("a", "b"))
    masks = replace(data, target="masks")
    configs = [
        CnnConfig(**{"image_size": 22, "resize": 24, "depth": 1, "filters": 6, **network})
        for network in NETWORKS.values()
    ]
    names = [f"{network} {name}" for network in NETWORKS for name in data.class_names]
    names += [f"mask {index}" for index in range(2 * 22 * 22)]
    torch.manual_seed(0)
    predictor = Predictor(
        SideBySide(
            *(Network(network_for(config, data)) for config in configs),
            nn.Sequential(Network(network_for(configs[-1], masks)), nn.Flatten()),
        ),
        fit=evaluation_transforms(configs[0]),
        class_names=names,
        mean=[0.3, 0.4, 0.5],
        std=[0.4, 0.3, 0.2],
        target="values",
    )
    predictor = with_statistics(predictor).eval()
    description = {"class_names": predictor.class_names, "in_channels": 3, "target": "values"}
    images = torch.randint(0, 256, (5, 3, 48, 72), dtype=torch.uint8)
    with torch.no_grad():
        expected = predictor(images).numpy()
    path = tmp_path / FORMATS[name].file
    path.write_bytes(write_format(name, predictor, description))
    differences = np.abs(load_exported(path).run(images.numpy()) - expected).max(axis=0)
    assert not [name for name, off in zip(names, differences, strict=True) if not off <= 1e-5]


def with_statistics(predictor: Predictor) -> Predictor:
    """As if it had been trained: other means and deviations than 0 and 1."""
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


def test_a_network_that_a_format_cannot_express_is_told_with_the_format() -> None:
    class Branching(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            total = images.float().mean()
            return images.float() if float(total) > 3 else -images.float()

    for name in ("pt2", "onnx"):
        with pytest.raises(UsageError, match=f"cannot be written as {name}"):
            write_format(name, Branching().eval(), {"in_channels": 1})


# --- which images are compared ---


@pytest.fixture(scope="module")
def lopsided(tmp_path_factory: pytest.TempPathFactory) -> FinalModel:
    """Of a folder with a test set ordered by class, the last of which has one picture."""
    folder = tmp_path_factory.mktemp("lopsided")
    generator = np.random.default_rng(0)
    for part, name, n in (
        ("train", "a", 9), ("train", "b", 9), ("train", "c", 9),
        ("test", "a", 280), ("test", "b", 4), ("test", "c", 1),
    ):  # fmt: skip
        place = folder / "data" / "pictures" / part / name
        place.mkdir(parents=True)
        for number in range(n):
            pixels = generator.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{number:03d}.png")
    config = {"dataset": "folder:pictures", "channels": "grey", "depth": 1, "filters": 4,
              "batch_size": 8, "validation_fraction": 0.34}  # fmt: skip
    context = TrialContext(seed=1, folder=folder, max_epochs=1, data_dir=folder / "data")
    return finish(config, context)


def test_every_class_is_among_the_compared_images_and_the_examples(
    lopsided: FinalModel, tmp_path: Path
) -> None:
    assert lopsided.test_labels is not None
    assert lopsided.n_test == 285
    assert len(lopsided.test_images) == 256
    assert set(lopsided.test_labels.tolist()) == {0, 1, 2}
    assert lopsided.other_images is None
    examples = save_examples(pack(lopsided), tmp_path / "examples")
    assert [path.name for path in examples] == ["a.png", "b.png", "c.png"]


def test_the_description_says_which_parts_were_given(lopsided: FinalModel) -> None:
    assert lopsided.description is not None
    assert lopsided.description["given_parts"] == ["test"]


def test_chosen_images_are_random_and_always_the_same() -> None:
    test = load_split(DataConfig(), Path("data")).test
    chosen = chosen_images(test, 256)
    assert len(set(chosen.tolist())) == 256
    assert chosen.tolist() == chosen_images(test, 256).tolist()
    assert chosen.tolist() != list(range(256))
    assert len(chosen_images(test, 1000)) == len(test)


def test_classes_whose_names_look_alike_have_an_example_each(tmp_path: Path) -> None:
    names = ("a b", "a_b", "A/B", "..", "x" * 300)
    model = FinalModel(
        predictor=Brightness(), class_names=names, n_correct=5, n_test=5,
        test_images=torch.arange(5, dtype=torch.uint8).reshape(5, 1, 1, 1).repeat(1, 1, 2, 2),
        test_labels=torch.arange(5),
    )  # fmt: skip
    paths = save_examples(pack(model), tmp_path / "examples")
    assert sorted(paths) == sorted((tmp_path / "examples").glob("*.png"))
    assert [np.asarray(Image.open(path))[0, 0] for path in paths] == [0, 1, 2, 3, 4]


class Brightness(nn.Module):
    """Five classes by how bright an image is."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images.float().mean(dim=(1, 2, 3)).unsqueeze(1) * torch.arange(5)).softmax(dim=1)


# --- other targets ---


@pytest.mark.parametrize(
    ("dataset", "task", "figure", "format_name"),
    [
        ("discs", "image-regression", "| radius | ", "torchscript"),
        ("disc_masks", "image-segmentation", "| disc | ", "onnx"),
    ],
)
def test_values_and_masks_are_exported_predicted_and_described(
    shell: Shell, dataset: str, task: str, figure: str, format_name: str
) -> None:
    fixed = f"fixed={{dataset: {dataset}, image_size: 32, filters: 4, depth: 2}}"
    metric = f"objective.metric=val_{'r2' if dataset == 'discs' else 'iou'}"
    folder = finished(shell, cnn(f"name={dataset}", fixed, metric))
    if format_name == "onnx":  # the other one is there and compared after every run
        assert shell.hpo("export", dataset, "--format", "onnx").returncode == 0
    row = read_manifest(folder)[FORMATS[format_name].file]
    assert row.argmax_agreement == (None if dataset == "discs" else 1)
    card = (folder / "model_card.md").read_text()
    assert task in card
    assert figure in card
    for file in {"standalone_model.pt", row.file}:
        arguments = ("predict", str(folder / file), str(folder / "examples"))
        rows = json.loads(shell.hpo(*arguments, "--json").stdout)["predictions"]
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
    assert "| test_fraction | 0.2 |" in card
    assert "uint8 of any size;" in card


def test_an_export_brings_the_card_up_to_date(exported: Exported) -> None:
    folder, rows, _ = exported
    card = (folder / "model_card.md").read_text()
    for row in rows.values():
        assert row["sha256"] in card


# --- the registry ---


def test_a_registered_model_is_loaded_by_its_alias_without_a_line_of_ours(
    shell: Shell, exported: Exported
) -> None:
    folder, _, _ = exported
    card, places = folder / "model_card.md", Places.of(shell.folder)
    card.write_text(f"{card.read_text()}\n## Notes\n\n{'A long story. ' * 100}\n")
    long_card = card.read_text()
    before = [os.environ.get(name) for name in WHERE]
    first = register_experiment("digits", places, None, print, way_out="")
    assert first.version == 1
    done = shell.hpo("export", "digits", "--format", "torchscript", "--register", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["registered"] == {
        "name": "digits",
        "version": 2,
        "uri": "models:/digits@champion",
    }
    after = [os.environ.get(name) for name in WHERE]
    assert after == before, "whatever runs here next is tracked where it would have been"
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
    client = MlflowClient(shell.tracking_uri)
    champion = client.get_model_version_by_alias("digits", "champion")
    assert int(champion.version) == 2
    assert champion.tags["hpo.trial_number"] == "0"
    assert "Confusion matrix" in str(champion.description)

    start, _, last = client.get_model_version("digits", "1").description.rpartition("\n\n")
    assert len(start) + len(last) < 5000 < len(long_card)
    assert long_card.startswith(start)
    assert long_card[len(start) :].lstrip().startswith("## Notes")
    run = client.search_runs(
        [client.get_experiment_by_name("digits").experiment_id], "tags.`hpo.kind` = 'parent'"
    )[0]
    assert run.info.status == "FINISHED"
    assert f"The whole card is the artifact model_card.md of run {run.info.run_id}" in last
    artifact = client.download_artifacts(run.info.run_id, "model_card.md")
    assert Path(artifact).read_text() == card.read_text(), "that of the champion"


def test_without_mlflow_the_files_are_kept_and_the_way_out_is_named(
    shell: Shell, digits: Path
) -> None:
    options = ("--model-name", "my digits", "--tracking-uri", NOBODY)
    done = shell.hpo("export", "digits", "--format", "torchscript", "--register", *options)
    assert done.returncode == 5
    assert "standalone_model.pt: largest difference" in done.stdout
    way_out = "hpo export digits --format torchscript --register --model-name 'my digits'"
    assert f"{way_out} --tracking-uri {NOBODY}" in done.stderr
    assert (digits / "standalone_model.pt").is_file()
    assert_no_traceback(done)


# --- predictions ---


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Five images of three sizes in folders, a text that is none, and images that are hidden."""
    generator = np.random.default_rng(0)
    for place, size in {
        "b/2.png": (8, 8),
        "b/1.PNG": (8, 8),
        "b/.3.png": (8, 8),
        ".thumbnails/4.png": (8, 8),
        "a.png": (16, 24),
        "c/z.png": (8, 8),
    }.items():
        path = tmp_path / "album" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)).save(path)
    (tmp_path / "elsewhere").mkdir()
    Image.fromarray(np.zeros((40, 30), np.uint8)).save(tmp_path / "elsewhere" / "e.bmp")
    (tmp_path / "album" / "c" / "d").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "album" / "notes.txt").write_text("no image")
    return tmp_path / "album"


@pytest.mark.parametrize("name", FORMATS)
def test_predict_takes_every_format_and_folders(
    shell: Shell, exported: Exported, album: Path, name: str
) -> None:
    folder, _, _ = exported
    done = shell.hpo("predict", str(folder / FORMATS[name].file), str(album), "--json")
    assert done.returncode == 0, done.stderr
    assert "5 images in " in done.stderr
    assert "images/s" in done.stderr
    told = json.loads(done.stdout)
    assert told["images_per_second"] == pytest.approx(5 / told["seconds"])
    assert told["unreadable"] == []
    rows = told["predictions"]
    places = [Path(row["image"]).relative_to(album).as_posix() for row in rows]
    assert places == ["a.png", "b/1.PNG", "b/2.png", "c/d/e.bmp", "c/z.png"]
    alone = shell.hpo("predict", str(folder / "standalone_model.pt"), str(album / "b/2.png"))
    assert alone.stdout.startswith(f"{album / 'b/2.png'}: {rows[2]['label']} ")


def test_a_prediction_of_a_file_is_that_of_the_pixels_which_training_saw(
    shell: Shell, digits: Path, tmp_path: Path
) -> None:
    generator = np.random.default_rng(1)
    for index in range(24):
        path = tmp_path / "pictures" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (37, 29, 4), dtype=np.uint8)).save(path)
    config = DataConfig(dataset="folder:pictures", image_size=8, channels="grey")
    arrays = load_split(config, tmp_path).train.arrays
    seen = load_exported(digits / "standalone_model.pt").run(np.array(arrays.pixels))
    arguments = ("predict", str(digits / "standalone_model.pt"), str(tmp_path / "pictures"))
    rows = json.loads(shell.hpo(*arguments, "--json").stdout)["predictions"]
    predicted = [[row["probabilities"][name] for name in "0123456789"] for row in rows]
    np.testing.assert_allclose(sorted(predicted), sorted(seen.tolist()), atol=1e-6)


def test_what_cannot_be_read_is_named_and_the_rest_is_predicted(
    shell: Shell, digits: Path, album: Path
) -> None:
    (album / "bad.png").write_text("no image")
    Image.fromarray(np.zeros((1, 900_000), np.uint8)).save(album / "thin.png")
    missing, too_long = album / "missing.png", album / f"{'x' * 300}.png"
    arguments = ("predict", str(digits / "standalone_model.pt"), *map(str, (album, missing)))
    done = shell.hpo(*arguments, str(too_long))
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 5
    for reason in (
        "bad.png: is no picture",
        "thin.png: is 900000 times as long as wide; resized it has 57.6 megapixels",
        "missing.png: No such file",
        "xxx.png: File name too long",
    ):
        assert reason in done.stderr
    assert_no_traceback(done)
    told = json.loads(shell.hpo(*arguments, "--json").stdout)
    assert len(told["predictions"]) == 5
    named = [Path(bad["image"]).name for bad in told["unreadable"]]
    assert named == ["bad.png", "thin.png", "missing.png"]


def test_a_file_name_that_is_no_utf8_is_printed_with_escapes(
    shell: Shell, digits: Path, tmp_path: Path
) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    shutil.copy(digits / "examples" / "3.png", name)
    arguments = ("predict", str(digits / "standalone_model.pt"), str(tmp_path))
    text, told = shell.hpo(*arguments), shell.hpo(*arguments, "--json")
    assert text.stdout.encode().startswith(os.fsencode(tmp_path) + rb"/caf\udce9.png: ")
    (row,) = json.loads(told.stdout)["predictions"]
    assert os.fsencode(row["image"]) == name


def test_folders_that_cannot_be_used_are_all_named(
    shell: Shell, digits: Path, tmp_path: Path
) -> None:
    for name in ("empty", "circle"):
        (tmp_path / name).mkdir()
    (tmp_path / "circle" / "again").symlink_to(tmp_path / "circle")
    folders = (str(tmp_path / "empty"), str(tmp_path / "circle"))
    done = shell.hpo("predict", str(digits / "standalone_model.pt"), *folders)
    assert done.returncode == 2
    assert f"no image in {folders[0]}" in done.stderr
    assert f"{folders[1]}/again is a link to a folder that it lies in" in done.stderr
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


def test_a_model_under_a_name_that_no_file_can_have_is_told_so(shell: Shell, album: Path) -> None:
    done = shell.hpo("predict", f"{'x' * 300}.onnx", str(album))
    assert done.returncode == 2
    assert "File name too long" in done.stderr
    assert_no_traceback(done)


# --- a trainable of a user's own ---


@pytest.fixture(scope="module")
def own_module(shell: Shell) -> Iterator[Path]:
    """own.py in the user's folder."""
    yield shell.write("own.py", OWN_TRAINABLE)
    sys.modules.pop("own", None)


def test_a_trainable_of_ones_own_is_described_exported_and_used_in_all_formats(
    shell: Shell, own_module: Path
) -> None:
    """It names no more in its description than what it needs itself."""
    fixed = "fixed={pixels: false, rebuilds: true, test_fraction: 0.1, validation_fraction: 0.3}"
    folder = finished(shell, own(shell, "name=mine", "trainable=own:train", fixed))
    done = shell.hpo("export", "mine", "--json")
    assert done.returncode == 0, done.stderr
    rows = rows_of(done)
    assert list(rows) == list(FORMATS)
    for row in rows.values():
        assert row["n_compared"] == 300
        assert row["max_difference_resized"] <= 1e-5
        arguments = ("predict", str(folder / row["file"]), str(folder / "examples"))
        done = shell.hpo(*arguments, "--trainable", "own:train", "--json")
        assert done.returncode == 0, done.stderr
        assert set(json.loads(done.stdout)["predictions"][0]["probabilities"]) == {"no", "y|es"}
    card = (folder / "model_card.md").read_text()
    assert "2 correct" in card
    assert "| validation_fraction | 0.3 |" in card
    assert "| test_fraction" not in card, "the test part was given"
    assert "| parts that the data set has | test |" in card


def test_weights_do_not_choose_which_module_is_run(shell: Shell, tmp_path: Path) -> None:
    shell.write("spoils.py", "open('spoilt', 'w').close()")
    path, metadata = tmp_path / "weights.safetensors", {"hpo": '{"trainable": "spoils:train"}'}
    save_file({}, path, metadata)
    done = shell.hpo("predict", str(path), "x.png")
    assert done.returncode == 2
    assert "--trainable spoils:train" in done.stderr
    assert not (shell.folder / "spoilt").exists()
    assert_no_traceback(done)


def test_weights_that_their_trainable_does_not_take_are_told_so(
    shell: Shell, own_module: Path, tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    for description, reason in (
        ({"pixels": True}, "size mismatch"),
        ({}, "KeyError"),
    ):
        metadata = {"hpo": json.dumps({"trainable": "own:train", **description})}
        save_file({"linear.weight": torch.ones(2, 1), "linear.bias": torch.ones(2)}, path, metadata)
        done = shell.hpo("predict", str(path), "x.png", "--trainable", "own:train")
        assert done.returncode == 2
        assert "`rebuild` of 'own:train'" in done.stderr
        assert reason in done.stderr
        assert_no_traceback(done)


def test_a_predictor_of_one_size_is_exported_for_that_size(shell: Shell, own_module: Path) -> None:
    fixed = "fixed={pixels: true, rebuilds: true}"
    folder = finished(shell, own(shell, "name=one-size", "trainable=own:train", fixed))
    done = shell.hpo("export", "one-size", "--format", "onnx", "--json")
    assert done.returncode == 0, done.stderr
    row = rows_of(done)["onnx"]
    assert row["max_difference"] <= 1e-5
    assert row["max_difference_resized"] is None
    assert "uint8, 2 x 2 pixels;" in (folder / "model_card.md").read_text()
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(shell.folder / "five.png")
    for file in ("standalone_model.pt", "standalone_model.onnx"):
        done = shell.hpo("predict", str(folder / file), "five.png")
        assert done.returncode == 2
        assert "fails on images of 5x5 pixels" in done.stderr
        assert "if it takes one size only" in done.stderr
        assert_no_traceback(done)


def test_a_trainable_that_cannot_rebuild_its_predictor_has_torchscript_alone(
    shell: Shell, own_module: Path
) -> None:
    fixed = "fixed={pixels: false, rebuilds: false}"
    folder = finished(shell, own(shell, "name=own", "trainable=own:train", fixed))
    assert "2 correct" in (folder / "model_card.md").read_text()
    done = shell.hpo("export", "own", "--format", "torchscript,onnx")
    assert done.returncode == 2
    assert "torchscript only, not as onnx" in done.stderr
    assert "`rebuild`" in done.stderr
    assert_no_traceback(done)
    model = str(folder / "standalone_model.pt")
    assert shell.hpo("predict", model, str(folder / "examples")).returncode == 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"class_names": ("a", "b")}, "2 names for a predictor whose outputs have the shape"),
        ({"description": {"target": "boxes"}}, "target must be one of classes, values, masks"),
        ({"confusion": torch.ones(2, 2)}, "FinalModel.confusion: its shape must be"),
    ],
)
def test_a_final_model_whose_parts_do_not_fit_is_refused(
    changes: dict[str, Any], told: str
) -> None:
    images = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    parts = {"class_names": tuple("abcde"), "n_correct": 1, "n_test": 1, "test_images": images}
    with pytest.raises(ValueError, match=told):
        pack(FinalModel(predictor=Brightness(), **{**parts, **changes}))


# --- wrong ways ---


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("digits", "--format", "tflite,onnx,gguf"), "'tflite', 'gguf'; known: torchscript, pt2"),
        (("digitz",), "digitz"),
        (("digits", "--model-name", "x"), "--register"),
        (("digits", "--register", "--model-name", "a/b"), "without `/` and `:`, got 'a/b'"),
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
    shell.write("bare.py", "def train(config): return config['lr']")
    spec = own(shell, "name=bare", "trainable=bare:train")
    wind_up(begun(shell, spec), quiet(spec), [], is_quiet=False)
    done = shell.hpo("export", "bare")
    assert done.returncode == 2
    assert "'bare:train' offers no `finish`" in done.stderr
    assert_no_traceback(done)


def test_an_experiment_that_is_not_finished_is_told_so(shell: Shell) -> None:
    begun(shell, cnn("name=unfinished"))
    done = shell.hpo("export", "unfinished")
    assert done.returncode == 2
    assert "not finished" in done.stderr
    assert "--resume" in done.stderr
    assert_no_traceback(done)


def test_an_experiment_that_is_being_run_is_not_exported(shell: Shell, digits: Path) -> None:
    with exclusive(Places.of(shell.folder, {}), "digits"):
        done = shell.hpo("export", "digits")
    assert done.returncode == 3
    assert f"is being run by process {os.getpid()}" in done.stderr
    assert_no_traceback(done)


def test_files_that_lie_elsewhere_are_told_where(
    shell: Shell, digits: Path, tmp_path: Path
) -> None:
    elsewhere = Shell(tmp_path)
    done = elsewhere.hpo("export", "digits", "--storage", shell.storage_url)
    assert done.returncode == 2
    assert f"lie in {digits}, not in {tmp_path / 'runs' / 'digits'}: go to {shell.folder}" in (
        done.stderr
    )
    assert not list(tmp_path.iterdir()), "nothing is begun where nothing is"
    assert_no_traceback(done)


@contextlib.contextmanager
def spoilt(path: Path) -> Iterator[None]:
    """A file with one bit changed."""
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        yield
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("file", "format_name", "told"),
    [
        ("weights.safetensors", "safetensors", "weights.safetensors is damaged"),
        ("test_evidence.npz", "torchscript", "test_evidence.npz is damaged"),
        ("manifest.json", "torchscript", "manifest.json is damaged"),
    ],
)
def test_a_damaged_source_is_found(
    shell: Shell, digits: Path, file: str, format_name: str, told: str
) -> None:
    with spoilt(digits / file):
        if file == "manifest.json":
            (digits / file).write_text("{}")
        done = shell.hpo("export", "digits", "--format", format_name)
    assert done.returncode == 3
    assert told.format(digits) in done.stderr
    assert "another name" in done.stderr
    assert_no_traceback(done)


def test_a_damaged_model_is_written_anew_by_the_command_that_is_told(
    shell: Shell, digits: Path
) -> None:
    model = digits / "standalone_model.pt"
    with spoilt(model):
        told = "to write it anew: hpo export digits --format torchscript"
        with pytest.raises(StorageError, match=told):
            register_experiment("digits", Places.of(shell.folder), None, print, way_out="")
        done = shell.hpo("export", "digits", "--format", "torchscript")
        assert done.returncode == 0, done.stderr
        whole = model.read_bytes()
    model.write_bytes(whole)
    assert load_exported(model).class_names == tuple("0123456789")


def test_one_format_that_fails_does_not_stop_the_others(shell: Shell, digits: Path) -> None:
    with spoilt(digits / "weights.safetensors"):
        done = shell.hpo("export", "digits", "--format", "pt2,torchscript,onnx", "--json")
    assert done.returncode == 3
    assert list(rows_of(done)) == ["torchscript"], "which is there already"
    assert "2 exports failed:\n  pt2: " in done.stderr
    assert "\n  onnx: " in done.stderr
    assert_no_traceback(done)


@contextlib.contextmanager
def small_disk(folder: Path, room: int) -> Iterator[None]:
    """The folder's files on a disk of their own with ``room`` bytes more."""
    content = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    size = sum(-(-len(held) // 4096) * 4096 for held in content.values()) + room
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount a small disk: {mounted.stderr.strip()}")
    try:
        for name, held in content.items():
            (folder / name).write_bytes(held)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_full_or_may_not_be_written_is_told_with_the_file(
    shell: Shell, exported: Exported
) -> None:
    folder, _, _ = exported
    with small_disk(folder, room=8192):
        done = shell.hpo("export", "digits", "--format", "pt2")
        assert done.returncode == 3
        part = folder / "part-standalone_model.pt2"
        assert f"{part} cannot be written: No space left on device" in done.stderr
        assert "kB of room in a folder that may be written" in done.stderr
        assert not list(folder.glob("part-*"))
        assert_no_traceback(done)
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        done = shell.hpo("export", "digits", "--format", "pt2")
        assert done.returncode == 3
        assert "Read-only file system" in done.stderr
        assert_no_traceback(done)


def test_an_export_that_is_killed_leaves_what_lay_there(shell: Shell, digits: Path) -> None:
    model, manifest = digits / "standalone_model.pt", (digits / "manifest.json").read_bytes()
    held, part = model.read_bytes(), digits / "part-standalone_model.pt"
    model.write_bytes(b"the old one, which is damaged")
    try:
        process = shell.start("export", "digits", "--format", "torchscript")
        assert process.stderr is not None
        assert any("reloading" in line for line in process.stderr)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert model.read_bytes() == b"the old one, which is damaged"
        assert torch.jit.load(part).class_names == list("0123456789")
        assert (digits / "manifest.json").read_bytes() == manifest
    finally:
        model.write_bytes(held)
        part.unlink(missing_ok=True)
