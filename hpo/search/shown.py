"""The study as a sampler shall see it, so that it learns from failures."""

from __future__ import annotations

import copy
from collections.abc import Container, Sequence

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState


def with_failures(study: Study) -> Study:
    """The same study, in which a trial that failed is one that was stopped before its first epoch.

    Optuna's TPE passes over failed trials, and so proposes their like again. It takes a trial that
    was stopped with nothing to show for the worst of all.
    """
    shown = _WithFailures.__new__(_WithFailures)
    shown.__dict__.update(study.__dict__)
    return shown


class _WithFailures(Study):
    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        trials = _shown(super()._get_trials(deepcopy, None, use_cache))
        return [trial for trial in trials if states is None or trial.state in states]


def _shown(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [
        _stopped_at_once(trial) if trial.state == TrialState.FAIL else trial for trial in trials
    ]


def _stopped_at_once(trial: FrozenTrial) -> FrozenTrial:
    shown = copy.copy(trial)
    shown.state, shown.intermediate_values = TrialState.PRUNED, {}
    return shown
