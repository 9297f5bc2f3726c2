"""Project the ledger onto MLflow: one parent run per experiment, one nested run per trial.

MLflow is a picture of the ledger. Runs are found again by their tags and written so that writing
them twice changes nothing, so the picture can be late, interrupted, deleted and made anew.
"""

from __future__ import annotations

import datetime as dt
import logging
import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial, TrialState

from hpo.lineage import LINEAGE, PARENT, PARENT_EPOCH, REPLACES, ancestors_text
from storage import EpochRecord, ExperimentRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
MAX_METRICS, MAX_PARAMS = 1000, 100  # in one log_batch, MLflow's limits
RANK = "hpo.finalist_rank"
"""Tag of a finalist's run: 1 is the winner."""

# Of an MLflow server that is down: one quick answer each time instead of minutes of retries.
CLIENT_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}

Point = tuple[str, float, int, int]
"""Name, value, milliseconds since 1970 and epoch of a metric."""


class Projection:
    """One experiment in one MLflow tracking store."""

    def __init__(
        self,
        tracking_uri: str,
        experiment: ExperimentRecord,
        study_name: str,
        artifacts: Path,
        objectives: Sequence[str],
    ) -> None:
        """``artifacts`` is the folder of a database store's artifacts; a server has its own.

        ``objectives`` are the names of a trial's values.

        Raises:
            Exception: whatever MLflow raises if the store cannot be reached.
        """
        os.environ.update({k: os.environ.get(k, value) for k, value in CLIENT_ENVIRONMENT.items()})
        from mlflow import MlflowClient

        # They would speak in the middle of a live table, with tracebacks; what they raise is told.
        # psycopg tells of rows that MLflow tries to write again, and finds.
        for name in ("mlflow", "alembic", "psycopg"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._client: MlflowClient = MlflowClient(tracking_uri=tracking_uri)
        self._experiment, self._study_name = experiment, study_name
        self._objectives = list(objectives)
        self._mlflow_id = self._find_experiment(tracking_uri, artifacts)
        self._runs = self._find_runs()

    def put_parent(self, metrics: Mapping[str, float], status: str | None = None) -> None:
        """The parent run with its spec as artifact; its status stays unless one is given."""
        experiment = self._experiment
        run_id = self._run("parent", experiment.name, experiment.created_at, {})
        if status is not None:
            self._client.update_run(run_id, status=status)
        self._log(run_id, _metrics(metrics, 0, experiment.created_at), {})
        with tempfile.TemporaryDirectory(prefix="hpo-mlflow-") as folder:
            spec = Path(folder) / "spec.yaml"
            spec.write_text(experiment.spec, encoding="utf-8")
            self._client.log_artifact(run_id, str(spec))  # again: a budget may have been raised

    def end_parent(self, status: str, finished_at: dt.datetime | None = None) -> None:
        """How the experiment stands: "RUNNING", "FINISHED", "FAILED", or "KILLED" by a signal."""
        run_id = self._runs["parent"].info.run_id
        if status != "RUNNING":
            self._client.set_terminated(run_id, status, _ms(finished_at) if finished_at else None)

    def put_trial(
        self,
        trial: FrozenTrial,
        epochs: Sequence[EpochRecord],
        *,
        rank: int | None = None,
        metrics: Mapping[str, float] | None = None,
        artifacts: Iterable[Path] = (),
    ) -> None:
        """One trial's run with everything the ledger knows of it.

        ``rank``, ``metrics`` and ``artifacts`` are what a finalist has beside its trial.
        """
        key, start = str(trial.number), trial.datetime_start or self._experiment.created_at
        is_whole = key in self._runs and self._runs[key].info.status == STATUS[trial.state]
        if is_whole and rank is None:
            if RANK in self._runs[key].data.tags:  # it was a finalist before there were more trials
                self._client.delete_tag(self._runs[key].info.run_id, RANK)
            return
        all_tags = {
            "hpo.trial_number": key,
            "hpo.state": trial.state.name,
            "mlflow.parentRunId": self._runs["parent"].info.run_id,
            **_failure(trial),
            **_lineage(trial),
            **({} if rank is None else {RANK: str(rank)}),
        }
        run_id = self._run(key, f"trial {trial.number}", _utc(start), all_tags)
        ended = _utc(trial.datetime_complete or start)
        points = [
            point
            for record in epochs
            for point in _metrics(record.metrics, record.epoch, record.reported_at)
        ]
        # Of several objectives some are known before training, and no metric of an epoch.
        values = dict(zip(self._objectives, trial.values or [], strict=False))
        reported = epochs[-1].metrics if epochs else values
        beside = {name: value for name, value in values.items() if name not in reported}
        last = epochs[-1].epoch if epochs else 0
        points += _metrics({**beside, **(metrics or {})}, last, ended)
        self._log(run_id, points, {**trial.params, "seed": trial.user_attrs.get("seed")})
        self._put_artifacts(run_id, artifacts)
        self._client.set_terminated(run_id, STATUS[trial.state], _ms(ended))
        self._runs[key] = self._client.get_run(run_id)

    def _find_experiment(self, tracking_uri: str, artifacts: Path) -> str:
        found = self._client.get_experiment_by_name(self._experiment.name)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                self._client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)
        is_server = tracking_uri.startswith(("http:", "https:", "databricks"))
        location = None if is_server else (artifacts / self._experiment.name).as_uri()
        return str(self._client.create_experiment(self._experiment.name, location))

    def _find_runs(self) -> dict[str, Run]:
        """Runs of this experiment by trial number, and the "parent"; the store pages its answer."""
        runs: dict[str, Run] = {}
        token = None
        while True:
            page = self._client.search_runs(
                [self._mlflow_id],
                f"tags.`hpo.experiment_id` = '{self._experiment.id}'",
                max_results=1000,
                page_token=token,
            )
            for run in page:
                runs[run.data.tags.get("hpo.trial_number", "parent")] = run
            token = page.token
            if not token:
                return runs

    def _run(self, key: str, name: str, start: dt.datetime, tags: Mapping[str, str]) -> str:
        commit = self._experiment.git_commit
        tags = {
            "hpo.experiment_id": self._experiment.id,
            "hpo.study": self._study_name,
            "hpo.kind": "parent" if key == "parent" else "trial",
            **({"mlflow.source.git.commit": commit} if commit else {}),
            "mlflow.runName": name,
            **tags,
        }
        if key not in self._runs:
            self._runs[key] = self._client.create_run(
                self._mlflow_id, start_time=_ms(start), tags=tags, run_name=name
            )
        else:
            for tag, value in tags.items():
                if self._runs[key].data.tags.get(tag) != value:
                    self._client.set_tag(self._runs[key].info.run_id, tag, value)
        return str(self._runs[key].info.run_id)

    def _log(self, run_id: str, points: Sequence[Point], params: Mapping[str, Any]) -> None:
        """Points of metrics and parameters in as few calls as MLflow allows."""
        from mlflow.entities import Metric, Param

        metrics = [Metric(_name(name), value, ms, step) for name, value, ms, step in points]
        all_params = [Param(_name(name), str(value)) for name, value in params.items()]
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
        there = {item.path for item in self._client.list_artifacts(run_id)}
        for path in paths:
            if path.name not in there:
                self._client.log_artifact(run_id, str(path))


def _failure(trial: FrozenTrial) -> dict[str, str]:
    tags = {f"hpo.{key}": trial.user_attrs.get(key) for key in ("fail_cause", "fail_reason")}
    return {tag: str(value)[:5000] for tag, value in tags.items() if value}


def _lineage(trial: FrozenTrial) -> dict[str, str]:
    """Whose checkpoint a trial of a population went on from; its run has its own epochs alone."""
    if PARENT not in trial.user_attrs:
        return {}
    keys = (PARENT, PARENT_EPOCH, REPLACES)
    tags = {f"hpo.{key}": str(trial.user_attrs[key]) for key in keys}
    return {**tags, f"hpo.{LINEAGE}": ancestors_text(trial)[:5000]}


def _metrics(metrics: Mapping[str, float], step: int, at: dt.datetime) -> list[Point]:
    return [(name, value, _ms(at), step) for name, value in metrics.items()]


def _name(name: str) -> str:
    """A name that MLflow takes: letters, digits, and `_ - . : /` and blanks."""
    return "".join(c if c.isalnum() or c in "_-.:/ " else "_" for c in name)


def _ms(moment: dt.datetime) -> int:
    """Milliseconds since 1970 of a naive UTC time."""
    return math.floor(moment.replace(tzinfo=dt.UTC).timestamp() * 1000)


def _utc(moment: dt.datetime) -> dt.datetime:
    """Optuna records naive local times; everything of ours is naive UTC."""
    return moment.astimezone(dt.UTC).replace(tzinfo=None)
