"""Trials that have trained their first epochs and wait until it is known which of them go on."""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial

from hpo.spec import ExperimentSpec, OneEpochTopKSpec

FIRST_VALUE = "value_after_first_epochs"
"""Attribute of a trial that has trained them: it need not do so again to be judged."""


class HeldBack:
    """The trials of ``one_epoch_top_k`` between their first epochs and the choice of the best.

    In the study they are RUNNING, or WAITING after an interruption: neither ends a trial, and the
    attribute `FIRST_VALUE` tells them from those that have still to train. Under other schedulers
    nothing is ever held back.
    """

    def __init__(self, spec: ExperimentSpec) -> None:
        scheduler = spec.scheduler
        is_used = isinstance(scheduler, OneEpochTopKSpec)
        self._k = scheduler.k if isinstance(scheduler, OneEpochTopKSpec) else 0
        self._epochs = scheduler.epochs if isinstance(scheduler, OneEpochTopKSpec) else 0
        self.is_used = is_used
        self._sign = spec.objective.sign
        self._held: dict[int, optuna.Trial] = {}
        self._chosen: set[int] = set()

    def __len__(self) -> int:
        return len(self._held)

    def takes(self, number: int, epoch: int) -> bool:
        """Whether a trial that was stopped after ``epoch`` is to be held back."""
        return self.is_used and number not in self._chosen and epoch >= self._epochs

    def hold(self, trial: optuna.Trial) -> None:
        """Keep a trial that has its `FIRST_VALUE`."""
        self._held[trial.number] = trial

    def losers(self, trials: Sequence[FrozenTrial]) -> list[optuna.Trial]:
        """Hand out those that are not among the best ``k`` of all ``trials``; they are done."""
        tried = [trial for trial in trials if FIRST_VALUE in trial.user_attrs]
        tried.sort(key=lambda trial: (self._sign * trial.user_attrs[FIRST_VALUE], trial.number))
        best = {trial.number for trial in tried[: self._k]}
        return [self._held.pop(number) for number in sorted(set(self._held) - best)]

    def all(self) -> list[optuna.Trial]:
        """Hand out all: none of them goes on."""
        held, self._held = self._held, {}
        return list(held.values())

    def next_chosen(self) -> optuna.Trial | None:
        """Hand out one of the best; the lowest number first."""
        if not self._held:
            return None
        number = min(self._held)
        self._chosen.add(number)
        return self._held.pop(number)

    def is_chosen(self, number: int) -> bool:
        """Whether a trial is one of the best and trains to its end."""
        return number in self._chosen
