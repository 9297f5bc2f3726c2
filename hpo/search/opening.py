"""The trials a search begins with: an expert's defaults, what the spec lists, others' best.

They are decided once, when the experiment begins, and recorded in the study in one write. Trial
``n`` of the study is number ``n`` of them, so a search that was cut off while they were put into
the queue knows which are missing.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any

from optuna.study import Study, StudyDirection
from optuna.trial import TrialState

from hpo.failpoints import failpoint
from hpo.search.space import Space, grid, is_grid_point
from hpo.seeds import derive_seed
from hpo.spec import ExperimentSpec, FoundParameter, GridSpec, conditions
from storage import is_infeasible

Params = dict[str, Any]
OPENING = "opening"
"""Attribute of the study: the params that its first trials are made of."""
N_WARM = 3
"""Configs that each experiment of ``warm_start`` gives."""


def record_opening(study: Study, opening: list[Params]) -> None:
    """Decide for good what the search begins with."""
    study.set_user_attr(OPENING, opening)


def recorded_opening(study: Study) -> list[Params] | None:
    """What was decided; None if nothing was."""
    opening: list[Params] | None = study.user_attrs.get(OPENING)
    return opening


def opening_of(spec: ExperimentSpec, warm: Iterable[Params] = ()) -> list[Params]:
    """The params that the first trials are made of, each once; what they lack is drawn.

    Args:
        spec: has the defaults, which come first, and what it enqueues.
        warm: the best of other experiments; they come last.
    """
    space = spec.search_space
    if isinstance(spec.sampler, GridSpec):
        warm = (_on_grid(params, space) for params in warm)
    return _distinct([defaults(space), *spec.enqueue, *warm], space)


def defaults(space: Space) -> Params:
    """What an expert has said each parameter should be, whether it is drawn or not."""
    return {
        name: parameter.default
        for name, parameter in space.items()
        if not isinstance(parameter, FoundParameter) and parameter.has_default
    }


def enqueue_opening(study: Study, spec: ExperimentSpec) -> None:
    """Put what the search begins with into the queue; what is there already stays."""
    decided = recorded_opening(study)
    # Fitted again: a range may have been found since.
    opening = _distinct(opening_of(spec) if decided is None else decided, spec.search_space)
    if isinstance(spec.sampler, GridSpec):
        opening = completed_on_grid(opening, spec)
    for params in opening[len(study.get_trials(deepcopy=False)) :]:
        study.enqueue_trial(params)
        failpoint("first trial enqueued")


def completed_on_grid(opening: Iterable[Params], spec: ExperimentSpec) -> list[Params]:
    """With a grid nothing is tried twice: what is left open becomes a combination of its own."""
    done: list[Params] = []
    for index, params in enumerate(opening):
        cells = grid(spec.search_space, given=params)
        random.Random(derive_seed(spec.seed, index, "opening")).shuffle(cells)  # noqa: S311
        if cell := next((cell for cell in cells if cell not in done), None):
            done.append(cell)
    return done


def n_off_grid(spec: ExperimentSpec) -> int:
    """How many of the first trials are no cells of the grid: it grows by them."""
    return sum(
        _on_grid(params, spec.search_space) != params
        for params in completed_on_grid(opening_of(spec), spec)
    )


def warm_params(study: Study, fixed: Mapping[str, Any], space: Space) -> list[Params]:
    """The best distinct configs of another study, as far as they fit ``space``; best first.

    Of several objectives they are those of the Pareto front that are best in the first.

    Args:
        study: of an experiment of the same database.
        fixed: that experiment's fixed values, which may be searched here.
        space: of the search that begins.
    """
    complete = [
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not is_infeasible(trial)
    ]
    if len(study.directions) > 1:
        complete = study.best_trials
    is_maximized = study.directions[0] == StudyDirection.MAXIMIZE
    trials = sorted(complete, key=lambda trial: trial.values[0], reverse=is_maximized)
    return _distinct(({**fixed, **trial.params} for trial in trials), space)[:N_WARM]


def _distinct(configs: Iterable[Mapping[str, Any]], space: Space) -> list[Params]:
    """What of each config fits the space, each once; of some nothing fits."""
    distinct: list[Params] = []
    for config in configs:
        params = fitted(config, space)
        if params and params not in distinct:
            distinct.append(params)
    return distinct


def fitted(params: Mapping[str, Any], space: Space) -> Params:
    """What of ``params`` a trial of the space can be made of; the rest is drawn.

    A value that a parameter cannot take is left out, and so is one whose condition does not hold.
    Where it is open whether it holds, the value stays: Optuna takes it if it turns out to.
    """
    fitting: Params = {}
    inactive: set[str] = set()
    for name, parameter in space.items():
        if any(
            parent in inactive or (parent in fitting and fitting[parent] not in allowed)
            for parent, allowed in conditions(parameter).items()
        ):
            inactive.add(name)
        elif name not in params:
            continue
        elif isinstance(parameter, FoundParameter):
            fitting[name] = params[name]
        elif parameter.accepts(params[name]):
            fitting[name] = parameter.as_drawn(params[name])
    return fitting


def _on_grid(params: Mapping[str, Any], space: Space) -> Params:
    return {
        name: value
        for name, value in params.items()
        if name in space and is_grid_point(space[name], value)
    }
