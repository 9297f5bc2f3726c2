"""Rules between the parameters of a search space, and what params must be to lie in it.

As in `rules`, what is read is raw data: a parameter that is wrong by itself is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from hpo.spec.parameters import (
    CategoricalParameter,
    FoundParameter,
    IntParameter,
    Parameter,
    condition_text,
    conditions,
    is_active,
)
from hpo.spec.source import KeyPath
from hpo.spec.words import unknown

Space = Mapping[str, Parameter]
PARAMETER: TypeAdapter[Parameter] = TypeAdapter(Parameter)


def space_rules(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Every broken rule as (key path, message)."""
    written = data.get("search_space")
    if not isinstance(written, Mapping):
        return
    space = {name: parsed for name, raw in written.items() if (parsed := _parsed(raw))}
    for name in space:
        yield from _condition_problems(name, space, list(written), data.get("fixed"))
    yield from _enqueue_problems(data.get("enqueue"), space, set(written) - set(space))


def _parsed(raw: Any) -> Parameter | None:
    try:
        return PARAMETER.validate_python(raw)
    except ValidationError:
        return None


def _condition_problems(
    name: str, space: Space, names: list[str], fixed: Any
) -> Iterator[tuple[KeyPath, str]]:
    """What is wrong with the condition of one parameter; ``names`` are all, in their order."""
    has_problem = False
    for parent, allowed in conditions(space[name]).items():
        problem = _parent_problem(name, parent, space, names, fixed) or _values_problem(
            parent, allowed, space.get(parent)
        )
        if problem:
            has_problem = True
            yield ("search_space", name, "when", parent), problem
    if not has_problem and (contradiction := _contradiction(name, space)):
        yield ("search_space", name, "when"), contradiction


def _parent_problem(
    name: str, parent: str, space: Space, names: list[str], fixed: Any
) -> str | None:
    if parent == name:
        return "a parameter cannot decide about itself; name another one"
    if parent not in names:
        if isinstance(fixed, Mapping) and parent in fixed:
            return (
                f"`{parent}` is fixed, so it decides nothing: drop the condition, "
                f"or move `{parent}` into `search_space`"
            )
        return unknown("parameter", parent, [other for other in names if other != name])
    if names.index(parent) > names.index(name):
        if circle := _chain(parent, name, space):
            return f"is a circle: {' -> '.join([name, *circle])}; drop one of these conditions"
        return f"`{parent}` stands below; move it above `{name}`: what decides is drawn first"
    if isinstance(space.get(parent), None | IntParameter | CategoricalParameter):
        return None
    return f"`{parent}` is a float, which decides nothing; name one of type categorical or int"


def _chain(start: str, end: str, space: Space) -> list[str] | None:
    """The parameters on a way from ``start`` to ``end``, each decided by the next."""
    ways, seen = [[start]], {start}
    while ways:
        way = ways.pop()
        if way[-1] == end:
            return way
        parents = conditions(space[way[-1]]) if way[-1] in space else {}
        ways += [[*way, parent] for parent in parents if parent not in seen]
        seen.update(parents)
    return None


def _values_problem(parent: str, allowed: list[Any], parameter: Parameter | None) -> str | None:
    if not allowed:
        return f"must name at least one value of `{parent}`, got []"
    if parameter is None or isinstance(parameter, FoundParameter):
        return None
    never = [value for value in allowed if not parameter.accepts(value)]
    return f"`{parent}` {parameter.rule()}, got {never[0]!r}" if never else None


def _contradiction(name: str, space: Space) -> str | None:
    """Why a parameter is never drawn: a parameter above would have to be two things at once."""
    left: dict[str, list[Any]] = {}
    seen, waiting = {name}, [name]
    while waiting:
        child = waiting.pop()
        for parent, allowed in conditions(space[child]).items() if child in space else ():
            before = left.get(parent, allowed)
            left[parent] = [value for value in before if value in allowed]
            if before and not left[parent]:
                return (
                    f"never holds: no value of `{parent}` agrees with the conditions of "
                    "the parameters that it needs; drop one of them"
                )
            if parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    return None


def _enqueue_problems(
    enqueued: Any, space: Space, unreadable: set[str]
) -> Iterator[tuple[KeyPath, str]]:
    for index, params in enumerate(enqueued if isinstance(enqueued, list) else ()):
        if not isinstance(params, Mapping):
            continue
        if not params:
            yield ("enqueue", index), "names no parameter; give at least one, or drop the entry"
        readable = {name: value for name, value in params.items() if name not in unreadable}
        for name, problem in check_params(space, readable, is_partial=True):
            yield ("enqueue", index, name), problem


def check_params(
    space: Space, params: Mapping[str, Any], *, is_partial: bool = False
) -> list[tuple[str, str]]:
    """What keeps ``params`` from being a trial of the space: (name, message); nothing if they fit.

    Args:
        space: as a spec has it.
        params: values by name.
        is_partial: some may be missing, but not those that decide about others.
    """
    problems = [(name, unknown("parameter", name, space)) for name in params if name not in space]
    for name, parameter in space.items():
        is_due = is_active(parameter, params)
        if name not in params:
            if is_due and not is_partial:
                problems.append((name, "is missing"))
        elif isinstance(parameter, FoundParameter):
            problems.append(
                (name, "its range is found before the search: leave it out, or give it a range")
            )
        elif not parameter.accepts(params[name]):
            problems.append((name, f"{parameter.rule()}, got {params[name]!r}"))
        elif not is_due:
            condition = condition_text(parameter)
            problems.append((name, f"is drawn only when {condition}; say so, or leave it out"))
    return problems
