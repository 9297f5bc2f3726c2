"""Our own tables of comparisons: samplers x seeds, each one a study in the same database."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from storage.ledger import EpochRecord, RerunRecord
from storage.records import NamedRecords, metadata, rerun_columns

comparisons = sa.Table(
    "hpo_comparisons",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False, unique=True),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("samplers", sa.JSON, nullable=False),
    sa.Column("n_seeds", sa.Integer, nullable=False),
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("versions", sa.JSON, nullable=False),
    sa.Column("git_commit", sa.String(64)),
    sa.Column("data_fingerprint", sa.String(64)),
    sa.Column("wall_s", sa.Float, nullable=False),
    sa.Column("busy_s", sa.Float, nullable=False),
    sa.Column("capacity_s", sa.Float, nullable=False),
    sa.Column("finished_at", sa.DateTime),
)


def _table_of_trials(name: str, *columns: sa.Column[Any]) -> sa.Table:
    """A table whose rows belong to a trial of one of a comparison's studies."""
    return sa.Table(
        name,
        metadata,
        sa.Column("comparison_id", sa.ForeignKey("hpo_comparisons.id"), primary_key=True),
        sa.Column("sampler", sa.String(32), primary_key=True),
        sa.Column("study_index", sa.Integer, primary_key=True),
        sa.Column("trial_number", sa.Integer, primary_key=True),
        *columns,
    )


proposals = _table_of_trials(
    "hpo_comparison_proposals",
    sa.Column("seconds", sa.Float, nullable=False),
)

epochs = _table_of_trials(
    "hpo_comparison_epochs",
    sa.Column("epoch", sa.Integer, primary_key=True),
    sa.Column("metrics", sa.Text, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("reported_at", sa.DateTime, nullable=False),
)

reruns = _table_of_trials("hpo_comparison_reruns", *rerun_columns())


@dataclass(frozen=True, kw_only=True)
class ComparisonRecord:
    """One `hpo compare` as the ledger knows it.

    Attributes:
        id: of the record.
        name: of the spec; one comparison has it.
        spec: YAML with all defaults filled in.
        samplers: in the order they were asked for.
        n_seeds: studies of each sampler.
        created_at: when it was begun.
        versions: of the libraries.
        git_commit: of the user's code.
        data_fingerprint: of the trainable's data; None until a worker has told it.
        wall_s: seconds between the first and the last thing a worker did, all starts together.
        busy_s: seconds that workers spent in epochs, all workers and all starts together.
        capacity_s: seconds they could have spent: ``wall_s`` times the workers of each start.
        finished_at: when its files were written.
    """

    id: str
    name: str
    spec: str
    samplers: list[str]
    n_seeds: int
    created_at: dt.datetime
    versions: Mapping[str, str]
    git_commit: str | None
    data_fingerprint: str | None = None
    wall_s: float = 0.0
    busy_s: float = 0.0
    capacity_s: float = 0.0
    finished_at: dt.datetime | None = None


StudyKey = tuple[str, int]
"""Which of a comparison's studies: sampler and seed index."""


class ComparisonLedger(NamedRecords[ComparisonRecord]):
    """Reads and writes the tables of comparisons; one commit per call."""

    def __init__(self, engine: sa.Engine) -> None:
        super().__init__(engine, comparisons, ComparisonRecord)

    def put_trial(
        self,
        comparison_id: str,
        study: StudyKey,
        trial_number: int,
        sampler_s: float,
        records: Sequence[EpochRecord],
    ) -> None:
        """Record a trial's epochs and how long its sampler took; one run again replaces its own."""
        key = {**_key(comparison_id, study), "trial_number": trial_number}
        rows = [{**key, **record.row()} for record in records]
        self._write(
            _delete(proposals, key),
            proposals.insert().values(**key, seconds=sampler_s),
            _delete(epochs, key),
            *([epochs.insert().values(rows)] if rows else []),
        )

    def proposals(self, comparison_id: str) -> dict[StudyKey, dict[int, float]]:
        """Seconds of the sampler by trial number, for each study."""
        found: dict[StudyKey, dict[int, float]] = {}
        for row in self._rows_of(proposals, comparison_id):
            found.setdefault(_study(row), {})[row["trial_number"]] = row["seconds"]
        return found

    def epochs(self, comparison_id: str) -> dict[StudyKey, dict[int, list[EpochRecord]]]:
        """Epochs in order, by trial number, for each study."""
        found: dict[StudyKey, dict[int, list[EpochRecord]]] = {}
        for row in self._rows_of(epochs, comparison_id):
            study = _study(row)
            record = EpochRecord(**{**row, "metrics": json.loads(row["metrics"])})
            found.setdefault(study, {}).setdefault(record.trial_number, []).append(record)
        return found

    def add_rerun(self, comparison_id: str, study: StudyKey, record: RerunRecord) -> None:
        """Record a finished re-run."""
        self._add((reruns, {**_key(comparison_id, study), **record.row()}))

    def reruns(self, comparison_id: str) -> dict[StudyKey, list[RerunRecord]]:
        """All re-runs, by trial number and seed, for each study."""
        found: dict[StudyKey, list[RerunRecord]] = {}
        for row in self._rows_of(reruns, comparison_id):
            found.setdefault(_study(row), []).append(RerunRecord(**row))
        return found

    def _rows_of(self, table: sa.Table, comparison_id: str) -> list[dict[str, Any]]:
        """Without the comparison's id, in the order of the primary key."""
        query = sa.select(table).where(table.c.comparison_id == comparison_id)
        rows = self._select(query.order_by(*table.primary_key.columns))
        for row in rows:
            row.pop("comparison_id")
        return rows


def _key(comparison_id: str, study: StudyKey) -> dict[str, Any]:
    sampler, study_index = study
    return {"comparison_id": comparison_id, "sampler": sampler, "study_index": study_index}


def _delete(table: sa.Table, key: Mapping[str, Any]) -> sa.Delete:
    return table.delete().where(*(table.c[name] == value for name, value in key.items()))


def _study(row: dict[str, Any]) -> StudyKey:
    """The row's study, which is taken out of it."""
    return row.pop("sampler"), row.pop("study_index")
