"""Rules that tie two sections of a spec together, or a section to the trainable it names.

They read the raw data, so they are checked, and reported, beside errors in the sections themselves.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpo.spec.source import KeyPath
from trainables import LR, TRAINABLES, TrainableError, find_trainable

MAX_LISTED = 20
"""Known names; of more, the nearest one says enough."""

Problems = list[tuple[KeyPath, str]]


def rules_between_sections(
    data: Mapping[str, Any], import_paths: Sequence[Path] | None
) -> Problems:
    """Every broken rule as (key path, message); with None those that ask no trainable."""
    problems = [
        *_names_are_unique(data),
        *_scheduler_fits_budget(data),
        *_grid_is_finite(data),
    ]
    if import_paths is None:
        return problems
    return [
        *problems,
        *_trainable_exists(data, import_paths),
        *_trainable_knows_names(data),
        *_trainable_takes_values(data),
        *_trainable_finds_lr(data, import_paths),
    ]


def _names_are_unique(data: Mapping[str, Any]) -> Problems:
    fixed, searched = _section(data, "fixed"), _section(data, "search_space")
    problems: Problems = [
        (("fixed", name), "is also in `search_space`; a hyperparameter is either fixed or searched")
        for name in fixed
        if name in searched
    ]
    problems += [
        ((section, "seed"), "is set by the platform for each trial; set the spec's `seed` instead")
        for section in ("fixed", "search_space")
        if "seed" in _section(data, section)
    ]
    return problems


def _scheduler_fits_budget(data: Mapping[str, Any]) -> Problems:
    scheduler, budget = _named(data, "scheduler"), _section(data, "budget")
    max_epochs, grace_epochs = budget.get("max_epochs"), scheduler.get("grace_epochs", 1)
    if scheduler.get("name") != "asha":
        return []
    if max_epochs is None:
        return [(("budget",), "scheduler asha needs `max_epochs`, the epochs of a full trial")]
    if _is_int(max_epochs) and _is_int(grace_epochs) and grace_epochs > max_epochs:
        path = ("scheduler", "grace_epochs")
        return [(path, f"must not exceed budget.max_epochs={max_epochs}, got {grace_epochs}")]
    return []


def _grid_is_finite(data: Mapping[str, Any]) -> Problems:
    if _named(data, "sampler").get("name") != "grid":
        return []
    return [
        (
            ("search_space", name),
            "sampler grid needs a finite number of values; give `step`, or list `choices` "
            "with type categorical",
        )
        for name, parameter in _section(data, "search_space").items()
        if isinstance(parameter, Mapping)
        and (
            "from" in parameter
            or (
                parameter.get("type") == "float"
                and parameter.get("step") is None
                and parameter.get("low") != parameter.get("high")
            )
        )
    ]


def _trainable_exists(data: Mapping[str, Any], import_paths: Sequence[Path]) -> Problems:
    name = data.get("trainable")
    if not isinstance(name, str) or name in TRAINABLES:
        return []
    try:
        find_trainable(name, import_paths)
    except TrainableError as error:
        return [(("trainable",), str(error))]
    return []


def _trainable_knows_names(data: Mapping[str, Any]) -> Problems:
    name = data.get("trainable")
    if not isinstance(name, str) or name not in TRAINABLES:
        return []
    info = TRAINABLES[name]
    problems: Problems = []
    metric = _section(data, "objective").get("metric")
    if isinstance(metric, str) and metric not in info.metrics:
        problems.append(
            (("objective", "metric"), _unknown(f"metric of {name!r}", metric, info.metrics))
        )
    problems += [
        ((section, key), _unknown(f"hyperparameter of {name!r}", key, info.config_keys))
        for section in ("fixed", "search_space")
        for key in _section(data, section)
        if key not in info.config_keys and key != "seed"
    ]
    return problems


def _trainable_takes_values(data: Mapping[str, Any]) -> Problems:
    """Each fixed value, each choice and both ends of each range, judged one by one."""
    name = data.get("trainable")
    if not isinstance(name, str) or name not in TRAINABLES:
        return []
    info = TRAINABLES[name]
    return [
        (path, problem)
        for path, key, value in _values(data)
        if key in info.config_keys and (problem := info.value_problem(key, value))
    ]


def _values(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str, Any]]:
    """Every value that a hyperparameter can take, or its range ends with: place, name, value."""
    for key, value in _section(data, "fixed").items():
        yield ("fixed", key), key, value
    for key, parameter in _section(data, "search_space").items():
        if not isinstance(parameter, Mapping):
            continue
        choices = parameter.get("choices")
        for index, choice in enumerate(choices if isinstance(choices, list) else ()):
            yield ("search_space", key, "choices", index), key, choice
        for end in ("low", "high"):
            value = parameter.get(end)
            if isinstance(value, int | float) and not isinstance(value, bool):
                is_float = parameter.get("type") == "float" or "from" in parameter
                yield ("search_space", key, end), key, float(value) if is_float else value


def _trainable_finds_lr(data: Mapping[str, Any], import_paths: Sequence[Path]) -> Problems:
    """``from: lr_finder`` is for the learning rate, of trainables that offer a range test."""
    found = [
        name
        for name, parameter in _section(data, "search_space").items()
        if isinstance(parameter, Mapping) and parameter.get("from") == "lr_finder"
    ]
    problems: Problems = [
        (("search_space", name, "from"), f"the finder sets `{LR}` alone; give `low` and `high`")
        for name in found
        if name != LR
    ]
    if LR in found and not _finds_lr(data.get("trainable"), import_paths):
        path = ("search_space", LR, "from")
        problems.append(
            (path, f"trainable {data['trainable']!r} offers no `find_lr`; give `low` and `high`")
        )
    return problems


def _finds_lr(name: Any, import_paths: Sequence[Path]) -> bool:
    """Also of what is no trainable: that is another problem."""
    if not isinstance(name, str):
        return True
    if name in TRAINABLES:
        return TRAINABLES[name].finds_lr
    try:
        return find_trainable(name, import_paths).find_lr is not None
    except TrainableError:
        return True


def _unknown(what: str, name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    if close and len(known) > MAX_LISTED:
        return f"unknown {what}: {name!r}{hint}"
    return f"unknown {what}: {name!r}{hint} Known: {', '.join(sorted(known))}"


def _section(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key)
    return value if isinstance(value, Mapping) else {}


def _named(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key)
    return {"name": value} if isinstance(value, str) else _section(data, key)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
