"""What is known of a config before any training: its network, and whether it can be built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.cnn.architecture import Architecture, architecture
from trainables.cnn.config import CnnConfig
from trainables.cnn.inspection import LayerFacts, advice, layer_facts
from trainables.cnn.layers import InfeasibleError
from trainables.contract import TrialContext
from trainables.images.dataset import DataFacts, describe, load_split

BYTES_PER_PARAMETER = 4  # float32


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A network as a reader wants to see it before paying for it.

    Attributes:
        config: every hyperparameter, those at their defaults included.
        data: what it will be trained on.
        layers: in the order of the data.
        advice: sentences about rules of thumb that the config breaks.
    """

    config: CnnConfig
    data: DataFacts
    layers: tuple[LayerFacts, ...]
    advice: tuple[str, ...]

    @property
    def n_parameters(self) -> int:
        """Learned numbers of the whole network."""
        return sum(layer.n_parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Of convolutions and linear layers, for one image."""
        return sum(layer.multiply_adds for layer in self.layers)


def network_for(config: CnnConfig, data: DataFacts) -> Architecture:
    """The network of a config for images like ``data``.

    Raises:
        InfeasibleError: if it cannot be built; names the layer.
    """
    shape = (data.channels, data.height, data.width)
    return architecture(config, shape, data.n_outputs, data.target)


def inspect(config: Mapping[str, Any], data_dir: Path) -> Inspection:
    """The network of a config, layer by layer; builds no tensor, loads no image.

    Raises:
        CnnConfigError: if the config breaks a rule of `CnnConfig`.
        DataError: if a folder of pictures has no classes.
        InfeasibleError: if the network cannot be built; names the layer. Or if images would be
            moved and their targets not.
    """
    cnn = CnnConfig.from_mapping(config)
    data = describe(cnn, data_dir)
    if problem := cnn.problem_with(data.target):
        raise InfeasibleError(problem)
    network = network_for(cnn, data)
    return Inspection(
        config=cnn,
        data=data,
        layers=tuple(layer_facts(network)),
        advice=tuple(advice(cnn, network, cnn.batch_size)),
    )


def constraints(config: Mapping[str, Any], trial: TrialContext) -> Mapping[str, float]:
    """What a config's network costs; its images are loaded and split.

    Its parameters, their size in megabytes, and the multiply-adds of one image; its latency, which
    takes time to measure, only if ``trial.wanted`` names it.

    Raises:
        CnnConfigError: if the config breaks a rule of `CnnConfig`.
        InfeasibleError: if the network cannot be built; names the layer.
        DataConfigError: if the images cannot be split as it asks for.
        DataError: if they are missing or cannot be read.
    """
    seen = inspect(config, trial.data_dir)
    load_split(seen.config, trial.data_dir)  # kept for the training, which needs them next
    facts: dict[str, float] = {
        "n_parameters": seen.n_parameters,
        "size_mb": seen.n_parameters * BYTES_PER_PARAMETER / 1e6,
        "multiply_adds": seen.multiply_adds,
    }
    if "latency_ms" in trial.wanted:
        from trainables.cnn.latency import latency_ms  # which needs torch

        facts["latency_ms"] = latency_ms(network_for(seen.config, seen.data), trial)
    return facts
