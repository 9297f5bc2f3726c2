"""Several objectives: the trials on the Pareto front, and the rule that picks a winner of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial

from hpo.spec import ExperimentSpec
from storage import pareto_front

if TYPE_CHECKING:
    from hpo.results.outcome import Finalist, Outcome


def front_of(trials: Sequence[FrozenTrial], spec: ExperimentSpec) -> list[FrozenTrial]:
    """The feasible COMPLETE trials that none is better than, the best in the first objective first.

    Of a single objective these are the best trials.
    """
    numbers = set(pareto_front(trials, [objective.direction for objective in spec.objectives]))
    sign = spec.objective.sign
    front = [trial for trial in trials if trial.number in numbers]
    return sorted(front, key=lambda trial: (sign * trial.values[0], trial.number))


def by_one_standard_error(ranked: Sequence[Finalist], spec: ExperimentSpec) -> tuple[Finalist, ...]:
    """The finalists with the winner first.

    Of those whose mean of the first objective lies within one standard error of the best mean, it
    is the best one in the second objective, then in the third. Source: Breiman et al. 1984,
    "Classification and Regression Trees", section 3.4.3; Hastie et al. 2009, section 7.10.

    Args:
        ranked: the best mean first, those without a mean last.
        spec: names the objectives.
    """
    if not spec.is_multi_objective or not ranked or ranked[0].estimate is None:
        return tuple(ranked)
    best, sign = ranked[0].estimate, spec.objective.sign
    reach = best.standard_error or 0.0
    near = [
        one for one in ranked if one.mean is not None and sign * (one.mean - best.mean) <= reach
    ]

    def costs(finalist: Finalist) -> list[float]:
        others = [one.sign * finalist.others[one.metric] for one in spec.objectives[1:]]
        return [*others, sign * (finalist.mean or 0.0)]

    winner = min(near, key=costs)
    return (winner, *(finalist for finalist in ranked if finalist is not winner))


def rule_text(spec: ExperimentSpec) -> str:
    """How the winner was chosen: "smallest size within 1 s.e. of the best accuracy"."""
    second = spec.objectives[1]
    extreme = "largest" if second.direction == "maximize" else "smallest"
    return f"{extreme} {second.metric} within 1 s.e. of the best {spec.objective.metric}"


def others_text(finalist: Finalist) -> str:
    """``n_parameters 1,234``: what a finalist has in all objectives but the first."""
    return ", ".join(f"{metric} {shown(value)}" for metric, value in finalist.others.items())


def shown(value: float) -> str:
    """A count as a count, anything else with four significant digits."""
    is_count = float(value).is_integer() and abs(value) < 1e12
    return f"{value:,.0f}" if is_count else f"{value:.4g}"


def seen_by_each_objective(outcome: Outcome, study: Study) -> list[tuple[Outcome, Study]]:
    """The experiment once for each objective, as if that were its only one.

    What shows a search by one value can then show it by any; the study is a copy in memory.
    """
    if not outcome.spec.is_multi_objective:
        return [(outcome, study)]
    return [_seen_by(outcome, index) for index in range(len(outcome.spec.objectives))]


def _seen_by(outcome: Outcome, index: int) -> tuple[Outcome, Study]:
    objective = outcome.spec.objectives[index]
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would tell of the copy
    study = optuna.create_study(direction=objective.direction)
    for trial in outcome.trials:
        seen = copy.copy(trial)
        seen.values = None if trial.values is None else [trial.values[index]]
        study.add_trial(seen)
    spec = outcome.spec.model_copy(update={"objectives": [objective]})
    return replace(outcome, spec=spec, trials=study.get_trials(deepcopy=False)), study
