"""What a machine lacks to run a trial: asked of each before a run, and by each before a trial."""

from __future__ import annotations

import tempfile
import time
from contextlib import suppress
from pathlib import Path

from hpo.tasks import TrialTask
from trainables import DataError, Trainable

PAUSES_S = (1.0, 5.0, 25.0)
"""A file server that restarts, or a stale handle, is no lack: so long it is asked again."""


class UnfitMachineError(Exception):
    """No trial can begin on this machine."""


def must_see_gpu(task: TrialTask) -> None:
    """Whether torch can use a GPU here, if the trial is given one.

    Raises:
        UnfitMachineError: if it cannot: every config would fail here, and soon.
    """
    if task.context.device == "cpu":
        return
    import torch

    if not torch.cuda.is_available():
        raise UnfitMachineError(
            f"torch {torch.__version__} sees no GPU; install a driver and a torch for it, or set "
            "resources.gpu=0"
        )


def must_have_data(trainable: Trainable, task: TrialTask) -> None:
    """Whether the data are there, where the trainable can tell without reading them.

    Raises:
        DataError: if they are not.
    """
    if trainable.check_data is None:
        return
    try:
        trainable.check_data(dict(task.config), task.context)
    except DataError:
        raise
    except Exception:  # noqa: BLE001, S110  of a config, say: no machine can help, training tells
        pass


def make_folder(task: TrialTask) -> None:
    """Make the trial's folder; what fails is tried again, for half a minute in all.

    Raises:
        UnfitMachineError: if it still cannot be made then, or what all machines share is not seen.
    """
    for pause_s in PAUSES_S:
        with suppress(OSError):
            return _make_folder(task)
        time.sleep(pause_s)
    try:
        _make_folder(task)
    except OSError as error:
        raise UnfitMachineError(str(error)) from error


def _make_folder(task: TrialTask) -> None:
    if task.home is not None:
        _must_be_there(task.home)
    task.context.folder.mkdir(parents=True, exist_ok=True)


def _must_be_there(home: Path) -> None:
    """Where a shared folder is not mounted, another one would be made on the machine's own disk."""
    if not home.is_dir():
        raise FileNotFoundError(
            f"{home} is gone, which the driver has made; every machine needs it: is the shared "
            "folder mounted"
        )
    with tempfile.TemporaryFile(dir=home):
        pass
