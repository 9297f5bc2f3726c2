"""Every error a user can meet, with its exit code. Each names place, value, rule and way out."""

from __future__ import annotations

from collections.abc import Sequence


class HpoError(Exception):
    """Something a user can mend; shown as its message alone, never with a traceback."""

    exit_code = 1


class UsageError(HpoError):
    """An argument that cannot be followed."""

    exit_code = 2


class SpecError(HpoError):
    """A spec breaks the rules; ``problems`` lists every breach, each with its place."""

    exit_code = 2

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n  ".join([f"{source} has {count}:", *problems]))


class StorageError(HpoError):
    """The study's database, or a file of the run, cannot be used."""

    exit_code = 3


class NoSuccessfulTrialError(HpoError):
    """The search ended and no trial has a value."""

    exit_code = 4


class NoLrRangeError(HpoError):
    """The range test shows no learning rates that are worth searching; nothing was searched."""

    exit_code = 4


class UnfitEnvironmentError(HpoError):
    """This machine, cluster or a server lacks what the run needs."""

    exit_code = 5


class JobFailedError(HpoError):
    """A run on a cluster ended without success; its exit code is that of the run."""

    def __init__(self, message: str, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(message)


class ExportMismatchError(HpoError):
    """The exported model does not compute what the trained one does."""


class RunInterruptedError(HpoError):
    """A signal ended the run; everything finished so far is kept."""

    def __init__(self, signum: int, message: str) -> None:
        self.exit_code = 128 + signum
        super().__init__(message)
