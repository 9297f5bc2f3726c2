"""The hyperparameters of the training, their meaning, their ranges. Needs no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainables.hyperparameters import Hyperparameters


class OptimizationConfig(Hyperparameters):
    """How the weights are found.

    Attributes:
        batch_size: images per step of the optimizer; at least 2, for batch normalization.
        optimizer: "sgd", "adamw" or "rmsprop".
        lr: learning rate, the peak of its schedule.
        momentum: of sgd and rmsprop. Under "onecycle" it is the peak: the momentum is 0.1 lower,
            but not below 0, when the rate is at its own.
        nesterov: Nesterov's momentum, of sgd; needs a momentum.
        weight_decay: of every optimizer.
        lr_schedule: "constant", "step" (times ``lr_gamma`` every ``lr_step_epochs``), "cosine" (to
            zero at the last epoch), "onecycle" (up, then down to nearly zero), "exponential" (times
            ``lr_gamma`` each epoch).
        lr_step_epochs: epochs between two steps of "step".
        lr_gamma: factor of "step" and "exponential".
        warmup_epochs: the rate rises from a hundredth of ``lr`` first; of "onecycle" it is the
            rising part, two steps at least, and 30 % of the epochs if it is 0.
        label_smoothing: probability given to all classes alike.
        clip_norm: a gradient that is longer is cut to this length; 0 cuts nothing.
    """

    batch_size: int = Field(default=64, ge=2)
    optimizer: Literal["sgd", "adamw", "rmsprop"] = "adamw"
    lr: float = Field(default=1e-2, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(default=1e-4, ge=0)
    lr_schedule: Literal["constant", "step", "cosine", "onecycle", "exponential"] = "onecycle"
    lr_step_epochs: int = Field(default=5, ge=1)
    lr_gamma: float = Field(default=0.5, gt=0, le=1)
    warmup_epochs: float = Field(default=0.0, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    clip_norm: float = Field(default=0.0, ge=0)

    def breaches(self) -> list[tuple[str, str]]:
        """Rules between the keys that are broken."""
        found = super().breaches()
        if self.nesterov and self.optimizer == "sgd" and self.momentum == 0:
            found.append(("nesterov", "needs momentum > 0"))
        return found
