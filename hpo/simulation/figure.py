"""Draw strategies against simulated time: best value so far, and how busy the workers are."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from hpo.curves import Direction
from hpo.simulation.outcome import Strategy, common_times

# Colours that colour-blind readers can tell apart: Okabe & Ito 2008, https://jfly.uni-koeln.de/color
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442")
STYLES = ("-", "--", ":", "-.")
RECORD_COLOR = "#222"


def draw_strategies(
    strategies: Sequence[Strategy],
    targets: Sequence[float],
    metric: str,
    direction: Direction,
    kind: str,
) -> bytes:
    """A panel for each number of workers, and one of utilization; ``kind`` is "png" or "svg"."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    numbers = sorted({strategy.n_workers for strategy in strategies if not strategy.is_record})
    n_columns = min(3, len(numbers) + 1)
    n_rows = -(-(len(numbers) + 1) // n_columns)
    figure = Figure(figsize=(4.2 * n_columns, 3.4 * n_rows + 0.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display
    panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    times = common_times(strategies)
    for axes, n_workers in zip(panels, numbers, strict=False):
        shown = [s for s in strategies if s.is_record or s.n_workers == n_workers]
        axes.set_title(f"{n_workers:,} workers" if n_workers > 1 else "1 worker", fontsize=10)
        axes.set(xlabel="simulated seconds", ylabel=f"best {metric} so far", xscale="log")
        for target in targets:
            axes.axhline(target, color="#999", linewidth=0.8)
        for strategy in shown:
            low, middle, high = strategy.band(times, direction)
            color, style = _look(strategy, strategies)
            axes.plot(times, middle, color=color, linestyle=style, label=strategy.label)
            axes.fill_between(times, low, high, color=color, alpha=0.15, linewidth=0)
        axes.grid(color="#e3e3e3")
    _draw_utilization(panels[len(numbers)], strategies)
    for axes in panels[len(numbers) + 1 :]:
        axes.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    image = io.BytesIO()
    # Without a date and with ids that do not change, so that the same replay is the same file.
    with mpl.rc_context({"svg.hashsalt": "hpo"}):
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(image, format=kind, metadata=metadata)
    return image.getvalue()


def _draw_utilization(axes: Any, strategies: Sequence[Strategy]) -> None:
    axes.set_title("utilization", fontsize=10)
    axes.set(xlabel="workers", ylabel="share of time training", xscale="log", ylim=(0, 1.02))
    numbers = sorted({strategy.n_workers for strategy in strategies})
    axes.set_xticks(numbers, [f"{number:,}" for number in numbers])
    axes.minorticks_off()
    axes.grid(color="#e3e3e3")
    for label in dict.fromkeys(strategy.label for strategy in strategies):
        same = [strategy for strategy in strategies if strategy.label == label]
        color, style = _look(same[0], strategies)
        axes.plot(
            [strategy.n_workers for strategy in same],
            [strategy.mean("utilization") for strategy in same],
            color=color,
            linestyle=style,
            marker="o",
            markersize=4,
        )


def _look(strategy: Strategy, strategies: Sequence[Strategy]) -> tuple[str, str]:
    """A colour for each sampler, a line for each scheduler; the record is black."""
    if strategy.is_record:
        return RECORD_COLOR, "-"
    simulated = [other for other in strategies if not other.is_record]
    samplers = list(dict.fromkeys(other.sampler for other in simulated))
    schedulers = list(dict.fromkeys(other.scheduler for other in simulated))
    color = COLORS[samplers.index(strategy.sampler) % len(COLORS)]
    return color, STYLES[schedulers.index(strategy.scheduler) % len(STYLES)]
