"""The search: spaces, samplers, schedulers, and the study as a source of tasks."""

from hpo.search.advice import surprises_of, warnings_about
from hpo.search.ending import is_over, is_spent_on, n_spent, n_trials_of
from hpo.search.many import ManyStudies
from hpo.search.narrowing import awaits_lr_range, narrowed
from hpo.search.opening import (
    defaults,
    enqueue_opening,
    opening_of,
    record_opening,
    recorded_opening,
    warm_params,
)
from hpo.search.pbt import search_source
from hpo.search.samplers import SAMPLERS, build_sampler, named_sampler
from hpo.search.shared import SharedCourses, recorded_course
from hpo.search.source import SearchObserver, StudySource
from hpo.search.space import (
    Space,
    ask,
    distributions,
    draw,
    grid,
    grid_points,
    n_distinct_configs,
    n_grid_cells,
    n_grid_points,
    values,
)
from hpo.search.staged import chosen_samplers, named_search, search_sampler
from hpo.search.timed import TimedSampler

__all__ = [
    "SAMPLERS",
    "ManyStudies",
    "SearchObserver",
    "SharedCourses",
    "Space",
    "StudySource",
    "TimedSampler",
    "ask",
    "awaits_lr_range",
    "build_sampler",
    "chosen_samplers",
    "defaults",
    "distributions",
    "draw",
    "enqueue_opening",
    "grid",
    "grid_points",
    "is_over",
    "is_spent_on",
    "n_distinct_configs",
    "n_grid_cells",
    "n_grid_points",
    "n_spent",
    "n_trials_of",
    "named_sampler",
    "named_search",
    "narrowed",
    "opening_of",
    "record_opening",
    "recorded_course",
    "recorded_opening",
    "search_sampler",
    "search_source",
    "surprises_of",
    "values",
    "warm_params",
    "warnings_about",
]
