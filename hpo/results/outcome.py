"""What an experiment has come to, read from the ledger: search value, re-runs, test, export."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hpo.exported import FORMATS
from hpo.spec import ExperimentSpec, parse_recorded_spec
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
    recorded_sampler,
    search_end,
)


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """One of the best trials of the search and its re-runs on fresh seeds.

    ``search_value`` is a maximum over noise; ``mean`` comes from seeds that chose nothing, and is
    None unless all ``n_seeds`` re-runs succeeded: a config that fails on one seed does not win.
    """

    number: int
    params: Mapping[str, Any]
    search_value: float
    reruns: tuple[RerunRecord, ...]
    n_seeds: int

    @property
    def values(self) -> list[float]:
        """Values of the re-runs that succeeded."""
        return [rerun.value for rerun in self.reruns if rerun.value is not None]

    @property
    def mean(self) -> float | None:
        """Mean over all fresh seeds."""
        return statistics.fmean(self.values) if len(self.values) == self.n_seeds else None

    @property
    def standard_error(self) -> float | None:
        """Of ``mean``; None for a single seed."""
        if self.mean is None or self.n_seeds < 2:
            return None
        return float(statistics.stdev(self.values) / self.n_seeds**0.5)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """An experiment, finished or not.

    ``finalists`` stand best first; ``test_readings`` has one entry unless a raised budget brought
    another winner. ``reruns`` are also those of trials that are finalists no more. ``sampler`` is
    what proposed the last trials, in words; ``lr_range`` what the range test before the search
    found, if there was one; ``search_end`` why the search ended before its budget was spent, if it
    did.
    """

    experiment: ExperimentRecord
    spec: ExperimentSpec
    trials: Sequence[FrozenTrial]
    epochs: Mapping[int, Sequence[EpochRecord]]
    finalists: tuple[Finalist, ...]
    test_readings: tuple[TestReading, ...]
    exports: tuple[ExportRecord, ...]
    sampler: str
    reruns: tuple[RerunRecord, ...] = ()
    lr_range: LrRangeRecord | None = None
    search_end: SearchEnd | None = None

    @property
    def winner(self) -> Finalist | None:
        """The finalist with the best mean; None before the re-runs."""
        first = self.finalists[0] if self.finalists else None
        return first if first is not None and first.mean is not None else None

    @property
    def test(self) -> TestReading | None:
        """The winner's reading of the test set."""
        return next((r for r in self.test_readings if self._is_winner(r.trial_number)), None)

    @property
    def export(self) -> ExportRecord | None:
        """The winner's model as TorchScript, which every run leaves."""
        file = FORMATS["torchscript"].file
        return next(
            (
                export
                for export in self.exports
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
    return Outcome(
        experiment=experiment,
        spec=spec,
        trials=trials,
        epochs=ledger.epochs(experiment.id),
        finalists=_ranked(choose_finalists(trials, spec), reruns, spec),
        test_readings=tuple(ledger.test_readings(experiment.id)),
        exports=tuple(ledger.exports(experiment.id)),
        sampler=recorded_sampler(study) or spec.sampler.name,
        reruns=tuple(reruns),
        lr_range=ledger.lr_range(experiment.id),
        search_end=search_end(study),
    )


def choose_finalists(trials: Sequence[FrozenTrial], spec: ExperimentSpec) -> list[FrozenTrial]:
    """The best ``finalists.k`` trials that ran to their full budget, each config once.

    None of them breaks a constraint.
    """
    complete = [t for t in trials if t.state == TrialState.COMPLETE and not breaks_limits(t)]
    chosen: list[FrozenTrial] = []
    for trial in sorted(complete, key=lambda trial: (_cost(trial.value, spec), trial.number)):
        if len(chosen) < spec.finalists.k and trial.params not in [c.params for c in chosen]:
            chosen.append(trial)
    return chosen


def breaks_limits(trial: FrozenTrial) -> bool:
    """Whether a trial was trained to its end and turned out to be infeasible."""
    return trial.state == TrialState.COMPLETE and is_infeasible(trial)


def _ranked(
    chosen: Sequence[FrozenTrial], reruns: Sequence[RerunRecord], spec: ExperimentSpec
) -> tuple[Finalist, ...]:
    finalists = [
        Finalist(
            number=trial.number,
            params=trial.params,
            search_value=float(trial.value or 0.0),
            reruns=tuple(rerun for rerun in reruns if rerun.trial_number == trial.number),
            n_seeds=spec.finalists.n_seeds,
        )
        for trial in chosen
    ]
    return tuple(sorted(finalists, key=lambda finalist: _cost(finalist.mean, spec)))


def _cost(value: float | None, spec: ExperimentSpec) -> float:
    if value is None:
        return float("inf")
    return -value if spec.objective.direction == "maximize" else value
