"""One study of a comparison as a curve: the incumbent after each trial, and what it took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from hpo.comparison.statistics import FloatArray
from storage import EpochRecord, RerunRecord, is_infeasible, was_refused

N_POINTS = 200
"""Of an axis of epochs or seconds."""


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """What one sampler did with one seed.

    A config that was refused before any training has cost nothing and is none of the n_trials, but
    its sampler's seconds are counted.

    Attributes:
        sampler: its name.
        seed_index: which of the comparison's seeds; studies with one index are paired.
        seed: of the study, shared by all samplers.
        study_name: in the database.
        numbers: (n_trials,) of the trials, in the study.
        values: (n_trials,) value of each trial, NaN unless it is COMPLETE.
        incumbents: (n_trials,) best value up to and including each trial, NaN before the first.
        epochs: (n_trials,) epochs spent up to and including each trial.
        training_s: (n_trials,) seconds of training, likewise.
        sampler_s: (n_trials,) seconds of the sampler, likewise.
        n_planned: trials of the comparison's budget; a small grid has fewer.
        configs: params of each trial, refused ones included.
        states: how many trials ended in which way, likewise; infeasible ones stand apart from FAIL.
        best: the trial of the last incumbent; None if nothing succeeded.
        reruns: of that trial on fresh seeds.
        n_reruns: how many these shall be.
    """

    sampler: str
    seed_index: int
    seed: int
    study_name: str
    numbers: tuple[int, ...]
    values: FloatArray
    incumbents: FloatArray
    epochs: FloatArray
    training_s: FloatArray
    sampler_s: FloatArray
    n_planned: int
    configs: tuple[Mapping[str, Any], ...]
    states: Mapping[str, int]
    best: FrozenTrial | None
    reruns: tuple[RerunRecord, ...]
    n_reruns: int

    @property
    def seen(self) -> float | None:
        """Value of the incumbent in the search: an extreme over noise."""
        return None if self.best is None else self.best.value

    @property
    def score(self) -> float | None:
        """Mean of its re-runs, which chose nothing; None unless all succeeded."""
        values = [rerun.value for rerun in self.reruns if rerun.value is not None]
        return float(np.mean(values)) if len(values) == self.n_reruns else None

    @property
    def params(self) -> Mapping[str, Any]:
        """Of the incumbent."""
        return {} if self.best is None else self.best.params

    @property
    def seconds(self) -> FloatArray:
        """(n_trials,) what the study would have taken alone on one worker."""
        return self.training_s + self.sampler_s

    def by_trial(self) -> FloatArray:
        """(n_planned,) the incumbents; a study that ended early keeps its last one."""
        missing = self.n_planned - len(self.incumbents)
        last = self.incumbents[-1] if len(self.incumbents) else np.nan
        return np.append(self.incumbents, np.full(max(0, missing), last))[: self.n_planned]


def best_trial(trials: Sequence[FrozenTrial], *, maximize: bool) -> FrozenTrial | None:
    """The incumbent at the end: of equal ones the first."""
    sign = -1 if maximize else 1
    complete = [trial for trial in trials if _value(trial) is not None]
    return min(complete, key=lambda t: (sign * (t.value or 0.0), t.number), default=None)


def study_run(
    *,
    trials: Sequence[FrozenTrial],
    epochs: Mapping[int, Sequence[EpochRecord]],
    sampler_s: Mapping[int, float],
    reruns: Sequence[RerunRecord],
    maximize: bool,
    **identity: Any,
) -> StudyRun:
    """The run of one study, from what the ledger knows of it.

    Args:
        trials: of the study; those that have not ended are passed over.
        epochs: by trial number.
        sampler_s: by trial number.
        reruns: of any of its trials.
        maximize: whether a higher value is better.
        identity: the other attributes of `StudyRun`.
    """
    ended = [trial for trial in trials if trial.state.is_finished()]
    trained = [index for index, trial in enumerate(ended) if not was_refused(trial)]
    values = np.array([_value(ended[index]) for index in trained], dtype=float)
    spent = [epochs.get(trial.number, ()) for trial in ended]
    best = best_trial(ended, maximize=maximize)
    return StudyRun(
        numbers=tuple(ended[index].number for index in trained),
        values=values,
        incumbents=(np.fmax if maximize else np.fmin).accumulate(values),
        epochs=np.cumsum([float(len(of_trial)) for of_trial in spent])[trained],
        training_s=np.cumsum([sum(e.seconds for e in of_trial) for of_trial in spent])[trained],
        sampler_s=np.cumsum([sampler_s.get(trial.number, 0.0) for trial in ended])[trained],
        configs=tuple(trial.params for trial in ended),
        states=Counter(
            "INFEASIBLE" if is_infeasible(trial) else trial.state.name for trial in ended
        ),
        best=best,
        reruns=tuple(r for r in reruns if best is not None and r.trial_number == best.number),
        **identity,
    )


def _value(trial: FrozenTrial) -> float | None:
    usable = trial.state == TrialState.COMPLETE and not is_infeasible(trial)
    return trial.value if usable else None


def resampled(runs: Sequence[StudyRun], effort: str) -> tuple[FloatArray, FloatArray]:
    """Incumbents of several studies over what they had spent, on one axis.

    Args:
        runs: studies.
        effort: name of the attribute that grows along a study: "epochs" or "seconds".

    Returns:
        (n_points,) effort, evenly on a logarithmic scale, and (n_studies, n_points) incumbents at
        it: NaN before a study's first success; one that has spent less in all keeps its last.
    """
    known = [getattr(run, effort) for run in runs if len(run.values)]
    first = max(min((float(spent[0]) for spent in known), default=0.0), 1e-4)
    last = max((float(spent[-1]) for spent in known), default=first)
    axis = np.geomspace(first, max(first, last), N_POINTS)
    axis[-1] = max(first, last)  # not less by a rounding error
    curves = np.full((len(runs), N_POINTS), np.nan)
    for row, run in zip(curves, runs, strict=True):
        place = np.searchsorted(getattr(run, effort), axis, side="right") - 1
        row[place >= 0] = run.incumbents[place[place >= 0]]
    return axis, curves
