"""The schedulers: what a spec's ``scheduler`` builds; Ray's alone stop trials early."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from hpo.spec import AshaSpec, ExperimentSpec, MedianSpec, NoSchedulerSpec, SchedulerSpec
from hpo.tasks import EPOCH, OBJECTIVE


def _asha(spec: AshaSpec, experiment: ExperimentSpec) -> TrialScheduler:
    assert experiment.budget.max_epochs is not None, "a checked spec with asha has it"
    return ASHAScheduler(
        time_attr=EPOCH,
        metric=OBJECTIVE,
        mode=_mode(experiment),
        max_t=experiment.budget.max_epochs,
        grace_period=spec.grace_epochs,
        reduction_factor=spec.reduction_factor,
    )


def _median(spec: MedianSpec, experiment: ExperimentSpec) -> TrialScheduler:
    return MedianStoppingRule(
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
    MedianSpec: _median,
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
        _replay(scheduler, trial)
    return scheduler


@dataclass(frozen=True)
class _PastTrial:
    """As much of Ray's trial as its schedulers look at."""

    trial_id: str


def _replay(scheduler: Any, trial: FrozenTrial) -> None:
    """Tell ``scheduler`` what a worker told it: each epoch, and how the trial ended."""
    if not trial.state.is_finished():
        return
    past = _PastTrial(f"past-{trial.number}")
    results = [
        {EPOCH: epoch, OBJECTIVE: value}
        for epoch, value in sorted(trial.intermediate_values.items())
    ]
    if trial.state == TrialState.COMPLETE:
        *results, last = results
    elif trial.state == TrialState.FAIL:
        last = {EPOCH: len(results), OBJECTIVE: math.nan}
    scheduler.on_trial_add(None, past)
    for result in results:
        scheduler.on_trial_result(None, past, result)
    if trial.state != TrialState.PRUNED:
        scheduler.on_trial_complete(None, past, last)


def _mode(experiment: ExperimentSpec) -> str:
    return "max" if experiment.objective.direction == "maximize" else "min"
