"""How a trial came to be where it is: whose epochs it began with, and what params those had.

Population-based training lets a trial go on from another one's checkpoint with other params. What
was trained is then no config but a list of them; attributes of the trials tell it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial

PARENT, PARENT_EPOCH, REPLACES = "parent", "parent_epoch", "replaces"
"""Attributes of a trial: whose checkpoint it went on from, of which epoch, in whose place."""


@dataclass(frozen=True, kw_only=True)
class PastParams:
    """Epochs of a lineage before its last trial: with these params, up to and with an epoch."""

    number: int
    params: Mapping[str, Any]
    until_epoch: int


Lineage = tuple[PastParams, ...]
"""What a trial began with, the oldest first; empty of one that began with epoch 1."""


def born_at(trial: FrozenTrial) -> int:
    """The epoch after which a trial began: 0, or that of its parent's checkpoint."""
    return int(trial.user_attrs.get(PARENT_EPOCH, 0))


def lineage_of(trials: Sequence[FrozenTrial], trial: FrozenTrial) -> Lineage:
    """What a trial began with; ``trials`` are those of its study, by number."""
    earlier: list[PastParams] = []
    while (parent := trial.user_attrs.get(PARENT)) is not None:
        until_epoch, trial = born_at(trial), trials[parent]
        past = PastParams(number=parent, params=trial.params, until_epoch=until_epoch)
        earlier.insert(0, past)
    return tuple(earlier)


def schedule_text(earlier: Lineage, params: Mapping[str, Any]) -> str:
    """``lr 0.01 until epoch 3, then 0.008``: each param that changed; empty if none did."""
    told = []
    for name, last in params.items():
        steps: list[tuple[Any, int]] = []
        for past in earlier:
            value = past.params.get(name)
            if steps and steps[-1][0] == value:
                steps.pop()
            steps.append((value, past.until_epoch))
        if steps and steps[-1][0] == last:
            steps.pop()
        if steps:
            values = [f"{_short(value)} until epoch {until}" for value, until in steps]
            told.append(f"{name} {', then '.join([*values, _short(last)])}")
    return "; ".join(told)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
