"""What a valid spec does that its author may not expect."""

from __future__ import annotations

from hpo.search.opening import opening_of
from hpo.search.space import is_grid_point, n_grid_cells
from hpo.spec import ExperimentSpec, GridSpec, condition_text, conditions

MODELS_OF_FIXED_SPACES = ("gp", "cmaes")
"""Samplers whose model needs a value of every parameter of every trial."""


def warnings_about(spec: ExperimentSpec) -> list[str]:
    """One sentence or two each: what happens, with its numbers, and the ways out."""
    warnings = _of_the_model(spec) + _of_the_opening(spec)
    return warnings + _of_the_grid(spec) if isinstance(spec.sampler, GridSpec) else warnings


def _of_the_grid(spec: ExperimentSpec) -> list[str]:
    n_cells, n_trials = n_grid_cells(spec.search_space) or 0, spec.budget.n_trials
    n_for_all = n_cells + len(opening_of(spec))  # if all of these lie beside the grid
    warnings = []
    if n_cells > n_trials:
        warnings.append(
            f"the grid has {n_cells:,} cells and the budget {n_trials:,} trials: a random part of "
            f"the grid is tried, which the seed decides. For all of it: "
            f"-o budget.n_trials={n_for_all}; or give fewer points (`grid`, `step`), or another "
            "sampler: -o sampler=tpe"
        )
    for name, parameter in spec.search_space.items():
        for parent, allowed in conditions(parameter).items():
            if not any(is_grid_point(spec.search_space[parent], value) for value in allowed):
                warnings.append(
                    f"`{name}` is never tried: it is drawn when {condition_text(parameter)}, which "
                    f"is no grid point of `{parent}`. Change search_space.{parent}.grid"
                )
    return warnings


def _of_the_model(spec: ExperimentSpec) -> list[str]:
    conditional = [name for name, p in spec.search_space.items() if conditions(p)]
    if not conditional or spec.sampler.name not in MODELS_OF_FIXED_SPACES:
        return []
    return [
        f"sampler {spec.sampler.name} models only the parameters that every trial has. Those with "
        f"a condition ({', '.join(conditional)}) are drawn at random, each by itself. A sampler "
        "that models them: -o sampler=tpe"
    ]


def _of_the_opening(spec: ExperimentSpec) -> list[str]:
    n_first, n_trials = len(opening_of(spec)), spec.budget.n_trials
    if n_first <= n_trials:
        return []
    return [
        f"{n_first} configs are given by `default` and `enqueue` and the budget has {n_trials} "
        f"trials: the last ones are not tried. For all of them: -o budget.n_trials={n_first}"
    ]
