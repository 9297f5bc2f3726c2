"""Rules of the scheduler ``pbt``: what its population needs, and what it may perturb.

As in `rules`, what is read is raw data: a section that is wrong by itself is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from hpo.spec.source import KeyPath
from hpo.spec.words import unknown

Problems = Iterator[tuple[KeyPath, str]]

MIN_TRIALS = 4
"""With fewer nobody can tell the best from the worst."""
QUANTILE = 0.25


def pbt_rules(data: Mapping[str, Any]) -> Problems:
    """Every broken rule as (key path, message)."""
    scheduler = data.get("scheduler")
    if not isinstance(scheduler, Mapping) or scheduler.get("name") != "pbt":
        return
    budget = data.get("budget")
    yield from _budget_problems(scheduler, budget if isinstance(budget, Mapping) else {})
    yield from _perturb_problems(data, scheduler.get("perturb"))
    if data.get("trial_seed") == "common":
        yield (
            ("trial_seed",),
            "scheduler pbt answers no trial by another one; drop `trial_seed: common`, "
            "which is for that",
        )
    sampler = data.get("sampler")
    if "grid" in (sampler, sampler.get("name") if isinstance(sampler, Mapping) else None):
        yield (
            ("sampler",),
            "sampler grid tries every combination, and scheduler pbt leaves them at once; take "
            "another sampler, e.g. -o sampler=sobol",
        )
    if data.get("stages"):
        yield (
            ("stages",),
            "scheduler pbt perturbs one population all along and knows no stages; drop `stages`, "
            "or take another scheduler, e.g. -o scheduler=asha",
        )


def _budget_problems(scheduler: Mapping[str, Any], budget: Mapping[str, Any]) -> Problems:
    n_trials, max_epochs = budget.get("n_trials"), budget.get("max_epochs")
    if max_epochs is None:
        yield ("budget",), "scheduler pbt needs `max_epochs`, the epochs that each lineage trains"
    interval = scheduler.get("interval_epochs", 1)
    if _is_int(interval) and _is_int(max_epochs) and interval >= max_epochs:
        path = (
            ("scheduler", "interval_epochs") if "interval_epochs" in scheduler else ("scheduler",)
        )
        yield path, f"`interval_epochs` must be < budget.max_epochs={max_epochs}, got {interval}"
    if _is_int(n_trials) and n_trials < MIN_TRIALS:
        yield (
            ("budget", "n_trials"),
            f"is the population of scheduler pbt, which needs {MIN_TRIALS} trials, got {n_trials}",
        )
    quantile = scheduler.get("quantile", QUANTILE)
    is_number = isinstance(quantile, int | float) and 0 < quantile <= 0.5
    if is_number and _is_int(n_trials) and n_trials >= MIN_TRIALS and quantile * n_trials < 1:
        path = ("scheduler", "quantile") if "quantile" in scheduler else ("scheduler",)
        yield (
            path,
            f"`quantile`={quantile} of budget.n_trials={n_trials} is less than one trial; give "
            f"{1 / n_trials:.2g} at least, or more trials",
        )
    for key in ("target_value", "patience_trials", "terminator"):
        if budget.get(key) not in (None, False):
            yield ("budget", key), "is no end for scheduler pbt, whose trials all end together"


def _perturb_problems(data: Mapping[str, Any], perturb: Any) -> Problems:
    space, fixed = data.get("search_space"), data.get("fixed")
    if not isinstance(perturb, list) or not isinstance(space, Mapping):
        return
    fixed = fixed if isinstance(fixed, Mapping) else {}
    deciding = {
        parent: name
        for name, parameter in space.items()
        if isinstance(parameter, Mapping) and isinstance(parameter.get("when"), Mapping)
        for parent in parameter["when"]
    }
    for index, name in enumerate(perturb):
        if not isinstance(name, str):
            continue
        path = ("scheduler", "perturb", index)
        if name in perturb[:index]:
            yield path, f"`{name}` stands there twice; name it once"
        elif name in fixed:
            yield path, f"`{name}` is fixed, and cannot be perturbed; give it a range, or drop it"
        elif name not in space:
            yield path, unknown("parameter", name, space)
        elif isinstance(parameter := space[name], Mapping):
            yield from ((path, problem) for problem in _unfit(name, parameter, deciding))


def _unfit(name: str, parameter: Mapping[str, Any], deciding: Mapping[str, str]) -> Iterator[str]:
    """Why this parameter cannot be perturbed."""
    if parameter.get("when"):
        yield f"`{name}` has a condition, so not every trial has it to perturb; drop one of the two"
    if name in deciding:
        yield (
            f"`{name}` decides whether `{deciding[name]}` is drawn, which would come or go in the "
            "middle of a training; drop it here"
        )
    low, choices = parameter.get("low"), parameter.get("choices")
    is_constant = low is not None and low == parameter.get("high")
    if is_constant or (isinstance(choices, list) and len(choices) == 1):
        yield f"`{name}` has one value, and cannot be perturbed; give it more, or drop it here"


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
