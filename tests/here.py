"""`hpo run` without Ray: the journey as it is, its tasks driven in this process."""

from __future__ import annotations

import io
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

from one_worker import KilledError, RayTrial
from ray.tune.schedulers import TrialScheduler
from rich.console import Console

from hpo.execution import TrialDrive
from hpo.execution.actor import result_of
from hpo.execution.searcher import StageScheduler, TaskSearcher
from hpo.experiment import same_data, stages, wind_up
from hpo.places import Places
from hpo.progress import RunProgress
from hpo.search import n_trials_of
from hpo.spec import ExperimentSpec, parse_spec
from hpo.synchronization import open_tracker
from hpo.tasks import TaskSource
from hpo.workspace import Workspace, find_record, open_workspace
from storage import requeue_running
from trainables import PackedModel


def spec_of(text: str, places: Places, *overrides: str) -> ExperimentSpec:
    """The spec of a text, whose trainable lies in the folder of ``places``."""
    return parse_spec(text, "spec.yaml", overrides, places.imports)


def run_here(
    spec: ExperimentSpec,
    places: Places,
    *,
    resume: bool = False,
    n_workers: int = 1,
    n_reports: int | None = None,
) -> Workspace:
    """Run an experiment to its end; after ``n_reports`` the driver is killed without a word.

    Raises:
        KilledError: if it was.
        Exception: whatever a stage raises; what it has left RUNNING goes back into the queue.
    """
    workspace = open_workspace(spec, places, find_record(spec, places, resume=resume))
    progress = RunProgress(spec, Console(file=io.StringIO()), n_trials_of(spec))
    tracker, models = open_tracker(workspace, progress.say), list[PackedModel]()
    watched = same_data(workspace).over(stages(workspace, progress, tracker, models))
    try:
        _drive(watched, n_workers, n_reports)
    except KilledError:
        tracker.close("RUNNING", is_urgent=False)  # its thread would write into another test
        raise
    except Exception:
        requeue_running(workspace.study)
        tracker.close("FAILED", is_urgent=False)
        raise
    is_quiet = tracker.close("RUNNING", is_urgent=False)
    wind_up(workspace, progress, models, is_quiet=is_quiet)
    return workspace


def _drive(stages: Iterator[TaskSource], n_workers: int, n_reports: int | None) -> None:
    """As Ray does it; the worker that has waited longest reports next."""
    searcher = TaskSearcher(stages, concurrency=n_workers)
    scheduler, running = StageScheduler(searcher), dict[str, TrialDrive]()
    trial_ids = map(str, itertools.count())
    while True:
        while len(running) < n_workers:
            suggested = searcher.suggest(trial_id := next(trial_ids))
            if searcher.error is not None:
                raise searcher.error
            if not isinstance(suggested, dict):
                break
            running[trial_id] = TrialDrive(suggested["task"])
            scheduler.on_trial_add(None, RayTrial(trial_id))
        if not running:
            return
        if n_reports == 0:
            raise KilledError
        n_reports = None if n_reports is None else n_reports - 1
        trial_id = next(iter(running))
        drive = running.pop(trial_id)
        if _goes_on(trial_id, drive, searcher, scheduler):
            running[trial_id] = drive
        if searcher.error is not None:
            raise searcher.error


def _goes_on(
    trial_id: str, drive: TrialDrive, searcher: TaskSearcher, scheduler: StageScheduler
) -> bool:
    """Whether a worker goes on after its next report."""
    _, task = searcher.running(trial_id) or (None, None)
    assert task is not None
    report, trial = drive.next_report(), RayTrial(trial_id)
    result = result_of(task, report)
    if report.ending is None:
        if scheduler.on_trial_result(None, trial, result) == TrialScheduler.CONTINUE:
            searcher.on_trial_result(trial_id, result)
            return True
        drive.close()
    scheduler.on_trial_complete(None, trial, result)
    searcher.on_trial_complete(trial_id, result)
    return False


def places_of(folder: Path, store: Path) -> Places:
    """Those of `hpo` in a folder, whatever the environment says.

    ``store`` is an empty database of MLflow, which takes long to make: it is copied.
    """
    places = Places.of(folder, {})
    places.runs.mkdir()
    shutil.copy(store, places.runs / "mlflow.db")
    return places
