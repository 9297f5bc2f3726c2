"""Read a YAML file into plain data that still knows where each value stood.

ruamel.yaml is YAML 1.2 (``1e-4`` is a number, ``on`` a word) and marks every node with its line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from hpo.errors import SpecError

KeyPath = tuple[str | int, ...]

# A spec of a thousand parameters has fewer; aliases of aliases reach it in milliseconds.
MAX_NODES = 20_000
MAX_DEPTH = 50  # a list that holds itself has no end
MAX_CHARACTERS = 200_000  # 4 s of parsing; a spec of a thousand parameters has half as many

# What YAML knows by itself. `!!python/object` and its like name code to run, and are never obeyed.
KNOWN_TAGS = {
    f"tag:yaml.org,2002:{name}"
    for name in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge", "value")
}


@dataclass
class Source:
    """Plain data of a spec, the place of each of its values, and what was wrong with the text.

    Attributes:
        name: the file's name as the user typed it.
        data: the top-level mapping.
        places: "file:line:column", counted from 1, or the override a value came from; by key path.
        key_places: the same of the keys.
        problems: (place, message) of what the YAML itself does wrong, e.g. a repeated key.
    """

    name: str
    data: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, str] = field(default_factory=dict)
    key_places: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def place(self, path: KeyPath) -> str:
        """Where the value at ``path`` stands, or the nearest section around it that exists."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, f"{self.name}:1:1")

    def apply(self, override: str) -> None:
        """Set ``path=value`` of one ``-o`` option; the value is YAML: ``-o sampler.name=gp``."""
        place = f"-o {override}"
        path_text, equals, text = override.partition("=")
        path: KeyPath = tuple(path_text.split("."))
        if not equals or not all(path):
            self.problems.append((place, "must have the form path=value, e.g. budget.n_trials=10"))
            return
        parent = self.data
        for index, key in enumerate(path[:-1], start=1):
            self.key_places.setdefault(path[:index], place)
            parent = parent.setdefault(str(key), {})
            if not isinstance(parent, dict):
                self.problems.append((place, f"{key!r} is no section; set it whole: -o {key}=..."))
                return
        try:
            node = _compose(text)
        except YAMLError as error:
            self.problems.append((place, f"the value is no YAML: {_first_line(error)}"))
            return
        for stale in [known for known in self.places if known[: len(path)] == path]:
            del self.places[stale]
        self.places[path] = self.key_places[path] = place
        parent[str(path[-1])] = _Builder(self, lambda _: place).build(node, path)


def read_source(path: Path) -> Source:
    """Read ``path``.

    Raises:
        SpecError: if the file cannot be read or is no YAML mapping.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except FileNotFoundError:
        raise SpecError(str(path), ["there is no such file"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(str(path), [f"cannot be read: {error}"]) from None
    return parse_source(text, name=str(path))


def parse_source(text: str, name: str) -> Source:
    """Read the text of a spec; ``name`` stands for the file in messages.

    Raises:
        SpecError: if the text is no YAML mapping.
    """
    if len(text) > MAX_CHARACTERS:
        raise SpecError(name, [f"is longer than {MAX_CHARACTERS:,} characters"])
    try:
        node = _compose(text)
    except YAMLError as error:
        place = f"{name}:{_place_of_error(text, error)}"
        raise SpecError(name, [f"{place}: is no YAML: {_first_line(error)}"]) from None
    if not isinstance(node, MappingNode):
        raise SpecError(name, ["must be a mapping of keys such as `name:` and `search_space:`"])
    source = Source(name)

    def place_of(node: Node) -> str:
        return f"{name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"

    source.data = _Builder(source, place_of).build(node, ())
    return source


def _compose(text: str) -> Node | None:
    try:
        node: Node | None = YAML(typ="safe", pure=True).compose(text)
    except RecursionError:
        raise YAMLError("is nested too deeply") from None
    return node


def _place_of_error(text: str, error: YAMLError) -> str:
    """Line and column, counted from 1, of what the parser or the reader stumbled on."""
    if mark := getattr(error, "problem_mark", None):
        return f"{mark.line + 1}:{mark.column + 1}"
    before = text[: getattr(error, "position", 0)]
    return f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


def _first_line(error: YAMLError) -> str:
    return str(getattr(error, "problem", None) or str(error).splitlines()[0])


class _Builder:
    """Turns nodes into data and records places; the constructor of a library would lose them."""

    def __init__(self, source: Source, place_of: Any) -> None:
        self._source, self._place_of = source, place_of
        self._scalars = YAML(typ="safe", pure=True).constructor
        self._n_nodes = 0

    def build(self, node: Node | None, path: KeyPath) -> Any:
        if node is None:
            return None
        self._n_nodes += 1
        if self._n_nodes > MAX_NODES:
            raise SpecError(
                self._source.name, [f"holds more than {MAX_NODES:,} values, aliases counted"]
            )
        if len(path) > MAX_DEPTH:
            raise SpecError(self._source.name, [f"is nested more than {MAX_DEPTH} levels deep"])
        place = self._source.places[path] = self._place_of(node)
        if node.tag not in KNOWN_TAGS:
            self._source.problems.append((place, f"{_dotted(path)}: no tags such as {node.tag}"))
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            place = self._place_of(key_node)
            if key in data:
                first = self._source.key_places[*path, key]
                self._source.problems.append(
                    (place, f"{_dotted((*path, key))}: repeats a key that stands at {first}")
                )
                continue
            self._source.key_places[*path, key] = place
            data[key] = self.build(value_node, (*path, key))
        return data

    def _scalar(self, node: Node) -> Any:
        if str(node.tag).endswith(("int", "float", "bool", "null")):
            try:
                return self._scalars.construct_object(node, deep=True)
            except (ValueError, YAMLError):
                return node.value
        return node.value  # dates and unknown tags stay the words that were written


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)
