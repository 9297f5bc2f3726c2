"""Draw a range test of the learning rate: a PNG, and characters for the terminal."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from trainables import LrRange, LrRangeTest

WIDTH, HEIGHT = 70, 16
"""Characters of the drawing; with the numbers at its left it fits 80 columns."""


def draw_range_test(test: LrRangeTest, path: Path) -> None:
    """Write a PNG of the curve with what was found.

    Raises:
        OSError: if it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display
    axes = figure.add_subplot(xlabel="learning rate", ylabel="training loss", xscale="log")
    axes.plot(test.rates, test.losses, ".", color="#bbb", markersize=4, label="each step")
    axes.plot(test.rates, test.smoothed, color="#0072B2", linewidth=2, label="smoothed")
    if test.found is not None:
        axes.axvspan(test.found.low, test.found.high, color="#009E73", alpha=0.12)
        label = (
            f"suggested {test.found.suggested:g}, range {test.found.low:g} to {test.found.high:g}"
        )
        axes.axvline(test.found.suggested, color="#D55E00", linewidth=1.5, label=label)
    axes.set_title(test.problem or test.ending, fontsize=9, loc="left", color="#555", wrap=True)
    if test.losses:
        axes.set_ylim(*_shown_losses(test))
        axes.legend(loc="upper left", edgecolor="none", framealpha=0.9)
    axes.grid(color="#e3e3e3")
    axes.set_axisbelow(True)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def range_test_text(test: LrRangeTest) -> str:
    """The same in plain ASCII, at most 80 columns: ``*`` smoothed, ``.`` each step."""
    if not test.rates:
        return ""
    canvas = np.full((HEIGHT, WIDTH), " ")
    low, high = _shown_losses(test)

    def put(losses: tuple[float, ...], character: str) -> None:
        for rate, loss in zip(test.rates, losses, strict=True):
            row = round((high - loss) / (high - low) * (HEIGHT - 1))
            if 0 <= row < HEIGHT:
                canvas[row, _column(test, rate)] = character

    put(test.losses, ".")
    put(test.smoothed, "*")
    numbers = {0: f"{high:.3g}", HEIGHT // 2: f"{(high + low) / 2:.3g}", HEIGHT - 1: f"{low:.3g}"}
    lines = ["    loss"]
    lines += [
        f"{numbers.get(row, ''):>8}|{''.join(cells)}".rstrip() for row, cells in enumerate(canvas)
    ]
    lines += [_axis(test), _powers_of_ten(test)]
    if test.found is not None:
        lines.append(_marks(test, test.found))
    return "\n".join(lines)


def _shown_losses(test: LrRangeTest) -> tuple[float, float]:
    """From below the best to above the beginning: how far it diverged would flatten the rest."""
    smoothed = np.array(test.smoothed)
    top = 1.15 * float(smoothed[: int(smoothed.argmin()) + 1].max())
    best = float(smoothed.min())
    return max(0.0, best - 0.1 * (top - best)), max(top, best + 1e-9)


def _column(test: LrRangeTest, rate: float) -> int:
    first, last = math.log(test.rates[0]), math.log(max(test.rates[-1], test.rates[0] * 1.01))
    return min(WIDTH - 1, max(0, round((math.log(rate) - first) / (last - first) * (WIDTH - 1))))


def _decades(test: LrRangeTest) -> range:
    first, last = math.log10(test.rates[0]), math.log10(test.rates[-1])
    return range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1)


def _axis(test: LrRangeTest) -> str:
    cells = ["-"] * WIDTH
    for power in _decades(test):
        cells[_column(test, 10.0**power)] = "+"
    return " " * 8 + "+" + "".join(cells)


def _powers_of_ten(test: LrRangeTest) -> str:
    line = [" "] * WIDTH
    for power in _decades(test):
        text = f"{10.0**power:g}"
        at = min(_column(test, 10.0**power), WIDTH - len(text))
        line[at : at + len(text)] = text
    return f"{'lr':>8} {''.join(line)}".rstrip()


def _marks(test: LrRangeTest, found: LrRange) -> str:
    """The range as ``[---^---]`` below the axis, ``^`` the suggestion."""
    cells = [" "] * WIDTH
    low, suggested, high = (_column(test, r) for r in (found.low, found.suggested, found.high))
    cells[low : high + 1] = "-" * (high + 1 - low)
    cells[low], cells[high], cells[suggested] = "[", "]", "^"
    return f"{'range':>8} {''.join(cells)}".rstrip()
