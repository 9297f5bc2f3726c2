"""What a trainable is made of: the files of its code, so that a change of them can be told."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainables.registry import TRAINABLES

OURS = ("trainables", "hpo", "storage")
"""Packages of the platform: no part of a user's trainable that imports them."""


def trainable_sources(name: str, import_paths: Sequence[Path] = ()) -> dict[str, str]:
    """SHA-256 of each file of a trainable's code, by its path below the folder it is found in.

    These are its module and what that imports, and so on: of a registered trainable the modules of
    our package, of a user's own those beside it in its folder, of an installed one those of its
    package. Libraries do not count, nor does what is imported by a name that is made at run time.

    Args:
        name: as in a spec; empty is returned where it has no source.
        import_paths: folders to look into before ``sys.path``.
    """
    module = (TRAINABLES[name].target if name in TRAINABLES else name).partition(":")[0]
    top = module.partition(".")[0]
    if name in TRAINABLES:
        return _hashes(module, Path(__file__).parents[1], (top,))
    for folder in (*import_paths, *map(Path, sys.path)):
        if _file_of(module, folder) is not None:
            return _hashes(module, folder, None if folder in import_paths else (top,))
    return {}


def _hashes(module: str, folder: Path, packages: tuple[str, ...] | None) -> dict[str, str]:
    """Of ``module`` and all it imports from ``folder``; with None from any package but ours."""
    found: dict[str, str] = {}
    wanted, seen = [module], {module}
    while wanted:
        name = wanted.pop()
        top = name.partition(".")[0]
        is_own = top not in OURS if packages is None else top in packages
        if not is_own or (path := _file_of(name, folder)) is None:
            continue
        content = path.read_bytes()
        found[path.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
        is_package = path.name == "__init__.py"
        new = set(_imports(content, name, is_package=is_package)) - seen
        seen |= new
        wanted += sorted(new)
    return dict(sorted(found.items()))


def _file_of(module: str, folder: Path) -> Path | None:
    place = folder.joinpath(*module.split("."))
    candidates = (place / "__init__.py", place.with_name(f"{place.name}.py"))
    return next((path for path in candidates if path.is_file()), None)


def _imports(content: bytes, module: str, *, is_package: bool) -> Iterator[str]:
    """Names of all that may be a module, wherever in the file it is imported."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return  # importing it will say what is wrong
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: None if is_package else -1]
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            if start:
                yield start
            yield from (f"{start}.{alias.name}" if start else alias.name for alias in node.names)
