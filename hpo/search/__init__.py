"""The search: spaces, samplers, schedulers, and the study as a source of tasks."""

from hpo.search.ending import is_over, is_spent_on, n_spent, n_trials_of
from hpo.search.narrowing import awaits_lr_range, narrowed
from hpo.search.samplers import SAMPLERS, build_sampler
from hpo.search.schedulers import SCHEDULERS, build_scheduler
from hpo.search.source import ANSWERED_BY, SearchObserver, StudySource
from hpo.search.space import Space, distributions, grid, n_distinct_configs, values

__all__ = [
    "ANSWERED_BY",
    "SAMPLERS",
    "SCHEDULERS",
    "SearchObserver",
    "Space",
    "StudySource",
    "awaits_lr_range",
    "build_sampler",
    "build_scheduler",
    "distributions",
    "grid",
    "is_over",
    "is_spent_on",
    "n_distinct_configs",
    "n_spent",
    "n_trials_of",
    "narrowed",
    "values",
]
