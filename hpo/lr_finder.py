"""The learning-rate finder: `hpo lr-find`, and the stage before a search that awaits its range."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpo.chosen_config import chosen_config
from hpo.errors import HpoError, NoLrRangeError, UnfitEnvironmentError, UsageError
from hpo.execution import TrialDrive
from hpo.places import Places
from hpo.plan import first_params
from hpo.results import draw_range_test, params_text
from hpo.search import narrowed, recorded_opening
from hpo.spec import ExperimentSpec, FloatParameter, FoundParameter
from hpo.storage_errors import storage_errors
from hpo.task_factory import TaskFactory
from hpo.tasks import EpochReport, TaskList, TaskSource, TrialTask
from hpo.workspace import Workspace, now, with_lr_range
from storage import LrRangeRecord
from trainables import LR, TRAINABLES, LrRangeTest, TrainableError, find_trainable

COMMAND_FOLDER, STAGE_FOLDER = "lr-find", "lr_finder"
"""In runs/NAME: of the command's last call, and of the test that an experiment begins with."""
PICTURE, CURVE = "range_test.png", "range_test.json"
N_CONFIGS = 10
"""How many configs are tried until one can be built."""
BY_HAND = (
    "Try other configs with `hpo lr-find SPEC -p NAME=VALUE`, or write a range into search_space, "
    f"e.g. `{LR}: {{type: float, low: 1e-4, high: 1e-1, log: true}}`, and go on with --resume"
)


def find_learning_rate(
    spec: ExperimentSpec,
    places: Places,
    assignments: Sequence[str],
    say: Callable[[str], None],
) -> tuple[LrRangeTest, dict[str, Any]]:
    """The range test of one config of a spec, in this process; and that config.

    Args:
        spec: names the trainable, the fixed values and the search space.
        places: where its data lie, and where what it prints is kept.
        assignments: ``name=value`` of parameters; the others are those of trial 0.
        say: is told what is about to happen.

    Raises:
        UsageError: if the trainable offers no range test, an assignment cannot be followed, or the
            config cannot be built.
        NoLrRangeError: if the trainable failed.
        StorageError: if the folder for what it prints cannot be written.
        UnfitEnvironmentError: if its data, or the GPU that the spec asks for, are not there.
    """
    _must_find_lr(spec, places)
    config = _without_lr(spec, assignments)
    _must_have_gpu(spec)
    folder = places.run_folder(spec.name)
    with storage_errors():
        (folder / COMMAND_FOLDER).mkdir(parents=True, exist_ok=True)
    tasks = TaskFactory(spec=spec, import_paths=places.imports, folder=folder, data_dir=places.data)
    say(f"range test of {spec.trainable} with {params_text(config)}")
    report = TrialDrive(tasks.find_lr(config, folder / COMMAND_FOLDER)).next_report()
    if report.is_infeasible:
        raise UsageError(
            f"{report.fail_reason}; choose other values with "
            "-p NAME=VALUE, of what the spec fixes with -o fixed.NAME=VALUE"
        )
    if report.lr_range_test is None:
        raise _failure(report)
    return report.lr_range_test, config


def find_range(
    workspace: Workspace, say: Callable[[str], None]
) -> Generator[TaskSource, None, Workspace]:
    """The stage before the search: yields the range test, returns the narrowed workspace.

    The first config that the sampler draws and that can be built is the one that is tested.

    Raises:
        NoLrRangeError: if the test fails, or finds nothing within the spec's own limits; the search
            cannot begin.
        UnfitEnvironmentError: if the data cannot be used.
    """
    ended: list[tuple[TrialTask, EpochReport, float]] = []
    for params in first_params(workspace.spec, N_CONFIGS, recorded_opening(workspace.study)):
        task = workspace.tasks.find_lr(params, workspace.folder / STAGE_FOLDER)
        yield TaskList([task], lambda *end: ended.append(end), say)
        if not ended:
            return workspace  # interrupted
        if not ended[-1][1].is_infeasible:
            break
    task, report, seconds = ended[-1]
    test = report.lr_range_test
    if test is None:
        raise _failure(report, f". {BY_HAND}")
    _keep(test, task.config, workspace.folder / STAGE_FOLDER)
    if test.found is None:
        raise NoLrRangeError(
            f"no learning rates worth searching: {test.problem}. Look at "
            f"{workspace.folder / STAGE_FOLDER / PICTURE}. {BY_HAND}"
        )
    found = LrRangeRecord(**asdict(test.found), seconds=seconds, found_at=now())
    lr = narrowed(workspace.spec, found.low, found.high).search_space[LR]
    if isinstance(lr, FoundParameter):
        ends = {"low": lr.low, "high": lr.high}
        limits = " and ".join(f"{end}={value:g}" for end, value in ends.items() if value)
        raise NoLrRangeError(
            f"search_space.{LR}: the range found, {found.low:g} to {found.high:g}, lies outside of "
            f"its limits, {limits}. Change them, and go on with --resume"
        )
    assert isinstance(lr, FloatParameter)
    say(
        f"{LR}: searched from {lr.low:g} to {lr.high:g}, as the range test with "
        f"{params_text(params)} suggests ({seconds:.1f} s)"
    )
    return with_lr_range(workspace, found)


def range_test_as_json(test: LrRangeTest, config: Mapping[str, Any]) -> dict[str, Any]:
    """The whole test for a program: config, rates, losses, smoothed, ending, found, problem."""
    return {"config": dict(config), **asdict(test)}


def save_picture(test: LrRangeTest, path: Path) -> None:
    """Write the PNG of a test.

    Raises:
        UsageError: if it cannot be written.
    """
    try:
        draw_range_test(test, path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from None


def _keep(test: LrRangeTest, config: Mapping[str, Any], folder: Path) -> None:
    """The curve, for eyes and for programs."""
    draw_range_test(test, folder / PICTURE)
    curve = json.dumps(range_test_as_json(test, config), indent=1)
    (folder / CURVE).write_text(curve, encoding="utf-8")


def _failure(report: EpochReport, way_out: str = "") -> HpoError:
    """Why there is no test."""
    if report.is_unfit:
        return UnfitEnvironmentError(report.fail_reason)
    return NoLrRangeError(
        f"the range test of the learning rate failed: {report.fail_reason}{way_out}"
    )


def _must_find_lr(spec: ExperimentSpec, places: Places) -> None:
    try:
        offers = find_trainable(spec.trainable, places.imports).find_lr is not None
    except TrainableError as error:
        raise UsageError(str(error)) from None
    if not offers:
        known = [name for name, info in TRAINABLES.items() if info.finds_lr]
        raise UsageError(
            f"trainable {spec.trainable!r} offers no `find_lr`; those that do: {', '.join(known)}, "
            "and any of yours with such a function beside it"
        )


def _without_lr(spec: ExperimentSpec, assignments: Sequence[str]) -> dict[str, Any]:
    if any(assignment.startswith(f"{LR}=") for assignment in assignments):
        raise UsageError(f"-p {LR}: is what the range test finds; leave it out")
    config = chosen_config(spec, assignments)
    return {name: value for name, value in config.items() if name != LR}


def _must_have_gpu(spec: ExperimentSpec) -> None:
    if spec.resources.gpu > 0:
        import torch

        if not torch.cuda.is_available():
            raise UnfitEnvironmentError(
                f"resources.gpu={spec.resources.gpu:g}, and this machine has no GPU that torch can "
                "use; test on the CPU with -o resources.gpu=0"
            )
