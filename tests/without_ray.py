"""The stages of a run as Ray drives them, in this process: same searcher, scheduler and drive."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from ray.tune.schedulers import TrialScheduler

from hpo.execution import TrialDrive
from hpo.execution.actor import result_of
from hpo.execution.searcher import StageScheduler, TaskSearcher
from hpo.tasks import EpochReport, TaskSource, TrialTask


@dataclass(frozen=True)
class RayTrial:
    """As much of it as schedulers read."""

    trial_id: str


class KilledError(Exception):
    """The driver is no more, without a word to the study."""


def drive_stages(
    stages: Iterator[TaskSource],
    *,
    n_workers: Callable[[], int] = lambda: 1,
    n_reports: float = math.inf,
    order: np.random.Generator | None = None,
    reported: Callable[[TrialTask, TrialDrive], EpochReport] = lambda _, drive: drive.next_report(),
) -> None:
    """To the end of the last one, or until so many reports were made: then the driver is killed.

    Args:
        stages: one after the other.
        n_workers: how many tasks run at a time.
        n_reports: until the driver is killed.
        order: says whose report comes next; None: that of the worker that has waited longest.
        reported: what a worker says next; one that is `lost` has died.

    Raises:
        KilledError: if it was.
        Exception: whatever a stage raises.
    """
    searcher = TaskSearcher(stages, concurrency=n_workers)
    scheduler, running = StageScheduler(searcher), dict[str, TrialDrive]()
    trial_ids = map(str, itertools.count())
    while True:
        while len(running) < n_workers():
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
        waiting = list(running)
        trial_id = waiting[0 if order is None else int(order.integers(len(waiting)))]
        drive = running.pop(trial_id)
        if _goes_on(trial_id, drive, searcher, scheduler, reported):
            running[trial_id] = drive
        if searcher.error is not None:
            raise searcher.error


def _goes_on(
    trial_id: str,
    drive: TrialDrive,
    searcher: TaskSearcher,
    scheduler: StageScheduler,
    reported: Callable[[TrialTask, TrialDrive], EpochReport],
) -> bool:
    """Whether a worker goes on after its next report."""
    _, task = searcher.running(trial_id) or (None, None)
    assert task is not None
    report, trial = reported(task, drive), RayTrial(trial_id)
    if report.is_lost:
        searcher.tell(trial_id, report)
        searcher.on_trial_complete(trial_id, error=True)
        return False
    result = result_of(task, report)
    if report.ending is None:
        if scheduler.on_trial_result(None, trial, result) == TrialScheduler.CONTINUE:
            searcher.on_trial_result(trial_id, result)
            return True
        drive.close()
    scheduler.on_trial_complete(None, trial, result)
    searcher.on_trial_complete(trial_id, result)
    return False
