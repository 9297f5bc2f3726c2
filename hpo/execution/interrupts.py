"""Ctrl-C and SIGTERM as a question that long loops ask, instead of an exception anywhere."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from hpo.errors import RunInterruptedError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class InterruptFlag:
    """In a ``with`` block, the first SIGINT or SIGTERM is remembered; the second one raises."""

    signum: int | None = None
    _is_urgent = False

    def __enter__(self) -> InterruptFlag:
        """Listen to both signals."""
        self._previous = {signum: signal.getsignal(signum) for signum in SIGNALS}
        self.listen()
        return self

    def listen(self) -> None:
        """Take the signals over, again if need be: `ray.init` puts a handler on SIGTERM."""
        for signum in SIGNALS:
            signal.signal(signum, self._on_signal)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, the first signal raises, too: for what asks nobody, and may stay half done.

        Raises:
            RunInterruptedError: if a signal comes, or has come before.
        """
        self._is_urgent, unraisable = True, sys.unraisablehook
        sys.unraisablehook = lambda lost: _tell_lost(lost, unraisable)
        try:
            if not self.is_set:
                yield
                # Set, but nothing raised: Python drops what is raised while it cleans up.
                if not self.is_set:
                    return
        except KeyboardInterrupt:
            pass  # told below, as one that came before
        finally:
            self._is_urgent, sys.unraisablehook = False, unraisable
        signum = self.signum or signal.SIGINT
        raise RunInterruptedError(signum, "interrupted before anything was run")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the handlers back that were there before."""
        self.release()

    def release(self) -> None:
        """Put the handlers back: a signal does again what it did before."""
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _on_signal(self, signum: int, _frame: FrameType | None) -> None:
        is_to_raise = self._is_urgent or self.signum is not None
        self.signum = self.signum or signum
        if is_to_raise:
            raise KeyboardInterrupt

    @property
    def is_set(self) -> bool:
        """Whether a signal has come."""
        return self.signum is not None


def _tell_lost(lost: Any, tell: Callable[[Any], object]) -> None:
    """Of an exception that Python could not raise; the flag has kept an interrupt."""
    if not isinstance(lost.exc_value, KeyboardInterrupt):
        tell(lost)
