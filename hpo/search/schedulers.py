"""The schedulers: what a spec's ``scheduler`` builds; Ray's alone stop trials early."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from hpo.spec import (
    AshaSpec,
    ExperimentSpec,
    HyperbandSpec,
    MedianSpec,
    NoSchedulerSpec,
    OneEpochTopKSpec,
    PbtSpec,
    SchedulerSpec,
)
from hpo.tasks import EPOCH, NUMBER, OBJECTIVE


class Hyperband(FIFOScheduler):
    """Brackets of ASHA; which one judges a trial follows from the trial's number.

    Ray's own draws the bracket from numpy's global generator: another one at each start.
    """

    def __init__(self, brackets: Sequence[TrialScheduler], order: Sequence[int]) -> None:
        """``order`` is the bracket of trial 0, 1, 2 ..., over and over."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._brackets, self._order = brackets, order
        self._judges: dict[str, TrialScheduler] = {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """What the trial's bracket decides."""
        judge = self._judge(tune_controller, trial, result)
        return str(judge.on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Tell its bracket."""
        judge = self._judge(tune_controller, trial, result)
        judge.on_trial_complete(tune_controller, trial, result)
        self._judges.pop(trial.trial_id, None)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Its bracket keeps what the trial has reported."""
        self.on_trial_remove(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Its bracket keeps what the trial has reported."""
        if judge := self._judges.pop(trial.trial_id, None):
            judge.on_trial_remove(tune_controller, trial)

    def _judge(self, ray: Any, trial: Any, result: dict[str, Any]) -> TrialScheduler:
        """The trial's bracket, which hears of it with its first report: that has its number."""
        if trial.trial_id not in self._judges:
            bracket = self._order[result[NUMBER] % len(self._order)]
            self._judges[trial.trial_id] = self._brackets[bracket]
            self._brackets[bracket].on_trial_add(ray, trial)
        return self._judges[trial.trial_id]


class MedianRule(MedianStoppingRule):
    """Ray's, which may hear of a trial that went on although it would have stopped it.

    A trial from the record may be one: the others had not come as far when it ran, or its config
    was answered. Ray's own rule ends with an AssertionError.
    """

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether the trial goes on."""
        if trial in self._stopped_trials:
            self._results[trial].append(result)
            return str(TrialScheduler.CONTINUE)
        return str(super().on_trial_result(tune_controller, trial, result))


class FirstEpochs(FIFOScheduler):
    """Stops every trial after ``epochs``; who goes on is decided when all have come so far."""

    def __init__(self, epochs: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._epochs = epochs

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether the trial has come so far."""
        is_far = result[EPOCH] >= self._epochs
        return str(TrialScheduler.STOP if is_far else TrialScheduler.CONTINUE)


class Generations(FIFOScheduler):
    """Stops every trial after each ``interval``; who goes on is decided when all have come so far.

    What a trial has trained before it was handed out is not reported again.
    """

    def __init__(self, interval: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._interval = interval

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether a generation ends here."""
        is_end = result[EPOCH] % self._interval == 0
        return str(TrialScheduler.STOP if is_end else TrialScheduler.CONTINUE)


def bracket_graces(grace_epochs: int, reduction_factor: int, max_epochs: int) -> list[int]:
    """Epochs before which each bracket stops nothing; the first bracket stops most."""
    graces = [grace_epochs]
    while graces[-1] * reduction_factor <= max_epochs:
        graces.append(graces[-1] * reduction_factor)
    return graces


def bracket_order(n_brackets: int, reduction_factor: int) -> list[int]:
    """Brackets of as many trials as Hyperband starts in one round, well mixed.

    Hyperband starts ``ceil(n_brackets / (s + 1) * reduction_factor**s)`` trials in the bracket that
    halves ``s`` times, which gives all brackets about the same epochs (Li et al. 2018, algorithm
    1); bracket 0 halves most often.
    """
    sizes = [
        math.ceil(n_brackets / (s + 1) * reduction_factor**s) for s in reversed(range(n_brackets))
    ]
    n, order = sum(sizes), list[int]()
    for place in range(1, n + 1):  # whoever lags behind its share most comes next
        lags = [size * place / n - order.count(b) for b, size in enumerate(sizes)]
        order.append(lags.index(max(lags)))
    return order


def _asha(spec: AshaSpec, experiment: ExperimentSpec) -> TrialScheduler:
    return _bracket(spec.grace_epochs, spec.reduction_factor, experiment)


def _hyperband(spec: HyperbandSpec, experiment: ExperimentSpec) -> TrialScheduler:
    max_epochs, factor = _max_epochs(experiment), spec.reduction_factor
    graces = bracket_graces(spec.grace_epochs, factor, max_epochs)
    brackets = [_bracket(grace, factor, experiment) for grace in graces]
    return Hyperband(brackets, bracket_order(len(brackets), factor))


def _bracket(
    grace_epochs: int, reduction_factor: int, experiment: ExperimentSpec
) -> TrialScheduler:
    return ASHAScheduler(
        time_attr=EPOCH,
        metric=OBJECTIVE,
        mode=_mode(experiment),
        max_t=_max_epochs(experiment),
        grace_period=grace_epochs,
        reduction_factor=reduction_factor,
    )


def _one_epoch_top_k(spec: OneEpochTopKSpec, _: ExperimentSpec) -> TrialScheduler:
    return FirstEpochs(spec.epochs)


def _pbt(spec: PbtSpec, _: ExperimentSpec) -> TrialScheduler:
    return Generations(spec.interval_epochs)


def _median(spec: MedianSpec, experiment: ExperimentSpec) -> TrialScheduler:
    return MedianRule(
        time_attr=EPOCH,
        metric=OBJECTIVE,
        mode=_mode(experiment),
        grace_period=spec.grace_epochs,
        min_samples_required=spec.min_trials,
        # Never pause a trial to let another one catch up; any finite time pauses it once.
        min_time_slice=math.inf,  # type: ignore[arg-type]
    )


def _none(_: NoSchedulerSpec, _experiment: ExperimentSpec) -> TrialScheduler:
    return FIFOScheduler()


SCHEDULERS: dict[type[SchedulerSpec], Callable[[Any, ExperimentSpec], TrialScheduler]] = {
    AshaSpec: _asha,
    HyperbandSpec: _hyperband,
    MedianSpec: _median,
    OneEpochTopKSpec: _one_epoch_top_k,
    PbtSpec: _pbt,
    NoSchedulerSpec: _none,
}


def build_scheduler(
    experiment: ExperimentSpec, history: Iterable[FrozenTrial] = ()
) -> TrialScheduler:
    """The scheduler that the spec names, with what it would know of the trials in ``history``.

    A resumed search judges its next trial against the trials before the interruption too.
    """
    scheduler = SCHEDULERS[type(experiment.scheduler)](experiment.scheduler, experiment)
    for trial in history:
        replay(scheduler, trial)
    return scheduler


@dataclass(frozen=True)
class _PastTrial:
    """As much of Ray's trial as its schedulers look at."""

    trial_id: str


def replay(scheduler: Any, trial: FrozenTrial) -> None:
    """Tell ``scheduler`` what a worker told it: each epoch, and how the trial ended."""
    if not trial.state.is_finished():
        return
    past = _PastTrial(f"past-{trial.number}")
    results = [
        {EPOCH: epoch, OBJECTIVE: value, NUMBER: trial.number}
        for epoch, value in sorted(trial.intermediate_values.items())
    ]
    if trial.state == TrialState.COMPLETE:
        *results, last = results
    elif trial.state == TrialState.FAIL:
        last = {EPOCH: len(results), OBJECTIVE: math.nan, NUMBER: trial.number}
    scheduler.on_trial_add(None, past)
    for result in results:
        scheduler.on_trial_result(None, past, result)
    if trial.state != TrialState.PRUNED:
        scheduler.on_trial_complete(None, past, last)


def _max_epochs(experiment: ExperimentSpec) -> int:
    assert experiment.budget.max_epochs is not None, "a checked spec with rungs has it"
    return experiment.budget.max_epochs


def _mode(experiment: ExperimentSpec) -> str:
    return "max" if experiment.objective.direction == "maximize" else "min"
