"""Trainables by name: the inner argmin of the bilevel search.

``TRAINABLES`` is the registry; a user's own is named ``package.module:function``. Nothing here
imports torch, so a spec can be checked without it.
"""

from trainables.checkpoints import (
    CHECKPOINTS,
    N_KEPT,
    Checkpoint,
    CheckpointError,
    Checkpoints,
    checkpoint_in,
    remove_checkpoints,
    write_whole,
)
from trainables.cnn.description import Inspection
from trainables.contract import BEST_WEIGHTS, FinalModel, Segment, TrialContext
from trainables.images.errors import DataError
from trainables.lr_range_test import LR, LrRange, LrRangeTest, range_test
from trainables.object_store import Place, StoredPath, folder_names, place_of, remove_tree
from trainables.packing import DESCRIPTION, PackedModel, pack
from trainables.registry import (
    TRAINABLES,
    Trainable,
    TrainableError,
    TrainableInfo,
    find_inspect,
    find_trainable,
)
from trainables.sources import trainable_sources

__all__ = [
    "BEST_WEIGHTS",
    "CHECKPOINTS",
    "DESCRIPTION",
    "LR",
    "N_KEPT",
    "TRAINABLES",
    "Checkpoint",
    "CheckpointError",
    "Checkpoints",
    "DataError",
    "FinalModel",
    "Inspection",
    "LrRange",
    "LrRangeTest",
    "PackedModel",
    "Place",
    "Segment",
    "StoredPath",
    "Trainable",
    "TrainableError",
    "TrainableInfo",
    "TrialContext",
    "checkpoint_in",
    "find_inspect",
    "find_trainable",
    "folder_names",
    "pack",
    "place_of",
    "range_test",
    "remove_checkpoints",
    "remove_tree",
    "trainable_sources",
    "write_whole",
]
