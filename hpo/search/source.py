"""The search as a source of tasks: the one place where trials enter and leave the study."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from ray.tune.schedulers import TrialScheduler

from hpo.errors import NoSuccessfulTrialError, UnfitEnvironmentError, UsageError
from hpo.search.samplers import build_sampler
from hpo.search.schedulers import build_scheduler
from hpo.search.space import distributions, n_distinct_configs
from hpo.spec import ExperimentSpec, GridSpec
from hpo.tasks import TRACEBACK_FILE, EpochReport, TaskFactory, TrialTask, worker_died
from storage import (
    EpochRecord,
    is_infeasible,
    mark_infeasible,
    n_finished,
    put_intermediate_value,
    requeue_running,
)

MAX_OPENING_FAILURES = 5
MAX_GRID_CELLS = 1_000_000


class SearchObserver(Protocol):
    """Is told what happens in a search, after the study has recorded it."""

    def trial_started(self, number: int, params: Mapping[str, Any]) -> None:
        """A trial was handed out."""

    def epoch_reported(self, number: int, report: EpochReport) -> None:
        """A trial finished an epoch."""

    def trial_ended(self, trial: FrozenTrial) -> None:
        """A trial is COMPLETE, PRUNED or FAIL."""


class StudySource:
    """Asks the study for trials and tells it the truth about how they went.

    COMPLETE only at full budget, PRUNED when the scheduler stopped it, FAIL with its reason; what
    runs when the time is up goes back into the queue. Ray's own OptunaSearch stores pruned trials
    as COMPLETE, drops their last value, and leaves a trial that reports NaN RUNNING for ever.
    """

    def __init__(
        self,
        study: Study,
        spec: ExperimentSpec,
        tasks: TaskFactory,
        *,
        record_epoch: Callable[[EpochRecord], None],
        record_fingerprint: Callable[[str, Sequence[str]], None] | None = None,
        observers: Sequence[SearchObserver] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``record_fingerprint`` gets the data's, and warnings, once; None if it is known.

        The time limit counts the seconds of ``clock``.
        """
        requeue_running(study)
        study.sampler = build_sampler(spec.sampler, spec.search_space, spec.seed)
        self.scheduler: TrialScheduler = build_scheduler(spec, study.get_trials(deepcopy=False))
        self._study, self._tasks = study, tasks
        self._space = distributions(spec.search_space)
        self._metric = spec.objective.metric
        self._n_trials = n_trials_of(spec)
        self._record_epoch, self._record_fingerprint = record_epoch, record_fingerprint
        self._observers = observers
        self._running: dict[int, optuna.Trial] = {}
        # Counted along: to count thousands of trials for each new one would take longer than it.
        self._n_finished = n_finished(study)
        # Their failures are no reason to stop: what caused them may have been mended since.
        self._ended_before = {
            trial.number for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()
        }
        limit_s = spec.budget.time_limit_s
        self._clock = clock
        self._deadline = None if limit_s is None else clock() + limit_s

    @property
    def is_over_time(self) -> bool:
        """Whether the time limit is reached."""
        return self._deadline is not None and self._clock() > self._deadline

    def next_task(self) -> TrialTask | None:
        """Ask the study for a trial, unless the budget or the time is spent.

        Raises:
            NoSuccessfulTrialError: if the first trials to end, five or more, failed for one reason.
        """
        self._stop_if_all_fail_alike()
        is_spent = self._n_finished + len(self._running) >= self._n_trials
        if is_spent or self.is_over_time:
            return None
        trial = self._study.ask(self._space)
        task = self._tasks.trial(trial.number, trial.params)
        task = replace(task, wants_fingerprint=self._record_fingerprint is not None)
        trial.set_user_attr("seed", task.context.seed)
        self._running[trial.number] = trial
        for observer in self._observers:
            observer.trial_started(trial.number, trial.params)
        return task

    def reported(self, task: TrialTask, report: EpochReport) -> None:
        """Write one epoch, all its metrics first: the study never knows more than the ledger."""
        if report.fingerprint is not None and self._record_fingerprint is not None:
            self._record_fingerprint(report.fingerprint, report.warnings)
            self._record_fingerprint = None
        if report.epoch == 1:
            for name, fact in (report.facts or {}).items():
                self._running[task.number].set_user_attr(name, fact)
        self._record_epoch(
            EpochRecord(
                trial_number=task.number,
                epoch=report.epoch,
                metrics=report.metrics,
                seconds=report.seconds,
                reported_at=dt.datetime.now(dt.UTC).replace(tzinfo=None),
            )
        )
        value = report.metrics[self._metric]
        put_intermediate_value(self._running[task.number], report.epoch, value)
        for observer in self._observers:
            observer.epoch_reported(task.number, report)

    def ended(self, task: TrialTask, report: EpochReport | None) -> None:
        """Tell the study how a trial ended.

        Raises:
            UnfitEnvironmentError: if the data cannot be used; the trial goes back into the queue.
        """
        report = report or worker_died(task)
        if report.is_unfit:
            del self._running[task.number]
            requeue_running(self._study, only=task.number)
            raise UnfitEnvironmentError(report.fail_reason)
        if report.ending == "failed":
            self._fail(self._running.pop(task.number), report)
        else:
            # Ray gives the report that triggered a stop to on_trial_complete alone. Unless it is
            # recorded here, a trial stopped at its first rung would have no value.
            self.reported(task, report)
            trial = self._running.pop(task.number)
            if report.ending == "complete":
                self._study.tell(trial, report.metrics[self._metric])
            elif self.is_over_time:
                requeue_running(self._study, only=task.number)
                return
            else:
                self._study.tell(trial, state=TrialState.PRUNED)
        self._n_finished += 1
        ended = self._study.get_trials(deepcopy=False)[task.number]
        for observer in self._observers:
            observer.trial_ended(ended)

    def _fail(self, trial: optuna.Trial, report: EpochReport) -> None:
        trial.set_user_attr("fail_reason", report.fail_reason)
        trial.set_user_attr("fail_place", report.fail_place)
        if report.is_infeasible:
            mark_infeasible(trial)
        if report.traceback:
            trial.set_user_attr("traceback", report.traceback[-4000:])
        self._study.tell(trial, state=TrialState.FAIL)

    def _stop_if_all_fail_alike(self) -> None:
        ended = []
        for trial in self._study.get_trials(deepcopy=False):
            if not trial.state.is_finished() or trial.number in self._ended_before:
                continue
            if trial.state != TrialState.FAIL:
                return  # mostly the first one: a search of thousands need not look at all
            if not is_infeasible(trial):  # which says something of the space, not of the code
                ended.append(trial)
        if len(ended) < MAX_OPENING_FAILURES:
            return
        places = {str(trial.user_attrs.get("fail_place")) for trial in ended}
        if len(places) == 1:
            raise NoSuccessfulTrialError(
                f"the search has stopped: its first {len(ended)} trials all failed in one way, "
                f"{places.pop()}. Mend {self._tasks.spec.trainable!r} or the search space; the "
                f"traceback is in {self._tasks.trial_folder(ended[0].number) / TRACEBACK_FILE}"
            )


def n_trials_of(spec: ExperimentSpec) -> int:
    """Trials of the whole search: the budget, or the cells of the grid if these are fewer.

    Raises:
        UsageError: if the grid is too large to be listed.
    """
    if not isinstance(spec.sampler, GridSpec):
        return spec.budget.n_trials
    n_cells = n_distinct_configs(spec.search_space) or 0
    if n_cells > MAX_GRID_CELLS:
        raise UsageError(
            f"the grid of {spec.name!r} has {n_cells:,} cells, more than {MAX_GRID_CELLS:,}; give "
            "wider steps, or another sampler: -o sampler=random"
        )
    return min(spec.budget.n_trials, n_cells)
