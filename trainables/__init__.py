"""Trainables by name: the inner argmin of the bilevel search.

``TRAINABLES`` is the registry; a user's own is named ``package.module:function``. Nothing here
imports torch, so a spec can be checked without it.
"""

from trainables.contract import BEST_WEIGHTS, FinalModel, TrialContext
from trainables.packing import DESCRIPTION, PackedModel, pack
from trainables.registry import (
    TRAINABLES,
    Trainable,
    TrainableError,
    TrainableInfo,
    find_trainable,
)

__all__ = [
    "BEST_WEIGHTS",
    "DESCRIPTION",
    "TRAINABLES",
    "FinalModel",
    "PackedModel",
    "Trainable",
    "TrainableError",
    "TrainableInfo",
    "TrialContext",
    "find_trainable",
    "pack",
]
