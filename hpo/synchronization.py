"""Make MLflow show what the ledger knows: at the end of a run, or whenever `hpo sync` is typed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpo.bench import Bench, find_bench, storage_errors
from hpo.errors import UnfitEnvironmentError
from hpo.jobs import JobFactory
from hpo.places import Places
from hpo.results import Finalist, Outcome, accuracy_interval
from hpo.tracking import Projection, short_reason
from trainables import BEST_WEIGHTS


def open_projection(bench: Bench) -> Projection:
    """Connect to MLflow.

    Raises:
        Exception: whatever MLflow raises if it cannot be reached.
    """
    places = bench.places
    return Projection(
        places.tracking_uri, bench.experiment, bench.study.study_name, places.runs / "mlartifacts"
    )


def synchronize(bench: Bench) -> int:
    """Write every trial that ended, the finalists and the result; returns the number of trials.

    Raises:
        Exception: whatever MLflow raises; what was written by then stays and is not repeated.
    """
    projection, outcome = open_projection(bench), bench.outcome()
    projection.put_parent(_result_metrics(outcome))
    finalists = {finalist.number: rank for rank, finalist in enumerate(outcome.finalists, start=1)}
    ended = [trial for trial in outcome.trials if trial.state.is_finished()]
    for trial in ended:
        extras: dict[str, Any] = {}
        if rank := finalists.get(trial.number):
            extras = _finalist_extras(outcome.finalists[rank - 1], rank, bench.jobs)
        projection.put_trial(trial, outcome.epochs.get(trial.number, []), **extras)
    if outcome.experiment.finished_at is not None:
        projection.end_parent("FINISHED", outcome.experiment.finished_at)
    return len(ended)


def _finalist_extras(finalist: Finalist, rank: int, jobs: JobFactory) -> dict[str, Any]:
    metrics = {
        f"rerun_{rerun.seed_index}": rerun.value
        for rerun in finalist.reruns
        if rerun.value is not None
    }
    if finalist.mean is not None:
        metrics["rerun_mean"] = finalist.mean
    weights = jobs.trial_folder(finalist.number) / BEST_WEIGHTS
    return {
        "tags": {"hpo.finalist_rank": str(rank)},
        "metrics": metrics,
        "artifacts": [weights] if weights.is_file() else [],
    }


def _result_metrics(outcome: Outcome) -> Mapping[str, float]:
    """The three values whose gaps are the optimism of a search, side by side."""
    metrics: dict[str, float] = {}
    if outcome.winner is not None and outcome.winner.mean is not None:
        metrics["search_value"] = outcome.winner.search_value
        metrics["rerun_mean"] = outcome.winner.mean
    if outcome.test is not None:
        test = outcome.test
        low, high = accuracy_interval(test.n_correct, test.n_test)
        metrics |= {
            "test_accuracy": test.n_correct / test.n_test,
            "test_accuracy_low": low,
            "test_accuracy_high": high,
        }
    return metrics


def synchronize_by_name(name: str, places: Places) -> int:
    """The same for a recorded experiment.

    Raises:
        UsageError: if there is no experiment called ``name``.
        StorageError: if the ledger cannot be read.
        UnfitEnvironmentError: if MLflow cannot be reached.
    """
    with storage_errors():
        bench = find_bench(name, places)
    try:
        return synchronize(bench)
    except Exception as error:
        raise UnfitEnvironmentError(
            f"MLflow at {places.tracking_uri} cannot be written: {short_reason(error)}"
        ) from error
