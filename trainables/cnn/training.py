"""Train a CNN for a config, and finish the winner."""

from __future__ import annotations

import errno
import io
import warnings as python_warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from trainables.checkpoints import write_whole
from trainables.cnn.build import Network
from trainables.cnn.config import CnnConfig
from trainables.cnn.description import network_for
from trainables.cnn.initialization import initialize
from trainables.cnn.lr_schedules import build_lr_schedule
from trainables.cnn.objectives import (
    METRICS,
    Accuracy,
    MeanIoU,
    RSquared,
    Score,
    loss_of,
    new_score,
)
from trainables.cnn.optimizers import build_optimizer, take_over
from trainables.cnn.predictor import Predictor, build_predictor, describe_predictor
from trainables.contract import BEST_WEIGHTS, FinalModel, TrialContext
from trainables.images.arrays import TEST, VALIDATION, Indices
from trainables.images.augmentation import TrainingTransforms, evaluation_transforms, normalize
from trainables.images.dataset import (
    LabelledImages,
    channel_statistics,
    check_images,
    describe,
    load_split,
)

DEFAULT_MAX_EPOCHS = 12
N_COMPARED_IMAGES = 256
"""Images on which exports are compared: of the test set, and of the others if those are few."""

EVALUATION_BATCH = 256
"""Images at a time without gradients."""


class TrainingDivergedError(FloatingPointError):
    """The training loss is no longer a finite number."""


def train(config: Mapping[str, Any], trial: TrialContext) -> Iterator[Mapping[str, float]]:
    """Train on the training part; yield train_loss, val_loss and the metric after each epoch.

    The metric is val_accuracy of classes, val_r2 of values, val_iou of masks. Keeps the weights of
    the epoch with its highest value in ``trial.folder``, and a checkpoint of each epoch: cut off
    and resumed, it yields what it would have yielded anyway, on the CPU bit for bit.

    Raises:
        CnnConfigError: if the config breaks a rule of `CnnConfig`.
        InfeasibleError: if the network cannot be built.
        TrainingDivergedError: if the loss is not finite.
    """
    cnn = CnnConfig.from_mapping(config)
    data = load_split(cnn, trial.data_dir)
    training = Training(cnn, trial, data.train)
    best, metric = -float("inf"), METRICS[training.target]
    done = 0
    if (kept := trial.checkpoints.load()) is not None:
        done, state = kept
        training.go_on(done, state)
        if (trial.folder / BEST_WEIGHTS).is_file():
            best = state["best"]
    for epoch in range(done + 1, training.n_epochs + 1):
        train_loss = training.run_epoch(epoch)
        val_loss, score = training.evaluate(data.validation)
        if score.value() > best:
            best = score.value()
            _save_weights(training.network, trial)
        trial.checkpoints.save(epoch, {**training.state(), "best": best})
        yield {"train_loss": train_loss, "val_loss": val_loss, f"val_{metric}": score.value()}


def finish(config: Mapping[str, Any], trial: TrialContext) -> FinalModel:
    """Retrain on train + validation for the full budget and read the test set, once.

    Where the config changed while it trained (``trial.earlier``), so it does here.
    """
    cnn = CnnConfig.from_mapping(config)
    everything = cnn.model_copy(update={"n_train": None})  # fewer images were a cheaper search
    data = load_split(everything, trial.data_dir)
    rest = data.train_and_validation()
    training, done = Training(cnn, trial, rest), 0
    state: Mapping[str, Any] | None = None
    for segment in trial.earlier:
        before = Training(CnnConfig.from_mapping(segment.config), trial, rest)
        _train_on(before, state, done, segment.until_epoch)
        state, done = before.state(), segment.until_epoch
    _train_on(training, state, done, training.n_epochs)
    _, score = training.evaluate(data.test)
    images, targets = data.test.batch(chosen_images(data.test, N_COMPARED_IMAGES))
    others, _ = rest.batch(chosen_images(rest, max(0, N_COMPARED_IMAGES - len(images))))
    parts = data.test.arrays.parts
    given = [name for name, part in (("validation", VALIDATION), ("test", TEST)) if part in parts]
    return FinalModel(
        predictor=training.predictor(),
        class_names=data.class_names,
        n_correct=score.n_correct if isinstance(score, Accuracy) else None,
        confusion=score.confusion if isinstance(score, Accuracy | MeanIoU) else None,
        rms_errors=score.rms_errors() if isinstance(score, RSquared) else None,
        n_test=len(data.test),
        test_images=torch.from_numpy(images),
        test_labels=torch.from_numpy(targets) if training.target == "classes" else None,
        other_images=torch.from_numpy(others) if len(others) else None,
        metric=METRICS[training.target],
        metric_value=score.value(),
        description={**training.description(), "given_parts": given},
    )


def _train_on(
    training: Training, state: Mapping[str, Any] | None, done: int, until_epoch: int
) -> None:
    """From the ``state`` after ``done`` epochs; None at the beginning."""
    if state is not None:
        training.go_on(done, state)
    for epoch in range(done + 1, until_epoch + 1):
        training.run_epoch(epoch)


def chosen_images(images: LabelledImages, n: int) -> Indices:
    """Places of ``n`` images, always the same ones, sorted: at random, but one of each class.

    All of them if there are fewer; more than ``n`` only if there are more classes; none if ``n``
    is 0.
    """
    if n == 0:
        return np.array([], np.int64)
    order = np.random.default_rng(0).permutation(len(images))
    firsts = np.array([], np.int64)
    if images.targets.ndim == 1:
        _, firsts = np.unique(images.targets[order], return_index=True)
    others = np.delete(order, firsts)
    return np.sort(np.concatenate([order[firsts], others[: max(0, n - len(firsts))]]))


def fingerprint(config: Mapping[str, Any], trial: TrialContext) -> str:
    """SHA-256 of the images, their labels and their split."""
    return load_split(CnnConfig.from_mapping(config), trial.data_dir).fingerprint


def check_data(config: Mapping[str, Any], trial: TrialContext) -> None:
    """Whether the images are where they should be.

    Raises:
        DataError: if they are not.
    """
    check_images(CnnConfig.from_mapping(config), trial.data_dir)


def warnings(config: Mapping[str, Any], trial: TrialContext) -> tuple[str, ...]:
    """What was left out of the images, or looks wrong with them."""
    return load_split(CnnConfig.from_mapping(config), trial.data_dir).warnings


class Training:
    """A network, its optimizer and its training images, epoch by epoch.

    Randomness of an epoch comes from (trial seed, epoch) alone, and the caller's global generators
    are left as they were, so epochs of several trainings may be interleaved in one process.
    """

    def __init__(self, config: CnnConfig, trial: TrialContext, images: LabelledImages) -> None:
        torch.set_num_threads(trial.threads)
        self._data = data = describe(config, trial.data_dir)
        self.config, self.trial, self.target = config, trial, data.target
        self.n_epochs = trial.max_epochs or DEFAULT_MAX_EPOCHS
        self._images = images
        self._mean, self._std = channel_statistics(images)  # of the training part only
        with self._seeded(epoch=0):
            self.network: nn.Module = Network(network_for(config, data))
            initialize(self.network, config.initialization)
        # Channels last is how oneDNN and cuDNN like to convolve: a third faster on two cores.
        self.network.to(trial.device).to(memory_format=torch.channels_last)
        self._fit = evaluation_transforms(config)
        self._augment = TrainingTransforms(config, config, data.target)
        self._n_steps = max(1, len(images) // config.batch_size)  # a short last batch is dropped
        self._optimizer = build_optimizer(config, self.network.parameters())
        self._lr_schedule = build_lr_schedule(
            config, self._optimizer, n_epochs=self.n_epochs, steps_per_epoch=self._n_steps
        )

    def state(self) -> dict[str, Any]:
        """What the epochs so far have made of it; all else follows from config, seed and epoch."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict()["state"],
        }

    def go_on(self, epoch: int, state: Mapping[str, Any]) -> None:
        """Stand where a training of this network stood after ``epoch``, with its `state`.

        Learning rate, momentum and weight decay are this config's at that step: schedules know
        nothing but the steps that were taken.
        """
        self.network.load_state_dict(state["network"])
        with python_warnings.catch_warnings():  # that no step of the optimizer came before
            python_warnings.simplefilter("ignore", UserWarning)
            for _ in range(epoch * self._n_steps):
                self._lr_schedule.step()
        take_over(self._optimizer, state["optimizer"])

    def run_epoch(self, epoch: int) -> float:
        """One pass over the training images (epochs count from 1); returns the mean loss.

        Raises:
            TrainingDivergedError: if the loss is not finite.
        """
        losses = list(self.steps(epoch))
        return sum(losses) / len(losses)

    def steps(self, epoch: int) -> Iterator[float]:
        """The same step by step: yields the loss of each.

        Until it has ended or is closed, the global generators are those of the epoch.
        """
        self.network.train()
        with self._seeded(epoch):
            order, size = torch.randperm(len(self._images)), self.config.batch_size
            for step in range(self._n_steps):
                chosen = order[step * size : (step + 1) * size]
                yield self.step(*self._batch(self._images, chosen))

    def step(self, images: torch.Tensor, targets: torch.Tensor) -> float:
        """One step of the optimizer on (B, C, H, W) uint8 images; returns the loss.

        Raises:
            TrainingDivergedError: if it is not finite.
        """
        outputs = self._outputs(self._augment(images))
        loss = loss_of(self.target, outputs, targets, self.config.label_smoothing)
        if not torch.isfinite(loss):  # ASHA never stops a NaN trial: NaN < cutoff is False
            raise TrainingDivergedError(f"the loss is {loss.item()} at lr={self.config.lr:g}")
        self._optimizer.zero_grad()
        loss.backward()
        if self.config.clip_norm > 0:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        self._optimizer.step()
        self._lr_schedule.step()
        return loss.item()

    @property
    def lr(self) -> float:
        """The rate of the next step."""
        rate: float = self._optimizer.param_groups[0]["lr"]
        return rate

    def set_lr(self, lr: float) -> None:
        """Take the next step at this rate; after it the schedule sets its own again."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr

    @torch.no_grad()
    def evaluate(self, images: LabelledImages) -> tuple[float, Score]:
        """Mean loss and metric on ``images``, without augmentation."""
        self.network.eval()
        loss, score = 0.0, new_score(self.target)
        for chosen in torch.arange(len(images)).split(EVALUATION_BATCH):
            batch, targets = self._batch(images, chosen)
            outputs = self._outputs(self._fit(batch))
            loss += loss_of(self.target, outputs, targets).item() * len(targets)
            score.add(outputs, targets)
        return loss / len(images), score

    def predictor(self) -> Predictor:
        """The trained network on the CPU, with its preprocessing, ready for export."""
        network = self.network.cpu().to(memory_format=torch.contiguous_format)
        return build_predictor(network, self.config, self._data, self._mean, self._std).eval()

    def description(self) -> dict[str, Any]:
        """What `rebuild` makes the predictor of, ready for JSON."""
        described = describe_predictor(self.config, self._data, self._mean, self._std)
        return {**described, "n_trained_on": len(self._images)}

    def _outputs(self, images: torch.Tensor) -> torch.Tensor:
        normalized = normalize(images, self._mean, self._std)
        outputs: torch.Tensor = self.network(
            normalized.contiguous(memory_format=torch.channels_last)
        )
        return outputs

    def _batch(
        self, images: LabelledImages, chosen: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        pixels, targets = images.batch(chosen.numpy())
        device = self.trial.device
        return torch.from_numpy(pixels).to(device), torch.from_numpy(targets).to(device)

    @contextmanager
    def _seeded(self, epoch: int) -> Iterator[None]:
        seed = np.random.SeedSequence([self.trial.seed, epoch]).generate_state(1)[0]
        devices = [torch.cuda.current_device()] if self.trial.device == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(int(seed))
            yield


def _save_weights(network: nn.Module, trial: TrialContext) -> None:
    content, path = io.BytesIO(), trial.folder / BEST_WEIGHTS
    torch.save(network.state_dict(), content)
    try:
        write_whole(path, content.getvalue())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        path.unlink(missing_ok=True)  # the best no more; a full disk costs no trial
        trial.checkpoints.complaints.append(f"no room for the best weights: {path}")
