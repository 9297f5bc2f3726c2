"""Our own tables: what neither Optuna nor MLflow knows about an experiment."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from storage.records import NamedRecords, metadata, rerun_columns

experiments = sa.Table(
    "hpo_experiments",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False, unique=True),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("versions", sa.JSON, nullable=False),
    sa.Column("git_commit", sa.String(64)),
    sa.Column("data_fingerprint", sa.String(64)),
    sa.Column("finished_at", sa.DateTime),
)

lr_ranges = sa.Table(
    "hpo_lr_ranges",
    metadata,
    sa.Column("experiment_id", sa.ForeignKey("hpo_experiments.id"), primary_key=True),
    sa.Column("suggested", sa.Float, nullable=False),
    sa.Column("low", sa.Float, nullable=False),
    sa.Column("high", sa.Float, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("found_at", sa.DateTime, nullable=False),
)

epochs = sa.Table(
    "hpo_epochs",
    metadata,
    sa.Column("experiment_id", sa.ForeignKey("hpo_experiments.id"), primary_key=True),
    sa.Column("trial_number", sa.Integer, primary_key=True),
    sa.Column("epoch", sa.Integer, primary_key=True),
    sa.Column("metrics", sa.Text, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("reported_at", sa.DateTime, nullable=False),
)

# Beside them, not in them: their tables are older than checkpoints.
checkpoints = sa.Table(
    "hpo_checkpoints",
    metadata,
    sa.Column("experiment_id", sa.ForeignKey("hpo_experiments.id"), primary_key=True),
    sa.Column("trial_number", sa.Integer, primary_key=True),
    sa.Column("epoch", sa.Integer, primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False),
)


def _table_of_reruns(name: str) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        sa.Column("experiment_id", sa.ForeignKey("hpo_experiments.id"), primary_key=True),
        sa.Column("trial_number", sa.Integer, primary_key=True),
        *rerun_columns(),
    )


reruns = _table_of_reruns("hpo_reruns")
confirmations = _table_of_reruns("hpo_confirmations")

# Beside them, not in them: their tables are older than searches with several objectives.
other_values = sa.Table(
    "hpo_other_values",
    metadata,
    sa.Column("experiment_id", sa.ForeignKey("hpo_experiments.id"), primary_key=True),
    sa.Column("of_table", sa.String(32), primary_key=True),
    sa.Column("trial_number", sa.Integer, primary_key=True),
    sa.Column("seed_index", sa.Integer, primary_key=True),
    sa.Column("values", sa.Text, nullable=False),
)

test_readings = sa.Table(
    "hpo_test_readings",
    metadata,
    sa.Column("experiment_id", sa.ForeignKey("hpo_experiments.id"), primary_key=True),
    sa.Column("trial_number", sa.Integer, primary_key=True),
    sa.Column("metric", sa.String(64), nullable=False),
    sa.Column("value", sa.Float, nullable=False),
    sa.Column("n_correct", sa.Integer),
    sa.Column("n_test", sa.Integer, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("read_at", sa.DateTime, nullable=False),
)

exports = sa.Table(
    "hpo_exports",
    metadata,
    sa.Column("experiment_id", sa.ForeignKey("hpo_experiments.id"), primary_key=True),
    sa.Column("path", sa.String(512), primary_key=True),
    sa.Column("trial_number", sa.Integer, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("max_difference", sa.Float, nullable=False),
    sa.Column("n_compared", sa.Integer, nullable=False),
    sa.Column("exported_at", sa.DateTime, nullable=False),
)


@dataclass(frozen=True, kw_only=True)
class ExperimentRecord:
    """One `hpo run` as the ledger knows it; ``spec`` is its YAML with all defaults filled in."""

    id: str
    name: str
    spec: str
    created_at: dt.datetime
    versions: Mapping[str, str]
    git_commit: str | None
    data_fingerprint: str | None
    finished_at: dt.datetime | None = None


@dataclass(frozen=True, kw_only=True)
class LrRangeRecord:
    """What the range test before a search found, before the spec's own limits cut it."""

    suggested: float
    low: float
    high: float
    seconds: float
    found_at: dt.datetime


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """All metrics of one epoch of one trial, and how long the epoch took.

    ``checkpoint`` is the SHA-256 of the file from which the trial goes on after this epoch; None if
    its trainable kept none.
    """

    trial_number: int
    epoch: int
    metrics: Mapping[str, float]
    seconds: float
    reported_at: dt.datetime
    checkpoint: str | None = None

    def row(self) -> dict[str, Any]:
        """Its columns, of which ``checkpoint`` is none."""
        return _without(vars(self), "checkpoint") | {"metrics": json.dumps(dict(self.metrics))}


@dataclass(frozen=True, kw_only=True)
class RerunRecord:
    """A finalist trained once more on a fresh seed; ``value`` is None if that failed.

    With several objectives ``value`` is that of the first, and ``others`` are by their metrics.
    """

    trial_number: int
    seed_index: int
    seed: int
    value: float | None
    fail_reason: str | None
    seconds: float
    finished_at: dt.datetime
    others: Mapping[str, float] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Its columns, of which ``others`` is none."""
        return _without(vars(self), "others")


@dataclass(frozen=True, kw_only=True)
class TestReading:
    """The one reading of the test set by a winner, retrained on everything else.

    ``n_correct`` of ``n_test`` images, where there is right and wrong; ``value`` of ``metric``.
    """

    __test__ = False  # pytest takes every Test... for a test

    trial_number: int
    metric: str
    value: float
    n_correct: int | None
    n_test: int
    seconds: float
    read_at: dt.datetime


@dataclass(frozen=True, kw_only=True)
class ExportRecord:
    """An exported model; ``max_difference`` of its reloaded copy on ``n_compared`` images."""

    path: str
    trial_number: int
    sha256: str
    max_difference: float
    n_compared: int
    exported_at: dt.datetime


class Ledger(NamedRecords[ExperimentRecord]):
    """Reads and writes our tables; one commit per call, so what a call acknowledges is kept."""

    def __init__(self, engine: sa.Engine) -> None:
        super().__init__(engine, experiments, ExperimentRecord)

    def remove(self, experiment_id: str) -> None:
        """Remove an experiment and the epochs of its trials; there must be no other record of it.

        Raises:
            sqlalchemy.exc.IntegrityError: if there is one, where the database looks after it.
        """
        self._write(
            checkpoints.delete().where(checkpoints.c.experiment_id == experiment_id),
            epochs.delete().where(epochs.c.experiment_id == experiment_id),
            experiments.delete().where(experiments.c.id == experiment_id),
        )

    def put_lr_range(self, experiment_id: str, record: LrRangeRecord) -> None:
        """Record the learning rates of an experiment, once: its trials depend on them."""
        self._add((lr_ranges, {"experiment_id": experiment_id, **vars(record)}))

    def lr_range(self, experiment_id: str) -> LrRangeRecord | None:
        """The learning rates that were found for an experiment, if there was a search for them."""
        rows = self._select(sa.select(lr_ranges).where(lr_ranges.c.experiment_id == experiment_id))
        return LrRangeRecord(**_without(rows[0], "experiment_id")) if rows else None

    def put_epoch(self, experiment_id: str, record: EpochRecord) -> None:
        """Record an epoch with its checkpoint; a trial that is run again replaces its epochs."""
        place = {
            "experiment_id": experiment_id,
            "trial_number": record.trial_number,
            "epoch": record.epoch,
        }
        statements: list[sa.Executable] = [
            table.delete().where(*(table.c[name] == value for name, value in place.items()))
            for table in (checkpoints, epochs)
        ]
        statements.append(epochs.insert().values(experiment_id=experiment_id, **record.row()))
        if record.checkpoint is not None:
            statements.append(checkpoints.insert().values(**place, sha256=record.checkpoint))
        self._write(*statements)

    def epochs(
        self, experiment_id: str, trial_number: int | None = None
    ) -> dict[int, list[EpochRecord]]:
        """Epochs in order, by trial number: of all trials, or of one."""
        query = (
            sa.select(epochs, checkpoints.c.sha256.label("checkpoint"))
            .outerjoin(
                checkpoints,
                sa.and_(
                    *(
                        epochs.c[name] == checkpoints.c[name]
                        for name in ("experiment_id", "trial_number", "epoch")
                    )
                ),
            )
            .where(epochs.c.experiment_id == experiment_id)
        )
        if trial_number is not None:
            query = query.where(epochs.c.trial_number == trial_number)
        rows = self._select(query.order_by(epochs.c.trial_number, epochs.c.epoch))
        by_trial: dict[int, list[EpochRecord]] = {}
        for row in rows:
            row.pop("experiment_id")
            row["metrics"] = json.loads(row["metrics"])
            by_trial.setdefault(row["trial_number"], []).append(EpochRecord(**row))
        return by_trial

    def add_rerun(self, experiment_id: str, record: RerunRecord) -> None:
        """Record a finished re-run of a finalist."""
        self._add_rerun(reruns, experiment_id, record)

    def reruns(self, experiment_id: str) -> list[RerunRecord]:
        """All re-runs that choose the winner, by trial number and seed."""
        return self._reruns_of(reruns, experiment_id)

    def add_confirmation(self, experiment_id: str, record: RerunRecord) -> None:
        """Record a re-run of a winner on a seed that did not choose it."""
        self._add_rerun(confirmations, experiment_id, record)

    def confirmations(self, experiment_id: str) -> list[RerunRecord]:
        """All re-runs of winners that chose nothing, by trial number and seed."""
        return self._reruns_of(confirmations, experiment_id)

    def _add_rerun(self, table: sa.Table, experiment_id: str, record: RerunRecord) -> None:
        rows = [(table, {"experiment_id": experiment_id, **record.row()})]
        if record.others:
            others = {
                "experiment_id": experiment_id,
                "of_table": table.name,
                "trial_number": record.trial_number,
                "seed_index": record.seed_index,
                "values": json.dumps(dict(record.others)),
            }
            rows.append((other_values, others))
        self._add(*rows)

    def _reruns_of(self, table: sa.Table, experiment_id: str) -> list[RerunRecord]:
        rows = self._select(
            sa.select(table)
            .where(table.c.experiment_id == experiment_id)
            .order_by(table.c.trial_number, table.c.seed_index)
        )
        others = self._others_of(table, experiment_id)
        return [
            RerunRecord(
                **_without(row, "experiment_id"),
                others=others.get((row["trial_number"], row["seed_index"]), {}),
            )
            for row in rows
        ]

    def _others_of(
        self, table: sa.Table, experiment_id: str
    ) -> dict[tuple[int, int], dict[str, float]]:
        """Values of the other objectives by trial number and seed."""
        rows = self._select(
            sa.select(other_values)
            .where(other_values.c.experiment_id == experiment_id)
            .where(other_values.c.of_table == table.name)
        )
        return {(row["trial_number"], row["seed_index"]): json.loads(row["values"]) for row in rows}

    def put_test_reading(self, experiment_id: str, reading: TestReading) -> None:
        """Record a reading of the test set; the same winner retrained again replaces its own."""
        key = (test_readings.c.experiment_id == experiment_id) & (
            test_readings.c.trial_number == reading.trial_number
        )
        row = test_readings.insert().values(experiment_id=experiment_id, **vars(reading))
        self._write(test_readings.delete().where(key), row)

    def test_readings(self, experiment_id: str) -> list[TestReading]:
        """Every winner's reading, the oldest first; more than one is to be told."""
        rows = self._select(
            sa.select(test_readings)
            .where(test_readings.c.experiment_id == experiment_id)
            .order_by(test_readings.c.read_at)
        )
        return [TestReading(**_without(row, "experiment_id")) for row in rows]

    def put_export(self, experiment_id: str, record: ExportRecord) -> None:
        """Record an exported file; one at the same path is replaced."""
        key = (exports.c.experiment_id == experiment_id) & (exports.c.path == record.path)
        row = exports.insert().values(experiment_id=experiment_id, **vars(record))
        self._write(exports.delete().where(key), row)

    def exports(self, experiment_id: str) -> list[ExportRecord]:
        """All exported files, the oldest first."""
        rows = self._select(
            sa.select(exports)
            .where(exports.c.experiment_id == experiment_id)
            .order_by(exports.c.exported_at)
        )
        return [ExportRecord(**_without(row, "experiment_id")) for row in rows]


def _without(row: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in keys}
