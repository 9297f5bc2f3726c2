"""A search as Ray runs it with one worker, in this process: same searcher, scheduler and drive."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import optuna
from ray.tune.schedulers import TrialScheduler

from hpo.execution.drive import TrialDrive
from hpo.execution.searcher import StageScheduler, TaskSearcher
from hpo.search import StudySource
from hpo.spec import ExperimentSpec, parse_spec
from hpo.tasks import EPOCH, NUMBER, OBJECTIVE, EpochReport, TaskFactory, TrialTask
from storage import EpochRecord, create_pareto_study, open_optuna_storage, study_exists


@dataclass(frozen=True)
class RayTrial:
    """As much of it as schedulers read."""

    trial_id: str


class KilledError(Exception):
    """The driver is no more, without a word to the study."""


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
        self.epochs: dict[tuple[int, int], EpochRecord] = {}
        """What the ledger would hold."""
        self.trained: list[tuple[int, int]] = []
        """Trial number and epoch of all that was paid for, in order."""

    def spec(self, *overrides: str) -> ExperimentSpec:
        return parse_spec(self.text, "spec.yaml", overrides, [self.folder])

    def source(self, *overrides: str) -> StudySource:
        """A driver's start."""
        spec = self.spec(*overrides)
        tasks = TaskFactory(
            spec=spec, import_paths=(self.folder,), folder=self.folder, data_dir=self.folder
        )
        return StudySource(
            self.study, spec, tasks, record_epoch=self._record, recorded_epochs=self._recorded
        )

    def search(self, *overrides: str, n_reports: float = math.inf) -> None:
        """Search to the end, or until so many reports were made: then the driver is killed.

        Raises:
            KilledError: if it was.
            Exception: whatever the search raises.
        """
        searcher = TaskSearcher(iter([self.source(*overrides)]), concurrency=1)
        scheduler = StageScheduler(searcher)
        for trial_id in map(str, itertools.count()):
            suggested = searcher.suggest(trial_id)
            if searcher.error is not None:
                raise searcher.error
            if not isinstance(suggested, dict):
                return
            n_reports = self._train(suggested["task"], trial_id, searcher, scheduler, n_reports)

    def _train(
        self,
        task: TrialTask,
        trial_id: str,
        searcher: TaskSearcher,
        scheduler: StageScheduler,
        n_reports: float,
    ) -> float:
        drive, trial = TrialDrive(task), RayTrial(trial_id)
        scheduler.on_trial_add(None, trial)
        while True:
            if n_reports == 0:
                raise KilledError
            n_reports -= 1
            report = drive.next_report()
            if report.ending != "failed":
                self.trained.append((task.number, report.epoch))
            result = {"report": report, EPOCH: report.epoch, NUMBER: task.number}
            result[OBJECTIVE] = _objective(task, report)
            if report.ending is None:
                if scheduler.on_trial_result(None, trial, result) == TrialScheduler.CONTINUE:
                    searcher.on_trial_result(trial_id, result)
                    continue
                drive.close()
            scheduler.on_trial_complete(None, trial, result)
            searcher.on_trial_complete(trial_id, result)
            return n_reports

    def _record(self, record: EpochRecord) -> None:
        self.epochs[record.trial_number, record.epoch] = record

    def _recorded(self, number: int) -> list[EpochRecord]:
        return [record for (trial, _), record in sorted(self.epochs.items()) if trial == number]

    def states(self) -> list[str]:
        return [trial.state.name for trial in self.study.trials]


def _objective(task: TrialTask, report: EpochReport) -> float:
    return math.nan if report.ending == "failed" else report.quantities[task.metric]
