"""What a valid spec does that its author may not expect."""

from __future__ import annotations

from dataclasses import dataclass

from hpo.search.opening import opening_of
from hpo.search.space import is_grid_point, n_grid_cells
from hpo.spec import ExperimentSpec, GridSpec, condition_text, conditions

MODELS_OF_FIXED_SPACES = ("gp", "cmaes")
"""Samplers whose model needs a value of every parameter of every trial."""


@dataclass(frozen=True)
class Surprise:
    """What happens, which names the sampler unless all do it, and how to have it otherwise."""

    what: str
    way_out: str


def warnings_about(spec: ExperimentSpec) -> list[str]:
    """One sentence or two each: what happens, and the ways out."""
    return [f"{surprise.what}. {surprise.way_out}" for surprise in surprises_of(spec)]


def surprises_of(spec: ExperimentSpec) -> list[Surprise]:
    """The same in its parts: a way out is one of `hpo run`, and other commands have others."""
    found = _of_the_model(spec) + _of_the_opening(spec)
    return found + _of_the_grid(spec) if isinstance(spec.sampler, GridSpec) else found


def _of_the_grid(spec: ExperimentSpec) -> list[Surprise]:
    n_cells, n_trials = n_grid_cells(spec.search_space) or 0, spec.budget.n_trials
    n_for_all = n_cells + len(opening_of(spec))  # if all of these lie beside the grid
    found = []
    if n_cells > n_trials:
        found.append(
            Surprise(
                f"the grid has {n_cells:,} cells and the budget {n_trials:,} trials: a random part "
                "of the grid is tried, which the seed decides",
                f"For all of it: -o budget.n_trials={n_for_all}; or give fewer points (`grid`, "
                "`step`), or another sampler: -o sampler=tpe",
            )
        )
    for name, parameter in spec.search_space.items():
        for parent, allowed in conditions(parameter).items():
            if not any(is_grid_point(spec.search_space[parent], value) for value in allowed):
                found.append(
                    Surprise(
                        f"the grid never tries `{name}`: it is drawn when "
                        f"{condition_text(parameter)}, which is no grid point of `{parent}`",
                        f"Change search_space.{parent}.grid",
                    )
                )
    return found


def _of_the_model(spec: ExperimentSpec) -> list[Surprise]:
    conditional = [name for name, p in spec.search_space.items() if conditions(p)]
    if not conditional or spec.sampler.name not in MODELS_OF_FIXED_SPACES:
        return []
    return [
        Surprise(
            f"sampler {spec.sampler.name} models only the parameters that every trial has. Those "
            f"with a condition ({', '.join(conditional)}) are drawn at random, each by itself",
            "A sampler that models them: -o sampler=tpe",
        )
    ]


def _of_the_opening(spec: ExperimentSpec) -> list[Surprise]:
    n_first, n_trials = len(opening_of(spec)), spec.budget.n_trials
    if n_first <= n_trials:
        return []
    return [
        Surprise(
            f"{n_first} configs are given by `default` and `enqueue` and the budget has {n_trials} "
            "trials: the last ones are not tried",
            f"For all of them: -o budget.n_trials={n_first}",
        )
    ]
