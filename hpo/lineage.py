"""How a trial came to be where it is: whose epochs it began with, and what params those had.

Population-based training lets a trial go on from another one's checkpoint with other params. What
was trained is then no config but a list of them; attributes of the trials tell it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial

from hpo.spec import ExperimentSpec, PbtSpec

PARENT, PARENT_EPOCH, REPLACES = "parent", "parent_epoch", "replaces"
"""Attributes of a trial: whose checkpoint it went on from, of which epoch, in whose place."""
LINEAGE = "lineage"
"""Attribute of such a trial: each trial it stems from with its last epoch, the oldest first."""


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
    return tuple(
        PastParams(number=number, params=trials[number].params, until_epoch=until_epoch)
        for number, until_epoch in ancestors(trial)
    )


def ancestors(trial: FrozenTrial) -> list[tuple[int, int]]:
    """Numbers of the trials that it stems from, each with its last epoch; the oldest first."""
    return [(number, until_epoch) for number, until_epoch in trial.user_attrs.get(LINEAGE, [])]


def ancestors_text(trial: FrozenTrial) -> str:
    """``trial 2 until epoch 1, then trial 8 until epoch 2``."""
    told = [f"trial {number} until epoch {until_epoch}" for number, until_epoch in ancestors(trial)]
    return ", then ".join(told)


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


def population_text(spec: ExperimentSpec) -> str:
    """What scheduler ``pbt`` will do, in a sentence; empty of another one."""
    if not isinstance(pbt := spec.scheduler, PbtSpec):
        return ""
    n, interval = spec.budget.n_trials, pbt.interval_epochs
    n_replaced = n_replaced_of(n, pbt.quantile)
    every = "each epoch" if interval == 1 else f"every {interval} epochs"
    worst, best = ("one ends", "one") if n_replaced == 1 else (f"{n_replaced} end", f"{n_replaced}")
    return (
        f"{n} lineages of {spec.budget.max_epochs} epochs; after {every} the worst {worst}, and as "
        f"many go on from the best {best} with another {', '.join(pbt.perturb)}"
    )


def n_replaced_of(n_trials: int, quantile: float) -> int:
    """How many of so many trials are replaced."""
    return math.floor(quantile * n_trials + 1e-9)  # 0.29 * 100 is 28.999999999999996


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
