"""What commands say beside their results: notes on stderr, and lines for the user to type next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported where it is needed, so that `hpo --help` answers at once
    from hpo.spec import ExperimentSpec


def say(text: str) -> None:
    """A line on stderr, at once."""
    print(text, file=sys.stderr, flush=True)


def harmless(message: str) -> str:
    """A message without the passwords of URLs, which libraries like to quote."""
    if "://" not in message:
        return message
    from storage import without_passwords

    return without_passwords(message)


def warn_about(spec: ExperimentSpec) -> None:
    """Say what a valid spec does that its author may not expect."""
    from hpo.search import warnings_about

    for warning in warnings_about(spec):
        say(f"warning: {warning}")


def resume_command() -> str:
    """What to type to go on with the command that runs."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--resume"]
    if arguments[0] != "resume" and "--begin-or-resume" not in arguments:
        arguments.append("--resume")
    return f"{program()} {shlex.join(arguments)}"


def command_line(*arguments: str, **options: str | None) -> str:
    """What to type for a command with those of the options that were given."""
    given = [part for option, value in options.items() if value for part in (option, value)]
    return f"{program()} {shlex.join([*arguments, *given])}"


def program() -> str:
    """How the user called us: `hpo`, or its path if it is not on the PATH (`make run`)."""
    called = Path(sys.argv[0])
    if called.name != "hpo" or shutil.which("hpo"):
        return "hpo"
    return shlex.quote(os.path.relpath(called))
