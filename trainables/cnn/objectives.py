"""What is learned of an image: the loss of it, and the metric that says how well it was learned.

Classes: cross-entropy and accuracy. Values: mean squared error and R^2. Masks: the cross-entropy of
each pixel, and the mean intersection over union of the classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch.nn import functional

from trainables.cnn.architecture import Target


class Score(Protocol):
    """Adds up batches of outputs (B, ...) and targets to one metric."""

    def add(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Count a batch in."""

    def value(self) -> float:
        """The metric of all batches; larger is better, 1 is perfect."""


def loss_of(
    target: Target, outputs: torch.Tensor, targets: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Mean loss over a batch, a scalar.

    Args:
        target: what is learned.
        outputs: (B, K) logits, (B, K) values, or (B, K, H, W) logits.
        targets: (B,) int64, (B, K) float32, or (B, H, W) int64.
        label_smoothing: of classes and masks.
    """
    if target == "values":
        return functional.mse_loss(outputs, targets)
    return functional.cross_entropy(outputs, targets, label_smoothing=label_smoothing)


class Accuracy:
    """Share of images whose class was found."""

    def __init__(self) -> None:
        self.n_correct, self.n = 0, 0

    def add(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Count a batch of (B, K) logits and (B,) classes in."""
        self.n_correct += int((outputs.argmax(dim=1) == targets).sum().item())
        self.n += len(targets)

    def value(self) -> float:
        """0 to 1."""
        return self.n_correct / self.n


class RSquared:
    """Share of the variance of all values that is explained: 1 - residual / total."""

    def __init__(self) -> None:
        self._residual, self._squares = 0.0, 0.0
        self._sums: torch.Tensor | None = None
        self._n = 0

    def add(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Count a batch of (B, K) values in."""
        outputs, targets = outputs.double(), targets.double()
        self._residual += float(((outputs - targets) ** 2).sum())
        self._squares += float((targets**2).sum())
        sums = targets.sum(dim=0)
        self._sums = sums if self._sums is None else self._sums + sums
        self._n += len(targets)

    def value(self) -> float:
        """1 is perfect, 0 as good as the mean, below 0 worse."""
        assert self._sums is not None
        total = self._squares - float((self._sums**2).sum()) / self._n
        return 1 - self._residual / max(total, 1e-12)


class MeanIoU:
    """Intersection over union of each class over all pixels, the mean of the classes there are."""

    def __init__(self) -> None:
        self._intersection, self._union = _zeros(0), _zeros(0)

    def add(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Count a batch of (B, K, H, W) logits and (B, H, W) classes in."""
        n_classes, found = outputs.shape[1], outputs.argmax(dim=1)
        if len(self._union) == 0:
            self._intersection, self._union = _zeros(n_classes), _zeros(n_classes)
        for index in range(n_classes):
            of_found, of_target = found == index, targets == index
            self._intersection[index] += int((of_found & of_target).sum())
            self._union[index] += int((of_found | of_target).sum())

    def value(self) -> float:
        """0 to 1."""
        there = self._union > 0
        return float((self._intersection[there] / self._union[there]).mean())


def _zeros(n: int) -> torch.Tensor:
    """Counts of pixels, exact up to 2**53."""
    return torch.zeros(n, dtype=torch.float64)


METRICS: Mapping[Target, str] = {"classes": "accuracy", "values": "r2", "masks": "iou"}
"""What each target's metric is called; with the prefix "val_" on validation images."""


def new_score(target: Target) -> Score:
    """An empty count of the target's metric."""
    scores: dict[Target, type[Score]] = {
        "classes": Accuracy,
        "values": RSquared,
        "masks": MeanIoU,
    }
    return scores[target]()
