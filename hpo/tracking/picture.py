"""What MLflow is to show of the ledger, run by run, as plain values: to be written or compared."""

from __future__ import annotations

import datetime as dt
import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial, TrialState

from hpo.lineage import LINEAGE, PARENT, PARENT_EPOCH, REPLACES, ancestors_text
from storage import EpochRecord, ExperimentRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PARENT_RUN = "parent"
"""Key of the run of an experiment; those of its trials are their numbers."""
STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
FINISHED = "FINISHED"
OWN_TAG = "hpo."
"""How the names of our tags begin; one that is not in the picture does not belong there."""
RANK = "hpo.finalist_rank"
"""Tag of a finalist's run: 1 is the winner."""
SPEC_FILE = "spec.yaml"
PARENT_TAG = "mlflow.parentRunId"
RESULTS = ("rerun_", "confirmed_")
"""How names of results begin. A former finalist keeps its own: they are true."""
MAX_TAG, MAX_PARAM = 5000, 6000
"""Characters that we put into a tag, and that MLflow keeps of a parameter."""
LARGEST = 1.7976931348623157e308
"""What MLflow's database keeps of infinity."""

Point = tuple[str, float, int, int]
"""Name, value, milliseconds since 1970 and epoch of a metric."""


@dataclass(frozen=True, kw_only=True)
class RunPicture:
    """One run of MLflow.

    Attributes:
        key: number of its trial, or ``PARENT_RUN``.
        name: of the run.
        status: "FINISHED", "KILLED", "FAILED"; "RUNNING" of a parent that is anything but finished.
        started_ms: since 1970.
        ended_ms: the same; None if it has not ended.
        params: as the strings that MLflow keeps.
        tags: all of ours.
        points: of each metric of the training all that there is.
        results: what was found out later by metric, such as the mean of re-runs. It may change, and
            MLflow forgets nothing: only the newest value of each counts.
        files: its artifacts by name; the content of a spec, None of any other.
        run_id: MLflow's; empty of a run that is only expected.
    """

    key: str
    name: str
    status: str
    started_ms: int
    ended_ms: int | None
    params: Mapping[str, str]
    tags: Mapping[str, str]
    points: Sequence[Point]
    results: Mapping[str, float]
    files: Mapping[str, str | None]
    run_id: str = ""


Unlike = tuple[str, str, str]
"""What differs, as it should be, as it is."""
NOTHING = "nothing"


def parent_picture(
    experiment: ExperimentRecord, study_name: str, results: Mapping[str, float]
) -> RunPicture:
    """Of an experiment, with what it has come to so far."""
    is_finished = experiment.finished_at is not None
    return RunPicture(
        key=PARENT_RUN,
        name=experiment.name,
        status=FINISHED if is_finished else "RUNNING",
        started_ms=in_ms(experiment.created_at),
        ended_ms=None if experiment.finished_at is None else in_ms(experiment.finished_at),
        params={},
        tags=_tags(experiment, study_name, PARENT_RUN, experiment.name),
        points=(),
        results={_name(name): value for name, value in results.items()},
        files={SPEC_FILE: experiment.spec},
    )


def trial_picture(
    experiment: ExperimentRecord,
    study_name: str,
    trial: FrozenTrial,
    epochs: Sequence[EpochRecord],
    objectives: Sequence[str],
    *,
    rank: int | None = None,
    results: Mapping[str, float] | None = None,
    files: Sequence[str] = (),
) -> RunPicture:
    """Of a trial that has ended, with all that the ledger knows of it.

    Args:
        experiment: that it belongs to.
        study_name: of the experiment.
        trial: COMPLETE, PRUNED or FAIL.
        epochs: of the trial, in order.
        objectives: names of its values.
        rank: of a finalist, 1 is the best.
        results: of a finalist's re-runs.
        files: names of artifacts.
    """
    started = _utc(trial.datetime_start) if trial.datetime_start else experiment.created_at
    ended = _utc(trial.datetime_complete) if trial.datetime_complete else started
    points = [
        point
        for record in epochs
        for point in _metrics(record.metrics, record.epoch, record.reported_at)
    ]
    # Of several objectives some are known before training, and no metric of an epoch.
    values = dict(zip(objectives, trial.values or [], strict=False))
    reported = epochs[-1].metrics if epochs else values
    last = epochs[-1].epoch if epochs else 0
    points += _metrics({n: v for n, v in values.items() if n not in reported}, last, ended)
    name = f"trial {trial.number}"
    params = {**trial.params, "seed": trial.user_attrs.get("seed")}
    return RunPicture(
        key=str(trial.number),
        name=name,
        status=STATUS[trial.state],
        started_ms=in_ms(started),
        ended_ms=in_ms(ended),
        params={_name(key): str(value)[:MAX_PARAM] for key, value in params.items()},
        tags={
            **_tags(experiment, study_name, "trial", name),
            "hpo.trial_number": str(trial.number),
            "hpo.state": trial.state.name,
            **_failure(trial),
            **_lineage(trial),
            **({} if rank is None else {RANK: str(rank)}),
        },
        points=points,
        results={_name(key): value for key, value in (results or {}).items()},
        files=dict.fromkeys(files),
    )


def nested(picture: RunPicture, parent_run_id: str) -> RunPicture:
    """The picture of a trial under its experiment's run."""
    return replace(picture, tags={**picture.tags, PARENT_TAG: parent_run_id})


def shown_picture(client: MlflowClient, run: Run) -> RunPicture:
    """What a run shows, with the whole history of each metric.

    Raises:
        Exception: whatever MLflow raises if it cannot be read.
    """
    run_id, artifacts = run.info.run_id, client.list_artifacts(run.info.run_id)
    return RunPicture(
        key=key_of(run),
        name=run.info.run_name or "",
        status=run.info.status,
        started_ms=run.info.start_time,
        ended_ms=run.info.end_time,
        params=run.data.params,
        tags=run.data.tags,
        points=[
            (one.key, one.value, one.timestamp, one.step)
            for name in run.data.metrics
            for one in client.get_metric_history(run_id, name)
        ],
        results=dict(run.data.metrics),
        files={item.path: _content(client, run_id, item.path) for item in artifacts},
        run_id=run_id,
    )


def _content(client: MlflowClient, run_id: str, file: str) -> str | None:
    if file != SPEC_FILE:
        return None
    with tempfile.TemporaryDirectory(prefix="hpo-mlflow-") as folder:
        return Path(client.download_artifacts(run_id, file, folder)).read_text(encoding="utf-8")


def key_of(run: Run) -> str:
    """Of which trial a run is; or that it is the parent. Empty if it does not say."""
    tags = run.data.tags
    is_parent = tags.get("hpo.kind") == PARENT_RUN
    return PARENT_RUN if is_parent else str(tags.get("hpo.trial_number", ""))


def without_results(picture: RunPicture) -> RunPicture:
    """What is shown before the end of an experiment: neither results nor ranks, and no files."""
    tags = {name: value for name, value in picture.tags.items() if name != RANK}
    return replace(picture, tags=tags, results={}, files={})


def unlike(expected: RunPicture, found: RunPicture) -> Iterator[Unlike]:
    """Everything in which a run is not what it should be; times do not count."""
    is_parent = expected.key == PARENT_RUN
    has_status = found.status == expected.status
    if is_parent and expected.status != FINISHED:
        has_status = found.status != FINISHED  # how it was cut off is for MLflow alone to know
    if not has_status:
        yield "status", expected.status, found.status
    yield from _unlike_mappings("parameter", expected.params, found.params)
    ours = {name: value for name, value in found.tags.items() if _is_ours(name, expected)}
    yield from _unlike_mappings("tag", expected.tags, ours)
    yield from _unlike_histories(expected, found)
    for name, value in expected.results.items():
        shown = found.results.get(name)
        if _same(shown) != _same(value):
            yield f"metric {name}", repr(value), _told([] if shown is None else [shown])
    for name, content in expected.files.items():
        if name not in found.files:
            yield f"artifact {name}", "a file", NOTHING
        elif content is not None and found.files[name] != content:
            yield f"artifact {name}", "what is recorded", "another content"


def is_at_odds(expected: RunPicture, run: Run) -> bool:
    """Whether a run has params that are wrong: MLflow does not let them be changed."""
    return any(expected.params.get(name) != value for name, value in run.data.params.items())


def shows(expected: RunPicture, run: Run) -> bool:
    """Whether a run is what it should be, as far as can be seen without its histories."""
    return (
        run.info.status == expected.status
        and dict(run.data.params) == dict(expected.params)
        and all(run.data.tags.get(name) == value for name, value in expected.tags.items())
        and all(name in run.data.metrics for name, _, _, _ in expected.points)
        and not unshown_results(expected, run)
    )


def unshown_results(expected: RunPicture, run: Run) -> dict[str, float]:
    """Those of which a run shows another value, or none."""
    shown = run.data.metrics
    return {
        name: value
        for name, value in expected.results.items()
        if _same(shown.get(name)) != _same(value)
    }


def superfluous_tags(expected: RunPicture, run: Run) -> list[str]:
    """Tags of ours that are not true any more."""
    return [
        name for name in run.data.tags if name.startswith(OWN_TAG) and name not in expected.tags
    ]


def _is_ours(tag: str, expected: RunPicture) -> bool:
    return tag in expected.tags or tag.startswith(OWN_TAG)


def _unlike_mappings(
    what: str, expected: Mapping[str, str], found: Mapping[str, str]
) -> Iterator[Unlike]:
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            yield f"{what} {name}", expected.get(name, NOTHING), found.get(name, NOTHING)


def _unlike_histories(expected: RunPicture, found: RunPicture) -> Iterator[Unlike]:
    """Of each metric, epoch by epoch; a value that stands there twice differs, too."""
    wanted, shown = _histories(expected.points), _histories(found.points)
    for name in sorted({*wanted, *shown} - expected.results.keys()):
        is_true = name.startswith(RESULTS) or expected.key == PARENT_RUN
        if name not in wanted and is_true:  # of an earlier finalist, or winner
            continue
        steps, shown_steps = wanted.get(name, {}), shown.get(name, {})
        for step in sorted({*steps, *shown_steps}):
            values, shown_values = steps.get(step, []), shown_steps.get(step, [])
            if Counter(map(_same, values)) != Counter(map(_same, shown_values)):
                yield f"metric {name} of epoch {step}", _told(values), _told(shown_values)


def _histories(points: Sequence[Point]) -> dict[str, dict[int, list[float]]]:
    """Values by metric and step; MLflow keeps what was told twice, with one time, once."""
    found: dict[str, dict[int, list[float]]] = {}
    told: set[tuple[object, ...]] = set()
    for name, value, ms, step in points:
        if (key := (name, _same(value), ms, step)) in told:
            continue
        told.add(key)
        found.setdefault(name, {}).setdefault(step, []).append(value)
    return found


def _same(value: float | None) -> float | str | None:
    """Equal for two values that MLflow does not tell apart."""
    if value is None or math.isnan(value):
        return None if value is None else "nan"
    return min(max(value, -LARGEST), LARGEST)


def _told(values: Sequence[float]) -> str:
    return " and ".join(map(repr, values)) or NOTHING


def _tags(
    experiment: ExperimentRecord, study_name: str, kind: str, run_name: str
) -> dict[str, str]:
    commit = experiment.git_commit
    return {
        "hpo.experiment_id": experiment.id,
        "hpo.study": study_name,
        "hpo.kind": kind,
        **({"mlflow.source.git.commit": commit} if commit else {}),
        "mlflow.runName": run_name,
    }


def _failure(trial: FrozenTrial) -> dict[str, str]:
    tags = {f"hpo.{key}": trial.user_attrs.get(key) for key in ("fail_cause", "fail_reason")}
    return {tag: str(value)[:MAX_TAG] for tag, value in tags.items() if value}


def _lineage(trial: FrozenTrial) -> dict[str, str]:
    """Whose checkpoint a trial of a population went on from; its run has its own epochs alone."""
    if PARENT not in trial.user_attrs:
        return {}
    keys = (PARENT, PARENT_EPOCH, REPLACES)
    tags = {f"hpo.{key}": str(trial.user_attrs[key]) for key in keys}
    return {**tags, f"hpo.{LINEAGE}": ancestors_text(trial)[:MAX_TAG]}


def _metrics(metrics: Mapping[str, Any], step: int, at: dt.datetime) -> list[Point]:
    return [(_name(name), float(value), in_ms(at), step) for name, value in metrics.items()]


def _name(name: str) -> str:
    """A name that MLflow takes: letters, digits, and `_ - . : /` and blanks."""
    return "".join(c if c.isalnum() or c in "_-.:/ " else "_" for c in name)


def in_ms(moment: dt.datetime) -> int:
    """Milliseconds since 1970 of a naive UTC time."""
    return math.floor(moment.replace(tzinfo=dt.UTC).timestamp() * 1000)


def _utc(moment: dt.datetime) -> dt.datetime:
    """Optuna records naive local times; everything of ours is naive UTC."""
    return moment.astimezone(dt.UTC).replace(tzinfo=None)
