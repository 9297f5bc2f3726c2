"""Run `hpo` as a user does, in a folder of its own."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hpo.cli import main


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@contextlib.contextmanager
def _restored_umask() -> Iterator[None]:
    """A command keeps its own for good, since it is a process."""
    before = os.umask(0o077)
    os.umask(before)
    try:
        yield
    finally:
        os.umask(before)


@dataclass(frozen=True)
class Shell:
    """A working directory; ``hpo("run", ...)`` in it."""

    folder: Path

    def hpo(self, *arguments: str, **environment: str) -> Done:
        """Run a command to its end, in this process, which has imported everything already."""
        stdout, stderr = io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            _restored_umask(),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["hpo", *arguments])
            for name, value in environment.items():
                patch.setenv(name, value)
            try:
                main()
            except SystemExit as end:
                returncode = int(end.code or 0)
        return Done(returncode, stdout.getvalue(), stderr.getvalue())

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command in a process of its own, which the test will end."""
        return subprocess.Popen(
            [sys.executable, "-m", "hpo", *arguments],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def write(self, name: str, text: str) -> Path:
        """A file in the folder."""
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path

    @property
    def storage_url(self) -> str:
        """Where runs of this folder keep their studies."""
        return f"sqlite:///{self.folder}/runs/hpo.db"

    @property
    def tracking_uri(self) -> str:
        """Where runs of this folder keep their MLflow runs."""
        return f"sqlite:///{self.folder}/runs/mlflow.db"


def assert_no_traceback(done: Done) -> None:
    """Nothing that a user did wrong shows a traceback."""
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
