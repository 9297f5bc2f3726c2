"""Rules of ``stages``: each parameter is searched in one of them, together with what decides it.

As in `rules`, what is read is raw data: a section that is wrong by itself is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hpo.spec.source import KeyPath
from hpo.spec.words import unknown

Problems = Iterator[tuple[KeyPath, str]]

NOT_IN_STAGES = {
    "grid": "is searched whole",
    "nsga2": "keeps one population for a whole study",
}
"""Samplers that cannot begin anew in each stage, and why."""


def stage_rules(data: Mapping[str, Any]) -> Problems:
    """Every broken rule as (key path, message)."""
    stages, space = data.get("stages"), data.get("search_space")
    if not isinstance(stages, list) or not stages or not isinstance(space, Mapping):
        return
    if not all(isinstance(stage, list) for stage in stages):
        return
    yield from _names_problems(stages, space)
    yield from _conditions_problems(stages, space)
    yield from _search_problems(data, len(stages))


def _names_problems(stages: list[list[Any]], space: Mapping[str, Any]) -> Problems:
    seen: dict[str, int] = {}
    for index, stage in enumerate(stages):
        if not stage:
            yield ("stages", index), "names no parameter; name at least one, or drop the stage"
        for place, name in enumerate(stage):
            if not isinstance(name, str):
                continue
            if name not in space:
                yield ("stages", index, place), unknown("parameter", name, space)
            elif name in seen:
                yield (
                    ("stages", index, place),
                    f"`{name}` is searched in stage {seen[name] + 1} already; name it once",
                )
            seen.setdefault(name, index)
    if missing := [name for name in space if name not in seen]:
        yield (
            ("stages",),
            f"must name every parameter of `search_space` once; missing: {', '.join(missing)}",
        )


def _conditions_problems(stages: list[list[Any]], space: Mapping[str, Any]) -> Problems:
    """Apart from its parent a parameter might be inactive in the one stage that searches it."""
    for index, stage in enumerate(stages):
        for place, name in enumerate(stage):
            parameter = space.get(name) if isinstance(name, str) else None
            when = parameter.get("when") if isinstance(parameter, Mapping) else None
            for parent in when if isinstance(when, Mapping) else ():
                if parent in space and parent not in stage:
                    yield (
                        ("stages", index, place),
                        f"`{parent}` decides whether `{name}` is drawn; name both in one stage",
                    )


def _search_problems(data: Mapping[str, Any], n_stages: int) -> Problems:
    sampler, scheduler = _name(data.get("sampler")), _name(data.get("scheduler"))
    if sampler in NOT_IN_STAGES:
        yield (
            ("stages",),
            f"sampler {sampler} {NOT_IN_STAGES[sampler]}; take another one, e.g. -o sampler=auto",
        )
    if scheduler == "one_epoch_top_k":
        yield (
            ("stages",),
            "scheduler one_epoch_top_k completes no trial before all are tried, so no stage would "
            "know the best of those before it; take another one, e.g. -o scheduler=asha",
        )
    budget = data.get("budget")
    n_trials = budget.get("n_trials") if isinstance(budget, Mapping) else None
    if isinstance(n_trials, int) and n_trials < n_stages:
        yield (
            ("stages",),
            f"{n_stages} stages need at least a trial each, and budget.n_trials={n_trials}",
        )


def _name(section: Any) -> Any:
    """Of ``sampler: tpe`` or ``sampler: {name: tpe}``."""
    return section.get("name") if isinstance(section, Mapping) else section
