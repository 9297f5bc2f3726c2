"""The plots of a comparison: incumbents with bands, scores by seed, ranks on their axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from hpo.comparison.result import Comparison
from hpo.comparison.statistics import ALPHA, FloatArray, bootstrap_band
from hpo.comparison.verdict import p_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that colour-blind readers can tell apart: Okabe & Ito 2008, https://jfly.uni-koeln.de/color
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
FAINT = "#666"


def curves_figure(comparison: Comparison) -> Figure:
    """Mean incumbent after each trial, after each epoch, and over the seconds spent."""
    figure = _figure(11, 3.6)
    axes = figure.subplots(1, 3, sharey=True)
    draw = {
        "trials": comparison.curves_by_trial,
        "epochs": lambda sampler: comparison.curves_over("epochs", sampler),
        "seconds, sampler included": lambda sampler: comparison.curves_over("seconds", sampler),
    }
    for one, (label, curves_of) in zip(axes, draw.items(), strict=True):
        _draw_curves(one, comparison, curves_of)
        one.set_xlabel(label)
    first, last = axes[2].dataLim.intervalx
    if last > 10 * first:  # some samplers take a thousand times as long as others
        axes[2].set_xscale("log")
    _zoom(axes[0], comparison)
    axes[0].set_ylabel(f"best {comparison.metric} so far")
    axes[0].legend(edgecolor="none", framealpha=0.8)
    return figure


def _draw_curves(
    axes: Axes, comparison: Comparison, curves_of: Callable[[str], tuple[FloatArray, FloatArray]]
) -> None:
    # Thinner and thinner: of curves that are equal, as at the start, the first one is still seen.
    widths = np.linspace(3.5, 1.5, len(comparison.samplers))
    for (sampler, colour), width in zip(colours(comparison).items(), widths, strict=True):
        x, curves = curves_of(sampler)
        low, high = bootstrap_band(curves, comparison.seed)
        axes.plot(
            x, curves.mean(axis=0),
            drawstyle="steps-post", color=colour, label=sampler, linewidth=width,
        )  # fmt: skip
        axes.fill_between(x, low, high, step="post", color=colour, alpha=0.15, linewidth=0)
    _style(axes)


def _zoom(axes: Axes, comparison: Comparison) -> None:
    """Show where the curves end: how bad the first trials were would flatten the rest."""
    means = np.concatenate([comparison.mean_curve(sampler) for sampler in comparison.samplers])
    goodness = comparison.sign * means[np.isfinite(means)]
    if len(goodness):
        ends = comparison.sign * np.array([np.quantile(goodness, 0.1), goodness.max()])
        margin = 0.15 * abs(ends[1] - ends[0]) or 0.01 * abs(ends[0]) or 1.0
        axes.set_ylim(ends.min() - margin, ends.max() + margin)


def scores_figure(comparison: Comparison) -> Figure:
    """Score and seen value of each study; a line joins what was seen with what was true."""
    figure = _figure(7, 1.2 + 0.7 * len(comparison.samplers))
    axes = figure.add_subplot(xlabel=comparison.metric)
    order = [summary.sampler for summary in comparison.summaries]
    for place, sampler in enumerate(order):
        runs = comparison.runs_of(sampler)
        scores = np.array([run.score for run in runs], dtype=float)  # NaN where nothing succeeded
        seen = np.array([run.seen for run in runs], dtype=float)
        heights = place + np.linspace(-0.25, 0.25, len(runs))
        colour = colours(comparison)[sampler]
        axes.plot([seen, scores], [heights, heights], color=colour, alpha=0.35)
        axes.plot(scores, heights, "o", color=colour, markersize=5)
        axes.plot(seen, heights, "|", color=colour, markersize=7)
        if np.isfinite(scores).any():
            mean = float(np.nanmean(scores))
            axes.plot([mean, mean], [place - 0.35, place + 0.35], color="#222", linewidth=1.5)
    axes.set_yticks(range(len(order)), order)
    axes.invert_yaxis()
    title = "| best value seen in a search   ● its config on fresh seeds   long line: their mean"
    axes.set_title(title, fontsize=9, color=FAINT, loc="left")
    _style(axes)
    return figure


def ranks_figure(comparison: Comparison) -> Figure:
    """Critical-difference diagram (Demsar 2006, figure 1): bars join what is not told apart."""
    ranks = [(summary.sampler, summary.rank) for summary in comparison.summaries]
    groups = cliques([rank for _, rank in ranks], comparison.critical_difference)
    n = len(ranks)
    figure = _figure(7, 1.2 + 0.22 * n + 0.12 * len(groups))
    axes = figure.add_subplot()
    axes.set_axis_off()
    deepest = 0.5 + 0.5 * ((n + 1) // 2) + 0.3 * len(groups)
    axes.set_xlim(n + 0.9, 0.1)  # the best, rank 1, on the right as in Demsar's figures
    axes.set_ylim(deepest, -1.6)
    axes.plot([1, n], [0, 0], color="#222", linewidth=1)
    for tick in range(1, n + 1):
        axes.plot([tick, tick], [0, -0.15], color="#222", linewidth=1)
        axes.text(tick, -0.25, str(tick), ha="center", va="bottom", fontsize=9)
    difference = min(comparison.critical_difference, n - 0.9)
    axes.plot([n, n - difference], [-1.1, -1.1], color="#222", linewidth=2, marker="|")
    label = f"critical difference {comparison.critical_difference:.2f}"
    axes.text(n - difference / 2, -1.2, label, ha="center", va="bottom", fontsize=9)
    for level, (first, last) in enumerate(groups):
        height = 0.35 + 0.3 * level
        axes.plot(
            [ranks[first][1] - 0.04, ranks[last][1] + 0.04], [height, height],
            color="#222", linewidth=4, solid_capstyle="butt",
        )  # fmt: skip
    below = 0.6 + 0.3 * len(groups)
    for place, (sampler, rank) in enumerate(ranks):
        is_right = place < (n + 1) // 2
        depth = below + 0.5 * (place if is_right else n - 1 - place)
        end = 0.75 if is_right else n + 0.25
        axes.plot([rank, rank, end], [0, depth, depth], color=colours(comparison)[sampler])
        axes.text(
            end, depth, f" {sampler} {rank:.2f} ",
            ha="left" if is_right else "right", va="center", fontsize=10,
        )  # fmt: skip
    if comparison.friedman_p > ALPHA:
        title = f"Friedman's test tells none apart (p={p_text(comparison.friedman_p)})"
        axes.set_title(title, fontsize=9, color=FAINT, loc="left")
    return figure


def cliques(ranks: list[float], difference: float) -> list[tuple[int, int]]:
    """Groups of at least two that are not told apart, as (first, last) place; none in another.

    Args:
        ranks: ascending average ranks.
        difference: the critical one.
    """
    found: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(place for place, other in enumerate(ranks) if other - rank < difference)
        if last > first and not any(last <= group_last for _, group_last in found):
            found.append((first, last))
    return found


def colours(comparison: Comparison) -> Mapping[str, str]:
    """The same one for a sampler in all figures."""
    return {s: COLOURS[i % len(COLOURS)] for i, s in enumerate(comparison.samplers)}


FIGURES: dict[str, Callable[[Comparison], Figure]] = {
    "curves": curves_figure,
    "scores": scores_figure,
    "ranks": ranks_figure,
}


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display
    return figure


def _style(axes: Axes) -> None:
    axes.grid(color="#e3e3e3")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
