"""One config of a spec, chosen by hand: the fixed values, and parameters as they were typed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from hpo.errors import UsageError
from hpo.plan import first_config
from hpo.spec import ExperimentSpec
from trainables import TRAINABLES


def chosen_config(spec: ExperimentSpec, assignments: Sequence[str]) -> dict[str, Any]:
    """Fixed values and parameters; what ``assignments`` do not name is as in trial 0.

    Args:
        spec: names the fixed values and the search space.
        assignments: ``name=value``, the value as YAML writes it; inside the search space or not.

    Raises:
        UsageError: for an assignment that is none, an unknown name, or a value of a wrong kind.
    """
    chosen = dict(_parsed(spec, assignment) for assignment in assignments)
    return {**spec.fixed, **first_config(spec, chosen)}


def _parsed(spec: ExperimentSpec, assignment: str) -> tuple[str, Any]:
    name, equals, text = assignment.partition("=")
    if not equals:
        raise UsageError(f"-p {assignment}: must be name=value, e.g. -p depth=3")
    info = TRAINABLES.get(spec.trainable)
    known = info.config_keys if info else (*spec.fixed, *spec.search_space)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
        raise UsageError(f"-p {assignment}: unknown parameter {name!r}{hint}")
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        raise UsageError(f"-p {assignment}: {text!r} is no YAML value") from None
    if info and (problem := info.value_problem(name, value)):
        raise UsageError(f"-p {assignment}: {problem}")
    return name, value
