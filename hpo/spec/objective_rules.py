"""Rules of a spec with several objectives: what is made for one of them alone is bad input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpo.spec.source import KeyPath

Problems = list[tuple[KeyPath, str]]

N_OBJECTIVES = (2, 3)
"""Beyond three nearly every trial lies on the Pareto front, and no plot shows it."""


def objectives_in(data: Mapping[str, Any]) -> list[tuple[KeyPath, Mapping[str, Any]]]:
    """Place and content of each objective of a spec as it was written."""
    written = data.get("objective")
    if not isinstance(written, list):
        return [(("objective",), written)] if isinstance(written, Mapping) else []
    return [
        (("objective", index), objective)
        for index, objective in enumerate(written)
        if isinstance(objective, Mapping)
    ]


def objective_rules(data: Mapping[str, Any]) -> Problems:
    """Every broken rule as (key path, message)."""
    written = data.get("objective")
    if not isinstance(written, list):
        return []
    if len(written) not in N_OBJECTIVES:
        message = (
            f"a list holds two or three objectives, got {len(written)}; "
            "one objective is written without the list: {metric: ..., direction: ...}"
        )
        return [(("objective",), message)]
    return [*_metrics_are_distinct(data), *_search_takes_several(data)]


def _metrics_are_distinct(data: Mapping[str, Any]) -> Problems:
    problems: Problems = []
    seen: list[Any] = []
    for path, objective in objectives_in(data):
        metric = objective.get("metric")
        if metric is not None and metric in seen:
            problems.append(((*path, "metric"), f"{metric!r} is an objective twice; drop one"))
        seen.append(metric)
    return problems


def _search_takes_several(data: Mapping[str, Any]) -> Problems:
    """Schedulers, CMA-ES, stages and the early ends compare trials by one value."""
    problems: Problems = []
    scheduler, sampler = _name_in(data, "scheduler"), _name_in(data, "sampler")
    if isinstance(scheduler, str) and scheduler != "none":
        message = (
            f"scheduler {scheduler} judges trials by one objective, and there are several; "
            "let all of them run to their end: -o scheduler=none"
        )
        problems.append((("scheduler",), message))
    if sampler == "cmaes":
        message = "sampler cmaes takes one objective, and there are several; try -o sampler=nsga2"
        problems.append((("sampler",), message))
    if data.get("stages"):
        message = "a stage keeps the best value of the one before, and there are several objectives"
        problems.append((("stages",), message))
    budget = data.get("budget")
    problems += [
        (("budget", key), "is for one objective, and there are several; drop it")
        for key in ("target_value", "patience_trials", "terminator")
        if isinstance(budget, Mapping) and budget.get(key) not in (None, False)
    ]
    return problems


def _name_in(data: Mapping[str, Any], key: str) -> Any:
    value = data.get(key)
    return value.get("name") if isinstance(value, Mapping) else value
