"""All hyperparameters of the CNN trainable in one flat config. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainables.cnn.network_config import NetworkConfig
from trainables.cnn.optimization_config import OptimizationConfig
from trainables.hyperparameters import problems
from trainables.images.config import AugmentationConfig, DataConfig

CHANGEABLE = (
    "lr", "momentum", "weight_decay", "dropout", "head_dropout", "label_smoothing", "clip_norm",
    "affine_degrees", "affine_translate", "affine_scale", "jitter_brightness", "jitter_contrast",
    "jitter_saturation", "jitter_hue", "horizontal_flip", "crop_padding", "randaugment_num_ops",
    "randaugment_magnitude",
)  # fmt: skip
"""What may change while a network trains: neither its layers nor its images nor their batches."""


class CnnConfigError(ValueError):
    """A config breaks the rules of `CnnConfig`; the message lists every breach."""


class CnnConfig(DataConfig, AugmentationConfig, NetworkConfig, OptimizationConfig):
    """One CNN, its images and its training.

    The four parts say what each key means: `DataConfig`, `AugmentationConfig`, `NetworkConfig`,
    `OptimizationConfig`.
    """

    @classmethod
    def from_mapping(cls, config: Mapping[str, Any]) -> CnnConfig:
        """Read a trial's config; ``seed``, which the trial context carries, is passed over.

        Raises:
            CnnConfigError: for unknown names, wrong types and values out of range, all at once.
        """
        given = {key: value for key, value in config.items() if key != "seed"}
        if found := problems(cls, given):
            raise CnnConfigError("; ".join(found))
        return cls(**given)
