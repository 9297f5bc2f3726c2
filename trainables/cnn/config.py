"""The hyperparameters of the CNN, their meaning, their ranges. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

DATASETS = ("digits",)
TYPES: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}


class CnnConfigError(ValueError):
    """A config breaks the rules of `CnnConfig`; the message lists every breach."""


@dataclass(frozen=True, kw_only=True)
class CnnConfig:
    """One CNN and its training.

    Attributes:
        dataset: name of the images; one of ``DATASETS``.
        image_size: height and width of the network's input in pixels, at least 8.
        split_seed: of the train/validation/test split, the same in all trials of a search.
        depth: convolutional blocks; each halves the image, so 2**depth <= image_size.
        filters: filters of the first block; each further block has twice as many.
        dropout: probability of `Dropout2d` in the blocks, 0 <= dropout < 1.
        lr: peak learning rate of the one-cycle schedule, > 0.
        batch_size: images per step of the optimizer, at least 2 (batch normalization).
        weight_decay: of AdamW, >= 0.
        randaugment_num_ops: transformations per image; 0 turns RandAugment off.
        randaugment_magnitude: their strength, 0 to 30.
    """

    dataset: str = "digits"
    image_size: int = 8
    split_seed: int = 0
    depth: int = 2
    filters: int = 32
    dropout: float = 0.1
    lr: float = 1e-2
    batch_size: int = 64
    weight_decay: float = 1e-4
    randaugment_num_ops: int = 1
    randaugment_magnitude: int = 4

    @classmethod
    def from_mapping(cls, config: Mapping[str, Any]) -> CnnConfig:
        """Read a trial's config; ``seed``, which the trial context carries, is passed over.

        Raises:
            CnnConfigError: for unknown names, wrong types and values out of range, all at once.
        """
        given = {key: value for key, value in config.items() if key != "seed"}
        types = {field.name: str(field.type) for field in fields(cls)}
        problems = [
            f"unknown hyperparameter {key!r}; known: {', '.join(types)}"
            for key in given
            if key not in types
        ]
        problems += [
            f"{key}: must be of type {types[key]}, got {value!r}"
            for key, value in given.items()
            if key in types and not _is_a(value, types[key])
        ]
        typed = {k: v for k, v in given.items() if k in types and _is_a(v, types[k])}
        problems += _breaches(cls(**typed))
        if problems:
            raise CnnConfigError("; ".join(problems))
        return cls(**typed)


def _is_a(value: Any, type_name: str) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, TYPES[type_name])


def _breaches(config: CnnConfig) -> list[str]:
    rules = {
        f"dataset: must be one of {', '.join(DATASETS)}": config.dataset in DATASETS,
        "image_size: must be >= 8": config.image_size >= 8,
        "depth: must be >= 1": config.depth >= 1,
        "depth: 2**depth must be <= image_size, each block halves the image": (
            config.depth < 1 or 2**config.depth <= config.image_size
        ),
        "filters: must be >= 1": config.filters >= 1,
        "dropout: must be >= 0 and < 1": 0 <= config.dropout < 1,
        "lr: must be > 0": config.lr > 0,
        "batch_size: must be >= 2": config.batch_size >= 2,
        "weight_decay: must be >= 0": config.weight_decay >= 0,
        "randaugment_num_ops: must be >= 0": config.randaugment_num_ops >= 0,
        "randaugment_magnitude: must be 0 to 30": 0 <= config.randaugment_magnitude <= 30,
    }
    return [
        f"{rule}, got {getattr(config, rule.partition(':')[0])!r}"
        for rule, is_kept in rules.items()
        if not is_kept
    ]
