"""What all sections of a spec have in common."""

from __future__ import annotations

from trainables.strict_model import StrictModel

Scalar = None | bool | int | float | str


class Section(StrictModel):
    """Base of all sections."""
