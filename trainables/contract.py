"""What a trainable is handed, and what it may hand back: the whole contract.

A trainable is a generator function that yields one mapping of metrics per epoch::

    def train(config, trial):
        for epoch in range(trial.max_epochs):
            ...
            yield {"val_accuracy": 0.97}

A plain function that returns a number or a mapping is a trainable of one report. Beside it, in the
same module, may stand

- ``finish(config, trial) -> FinalModel``: retrain on everything but the test set, test once, hand
  back what to export;
- ``rebuild(description) -> torch.nn.Module``: the predictor of a `FinalModel.description`, with any
  weights; without it TorchScript is the only format of export. What it is handed is the description
  with ``class_names``, ``in_channels``, ``target`` and ``trainable`` added;
- ``fingerprint(config, trial) -> str`` of the data;
- ``check_data(config, trial)``: raises a `DataError` if the data are not there; asked on every
  machine of a cluster before the first trial, so it looks for files and reads none;
- ``warnings(config, trial) -> Sequence[str]`` about the data, shown once at the start;
- ``find_lr(config, trial) -> LrRangeTest``: a range test of the learning rate; `range_test` makes
  one of a function that takes a step at a given rate. The config lacks ``lr``, here and in the
  call of ``constraints`` before;
- ``constraints(config, trial) -> Mapping[str, float]``: what is known before any training, e.g. the
  number of parameters; a ValueError says that the config cannot be built, or asks of its data
  what they cannot give, and costs nothing. A spec may limit these quantities, and any metric;
- ``changeable_while_training: tuple[str, ...]``: hyperparameters that may differ between a
  checkpoint and the training that goes on from it, which population-based training asks for. Its
  ``finish`` then has to follow ``trial.earlier``.

A trainable that keeps checkpoints, see `trainables.checkpoints`, goes on after an interruption
instead of beginning again.

Whoever finds that a training has diverged raises a `FloatingPointError`: samplers are told so.

Whoever finds the data missing or unreadable raises a `DataError`, which ends the search, not the
trial.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.checkpoints import CHECKPOINTS, Checkpoint, Checkpoints
from trainables.object_store import Place

if TYPE_CHECKING:
    import torch

BEST_WEIGHTS = "best_valid.pt"
"""Weights of the best validation epoch, in ``TrialContext.folder``; kept for finalists."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Epochs of a training whose config changed: up to and with ``until_epoch`` it was this one."""

    config: Mapping[str, Any]
    until_epoch: int


@dataclass(frozen=True, kw_only=True)
class TrialContext:
    """What a config is not: everything a trial is given besides its hyperparameters.

    Attributes:
        seed: of weights, data order and augmentation; 0 <= seed < 2**32. The same trial has the
            same seed whichever worker runs it, and whenever.
        folder: an existing folder of this trial alone; what is left there stays with the run.
        device: "cpu" or "cuda"; "cuda" only if the spec's resources ask for a GPU.
        threads: how many CPU threads the trial may keep busy, at least 1.
        max_epochs: the budget of one trial; None if the spec sets none.
        data_dir: where data sets lie or may be downloaded to.
        wanted: names of quantities that somebody wants to know of the config; what takes time to
            measure is measured only if it stands here.
        keeps_checkpoints: whether anybody may go on with this training: without it `checkpoints`
            saves nothing.
        keep_every: the last two checkpoints of every so many epochs stay as well as the last two.
        resume_from: checkpoints from which it goes on, the newest first; empty for a training that
            begins with epoch 1.
        checkpoint_home: the place for its checkpoints; None: they lie in ``folder``.
        earlier: how the config has changed, oldest first; for ``finish``, which has to train each
            segment with its config. ``train`` is called once per segment and need not look.
    """

    seed: int
    folder: Path
    device: str = "cpu"
    threads: int = 1
    max_epochs: int | None = None
    data_dir: Path = Path("data")
    wanted: tuple[str, ...] = ()
    keeps_checkpoints: bool = False
    keep_every: int = 1
    resume_from: tuple[Checkpoint, ...] = ()
    checkpoint_home: Place | None = None
    earlier: tuple[Segment, ...] = ()

    @cached_property
    def checkpoints(self) -> Checkpoints:
        """Where to keep the state of each epoch, and to find it again."""
        return Checkpoints(
            (self.checkpoint_home or self.folder) / CHECKPOINTS,
            resume_from=self.resume_from,
            is_wanted=self.keeps_checkpoints,
            keep_every=self.keep_every,
        )


@dataclass(frozen=True, kw_only=True)
class FinalModel:
    """A retrained model with its one reading of the test set, ready for export.

    Attributes:
        predictor: a scriptable module on the CPU in eval mode; (B, C, H, W) uint8 -> (B, n_classes)
            float32 probabilities, (B, n_values) values, or (B, n_classes, H, W) probabilities. It
            holds the preprocessing, is deterministic, and tells the same of an image whatever else
            is in its batch.
        class_names: label of each column of the predictor's output; names of the values.
        n_correct: test images classified correctly; None where ``metric`` is no accuracy.
        n_test: images in the test set.
        test_images: (n, C, H, W) uint8, test images to compare the exported predictor on, and to
            show as examples; C is 1 (grey) or 3 (RGB) where `hpo predict` shall use the model.
        test_labels: (n,) int64, their classes; None if what is learned is something else.
        other_images: (m, C, H, W) uint8, images of no test set to compare on, too; None where the
            test set is large enough for a comparison.
        metric: what was measured on the test set.
        metric_value: its value; of an accuracy it follows from ``n_correct``.
        confusion: (n_classes, n_classes) int64, test images (or pixels of masks) by true class in
            rows and predicted class in columns; None where there are no classes.
        rms_errors: (n_values,) float, root mean squared error of each value on the test set; None
            where there are no values.
        description: what ``rebuild`` makes the predictor of, any mapping ready for JSON; None where
            a trainable has no ``rebuild``: its predictor is exported as TorchScript alone. Nothing
            in it is required. These keys are read by others than ``rebuild``: ``target``
            ("classes", "values" or "masks"; else ``rms_errors`` mean values, and outputs with a
            height and width masks); ``shorter_side``, the pixels to which the predictor resizes an
            image's shorter side, which allows ONNX to round otherwise where it does so; and for the
            model card ``config`` (a mapping), ``n_trained_on``, and ``given_parts``: which of
            "test" and "validation" came with the data set, so that no fraction was split off.
    """

    predictor: torch.nn.Module
    class_names: tuple[str, ...]
    n_correct: int | None = None
    n_test: int
    test_images: torch.Tensor
    test_labels: torch.Tensor | None = None
    other_images: torch.Tensor | None = None
    metric: str = "accuracy"
    metric_value: float | None = None
    confusion: torch.Tensor | None = None
    rms_errors: torch.Tensor | None = None
    description: Mapping[str, Any] | None = None

    @property
    def test_value(self) -> float:
        """What ``metric`` came to on the test set."""
        if self.metric_value is not None:
            return self.metric_value
        assert self.n_correct is not None, "a final model has n_correct or metric_value"
        return self.n_correct / self.n_test
