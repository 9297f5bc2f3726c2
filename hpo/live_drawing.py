"""Something that is drawn while a command runs, and lines that come between."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress import Progress


class LiveDrawing:
    """Draws on a terminal alone, inside its ``with`` block; lines are printed anywhere."""

    _drawing: Live | Progress

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Self:
        """Begin to draw, if this is a terminal."""
        if self._console.is_terminal:
            self._drawing.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the last drawing on the screen."""
        if self._console.is_terminal:
            self._drawing.stop()

    def say(self, text: str) -> None:
        """A line above the drawing, or between the lines."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
