"""What a run would do, before anything is done."""

from __future__ import annotations

import optuna

from hpo.places import Places
from hpo.results import params_text
from hpo.search import (
    awaits_lr_range,
    build_sampler,
    distributions,
    n_distinct_configs,
    n_trials_of,
)
from hpo.spec import ExperimentSpec, GridSpec
from trainables import LR

N_SHOWN = 3


def size_of(spec: ExperimentSpec) -> dict[str, int | None]:
    """How many trials, parameters and distinct configs; None where a parameter is continuous."""
    n_distinct = n_distinct_configs(spec.search_space)
    return {
        "n_trials": n_trials_of(spec),
        "n_parameters": len(spec.search_space),
        "n_distinct_configs": n_distinct,
        "n_grid": n_distinct if isinstance(spec.sampler, GridSpec) else None,
    }


def plan_text(spec: ExperimentSpec, places: Places) -> str:
    """The plan of `hpo run`, with the first configs that the sampler would draw."""
    budget, resources = spec.budget, spec.resources
    epochs = (
        "epochs as the trainable likes"
        if budget.max_epochs is None
        else (f"at most {budget.max_epochs} epochs each")
    )
    limit = "" if budget.time_limit_s is None else f", within {budget.time_limit_s:g} s"
    lines = [
        f"experiment  {spec.name}, in {places.run_folder(spec.name)}",
        f"trainable   {spec.trainable}, cpu={resources.cpu:g} gpu={resources.gpu:g} per trial",
        f"objective   {spec.objective.direction} {spec.objective.metric}",
        f"search      {n_trials_of(spec)} trials, {epochs}{limit}",
        f"            sampler {spec.sampler.name}, scheduler {spec.scheduler.name}",
        *(f"            {line}" for line in _ends_and_limits(spec)),
        f"finalists   best {spec.finalists.k} re-run on {spec.finalists.n_seeds} seeds",
        *([f"            its range of {LR} is found first"] if awaits_lr_range(spec) else []),
        "first configs",
        *(f"  {params_text(params)}" for params in first_params(spec, N_SHOWN)),
        "nothing was run",
    ]
    return "\n".join(lines)


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


def first_params(spec: ExperimentSpec, n: int) -> list[dict[str, object]]:
    """What the sampler draws before it has seen a result; a range to be found yields nothing."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=build_sampler(spec.sampler, spec.search_space, spec.seed))
    space = distributions(spec.search_space)
    return [study.ask(space).params for _ in range(min(n, n_trials_of(spec)))]
