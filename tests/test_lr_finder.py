"""The learning-rate finder: the range test, what it suggests, the command, the stage of a run."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from commands import Done, Shell, assert_no_traceback
from conftest import BRANIN, ROOT
from gate import Gate, arrive, halt
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hpo.errors import NoLrRangeError, SpecError
from hpo.execution.drive import TrialDrive
from hpo.going_on import find_record
from hpo.lr_finder import find_range
from hpo.places import Places
from hpo.plan import first_params
from hpo.results import draw_range_test, range_test_text
from hpo.spec import FloatParameter, FoundParameter, parse_recorded_spec, parse_spec, spec_to_yaml
from hpo.workspace import Workspace, open_workspace
from storage import Ledger, LrRangeRecord, open_engine
from trainables import LrRangeTest, TrialContext, find_trainable, range_test
from trainables.cnn import lr_finder
from trainables.cnn.lr_finder import find_lr
from trainables.cnn.training import TrainingDivergedError, train
from trainables.images.arrays import ImageArrays
from trainables.images.config import DataConfig
from trainables.images.dataset import LabelledImages, SplitImages, load_split
from trainables.lr_range_test import (
    BETA,
    FIRST_RATE,
    LAST_RATE,
    N_BEGINNING,
    N_STEPS,
    rates_worth_searching,
    smooth,
)

CNN = str(ROOT / "search_spaces" / "cnn.yaml")
NET = {"depth": 3, "filters": 8, "batch_size": 64}
"""Learns digits in three epochs."""


def context(folder: Path, seed: int = 1) -> TrialContext:
    return TrialContext(seed=seed, folder=folder, max_epochs=3, data_dir=folder / "data")


# --- the rule, on curves that were made for it ---


def on_curve(loss_at: Callable[[float], float], noise: float = 0.0, seed: int = 0) -> LrRangeTest:
    """The range test of a loss that depends on the logarithm of the rate alone."""
    rng = np.random.default_rng(seed)
    return range_test(lambda rate: loss_at(math.log10(rate)) + noise * rng.standard_normal())


def valley(bottom: float, width: float) -> Callable[[float], float]:
    """A loss of 2.5 that falls to 0.5 over ``width`` decades and then rises at once."""

    def loss_at(decade: float) -> float:
        if decade > bottom:
            return 0.5 * 100 ** (decade - bottom)
        return 0.5 + 2 * min(1.0, (bottom - decade) / width)

    return loss_at


@given(
    losses=st.lists(st.floats(min_value=0, max_value=1e6), min_size=1, max_size=60),
)
def test_the_smoothed_loss_is_the_mean_weighted_by_powers_of_beta(losses: list[float]) -> None:
    """The closed form of the recursion, after Kingma & Ba 2014, equation 4."""
    reference = []
    for t in range(1, len(losses) + 1):
        weights = BETA ** np.arange(t - 1, -1, -1.0)
        reference.append(float(np.average(losses[:t], weights=weights)))
    assert smooth(losses) == pytest.approx(reference, rel=1e-9, abs=1e-9)


@given(bottom=st.floats(-2.5, 0.5), width=st.floats(0.5, 2), seed=st.integers(0, 1000))
def test_a_valley_is_searched_up_to_its_bottom_and_suggests_its_slope(
    bottom: float, width: float, seed: int
) -> None:
    found = on_curve(valley(bottom, width), noise=0.05, seed=seed).found
    assert found is not None
    assert found.low < found.suggested < found.high
    assert abs(math.log10(found.high) - bottom) < 0.4
    assert bottom - width - 0.6 < math.log10(found.suggested) <= bottom - 0.6


@given(bottom=st.floats(-2.5, -0.5), noise=st.floats(0, 0.2), seed=st.integers(0, 1000))
def test_the_test_ends_soon_after_the_loss_has_diverged(
    bottom: float, noise: float, seed: int
) -> None:
    test = on_curve(valley(bottom, 1.0), noise, seed)
    assert "exceeded 4 times its best" in test.ending
    assert bottom < math.log10(test.rates[-1]) < bottom + 1


def test_a_loss_that_falls_to_the_end_is_searched_to_the_end() -> None:
    found = on_curve(lambda decade: 2.5 - 0.2 * (decade + 5)).found
    assert found is not None
    assert (found.suggested, found.high) == (LAST_RATE / 10, LAST_RATE)


@given(noise=st.floats(0, 1), level=st.floats(1, 5), seed=st.integers(0, 200))
def test_a_flat_loss_suggests_nothing(noise: float, level: float, seed: int) -> None:
    test = on_curve(lambda _: level, noise * level / 5, seed)
    assert test.found is None
    assert "never falls" in test.problem
    assert f"{LAST_RATE:g}" in test.ending


@pytest.mark.parametrize("slope", [0.01, 0.5, 3.0])
def test_a_loss_that_only_rises_suggests_nothing(slope: float) -> None:
    test = on_curve(lambda decade: 1.0 + slope * (decade + 5))
    assert test.found is None
    assert test.problem


@pytest.mark.parametrize("worst", [math.nan, math.inf, 1e9])
@pytest.mark.parametrize("n_good", [0, 1, N_BEGINNING])
def test_a_loss_that_diverges_at_once_suggests_nothing_and_says_so(
    worst: float, n_good: int
) -> None:
    losses = itertools.chain(itertools.repeat(2.0, n_good), itertools.repeat(worst))
    test = range_test(lambda _: next(losses))
    assert test.found is None
    assert test.problem
    assert all(math.isfinite(loss) for loss in test.losses)
    assert range_test_text(test).isascii()


def test_the_losses_before_a_loss_that_is_not_finite_are_judged() -> None:
    test = on_curve(lambda decade: math.nan if decade > -1 else valley(-1, 2)(decade))
    assert test.found is not None
    assert "nan" in test.ending


def test_rates_grow_exponentially_over_the_whole_range() -> None:
    test = on_curve(lambda _: 1.0)
    ratios = np.array(test.rates[1:]) / np.array(test.rates[:-1])
    assert ratios == pytest.approx(ratios[0])
    assert (test.rates[0], test.rates[-1]) == pytest.approx((FIRST_RATE, LAST_RATE))
    assert len(test.rates) == N_STEPS <= 200


@given(seed=st.integers(0, 1000), n=st.integers(N_BEGINNING + 1, N_STEPS))
def test_a_range_is_in_order_whatever_the_curve(seed: int, n: int) -> None:
    losses = np.random.default_rng(seed).lognormal(size=n).tolist()
    found = rates_worth_searching(np.geomspace(FIRST_RATE, LAST_RATE, N_STEPS)[:n], smooth(losses))
    assert 0 < found.low < found.suggested < found.high <= LAST_RATE


# --- on real digits ---


@pytest.fixture(scope="module")
def digits_test(tmp_path_factory: pytest.TempPathFactory) -> LrRangeTest:
    return find_lr(NET, context(tmp_path_factory.mktemp("digits")))


def accuracy(lr: float, folder: Path) -> float:
    config = {**NET, "lr": lr, "lr_schedule": "constant"}
    try:
        return [epoch["val_accuracy"] for epoch in train(config, context(folder))][-1]
    except TrainingDivergedError:
        return 0.0


def test_a_cnn_learns_at_the_suggested_rate_and_not_far_above_the_range(
    digits_test: LrRangeTest, tmp_path: Path
) -> None:
    assert digits_test.found is not None
    assert accuracy(digits_test.found.suggested, tmp_path) > 0.85
    assert accuracy(30 * digits_test.found.high, tmp_path) < 0.5
    assert accuracy(digits_test.found.low / 30, tmp_path) < 0.5


def test_the_same_seed_finds_the_same_and_another_one_nearly_so(
    digits_test: LrRangeTest, tmp_path: Path
) -> None:
    assert find_lr(NET, context(tmp_path)) == digits_test
    other = find_lr(NET, context(tmp_path, seed=2))
    assert other.losses != digits_test.losses
    assert other.found is not None
    assert digits_test.found is not None
    assert 1 / 5 < other.found.suggested / digits_test.found.suggested < 5


def test_global_generators_are_left_as_they_were(tmp_path: Path) -> None:
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]
    find_lr(NET, context(tmp_path))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[index,union-attr]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
@pytest.mark.parametrize("lr_schedule", ["onecycle", "cosine"])
def test_every_optimizer_has_a_range_whatever_the_schedule_and_rate_of_the_config(
    tmp_path: Path, optimizer: str, lr_schedule: str
) -> None:
    config = {**NET, "optimizer": optimizer}
    test = find_lr({**config, "lr_schedule": lr_schedule, "lr": 7.0}, context(tmp_path))
    assert test.found is not None
    assert test == find_lr(config, context(tmp_path))


@pytest.mark.parametrize("dataset", ["discs", "disc_masks"])
def test_values_and_masks_have_a_range_too(tmp_path: Path, dataset: str) -> None:
    config = {"dataset": dataset, "image_size": 32, "filters": 4, "batch_size": 32}
    test = find_lr(config, context(tmp_path))
    assert test.found is not None, test.problem


def test_a_training_set_smaller_than_the_test_is_gone_through_again(tmp_path: Path) -> None:
    test = find_lr({**NET, "n_train": 200}, context(tmp_path))
    assert len(test.rates) > 200 // NET["batch_size"]
    assert test.found is not None


def test_validation_and_test_images_are_not_looked_at(
    digits_test: LrRangeTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing changes when they are black."""

    def blackened(config: DataConfig, data_dir: Path) -> SplitImages:
        train = load_split(config, data_dir).train
        pixels = np.zeros_like(train.arrays.pixels)
        pixels[train.indices] = train.arrays.pixels[train.indices]
        arrays = ImageArrays.of(pixels, train.arrays.targets, train.arrays.parts)
        return replace(load_split(config, data_dir), train=LabelledImages(arrays, train.indices))

    monkeypatch.setattr(lr_finder, "load_split", blackened)
    assert find_lr(NET, context(tmp_path)) == digits_test


# --- the drawings ---


def test_the_drawing_in_characters_fits_a_terminal_and_marks_the_range(
    digits_test: LrRangeTest,
) -> None:
    text = range_test_text(digits_test)
    assert text.isascii()
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    marks = text.splitlines()[-1]
    assert marks.index("[") < marks.index("^") < marks.index("]")


def test_the_png_is_a_picture_with_two_curves(digits_test: LrRangeTest, tmp_path: Path) -> None:
    draw_range_test(digits_test, tmp_path / "new" / "test.png")
    picture = Image.open(tmp_path / "new" / "test.png").convert("RGB")
    assert picture.size == (960, 540)
    blue, vermilion = (0, 0x72, 0xB2), (0xD5, 0x5E, 0)
    colours = [colour for _, colour in picture.getcolors(maxcolors=1_000_000) or []]
    assert blue in colours
    assert vermilion in colours


# --- hpo lr-find ---


@pytest.fixture
def here(tmp_path: Path) -> Shell:
    """An empty folder; no Ray."""
    shell = Shell(tmp_path)
    shell.write("branin.yaml", BRANIN)
    return shell


def test_lr_find_draws_and_suggests(here: Shell) -> None:
    done = here.hpo("lr-find", CNN, "-p", "depth=3", "-p", "dropout=0.0", "-p", "batch_size=64")
    assert done.returncode == 0, done.stderr
    assert "suggested  0.00" in done.stdout
    assert "range      lr: {type: float, low: " in done.stdout
    assert "depth=3" in done.stderr
    picture = here.folder / "runs" / "cnn" / "lr-find" / "range_test.png"
    assert str(picture) in done.stderr
    assert Image.open(picture).format == "PNG"
    assert not (here.folder / "runs" / "hpo.db").exists()


def test_the_range_it_prints_can_be_pasted_into_the_spec(here: Shell) -> None:
    done = here.hpo("lr-find", CNN, "-p", "depth=3", "--out", "here.png")
    line = next(line for line in done.stdout.splitlines() if line.startswith("range"))
    parameter = line.partition("lr: ")[2]
    assert here.hpo("validate", CNN, "-o", f"search_space.lr={parameter}").returncode == 0
    assert (here.folder / "here.png").is_file()


def test_json_holds_the_curve_and_the_suggestion(here: Shell) -> None:
    done = here.hpo("lr-find", CNN, "-p", "depth=3", "--json")
    test = json.loads(done.stdout)
    assert len(test["rates"]) == len(test["losses"]) == len(test["smoothed"]) > N_BEGINNING
    assert test["found"]["low"] < test["found"]["suggested"] < test["found"]["high"]
    assert test["config"]["depth"] == 3
    assert "lr" not in test["config"]


def test_a_spec_whose_range_is_yet_to_be_found_can_be_looked_at(here: Shell) -> None:
    found = "-osearch_space.lr={from: lr_finder}"
    assert "infinitely many" in here.hpo("validate", CNN, found).stdout
    assert "range of lr is found first" in here.hpo("run", CNN, found, "--dry-run").stdout
    assert "from: lr_finder" in here.hpo("run", CNN, found, "--print-config").stdout
    assert here.hpo("inspect", CNN, found).returncode == 0
    assert here.hpo("lr-find", CNN, found, "-pdepth=3").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("branin.yaml",), "offers no `find_lr`; those that do: cnn"),
        ((CNN, "-p", "dpth=3"), "did you mean 'depth'?"),
        ((CNN, "-p", "depth=deep"), "depth"),
        ((CNN, "-p", "lr=0.1"), "leave it out"),
        ((CNN, "-p", "depth=4"), "-p NAME=VALUE"),
        ((CNN, "-p", "depth=3", "--out", "branin.yaml/x.png"), "cannot be written"),
        (("missing.yaml",), "no such file"),
    ],
)
def test_what_a_user_gets_wrong_is_told_without_a_traceback(
    here: Shell, arguments: tuple[str, ...], told: str
) -> None:
    done = here.hpo("lr-find", *arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stdout == ""
    assert_no_traceback(done)


def test_a_test_that_finds_nothing_shows_the_curve_and_ends_with_4(here: Shell) -> None:
    done = here.hpo("lr-find", CNN, "-p", "batch_size=2")
    assert done.returncode == 4
    assert "never falls clearly" in done.stderr
    assert "lr 1e-05" in done.stdout
    assert "suggested" not in done.stdout
    assert_no_traceback(done)


def test_a_folder_that_cannot_be_written_is_a_matter_of_storage(here: Shell) -> None:
    here.write("runs", "a file where a folder has to be")
    done = here.hpo("lr-find", CNN)
    assert done.returncode == 3
    assert "runs" in done.stderr
    assert_no_traceback(done)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_told(here: Shell) -> None:
    done = here.hpo("lr-find", CNN, "-o", "resources.gpu=1")
    assert done.returncode == 5
    assert "resources.gpu=0" in done.stderr


MINE = """
from trainables import range_test

def train(config):
    return {"loss": (config["lr"] - 0.01) ** 2}

def find_lr(config, trial):
    print("looking")
    w = config["start"]
    def step(lr):
        nonlocal w
        loss = w * w
        w -= lr * 2 * w
        return loss
    return range_test(step)
"""
MINE_SPEC = """
name: mine
trainable: {module}:train
objective: {{metric: loss, direction: minimize}}
fixed: {{start: 3.0}}
search_space: {{lr: {{from: lr_finder}}}}
budget: {{n_trials: 2}}
"""


def test_a_trainable_of_the_users_own_may_offer_a_range_test(here: Shell) -> None:
    """Gradient descent on w**2: it diverges at rates above 1."""
    here.write("finds_lr.py", MINE)
    here.write("mine.yaml", MINE_SPEC.format(module="finds_lr"))
    done = here.hpo("lr-find", "mine.yaml", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["found"]
    assert 0.01 < found["suggested"] < 1
    output = here.folder / "runs" / "mine" / "lr-find" / "output.txt"
    assert output.read_text() == "looking\n"


def test_a_range_test_that_fails_is_told_with_its_place(here: Shell) -> None:
    here.write("breaks_lr.py", MINE.replace('print("looking")', 'raise RuntimeError("no luck")'))
    here.write("mine.yaml", MINE_SPEC.format(module="breaks_lr"))
    done = here.hpo("lr-find", "mine.yaml")
    assert done.returncode == 4
    assert "no luck" in done.stderr
    assert "breaks_lr.py:8" in done.stderr
    assert_no_traceback(done)


def test_ctrl_c_ends_the_command_with_130(here: Shell) -> None:
    endless = f"{arrive(here.folder)}\n    while True: pass"
    here.write("slow_lr.py", MINE.replace('print("looking")', endless))
    here.write("mine.yaml", MINE_SPEC.format(module="slow_lr"))
    gate = Gate(here.folder)
    process = here.start("lr-find", "mine.yaml")
    gate.wait_for(process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=20)
    gate.remove()
    assert process.returncode == 130
    assert "Traceback" not in stdout + stderr


# --- lr: {from: lr_finder} ---


def spec_text(lr: str, trainable: str = "cnn", sampler: str = "tpe") -> str:
    return f"""
name: digits
trainable: {trainable}
objective: {{metric: val_accuracy, direction: maximize}}
search_space:
  lr: {lr}
  depth: {{type: int, low: 3, high: 3}}
sampler: {sampler}
budget: {{n_trials: 2, max_epochs: 2}}
"""


@pytest.mark.parametrize("lr", ["{from: lr_finder}", "{type: float, from: lr_finder, high: 0.1}"])
def test_a_range_to_be_found_is_written_and_read_back(lr: str) -> None:
    spec = parse_spec(spec_text(lr), "digits.yaml")
    assert isinstance(spec.search_space["lr"], FoundParameter)
    assert parse_recorded_spec(spec_to_yaml(spec)) == spec


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (spec_text("{from: lr_findr}"), "6:14: search_space.lr.from: must be 'lr_finder'"),
        (spec_text("{from: lr_finder, lo: 1}"), "did you mean 'low'? Known: from, high, low"),
        (spec_text("{from: lr_finder, low: 1, high: 1}"), "`low` must be < `high`"),
        (spec_text("{from: lr_finder, low: 0}"), "search_space.lr.low: must be > 0"),
        (spec_text("{from: lr_finder, low: 20}"), "the finder tests rates from 1e-05 to 10"),
        (spec_text("{from: lr_finder, high: 1e-6}"), "search_space.lr.high: leaves nothing"),
        (spec_text("{type: found, from: lr_finder}"), "is written as `from: lr_finder`"),
        (spec_text("{from: lr_finder}", trainable="[cnn]"), "trainable: must be"),
        (spec_text("{from: lr_finder}", sampler="grid"), "sampler grid needs a finite number"),
        (spec_text("{from: lr_finder}", trainable="analytic"), "'analytic' offers no `find_lr`"),
        (
            spec_text("{from: lr_finder}").replace("lr:", "weight_decay:"),
            "the finder sets `lr` alone",
        ),
    ],
)
def test_a_range_that_cannot_be_found_is_a_problem_of_the_spec(text: str, problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, "digits.yaml")
    assert problem in str(caught.value)


def test_a_trainable_of_the_users_own_without_a_range_test_is_refused(here: Shell) -> None:
    here.write("no_lr.py", "def train(config):\n    return 1.0\n")
    here.write("mine.yaml", MINE_SPEC.format(module="no_lr"))
    done = here.hpo("validate", "mine.yaml")
    assert done.returncode == 2
    assert "'no_lr:train' offers no `find_lr`; give `low` and `high`" in done.stderr
    assert find_trainable("no_lr:train", [here.folder]).find_lr is None


FOUND = ("run", CNN, "-oname=found", "-osearch_space.lr={from: lr_finder, high: 0.2}")
SMALL = (
    "-obudget={n_trials: 2, max_epochs: 2}",
    "-oscheduler=none",
    "-ofinalists={k: 1, n_seeds: 1}",
    "-osearch_space.depth={type: int, low: 2, high: 3}",
    "-osearch_space.batch_size={type: categorical, choices: [32, 64]}",
    "-osearch_space.dropout={type: float, low: 0.0, high: 0.1}",
    "-oconcurrency=1",
)


@pytest.fixture(scope="module")
def finished(shell: Shell) -> tuple[Shell, Done]:
    """A small run of search_spaces/cnn.yaml whose learning rates are found first."""
    return shell, shell.hpo(*FOUND, *SMALL)


def searched(shell: Shell, name: str = "found") -> FloatParameter:
    record = Ledger(open_engine(shell.storage_url)).find(name)
    assert record is not None
    parameter = parse_recorded_spec(record.spec).search_space["lr"]
    assert isinstance(parameter, FloatParameter)
    return parameter


def test_a_run_searches_the_range_that_was_found(finished: tuple[Shell, Done]) -> None:
    shell, done = finished
    assert done.returncode == 0, done.stderr
    lr = searched(shell)
    assert lr.log
    assert lr.high <= 0.2
    assert f"lr: searched from {lr.low:g} to {lr.high:g}" in done.stderr
    study = optuna.load_study(study_name="found", storage=shell.storage_url)
    assert len(study.trials) == 2
    for trial in study.trials:
        distribution = trial.distributions["lr"]
        assert isinstance(distribution, optuna.distributions.FloatDistribution)
        assert (distribution.low, distribution.high, distribution.log) == (lr.low, lr.high, True)


def test_the_test_is_recorded_in_the_ledger_and_in_the_runs_folder(
    finished: tuple[Shell, Done],
) -> None:
    shell, _ = finished
    ledger = Ledger(open_engine(shell.storage_url))
    record = ledger.find("found")
    assert record is not None
    found = ledger.lr_range(record.id)
    assert found is not None
    folder = shell.folder / "runs" / "found"
    test = json.loads((folder / "lr_finder" / "range_test.json").read_text())
    assert test["found"] == {
        "suggested": found.suggested,
        "low": found.low,
        "high": found.high,
    }
    assert searched(shell) == FloatParameter(
        type="float", low=found.low, high=min(found.high, 0.2), log=True
    )
    assert Image.open(folder / "lr_finder" / "range_test.png").format == "PNG"
    assert (folder / "spec.yaml").read_text() == record.spec
    report = (folder / "report.html").read_text()
    assert "found by a range test" in report
    assert f"suggested a learning rate of\n  {found.suggested:g}" in report


def test_the_first_trial_is_the_config_that_was_tested(finished: tuple[Shell, Done]) -> None:
    shell, _ = finished
    first = optuna.load_study(study_name="found", storage=shell.storage_url).trials[0].params
    path = shell.folder / "runs" / "found" / "lr_finder" / "range_test.json"
    config = json.loads(path.read_text())["config"]
    assert {name: config[name] for name in first if name != "lr"} == {
        name: value for name, value in first.items() if name != "lr"
    }


def test_lr_find_says_beforehand_what_a_run_will_find(finished: tuple[Shell, Done]) -> None:
    shell, _ = finished
    done = shell.hpo("lr-find", *FOUND[1:], *SMALL, "--json")
    path = shell.folder / "runs" / "found" / "lr_finder" / "range_test.json"
    assert json.loads(done.stdout)["found"] == json.loads(path.read_text())["found"]


def test_a_resumed_run_searches_the_recorded_range_without_another_test(
    finished: tuple[Shell, Done],
) -> None:
    shell, _ = finished
    before = searched(shell)
    done = shell.hpo(*FOUND, *SMALL, "-obudget.n_trials=3", "--resume")
    assert done.returncode == 0, done.stderr
    assert "searched from" not in done.stderr
    assert searched(shell) == before
    trials = optuna.load_study(study_name="found", storage=shell.storage_url).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert len({str(trial.distributions["lr"]) for trial in trials}) == 1


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize(
    "change",
    [
        "search_space.lr={from: lr_finder, high: 0.001}",
        "search_space.lr={type: float, low: 1e-3, high: 1e-1, log: true}",
        "search_space.depth={type: int, low: 1, high: 3}",
    ],
)
def test_another_range_is_refused_once_one_was_searched(shell: Shell, change: str) -> None:
    done = shell.hpo(*FOUND, *SMALL, "-o", change, "--resume")
    assert done.returncode == 2
    assert "recorded -> given" in done.stderr
    assert change.partition("=")[0] in done.stderr
    assert_no_traceback(done)


PICKY = """
def constraints(config, trial):
    if config["units"] > config["most"]:
        raise ValueError(f"{config['units']} units do not fit")
    return {}
"""


@pytest.fixture(scope="module")
def own(shell: Shell) -> Shell:
    """A folder with trainables of the user's own, each with a range test."""
    shell.write("flat_lr.py", MINE.replace("return loss\n", "return 1.0\n"))
    shell.write("slow_lr.py", MINE.replace('print("looking")', halt(shell.folder)))
    return shell


def test_a_run_without_a_range_does_not_begin_and_goes_on_with_one_of_the_users_own(
    own: Shell,
) -> None:
    own.write("flat.yaml", MINE_SPEC.format(module="flat_lr"))
    done = own.hpo("run", "flat.yaml", "-oname=flat")
    assert done.returncode == 4
    assert "never falls clearly" in done.stderr
    assert "--resume" in done.stderr
    assert_no_traceback(done)
    folder = own.folder / "runs" / "flat"
    assert (folder / "lr_finder" / "range_test.png").is_file()
    assert not optuna.load_study(study_name="flat", storage=own.storage_url).trials
    given_lr = "-osearch_space.lr={type: float, low: 1e-3, high: 1e-1, log: true}"
    done = own.hpo("run", "flat.yaml", "-oname=flat", given_lr, "--resume")
    assert done.returncode == 0, done.stderr
    assert (searched(own, "flat").low, searched(own, "flat").high) == (1e-3, 1e-1)


def begin(folder: Path, module: str, *overrides: str, resume: bool = False) -> Workspace:
    """An experiment laid out as `hpo run` does it."""
    places = Places.of(folder, {})
    spec = parse_spec(MINE_SPEC.format(module=module), "mine.yaml", overrides, places.imports)
    return open_workspace(spec, places, find_record(spec, places, resume=resume))


def after_the_stage(workspace: Workspace) -> Workspace:
    """What the stage before the search makes of it; its tasks are run in this process."""
    stage = find_range(workspace, lambda _: None)
    while True:
        try:
            source = next(stage)
        except StopIteration as end:
            narrow: Workspace = end.value
            return narrow
        while task := source.next_task():
            source.ended(task, TrialDrive(task).next_report())


def lr_of(workspace: Workspace) -> FloatParameter | FoundParameter:
    parameter = workspace.spec.search_space["lr"]
    assert isinstance(parameter, FloatParameter | FoundParameter)
    return parameter


def test_the_first_config_that_can_be_built_is_the_one_that_is_tested(here: Shell) -> None:
    here.write("picky_lr.py", MINE + PICKY)
    units = "search_space.units={type: int, low: 1, high: 8}"
    given = (units, "fixed.most=2", "budget.n_trials=10", "sampler=random")
    workspace = begin(here.folder, "picky_lr", *given)
    after_the_stage(workspace)
    drawn = [params["units"] for params in first_params(workspace.spec, 10)]
    fitting = [units for units in drawn if units <= 2]
    assert fitting[0] != drawn[0]
    path = workspace.folder / "lr_finder" / "range_test.json"
    assert json.loads(path.read_text())["config"]["units"] == fitting[0]


def test_where_no_config_can_be_built_the_way_out_is_told(here: Shell) -> None:
    here.write("picky_lr.py", MINE + PICKY)
    units = "search_space.units={type: int, low: 5, high: 8}"
    with pytest.raises(NoLrRangeError) as caught:
        after_the_stage(begin(here.folder, "picky_lr", units, "fixed.most=4"))
    assert "units do not fit" in str(caught.value)
    assert "hpo lr-find SPEC -p NAME=VALUE" in str(caught.value)
    assert "low: 1e-4" in str(caught.value)


def test_a_range_that_was_recorded_just_before_a_crash_is_kept(here: Shell) -> None:
    """The ledger has the range, the spec is not narrowed yet."""
    here.write("crash_lr.py", MINE)
    workspace = begin(here.folder, "crash_lr", "search_space.lr.low=0.02")
    found = LrRangeRecord(
        suggested=0.03, low=0.003, high=0.3, seconds=1.0, found_at=dt.datetime(2026, 1, 1)
    )
    workspace.ledger.put_lr_range(workspace.experiment.id, found)
    assert isinstance(lr_of(workspace), FoundParameter)
    resumed = begin(here.folder, "crash_lr", "search_space.lr.low=0.02", resume=True)
    assert lr_of(resumed) == FloatParameter(type="float", low=0.02, high=0.3, log=True)


def test_limits_that_leave_nothing_of_the_range_are_told_and_can_be_changed(here: Shell) -> None:
    here.write("limits_lr.py", MINE)
    with pytest.raises(NoLrRangeError, match=r"lies outside of its limits, low=9\. Change them"):
        after_the_stage(begin(here.folder, "limits_lr", "search_space.lr.low=9"))
    resumed = begin(here.folder, "limits_lr", "search_space.lr.low=0.5", resume=True)
    assert lr_of(after_the_stage(resumed)).low == 0.5


def test_an_interrupt_during_the_range_test_ends_the_run_with_130(own: Shell) -> None:
    own.write("slow.yaml", MINE_SPEC.format(module="slow_lr"))
    gate = Gate(own.folder)
    process = own.start("run", "slow.yaml", "-oname=slow")
    gate.wait_for(process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    gate.remove()
    assert process.returncode == 130, stderr
    assert "Go on with" in stderr
    assert "Traceback" not in stderr
