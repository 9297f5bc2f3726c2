"""Learning-rate schedules by name; all of them move at each step of the optimizer."""

from __future__ import annotations

from collections.abc import Callable

from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from trainables.cnn.optimization_config import OptimizationConfig

WARMUP_START = 0.01
"""Share of the learning rate at which a warm-up begins."""
RISING_SHARE = 0.3
"""Of one cycle, if no warm-up is given: Smith 2018, arXiv:1803.09820, and torch's default."""
MOMENTUM_DIP = 0.1
"""How far one cycle takes the momentum down while the rate is high: Smith's 0.95 and 0.85."""
SHORTEST_CYCLE = 3
"""Steps: the rate is low in the first, ``lr`` in the second, low in the last."""


def build_lr_schedule(
    config: OptimizationConfig, optimizer: Optimizer, *, n_epochs: int, steps_per_epoch: int
) -> LRScheduler:
    """The schedule of ``config.lr_schedule``, with its warm-up; to be moved after each step."""
    n_steps = n_epochs * steps_per_epoch
    n_warmup = min(round(config.warmup_epochs * steps_per_epoch), n_steps - 1)
    if config.lr_schedule == "onecycle":
        return _onecycle(config, optimizer, n_steps, n_warmup)
    main = SCHEDULES[config.lr_schedule](config, optimizer, n_steps - n_warmup, steps_per_epoch)
    if n_warmup == 0:
        return main
    warmup = lr_scheduler.LinearLR(optimizer, start_factor=WARMUP_START, total_iters=n_warmup)
    return lr_scheduler.SequentialLR(optimizer, [warmup, main], milestones=[n_warmup])


def _onecycle(
    config: OptimizationConfig, optimizer: Optimizer, n_steps: int, n_warmup: int
) -> LRScheduler:
    """Smith 2018, arXiv:1803.09820; the same rate all along where the steps make no cycle.

    The momentum is lowest where the rate is highest: of AdamW, whose first beta it is, from torch's
    0.95 to 0.85; of the others from ``config.momentum``.
    """
    if n_steps < SHORTEST_CYCLE:
        return _constant(config, optimizer, n_steps, n_steps)
    n_rising = max(2, n_warmup)  # torch divides by zero if the first step is the peak
    momentum = 0.95 if config.optimizer == "adamw" else config.momentum
    return lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=config.lr,
        total_steps=n_steps,
        pct_start=n_rising / n_steps if config.warmup_epochs else RISING_SHARE,
        max_momentum=momentum,
        base_momentum=max(0.0, momentum - MOMENTUM_DIP),
    )


def _constant(
    _config: OptimizationConfig, optimizer: Optimizer, _n_steps: int, _per_epoch: int
) -> LRScheduler:
    return lr_scheduler.LambdaLR(optimizer, lambda _step: 1.0)


def _step(
    config: OptimizationConfig, optimizer: Optimizer, _n_steps: int, per_epoch: int
) -> LRScheduler:
    return lr_scheduler.StepLR(optimizer, config.lr_step_epochs * per_epoch, config.lr_gamma)


def _cosine(
    _config: OptimizationConfig, optimizer: Optimizer, n_steps: int, _per_epoch: int
) -> LRScheduler:
    """Loshchilov & Hutter 2016, arXiv:1608.03983, without restarts."""
    return lr_scheduler.CosineAnnealingLR(optimizer, T_max=n_steps)


def _exponential(
    config: OptimizationConfig, optimizer: Optimizer, _n_steps: int, per_epoch: int
) -> LRScheduler:
    return lr_scheduler.ExponentialLR(optimizer, config.lr_gamma ** (1 / per_epoch))


SCHEDULES: dict[str, Callable[[OptimizationConfig, Optimizer, int, int], LRScheduler]] = {
    "constant": _constant,
    "step": _step,
    "cosine": _cosine,
    "exponential": _exponential,
}
