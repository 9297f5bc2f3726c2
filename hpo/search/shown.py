"""The study as a sampler shall see it, so that it learns from failures."""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Sequence

from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState


def with_failures(study: Study) -> Study:
    """The same study, in which a trial that failed is one that was stopped before its first epoch.

    Optuna's TPE passes over failed trials, and so proposes their like again. It takes a trial that
    was stopped with nothing to show for the worst of all.
    """
    return with_trials(study, _shown)


def with_failures_as_worst(study: Study) -> Study:
    """The same study, in which a trial that failed is one that came out as the worst did.

    Optuna's GPSampler learns from COMPLETE trials alone. Without one, failures stay what they are.
    """

    def shown(trials: list[FrozenTrial]) -> list[FrozenTrial]:
        told = [trial.values for trial in trials if trial.state == TrialState.COMPLETE]
        if not told:
            return trials
        worst = [
            min(column) if direction == StudyDirection.MAXIMIZE else max(column)
            for direction, column in zip(study.directions, zip(*told, strict=True), strict=True)
        ]
        return [
            _complete(trial, worst) if trial.state == TrialState.FAIL else trial for trial in trials
        ]

    return with_trials(study, shown)


def with_trials(study: Study, seen: Callable[[list[FrozenTrial]], list[FrozenTrial]]) -> Study:
    """The same study, of whose trials one sees what ``seen`` makes of them."""
    shown = _Seen.__new__(_Seen)
    shown.__dict__.update(study.__dict__)
    shown._study, shown._seen = study, seen
    return shown


class _Seen(Study):
    _study: Study
    _seen: Callable[[list[FrozenTrial]], list[FrozenTrial]]

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        trials = self._seen(self._study._get_trials(deepcopy, None, use_cache))
        return [trial for trial in trials if states is None or trial.state in states]


def _shown(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [
        _stopped_at_once(trial) if trial.state == TrialState.FAIL else trial for trial in trials
    ]


def _complete(trial: FrozenTrial, values: Sequence[float]) -> FrozenTrial:
    shown = copy.copy(trial)
    shown.state, shown.values = TrialState.COMPLETE, list(values)
    return shown


def _stopped_at_once(trial: FrozenTrial) -> FrozenTrial:
    shown = copy.copy(trial)
    shown.state, shown.intermediate_values = TrialState.PRUNED, {}
    return shown
