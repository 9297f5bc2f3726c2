"""A search as Ray runs it with one worker, in this process: same searcher, scheduler and drive."""

from __future__ import annotations

import datetime as dt
import itertools
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial
from ray.tune.schedulers import TrialScheduler

from hpo.execution.drive import TrialDrive
from hpo.execution.searcher import StageScheduler, TaskSearcher
from hpo.search import StudySource, search_source
from hpo.spec import ExperimentSpec, parse_spec
from hpo.tasks import EPOCH, NUMBER, OBJECTIVE, EpochReport, TaskFactory, TrialTask
from storage import (
    EpochRecord,
    ExperimentRecord,
    Ledger,
    create_pareto_study,
    open_engine,
    open_optuna_storage,
    study_exists,
)


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
        self.ledger = Ledger(open_engine(f"sqlite:///{folder / 'hpo.db'}"))
        self.experiment = self.ledger.find(spec.name) or _new_experiment(spec.name)
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
        searcher = TaskSearcher(iter([self.source(*overrides)]), concurrency=n_workers)
        scheduler = StageScheduler(searcher)
        running: dict[str, TrialDrive] = {}
        trial_ids = map(str, itertools.count())
        while True:
            while len(running) < n_workers:
                suggested = searcher.suggest(trial_id := next(trial_ids))
                if searcher.error is not None:
                    raise searcher.error
                if not isinstance(suggested, dict):
                    break
                running[trial_id] = TrialDrive(suggested["task"])
                scheduler.on_trial_add(None, RayTrial(trial_id))
            if not running:
                return
            if n_reports == 0:
                raise KilledError
            n_reports -= 1
            index = 0 if order is None else int(order.integers(len(running)))
            trial_id = sorted(running)[index]
            if not self._goes_on(trial_id, running[trial_id], searcher, scheduler):
                del running[trial_id]

    def _goes_on(
        self, trial_id: str, drive: TrialDrive, searcher: TaskSearcher, scheduler: StageScheduler
    ) -> bool:
        """Whether a worker goes on after its next report."""
        _, task = searcher.running(trial_id) or (None, None)
        assert task is not None
        report = drive.next_report()
        if report.ending != "failed" and not report.is_known:
            self.trained.append((task.number, report.epoch))
        return goes_on(trial_id, drive, report, searcher, scheduler)

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


def goes_on(
    trial_id: str,
    drive: TrialDrive,
    report: EpochReport,
    searcher: TaskSearcher,
    scheduler: StageScheduler,
) -> bool:
    """Tell of a worker's report as Ray does; whether its task goes on."""
    _, task = searcher.running(trial_id) or (None, None)
    assert task is not None
    result = {"report": report, EPOCH: report.epoch, NUMBER: task.number}
    result[OBJECTIVE] = _objective(task, report)
    trial = RayTrial(trial_id)
    if report.ending is None:
        if scheduler.on_trial_result(None, trial, result) == TrialScheduler.CONTINUE:
            searcher.on_trial_result(trial_id, result)
            return True
        drive.close()
    scheduler.on_trial_complete(None, trial, result)
    searcher.on_trial_complete(trial_id, result)
    return False


def _new_experiment(name: str) -> ExperimentRecord:
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    return ExperimentRecord(
        id=name,
        name=name,
        spec="",
        created_at=now,
        versions={},
        git_commit=None,
        data_fingerprint=None,
    )


def _objective(task: TrialTask, report: EpochReport) -> float:
    return math.nan if report.ending == "failed" else report.quantities.get(task.metric, math.nan)


def outline(worker: OneWorker) -> list[tuple[Any, ...]]:
    """All that its study says of its trials, but when."""
    return [
        (t.state, t.params, t.values, t.intermediate_values, t.user_attrs)
        for t in worker.study.trials
    ]


def trained(worker: OneWorker) -> Counter[str]:
    """Trial and epoch of everything that was paid for, as the trainable itself has counted it."""
    return Counter((worker.folder / "trained.txt").read_text().splitlines())
