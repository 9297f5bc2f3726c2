"""Make MLflow show what the ledger knows: at the end of a run, or whenever `hpo sync` is typed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from optuna.trial import FrozenTrial

from hpo.errors import UnfitEnvironmentError
from hpo.places import MLFLOW_FOLDER, Places
from hpo.results import Finalist, Outcome, test_interval
from hpo.storage_errors import exclusive, storage_errors
from hpo.task_factory import TaskFactory
from hpo.tracking import (
    Projection,
    RunPicture,
    Tracker,
    parent_picture,
    short_reason,
    trial_picture,
)
from hpo.workspace import Workspace, find_workspace
from storage import record_tracking_is_late, shown_url
from trainables import BEST_WEIGHTS


def open_projection(workspace: Workspace) -> Projection:
    """Connect to MLflow, which is to show the experiment as it is recorded now.

    Raises:
        Exception: whatever MLflow raises if it cannot be reached.
    """
    places = workspace.places
    return Projection(places.tracking_uri, workspace.recorded(), places.runs / MLFLOW_FOLDER)


def open_tracker(workspace: Workspace, say: Callable[[str], None]) -> Tracker:
    """What keeps MLflow up to date while a search runs; ``say`` shows a line to the user."""
    experiment = workspace.experiment

    def picture_of(trial: FrozenTrial) -> RunPicture:
        epochs = workspace.ledger.epochs(experiment.id, trial.number).get(trial.number, [])
        metrics = [objective.metric for objective in workspace.spec.objectives]
        return trial_picture(experiment, workspace.study.study_name, trial, epochs, metrics)

    parent = parent_picture(experiment, workspace.study.study_name, {})
    return Tracker(partial(open_projection, workspace), parent, picture_of, say)


def picture_of_experiment(workspace: Workspace, outcome: Outcome) -> RunPicture:
    """What the run of an experiment shows: what it has come to so far."""
    study_name = workspace.study.study_name
    return parent_picture(outcome.experiment, study_name, _result_metrics(outcome))


def pictures_of_trials(
    workspace: Workspace, outcome: Outcome
) -> Iterator[tuple[RunPicture, list[Path]]]:
    """What the run of each trial shows that has ended, and the files that go with it."""
    metrics = [objective.metric for objective in workspace.spec.objectives]
    finalists = {finalist.number: rank for rank, finalist in enumerate(outcome.finalists, start=1)}
    for trial in outcome.trials:
        if not trial.state.is_finished():
            continue
        rank = finalists.get(trial.number)
        finalist = None if rank is None else outcome.finalists[rank - 1]
        files = _files(finalist, workspace.tasks)
        picture = trial_picture(
            outcome.experiment,
            workspace.study.study_name,
            trial,
            outcome.epochs.get(trial.number, []),
            metrics,
            rank=rank,
            results=_rerun_metrics(finalist),
            files=[file.name for file in files],
        )
        yield picture, files


def synchronize(workspace: Workspace, status: str = "RUNNING") -> int:
    """Write every trial that ended, the finalists and the result; returns the number of trials.

    Args:
        workspace: of the experiment to show.
        status: of one that is not finished.

    Raises:
        Exception: whatever MLflow raises; what was written by then stays and is not repeated.
    """
    projection, outcome = open_projection(workspace), workspace.outcome()
    parent = picture_of_experiment(workspace, outcome)
    projection.remove_doubles()
    projection.put_parent(parent)
    n_trials = 0
    for picture, files in pictures_of_trials(workspace, outcome):
        projection.put_trial(picture, files)
        n_trials += 1
    projection.end_parent(parent, status)
    record_tracking_is_late(workspace.study, is_late=False)
    return n_trials


def _files(finalist: Finalist | None, tasks: TaskFactory) -> list[Path]:
    if finalist is None:
        return []
    weights = tasks.trial_folder(finalist.number) / BEST_WEIGHTS
    return [weights] if weights.is_file() else []


def _rerun_metrics(finalist: Finalist | None) -> dict[str, float]:
    if finalist is None:
        return {}
    metrics = {
        f"rerun_{rerun.seed_index}": rerun.value
        for rerun in finalist.reruns
        if rerun.value is not None
    }
    if finalist.mean is not None:
        metrics["rerun_mean"] = finalist.mean
        metrics |= {f"rerun_mean_{name}": value for name, value in finalist.others.items()}
    if finalist.confirmed is not None:
        metrics["confirmed_mean"] = finalist.confirmed.mean
    return metrics


def _result_metrics(outcome: Outcome) -> Mapping[str, float]:
    """The values whose gaps are the optimism of a search, side by side."""
    metrics: dict[str, float] = {}
    if outcome.winner is not None and outcome.winner.mean is not None:
        metrics["search_value"] = outcome.winner.search_value
        metrics["rerun_mean"] = outcome.winner.mean
        if outcome.winner.confirmed is not None:
            metrics["confirmed_mean"] = outcome.winner.confirmed.mean
    if outcome.test is not None:
        name = f"test_{outcome.test.metric}"
        metrics[name] = outcome.test.value
        if interval := test_interval(outcome.test):
            metrics[f"{name}_low"], metrics[f"{name}_high"] = interval
    return metrics


def synchronize_by_name(name: str, places: Places) -> int:
    """The same for a recorded experiment.

    Raises:
        UsageError: if there is no experiment called ``name``.
        StorageError: if the ledger cannot be read, or the experiment is being run.
        UnfitEnvironmentError: if MLflow cannot be reached.
    """
    with storage_errors():
        workspace = find_workspace(name, places)
        with exclusive(places, name):
            return synchronize_or_say(workspace)


def synchronize_or_say(workspace: Workspace) -> int:
    """`synchronize` for a command that is there for it.

    Raises:
        UnfitEnvironmentError: if MLflow cannot be reached.
    """
    with written_or_said(workspace):
        return synchronize(workspace)


@contextmanager
def written_or_said(workspace: Workspace) -> Iterator[None]:
    """Inside MLflow is written by a command that is there for it.

    Raises:
        UnfitEnvironmentError: if that fails.
    """
    try:
        yield
    except Exception as error:
        raise UnfitEnvironmentError(
            f"MLflow at {shown_url(workspace.places.tracking_uri)} cannot be written: "
            f"{short_reason(error)}"
        ) from error
