"""Ctrl-C and SIGTERM as a question that long loops ask, instead of an exception anywhere."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class InterruptFlag:
    """Inside a ``with`` block, the first SIGINT or SIGTERM is remembered; the second one raises."""

    signum: int | None = None

    def __enter__(self) -> InterruptFlag:
        """Listen to both signals."""
        self._previous = {signum: signal.getsignal(signum) for signum in SIGNALS}
        self.listen()
        return self

    def listen(self) -> None:
        """Take the signals over, again if need be: `ray.init` puts a handler on SIGTERM."""
        for signum in SIGNALS:
            signal.signal(signum, self._on_signal)

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
        if self.signum is not None:
            raise KeyboardInterrupt
        self.signum = signum

    @property
    def is_set(self) -> bool:
        """Whether a signal has come."""
        return self.signum is not None
