"""Checkpoints of a training: written whole or not at all, read without running what they hold.

A trainable saves just before it yields an epoch, so that an epoch which the platform has
acknowledged has its checkpoint, and asks at its start where to go on::

    first, network = 1, Network(config)
    if (kept := trial.checkpoints.load()) is not None:
        epoch, state = kept
        network.load_state_dict(state["network"])
        first = epoch + 1
    for epoch in range(first, trial.max_epochs + 1):
        ...
        trial.checkpoints.save(epoch, {"network": network.state_dict()})
        yield {"val_accuracy": 0.97}
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.object_store import Place, remove_tree

N_KEPT = 2
"""Checkpoints that stay: the newest, and the one before it, should the newest be damaged."""

CHECKPOINTS = "checkpoints"
"""In a trial's folder, or in what stands for it in an object store: where its checkpoints lie."""


class CheckpointError(TypeError):
    """A state that cannot be kept: it holds more than plain values and tensors."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A file with the state of a training after ``epoch``, and the SHA-256 of its bytes."""

    epoch: int
    sha256: str
    path: Place


class Checkpoints:
    """The checkpoints of one trial, as its trainable sees them.

    Attributes:
        saved: the newest that was saved here; None if there is none.
        resumed: what `load` has read; None if nothing.
        complaints: what was wrong with checkpoints, in words for the user.
        on_step: is told each step of a `save` that is done; those of `replacing`, then "pruned".
    """

    def __init__(
        self,
        folder: Place,
        *,
        resume_from: Sequence[Checkpoint] = (),
        is_wanted: bool = True,
        keep_every: int = 1,
    ) -> None:
        """Nothing is read or written yet.

        Args:
            folder: of this trial's checkpoints; made when the first is saved.
            resume_from: where a training may go on, the newest first.
            is_wanted: without it nothing is saved: nobody would go on with this training.
            keep_every: the last two of every so many epochs stay as well as the last two.
        """
        self._folder, self._is_wanted, self._keep_every = folder, is_wanted, keep_every
        self._resume_from = tuple(resume_from)
        self.saved: Checkpoint | None = None
        self.resumed: Checkpoint | None = None
        self.complaints: list[str] = []
        self.on_step: Callable[[str], None] = lambda _: None
        self._is_writable = True
        self._is_searched = False
        self._found: Checkpoint | None = None
        self._content: bytes | None = None
        own = [one for one in reversed(self._resume_from) if one.path.parent == folder]
        self._kept: dict[int, Place] = {one.epoch: one.path for one in own}

    def find(self) -> Checkpoint | None:
        """The newest whole checkpoint, which `load` will read; None if there is none.

        One that is damaged or missing is passed over with a complaint.
        """
        if self._is_searched:
            return self._found
        self._is_searched = True
        for checkpoint in self._resume_from:
            if (content := self._whole(checkpoint)) is not None:
                self._found, self._content = checkpoint, content
                return checkpoint
        if self.complaints:
            self.complaints.append("no checkpoint is whole: it begins again with epoch 1")
        return None

    def load(self) -> tuple[int, dict[str, Any]] | None:
        """The newest whole checkpoint: its epoch and its state, tensors on the CPU.

        None if there is none: the training begins with epoch 1.
        """
        if (found := self.find()) is None or self._content is None:
            return None
        self.resumed = found
        state, self._content = _read(self._content), None
        return found.epoch, state

    def save(self, epoch: int, state: Mapping[str, Any]) -> None:
        """Keep the state after ``epoch``, and drop what is not needed any more.

        Args:
            epoch: counted from 1, the one that is yielded next.
            state: numbers, strings, tensors, and lists, tuples and mappings of these; whatever is
                needed to go on as if nothing had happened.

        Raises:
            CheckpointError: if it holds something else.
            OSError: if it cannot be written; of a full disk, or a store that does not answer, there
                is a complaint, and the training goes on.
        """
        if not self._is_wanted:
            return
        content = _written(state)
        if self.saved is None:  # once is enough: the next state will be of the same kind
            _check_readable(content)
        path = self._folder / _file_name(epoch)
        try:
            write_whole(path, content, self.on_step)
        except OSError as error:
            if (problem := _passing_problem(path, error)) is None:
                raise
            if self._is_writable:
                self.complaints.append(f"{problem} for the checkpoint of epoch {epoch}: {path}")
            self._is_writable = False
            return
        self._is_writable = True
        sha256 = hashlib.sha256(content).hexdigest()
        self.saved = Checkpoint(epoch=epoch, sha256=sha256, path=path)
        self._prune(epoch)
        self.on_step("pruned")

    def _prune(self, newest: int) -> None:
        """What an earlier start has left without a word to anybody goes, too.

        A store that does not answer keeps what it has: the newest is whole all the same.
        """
        there = {e: p for e, p in self._kept.items() if e < newest}
        there |= {newest: self._folder / _file_name(newest)}
        epochs = sorted(there)
        apart = [epoch for epoch in epochs if epoch % self._keep_every == 0]
        wanted = {*epochs[-N_KEPT:], *apart[-N_KEPT:]}
        self._kept = {epoch: path for epoch, path in there.items() if epoch in wanted}
        try:
            names = {path.name for path in self._kept.values()}
            for path in self._folder.iterdir():
                if path.name not in names:
                    path.unlink(missing_ok=True)
        except OSError:
            if isinstance(self._folder, Path):
                raise

    def _whole(self, checkpoint: Checkpoint) -> bytes | None:
        """Its bytes; None if they are not those that were saved."""
        try:
            content = checkpoint.path.read_bytes()
        except OSError as error:
            reason = "is missing" if error.errno == errno.ENOENT else f"is unreadable: {error}"
        else:
            if hashlib.sha256(content).hexdigest() == checkpoint.sha256:
                return content
            reason = "is damaged: its SHA-256 is not the recorded one"
        self.complaints.append(
            f"the checkpoint of epoch {checkpoint.epoch} {reason} ({checkpoint.path})"
        )
        return None


def checkpoint_in(folder: Place, epoch: int, sha256: str) -> Checkpoint:
    """The checkpoint that the trial in ``folder`` has kept of an epoch."""
    return Checkpoint(epoch=epoch, sha256=sha256, path=folder / CHECKPOINTS / _file_name(epoch))


def _file_name(epoch: int) -> str:
    return f"epoch-{epoch:06d}.pt"


def remove_checkpoints(folder: Place) -> None:
    """Remove those of the trial in ``folder``: it has ended, and nobody goes on with it."""
    # In a store there is nothing beside them, and a trace of the folder would stay.
    remove_tree(folder / CHECKPOINTS if isinstance(folder, Path) else folder)


def write_whole(
    path: Place, content: bytes, on_step: Callable[[str], None] = lambda _: None
) -> None:
    """Write a file; cut off at any time, what was there before is still whole.

    ``on_step`` is told each step of `replacing` that is done; a store has none.

    Raises:
        OSError: if it cannot be written.
    """
    if isinstance(path, Path):
        for step in replacing(path, content):
            on_step(step)
    else:
        path.write_bytes(content)


def _passing_problem(path: Place, error: OSError) -> str | None:
    """What keeps a checkpoint from being written for now; None if something is wrong for good."""
    if not isinstance(path, Path):
        return f"no answer of the store ({str(error).splitlines()[0]})"
    return "no room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else None


def replacing(path: Path, content: bytes) -> Iterator[str]:
    """Write a file step by step; cut off between any two, what was there before is still whole.

    Yields the name of each step that is done.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.part")
    try:
        with beside.open("wb") as file:
            file.write(content)
            yield "written"
            file.flush()
            os.fsync(file.fileno())
            yield "synced"
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    beside.replace(path)
    yield "renamed"
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # a rename is not kept over a loss of power before this
    finally:
        os.close(folder)
    yield "folder synced"


def _written(state: Mapping[str, Any]) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def _read(content: bytes) -> dict[str, Any]:
    import torch

    state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state


def _check_readable(content: bytes) -> None:
    import pickle

    try:
        _read(content)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "a checkpoint holds numbers, strings, tensors, and lists, tuples and mappings of "
            f"these; reading it would run code: {_first_line(error)}"
        ) from None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if "Unsupported" in line or "GLOBAL" in line), lines[0])
