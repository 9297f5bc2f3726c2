"""The statistics of a comparison, after Demsar 2006 (JMLR 7, 1-30), for a handful of seeds.

Everywhere ``goodness`` is (n_seeds, n_samplers), higher is better, row by row on the same seed;
-inf stands for a study in which nothing succeeded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

ALPHA = 0.05
"""Where "significant" begins, as everywhere."""


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """Whether one of two samplers is better, judged seed by seed.

    Attributes:
        n_better: seeds on which the first is better.
        n_worse: seeds on which it is worse; on the others they are equal.
        p: two-sided, of the signed-rank test.
        effect: matched-pairs rank-biserial correlation, see `rank_biserial`.
    """

    n_better: int
    n_worse: int
    p: float
    effect: float


def paired_test(first: FloatArray, second: FloatArray) -> PairedTest:
    """Compare the goodness of two samplers on the same seeds, each (n_seeds,)."""
    differences = paired_differences(first, second)
    return PairedTest(
        n_better=int((differences > 0).sum()),
        n_worse=int((differences < 0).sum()),
        p=signed_rank_p(differences),
        effect=rank_biserial(differences),
    )


def paired_differences(first: FloatArray, second: FloatArray) -> FloatArray:
    """First minus second, (n,); 0 where they are equal, also where both are -inf."""
    differences = np.zeros(len(first))
    np.subtract(first, second, out=differences, where=first != second)
    return differences


def signed_rank_p(differences: FloatArray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test: exact, for any ties and zeros.

    Zeros are ranked and then given no sign (Pratt 1959, JASA 54): to drop them before would make
    two samplers look more different that are equal on many seeds. Under the null hypothesis each
    other rank has either sign with equal probability. scipy counts through all of these signs only
    if no two differences are equal, which accuracies on a small set often are.

    Args:
        differences: (n,) one for each pair.

    Returns:
        1 if all are zero; at least ``2**(1 - n)``.
    """
    # Mid-ranks are multiples of a half; doubled they are whole, and sums of them can be counted.
    ranks = np.rint(2 * _ranks_of_size(differences)).astype(int)
    signed = ranks[differences != 0]
    n_ways = np.zeros(int(signed.sum()) + 1)  # (sum of positive ranks) -> share of all signs
    n_ways[0] = 1.0
    for rank in signed:
        n_ways[rank:] = (n_ways[rank:] + n_ways[: len(n_ways) - rank]) / 2
        n_ways[:rank] /= 2
    positive = int(ranks[differences > 0].sum())
    tail = min(positive, int(signed.sum()) - positive)
    return min(1.0, 2 * float(n_ways[: tail + 1].sum()))


def rank_biserial(differences: FloatArray) -> float:
    """Matched-pairs rank-biserial correlation (Kerby 2014, doi:10.2466/11.IT.3.1).

    The share of the ranks that speaks for the first minus the share that speaks against it:
    1 if it is never worse, -1 if it is never better, 0 if nothing tells them apart.
    """
    ranks = _ranks_of_size(differences)
    positive, negative = ranks[differences > 0].sum(), ranks[differences < 0].sum()
    return float((positive - negative) / (positive + negative)) if positive + negative else 0.0


def _ranks_of_size(differences: FloatArray) -> FloatArray:
    """Mid-ranks of the absolute differences, 1 the smallest."""
    from scipy.stats import rankdata

    ranks: FloatArray = rankdata(np.abs(differences))
    return ranks


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in their order (Holm 1979, Scand. J. Statist. 6)."""
    corrected, running = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = running
    return corrected


def least_p(n_seeds: int, n_pairs: int = 1) -> float:
    """The smallest p that ``n_seeds`` pairs can show, after Holm's correction over ``n_pairs``."""
    return min(1.0, n_pairs * 2.0 ** (1 - n_seeds))


def seeds_needed(n_pairs: int) -> int:
    """The least number of seeds with which one of ``n_pairs`` pairs can become significant."""
    n_seeds = 1
    while least_p(n_seeds, n_pairs) > ALPHA:
        n_seeds += 1
    return n_seeds


def ranks(goodness: FloatArray) -> FloatArray:
    """(n_seeds, n_samplers) rank of each sampler on each seed, 1 the best; ties share theirs."""
    from scipy.stats import rankdata

    ranked: FloatArray = rankdata(-goodness, axis=1)
    return ranked


def friedman_p(goodness: FloatArray) -> float:
    """P of Friedman's test that all samplers are alike; 1 if they are equal on every seed."""
    from scipy.stats import chi2

    n_seeds, n_samplers = goodness.shape
    ranked = ranks(goodness)
    # With ties as in Conover 1999, "Practical nonparametric statistics", section 5.8.
    spread = (ranked**2).sum() - n_seeds * n_samplers * (n_samplers + 1) ** 2 / 4
    if spread == 0:
        return 1.0
    between = ((ranked.sum(axis=0) - n_seeds * (n_samplers + 1) / 2) ** 2).sum()
    return float(chi2.sf((n_samplers - 1) * between / spread, n_samplers - 1))


def critical_difference(n_samplers: int, n_seeds: int) -> float:
    """Average ranks that differ by less are not significantly different (Nemenyi's test).

    Demsar 2006, section 3.2.2: ``q * sqrt(k (k + 1) / (6 N))``.
    """
    from scipy.stats import studentized_range

    q = studentized_range.ppf(1 - ALPHA, n_samplers, math.inf) / math.sqrt(2)
    return float(q * math.sqrt(n_samplers * (n_samplers + 1) / (6 * n_seeds)))


def bootstrap_band(
    curves: FloatArray, seed: int, n_resamples: int = 2000
) -> tuple[FloatArray, FloatArray]:
    """95 % percentile band of the mean curve, from seeds drawn again with replacement.

    Args:
        curves: (n_seeds, n_points).
        seed: of the drawing.
        n_resamples: how often the seeds are drawn.

    Returns:
        Lower and upper end, each (n_points,); NaN where a curve is.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(curves), size=(n_resamples, len(curves)))
    weights = np.stack([(drawn == index).mean(axis=1) for index in range(len(curves))], axis=1)
    means = weights @ curves  # (n_resamples, n_points)
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return low, high


def expected_best(pool: FloatArray, n_draws: float) -> float:
    """Expected goodness of the best of some trials, each as likely to be any one of a pool.

    Of N values in ascending order the i-th is the best with probability
    ``(i/N)**n - ((i-1)/N)**n``.

    Args:
        pool: (N,) goodness of trials that do not depend on one another, ascending.
        n_draws: how many are drawn, with replacement; a fraction lies between two whole numbers.
    """
    # The sum by parts: from the best value down, so that equal values give exactly that one.
    shares = np.arange(1, len(pool)) / len(pool)
    return float(pool[-1] - (np.diff(pool) * shares**n_draws).sum())


def equivalent_draws(goodness: float, pool: FloatArray) -> float | None:
    """How many trials of a pool it takes until the best of them is, on average, so good.

    Args:
        goodness: to be reached.
        pool: (N,) goodness of trials that do not depend on one another, in any order.

    Returns:
        From 1 to N; None if it takes more: of what is rarer than one in N the pool knows nothing.
    """
    from scipy.optimize import brentq

    ascending, n = np.sort(pool), len(pool)
    if expected_best(ascending, 1) >= goodness:
        return 1.0
    if expected_best(ascending, n) < goodness:
        return None
    return float(brentq(lambda m: expected_best(ascending, m) - goodness, 1, n))


def equivalent_budget(goodness: float, reference: FloatArray) -> float | None:
    """How many trials of the reference reach ``goodness``, interpolated between two of them.

    Args:
        goodness: to be reached.
        reference: (n_trials,) mean incumbent after each trial, never decreasing; NaN before the
            first success.

    Returns:
        A number from 1, or of the first success, to ``n_trials``; None if it takes more.
    """
    known = np.flatnonzero(np.isfinite(reference))
    if not len(known) or goodness > reference[known[-1]]:
        return None
    after = int(known[np.argmax(reference[known] >= goodness)])
    before = after - 1
    if before < known[0]:
        return float(after + 1)
    share = (goodness - reference[before]) / (reference[after] - reference[before])
    return float(before + 1 + share)
