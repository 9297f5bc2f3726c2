"""What a comparison has come to: one summary per sampler, one test per pair, ranks over all."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hpo.comparison import statistics
from hpo.comparison.curves import StudyRun, resampled
from hpo.comparison.statistics import FloatArray, PairedTest

RANDOM = "random"
"""The sampler in whose trials the others are measured, if it takes part."""


@dataclass(frozen=True, kw_only=True)
class SamplerSummary:
    """One sampler over all seeds; means over the studies that succeeded.

    Attributes:
        sampler: its name.
        score: mean score of the incumbents, each re-run on fresh seeds; None if nothing succeeded.
        standard_error: of ``score`` over the seeds; None for a single seed.
        score_median: of the same.
        seen: mean value of the incumbents in their searches, an extreme over noise.
        over_report: how much better ``seen`` is than ``score``.
        area: mean of the incumbent over all trials of the budget, the area under the curve in
            the unit of the metric; before its first success a study has the worst value of all.
        rank: average over the seeds, 1 the best.
        random_equivalent: random trials of which the best one is, on average, as good as ``seen``
            over all studies; None if that takes more than took part, or none did. Of random search
            itself its budget.
        trials_to_random: trials in which this one gets as far as random search does in all.
        epochs: spent, a study.
        n_without: studies in which nothing succeeded.
    """

    sampler: str
    score: float | None
    standard_error: float | None
    score_median: float | None
    seen: float | None
    over_report: float | None
    area: float | None
    rank: float
    random_equivalent: float | None
    trials_to_random: float | None
    epochs: float
    n_without: int


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two samplers, the first not the worse; ``p_holm`` is corrected for the number of pairs."""

    first: str
    second: str
    test: PairedTest
    p_holm: float

    @property
    def is_significant(self) -> bool:
        """Whether the difference is more than chance shows in one of 20 comparisons."""
        return self.p_holm <= statistics.ALPHA


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Everything that another run of the same comparison would measure anew.

    Attributes:
        wall_s: from the first to the last thing a worker did, re-runs included.
        utilization: share of the workers' seconds that went into epochs; None if nothing ran.
        training_s: seconds of training in a study, by sampler; median over its studies, as
        sampler_s: seconds of the sampler in a study: the first one waits for imports.
    """

    wall_s: float
    utilization: float | None
    training_s: Mapping[str, float]
    sampler_s: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Samplers x seeds, run and scored.

    Attributes:
        name: of the spec.
        spec: its YAML.
        trainable: what was trained.
        metric: what is compared.
        maximize: whether a higher value is better.
        seed: from which those of the studies and of the bootstrap derive.
        samplers: in the order they were asked for.
        n_seeds: studies of each sampler.
        n_trials: budget of a study.
        n_reruns: of each study's incumbent.
        runs: one for each sampler and seed.
        notes: what a reader should know of this comparison.
        wall_s: see `Timing`.
        utilization: see `Timing`.
        provenance: versions, commit, data fingerprint.
    """

    name: str
    spec: str
    trainable: str
    metric: str
    maximize: bool
    seed: int
    samplers: tuple[str, ...]
    n_seeds: int
    n_trials: int
    n_reruns: int
    runs: tuple[StudyRun, ...]
    notes: tuple[str, ...]
    wall_s: float
    utilization: float | None
    provenance: Mapping[str, Any]

    @property
    def sign(self) -> int:
        """What makes a value a goodness."""
        return 1 if self.maximize else -1

    def runs_of(self, sampler: str) -> list[StudyRun]:
        """By seed."""
        mine = (run for run in self.runs if run.sampler == sampler)
        return sorted(mine, key=lambda run: run.seed_index)

    @cached_property
    def goodness(self) -> FloatArray:
        """(n_seeds, n_samplers) scores, higher is better; -inf where nothing succeeded."""
        columns = [
            [-np.inf if run.score is None else self.sign * run.score for run in self.runs_of(s)]
            for s in self.samplers
        ]
        return np.array(columns, dtype=float).T

    @cached_property
    def summaries(self) -> tuple[SamplerSummary, ...]:
        """The best first, by average rank."""
        average = statistics.ranks(self.goodness).mean(axis=0)
        made = [self._summary(s, float(r)) for s, r in zip(self.samplers, average, strict=True)]
        return tuple(sorted(made, key=lambda summary: summary.rank))

    def _summary(self, sampler: str, rank: float) -> SamplerSummary:
        runs = self.runs_of(sampler)
        scored = [run for run in runs if run.score is not None]
        scores = np.array([run.score for run in scored], dtype=float)
        seen = np.array([run.seen for run in scored], dtype=float)
        curve = self.mean_curve(sampler)
        random = self.mean_curve(RANDOM) if RANDOM in self.samplers else np.array([np.nan])
        return SamplerSummary(
            sampler=sampler,
            score=float(scores.mean()) if len(scores) else None,
            standard_error=(
                float(scores.std(ddof=1) / len(scores) ** 0.5) if len(scores) > 1 else None
            ),
            score_median=float(np.median(scores)) if len(scores) else None,
            seen=float(seen.mean()) if len(scores) else None,
            over_report=float(self.sign * (seen - scores).mean()) if len(scores) else None,
            area=self._mean_area(runs),
            rank=rank,
            random_equivalent=self.n_trials if sampler == RANDOM else self._in_random(curve[-1]),
            trials_to_random=_budget(random, curve, self.sign),
            epochs=float(np.mean([run.epochs[-1] if len(run.epochs) else 0 for run in runs])),
            n_without=len(runs) - len(scored),
        )

    @cached_property
    def random_pool(self) -> FloatArray:
        """(n,) goodness of random search's trials of all seeds; empty if none has a value.

        A trial without a value, which failed or was stopped early, counts as the worst one seen.
        """
        runs = self.runs_of(RANDOM)
        pool = self.sign * np.concatenate([np.array([]), *(run.values for run in runs)])
        known = pool[np.isfinite(pool)]
        return np.where(np.isfinite(pool), pool, known.min()) if len(known) else known

    def _in_random(self, value: float) -> float | None:
        if np.isnan(value) or not len(self.random_pool):
            return None
        return statistics.equivalent_draws(self.sign * float(value), self.random_pool)

    def drew_alike(self, one: str, other: str) -> bool:
        """Whether two samplers asked for the same configs in all their studies."""
        pairs = zip(self.runs_of(one), self.runs_of(other), strict=True)
        return all(first.configs == second.configs for first, second in pairs)

    def area_of(self, run: StudyRun) -> float:
        """Mean of the study's incumbent over the trials of the budget; NaN if nothing succeeded."""
        curve = run.by_trial()
        return float(np.where(np.isnan(curve), self._worst, curve).mean())

    def _mean_area(self, runs: Sequence[StudyRun]) -> float | None:
        area = float(np.mean([self.area_of(run) for run in runs]))
        return None if np.isnan(area) else area

    @cached_property
    def _worst(self) -> float:
        values = np.concatenate([run.values for run in self.runs])
        known = values[np.isfinite(values)]
        return float(self.sign * (self.sign * known).min()) if len(known) else np.nan

    def curves(self, sampler: str) -> FloatArray:
        """(n_seeds, n_trials) incumbents after each trial."""
        return np.array([run.by_trial() for run in self.runs_of(sampler)])

    def mean_curve(self, sampler: str) -> FloatArray:
        """(n_trials,) mean incumbent; NaN until every study has one."""
        mean: FloatArray = self.curves(sampler).mean(axis=0)
        return mean

    def curves_by_trial(self, sampler: str) -> tuple[FloatArray, FloatArray]:
        """(n_trials,) how many trials have ended, and (n_seeds, n_trials) incumbents then."""
        return np.arange(1.0, self.n_trials + 1), self.curves(sampler)

    def curves_over(self, effort: str, sampler: str) -> tuple[FloatArray, FloatArray]:
        """The same over "epochs" or "seconds", see `resampled`."""
        return resampled(self.runs_of(sampler), effort)

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """Every two samplers, the clearest difference first."""
        tested = []
        for one, other in itertools.combinations(range(len(self.samplers)), 2):
            test = statistics.paired_test(self.goodness[:, one], self.goodness[:, other])
            if test.effect < 0:
                one, other = other, one  # noqa: PLW2901
                test = statistics.paired_test(self.goodness[:, one], self.goodness[:, other])
            tested.append((self.samplers[one], self.samplers[other], test))
        corrected = statistics.holm([test.p for _, _, test in tested])
        pairs = [
            Pair(first=first, second=second, test=test, p_holm=p)
            for (first, second, test), p in zip(tested, corrected, strict=True)
        ]
        return tuple(sorted(pairs, key=lambda pair: (pair.test.p, -pair.test.effect)))

    @property
    def friedman_p(self) -> float:
        """That all samplers are alike."""
        return statistics.friedman_p(self.goodness)

    @property
    def critical_difference(self) -> float:
        """Of two average ranks."""
        return statistics.critical_difference(len(self.samplers), self.n_seeds)

    @property
    def least_p(self) -> float:
        """What this many seeds can show at best, after Holm's correction."""
        return statistics.least_p(self.n_seeds, len(self.pairs))

    @cached_property
    def timing(self) -> Timing:
        """What depends on the machine and its load."""

        def median_last(attribute: str, sampler: str) -> float:
            totals = [getattr(run, attribute) for run in self.runs_of(sampler)]
            return float(np.median([total[-1] if len(total) else 0.0 for total in totals]))

        return Timing(
            wall_s=self.wall_s,
            utilization=self.utilization,
            training_s={s: median_last("training_s", s) for s in self.samplers},
            sampler_s={s: median_last("sampler_s", s) for s in self.samplers},
        )


def _budget(curve: FloatArray, reference: FloatArray, sign: int) -> float | None:
    """Trials in which the reference gets as far as the curve does in all."""
    if np.isnan(curve[-1]):
        return None
    return statistics.equivalent_budget(sign * float(curve[-1]), sign * reference)
