"""The statistics of a comparison: against scipy, against published tables, and by their meaning."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from hpo.comparison.statistics import (
    bootstrap_band,
    critical_difference,
    equivalent_budget,
    equivalent_draws,
    expected_best,
    friedman_p,
    holm,
    least_p,
    paired_test,
    rank_biserial,
    ranks,
    seeds_needed,
    signed_rank_p,
)

few = st.integers(-4, 4).map(float)  # so that ties and zeros are frequent
differences = st.lists(few, min_size=1, max_size=9).map(np.array)
goodness = st.tuples(st.integers(1, 8), st.integers(2, 5)).flatmap(
    lambda shape: st.lists(
        st.lists(few, min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0]
    ).map(np.array)
)


def p_by_counting(found: np.ndarray) -> float:
    """Wilcoxon's test with Pratt's zeros, by trying every sign."""
    ranked = stats.rankdata(np.abs(found))[found != 0]
    centre = ranked.sum() / 2
    observed = abs(stats.rankdata(np.abs(found))[found > 0].sum() - centre)
    signs = itertools.product((0, 1), repeat=len(ranked))
    far = [abs(np.dot(sign, ranked) - centre) >= observed - 1e-9 for sign in signs]
    return float(np.mean(far))


@settings(deadline=None, max_examples=150)
@given(differences)
def test_the_signed_rank_test_is_exact_with_ties_and_zeros(found: np.ndarray) -> None:
    assert signed_rank_p(found) == pytest.approx(p_by_counting(found), abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 10**6), min_size=3, max_size=30, unique=True), st.randoms())
def test_without_ties_it_is_scipys(sizes: list[int], signs: random.Random) -> None:
    found = [size * signs.choice([-1.0, 1.0]) for size in sizes]
    expected = stats.wilcoxon(found, method="exact").pvalue
    assert signed_rank_p(np.array(found)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n", [1, 5, 6, 10, 20])
def test_seeds_that_all_agree_show_the_least_p_and_no_seeds_show_less(n: int) -> None:
    """Five seeds never reach 0.05."""
    assert signed_rank_p(np.arange(1.0, n + 1)) == pytest.approx(2.0 ** (1 - n))
    assert least_p(n) == 2.0 ** (1 - n)
    assert (least_p(n) <= 0.05) == (n >= 6)


def test_equal_samplers_are_not_told_apart() -> None:
    same = np.array([0.5, -math.inf, 0.25])
    test = paired_test(same, same)
    assert (test.p, test.effect, test.n_better, test.n_worse) == (1.0, 0.0, 0, 0)
    assert friedman_p(np.stack([same, same, same], axis=1)) == 1.0


def test_a_study_without_a_success_is_worse_than_any_other() -> None:
    test = paired_test(np.array([-1e9, 0.0, 1.0]), np.array([-math.inf, -math.inf, -math.inf]))
    assert (test.n_better, test.effect, test.p) == (3, 1.0, 0.25)


@settings(deadline=None)
@given(differences)
def test_the_effect_says_which_is_better_and_turns_round_with_them(found: np.ndarray) -> None:
    effect = rank_biserial(found)
    assert -1 <= effect <= 1
    assert rank_biserial(-found) == -effect
    if (found > 0).any() and not (found < 0).any():
        assert effect == 1


def test_the_effect_is_the_difference_of_shares_of_the_ranks() -> None:
    """Counted by hand: of a rank sum of 55 in all, 45.5 speaks for and 9.5 against."""
    found = np.array([1, -2.5, 2.5, 4, 5, 6, -7, 8, 9, 10])
    assert rank_biserial(found) == pytest.approx((45.5 - 9.5) / 55)


def test_holm_steps_down_from_the_smallest() -> None:
    """Smallest times m, the next times m - 1 ..., never falling, never above 1, in their order."""
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_lies_between_no_correction_and_bonferroni(
    p_values: list[float],
) -> None:
    corrected = holm(p_values)
    for (p, q), (other_p, other_q) in itertools.product(
        zip(p_values, corrected, strict=True), repeat=2
    ):
        assert p <= q <= min(1, p * len(p_values))
        assert p >= other_p or q <= other_q


def test_how_many_seeds_a_comparison_needs() -> None:
    """With six pairs and Holm eight: 6 / 2**7 is 0.047."""
    assert seeds_needed(1) == 6
    assert seeds_needed(6) == 8
    assert least_p(8, 6) == pytest.approx(6 / 128)


@pytest.mark.parametrize(
    ("n_samplers", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)]
)
def test_the_critical_difference_has_demsars_constants(n_samplers: int, q: float) -> None:
    """Demsar 2006, table 5 (a)."""
    expected = q * math.sqrt(n_samplers * (n_samplers + 1) / (6 * 14))
    assert critical_difference(n_samplers, 14) == pytest.approx(expected, rel=5e-4)


@settings(deadline=None)
@given(goodness)
def test_ranks_are_shared_by_ties_and_friedmans_test_is_scipys(values: np.ndarray) -> None:
    ranked = ranks(values)
    n_samplers = values.shape[1]
    assert ranked.sum(axis=1) == pytest.approx(n_samplers * (n_samplers + 1) / 2)
    assert (ranked.argmin(axis=1) == values.argmax(axis=1)).all()
    assume(n_samplers >= 3)
    with np.errstate(all="ignore"):
        expected = stats.friedmanchisquare(*values.T).pvalue
    assert friedman_p(values) == pytest.approx(1.0 if math.isnan(expected) else expected)


def test_a_band_holds_the_mean_and_is_as_wide_as_theory_says() -> None:
    curves = np.random.default_rng(0).normal(size=(40, 3))
    low, high = bootstrap_band(curves, seed=1)
    assert (low < curves.mean(axis=0)).all()
    assert (curves.mean(axis=0) < high).all()
    theory = 2 * 1.96 * curves.std(axis=0) / math.sqrt(40)
    assert high - low == pytest.approx(theory, rel=0.1)
    assert (bootstrap_band(curves, seed=1)[0] == low).all()


def test_a_band_is_missing_where_a_curve_is() -> None:
    low, _ = bootstrap_band(np.array([[math.nan, 1.0], [0.0, 2.0]]), seed=0)
    assert np.isnan(low).tolist() == [True, False]


pools = st.lists(few, min_size=1, max_size=6).map(np.array)


@settings(deadline=None)
@given(pools, st.integers(1, 4))
def test_the_expected_best_is_the_mean_over_all_draws(pool: np.ndarray, n_draws: int) -> None:
    """With replacement: each of the N**n ways to draw n of N is as likely."""
    best = [max(drawn) for drawn in itertools.product(pool, repeat=n_draws)]
    assert expected_best(np.sort(pool), n_draws) == pytest.approx(np.mean(best), abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(pools, st.floats(0, 1), st.randoms())
def test_equivalent_draws_are_as_many_as_are_expected_to_get_there(
    pool: np.ndarray, share: float, order: random.Random
) -> None:
    """Anywhere between what one trial is expected to reach and what as many as the pool are."""
    ascending, shuffled = np.sort(pool), np.array(order.sample(list(pool), len(pool)))
    worst, best = expected_best(ascending, 1), expected_best(ascending, len(pool))
    n_draws = equivalent_draws(worst + share * (best - worst), shuffled)
    assert n_draws is not None
    assert 1 <= n_draws <= len(pool)
    assert expected_best(ascending, n_draws) == pytest.approx(worst + share * (best - worst))


@settings(deadline=None)
@given(pools, few, few)
def test_what_is_better_takes_no_fewer_draws(pool: np.ndarray, one: float, other: float) -> None:
    few_draws, more_draws = (equivalent_draws(good, pool) for good in sorted((one, other)))
    assert (few_draws or math.inf) <= (more_draws or math.inf)


def test_draws_are_at_least_one_and_at_most_the_pool() -> None:
    """Of three trials one is worth 1; two of them are worth 1.44, three 1.67 on average."""
    pool = np.array([2.0, 0.0, 1.0])
    assert equivalent_draws(-5.0, pool) == 1.0
    assert equivalent_draws(1.0, pool) == 1.0
    assert equivalent_draws(13 / 9, pool) == pytest.approx(2.0)
    assert equivalent_draws(1.66, pool) == pytest.approx(3.0, abs=0.1)
    assert equivalent_draws(1.7, pool) is None
    assert equivalent_draws(2.0, pool) is None
    assert equivalent_draws(2.0, np.array([2.0, 2.0, 2.0])) == 1.0


def test_an_equivalent_budget_is_interpolated() -> None:
    reference = np.array([math.nan, 0.0, 0.5, 0.5, 1.0])
    assert equivalent_budget(0.25, reference) == 2.5
    assert equivalent_budget(0.5, reference) == 3.0
    assert equivalent_budget(0.75, reference) == 4.5
    assert equivalent_budget(-9.0, reference) == 2.0
    assert equivalent_budget(1.0, reference) == 5.0
    assert equivalent_budget(1.1, reference) is None
    assert equivalent_budget(0.0, np.array([math.nan])) is None
