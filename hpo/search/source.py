"""The search as a source of tasks: the one place where trials enter and leave the study."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hpo.errors import NoSuccessfulTrialError, UnfitEnvironmentError, UsageError
from hpo.failpoints import failpoint
from hpo.search.ending import EarlyEnd, is_spent_on, n_spent, n_trials_of, take_up
from hpo.search.holding import FIRST_VALUE, HeldBack
from hpo.search.opening import enqueue_opening
from hpo.search.space import ask
from hpo.search.staged import is_of_opening, must_wait, named_search, search_sampler
from hpo.spec import ExperimentSpec
from hpo.task_factory import TaskFactory
from hpo.tasks import N_RETRIES, TRACEBACK_FILE, EpochReport, TrialTask, excesses
from storage import (
    ANSWERED_BY,
    EpochRecord,
    SearchEnd,
    constraints_of,
    is_infeasible,
    put_constraints,
    put_intermediate_value,
    put_search_end,
    record_sampler,
    requeue_running,
)

if TYPE_CHECKING:  # with Ray, which takes seconds to load and is needed for a search alone
    from ray.tune.schedulers import TrialScheduler

MAX_OPENING_FAILURES = 5
RETRIES = "worker_retries"
"""Attribute of a trial: how often it was handed out again because its worker had died."""


class SearchObserver(Protocol):
    """Is told what happens in a search, after the study has recorded it."""

    def trial_started(self, number: int, params: Mapping[str, Any]) -> None:
        """A trial was handed out."""

    def epoch_reported(self, number: int, report: EpochReport) -> None:
        """A trial finished an epoch."""

    def trial_held_back(self, number: int) -> None:
        """A trial has trained its first epochs and waits for the others; it may start again."""

    def trial_warned(self, number: int, warning: str) -> None:
        """Something is wrong that does not end the trial; told once."""

    def trial_ended(self, trial: FrozenTrial) -> None:
        """A trial is COMPLETE, PRUNED or FAIL."""


class StudySource:
    """Asks the study for trials and tells it the truth about how they went.

    COMPLETE only at full budget, PRUNED when the scheduler stopped it, FAIL with its reason; what
    runs when the time is up goes back into the queue. Ray's own OptunaSearch stores pruned trials
    as COMPLETE, drops their last value, and leaves a trial that reports NaN RUNNING for ever.

    A search that ends early lets its running trials come to their end, and starts no other.
    """

    knows_ahead = False
    """A trial asked for ahead of time would know less of the others."""
    drops_checkpoints_at_once = True
    """Those of a trial that has ended; nobody else goes on from them."""

    def __init__(
        self,
        study: Study,
        spec: ExperimentSpec,
        tasks: TaskFactory,
        *,
        record_epoch: Callable[[EpochRecord], None],
        recorded_epochs: Callable[[int], Sequence[EpochRecord]] = lambda _: (),
        record_fingerprint: Callable[[Mapping[str, Any], str, Sequence[str]], None] | None = None,
        observers: Sequence[SearchObserver] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``recorded_epochs`` are those of a trial: it goes on behind them after an interruption.

        ``record_fingerprint`` gets the config of the trial that tells it, the data's, and warnings,
        once; None if it is known. The time limit counts the seconds of ``clock``.
        """
        from hpo.search.schedulers import build_scheduler

        self._n_trials = n_trials_of(spec)
        requeue_running(study)
        enqueue_opening(study, spec)
        study.sampler = search_sampler(spec, self._n_trials)
        n_opening = sum(is_of_opening(trial) for trial in study.get_trials(deepcopy=False))
        record_sampler(study, *named_search(spec, self._n_trials, n_opening))
        failpoint("sampler recorded")
        self.scheduler: TrialScheduler = build_scheduler(spec, study.get_trials(deepcopy=False))
        self._study, self._tasks, self._spec = study, tasks, spec
        self._space = spec.search_space
        self._metrics = [objective.metric for objective in spec.objectives]
        self._record_epoch, self._recorded_epochs = record_epoch, recorded_epochs
        self._record_fingerprint = record_fingerprint
        self._observers = observers
        self._running: dict[int, optuna.Trial] = {}
        trials = study.get_trials(deepcopy=False)
        # Counted along: to count thousands of trials for each new one would take longer than it.
        self._n_finished = sum(trial.state.is_finished() for trial in trials)
        self._n_spent = n_spent(trials, spec)
        # Their failures are no reason to stop: what caused them may have been mended since.
        self._ended_before = {trial.number for trial in trials if trial.state.is_finished()}
        self._held = HeldBack(spec)
        self._end: SearchEnd | None = take_up(study, spec)
        self._early_end = EarlyEnd(study, spec)
        self._answers: dict[str, int] = {}
        for trial in trials:
            self._remember(trial)
        if self.drops_checkpoints_at_once:
            # A driver may have died between the end of a trial and this.
            tasks.remove_checkpoints([t.number for t in trials if t.state.is_finished()])
        limit_s = spec.budget.time_limit_s
        self._clock = clock
        self._deadline = None if limit_s is None else clock() + limit_s

    @property
    def is_over_time(self) -> bool:
        """Whether the time limit is reached."""
        return self._deadline is not None and self._clock() > self._deadline

    @property
    def n_finished(self) -> int:
        """Trials that have ended, in this start and before."""
        return self._n_finished

    def next_task(self) -> TrialTask | None:
        """Ask the study for a trial, unless the budget or the time is spent or it has ended early.

        Raises:
            NoSuccessfulTrialError: if the first trials to end, five or more, failed for one reason,
                or if configs are infeasible time and again.
        """
        self._stop_if_all_fail_alike()
        while not self._is_over() or self._has_begun_ones():
            if self._waits_for_stage():
                return None
            trial = ask(self._study, self._space)
            task = self._tasks.trial(trial.number, trial.params)
            self._tell_started(trial)
            if FIRST_VALUE in trial.user_attrs:  # an earlier driver has trained its first epochs
                self._hold(trial)
            elif (same := self._answers.get(task.identity)) is not None:
                self._answer(trial, same)
            else:
                trial.set_user_attr("seed", task.context.seed)
                failpoint("seed recorded")
                self._running[trial.number] = trial
                epochs = self._recorded_epochs(trial.number)
                self._catch_up(trial, epochs)
                task = self._tasks.going_on(task, epochs)
                return self._with_fingerprint(task)
        return self._next_chosen()

    def _catch_up(self, trial: optuna.Trial, epochs: Sequence[EpochRecord]) -> None:
        """Tell the study what a driver wrote into the ledger before it died.

        A trial that keeps no checkpoints begins again, and may be stopped before it gets there.
        """
        metric, told = self._metrics[0], self._study.get_trials(deepcopy=False)[trial.number]
        for epoch in epochs:
            value = epoch.metrics.get(metric, told.user_attrs.get(metric))
            if value is not None and epoch.epoch not in told.intermediate_values:
                put_intermediate_value(trial, epoch.epoch, value)

    def _with_fingerprint(self, task: TrialTask) -> TrialTask:
        """The task, which is asked for it as long as it is not known."""
        return replace(task, wants_fingerprint=self._record_fingerprint is not None)

    def _is_over(self) -> bool:
        """Whether no trial is to be asked for; what ends a search before its budget is recorded."""
        n_taken = self._n_spent + len(self._running) + len(self._held)
        self._judge_end(n_taken)
        return self._end is not None or self.is_over_time or n_taken >= self._n_trials

    def _has_begun_ones(self) -> bool:
        """Whether trials wait to go on that a search which has ended early lets come to their end.

        Their worker died, or the driver did. A time limit leaves them where they are.
        """
        if self._end is None or self.is_over_time:
            return False
        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return any("seed" in trial.user_attrs for trial in waiting)

    def _judge_end(self, n_taken: int) -> None:
        """Record the end that the trials or the clock call for; ``n_taken`` trials were begun."""
        if self._end is not None:
            return
        self._end = self._early_end.judge(self._n_finished)
        if self._end is None and self.is_over_time and n_taken < self._n_trials:
            self._end = self._early_end.end_by(
                "time_limit_s", f"time_limit_s={self._spec.budget.time_limit_s:g} was reached"
            )
        if self._end is not None:
            put_search_end(self._study, self._end)
            failpoint("search end recorded")

    def _waits_for_stage(self) -> bool:
        """Whether the next trial depends on those that run."""
        if not self._spec.stages:
            return False
        trials = self._study.get_trials(deepcopy=False)
        return must_wait(self._spec, self._n_trials, trials, self._running)

    def _next_chosen(self) -> TrialTask | None:
        """The next of the best trials that were held back; the others are over."""
        if self.is_over_time or any(not self._held.is_chosen(n) for n in self._running):
            return None  # what still trains its first epochs may be among the best
        trials = self._study.get_trials(deepcopy=False)
        is_wanted = self._end is None
        for loser in self._held.losers(trials) if is_wanted else self._held.all():
            self._tell(loser, state=TrialState.PRUNED)
        while (trial := self._held.next_chosen()) is not None:
            task = self._tasks.trial(trial.number, trial.params)
            self._tell_started(trial)
            if (same := self._answers.get(task.identity)) is None:
                self._running[trial.number] = trial
                task = self._tasks.going_on(task, self._recorded_epochs(trial.number))
                return replace(task, runs_to_end=True)
            self._answer(trial, same)
        return None

    def scheduler_of(self, task: TrialTask) -> TrialScheduler:
        """The study's."""
        return self.scheduler

    def reported(self, task: TrialTask, report: EpochReport) -> None:
        """Write one epoch, all its metrics first: the study never knows more than the ledger.

        One that an earlier start has written stays as it is.
        """
        self._warn(task, report)
        if report.fingerprint is not None and self._record_fingerprint is not None:
            self._record_fingerprint(task.config, report.fingerprint, report.warnings)
            self._record_fingerprint = None
        if report.epoch == 1 + (0 if task.done is None else task.done.epoch):
            _put_facts(self._running[task.number], report)
            failpoint("facts recorded")
        if not report.is_known:
            self._record_epoch(
                EpochRecord(
                    trial_number=task.number,
                    epoch=report.epoch,
                    metrics=report.metrics,
                    seconds=report.seconds,
                    reported_at=_now(),
                    checkpoint=report.checkpoint,
                )
            )
            failpoint("epoch recorded")
        # Of several objectives the first: an intermediate value is one number.
        value = report.quantities[self._metrics[0]]
        put_intermediate_value(self._running[task.number], report.epoch, value)
        failpoint("value recorded")
        for observer in self._observers:
            observer.epoch_reported(task.number, report)

    def ended(self, task: TrialTask, report: EpochReport) -> None:
        """Tell the study how a trial ended; one that is lost is handed out again, a few times.

        Raises:
            UnfitEnvironmentError: if the data cannot be used; the trial goes back into the queue.
            UsageError: if the first training to come to its end shows that nobody tells what the
                spec limits.
        """
        if report.is_lost and self._is_retried(task, report):
            return
        if report.is_unfit:
            self._requeue(task.number)
            raise UnfitEnvironmentError(report.fail_reason)
        if report.ending == "failed":
            self._warn(task, report)
            self._fail(self._running.pop(task.number), report)
            if report.fail_cause == "unknown_quantity" and not self._answers:
                _, _, reason = report.fail_reason.partition(": ")
                raise UsageError(
                    f"the search has stopped: {reason}. Mend `constraints`, and begin another: "
                    f"-o name={self._spec.name}-2"
                )
            return
        # Ray gives the report that triggered a stop to on_trial_complete alone. Unless it is
        # recorded here, a trial stopped at its first rung would have no value.
        self.reported(task, report)
        trial = self._running.pop(task.number)
        values = [report.quantities[metric] for metric in self._metrics]
        if report.ending is None and self._takes_back(trial, report):
            return
        if report.ending is None and self.is_over_time:
            requeue_running(self._study, only=task.number)
        else:
            if beyond := self._excesses(report):
                put_constraints(trial, beyond)
            is_whole = report.ending == "complete"
            self._tell(trial, values) if is_whole else self._tell(trial, state=TrialState.PRUNED)

    def _is_retried(self, task: TrialTask, report: EpochReport) -> bool:
        """Put a trial whose worker has died back into the queue, unless that has been enough."""
        trial = self._running[task.number]
        n_before = trial.user_attrs.get(RETRIES, 0)
        if n_before == N_RETRIES:
            return False
        trial.set_user_attr(RETRIES, n_before + 1)
        failpoint("retry counted")
        self._requeue(task.number)
        kept = any(one.checkpoint for one in self._recorded_epochs(task.number))
        start = "from its last checkpoint" if kept else "from epoch 1"
        warning = f"{report.fail_reason}; it goes on {start}, retry {n_before + 1} of {N_RETRIES}"
        for observer in self._observers:
            observer.trial_warned(task.number, warning)
        return True

    def _requeue(self, number: int) -> None:
        """Back into the queue: the trial is handed out again under its own number."""
        del self._running[number]
        requeue_running(self._study, only=number)
        failpoint("trial requeued")

    def _warn(self, task: TrialTask, report: EpochReport) -> None:
        for complaint in report.complaints:
            for observer in self._observers:
                observer.trial_warned(task.number, complaint)

    def _takes_back(self, trial: optuna.Trial, report: EpochReport) -> bool:
        """Whether a trial that was stopped has not ended, but waits for others."""
        if not self._held.takes(trial.number, report.epoch):
            return False
        trial.set_user_attr(FIRST_VALUE, report.quantities[self._metrics[0]])
        failpoint("first value recorded")
        self._hold(trial)
        return True

    def _hold(self, trial: optuna.Trial) -> None:
        self._held.hold(trial)
        for observer in self._observers:
            observer.trial_held_back(trial.number)

    def _fail(self, trial: optuna.Trial, report: EpochReport) -> None:
        trial.set_user_attr("fail_reason", report.fail_reason)
        trial.set_user_attr("fail_place", report.fail_place)
        trial.set_user_attr("fail_cause", report.fail_cause)
        _put_facts(trial, report)
        if report.is_infeasible:
            # A config that cannot be built breaks no limit, but the one that it can be built.
            put_constraints(trial, self._excesses(report) or (1.0,))
        if report.traceback:
            trial.set_user_attr("traceback", report.traceback[-4000:])
        failpoint("failure described")
        self._tell(trial, state=TrialState.FAIL)

    def _excesses(self, report: EpochReport) -> list[float]:
        """How far a trial is beyond each constraint whose quantity is known."""
        return excesses(self._spec.constraints, report.quantities)

    def _answer(self, trial: optuna.Trial, same: int) -> None:
        """Give a trial what trial ``same`` came to, which has trained the very same thing."""
        from hpo.search.schedulers import replay

        trials = self._study.get_trials(deepcopy=False)
        known, own = trials[same], trials[trial.number].user_attrs
        # What stands on a trial before it is trained, its stage for one, is its own.
        told = {**known.user_attrs, ANSWERED_BY: same}
        for name in told.keys() - own.keys() - {RETRIES}:
            trial.set_user_attr(name, told[name])
        if beyond := constraints_of(known):
            put_constraints(trial, beyond)
        failpoint("answer copied")
        for epoch in self._recorded_epochs(same):
            copied = replace(
                epoch,
                trial_number=trial.number,
                seconds=0.0,
                reported_at=_now(),
                checkpoint=None,
            )
            self._record_epoch(copied)
            failpoint("answered epoch recorded")
            report = EpochReport(epoch=epoch.epoch, metrics=epoch.metrics, seconds=0.0)
            for observer in self._observers:
                observer.epoch_reported(trial.number, report)
        for epoch_number, value in known.intermediate_values.items():
            put_intermediate_value(trial, epoch_number, value)
        replay(self.scheduler, self._tell(trial, known.values))

    def _tell(
        self,
        trial: optuna.Trial,
        values: Sequence[float] | None = None,
        *,
        state: TrialState | None = None,
    ) -> FrozenTrial:
        """End a trial in the study; returns what stands there, after everybody was told."""
        failpoint("trial about to be told")
        self._study.tell(trial, values, state=state)
        failpoint("trial told")
        if self.drops_checkpoints_at_once:
            self._tasks.remove_checkpoints([trial.number])
            failpoint("checkpoints removed")
        ended = self._study.get_trials(deepcopy=False)[trial.number]
        self._n_finished += 1
        self._n_spent += is_spent_on(ended, self._spec)
        self._remember(ended)
        for observer in self._observers:
            observer.trial_ended(ended)
        return ended

    def _tell_started(self, trial: optuna.Trial) -> None:
        for observer in self._observers:
            observer.trial_started(trial.number, trial.params)

    def _remember(self, trial: FrozenTrial) -> None:
        """What a COMPLETE trial came to answers every later one of the same config and seed."""
        if trial.state == TrialState.COMPLETE and not self._is_refused_now(trial):
            task = self._tasks.trial(trial.number, trial.params)
            self._answers.setdefault(task.identity, trial.number)

    def _is_refused_now(self, trial: FrozenTrial) -> bool:
        """Whether limits that an earlier start did not have forbid its config."""
        return any(excess > 0 for excess in excesses(self._spec.constraints, trial.user_attrs))

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
            file = self._tasks.trial_folder(ended[0].number) / TRACEBACK_FILE
            raise NoSuccessfulTrialError(
                f"the search has stopped: its first {len(ended)} trials all failed in one way, "
                f"{places.pop()}. Mend {self._tasks.spec.trainable!r} or the search space; "
                + (f"the traceback is in {file}" if file.is_file() else "there is no traceback")
            )


def _put_facts(trial: optuna.Trial, report: EpochReport) -> None:
    for name, fact in (report.facts or {}).items():
        trial.set_user_attr(name, fact)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(tzinfo=None)
