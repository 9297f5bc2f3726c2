"""The search: spaces, samplers, schedulers, and the study as a source of tasks."""

from hpo.search.many import ManyStudies
from hpo.search.narrowing import awaits_lr_range, narrowed
from hpo.search.samplers import SAMPLERS, build_sampler
from hpo.search.schedulers import SCHEDULERS, build_scheduler
from hpo.search.source import SearchObserver, StudySource, n_trials_of
from hpo.search.space import Space, distributions, grid, n_distinct_configs, values
from hpo.search.timed import TimedSampler

__all__ = [
    "SAMPLERS",
    "SCHEDULERS",
    "ManyStudies",
    "SearchObserver",
    "Space",
    "StudySource",
    "TimedSampler",
    "awaits_lr_range",
    "build_sampler",
    "build_scheduler",
    "distributions",
    "grid",
    "n_distinct_configs",
    "n_trials_of",
    "narrowed",
    "values",
]
