"""The schedulers: what a spec's ``scheduler`` builds; Ray's alone stop trials early."""

from __future__ import annotations

import sys
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

from hpo.jobs import EPOCH, OBJECTIVE
from hpo.spec import AshaSpec, ExperimentSpec, MedianSpec, NoSchedulerSpec, SchedulerSpec


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
        min_time_slice=sys.maxsize,  # never pause a trial to let another one catch up
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
    if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        return
    past = _PastTrial(f"past-{trial.number}")
    results = [
        {EPOCH: epoch, OBJECTIVE: value}
        for epoch, value in sorted(trial.intermediate_values.items())
    ]
    scheduler.on_trial_add(None, past)
    for result in results[:-1]:
        scheduler.on_trial_result(None, past, result)
    if trial.state == TrialState.COMPLETE:
        scheduler.on_trial_complete(None, past, results[-1])
    else:
        scheduler.on_trial_result(None, past, results[-1])


def _mode(experiment: ExperimentSpec) -> str:
    return "max" if experiment.objective.direction == "maximize" else "min"
