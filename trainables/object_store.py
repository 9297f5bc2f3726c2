"""A place in an object store, ``s3://`` or ``gs://``: as much like a `Path` as checkpoints need.

Whoever reaches the store is told by its own settings on each machine (AWS_ACCESS_KEY_ID, a role,
GOOGLE_APPLICATION_CREDENTIALS ...), never by the URI, which travels and is shown.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

SCHEMES = ("s3", "gs")


@dataclass(frozen=True)
class StoredPath:
    """An object, or all objects whose names begin with ``path`` and a slash.

    Attributes:
        store: scheme, e.g. "s3".
        path: bucket and name in it, without slashes at its ends.
        options: the query of the URI, e.g. "region=eu-west-1".
    """

    store: str
    path: str
    options: str = ""

    def __str__(self) -> str:
        return f"{self.store}://{self.path}"

    @property
    def uri(self) -> str:
        """What `place_of` makes this place of."""
        return f"{self}?{self.options}" if self.options else str(self)

    def __truediv__(self, name: str | Path) -> StoredPath:
        return replace(self, path=f"{self.path}/{name}")

    @property
    def name(self) -> str:
        """Behind the last slash."""
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> StoredPath:
        """Before the last slash."""
        return replace(self, path=self.path.rpartition("/")[0])

    def is_file(self) -> bool:
        """Whether there is such an object.

        Raises:
            OSError: if the store does not answer, or refuses.
        """
        from pyarrow.fs import FileType

        return bool(self._files().get_file_info(self.path).type == FileType.File)

    def read_bytes(self) -> bytes:
        """All of it.

        Raises:
            FileNotFoundError: if there is no such object.
            OSError: if the store does not answer, or refuses.
        """
        with self._files().open_input_file(self.path) as file:
            content: bytes = file.read()
            return content

    def write_bytes(self, content: bytes) -> None:
        """All of it or nothing: a store shows no object before it is whole.

        Raises:
            OSError: if the store does not answer, or refuses.
        """
        with self._files().open_output_stream(self.path) as file:
            file.write(content)

    def iterdir(self) -> Iterator[StoredPath]:
        """The objects in it.

        Raises:
            OSError: if the store does not answer, or refuses.
        """
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self.path, allow_not_found=True)
        for info in self._files().get_file_info(selector):
            if info.type == FileType.File:
                yield replace(self, path=info.path)

    def folder_names(self) -> list[str]:
        """What lies between slashes behind it.

        Raises:
            OSError: if the store does not answer, or refuses.
        """
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self.path, allow_not_found=True)
        found = self._files().get_file_info(selector)
        return [info.base_name for info in found if info.type == FileType.Directory]

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove one object.

        Raises:
            FileNotFoundError: if there is none and that is not allowed.
            OSError: if the store does not answer, or refuses.
        """
        with contextlib.suppress(*[FileNotFoundError] * missing_ok):
            self._files().delete_file(self.path)

    def remove_tree(self) -> None:
        """Remove all objects in it, if there are any.

        Raises:
            OSError: if the store does not answer, or refuses.
        """
        with contextlib.suppress(FileNotFoundError):
            self._files().delete_dir(self.path)

    def _files(self) -> FileSystem:
        return _file_system(self.store, self.path.partition("/")[0], self.options)


Place: TypeAlias = Path | StoredPath
"""A folder or file on this machine, or in an object store that every machine reaches."""


def remove_tree(place: Place) -> None:
    """Remove a folder and all in it; what cannot be removed stays."""
    if isinstance(place, Path):
        shutil.rmtree(place, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        place.remove_tree()


def folder_names(place: Place) -> list[str]:
    """Names of the folders in a place; none if it is not there, or does not answer."""
    try:
        if isinstance(place, Path):
            return [entry.name for entry in place.iterdir() if entry.is_dir()]
        return place.folder_names()
    except OSError:
        return []


def place_of(text: str) -> Place:
    """The place that a user names: a folder, or ``s3://bucket/name`` or ``gs://bucket/name``.

    Raises:
        ValueError: if it is none of these, or holds a secret.
    """
    if "://" not in text:
        return Path(text).expanduser().resolve()
    parts = urlsplit(text)
    if parts.scheme == "file":
        return Path(parts.path)
    if parts.scheme not in SCHEMES or not parts.hostname:
        known = ", ".join(f"{scheme}://bucket/name" for scheme in SCHEMES)
        raise ValueError(f"must be a folder, {known}, got {parts.scheme}://{parts.hostname or ''}")
    if "@" in parts.netloc or "secret" in parts.query or "token" in parts.query:
        raise ValueError(
            "must not hold a key, since it is shown; set e.g. AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY on every machine"
        )
    return StoredPath(parts.scheme, f"{parts.netloc}{parts.path}".rstrip("/"), parts.query)


@lru_cache(maxsize=8)
def _file_system(store: str, bucket: str, options: str) -> FileSystem:
    from pyarrow.fs import FileSystem

    try:
        files, _ = FileSystem.from_uri(f"{store}://{bucket}" + (f"?{options}" if options else ""))
    except ValueError as error:  # an option that there is not
        raise OSError(str(error)) from None
    return files
