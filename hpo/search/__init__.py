"""The search: spaces, samplers, schedulers, and the study as a source of tasks."""

from hpo.search.advice import warnings_about
from hpo.search.narrowing import awaits_lr_range, narrowed
from hpo.search.opening import (
    defaults,
    enqueue_opening,
    opening_of,
    record_opening,
    recorded_opening,
    warm_params,
)
from hpo.search.samplers import SAMPLERS, build_sampler
from hpo.search.schedulers import SCHEDULERS, build_scheduler
from hpo.search.source import SearchObserver, StudySource, n_trials_of
from hpo.search.space import (
    Space,
    ask,
    distributions,
    draw,
    grid,
    grid_points,
    is_conditional,
    n_distinct_configs,
    n_grid_cells,
    values,
)

__all__ = [
    "SAMPLERS",
    "SCHEDULERS",
    "SearchObserver",
    "Space",
    "StudySource",
    "ask",
    "awaits_lr_range",
    "build_sampler",
    "build_scheduler",
    "defaults",
    "distributions",
    "draw",
    "enqueue_opening",
    "grid",
    "grid_points",
    "is_conditional",
    "n_distinct_configs",
    "n_grid_cells",
    "n_trials_of",
    "narrowed",
    "opening_of",
    "record_opening",
    "recorded_opening",
    "values",
    "warm_params",
    "warnings_about",
]
