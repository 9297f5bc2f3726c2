"""What a run would do, before anything is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna

from hpo.lineage import population_text
from hpo.places import Places
from hpo.results import params_text
from hpo.search import (
    ask,
    awaits_lr_range,
    defaults,
    draw,
    enqueue_opening,
    n_distinct_configs,
    n_grid_cells,
    n_trials_of,
    named_search,
    record_opening,
    search_sampler,
)
from hpo.spec import (
    ExperimentSpec,
    FloatParameter,
    FoundParameter,
    GridSpec,
    condition_text,
    conditions,
)
from hpo.workspace import planned_opening
from trainables import LR

N_SHOWN = 3


def size_of(spec: ExperimentSpec) -> dict[str, int | None]:
    """How many trials, parameters and distinct configs; None where a parameter is continuous."""
    return {
        "n_trials": n_trials_of(spec),
        "n_parameters": len(spec.search_space),
        "n_conditional": len(_conditions(spec)),
        "n_distinct_configs": n_distinct_configs(spec.search_space),
        "n_grid": n_grid_cells(spec.search_space) if isinstance(spec.sampler, GridSpec) else None,
    }


def _conditions(spec: ExperimentSpec) -> list[str]:
    """When each parameter is drawn that is not drawn always."""
    return [
        f"{name} when {condition_text(parameter)}"
        for name, parameter in spec.search_space.items()
        if conditions(parameter)
    ]


def plan_text(spec: ExperimentSpec, places: Places) -> str:
    """The plan of `hpo run`, with the first configs that would be tried.

    Raises:
        UsageError: if ``warm_start`` names an experiment that is not there.
    """
    opening, drawn_when = planned_opening(spec, places), _conditions(spec)
    budget, resources = spec.budget, spec.resources
    sampler, note = named_search(spec, n_trials_of(spec), len(opening))
    epochs = (
        "epochs as the trainable likes"
        if budget.max_epochs is None
        else (f"at most {budget.max_epochs} epochs each")
    )
    limit = "" if budget.time_limit_s is None else f", within {budget.time_limit_s:g} s"
    lines = [
        f"experiment  {spec.name}, in {places.run_folder(spec.name)}",
        f"trainable   {spec.trainable}, cpu={resources.cpu:g} gpu={resources.gpu:g} per trial",
        f"objective   {', '.join(f'{one.direction} {one.metric}' for one in spec.objectives)}",
        f"search      {n_trials_of(spec)} trials, {epochs}{limit}",
        f"            sampler {sampler}, scheduler {spec.scheduler.name}",
        *([f"            {sampler}: {note}"] if note else []),
        *([f"            pbt: {told}"] if (told := population_text(spec)) else []),
        *(f"            {line}" for line in _ends_and_limits(spec)),
        _finalists_line(spec),
        *([f"            its range of {LR} is found first"] if awaits_lr_range(spec) else []),
        *(f"{'' if index else 'conditions':<12}{text}" for index, text in enumerate(drawn_when)),
        "first configs",
        *(f"  {params_text(params)}" for params in first_params(spec, N_SHOWN, opening)),
        "nothing was run",
    ]
    return "\n".join(lines)


def _finalists_line(spec: ExperimentSpec) -> str:
    finalists = spec.finalists
    line = f"finalists   best {finalists.k} re-run on {finalists.n_seeds} seeds"
    n_at_most = int(finalists.max_share * spec.budget.n_trials)
    n_at_least = finalists.k * finalists.n_seeds + finalists.confirmations
    if n_at_most >= n_at_least + 2:  # of two that are close
        line += f" (on more while they are close, up to {n_at_most} runs in all)"
    return line + (
        f", the winner on {finalists.confirmations} more" * (finalists.confirmations > 0)
    )


def _ends_and_limits(spec: ExperimentSpec) -> list[str]:
    """What may end the search early, and what a config must keep to."""
    budget, lines = spec.budget, []
    ends = [
        f"{spec.objective.metric} of {budget.target_value} is reached",
        f"{budget.patience_trials} trials have not improved it",
        "the terminator expects no gain worth having",
    ]
    conditions = (budget.target_value, budget.patience_trials, budget.terminator or None)
    if given := [end for end, at in zip(ends, conditions, strict=True) if at is not None]:
        lines.append(f"or until {', or '.join(given)}")
    for name, limit in spec.constraints.items():
        at = [
            f"{word} {end:g}"
            for word, end in (("at least", limit.min), ("at most", limit.max))
            if end is not None
        ]
        lines.append(f"within {name} {', '.join(at)}")
    return lines


SOME_RANGE = (1e-9, 1e9)
"""Of a learning rate that is still to be found; what is drawn from it is used nowhere."""


def first_params(
    spec: ExperimentSpec, n: int, opening: list[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """What is tried before there is a result; a range to be found yields nothing.

    Args:
        spec: names the search space and the sampler.
        n: how many configs, unless the search has fewer.
        opening: what the search begins with; None for what the spec itself says.
    """
    whole = _as_if_found(spec)
    study = _study_in_memory(whole, opening)
    drawn = [ask(study, whole.search_space).params for _ in range(min(n, n_trials_of(spec)))]
    return [_without_found(spec, params) for params in drawn]


def first_config(spec: ExperimentSpec, given: Mapping[str, Any]) -> dict[str, Any]:
    """The params of trial 0 but for those ``given``, which may decide about others.

    A parameter that only they make active has its default, if there is one.
    """
    whole = _as_if_found(spec)
    space, trial = whole.search_space, _study_in_memory(whole).ask()
    drawn = draw(trial, space, {**defaults(space), **given})
    return {**_without_found(spec, drawn), **given}


def _as_if_found(spec: ExperimentSpec) -> ExperimentSpec:
    """With some range where one is to be found: it takes its place among what is drawn.

    Without it a Sobol sequence of one dimension less would draw the others otherwise.
    """
    found = {
        name: FloatParameter(
            type="float",
            low=SOME_RANGE[0] if parameter.low is None else parameter.low,
            high=SOME_RANGE[1] if parameter.high is None else parameter.high,
            log=True,
        )
        for name, parameter in spec.search_space.items()
        if isinstance(parameter, FoundParameter)
    }
    return spec.model_copy(update={"search_space": {**spec.search_space, **found}})


def _without_found(spec: ExperimentSpec, params: Mapping[str, Any]) -> dict[str, Any]:
    space = spec.search_space
    return {
        name: one for name, one in params.items() if not isinstance(space[name], FoundParameter)
    }


def _study_in_memory(
    spec: ExperimentSpec, opening: list[dict[str, Any]] | None = None
) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = [one.direction for one in spec.objectives]
    sampler = search_sampler(spec, spec.budget.n_trials)
    study = optuna.create_study(sampler=sampler, directions=directions)
    if opening is not None:
        record_opening(study, opening)
    enqueue_opening(study, spec)
    return study
