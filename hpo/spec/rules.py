"""Rules that tie two sections of a spec together, or a section to the trainable it names.

They read the raw data, so they are checked, and reported, beside errors in the sections themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpo.places import LEDGER_FILE, MLFLOW_FILE, MLFLOW_FOLDER
from hpo.spec.objective_rules import objective_rules, objectives_in
from hpo.spec.source import KeyPath
from hpo.spec.words import unknown
from hpo.spec.write import flow_yaml
from trainables import LR, TRAINABLES, TrainableError, find_trainable

Problems = list[tuple[KeyPath, str]]


def rules_between_sections(
    data: Mapping[str, Any], import_paths: Sequence[Path] | None
) -> Problems:
    """Every broken rule as (key path, message); with None those that ask no trainable."""
    problems = [
        *_name_is_free(data),
        *_names_are_unique(data),
        *objective_rules(data),
        *_scheduler_fits_budget(data),
        *_constraints_are_known(data),
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
        *_trainable_may_be_perturbed(data, import_paths),
    ]


def _name_is_free(data: Mapping[str, Any]) -> Problems:
    """The experiment's folder lies beside files of ours; some disks do not tell A from a."""
    name = str(data.get("name", "")).lower()
    if name == MLFLOW_FOLDER or name.startswith((LEDGER_FILE, MLFLOW_FILE)):
        return [(("name",), f"{name!r} is the name of something else in runs/")]
    return []


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
    name, max_epochs = scheduler.get("name"), budget.get("max_epochs")
    if name not in ("asha", "hyperband", "one_epoch_top_k"):
        return []
    if max_epochs is None:
        return [(("budget",), f"scheduler {name} needs `max_epochs`, the epochs of a full trial")]
    if name == "one_epoch_top_k":
        return _top_k_fits_budget(scheduler, budget)
    grace_epochs = scheduler.get("grace_epochs", 1)
    if _is_int(max_epochs) and _is_int(grace_epochs) and grace_epochs > max_epochs:
        path = ("scheduler", "grace_epochs")
        return [(path, f"must not exceed budget.max_epochs={max_epochs}, got {grace_epochs}")]
    return []


def _top_k_fits_budget(scheduler: Mapping[str, Any], budget: Mapping[str, Any]) -> Problems:
    problems: Problems = []
    k, n_trials = scheduler.get("k", 5), budget.get("n_trials")
    if _is_int(k) and _is_int(n_trials) and k > n_trials:
        path: KeyPath = ("scheduler", "k") if "k" in scheduler else ("scheduler",)
        problems.append((path, f"`k` must not exceed budget.n_trials={n_trials}, got {k}"))
    problems += [
        (("budget", key), "is no end for one_epoch_top_k, which finishes none before all are tried")
        for key in ("patience_trials", "terminator")
        if budget.get(key)
    ]
    epochs, max_epochs = scheduler.get("epochs", 1), budget["max_epochs"]
    if _is_int(epochs) and _is_int(max_epochs) and epochs >= max_epochs:
        path = ("scheduler", "epochs") if "epochs" in scheduler else ("scheduler",)
        problems.append((path, f"`epochs` must be < budget.max_epochs={max_epochs}, got {epochs}"))
    return problems


def _constraints_are_known(data: Mapping[str, Any]) -> Problems:
    """Of a registered trainable; which quantities a user's own knows is found out by running it."""
    name = data.get("trainable")
    if not isinstance(name, str) or name not in TRAINABLES:
        return []
    known = (*TRAINABLES[name].facts, *TRAINABLES[name].metrics)
    return [
        (("constraints", key), unknown(f"quantity of {name!r}", key, known))
        for key in _section(data, "constraints")
        if key not in known
    ]


def _grid_is_finite(data: Mapping[str, Any]) -> Problems:
    if _named(data, "sampler").get("name") != "grid":
        return []
    return [
        (
            ("search_space", name),
            "sampler grid needs a finite number of values; say how many points of the range, "
            f"e.g. 5, or give `step`:\n      {name}: {_with_grid(parameter)}",
        )
        for name, parameter in _section(data, "search_space").items()
        if isinstance(parameter, Mapping)
        and (
            "from" in parameter
            or (
                parameter.get("type") == "float"
                and parameter.get("step") is None
                and parameter.get("grid") is None
                and parameter.get("low") != parameter.get("high")
            )
        )
    ]


def _with_grid(parameter: Mapping[str, Any]) -> str:
    """The parameter as a line of YAML, with the points that it lacks."""
    if "from" in parameter:
        low, high = parameter.get("low", 0.001), parameter.get("high", 0.1)
        parameter = {"type": "float", "low": low, "high": high, "log": True}
    return flow_yaml({**parameter, "grid": 5})


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
    objectives = objectives_in(data)
    # What is known before any training can be traded for a metric; by itself it needs no search.
    known = (*info.metrics, *info.facts) if len(objectives) > 1 else info.metrics
    problems += [
        ((*path, "metric"), unknown(f"metric of {name!r}", objective["metric"], known))
        for path, objective in objectives
        if isinstance(objective.get("metric"), str) and objective["metric"] not in known
    ]
    problems += [
        ((section, key), unknown(f"hyperparameter of {name!r}", key, info.config_keys))
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


def _trainable_may_be_perturbed(data: Mapping[str, Any], import_paths: Sequence[Path]) -> Problems:
    """Scheduler pbt changes only what the trainable says may change while it trains."""
    scheduler, name = _named(data, "scheduler"), data.get("trainable")
    perturb = scheduler.get("perturb")
    if scheduler.get("name") != "pbt" or not isinstance(perturb, list):
        return []
    if not isinstance(name, str) or (allowed := _changeable(name, import_paths)) is None:
        return []
    if not allowed:
        message = (
            f"scheduler pbt: trainable {name!r} lets nothing change while it trains. One of yours "
            "says what may, `changeable_while_training = ('lr',)` in its module, and keeps "
            "checkpoints with trial.checkpoints"
        )
        return [(("scheduler",), message)]
    return [
        (
            ("scheduler", "perturb", index),
            unknown(f"changeable parameter of {name!r}", one, allowed),
        )
        for index, one in enumerate(perturb)
        if isinstance(one, str) and one in _section(data, "search_space") and one not in allowed
    ]


def _changeable(name: str, import_paths: Sequence[Path]) -> tuple[str, ...] | None:
    """Of a trainable; None of what is no trainable: that is another problem."""
    if name in TRAINABLES:
        return TRAINABLES[name].changeable
    try:
        return find_trainable(name, import_paths).changeable
    except TrainableError:
        return None


def _section(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key)
    return value if isinstance(value, Mapping) else {}


def _named(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key)
    return {"name": value} if isinstance(value, str) else _section(data, key)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
