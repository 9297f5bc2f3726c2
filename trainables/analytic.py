"""A trainable of milliseconds: Branin's function, approached over epochs like a learning curve.

It trains nothing, so tests of the platform and first tries of a sampler cost no time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from trainables.contract import TrialContext

METRICS = ("loss",)
CONFIG_KEYS = ("x1", "x2", "noise")


def branin(x1: float, x2: float) -> float:
    """Branin's function on [-5, 10] x [0, 15]; its three minima are 0.397887.

    Source: Dixon & Szegoe 1978, "The global optimization problem: an introduction".
    """
    a, b, c, r, s, t = 1.0, 5.1 / (4 * math.pi**2), 5 / math.pi, 6.0, 10.0, 1 / (8 * math.pi)
    return a * (x2 - b * x1**2 + c * x1 - r) ** 2 + s * (1 - t) * math.cos(x1) + s


def train(config: Mapping[str, Any], trial: TrialContext) -> Iterator[Mapping[str, float]]:
    """Yield ``loss`` after each epoch: Branin's value plus an excess that halves every epoch.

    Args:
        config: ``x1`` in [-5, 10], ``x2`` in [0, 15]; ``noise``, standard deviation added to each
            epoch's loss, 0 unless given.
        trial: ``max_epochs`` epochs are yielded, 10 if the budget sets none.
    """
    x1, x2 = float(config["x1"]), float(config["x2"])
    noise = float(config.get("noise", 0.0))
    rng = np.random.default_rng(trial.seed)
    value = branin(x1, x2)
    for epoch in range(1, (trial.max_epochs or 10) + 1):
        yield {"loss": value + 50.0 * 0.5**epoch + noise * float(rng.standard_normal())}
