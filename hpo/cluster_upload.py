"""What `hpo submit` sends to a cluster: the working directory, without data, results and caches."""

from __future__ import annotations

import heapq
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from pathspec import GitIgnoreSpec

from hpo.errors import UsageError

LIMIT_MB = 100
"""Ray takes 512 MiB, keeps them in the memory of the head, and sends them to each machine."""
N_LARGEST = 5

LEFT_OUT = frozenset(
    {".git", ".venv", "__pycache__", "node_modules", ".ipynb_checkpoints", ".hypothesis"}
    | {".mypy_cache", ".pytest_cache", ".ruff_cache"}
    | {".env", ".netrc", ".pgpass", ".pypirc", ".aws", ".ssh"}
)
"""Wherever they stand: what is made anew, and what is secret; of the latter `.env.*`, too."""
LEFT_OUT_AT_TOP = frozenset({"runs", "data"})
"""Results, and data sets; a package of the user may have a folder of that name."""
IGNORE_FILES = (".gitignore", ".rayignore")
LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The same files are the same archive, which Ray then does not send again."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """The files of a folder that go to a cluster.

    Attributes:
        root: the folder.
        files: in it, relative and sorted.
        n_bytes: of all files, before they are packed.
    """

    root: Path
    files: tuple[Path, ...]
    n_bytes: int


def upload_of(spec_path: Path, working_directory: Path) -> Upload:
    """The working directory; the folder of the spec if that lies elsewhere.

    What ``.gitignore`` or ``.rayignore`` name stays here, those above it in its repository
    included, but the spec goes in any case.

    Raises:
        UsageError: if it is too large; names the largest files. Or if something cannot be read.
    """
    spec_path, root = spec_path.resolve(), working_directory.resolve()
    if not spec_path.is_relative_to(root):
        root = spec_path.parent
    try:
        files = sorted({*_files_of(root, root, _rules_above(root)), spec_path.relative_to(root)})
        sizes = {file: (root / file).stat().st_size for file in files}
    except OSError as error:
        raise _unreadable(error) from None
    upload = Upload(root=root, files=tuple(files), n_bytes=sum(sizes.values()))
    if upload.n_bytes > LIMIT_MB * 1_000_000:
        largest = heapq.nlargest(N_LARGEST, files, key=sizes.__getitem__)
        raise UsageError(
            "\n  ".join(
                [
                    f"{root} has {len(files):,} files of {upload.n_bytes / 1e6:,.0f} MB to upload, "
                    f"more than the limit of {LIMIT_MB} MB; the largest:",
                    *(f"{sizes[file] / 1e6:8,.1f} MB  {file}" for file in largest),
                    "Name what is not needed in a file .rayignore, written like .gitignore; data "
                    "belong into the cluster's HPO_DATA. Or submit from a smaller folder",
                ]
            )
        )
    return upload


def pack(upload: Upload, archive: Path) -> None:
    """Write the files into a zip ``archive``, whose bytes depend on nothing but them.

    Raises:
        UsageError: if one of them cannot be read.
    """
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in upload.files:
            entry = zipfile.ZipInfo(file.as_posix(), LONG_AGO)
            entry.compress_type = zipfile.ZIP_DEFLATED
            try:
                entry.external_attr = (upload.root / file).stat().st_mode << 16
                content = (upload.root / file).read_bytes()
            except OSError as error:
                raise _unreadable(error) from None
            packed.writestr(entry, content)


def _unreadable(error: OSError) -> UsageError:
    return UsageError(
        f"cannot upload {error.filename}: {error.strerror}. Make it readable, or name it in a file "
        ".rayignore, written like .gitignore"
    )


Ignored: TypeAlias = tuple[tuple[Path, GitIgnoreSpec], ...]
"""What is ignored below each of some folders."""


def _rules_above(root: Path) -> Ignored:
    """Of its repository; none if that ignores the folder itself, which was asked for."""
    above = list(root.parents)
    n_own = next((n for n, one in enumerate((root, *above)) if (one / ".git").exists()), 0)
    rules = tuple(rule for folder in reversed(above[:n_own]) for rule in _rules_in(folder))
    is_ignored = any(_matches(one, root.relative_to(top), True) for top, one in rules)
    return () if is_ignored else rules


def _rules_in(folder: Path) -> Ignored:
    return tuple(
        (folder, GitIgnoreSpec.from_lines(file.read_text("utf-8", "replace").splitlines()))
        for file in (folder / name for name in IGNORE_FILES)
        if file.is_file()
    )


def _files_of(folder: Path, root: Path, ignored: Ignored) -> Iterator[Path]:
    """Files below ``folder``, relative to ``root``; links to folders are not followed."""
    ignored += _rules_in(folder)
    for entry in folder.iterdir():
        if entry.name in LEFT_OUT or entry.name.startswith(".env."):
            continue
        if folder == root and entry.name in LEFT_OUT_AT_TOP:
            continue
        is_folder = entry.is_dir() and not entry.is_symlink()
        if any(_matches(rules, entry.relative_to(top), is_folder) for top, rules in ignored):
            continue
        if is_folder and not (entry / "pyvenv.cfg").exists():
            yield from _files_of(entry, root, ignored)
        elif entry.is_file():
            yield entry.relative_to(root)


def _matches(rules: GitIgnoreSpec, path: Path, is_folder: bool) -> bool:
    return bool(rules.match_file(f"{path.as_posix()}/" if is_folder else path.as_posix()))
