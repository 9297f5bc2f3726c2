"""The learning-rate range test: the loss against a growing rate, and the rates worth searching.

Source: Smith 2015, arXiv:1506.01186, section 3.3. The smoothing and the end of the test are
fastai's (`fastai.callback.schedule.LRFinder`). Knows nothing of networks: whoever can take a step
at a given rate has a range test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

LR = "lr"
"""The hyperparameter that a range test finds."""
FIRST_RATE, LAST_RATE = 1e-5, 10.0
STEPS_PER_DECADE = 33
N_STEPS = 6 * STEPS_PER_DECADE + 1
N_BEGINNING = 20
"""Steps in which the average settles; they only say how high the loss is, and how noisy."""
BETA = 0.9
"""Weight of the past in the average; fastai's 0.98 is for tests ten times as long."""
DIVERGED = 4.0
"""Times the best smoothed loss: fastai's rule."""
MIN_FALL, MIN_FALL_IN_NOISE = 0.05, 1.5
"""A loss that falls by less than this share of its mean at the beginning, or by less than so many
of its standard deviations there, may have fallen by chance."""


@dataclass(frozen=True, kw_only=True)
class LrRange:
    """Rates worth searching, ``low < suggested < high``, each with two significant digits."""

    suggested: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class LrRangeTest:
    """A curve, why it ended, and what follows from it.

    Attributes:
        rates: (n,) the rates of the steps, ascending.
        losses: (n,) the training loss of each step, finite; before the step changed anything.
        smoothed: (n,) their exponential moving average.
        ending: why there was no further step, a sentence.
        found: the rates worth searching; None if the curve shows none.
        problem: why it shows none, a sentence; empty if it shows some.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    ending: str
    found: LrRange | None
    problem: str = ""


def range_test(step: Callable[[float], float]) -> LrRangeTest:
    """Take up to ``N_STEPS`` steps at exponentially growing rates, and judge the losses.

    The test ends when the smoothed loss exceeds ``DIVERGED`` times its best value, when a loss is
    not finite, or at ``LAST_RATE``.

    Args:
        step: takes one step of the optimizer at the rate it is given; returns the loss, >= 0, nan
            or inf if it has diverged.
    """
    losses: list[float] = []
    smoothed: list[float] = []
    rates = [float(rate) for rate in np.geomspace(FIRST_RATE, LAST_RATE, N_STEPS)]
    ending = f"the rate reached {LAST_RATE:g}, the end of the test"
    for rate in rates:
        loss = step(rate)
        if not math.isfinite(loss):
            ending = f"the loss was {loss} at {rate:.2g}"
            break
        losses.append(loss)
        smoothed = smooth(losses)
        if smoothed[-1] > DIVERGED * min(smoothed):
            ending = f"the loss exceeded {DIVERGED:g} times its best at {rate:.2g}"
            break
    problem = _problem(losses, smoothed, ending)
    return LrRangeTest(
        rates=tuple(rates[: len(losses)]),
        losses=tuple(losses),
        smoothed=tuple(smoothed),
        ending=ending,
        found=None if problem else rates_worth_searching(rates, smoothed),
        problem=problem,
    )


def smooth(losses: Sequence[float]) -> list[float]:
    """Exponential moving average without the bias of its start (Kingma & Ba 2014, section 3).

    ``average_t = (BETA average_(t-1) + (1 - BETA) loss_t)``, divided by ``1 - BETA^t``.
    """
    average, smoothed = 0.0, []
    for t, loss in enumerate(losses, start=1):
        average = BETA * average + (1 - BETA) * loss
        smoothed.append(average / (1 - BETA**t))
    return smoothed


def rates_worth_searching(rates: Sequence[float], smoothed: Sequence[float]) -> LrRange:
    """What a smoothed curve of more than ``N_BEGINNING`` losses suggests.

    ``high`` is the rate of its lowest point: above, the loss only gets worse. ``suggested`` is
    the rate of its steepest descent per decade, at most a tenth of ``high``: nearer to it the
    average, which lags behind, may hide that the losses rise. ``low`` is a tenth of ``suggested``.
    """
    lowest = N_BEGINNING + int(np.argmin(smoothed[N_BEGINNING:]))
    steepest = min(
        range(N_BEGINNING, lowest + 1), key=lambda index: _slope(smoothed, index, lowest)
    )
    high = rates[lowest]
    suggested = min(rates[steepest], high / 10)
    return LrRange(
        suggested=_two_digits(suggested), low=_two_digits(suggested / 10), high=_two_digits(high)
    )


def _slope(smoothed: Sequence[float], index: int, last: int) -> float:
    """Change of the loss per step over the half decade around ``index``; noise has less to say."""
    quarter = STEPS_PER_DECADE // 4
    first, last = max(0, index - quarter), min(last, index + quarter)
    return (smoothed[last] - smoothed[first]) / (last - first)


def _problem(losses: Sequence[float], smoothed: Sequence[float], ending: str) -> str:
    if len(losses) <= N_BEGINNING:
        return f"it diverged at once: {ending}"
    mean, deviation = float(np.mean(losses[:N_BEGINNING])), float(np.std(losses[:N_BEGINNING]))
    fall = mean - min(smoothed[N_BEGINNING:])
    by_chance = max(MIN_FALL * mean, MIN_FALL_IN_NOISE * deviation)
    if fall > by_chance:
        return ""
    return (
        f"the loss never falls clearly: it begins at {mean:.3g} and falls by {max(fall, 0.0):.2g} "
        f"at most, which may be chance (up to {by_chance:.2g})"
    )


def _two_digits(rate: float) -> float:
    """More digits would promise what a single run of a few seconds cannot know."""
    return float(f"{rate:.1e}")
