"""The study against the ledger: states, seeds, values, and every epoch of every trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from hpo.auditing.difference import NOTHING, Difference, Place
from hpo.lineage import PARENT, born_at
from storage import EpochRecord, RerunRecord

BACKUP = "no copy of it is left here: restore the database from a backup"
REQUEUE = "requeue"


@dataclass(frozen=True, kw_only=True)
class Records:
    """What the databases hold of an experiment nobody drives.

    Attributes:
        trials: of the study, by number.
        epochs: of the ledger, in order, by trial number.
        metrics: names of the objectives; intermediate values are those of the first.
        max_epochs: budget of a trial; None if there is none.
        seeds: that each trial has to have, by number.
        reruns: of finalists, on whatever seeds.
        is_finished: whether the experiment is.
        n_spent: trials that have used up the budget.
        n_trials: the budget.
        ended_early: whether a reason is recorded for spending less.
    """

    trials: Sequence[FrozenTrial]
    epochs: Mapping[int, Sequence[EpochRecord]]
    metrics: Sequence[str]
    max_epochs: int | None
    seeds: Mapping[int, int]
    reruns: Sequence[RerunRecord]
    is_finished: bool
    n_spent: int
    n_trials: int
    ended_early: bool


def record_differences(records: Records) -> Iterator[Difference]:
    """Everything in which study and ledger contradict each other or themselves."""
    yield from _budget(records)
    for trial in records.trials:
        epochs = records.epochs.get(trial.number, ())
        yield from _state(trial)
        yield from _seed(trial, records.seeds[trial.number])
        yield from _epochs(trial, epochs, records.max_epochs)
        yield from _intermediate_values(trial, epochs, records)
        yield from _values(trial, epochs, records.metrics)
    n_known = len(records.trials)
    for number, epochs in records.epochs.items():
        if number >= n_known:
            yield _lost(number, "study", "trial", f"the trial of {len(epochs)} epochs", NOTHING)
    for rerun in records.reruns:
        number = rerun.trial_number
        state = records.trials[number].state.name if number < n_known else NOTHING
        if state != "COMPLETE":
            what = f"state of the finalist of re-run {rerun.seed_index + 1}"
            yield _lost(number, "study", what, "COMPLETE", state)


def _lost(trial: int | None, place: Place, what: str, expected: str, found: str) -> Difference:
    return Difference(
        trial=trial, place=place, what=what, expected=expected, found=found, way_out=BACKUP
    )


def _budget(records: Records) -> Iterator[Difference]:
    is_short = records.is_finished and not records.ended_early
    if records.n_spent > records.n_trials or (is_short and records.n_spent < records.n_trials):
        yield _lost(
            None, "study", "trials spent", f"{records.n_trials}, the budget", str(records.n_spent)
        )


def _state(trial: FrozenTrial) -> Iterator[Difference]:
    if trial.state == TrialState.RUNNING:  # and nobody runs it
        yield Difference(
            trial=trial.number,
            place="study",
            what="state",
            expected="WAITING",
            found="RUNNING",
            repair=REQUEUE,
        )
    if trial.state == TrialState.FAIL and not trial.user_attrs.get("fail_reason"):
        yield _lost(trial.number, "study", "fail_reason", "a reason", NOTHING)


def _seed(trial: FrozenTrial, seed: int) -> Iterator[Difference]:
    found = trial.user_attrs.get("seed")
    is_due = trial.state.is_finished() or found is not None
    if is_due and found != seed:
        told = NOTHING if found is None else str(found)
        yield _lost(trial.number, "study", "seed", str(seed), told)


def _epochs(
    trial: FrozenTrial, epochs: Sequence[EpochRecord], max_epochs: int | None
) -> Iterator[Difference]:
    """From the first to the last without a gap, and none beside them."""
    first = born_at(trial) + 1
    there = {one.epoch for one in epochs}
    wanted = set(range(first, max(there, default=0) + 1))
    if trial.state.is_finished():
        wanted |= {epoch for epoch in trial.intermediate_values if epoch >= first}
        wanted |= {first} if trial.state == TrialState.COMPLETE else set()
    for epoch in sorted(wanted - there):
        yield _lost(trial.number, "ledger", f"epoch {epoch}", "its metrics", NOTHING)
    for epoch in sorted(there):
        if epoch < first or (max_epochs is not None and epoch > max_epochs):
            yield _lost(trial.number, "ledger", f"epoch {epoch}", NOTHING, "its metrics")


def _intermediate_values(
    trial: FrozenTrial, epochs: Sequence[EpochRecord], records: Records
) -> Iterator[Difference]:
    """Those before its first epoch are its parent's; the others stand in the ledger, too.

    The ledger is written first: of a trial that goes on it may be one epoch ahead. One that keeps
    no checkpoints begins again, and its values are written anew one after the other.
    """
    metric, first = records.metrics[0], born_at(trial) + 1
    expected = {one.epoch: _quantity(trial, one, metric) for one in epochs if one.epoch >= first}
    if (parent := trial.user_attrs.get(PARENT)) is not None:
        known = records.trials[parent].intermediate_values
        expected |= {epoch: value for epoch, value in known.items() if epoch < first}
    found, is_open = trial.intermediate_values, not trial.state.is_finished()
    begins_again = is_open and not any(one.checkpoint for one in epochs)
    last = max(expected, default=0)
    for epoch in sorted({*expected, *found}):
        if epoch not in found and not (is_open and epoch == last):
            yield _value(trial, "study", epoch, metric, _told(expected[epoch]), NOTHING)
        if epoch not in expected and is_open:  # else the epoch itself is missed already
            yield _value(trial, "ledger", epoch, metric, _told(found[epoch]), NOTHING)
        if epoch not in found or epoch not in expected or begins_again:
            continue
        if found[epoch] != expected[epoch]:
            told = _told(found[epoch]), _told(expected[epoch])
            yield _value(trial, "ledger", epoch, metric, *told)


def _value(
    trial: FrozenTrial, place: Place, epoch: int, metric: str, expected: str, found: str
) -> Difference:
    return _lost(trial.number, place, f"{metric} of epoch {epoch}", expected, found)


def _values(
    trial: FrozenTrial, epochs: Sequence[EpochRecord], metrics: Sequence[str]
) -> Iterator[Difference]:
    """What a trial came to is what it reported last."""
    last = epochs[-1] if epochs else None
    expected: dict[str, float | None] = dict.fromkeys(metrics)
    if trial.state == TrialState.COMPLETE and last is not None:
        expected = {metric: _quantity(trial, last, metric) for metric in metrics}
    elif trial.state == TrialState.COMPLETE:
        return  # its epochs are missed already
    elif trial.state == TrialState.PRUNED and len(metrics) == 1:
        values = trial.intermediate_values
        expected = {metrics[0]: values[max(values)] if values else None}
    found = trial.values or [None] * len(metrics)
    for (metric, value), told in zip(expected.items(), found, strict=False):
        if told != value:
            yield _lost(trial.number, "study", f"value of {metric}", _told(value), _told(told))


def _quantity(trial: FrozenTrial, epoch: EpochRecord, metric: str) -> float | None:
    """Of several objectives some are known before training, and no metric of an epoch."""
    value: float | None = epoch.metrics.get(metric, trial.user_attrs.get(metric))
    return value


def _told(value: float | None) -> str:
    return NOTHING if value is None else repr(value)
