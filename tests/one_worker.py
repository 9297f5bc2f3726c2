"""A search as Ray runs it with one worker, in this process: same searcher, scheduler and drive."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial
from records import EXPERIMENT
from without_ray import drive_stages

from hpo.execution.drive import TrialDrive
from hpo.search import StudySource, search_source
from hpo.spec import ExperimentSpec, parse_spec
from hpo.task_factory import TaskFactory
from hpo.tasks import EpochReport, TrialTask
from storage import (
    EpochRecord,
    Ledger,
    create_pareto_study,
    open_engine,
    open_optuna_storage,
    study_exists,
)


class OneWorker:
    """Searches of one spec in one study, which is kept in a file between two of them."""

    def __init__(self, text: str, folder: Path) -> None:
        self.text, self.folder = text, folder
        storage = open_optuna_storage(f"sqlite:///{folder / 'hpo.db'}")
        spec = self.spec()
        if study_exists(storage, spec.name):
            self.study = optuna.load_study(study_name=spec.name, storage=storage)
        else:
            objectives = {objective.metric: objective.direction for objective in spec.objectives}
            self.study = create_pareto_study(storage, spec.name, objectives)
        self.ledger = Ledger(open_engine(f"sqlite:///{folder / 'hpo.db'}"))
        self.experiment = self.ledger.find(spec.name) or replace(
            EXPERIMENT, id=spec.name, name=spec.name
        )
        self.ledger.put(self.experiment)
        self.warnings: list[tuple[int, str]] = []
        self.trained: list[tuple[int, int]] = []
        """Trial number and epoch of all that was paid for, in order."""

    def spec(self, *overrides: str) -> ExperimentSpec:
        return parse_spec(self.text, "spec.yaml", overrides, [self.folder])

    def tasks(self, *overrides: str) -> TaskFactory:
        """What makes its tasks."""
        return TaskFactory(
            spec=self.spec(*overrides),
            import_paths=(self.folder,),
            folder=self.folder,
            data_dir=self.folder,
        )

    def source(self, *overrides: str) -> StudySource:
        """A driver's start."""
        return search_source(
            self.study,
            self.spec(*overrides),
            self.tasks(*overrides),
            record_epoch=partial(self.ledger.put_epoch, self.experiment.id),
            recorded_epochs=self.recorded,
            observers=[self],
        )

    def search(
        self,
        *overrides: str,
        n_reports: float = math.inf,
        n_workers: int = 1,
        order: np.random.Generator | None = None,
    ) -> None:
        """Search to the end, or until so many reports were made: then the driver is killed.

        Of several workers ``order`` says whose report comes next.

        Raises:
            KilledError: if it was.
            Exception: whatever the search raises.
        """
        drive_stages(
            iter([self.source(*overrides)]),
            n_workers=lambda: n_workers,
            n_reports=n_reports,
            order=order,
            reported=self._reported,
        )

    def _reported(self, task: TrialTask, drive: TrialDrive) -> EpochReport:
        report = drive.next_report()
        if report.ending != "failed" and not report.is_known:
            self.trained.append((task.number, report.epoch))
        return report

    @property
    def epochs(self) -> dict[tuple[int, int], EpochRecord]:
        """What the ledger holds, by trial number and epoch."""
        trials = self.ledger.epochs(self.experiment.id).values()
        return {(one.trial_number, one.epoch): one for epochs in trials for one in epochs}

    def recorded(self, number: int) -> list[EpochRecord]:
        """What the ledger holds of one trial."""
        return self.ledger.epochs(self.experiment.id, number).get(number, [])

    def trial_started(self, number: int, params: Mapping[str, Any]) -> None:
        """Nothing."""

    def epoch_reported(self, number: int, report: EpochReport) -> None:
        """Nothing."""

    def trial_held_back(self, number: int) -> None:
        """Nothing."""

    def trial_warned(self, number: int, warning: str) -> None:
        """Keep it."""
        self.warnings.append((number, warning))

    def trial_ended(self, trial: FrozenTrial) -> None:
        """Nothing."""

    def states(self) -> list[str]:
        return [trial.state.name for trial in self.study.trials]


def outline(worker: OneWorker) -> list[tuple[Any, ...]]:
    """All that its study says of its trials, but when."""
    return [
        (t.state, t.params, t.values, t.intermediate_values, t.user_attrs)
        for t in worker.study.trials
    ]


def trained(worker: OneWorker) -> Counter[str]:
    """Trial and epoch of everything that was paid for, as the trainable itself has counted it."""
    return Counter((worker.folder / "trained.txt").read_text().splitlines())
