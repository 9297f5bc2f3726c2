"""A comparison in words and in a table of 80 columns."""

from __future__ import annotations

import textwrap

from hpo.comparison.result import Comparison, Pair, SamplerSummary
from hpo.comparison.statistics import ALPHA, least_p, seeds_needed

WIDTH = 80
"""Columns of a terminal."""


def comparison_text(comparison: Comparison) -> str:
    """Table, verdict and notes, for the terminal."""
    sentences = [*verdict(comparison), *(f"note: {note}" for note in comparison.notes)]
    return "\n".join(
        [
            _wrapped(heading(comparison)),
            "",
            *table_lines(comparison),
            "",
            *map(_wrapped, sentences),
            _wrapped(timing_line(comparison)),
        ]
    )


def _wrapped(sentence: str) -> str:
    return textwrap.fill(sentence, WIDTH, subsequent_indent="  ", break_long_words=False)


def _count(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number} {noun}s"


def heading(comparison: Comparison) -> str:
    """What was compared, at which budget."""
    better = "higher" if comparison.maximize else "lower"
    return (
        f"{comparison.name}: {comparison.metric} ({better} is better) of "
        f"{len(comparison.samplers)} samplers x {_count(comparison.n_seeds, 'seed')} x "
        f"{_count(comparison.n_trials, 'trial')}"
    )


HEADINGS = (
    *("sampler", "score", "± s.e.", "seen", "over-report", "area", "rank", "= random"),
    "epochs",
)
WIDTHS = (8, 9, 8, 9, 11, 9, 4, 8, 6)


def table_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """A row for each sampler, under `HEADINGS`."""
    return [
        (
            summary.sampler,
            number(summary.score),
            number(summary.standard_error),
            number(summary.seen),
            number(summary.over_report),
            number(summary.area),
            f"{summary.rank:.2f}",
            random_equivalent(comparison, summary),
            f"{summary.epochs:.0f}",
        )
        for summary in comparison.summaries
    ]


def table_lines(comparison: Comparison) -> list[str]:
    """The same as text, and what its columns mean."""
    lines = []
    for first, *rest in [HEADINGS, *table_rows(comparison)]:
        cells = [f"{cell:>{width}}" for cell, width in zip(rest, WIDTHS[1:], strict=True)]
        lines.append(f"{first:<{WIDTHS[0]}}{' '.join(cells)}")
    return [
        *lines,
        f"score: the best config of each study, re-run on {comparison.n_reruns} fresh seeds; "
        "seen: its",
        "value in the search; area: mean of the best so far; = random: how many random",
        "trials reach `seen`, on average; epochs: spent in a study",
    ]


def random_equivalent(comparison: Comparison, summary: SamplerSummary) -> str:
    """``17.5`` random trials, or ``>300`` if all of them together are not enough."""
    if summary.n_without or not len(comparison.random_pool):
        return "-"
    if summary.random_equivalent is None:
        return f">{len(comparison.random_pool)}"
    return f"{summary.random_equivalent:.1f}"


def verdict(comparison: Comparison) -> list[str]:
    """What the tests say, a sentence for each pair, and what they can say at all."""
    significant = [pair for pair in comparison.pairs if pair.is_significant]
    sentences = [_pair_sentence(comparison, pair) for pair in comparison.pairs]
    if not significant:
        sentences.insert(0, "No significant difference between any two samplers.")
    sentences += [
        f"{summary.n_without} of {comparison.n_seeds} studies of {summary.sampler} have no score, "
        "which counts as worse than any; its means leave them out."
        for summary in comparison.summaries
        if summary.n_without
    ]
    sentences.append(_ranks_sentence(comparison))
    sentences.append(_power_sentence(comparison))
    return sentences


def _pair_sentence(comparison: Comparison, pair: Pair) -> str:
    test, n_seeds = pair.test, comparison.n_seeds
    p = (
        f"p={p_text(pair.p_holm)} after Holm"
        if len(comparison.pairs) > 1
        else (f"p={p_text(pair.p_holm)}")
    )
    if comparison.drew_alike(pair.first, pair.second):
        return (
            f"{pair.first} and {pair.second} drew the same configs on every seed: they begin "
            "alike, and neither got past that. More trials would tell, or fewer that are stopped "
            "early (-o scheduler=none)."
        )
    if test.n_better == test.n_worse == 0:
        return f"{pair.first} and {pair.second}: equal on every seed."
    n_equal = n_seeds - test.n_better - test.n_worse
    on = f"better on {test.n_better} of {n_seeds} seeds"
    on += f", equal on {n_equal}" if n_equal else ""
    if pair.is_significant:
        return f"{pair.first} beats {pair.second} ({p}, {on}, effect {test.effect:.2f})."
    return (
        f"{pair.first} and {pair.second}: no significant difference "
        f"({p}; {pair.first} {on}, effect {test.effect:.2f})."
    )


def _ranks_sentence(comparison: Comparison) -> str:
    ranks = ", ".join(f"{s.sampler} {s.rank:.2f}" for s in comparison.summaries)
    distance = (
        f"average ranks differ significantly if {comparison.critical_difference:.2f} apart"
        if comparison.friedman_p <= ALPHA
        else "no significant difference among all"
    )
    return f"Average ranks: {ranks} (Friedman p={p_text(comparison.friedman_p)}; {distance})."


def _power_sentence(comparison: Comparison) -> str:
    n_seeds, n_pairs = comparison.n_seeds, len(comparison.pairs)
    sentence = f"{_count(n_seeds, 'seed')} can show p >= {p_text(least_p(n_seeds))} at best"
    if n_pairs > 1:
        sentence += f", {p_text(comparison.least_p)} after Holm over {n_pairs} pairs"
    if comparison.least_p > ALPHA:
        sentence += (
            f": no difference could become significant, however large. {seeds_needed(n_pairs)} can"
        )
    return f"{sentence}."


def power_warning(n_seeds: int, n_samplers: int) -> str | None:
    """What so few seeds cannot show; None if they are enough for one clear difference."""
    n_pairs = n_samplers * (n_samplers - 1) // 2
    if least_p(n_seeds, n_pairs) <= ALPHA:
        return None
    holm = (
        f", and p >= {p_text(least_p(n_seeds, n_pairs))} after Holm's correction over "
        f"{n_pairs} pairs"
        if n_pairs > 1
        else ""
    )
    return (
        f"with {_count(n_seeds, 'seed')} the paired test can show "
        f"p >= {p_text(least_p(n_seeds))} at best{holm}: "
        f"no difference can become significant at {ALPHA}, however large. "
        f"{seeds_needed(n_pairs)} seeds can"
    )


def timing_line(comparison: Comparison) -> str:
    """Where the time went."""
    timing = comparison.timing
    studies = ", ".join(
        f"{sampler} {training_s:.1f} + {timing.sampler_s[sampler]:.1f}"
        for sampler, training_s in timing.training_s.items()
    )
    busy = "" if timing.utilization is None else f", workers {timing.utilization:.0%} busy"
    return (
        f"{timing.wall_s:.0f} s in all{busy}; seconds of training + of the sampler in a study: "
        f"{studies}"
    )


def number(value: float | None) -> str:
    """Four decimals, as an accuracy wants them, unless the value is too small or large for that."""
    if value is None:
        return "-"
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.4f}"
    return f"{value:.2e}"


def p_text(p: float) -> str:
    """Two significant digits."""
    return f"{p:.2g}" if p >= 1e-4 else f"{p:.0e}"
