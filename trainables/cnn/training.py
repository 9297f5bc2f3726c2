"""Train a CNN for a config, and finish the winner: the trainable of ``search_spaces/cnn.yaml``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from trainables.cnn.config import CnnConfig
from trainables.cnn.network import Cnn
from trainables.cnn.predictor import Predictor
from trainables.contract import BEST_WEIGHTS, FinalModel, TrialContext
from trainables.images.augmentation import (
    TrainingTransforms,
    evaluation_transforms,
    normalize,
)
from trainables.images.config import AugmentationConfig, DataConfig
from trainables.images.dataset import LabelledImages, SplitImages, channel_statistics, load_split

DEFAULT_MAX_EPOCHS = 12
N_COMPARED_IMAGES = 256


class TrainingDivergedError(ArithmeticError):
    """The training loss is no longer a finite number."""


def train(config: Mapping[str, Any], trial: TrialContext) -> Iterator[Mapping[str, float]]:
    """Train on the training part; yield train_loss, val_loss, val_accuracy after each epoch.

    Keeps the weights of the epoch with the highest val_accuracy in ``trial.folder``.

    Raises:
        CnnConfigError: if the config breaks a rule of `CnnConfig`.
        TrainingDivergedError: if the loss is not finite.
    """
    cnn = CnnConfig.from_mapping(config)
    data = _load(cnn, trial)
    training = Training(cnn, trial, data.train, n_classes=len(data.class_names))
    validation = training.on_device(data.validation)
    best_accuracy = -1.0
    for epoch in range(1, training.n_epochs + 1):
        train_loss = training.run_epoch(epoch)
        val_loss, n_correct = training.evaluate(validation)
        val_accuracy = n_correct / len(data.validation)
        if val_accuracy > best_accuracy:
            best_accuracy = val_accuracy
            _save_weights(training.network, trial)
        yield {"train_loss": train_loss, "val_loss": val_loss, "val_accuracy": val_accuracy}


def finish(config: Mapping[str, Any], trial: TrialContext) -> FinalModel:
    """Retrain on train + validation for the full budget and read the test set, once."""
    cnn = CnnConfig.from_mapping(config)
    data = _load(cnn, trial)
    training = Training(cnn, trial, data.train_and_validation(), n_classes=len(data.class_names))
    for epoch in range(1, training.n_epochs + 1):
        training.run_epoch(epoch)
    _, n_correct = training.evaluate(training.on_device(data.test))
    test_images, test_labels = data.test.batch(slice(N_COMPARED_IMAGES))
    return FinalModel(
        predictor=training.predictor(data.class_names),
        class_names=data.class_names,
        n_correct=n_correct,
        n_test=len(data.test),
        test_images=torch.from_numpy(test_images),
        test_labels=torch.from_numpy(test_labels),
    )


def fingerprint(config: Mapping[str, Any], trial: TrialContext) -> str:
    """SHA-256 of the images, their labels and their split."""
    cnn = CnnConfig.from_mapping(config)
    return _load(cnn, trial).fingerprint


def _data_config(cnn: CnnConfig) -> DataConfig:
    return DataConfig(dataset=cnn.dataset, image_size=cnn.image_size, split_seed=cnn.split_seed)


def _load(cnn: CnnConfig, trial: TrialContext) -> SplitImages:
    return load_split(_data_config(cnn), trial.data_dir)


@dataclass(frozen=True)
class Batch:
    """``images`` (n, C, H, W) uint8 and ``labels`` (n,) int64 on the training device."""

    images: torch.Tensor
    labels: torch.Tensor


class Training:
    """A network, its optimizer and its training images, epoch by epoch.

    Randomness of an epoch comes from (trial seed, epoch) alone, and the caller's global generators
    are left as they were, so epochs of several trainings may be interleaved in one process.
    """

    def __init__(
        self, config: CnnConfig, trial: TrialContext, images: LabelledImages, n_classes: int
    ) -> None:
        torch.set_num_threads(trial.threads)
        self.config, self.trial = config, trial
        self.n_epochs = trial.max_epochs or DEFAULT_MAX_EPOCHS
        self._images = self.on_device(images)
        self._in_channels = images.shape[0]
        self._mean, self._std = channel_statistics(images)  # of the training part only
        with self._seeded(epoch=0):
            self.network: nn.Module = Cnn(config, self._in_channels, n_classes).to(trial.device)
        data = _data_config(config)
        self._resize = evaluation_transforms(data)
        self._augment = TrainingTransforms(
            data,
            AugmentationConfig(
                randaugment_num_ops=config.randaugment_num_ops,
                randaugment_magnitude=config.randaugment_magnitude,
            ),
        )
        self._optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self._lr_schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer,
            max_lr=config.lr,
            epochs=self.n_epochs,
            steps_per_epoch=max(1, len(images) // config.batch_size),
        )

    def run_epoch(self, epoch: int) -> float:
        """One pass over the training images (epochs count from 1); returns the mean loss.

        Raises:
            TrainingDivergedError: if the loss is not finite.
        """
        self.network.train()
        losses: list[float] = []
        size = self.config.batch_size
        with self._seeded(epoch):
            order = torch.randperm(len(self._images.labels)).to(self.trial.device)
            for start in range(
                0, max(1, len(order) // size) * size, size
            ):  # drops a short last batch
                picked = order[start : start + size]
                images = self._normalize(self._augment(self._images.images[picked]))
                logits = self.network(images)  # (B, n_classes)
                loss = functional.cross_entropy(logits, self._images.labels[picked])
                if not torch.isfinite(loss):  # ASHA never stops a NaN trial: NaN < cutoff is False
                    raise TrainingDivergedError(
                        f"loss is {loss.item()} in epoch {epoch} at lr={self.config.lr:g}"
                    )
                self._optimizer.zero_grad()
                loss.backward()
                self._optimizer.step()
                self._lr_schedule.step()
                losses.append(loss.item())
        return sum(losses) / len(losses)

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> tuple[float, int]:
        """Mean loss and number of correct answers on ``batch``, without augmentation."""
        self.network.eval()
        loss, n_correct = 0.0, 0
        for images, labels in zip(batch.images.split(1024), batch.labels.split(1024), strict=True):
            logits = self.network(self._normalize(self._resize(images)))
            loss += functional.cross_entropy(logits, labels, reduction="sum").item()
            n_correct += int((logits.argmax(dim=1) == labels).sum().item())
        return loss / len(batch.labels), n_correct

    def predictor(self, class_names: tuple[str, ...]) -> Predictor:
        """The trained network on the CPU, with its preprocessing, ready for export."""
        return Predictor(
            self.network.cpu(),
            image_size=self.config.image_size,
            in_channels=self._in_channels,
            class_names=class_names,
            mean=self._mean,
            std=self._std,
        ).eval()

    def on_device(self, images: LabelledImages) -> Batch:
        """Copy images and labels to the trial's device, once for all epochs."""
        return Batch(*(torch.from_numpy(array).to(self.trial.device) for array in images.batch()))

    def _normalize(self, images: torch.Tensor) -> torch.Tensor:
        return normalize(images, self._mean, self._std)

    @contextmanager
    def _seeded(self, epoch: int) -> Iterator[None]:
        seed = np.random.SeedSequence([self.trial.seed, epoch]).generate_state(1)[0]
        devices = [torch.cuda.current_device()] if self.trial.device == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(int(seed))
            yield


def _save_weights(network: nn.Module, trial: TrialContext) -> None:
    beside = trial.folder / f"{BEST_WEIGHTS}.part"
    torch.save(network.state_dict(), beside)
    beside.replace(trial.folder / BEST_WEIGHTS)  # whole or not at all
