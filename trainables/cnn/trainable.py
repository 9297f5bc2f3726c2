"""The CNN as a trainable: what `trainables.contract` names, gathered from the files that do it."""

from trainables.cnn.config import CHANGEABLE
from trainables.cnn.description import constraints
from trainables.cnn.lr_finder import find_lr
from trainables.cnn.predictor import rebuild
from trainables.cnn.training import check_data, fingerprint, finish, train, warnings

changeable_while_training = CHANGEABLE

__all__ = [
    "changeable_while_training",
    "check_data",
    "constraints",
    "find_lr",
    "fingerprint",
    "finish",
    "rebuild",
    "train",
    "warnings",
]
