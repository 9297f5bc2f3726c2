"""Make MLflow show what the ledger knows: at the end of a run, or whenever `hpo sync` is typed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpo.errors import UnfitEnvironmentError
from hpo.places import MLFLOW_FOLDER, Places
from hpo.results import Finalist, Outcome, test_interval
from hpo.tasks import TaskFactory
from hpo.tracking import Projection, short_reason
from hpo.workspace import Workspace, exclusive, find_workspace, storage_errors
from storage import shown_url
from trainables import BEST_WEIGHTS


def open_projection(workspace: Workspace) -> Projection:
    """Connect to MLflow, which is to show the experiment as it is recorded now.

    Raises:
        Exception: whatever MLflow raises if it cannot be reached.
    """
    places = workspace.places
    return Projection(
        places.tracking_uri,
        workspace.recorded(),
        workspace.study.study_name,
        places.runs / MLFLOW_FOLDER,
        [objective.metric for objective in workspace.spec.objectives],
    )


def synchronize(workspace: Workspace, status: str = "RUNNING") -> int:
    """Write every trial that ended, the finalists and the result; returns the number of trials.

    Args:
        workspace: of the experiment to show.
        status: of one that is not finished.

    Raises:
        Exception: whatever MLflow raises; what was written by then stays and is not repeated.
    """
    projection, outcome = open_projection(workspace), workspace.outcome()
    projection.put_parent(_result_metrics(outcome))
    finalists = {finalist.number: rank for rank, finalist in enumerate(outcome.finalists, start=1)}
    ended = [trial for trial in outcome.trials if trial.state.is_finished()]
    for trial in ended:
        extras: dict[str, Any] = {}
        if rank := finalists.get(trial.number):
            extras = _finalist_extras(outcome.finalists[rank - 1], workspace.tasks)
            extras["rank"] = rank
        projection.put_trial(trial, outcome.epochs.get(trial.number, []), **extras)
    if outcome.experiment.finished_at is not None:
        projection.end_parent("FINISHED", outcome.experiment.finished_at)
    else:
        projection.end_parent(status)
    return len(ended)


def _finalist_extras(finalist: Finalist, tasks: TaskFactory) -> dict[str, Any]:
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
    weights = tasks.trial_folder(finalist.number) / BEST_WEIGHTS
    return {
        "metrics": metrics,
        "artifacts": [weights] if weights.is_file() else [],
    }


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
        with exclusive(workspace.folder):
            return _synchronize(workspace)


def _synchronize(workspace: Workspace) -> int:
    places = workspace.places
    try:
        return synchronize(workspace)
    except Exception as error:
        raise UnfitEnvironmentError(
            f"MLflow at {shown_url(places.tracking_uri)} cannot be written: {short_reason(error)}"
        ) from error
