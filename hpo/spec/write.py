"""Write a spec as YAML with every default filled in, and say how two specs differ."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.representer import SafeRepresenter

from hpo.spec.model import ExperimentSpec

SIMPLE_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*(:[A-Za-z_][A-Za-z0-9_]*)?", re.ASCII)


def spec_to_yaml(spec: ExperimentSpec) -> str:
    """The whole spec as YAML that `load_spec` reads back to an equal one."""
    # None: innermost collections on one line.
    return _written(spec.model_dump(mode="python", by_alias=True), flow_style=None, width=100)


def flow_yaml(data: Mapping[str, Any]) -> str:
    """A mapping as one line of YAML: ``{type: int, low: 1, high: 3}``."""
    return _written(dict(data), flow_style=True, width=10_000).strip()


def _written(data: Any, *, flow_style: bool | None, width: int) -> str:
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _QuotingRepresenter
    yaml.default_flow_style = flow_style
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = width
    stream = io.StringIO()
    yaml.dump(data, stream)
    return stream.getvalue()


class _QuotingRepresenter(SafeRepresenter):
    """Quotes every word with an unusual character; ruamel writes some of them unreadably plain."""

    def represent_str(self, data: str) -> Any:
        """A scalar, quoted unless it is a simple word."""
        style = None if SIMPLE_WORD.fullmatch(data) else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_QuotingRepresenter.add_representer(str, _QuotingRepresenter.represent_str)


def differences(old: ExperimentSpec, new: ExperimentSpec) -> list[str]:
    """Each value that differs, e.g. ``search_space.lr.high: 0.01 -> 0.1``; empty if equal."""
    before, after = (_flat(spec.model_dump(by_alias=True)) for spec in (old, new))
    return [
        f"{path}: {before.get(path, 'absent')!s} -> {after.get(path, 'absent')!s}"
        for path in [*before, *(path for path in after if path not in before)]
        if path not in before or path not in after or before[path] != after[path]
    ]


def _flat(data: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(data, dict) or not data:
        return {path: data}
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= _flat(value, f"{path}.{key}" if path else str(key))
    return flat
