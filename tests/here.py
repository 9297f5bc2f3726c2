"""`hpo run` without Ray: the journey as it is, its tasks driven in this process."""

from __future__ import annotations

import io
import math
import shutil
from pathlib import Path

from rich.console import Console
from without_ray import KilledError, drive_stages

from hpo.experiment import same_data, stages, wind_up
from hpo.going_on import find_record
from hpo.places import Places
from hpo.progress import RunProgress
from hpo.search import n_trials_of
from hpo.spec import ExperimentSpec, parse_spec
from hpo.synchronization import open_tracker
from hpo.workspace import Workspace, open_workspace
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
    n_reports: float = math.inf,
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
        drive_stages(watched, n_workers=lambda: n_workers, n_reports=n_reports)
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


def places_of(folder: Path, store: Path) -> Places:
    """Those of `hpo` in a folder, whatever the environment says.

    ``store`` is an empty database of MLflow, which takes long to make: it is copied.
    """
    places = Places.of(folder, {})
    places.runs.mkdir()
    shutil.copy(store, places.runs / "mlflow.db")
    return places
