"""Trainables: found by name, driven one epoch at a time, and the CNN that is ours."""

from __future__ import annotations

import io
import itertools
import math
import random
import re
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpo.execution import TrialDrive
from hpo.execution.fitness import PAUSES_S
from hpo.tasks import OUTPUT_FILE, TRACEBACK_FILE, EpochReport, TrialTask
from trainables import (
    TRAINABLES,
    TrainableError,
    TrialContext,
    find_trainable,
)
from trainables.analytic import branin

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")

MAX_EPOCHS = 3
SMALL_CNN = {"depth": 1, "filters": 4, "batch_size": 256, "randaugment_num_ops": 1}
CONFIGS = {"analytic": {"x1": 1.0, "x2": 2.0, "noise": 0.1}, "cnn": SMALL_CNN}
"""A config of each registered trainable that takes it little time."""

every_trainable = pytest.mark.parametrize("name", sorted(TRAINABLES))

module_names = (f"users_module_{number}" for number in itertools.count())


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a Python file of a user's into ``tmp_path`` and returns its module's name."""
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(text: str) -> str:
        name = next(module_names)
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return write


def context(folder: Path, seed: int = 1, max_epochs: int | None = MAX_EPOCHS) -> TrialContext:
    folder.mkdir(parents=True, exist_ok=True)
    return TrialContext(seed=seed, folder=folder, max_epochs=max_epochs)


@pytest.fixture
def drive(write_module: Callable[[str], str], tmp_path: Path) -> Callable[..., list[EpochReport]]:
    """Runs a user's text to its end, which comes after 9 epochs at the latest."""

    def run(text: str, **config: Any) -> list[EpochReport]:
        trial, reports = TrialDrive(task_of(write_module(text), tmp_path, config=config)), []
        while len(reports) < 9 and not (reports and reports[-1].ending):
            reports.append(trial.next_report())
        return reports

    return run


def task_of(module: str, folder: Path, **changes: Any) -> TrialTask:
    """A trial of a module in ``folder``; it leaves its files in ``folder / "trial"``."""
    task = TrialTask(
        number=0,
        trainable=f"{module}:train",
        import_paths=(folder,),
        config={},
        context=context(folder / "trial"),
        metric="loss",
    )
    return replace(task, **changes)


def outline(reports: list[EpochReport]) -> list[tuple[int, Any, str | None]]:
    """Epoch, objective and ending of each report."""
    return [(report.epoch, report.metrics.get("loss"), report.ending) for report in reports]


# --- found by name ---


def test_a_file_of_the_users_is_a_trainable_without_any_import_of_ours(
    write_module: Callable[[str], str], tmp_path: Path
) -> None:
    name = write_module("def fit(config, trial):\n    yield {'loss': config['x'] + trial.seed}\n")
    found = find_trainable(f"{name}:fit", [tmp_path])
    assert list(found.reports({"x": 2}, context(tmp_path, seed=3))) == [{"loss": 5}]
    assert found.finish is None
    assert found.fingerprint is None


def test_finish_and_fingerprint_stand_beside_train(
    write_module: Callable[[str], str], tmp_path: Path
) -> None:
    name = write_module(
        "def train(config): return 1\n"
        "def finish(config, trial): return 'model'\n"
        "def fingerprint(config, trial): return 'abc'\n"
    )
    found = find_trainable(f"{name}:train", [tmp_path])
    assert (found.finish({}, None), found.fingerprint({}, None)) == ("model", "abc")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cnnn", r"unknown trainable 'cnnn'; did you mean 'cnn'\? Known: analytic, cnn"),
        ("zzz", "or name your own as my_module:train"),
        (":train", "unknown trainable"),
        ("no_such_module:train", "no module 'no_such_module' in {folder}; .* no_such_module.py"),
        ("no_such_package.part:train", "no module 'no_such_package.part'"),
        ("trainables.no_such_part:train", "no module 'trainables.no_such_part'"),
        (
            "trainables.analytic:trian",
            r"no function 'trian'; did you mean 'train'\? .*branin, train",
        ),
        ("trainables.analytic:METRICS", "no function 'METRICS'"),
    ],
)
def test_a_name_that_leads_nowhere_is_told_with_what_there_is(
    name: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(TrainableError, match=words.format(folder=tmp_path)):
        find_trainable(name, [tmp_path])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def train(:\n", r"SyntaxError: .*{name}\.py:1\)"),
        ("\n\nraise ValueError('no data')\n", r"ValueError: no data \(.*{name}\.py:3\)"),
        ("import no_such_library\n", "needs 'no_such_library'"),
        ("import sys\nsys.exit(3)\n", r"SystemExit: 3 \(.*{name}\.py:2\)"),
        ("import argparse\nargparse.ArgumentParser().parse_args(['--no'])\n", "SystemExit: 2"),
    ],
    ids=["syntax error", "raises", "missing library", "exits", "reads arguments"],
)
def test_a_module_that_cannot_be_imported_names_the_error_and_its_line(
    text: str, words: str, write_module: Callable[[str], str], tmp_path: Path
) -> None:
    name = write_module(text)
    with pytest.raises(TrainableError, match=words.format(name=name)):
        find_trainable(f"{name}:train", [tmp_path])


# --- driven one epoch at a time ---

STEPS = """
def train(config, trial):
    for epoch in range(1, 100):
        yield {"loss": 1 / epoch, "other": epoch}
"""


@pytest.mark.parametrize(
    ("text", "reports"),
    [
        (STEPS, [(1, 1.0, None), (2, 0.5, None), (3, 1 / 3, "complete")]),
        ("def train(config, trial):\n yield 2\n yield 1", [(1, 2.0, None), (2, 1.0, None)]),
        ("def train(config, trial): return 2", [(1, 2.0, None)]),
        ("def train(config, trial): return {'loss': 2, 'other': 3}", [(1, 2.0, None)]),
        ("def train(config): return config['x']", [(1, 7.0, None)]),
        ("def train(config):\n yield config['x']", [(1, 7.0, None)]),
        ("def train(config, *, scale=2): return config['x'] * scale", [(1, 14.0, None)]),
        ("def train(config, trial): return iter([3, 2, 1])",
         [(1, 3.0, None), (2, 2.0, None), (3, 1.0, "complete")]),
        ("import torch\ndef train(config): return torch.tensor(0.5)", [(1, 0.5, None)]),
        ("import numpy\ndef train(config): return numpy.float32(0.5)", [(1, 0.5, None)]),
    ],
    ids=[
        "generator", "generator of numbers", "number", "mapping", "config alone",
        "generator of config alone", "optional keyword", "iterator", "tensor", "numpy",
    ],
)  # fmt: skip
def test_whatever_yields_or_returns_metrics_is_a_trainable(
    text: str, reports: list[Any], drive: Callable[..., list[EpochReport]]
) -> None:
    """One that ends before its budget repeats its last report: that is how it ended."""
    if reports[-1][2] is None:
        reports = [*reports, (*reports[-1][:2], "complete")]
    assert outline(drive(text, x=7)) == reports


def test_all_metrics_are_reported_as_floats(drive: Callable[..., list[EpochReport]]) -> None:
    first, *_ = drive(STEPS)
    assert first.metrics == {"loss": 1.0, "other": 1.0}
    assert {type(value) for value in first.metrics.values()} == {float}


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("yield {'loss': float('nan')}", "'loss' is nan, not a finite number"),
        ("yield {'loss': float('inf')}", "'loss' is inf"),
        ("yield -float('inf')", "'loss' is -inf"),
        ("yield {'accuracy': 1}", "no 'loss', which the spec names .* it reported: accuracy"),
        ("yield {}", "it reported: nothing"),
        ("yield None", "'loss' must be a number, got None"),
        ("yield {'loss': 1, 'note': 'fine'}", "'note' must be a number, got 'fine'"),
        ("raise KeyError('lr')", r"KeyError: 'lr' \(.*users_module_\d+\.py:3\)"),
        ("raise StopIteration", "StopIteration"),
        ("raise MemoryError", "MemoryError"),
        ("import sys; sys.exit('enough')", r"SystemExit: enough \(.*users_module_\d+\.py:3\)"),
        ("exit()", "SystemExit"),
        ("__import__('json').loads('{')", r"JSONDecodeError: .*users_module_\d+\.py:3\)"),
    ],
)
@pytest.mark.parametrize("n_before", [0, 1])
def test_a_failure_has_its_reason_and_keeps_the_last_whole_epoch(
    end: str, words: str, n_before: int, drive: Callable[..., list[EpochReport]]
) -> None:
    """It never raises in the worker, whose process would be lost."""
    first = "yield 5" if n_before else "pass"
    text = f"def train(config, trial):\n    {first}\n    {end}\n    yield"
    *before, last = drive(text)
    assert outline(before) == [(1, 5.0, None)] * n_before
    assert (last.epoch, last.ending) == (n_before, "failed")
    assert last.metrics == ({"loss": 5.0} if n_before else {})
    assert re.search(words, last.fail_reason)


@pytest.mark.parametrize(
    ("end", "cause"),
    [
        ("yield float('nan')", "nan"),
        ("raise FloatingPointError('diverged')", "nan"),
        ("import math; math.exp(1e9)", "nan"),
        ("raise MemoryError", "out_of_memory"),
        ("import torch; raise torch.OutOfMemoryError('CUDA out of memory')", "out_of_memory"),
        ("import torch; torch.empty(2**59)", "out_of_memory"),
        ("raise ValueError", "error"),
        ("yield {'accuracy': 1}", "error"),
        ("1 / 0", "error"),
    ],
)
def test_a_failure_has_a_cause_for_machines(
    end: str, cause: str, drive: Callable[..., list[EpochReport]]
) -> None:
    *_, last = drive(f"def train(config, trial):\n    {end}\n    yield")
    assert (last.ending, last.fail_cause) == ("failed", cause)


@pytest.mark.parametrize("n_epochs", [1, 3])
def test_a_training_beyond_its_time_limit_fails_at_its_next_report(
    n_epochs: int, write_module: Callable[[str], str], tmp_path: Path
) -> None:
    """Also at its last one: a config that cannot be trained within the limit has failed."""
    task = task_of(write_module(STEPS), tmp_path, time_limit_s=1e-9)
    task = replace(task, context=replace(task.context, max_epochs=n_epochs))
    report = TrialDrive(task).next_report()
    assert (report.ending, report.fail_cause, report.epoch) == ("failed", "timeout", 0)
    assert "for 1 epochs; budget.trial_time_limit_s=1e-09" in report.fail_reason


def test_a_trainable_that_yields_nothing_has_failed(
    drive: Callable[..., list[EpochReport]],
) -> None:
    (report,) = drive("def train(config, trial):\n yield from ()")
    assert (report.epoch, report.metrics, report.ending) == (0, {}, "failed")
    assert "yielded no metrics at all" in report.fail_reason


LACKING: dict[str, Callable[[TrialTask, Path], TrialTask]] = {
    "no module 'gone'": lambda task, _: replace(task, trainable="gone:train"),
    "Not a directory": lambda task, folder: in_folder(task, folder / "file" / "trial"),
    "not_mounted is gone, which the driver has made": lambda task, folder: replace(
        in_folder(task, folder / "not_mounted" / "trials" / "0"), home=folder / "not_mounted"
    ),
    r"\[Errno \d+\].*'/proc": lambda task, folder: replace(task, home=Path("/proc")),
    "sees no GPU": lambda task, _: replace(task, context=replace(task.context, device="cuda")),
}


def in_folder(task: TrialTask, folder: Path) -> TrialTask:
    return replace(task, context=replace(task.context, folder=folder))


@pytest.mark.parametrize("reason", LACKING)
def test_a_machine_on_which_no_trial_can_begin_is_named_and_no_trial_blamed(
    reason: str,
    write_module: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The driver has looked before: it is this machine that lacks something."""
    monkeypatch.setattr("hpo.execution.fitness.PAUSES_S", (0.0,))
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    task = LACKING[reason](task_of(write_module(STEPS), tmp_path), tmp_path)
    report = TrialDrive(task).next_report()
    assert (report.ending, report.is_unfit, report.fail_cause) == ("failed", True, None)
    assert f"no trial can run on {socket.gethostname()}: " in report.fail_reason
    assert re.search(reason, report.fail_reason)
    assert "--resume" in report.fail_reason
    assert not (tmp_path / "not_mounted").exists()


def test_a_file_server_that_is_back_in_a_moment_costs_no_run(
    write_module: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = replace(task_of(write_module(STEPS), tmp_path), home=tmp_path / "served")
    slept: list[float] = []

    def back_at_last(pause_s: float) -> None:
        slept.append(pause_s)
        if len(slept) == len(PAUSES_S):
            (tmp_path / "served").mkdir()

    monkeypatch.setattr("hpo.execution.fitness.time.sleep", back_at_last)
    assert TrialDrive(task).next_report().ending is None
    assert slept == [*PAUSES_S]


WITH_DATA = """
from pathlib import Path
from trainables import DataError

def check_data(config, trial):
    if config["n"] < 0:
        raise ValueError("no number of rows")
    if not (trial.data_dir / "rows.csv").is_file():
        raise DataError("there is no rows.csv")

def train(config, trial):
    yield float((trial.data_dir / "rows.csv").read_text()[config["n"]])
"""


def test_data_that_a_machine_lacks_are_no_mistake_of_the_config(
    write_module: Callable[[str], str], tmp_path: Path
) -> None:
    """`check_data` knows better than the exception of whoever reads them."""
    task = task_of(write_module(WITH_DATA), tmp_path, config={"n": 0})
    task = replace(task, context=replace(task.context, data_dir=tmp_path))
    report = TrialDrive(task).next_report()
    assert (report.ending, report.is_unfit, report.fail_cause) == ("failed", True, None)
    assert "there is no rows.csv" in report.fail_reason
    assert socket.gethostname() in report.fail_reason
    (tmp_path / "rows.csv").write_text("7")
    assert TrialDrive(task).next_report().metrics == {"loss": 7.0}
    wrong = TrialDrive(replace(task, config={"n": -5})).next_report()
    assert (wrong.is_unfit, wrong.fail_cause) == (False, "error")


def test_what_a_trial_prints_is_lost_before_the_trial_is(
    drive: Callable[..., list[EpochReport]], tmp_path: Path
) -> None:
    """Where it should be kept nothing can be written, since the disk is full, say."""
    (tmp_path / "trial" / OUTPUT_FILE).mkdir(parents=True)
    *_, report = drive("def train(config, trial):\n print('hello')\n return 1.0")
    assert (report.ending, report.metrics) == ("complete", {"loss": 1.0})


def test_failures_of_one_cause_have_one_place_and_others_another(
    drive: Callable[..., list[EpochReport]],
) -> None:
    text = "def train(config, trial):\n if config['x']: raise ValueError(config['x'])\n 1 / 0"
    one, another, other = (drive(text, x=x)[-1] for x in (1, 2, 0))
    by_line = [report.fail_place.rpartition(":")[2] for report in (one, another, other)]
    assert by_line == ["2", "2", "3"]
    assert one.fail_place.startswith("ValueError ")
    assert other.fail_place.startswith("ZeroDivisionError ")


def test_the_whole_traceback_is_reported_and_kept(
    drive: Callable[..., list[EpochReport]], tmp_path: Path
) -> None:
    (report,) = drive("def train(config, trial):\n    return helper()\ndef helper(): 1 / 0")
    assert "in helper" in report.traceback
    assert (tmp_path / "trial" / TRACEBACK_FILE).read_text() == report.traceback


NOTES = """
def train(config, trial):
    try:
        while True:
            yield 1
    finally:
        (trial.folder / "cleaned").touch()
        print("cleaned up")
        {last}
"""


@pytest.mark.parametrize("last", ["pass", "raise OSError('disk full')", "raise SystemExit(1)"])
def test_the_budget_ends_a_trainable_and_its_finally_block_runs(
    last: str, drive: Callable[..., list[EpochReport]], tmp_path: Path
) -> None:
    """What its cleanup raises cannot change a result that stands already."""
    reports = drive(NOTES.format(last=last))
    assert [report.ending for report in reports] == [None, None, "complete"]
    assert (tmp_path / "trial" / "cleaned").exists()
    assert (tmp_path / "trial" / OUTPUT_FILE).read_text() == "cleaned up\n"


def test_a_trainable_that_is_stopped_early_cleans_up_too(
    write_module: Callable[[str], str], tmp_path: Path
) -> None:
    trial = TrialDrive(task_of(write_module(NOTES.format(last="pass")), tmp_path))
    trial.next_report()
    assert not (tmp_path / "trial" / "cleaned").exists()
    trial.close()
    assert (tmp_path / "trial" / "cleaned").exists()


def test_without_max_epochs_the_trainable_decides(
    write_module: Callable[[str], str], tmp_path: Path
) -> None:
    module = write_module("def train(config, trial):\n for _ in range(5): yield 1")
    endless = replace(context(tmp_path / "trial"), max_epochs=None)
    trial = TrialDrive(task_of(module, tmp_path, context=endless))
    reports = [trial.next_report() for _ in range(6)]
    assert [report.ending for report in reports] == [None] * 5 + ["complete"]


def test_what_is_printed_stands_in_the_trials_folder_and_nowhere_else(
    drive: Callable[..., list[EpochReport]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drive(
        "import sys\n"
        "def train(config, trial):\n"
        "    print('é one')\n"
        "    yield 1\n"
        "    print('two', file=sys.stderr)\n"
        "    raise ValueError\n"
    )
    written = (tmp_path / "trial" / OUTPUT_FILE).read_text(encoding="utf-8")
    assert written == "é one\ntwo\n"
    assert capsys.readouterr() == ("", "")


def test_a_trainable_that_changes_its_config_changes_its_own(
    write_module: Callable[[str], str], tmp_path: Path
) -> None:
    task = task_of(write_module("def train(config): return config.pop('x')"), tmp_path)
    task = replace(task, config={"x": 1})
    TrialDrive(task).next_report()
    assert task.config == {"x": 1}


FINISH = """
import torch
from trainables import FinalModel

class Softmax(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1).float().softmax(dim=1)

def train(config): return 1

def finish(config, trial):
    images = torch.arange(6, dtype=torch.uint8).reshape(3, 1, 1, 2)
    labels = torch.tensor([1, 1, 0])
    return FinalModel(predictor=Softmax(), class_names=("no", "yes"), n_correct=2, n_test=3,
                      test_images=images, test_labels=labels)
"""


def finished(text: str, write_module: Callable[[str], str], folder: Path) -> EpochReport:
    return TrialDrive(task_of(write_module(text), folder, purpose="finish")).next_report()


def test_finishing_is_one_report_with_a_model_that_anyone_can_load(
    write_module: Callable[[str], str], tmp_path: Path
) -> None:
    report = finished(FINISH, write_module, tmp_path)
    packed = report.final_model
    assert (report.ending, report.fail_reason) == ("complete", "")
    assert (packed.class_names, packed.n_correct, packed.n_test) == (("no", "yes"), 2, 3)
    assert packed.labels.tolist() == [1, 1, 0]
    loaded = torch.jit.load(io.BytesIO(packed.torchscript))
    assert np.array_equal(loaded(torch.from_numpy(packed.images)).numpy(), packed.outputs)


def test_a_model_that_cannot_be_finished_gives_the_reason(
    write_module: Callable[[str], str], tmp_path: Path
) -> None:
    text = "def train(config): return 1\ndef finish(config, trial):\n    print('so far')\n    1 / 0"
    report = finished(text, write_module, tmp_path)
    assert (report.ending, report.final_model) == ("failed", None)
    assert re.search(r"ZeroDivisionError: .*users_module_\d+\.py:4", report.fail_reason)
    assert (tmp_path / "trial" / OUTPUT_FILE).read_text() == "so far\n"


def test_a_trainable_without_finish_has_no_final_model(
    write_module: Callable[[str], str], tmp_path: Path
) -> None:
    report = finished("def train(config): return 1", write_module, tmp_path)
    assert (report.ending, report.final_model) == ("complete", None)


CONSTRAINED = """
def train(config):
    print("trained")
    return 1

def constraints(config, trial):
    if trial.seed > 5:
        raise ValueError("layer 3: too large")
    return {"parameters": 7}
"""


def test_constraints_are_known_before_training(
    write_module: Callable[[str], str], tmp_path: Path
) -> None:
    report = TrialDrive(task_of(write_module(CONSTRAINED), tmp_path)).next_report()
    assert report.facts == {"parameters": 7}
    assert not report.is_infeasible


def test_an_infeasible_config_is_not_trained(
    write_module: Callable[[str], str], tmp_path: Path
) -> None:
    task = task_of(write_module(CONSTRAINED), tmp_path)
    report = TrialDrive(replace(task, context=replace(task.context, seed=6))).next_report()
    assert (report.ending, report.is_infeasible) == ("failed", True)
    assert report.fail_reason == "infeasible: layer 3: too large"
    assert not (tmp_path / "trial" / OUTPUT_FILE).exists()


@pytest.mark.parametrize(("wanted", "named"), [(True, "digits 1"), (False, None)])
def test_the_data_is_named_in_the_first_report_if_that_is_wanted(
    wanted: bool, named: str | None, write_module: Callable[[str], str], tmp_path: Path
) -> None:
    text = STEPS + "def fingerprint(config, trial): return f'digits {trial.seed}'\n"
    task = task_of(write_module(text), tmp_path, wants_fingerprint=wanted)
    assert TrialDrive(task).next_report().fingerprint == named


# --- the registered ones ---


def metrics_of(name: str, folder: Path, seed: int = 1) -> list[dict[str, float]]:
    trainable = find_trainable(name)
    return [dict(one) for one in trainable.reports(dict(CONFIGS[name]), context(folder, seed))]


@every_trainable
def test_a_registered_trainable_yields_the_metrics_it_is_registered_with(
    name: str, tmp_path: Path
) -> None:
    yielded = metrics_of(name, tmp_path)
    assert len(yielded) == MAX_EPOCHS
    (names,) = {tuple(metrics) for metrics in yielded}
    assert set(names) <= set(TRAINABLES[name].metrics)
    assert all(math.isfinite(value) for metrics in yielded for value in metrics.values())
    assert set(CONFIGS[name]) <= set(TRAINABLES[name].config_keys)


@every_trainable
def test_a_registered_trainable_finds_learning_rates_if_it_is_registered_so(name: str) -> None:
    """Whoever asks before importing it is told the truth."""
    assert TRAINABLES[name].finds_lr == (find_trainable(name).find_lr is not None)


@every_trainable
def test_the_same_seed_gives_the_same_metrics_bit_for_bit_and_another_does_not(
    name: str, tmp_path: Path
) -> None:
    first = metrics_of(name, tmp_path)
    assert metrics_of(name, tmp_path) == first
    assert metrics_of(name, tmp_path, seed=2) != first


@every_trainable
def test_epochs_of_two_trainings_may_be_interleaved(name: str, tmp_path: Path) -> None:
    """A warm worker that takes turns between trials would change neither."""
    apart = [metrics_of(name, tmp_path / str(seed), seed) for seed in (1, 2)]
    trainings = [
        find_trainable(name).reports(dict(CONFIGS[name]), context(tmp_path / str(seed), seed))
        for seed in (1, 2)
    ]
    assert [list(one) for one in zip(*zip(*trainings, strict=True), strict=True)] == apart


def random_states() -> list[Any]:
    return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]


@every_trainable
def test_the_callers_random_numbers_are_left_alone(name: str, tmp_path: Path) -> None:
    before = random_states()
    for _ in find_trainable(name).reports(dict(CONFIGS[name]), context(tmp_path)):
        assert random_states() == before
    assert random_states() == before


# --- Branin ---


@pytest.mark.parametrize(("x1", "x2"), [(-math.pi, 12.275), (math.pi, 2.275), (3 * math.pi, 2.475)])
def test_branins_three_minima_are_0_397887(x1: float, x2: float) -> None:
    assert branin(x1, x2) == pytest.approx(0.397887, abs=5e-7)


@given(st.floats(-5, 10), st.floats(0, 15))
def test_branin_is_nowhere_lower(x1: float, x2: float) -> None:
    assert branin(x1, x2) >= 0.397887


def test_the_analytic_loss_comes_down_to_branins_value(tmp_path: Path) -> None:
    reports = find_trainable("analytic").reports({"x1": 1, "x2": 2}, context(tmp_path, 0, 50))
    losses = [report["loss"] for report in reports]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == pytest.approx(branin(1, 2))
