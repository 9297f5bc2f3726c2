"""A gate at which a trainable halts until a test is ready: nobody sleeps, nobody polls."""

from __future__ import annotations

import os
import select
import subprocess
from pathlib import Path


def arrive(folder: Path) -> str:
    """A line of Python that stands at the `Gate` in ``folder`` and goes on, for a trainable."""
    return f'open("{folder}/reached", "w").close()'


def halt(folder: Path) -> str:
    """The same, and it halts there.

    Not for the main thread of what is to be interrupted: a signal that comes just before a system
    call does not end it.
    """
    return f'{arrive(folder)}; open("{folder}/gate").close()'


class Gate:
    """Two named pipes at which a trainable halts until the test is ready."""

    def __init__(self, folder: Path) -> None:
        self._reached, self._gate = folder / "reached", folder / "gate"
        for pipe in (self._reached, self._gate):
            os.mkfifo(pipe)
        self._reader = os.open(self._reached, os.O_RDONLY | os.O_NONBLOCK)

    def wait_for(self, process: subprocess.Popen[str]) -> None:
        """Until something in this process stands at the gate."""
        exit_of_process = os.pidfd_open(process.pid)
        ready, _, _ = select.select([self._reader, exit_of_process], [], [])
        os.close(exit_of_process)
        assert self._reader in ready, process.communicate()

    def let_through(self) -> None:
        """Who stands there goes on."""
        with self._gate.open("w"):
            pass

    def let_pass(self) -> None:
        """Who stands there goes on, and nobody waits any more."""
        self._gate.open("w").close()
        self.open()

    def open(self) -> None:
        """Nobody waits any more; who stands there already stays."""
        for pipe in (self._reached, self._gate):
            pipe.unlink()
            pipe.touch()

    def remove(self) -> None:
        """As if it had never been there."""
        os.close(self._reader)
        self._reached.unlink()
        self._gate.unlink()
