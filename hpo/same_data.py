"""A run that goes on asks the first worker whether the data are those that it began with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from optuna.study import Study

from hpo.errors import UsageError
from hpo.tasks import EpochReport, KnownData, TaskSource, TrialTask
from storage import recorded_data_config


def known_data(study: Study, fingerprint: str | None) -> KnownData | None:
    """The data of a search, if their fingerprint and the config that named them are recorded."""
    config = recorded_data_config(study)
    if config is None or fingerprint is None:
        return None
    return KnownData(config=config, fingerprint=fingerprint)


class SameData:
    """Stages whose tasks are asked so, until one has told; nothing is recorded of other data."""

    def __init__(self, known: KnownData | None, refusal: str) -> None:
        """``known`` is None if there is nothing to compare with; ``refusal`` is the way out."""
        self.known, self._refusal = known, refusal

    def over(self, stages: Iterable[TaskSource]) -> Iterator[TaskSource]:
        """The same stages, one after the other, each watched."""
        for stage in stages:
            yield _WatchedStage(stage, self)

    def check(self, report: EpochReport) -> None:
        """Look at a report before anybody else does.

        Raises:
            UsageError: if it names other data.
        """
        if self.known is None or report.fingerprint is None:
            return
        if report.fingerprint != self.known.fingerprint:
            raise UsageError(
                "\n  ".join(
                    [
                        f"the data{_name(self.known.config)} have changed since this search began; "
                        "nothing was trained on them. Fingerprints:",
                        f"recorded  {self.known.fingerprint}",
                        f"found     {report.fingerprint}",
                        self._refusal,
                    ]
                )
            )
        self.known = None


class _WatchedStage:
    """A `TaskSource` that asks, and looks at the answers first."""

    def __init__(self, stage: TaskSource, data: SameData) -> None:
        self._stage, self._data = stage, data

    @property
    def knows_ahead(self) -> bool:
        return self._stage.knows_ahead

    @property
    def is_over_time(self) -> bool:
        return self._stage.is_over_time

    def next_task(self) -> TrialTask | None:
        task = self._stage.next_task()
        return None if task is None else replace(task, known_data=self._data.known)

    def scheduler_of(self, task: TrialTask) -> Any:
        return self._stage.scheduler_of(task)

    def reported(self, task: TrialTask, report: EpochReport) -> None:
        self._data.check(report)
        self._stage.reported(task, report)

    def ended(self, task: TrialTask, report: EpochReport) -> None:
        self._data.check(report)
        self._stage.ended(task, report)


def _name(config: Any) -> str:
    """What the config calls them, where it does."""
    dataset = config.get("dataset")
    return f" {dataset!r}" if isinstance(dataset, str) else ""
