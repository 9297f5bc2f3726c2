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


_NO_COUNTS = torch.zeros(0, 0, dtype=torch.int64)  # how many classes there are, a batch says


class Accuracy:
    """Share of images whose class was found."""

    def __init__(self) -> None:
        self.confusion = _NO_COUNTS

    def add(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Count a batch of (B, K) logits and (B,) classes in."""
        self.confusion = _counted_in(self.confusion, outputs, targets)

    @property
    def n_correct(self) -> int:
        """Images whose class was found."""
        return int(self.confusion.trace())

    def value(self) -> float:
        """0 to 1."""
        return self.n_correct / int(self.confusion.sum())


class RSquared:
    """Share of the variance of all values that is explained: 1 - residual / total."""

    def __init__(self) -> None:
        self._residuals: torch.Tensor | None = None
        self._squares = 0.0
        self._sums: torch.Tensor | None = None
        self._n = 0

    def add(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Count a batch of (B, K) values in."""
        outputs, targets = outputs.double(), targets.double()
        residuals, sums = ((outputs - targets) ** 2).sum(dim=0), targets.sum(dim=0)
        self._residuals = residuals if self._residuals is None else self._residuals + residuals
        self._squares += float((targets**2).sum())
        self._sums = sums if self._sums is None else self._sums + sums
        self._n += len(targets)

    def value(self) -> float:
        """1 is perfect, 0 as good as the mean, below 0 worse."""
        assert self._sums is not None
        assert self._residuals is not None
        total = self._squares - float((self._sums**2).sum()) / self._n
        return 1 - float(self._residuals.sum()) / max(total, 1e-12)

    def rms_errors(self) -> torch.Tensor:
        """(K,) float64, root mean squared error of each value."""
        assert self._residuals is not None
        return (self._residuals / self._n).sqrt().cpu()


class MeanIoU:
    """Intersection over union of each class over all pixels, the mean of the classes there are."""

    def __init__(self) -> None:
        self.confusion = _NO_COUNTS

    def add(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Count a batch of (B, K, H, W) logits and (B, H, W) classes in."""
        self.confusion = _counted_in(self.confusion, outputs, targets)

    def value(self) -> float:
        """0 to 1."""
        intersection = self.confusion.diagonal().double()
        union = self.confusion.sum(dim=0) + self.confusion.sum(dim=1) - intersection
        there = union > 0
        return float((intersection[there] / union[there]).mean())


def _counted_in(
    confusion: torch.Tensor, outputs: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """(K, K) int64 counts by true class (rows) and found class (columns), a batch added."""
    n_classes = outputs.shape[1]
    pairs = targets.flatten() * n_classes + outputs.argmax(dim=1).flatten()
    counts = torch.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes).cpu()
    return counts if len(confusion) == 0 else confusion + counts


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
