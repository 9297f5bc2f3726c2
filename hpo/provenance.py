"""Where a result comes from: versions of the libraries, the trainable's code, the user's commit."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from trainables import trainable_sources

LIBRARIES = ("hpo-platform", "torch", "torchvision", "optuna", "ray", "mlflow", "sqlalchemy")
CODE = "code:"
"""Before the name of a file of the trainable's code, among versions; its SHA-256 is the version."""


def versions(trainable: str, import_paths: Sequence[Path]) -> dict[str, str]:
    """Of Python, of the libraries that a result depends on, and of the trainable's own files."""
    code = trainable_sources(trainable, import_paths)
    return {**library_versions(), **{f"{CODE}{file}": sha256 for file, sha256 in code.items()}}


def library_versions() -> dict[str, str]:
    """Of Python, and of the libraries that a result depends on."""
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


def shown_versions(recorded: Mapping[str, str]) -> dict[str, str]:
    """The same for a reader: one SHA-256 of all files of the code."""
    code = code_of(recorded)
    if not code:
        return dict(recorded)
    listed = "".join(f"{sha256}  {file}\n" for file, sha256 in sorted(code.items()))
    n_files = "1 file" if len(code) == 1 else f"{len(code)} files"
    sha256 = hashlib.sha256(listed.encode()).hexdigest()
    return {**libraries_of(recorded), "code of the trainable": f"{sha256[:12]} ({n_files})"}


def code_of(recorded: Mapping[str, str]) -> dict[str, str]:
    """SHA-256 by file; empty in a record from before code was recorded."""
    return {
        name.removeprefix(CODE): sha256
        for name, sha256 in recorded.items()
        if name.startswith(CODE)
    }


def libraries_of(recorded: Mapping[str, str]) -> dict[str, str]:
    """Versions of Python and the libraries alone."""
    return {name: version for name, version in recorded.items() if not name.startswith(CODE)}


def changed_code(recorded: Mapping[str, str], present: Mapping[str, str]) -> list[str]:
    """``my_module.py: 1a2b... -> 3c4d...`` for each file that differs; none if none was recorded.

    Args:
        recorded: versions of an experiment.
        present: SHA-256 of the trainable's files as they are now.
    """
    code = code_of(recorded)
    return changed(code, present) if code else []


def changed(recorded: Mapping[str, str], present: Mapping[str, str]) -> list[str]:
    """``torch: 2.14.1 -> 2.15.0``, for each name whose version differs; a SHA-256 is shortened."""

    def shown(version: str | None) -> str:
        return "none" if version is None else version[:12]

    return [
        f"{name}: {shown(recorded.get(name))} -> {shown(present.get(name))}"
        for name in sorted({*recorded, *present})
        if recorded.get(name) != present.get(name)
    ]


def git_commit(folder: Path) -> str | None:
    """Commit of the repository around ``folder``, "-dirty" behind it if files differ; or None."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return f"{commit}-dirty" if _git(folder, "status", "--porcelain", "-uno") else commit


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
