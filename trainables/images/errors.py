"""What can be wrong with images."""

from __future__ import annotations


class DataError(Exception):
    """Images are missing, unreadable or unfit for the task; the message names the way out."""


class DataConfigError(ValueError):
    """A config asks of its images what they cannot give; with another config they are fine."""
