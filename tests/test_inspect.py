"""`hpo inspect`: the network of a config, before anything is trained."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Shell, assert_no_traceback
from conftest import ROOT
from PIL import Image

from hpo.execution import TrialDrive
from hpo.inspection import inspect_config, inspection_text
from hpo.places import Places
from hpo.search import StudySource
from hpo.spec import load_spec, parse_spec
from hpo.task_factory import TaskFactory
from hpo.tasks import TRACEBACK_FILE
from storage import create_study, is_infeasible, open_optuna_storage

CNN = ROOT / "search_spaces" / "cnn.yaml"
DEEP = """
name: deep
trainable: cnn
objective: {metric: val_accuracy, direction: maximize}
fixed: {dataset: digits, filters: 4}
search_space:
  depth: {type: int, low: 1, high: 6}
  n_train: {type: categorical, choices: [64, 5000]}
budget: {n_trials: 4, max_epochs: 1}
finalists: {k: 1, n_seeds: 1}
concurrency: 1
"""
ONE_IS_MISSING = "{type: categorical, choices: [digits, 'folder:no/such']}"


@pytest.fixture
def here(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_it_lists_every_layer_and_totals_as_json(here: Shell) -> None:
    done = here.hpo("inspect", str(CNN), "-p", "depth=1", "-p", "filters=64", "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    first, *_, last = shown["layers"]
    assert (first["kind"], first["out_shape"], first["n_parameters"]) == (
        "conv 3x3",
        [64, 8, 8],
        576,
    )
    assert (last["part"], last["n_parameters"], last["receptive_field"]) == ("head", 650, None)
    assert shown["totals"]["total"]["n_parameters"] == 576 + 128 + 650
    assert shown["config"]["depth"] == 1
    assert shown["config"]["optimizer"] == "adamw"  # defaults are shown, too


def test_it_imports_no_torch(here: Shell) -> None:
    code = (
        "import sys; sys.argv = ['hpo', 'inspect', sys.argv[1]]\n"
        "from hpo.cli import main\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(CNN)],
        cwd=here.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", ["vgg", "resnet", "inception", "dense"])
def test_the_table_fits_the_terminal(block: str, tmp_path: Path) -> None:
    spec = load_spec(CNN)
    choices = [f"block={block}", "depth=3", "convs_per_block=2", "conv=separable"]
    inspection, space = inspect_config(spec, Places.of(tmp_path, {}), choices)
    for width in (80, 120):
        lines = inspection_text(inspection, space, "", width).splitlines()
        assert max(len(line) for line in lines) <= width
        assert {"backbone", "neck", "head"} <= set(lines)


def test_what_a_space_can_build_is_told_with_the_reasons_for_what_it_cannot(here: Shell) -> None:
    here.write("deep.yaml", DEEP)
    done = here.hpo("inspect", "deep.yaml", "-p", "depth=2")
    assert "cannot be built, most often:" in done.stdout
    assert "backbone.block4.unit1.pool (max pool 2x2): an image of 1x1 cannot be" in done.stdout
    space = json.loads(here.hpo("inspect", "deep.yaml", "-p", "depth=2", "--json").stdout)["space"]
    n_infeasible = sum(space["infeasible"].values())
    assert 60 < n_infeasible < 140  # half of the depths


@pytest.mark.parametrize(
    ("overrides", "returncode", "words"),
    [
        (
            ["-ofixed={dataset: disc_masks, image_size: 64}", "-oobjective.metric=val_iou"],
            2,
            "image_size: must be 32 like the masks of dataset disc_masks, got 64",
        ),
        (
            ["-ofixed={dataset: discs, resize: 40, image_size: 32}", "-oobjective.metric=val_r2"],
            2,
            "resize: must be image_size, which is 32, or left out: the values of dataset discs",
        ),
        (["-ofixed.dataset=folder:no/such"], 5, "there is no folder "),
        (
            ["-ofixed={}", f"-osearch_space.dataset={ONE_IS_MISSING}", "-p", "dataset=digits"],
            5,
            "there is no folder ",
        ),
        (["-p", "n_train=5000", "--augmentations", "out.png"], 2, "n_train: must be <= the 1077"),
    ],
)
def test_images_that_a_config_cannot_have_are_said_in_a_sentence(
    here: Shell, overrides: list[str], returncode: int, words: str
) -> None:
    """Whether it is the config to inspect, or one of those that stand for the space."""
    here.write("deep.yaml", DEEP)
    done = here.hpo("inspect", "deep.yaml", "-p", "depth=2", *overrides)
    assert words in done.stderr
    assert done.returncode == returncode
    assert_no_traceback(done)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", "depth=5"], ["this config cannot be built", "backbone.block4.unit1.pool"]),
        (["-p", "dpth=5"], ["unknown parameter 'dpth'", "did you mean 'depth'"]),
        (["-p", "depth"], ["must be name=value"]),
        (["-p", "depth=deep"], ["depth=deep: must be of type int, got 'deep'"]),
        (["-p", "depth=[1"], ["is no YAML value"]),
        (["--augmentations", "no/such/folder/out.png"], ["out.png: cannot be written"]),
    ],
)
def test_what_cannot_be_inspected_is_said_in_a_sentence(
    here: Shell, arguments: list[str], words: list[str]
) -> None:
    here.write("deep.yaml", DEEP)
    done = here.hpo("inspect", "deep.yaml", "-p", "depth=2", "-p", "n_train=64", *arguments)
    assert done.returncode == 2
    for word in words:
        assert word in done.stderr
    assert_no_traceback(done)


def test_a_trainable_without_a_network_names_those_that_have_one(here: Shell) -> None:
    done = here.hpo("inspect", str(ROOT / "search_spaces" / "branin.yaml"))
    assert done.returncode == 2
    assert "'analytic' has no network to show; those that have one: cnn" in done.stderr


def test_augmentations_are_drawn_below_the_untouched_images(here: Shell) -> None:
    done = here.hpo(
        "inspect", str(CNN), "-p", "randaugment_num_ops=2", "--augmentations", "out.png"
    )
    assert done.returncode == 0, done.stderr
    with Image.open(here.folder / "out.png") as sheet:
        assert sheet.size[0] >= 8 * 64
        rows = [sheet.crop((0, y, sheet.width, y + 64)).tobytes() for y in range(4, 300, 68)]
    assert len(set(rows)) == len(rows)


def test_a_search_goes_on_behind_configs_that_are_infeasible(tmp_path: Path) -> None:
    """Each is FAIL with its reason, untrained; the others are trained as if it had not been."""
    spec = parse_spec(DEEP, "deep.yaml", ["sampler=grid", "budget.n_trials=12"])
    study = create_study(
        open_optuna_storage(f"sqlite:///{tmp_path}/hpo.db"),
        "deep",
        direction="maximize",
        metric="val_accuracy",
    )
    tasks = TaskFactory(spec=spec, import_paths=(), folder=tmp_path, data_dir=tmp_path / "data")
    search = StudySource(study, spec, tasks, record_epoch=lambda _: None)
    while task := search.next_task():
        search.ended(task, TrialDrive(task).next_report())
    assert len(study.trials) == 12
    for trial in study.trials:
        is_deep, is_greedy = trial.params["depth"] > 3, trial.params["n_train"] > 1077
        assert is_infeasible(trial) == (is_deep or is_greedy)
        assert trial.state.name == ("FAIL" if is_deep or is_greedy else "COMPLETE")
        if is_deep or is_greedy:
            words = "backbone.block4" if is_deep else "n_train: must be <= the 1077 training images"
            assert f"infeasible: {words}" in trial.user_attrs["fail_reason"]
            assert trial.intermediate_values == {}
            assert not (tasks.trial_folder(trial.number) / TRACEBACK_FILE).exists()
        else:
            assert trial.user_attrs["n_parameters"] > 0


def test_a_search_without_a_single_feasible_config_ends_with_the_reason(
    tmp_path: Path, ray_address: str
) -> None:
    shell = Shell(tmp_path)
    shell.write("deep.yaml", DEEP)
    masks = ["-ofixed={dataset: disc_masks, image_size: 64}", "-oobjective.metric=val_iou"]
    done = shell.hpo("run", "deep.yaml", "-obudget.n_trials=3", *masks)
    assert done.returncode == 4
    assert done.stderr.count(" INFEASIBLE after 0 epochs") == 20
    assert "the search has stopped: 20 configs in a row were infeasible" in done.stderr
    assert "image_size: must be 32 like the masks of dataset disc_masks, got 64" in done.stderr
    assert "change `fixed` or `search_space`, and begin another experiment" in done.stderr
    assert_no_traceback(done)
