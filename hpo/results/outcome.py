"""What an experiment has come to, read from the ledger: search value, re-runs, test, export."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hpo.exported import FORMATS
from hpo.lineage import Lineage, lineage_of, schedule_text
from hpo.results.pareto import by_one_standard_error, front_of
from hpo.spec import ExperimentSpec, PbtSpec, parse_recorded_spec
from hpo.surrogate import believed_scores
from storage import (
    EpochRecord,
    ExperimentRecord,
    ExportRecord,
    Ledger,
    LrRangeRecord,
    RerunRecord,
    SearchEnd,
    TestReading,
    is_infeasible,
    recorded_finalists,
    recorded_sampler,
    search_end,
)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds; its standard error is None of a single one."""

    mean: float
    standard_error: float | None
    n_seeds: int


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """One of the best trials of the search and its re-runs on fresh seeds.

    ``search_value`` is a maximum over noise; ``reruns`` choose the winner among the finalists, and
    of the winner ``confirmations`` chose nothing: what it is said to reach comes from these.
    ``n_seeds`` is how many re-runs it takes to be chosen. All of these are values of the first
    objective; ``other_search_values`` are those of the others, by their metrics. ``lineage`` is
    what it was trained with before ``params``.
    """

    number: int
    params: Mapping[str, Any]
    search_value: float
    reruns: tuple[RerunRecord, ...]
    confirmations: tuple[RerunRecord, ...] = ()
    n_seeds: int
    other_search_values: Mapping[str, float] = field(default_factory=dict)
    lineage: Lineage = ()

    @property
    def schedule(self) -> str:
        """How its params changed while it trained; empty if they did not."""
        return schedule_text(self.lineage, self.params)

    @property
    def others(self) -> Mapping[str, float]:
        """Its other objectives: means over the re-runs that succeeded, else as in the search."""
        told = [rerun.others for rerun in self.reruns if rerun.value is not None]
        return {
            metric: statistics.fmean(others[metric] for others in told)
            if told and all(metric in others for others in told)
            else value
            for metric, value in self.other_search_values.items()
        }

    @property
    def values(self) -> list[float]:
        """Values of the re-runs that succeeded."""
        return [rerun.value for rerun in self.reruns if rerun.value is not None]

    @property
    def estimate(self) -> Estimate | None:
        """Over the re-runs; None unless all have succeeded: who fails on one seed does not win."""
        is_whole = len(self.reruns) >= self.n_seeds and len(self.values) == len(self.reruns)
        return _estimate(self.values) if is_whole else None

    @property
    def mean(self) -> float | None:
        """Over the re-runs, see `estimate`."""
        return None if self.estimate is None else self.estimate.mean

    @property
    def standard_error(self) -> float | None:
        """Of ``mean``."""
        return None if self.estimate is None else self.estimate.standard_error

    @property
    def confirmed(self) -> Estimate | None:
        """Over the confirmations that succeeded; None if there is none."""
        values = [one.value for one in self.confirmations if one.value is not None]
        return _estimate(values) if values else None

    @property
    def reported(self) -> Estimate | None:
        """What it is said to reach: from seeds that did not choose it, if it was run on any."""
        return self.confirmed or self.estimate

    @property
    def n_unconfirmed(self) -> int:
        """How many confirmations failed."""
        return sum(one.value is None for one in self.confirmations)

    @property
    def seeds_text(self) -> str:
        """Of ``reported``: "3 fresh seeds that did not choose it"; failures are told."""
        n = 0 if self.reported is None else self.reported.n_seeds
        seeds = f"{n} fresh seed" + ("" if n == 1 else "s")
        failed = f"; it FAILED on {self.n_unconfirmed} more" if self.n_unconfirmed else ""
        if self.confirmed is not None:
            return f"{seeds} that did not choose it{failed}"
        return f"{seeds} that chose it{failed}"


def _estimate(values: Sequence[float]) -> Estimate:
    n = len(values)
    return Estimate(
        mean=statistics.fmean(values),
        standard_error=statistics.stdev(values) / n**0.5 if n > 1 else None,
        n_seeds=n,
    )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """An experiment, finished or not.

    ``finalists`` stand best first; ``test_readings`` has one entry unless a raised budget brought
    another winner. ``reruns`` are also those of trials that are finalists no more. ``sampler`` is
    what proposed the last trials, with a note on why or in what stages; ``lr_range`` what the
    range test before the search found, if there was one; ``search_end`` why the search ended before
    its budget was spent, if it did.
    """

    experiment: ExperimentRecord
    spec: ExperimentSpec
    trials: Sequence[FrozenTrial]
    epochs: Mapping[int, Sequence[EpochRecord]]
    finalists: tuple[Finalist, ...]
    test_readings: tuple[TestReading, ...]
    exports: tuple[ExportRecord, ...]
    sampler: str
    sampler_note: str
    reruns: tuple[RerunRecord, ...] = ()
    lr_range: LrRangeRecord | None = None
    search_end: SearchEnd | None = None

    @property
    def winner(self) -> Finalist | None:
        """The finalist with the best mean; None before the re-runs.

        With several objectives see `by_one_standard_error`.
        """
        first = self.finalists[0] if self.finalists else None
        return first if first is not None and first.mean is not None else None

    @property
    def test(self) -> TestReading | None:
        """The winner's reading of the test set."""
        return next((r for r in self.test_readings if self._is_winner(r.trial_number)), None)

    @property
    def export(self) -> ExportRecord | None:
        """The winner's model as TorchScript, which every run leaves; the newest file of it."""
        file = FORMATS["torchscript"].file
        return next(
            (
                export
                for export in reversed(self.exports)
                if self._is_winner(export.trial_number) and Path(export.path).name == file
            ),
            None,
        )

    def _is_winner(self, number: int) -> bool:
        return self.winner is not None and self.winner.number == number


def read_outcome(experiment: ExperimentRecord, study: Study, ledger: Ledger) -> Outcome:
    """Everything the ledger knows of ``experiment``."""
    spec = parse_recorded_spec(experiment.spec)
    trials, reruns = study.get_trials(deepcopy=False), ledger.reruns(experiment.id)
    name, note = recorded_sampler(study)
    return Outcome(
        experiment=experiment,
        spec=spec,
        trials=trials,
        epochs=ledger.epochs(experiment.id),
        finalists=_ranked(
            trials,
            [trials[number] for number in recorded_finalists(study)]
            or choose_finalists(trials, spec),
            reruns,
            ledger.confirmations(experiment.id),
            spec,
        ),
        test_readings=tuple(ledger.test_readings(experiment.id)),
        exports=tuple(ledger.exports(experiment.id)),
        sampler=name or spec.sampler.name,
        sampler_note=note,
        reruns=tuple(reruns),
        lr_range=ledger.lr_range(experiment.id),
        search_end=search_end(study),
    )


def choose_finalists(trials: Sequence[FrozenTrial], spec: ExperimentSpec) -> list[FrozenTrial]:
    """The best ``finalists.k`` trials that ran to their full budget, each config once.

    The best are those that are believed to be, given all trials: the highest value is the luckiest
    one, too. None of them breaks a constraint. With several objectives all lie on the Pareto front,
    and the first objective says which are the best. Of a population the highest values count: a
    model of params knows nothing of those that a trial had before.
    """
    complete = [t for t in trials if t.state == TrialState.COMPLETE and not breaks_limits(t)]
    if spec.is_multi_objective:
        complete = front_of(trials, spec)
    if isinstance(spec.scheduler, PbtSpec):
        believed = {trial.number: -spec.objective.sign * trial.values[0] for trial in complete}
    else:
        is_maximized = spec.objective.direction == "maximize"
        believed = believed_scores(trials, is_maximized=is_maximized)
    chosen: dict[str, FrozenTrial] = {}
    for trial in sorted(complete, key=lambda trial: (-believed[trial.number], trial.number)):
        if len(chosen) < spec.finalists.k:
            chosen.setdefault(_trained_as(trials, trial), trial)
    return list(chosen.values())


def _trained_as(trials: Sequence[FrozenTrial], trial: FrozenTrial) -> str:
    """Equal for two trials that were trained with the same params all along."""
    before = [(past.params, past.until_epoch) for past in lineage_of(trials, trial)]
    return json.dumps([trial.params, before], sort_keys=True)


def breaks_limits(trial: FrozenTrial) -> bool:
    """Whether a trial was trained to its end and turned out to be infeasible."""
    return trial.state == TrialState.COMPLETE and is_infeasible(trial)


def _ranked(
    trials: Sequence[FrozenTrial],
    chosen: Sequence[FrozenTrial],
    reruns: Sequence[RerunRecord],
    confirmations: Sequence[RerunRecord],
    spec: ExperimentSpec,
) -> tuple[Finalist, ...]:
    others = [objective.metric for objective in spec.objectives[1:]]
    finalists = [
        Finalist(
            number=trial.number,
            params=trial.params,
            search_value=trial.values[0],
            other_search_values=dict(zip(others, trial.values[1:], strict=True)),
            reruns=tuple(one for one in reruns if one.trial_number == trial.number),
            confirmations=tuple(one for one in confirmations if one.trial_number == trial.number),
            n_seeds=spec.finalists.n_seeds,
            lineage=lineage_of(trials, trial),
        )
        for trial in chosen
    ]
    return by_one_standard_error(ranked_by_mean(finalists, spec), spec)


def ranked_by_mean(finalists: Sequence[Finalist], spec: ExperimentSpec) -> list[Finalist]:
    """The best mean of the first objective first; without one, last."""

    def cost(finalist: Finalist) -> float:
        return float("inf") if finalist.mean is None else spec.objective.sign * finalist.mean

    return sorted(finalists, key=cost)
