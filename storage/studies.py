"""Optuna's study as the record of a search: open it, requeue what was cut off, count its states."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import optuna
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.study._constrained_optimization import _CONSTRAINTS_KEY
from optuna.trial import FrozenTrial, TrialState, create_trial

_SAMPLER_KEY = "hpo:sampler"
_FINALISTS_KEY = "hpo:finalists"
_SEARCH_END_KEY = "search_end"
ANSWERED_BY = "answered_by"
"""Attribute of a trial that was not trained: the number of the one that had trained the same."""
_STAGE_KEY = "search_stage"
_CHECKPOINT_PLACE_KEY = "hpo:checkpoints"
_DATA_CONFIG_KEY = "hpo:data_config"
_TRACKING_KEY = "hpo:tracking_is_late"
_ENQUEUED_KEY = "fixed_params"
"""Where Optuna's own queue keeps the params that are not drawn."""


Direction = Literal["maximize", "minimize"]


def create_study(storage: BaseStorage, name: str, *, direction: Direction, metric: str) -> Study:
    """A new study that maximizes or minimizes ``metric``.

    Raises:
        optuna.exceptions.DuplicatedStudyError: if there is a study of that name.
    """
    return create_pareto_study(storage, name, {metric: direction})


def create_pareto_study(
    storage: BaseStorage, name: str, objectives: Mapping[str, Direction]
) -> Study:
    """A new study of one metric or several, each with its direction; values are in their order.

    Raises:
        optuna.exceptions.DuplicatedStudyError: if there is a study of that name.
    """
    directions = list(objectives.values())
    study = optuna.create_study(storage=storage, study_name=name, directions=directions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(objectives))
    return study


def pareto_front(trials: Sequence[FrozenTrial], directions: Sequence[Direction]) -> list[int]:
    """Numbers of the trials that no other one is better than, ascending.

    Better is: in no objective worse, and in one of them better. Only trials that are COMPLETE and
    keep their constraints count.
    """
    whole = [t for t in trials if t.state == TrialState.COMPLETE and not is_infeasible(t)]
    signs = [-1 if direction == "maximize" else 1 for direction in directions]
    costs = np.array([trial.values for trial in whole]).reshape(-1, len(signs)) * signs
    return [
        trial.number
        for trial, cost in zip(whole, costs, strict=True)
        if not np.any(np.all(costs <= cost, axis=1) & np.any(costs < cost, axis=1))
    ]


def study_exists(storage: BaseStorage, name: str) -> bool:
    """Whether the database holds a study called ``name``."""
    return name in optuna.get_all_study_names(storage)


def requeue_running(study: Study, only: int | None = None) -> list[int]:
    """Put trials that are RUNNING back into the queue; returns their numbers.

    `Study.ask` hands a WAITING trial out again before it draws a new one: same number, same
    parameters, so the budget stays exact.

    Args:
        study: the caller is its only driver, so what is RUNNING was cut off.
        only: the number of one trial, instead of all.
    """
    storage, numbers = study._storage, []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if only in (None, trial.number):
            storage.set_trial_state_values(trial._trial_id, state=TrialState.WAITING)
            numbers.append(trial.number)
    return numbers


def enqueued_params(trial: FrozenTrial) -> dict[str, Any] | None:
    """What `Study.enqueue_trial` chose for a trial; None if it was not enqueued."""
    params: dict[str, Any] | None = trial.system_attrs.get(_ENQUEUED_KEY)
    return params


def enqueue_with_past(
    study: Study,
    params: Mapping[str, Any],
    *,
    attributes: Mapping[str, Any],
    intermediate_values: Mapping[int, float],
) -> None:
    """Put a trial into the queue that has reached something already, in one write."""
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            system_attrs={_ENQUEUED_KEY: dict(params)},
            user_attrs=dict(attributes),
            intermediate_values=dict(intermediate_values),
        )
    )


def put_stage(study: Study, trial: FrozenTrial, stage: int) -> None:
    """Record to which stage of its search a trial belongs, while it is being drawn."""
    study._storage.set_trial_user_attr(trial._trial_id, _STAGE_KEY, stage)


def stage_of(trial: FrozenTrial) -> int | None:
    """What `put_stage` recorded; None if nothing."""
    stage: int | None = trial.user_attrs.get(_STAGE_KEY)
    return stage


def record_sampler(study: Study, name: str, note: str) -> None:
    """Record which sampler proposes the trials from here on, and what is to be said of it."""
    if recorded_sampler(study) != (name, note):
        study.set_user_attr(_SAMPLER_KEY, [name, note])


def recorded_sampler(study: Study) -> tuple[str, str]:
    """Its name and the note, empty if there was none; both empty if no search has begun."""
    name, note = study.user_attrs.get(_SAMPLER_KEY, ("", ""))
    return str(name), str(note)


def record_finalists(study: Study, numbers: Sequence[int]) -> None:
    """Record which trials are re-run; they stay so until more trials have ended."""
    n_finished = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
    study.set_user_attr(_FINALISTS_KEY, {"numbers": list(numbers), "of_trials": n_finished})


def recorded_finalists(study: Study) -> list[int]:
    """Their numbers; empty if none were chosen among the trials that have ended now."""
    recorded = study.user_attrs.get(_FINALISTS_KEY, {})
    n_finished = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
    return recorded["numbers"] if recorded.get("of_trials") == n_finished else []


def record_checkpoint_place(study: Study, uri: str) -> None:
    """Record where the checkpoints of its trials are kept, for who goes on with it."""
    study.set_user_attr(_CHECKPOINT_PLACE_KEY, uri)


def recorded_checkpoint_place(study: Study) -> str | None:
    """What `record_checkpoint_place` recorded; None if nothing: they lie with the results."""
    uri: str | None = study.user_attrs.get(_CHECKPOINT_PLACE_KEY)
    return uri


def record_data_config(study: Study, config: Mapping[str, Any]) -> None:
    """Record the config whose trial has named the data: which they are may be a matter of it."""
    study.set_user_attr(_DATA_CONFIG_KEY, dict(config))


def recorded_data_config(study: Study) -> Mapping[str, Any] | None:
    """What `record_data_config` recorded; None if nothing."""
    config: Mapping[str, Any] | None = study.user_attrs.get(_DATA_CONFIG_KEY)
    return config


def record_tracking_is_late(study: Study, is_late: bool) -> None:
    """Record whether MLflow has still to be told something; written only if that is new."""
    if tracking_is_late(study) != is_late:
        study.set_user_attr(_TRACKING_KEY, is_late)


def tracking_is_late(study: Study) -> bool:
    """Whether MLflow has still to be told something of an experiment that is finished."""
    return bool(study.user_attrs.get(_TRACKING_KEY, False))


def put_intermediate_value(trial: optuna.Trial, epoch: int, value: float) -> None:
    """Record what a running trial reached after ``epoch``.

    `Trial.report` would keep the old value where a requeued trial reports an epoch again.
    """
    trial.storage.set_trial_intermediate_value(trial._trial_id, epoch, value)


def put_constraints(trial: optuna.Trial, excesses: Sequence[float]) -> None:
    """Record how far a running trial is beyond each of its constraints; above 0 is broken.

    In Optuna's old list: its samplers read both forms, optuna-dashboard 0.21 reads this one alone.
    """
    trial.storage.set_trial_system_attr(trial._trial_id, _CONSTRAINTS_KEY, list(excesses))


def constraints_of(trial: FrozenTrial) -> tuple[float, ...]:
    """What `put_constraints` recorded; empty if nothing."""
    return tuple(trial.system_attrs.get(_CONSTRAINTS_KEY, ()))


def is_infeasible(trial: FrozenTrial) -> bool:
    """Whether a trial breaks a constraint."""
    return any(excess > 0 for excess in constraints_of(trial))


def was_refused(trial: FrozenTrial) -> bool:
    """Whether a trial was infeasible before any training, so that it has cost nothing."""
    return trial.state == TrialState.FAIL and is_infeasible(trial)


def was_answered(trial: FrozenTrial) -> bool:
    """Whether a trial was not trained, but given what another one had come to."""
    return ANSWERED_BY in trial.user_attrs


@dataclass(frozen=True, kw_only=True)
class SearchEnd:
    """Why a search ended before its budget was spent.

    Attributes:
        by: the condition, e.g. "patience_trials".
        limit: its value when it ended the search; None if it has none.
        reason: in words.
        n_trials: the budget at that time.
    """

    by: str
    limit: float | bool | None
    reason: str
    n_trials: int


def put_search_end(study: Study, end: SearchEnd | None) -> None:
    """Record why a search ended, or that it goes on."""
    study.set_user_attr(_SEARCH_END_KEY, None if end is None else asdict(end))


def search_end(study: Study) -> SearchEnd | None:
    """Why the search ended early; None if it did not."""
    recorded = study.user_attrs.get(_SEARCH_END_KEY)
    return None if recorded is None else SearchEnd(**recorded)


def count_states(study: Study) -> Counter[str]:
    """How many trials are in each state, by Optuna's names: COMPLETE, PRUNED, FAIL, ..."""
    return Counter(trial.state.name for trial in study.get_trials(deepcopy=False))
