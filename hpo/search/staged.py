"""A search in stages: each searches some parameters and leaves the others at the best known value.

Coordinate descent in the order that the spec gives, most important parameters first. Which stage a
trial belongs to follows from how many trials have ended, so it depends on no timing.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hpo.search.auto import choose_sampler
from hpo.search.samplers import build_sampler, named_sampler
from hpo.search.shown import with_trials
from hpo.search.space import Space, start_value
from hpo.spec import AutoSpec, ExperimentSpec, FoundParameter, GpSpec, SamplerSpec, TpeSpec
from storage import enqueued_params, is_infeasible, put_stage, stage_of, was_refused

OPENING_STAGE = 0
"""What the search begins with stands before its first stage, which is number 1."""


def search_sampler(spec: ExperimentSpec, n_trials: int) -> BaseSampler:
    """The sampler of a search of ``n_trials``, in stages or not."""
    if not spec.stages:
        return build_sampler(
            spec.sampler,
            spec.search_space,
            spec.seed,
            n_trials,
            len(spec.objectives),
            spec.n_trial_seeds,
        )
    return StagedSampler(spec, n_trials)


def named_search(spec: ExperimentSpec, n_trials: int, n_opening: int) -> tuple[str, str]:
    """The sampler as a report tells it, and why it was chosen or what its stages are."""
    if not spec.stages:
        return named_sampler(spec.sampler, spec.search_space, n_trials, len(spec.objectives))
    sizes = shares(n_trials - n_opening, len(spec.stages))
    names = [
        named_sampler(spec.sampler, _part(spec.search_space, part), size)[0]
        for part, size in zip(spec.stages, sizes, strict=True)
    ]
    told = [f"{' '.join(part)} ({size})" for part, size in zip(spec.stages, sizes, strict=True)]
    return f"{', then '.join(dict.fromkeys(names))} in stages", " -> ".join(told)


def chosen_samplers(spec: ExperimentSpec, n_trials: int, n_opening: int) -> list[SamplerSpec]:
    """The sampler of the search, or of each of its stages; in place of ``auto`` what it chooses."""

    def chosen(space: Space, size: int) -> SamplerSpec:
        if not isinstance(spec.sampler, AutoSpec):
            return spec.sampler
        return choose_sampler(space, size, len(spec.objectives))[0]

    if not spec.stages:
        return [chosen(spec.search_space, n_trials)]
    sizes = shares(n_trials - n_opening, len(spec.stages))
    return [
        chosen(_part(spec.search_space, part), size)
        for part, size in zip(spec.stages, sizes, strict=True)
    ]


def shares(n_trials: int, n_stages: int) -> list[int]:
    """Trials of each stage: as many for all, the rest for the first ones.

    Args:
        n_trials: of all stages; below 0 is none.
        n_stages: how many there are.
    """
    even, rest = divmod(max(n_trials, 0), n_stages)
    return [even + (index < rest) for index in range(n_stages)]


def is_of_opening(trial: FrozenTrial) -> bool:
    """Whether a trial is one that the search begins with."""
    return enqueued_params(trial) is not None


def stage_that_is_due(spec: ExperimentSpec, n_trials: int, trials: Sequence[FrozenTrial]) -> int:
    """The stage of a trial that is drawn now, counted from 1.

    A stage is over once as many trials have ended as it and those before it have together. With a
    larger budget the search goes on in the stage that it has reached.

    Args:
        spec: has the stages.
        n_trials: of the whole search.
        trials: of the study, whether they have ended or not.
    """
    ends = _ends(spec, n_trials, trials)
    n_spent = sum(_is_spent(trial) for trial in trials)
    reached = max((stage_of(trial) or 1 for trial in trials), default=1)
    due = next((number for number, end in enumerate(ends, start=1) if n_spent < end), len(ends))
    return max(due, reached)


def must_wait(
    spec: ExperimentSpec, n_trials: int, trials: Sequence[FrozenTrial], running: Container[int]
) -> bool:
    """Whether the next trial is of a stage that begins only when those that run have ended.

    Args:
        spec: has the stages, or none: then nothing waits.
        n_trials: of the whole search.
        trials: of the study.
        running: numbers of the trials that run.
    """
    n_running = sum(trial.number in running for trial in trials)
    if not spec.stages or not n_running:
        return False
    opening = [trial for trial in trials if is_of_opening(trial)]
    if any(trial.state == TrialState.WAITING for trial in opening):
        return False
    if any(trial.number in running for trial in opening):
        return True
    n_taken = sum(_is_spent(trial) for trial in trials) + n_running
    stage = stage_that_is_due(spec, n_trials, trials)
    return n_taken >= _ends(spec, n_trials, trials)[stage - 1]


def _ends(spec: ExperimentSpec, n_trials: int, trials: Sequence[FrozenTrial]) -> list[int]:
    """How many trials have been spent when each of the stages is over."""
    n_opening = sum(_is_spent(trial) for trial in trials if is_of_opening(trial))
    sizes = shares(n_trials - n_opening, len(spec.stages))
    return [n_opening + end for end in itertools.accumulate(sizes)]


def _is_spent(trial: FrozenTrial) -> bool:
    return trial.state.is_finished() and not was_refused(trial)


def _part(space: Space, names: Sequence[str]) -> Space:
    """Some of the parameters, in the order of the space: what decides is drawn first."""
    return {name: parameter for name, parameter in space.items() if name in names}


def _begun_sooner(sampler: SamplerSpec, space: Space, n_trials: int) -> SamplerSpec:
    """The sampler of a stage: at most half of its trials are drawn before there is a model."""
    if isinstance(sampler, AutoSpec):
        sampler, _ = choose_sampler(space, n_trials)
    if not isinstance(sampler, GpSpec | TpeSpec):
        return sampler
    n_startup_trials = min(sampler.n_startup_trials, max(1, n_trials // 2))
    return sampler.model_copy(update={"n_startup_trials": n_startup_trials})


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """What a sampler must know of the stage of one trial; ``number`` 0 is the opening."""

    number: int
    space: Space
    pinned: Mapping[str, Any]
    sampler: BaseSampler | None
    incumbent: FrozenTrial | None


class StagedSampler(BaseSampler):
    """The spec's sampler, in each stage a new one, for the parameters of the stage alone.

    It is shown the trials of the stage and the incumbent with which the stage began. The other
    parameters keep the incumbent's values: that is the best feasible COMPLETE trial of the stages
    before. Until there is one they keep their start values, and so does what the opening lacks.
    """

    def __init__(self, spec: ExperimentSpec, n_trials: int) -> None:
        self._spec, self._n_trials = spec, n_trials
        self._start = {
            name: start_value(parameter)
            for name, parameter in spec.search_space.items()
            if not isinstance(parameter, FoundParameter)
        }
        self._samplers: dict[int, BaseSampler] = {}
        self._stage: tuple[int, _Stage] | None = None

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Find out the trial's stage, and record it."""
        stage = self._stage_of(study, trial)
        self._stage = (trial.number, stage)
        put_stage(study, trial, stage.number)
        if stage.sampler is not None:
            stage.sampler.before_trial(self._shown(study, stage), trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """As the sampler says, of the stage's parameters."""
        stage = self._current(study, trial)
        if stage.sampler is None:
            return {}
        found = stage.sampler.infer_relative_search_space(self._shown(study, stage), trial)
        return {name: one for name, one in found.items() if name in stage.space}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the sampler says."""
        stage = self._current(study, trial)
        if stage.sampler is None:
            return {}
        return stage.sampler.sample_relative(self._shown(study, stage), trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """As the sampler says of the stage's parameters; the others are pinned."""
        stage = self._current(study, trial)
        if stage.sampler is None or param_name not in stage.space:
            return stage.pinned.get(param_name, self._start[param_name])
        shown = self._shown(study, stage)
        return stage.sampler.sample_independent(shown, trial, param_name, param_distribution)

    def _current(self, study: Study, trial: FrozenTrial) -> _Stage:
        if self._stage is None or self._stage[0] != trial.number:
            self._stage = (trial.number, self._stage_of(study, trial))
        return self._stage[1]

    def _stage_of(self, study: Study, trial: FrozenTrial) -> _Stage:
        trials = study.get_trials(deepcopy=False)
        if is_of_opening(trials[trial.number]):
            return _Stage(number=OPENING_STAGE, space={}, pinned={}, sampler=None, incumbent=None)
        number = stage_that_is_due(self._spec, self._n_trials, trials)
        before = [one for one in trials if (stage_of(one) or 0) < number]
        best = _best(before, is_maximized=self._spec.objective.direction == "maximize")
        names = self._spec.stages[number - 1]
        return _Stage(
            number=number,
            space=_part(self._spec.search_space, names),
            pinned={} if best is None else best.params,
            sampler=self._sampler(number, trials),
            incumbent=best,
        )

    def _sampler(self, number: int, trials: Sequence[FrozenTrial]) -> BaseSampler:
        if number not in self._samplers:
            n_opening = sum(_is_spent(trial) for trial in trials if is_of_opening(trial))
            size = shares(self._n_trials - n_opening, len(self._spec.stages))[number - 1]
            space = _part(self._spec.search_space, self._spec.stages[number - 1])
            sampler = _begun_sooner(self._spec.sampler, space, size)
            self._samplers[number] = build_sampler(
                sampler, space, self._spec.seed, size, n_seeds=self._spec.n_trial_seeds
            )
        return self._samplers[number]

    def _shown(self, study: Study, stage: _Stage) -> Study:
        """The study as far as the stage goes."""

        def of_stage(trials: list[FrozenTrial]) -> list[FrozenTrial]:
            return [
                _alone(trial) if trial.number not in numbers else trial
                for trial in trials
                if trial.number in numbers or trial.number == best
            ]

        numbers = {
            trial.number
            for trial in study.get_trials(deepcopy=False)
            if stage_of(trial) == stage.number
        }
        best = None if stage.incumbent is None else stage.incumbent.number
        return with_trials(study, of_stage)


def _alone(trial: FrozenTrial) -> FrozenTrial:
    """A trial of another stage, without what its sampler has noted on it for itself."""
    shown = copy.copy(trial)
    shown.system_attrs = {}
    return shown


def _best(trials: Sequence[FrozenTrial], *, is_maximized: bool) -> FrozenTrial | None:
    """The incumbent; of equal ones the first."""
    feasible = [t for t in trials if t.state == TrialState.COMPLETE and not is_infeasible(t)]
    sign = -1 if is_maximized else 1
    return min(feasible, key=lambda trial: sign * (trial.value or 0.0), default=None)
