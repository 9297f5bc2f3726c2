"""The learning-rate range test of a CNN: steps of a real training, at rates that grow."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import closing
from itertools import count
from typing import Any

from trainables.cnn.config import CnnConfig
from trainables.cnn.training import Training, TrainingDivergedError
from trainables.contract import TrialContext
from trainables.images.dataset import load_split
from trainables.lr_range_test import LrRangeTest, range_test


def find_lr(config: Mapping[str, Any], trial: TrialContext) -> LrRangeTest:
    """The range test of ``config``, whose ``lr`` and ``lr_schedule`` have no say in it.

    Trains a network of its own on the training images alone, as often over as it takes.

    Raises:
        CnnConfigError: if the config breaks a rule of `CnnConfig`.
        InfeasibleError: if the network cannot be built.
        DataError: if the images are missing.
    """
    # One cycle would move the momentum, too.
    cnn = CnnConfig.from_mapping({**config, "lr_schedule": "constant", "warmup_epochs": 0.0})
    training = Training(cnn, trial, load_split(cnn, trial.data_dir).train)
    with closing(_losses(training)) as losses:

        def step(rate: float) -> float:
            training.set_lr(rate)
            return next(losses)

        return range_test(step)


def _losses(training: Training) -> Generator[float, None, None]:
    """The loss of one step after the other, epoch by epoch without end; nan once it diverged."""
    try:
        for epoch in count(1):
            yield from training.steps(epoch)
    except TrainingDivergedError:
        yield float("nan")
