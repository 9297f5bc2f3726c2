"""Project the ledger onto MLflow: one parent run per experiment, one nested run per trial.

MLflow is a picture of the ledger. Runs are found again by their tags and written so that writing
them twice changes nothing, so the picture can be late, interrupted, deleted and made anew.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.failpoints import failpoint
from hpo.tracking.new_store import make_store
from hpo.tracking.picture import (
    FINISHED,
    PARENT_RUN,
    SPEC_FILE,
    Point,
    RunPicture,
    is_at_odds,
    key_of,
    nested,
    shown_picture,
    shows,
    superfluous_tags,
    unshown_results,
)
from storage import ExperimentRecord, database_exists

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MAX_METRICS, MAX_PARAMS = 1000, 100  # in one log_batch, MLflow's limits

# Of an MLflow server that is down: one quick answer each time instead of minutes of retries.
# And nothing is drawn in the middle of what we say.
CLIENT_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
SERVERS = ("http:", "https:", "databricks")
"""How the URI of a tracking store begins that keeps artifacts itself."""


class Projection:
    """One experiment in one MLflow tracking store."""

    def __init__(self, tracking_uri: str, experiment: ExperimentRecord, artifacts: Path) -> None:
        """``artifacts`` is the folder of a database store's artifacts; a server has its own.

        Raises:
            Exception: whatever MLflow raises if the store cannot be reached.
        """
        self._client = open_client(tracking_uri)
        self._experiment = experiment
        self._mlflow_id = self._find_experiment(tracking_uri, artifacts)
        runs = find_runs(self._client, self._mlflow_id, experiment.id)
        self._runs = {key: alike[0] for key, alike in runs.items()}
        self._others = [run for alike in runs.values() for run in alike[1:]]

    @property
    def keys(self) -> set[str]:
        """Of which trials there are runs, and whether of the experiment."""
        return set(self._runs)

    def remove_doubles(self) -> None:
        """Leave one run of each trial: what a store kept of an answer that never arrived goes."""
        for run in self._others:
            self._client.delete_run(run.info.run_id)
        self._others = []

    def remove_trials(self, keys: Collection[str]) -> None:
        """Remove runs of trials, which may then be made anew; none of the parent."""
        for key in set(keys) & self._runs.keys() - {PARENT_RUN}:
            self._client.delete_run(self._runs.pop(key).info.run_id)

    def put_parent(self, picture: RunPicture, status: str | None = None) -> None:
        """The parent run with its spec as artifact; its status stays unless one is given.

        But one that says FINISHED of an experiment that goes on is corrected.
        """
        run_id = self._run(picture)
        shown = self._runs[PARENT_RUN].info.status
        if status is None and shown == FINISHED != picture.status:
            status = picture.status
        if status is not None:
            self._client.update_run(run_id, status=status)
        self._log(run_id, self._new_results(picture), {})
        with tempfile.TemporaryDirectory(prefix="hpo-mlflow-") as folder:
            spec = Path(folder) / SPEC_FILE
            spec.write_text(self._experiment.spec, encoding="utf-8")
            self._client.log_artifact(run_id, str(spec))  # again: a budget may have been raised

    def end_parent(self, picture: RunPicture, status: str) -> None:
        """How the experiment stands: FINISHED if it is, else ``status``.

        "RUNNING", which changes nothing; "FAILED"; or "KILLED" by a signal.
        """
        run_id = self._runs[PARENT_RUN].info.run_id
        if picture.status == FINISHED:
            self._client.set_terminated(run_id, FINISHED, picture.ended_ms)
        elif status != "RUNNING":
            self._client.set_terminated(run_id, status)
        failpoint("MLflow parent ended")

    def put_trial(self, picture: RunPicture, artifacts: Iterable[Path] = ()) -> None:
        """One trial's run with everything the ledger knows of it."""
        picture = nested(picture, self._runs[PARENT_RUN].info.run_id)
        run = self._runs.get(picture.key)
        if run is not None and is_at_odds(picture, run):
            self.remove_trials([picture.key])
            run = None
        if run is not None and shows(picture, run):
            self._remove_superfluous_tags(picture)
            self._put_artifacts(run.info.run_id, artifacts)
            return
        run_id = self._run(picture)
        self._log(run_id, [*picture.points, *self._new_results(picture)], picture.params)
        self._put_artifacts(run_id, artifacts)
        failpoint("MLflow run logged")
        self._client.set_terminated(run_id, picture.status, picture.ended_ms)
        failpoint("MLflow run ended")
        self._runs[picture.key] = self._client.get_run(run_id)

    def _find_experiment(self, tracking_uri: str, artifacts: Path) -> str:
        found = self._client.get_experiment_by_name(self._experiment.name)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                self._client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)
        is_server = tracking_uri.startswith(SERVERS)
        location = None if is_server else (artifacts / self._experiment.name).as_uri()
        mlflow_id = str(self._client.create_experiment(self._experiment.name, location))
        failpoint("MLflow experiment made")
        return mlflow_id

    def _run(self, picture: RunPicture) -> str:
        """The run of a picture, made if it is not there, with its tags."""
        key = picture.key
        if key not in self._runs:
            self._runs[key] = self._client.create_run(
                self._mlflow_id,
                start_time=picture.started_ms,
                tags=dict(picture.tags),
                run_name=picture.name,
            )
            failpoint("MLflow run begun")
        else:
            for tag, value in picture.tags.items():
                if self._runs[key].data.tags.get(tag) != value:
                    self._client.set_tag(self._runs[key].info.run_id, tag, value)
            self._remove_superfluous_tags(picture)
        return str(self._runs[key].info.run_id)

    def _remove_superfluous_tags(self, picture: RunPicture) -> None:
        """A rank, say: it was a finalist before there were more trials."""
        run = self._runs[picture.key]
        for tag in superfluous_tags(picture, run):
            self._client.delete_tag(run.info.run_id, tag)

    def _new_results(self, picture: RunPicture) -> list[Point]:
        """Results that the run does not show yet; MLflow shows the newest of several values."""
        now_ms, last = time.time_ns() // 1_000_000, max((p[3] for p in picture.points), default=0)
        unshown = unshown_results(picture, self._runs[picture.key])
        return [(name, value, now_ms, last) for name, value in unshown.items()]

    def _log(self, run_id: str, points: Sequence[Point], params: Mapping[str, str]) -> None:
        """Points of metrics and parameters in as few calls as MLflow allows."""
        from mlflow.entities import Metric, Param

        metrics = [Metric(name, value, ms, step) for name, value, ms, step in points]
        all_params = [Param(name, value) for name, value in params.items()]
        n_calls = max(
            math.ceil(len(metrics) / MAX_METRICS), math.ceil(len(all_params) / MAX_PARAMS)
        )
        for call in range(n_calls):
            self._client.log_batch(
                run_id,
                metrics=metrics[call * MAX_METRICS : (call + 1) * MAX_METRICS],
                params=all_params[call * MAX_PARAMS : (call + 1) * MAX_PARAMS],
            )

    def _put_artifacts(self, run_id: str, paths: Iterable[Path]) -> None:
        if not (wanted := list(paths)):
            return
        there = {item.path for item in self._client.list_artifacts(run_id)}
        for path in wanted:
            if path.name not in there:
                self._client.log_artifact(run_id, str(path))


def shown_runs(tracking_uri: str, experiment: ExperimentRecord) -> dict[str, list[RunPicture]]:
    """Every run that MLflow shows of an experiment, by key; changes nothing.

    Of several of one key the first is the one that `Projection` goes on with.

    Raises:
        Exception: whatever MLflow raises if it cannot be read.
    """
    if not tracking_uri.startswith(SERVERS) and not database_exists(tracking_uri):
        return {}
    client = open_client(tracking_uri)
    found = client.get_experiment_by_name(experiment.name)
    if found is None or found.lifecycle_stage == "deleted":
        return {}
    runs = find_runs(client, found.experiment_id, experiment.id)
    return {key: [shown_picture(client, run) for run in alike] for key, alike in runs.items()}


def open_client(tracking_uri: str) -> MlflowClient:
    """A client that answers soon, and says nothing in the middle of a live table."""
    os.environ.update({k: os.environ.get(k, value) for k, value in CLIENT_ENVIRONMENT.items()})
    from mlflow import MlflowClient

    # With tracebacks, too; what they raise is told. psycopg tells of rows that MLflow tries to
    # write again, and finds.
    for name in ("mlflow", "alembic", "psycopg"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    make_store(tracking_uri)
    return MlflowClient(tracking_uri=tracking_uri)


def find_runs(client: MlflowClient, mlflow_id: str, experiment_id: str) -> dict[str, list[Run]]:
    """Runs of an experiment by key, the most complete first; the store pages its answer."""
    runs: dict[str, list[Run]] = {}
    token = None
    while True:
        page = client.search_runs(
            [mlflow_id],
            f"tags.`hpo.experiment_id` = '{experiment_id}'",
            max_results=1000,
            page_token=token,
        )
        for run in page:
            runs.setdefault(key_of(run), []).append(run)
        token = page.token
        if not token:
            break
    for alike in runs.values():
        alike.sort(key=_incompleteness)
    return runs


def _incompleteness(run: Run) -> tuple[bool, int, str]:
    n_told = len(run.data.metrics) + len(run.data.params)
    return run.info.status == "RUNNING", -n_told, str(run.info.run_id)
