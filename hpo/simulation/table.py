"""A table of configs and what became of them, from a CSV file, in place of a study.

One row per training: a column for each searched parameter and limited quantity; ``value``, or
``epoch_1``, ``epoch_2``, ... for a learning curve; ``seconds`` of the whole training, if it is
known. What each cell means stands in docs/replay.md.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.errors import UsageError
from hpo.simulation.recorded import Trained
from hpo.spec import CategoricalParameter, ExperimentSpec, FloatParameter, IntParameter, Parameter
from hpo.tasks import EpochReport

VALUE, SECONDS, EPOCH_COLUMN = "value", "seconds", re.compile(r"epoch_([1-9]\d*)")
MAX_SHOWN = 5
"""Problems of a table that are listed; a wrong column makes one of every row."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """What was read.

    Attributes:
        trained: a config per row.
        n_epochs: of the longest curve that the columns can hold; 1 of ``value``.
        has_seconds: without them an epoch takes a second.
        ignored_columns: which mean nothing here.
        n_outside: rows that were left out, because the search space does not hold them.
    """

    trained: tuple[Trained, ...]
    n_epochs: int
    has_seconds: bool
    ignored_columns: tuple[str, ...]
    n_outside: int


def read_table(path: Path, spec: ExperimentSpec) -> Table:
    """Read the configs of ``spec``'s search space from a CSV file.

    Raises:
        UsageError: listing what is wrong with it.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = _columns(path, list(reader.fieldnames or ()), spec)
            trained, problems, n_outside = _rows(reader, columns, spec)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path}: cannot be read as CSV: {reason}") from None
    if problems:
        more = [f"... and {len(problems) - MAX_SHOWN} more"] if len(problems) > MAX_SHOWN else []
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = [f"{path} has {count}:", *problems[:MAX_SHOWN], *more]
        raise UsageError("\n  ".join(lines))
    if not any(config.values for config in trained):
        raise UsageError(
            f"{path}: none of its {len(trained) + n_outside} rows has a value for a config of "
            f"the search space of {spec.name!r}"
        )
    return Table(
        trained=tuple(trained),
        n_epochs=len(columns.values),
        has_seconds=columns.has_seconds,
        ignored_columns=columns.ignored,
        n_outside=n_outside,
    )


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """``values`` are in the order of the epochs."""

    values: tuple[str, ...]
    has_seconds: bool
    ignored: tuple[str, ...]


def _columns(path: Path, names: Sequence[str], spec: ExperimentSpec) -> _Columns:
    found = {int(m[1]): m[0] for name in names if (m := EPOCH_COLUMN.fullmatch(name))}
    epochs = [found[epoch] for epoch in sorted(found)]
    problems = [
        f"there is no column for {name!r}, which `search_space` names"
        for name in spec.search_space
        if name not in names
    ]
    problems += [
        f"there is no column for {name!r}, which `constraints` names"
        for name in _limited(spec)
        if name not in names
    ]
    problems += [
        f"column {name!r} is there twice" for name in {n for n in names if names.count(n) > 1}
    ]
    if VALUE not in names and not epochs:
        problems.append("there is neither a column `value` nor columns `epoch_1`, `epoch_2`, ...")
    if VALUE in names and epochs:
        problems.append("there are both `value` and `epoch_1`, ...; drop one of them")
    if missing := sorted(set(range(1, len(epochs) + 1)) - set(found)):
        problems.append(f"there is no column `epoch_{missing[0]}`")
    if problems:
        raise UsageError(
            "\n  ".join(
                [f"{path} cannot be searched:", *problems, f"Columns: {', '.join(names) or 'none'}"]
            )
        )
    values = tuple(epochs) or (VALUE,)
    used = {*spec.search_space, *_limited(spec), *values, SECONDS}
    return _Columns(
        values=values,
        has_seconds=SECONDS in names,
        ignored=tuple(name for name in names if name not in used),
    )


def _rows(
    reader: csv.DictReader[str], columns: _Columns, spec: ExperimentSpec
) -> tuple[list[Trained], list[str], int]:
    """The configs of the search space, what is wrong, and how many rows lie outside of it."""
    trained: list[Trained] = []
    problems: list[str] = []
    n_outside = 0
    for row in reader:
        cells = {name: (cell or "").strip() for name, cell in row.items() if name is not None}
        try:
            params = _params(cells, spec.search_space)
            if params is None:
                n_outside += 1
            else:
                trained.append(_trained(cells, params, columns, _limited(spec)))
        except ValueError as error:
            problems.append(f"line {reader.line_num}: {error}")
    return trained, problems, n_outside


def _params(cells: Mapping[str, str], space: Mapping[str, Parameter]) -> dict[str, Any] | None:
    """The params of a row; None if the space does not hold them. An empty cell is no param."""
    params = {}
    for name, parameter in space.items():
        if cells[name] == "":
            continue
        if isinstance(parameter, CategoricalParameter):
            choices = {_as_text(choice): choice for choice in parameter.choices}
            if (text := _as_text(cells[name])) not in choices:
                return None
            params[name] = choices[text]
            continue
        number = _number(name, cells[name])
        assert isinstance(parameter, IntParameter | FloatParameter)
        if not parameter.low <= number <= parameter.high:
            return None
        if isinstance(parameter, IntParameter):
            if number != int(number):
                return None
            params[name] = int(number)
        else:
            params[name] = number
    return params


def _limited(spec: ExperimentSpec) -> list[str]:
    """Columns of what constraints limit, beside the objective: it has its own."""
    return [name for name in spec.constraints if name != spec.objective.metric]


def _trained(
    cells: Mapping[str, str], params: Mapping[str, Any], columns: _Columns, limited: Sequence[str]
) -> Trained:
    """A row whose cells end before the last epoch is a training that ended there itself."""
    texts = [cells[name] for name in columns.values]
    while texts and texts[-1] == "":
        texts.pop()
    values = tuple(_number(name, text) for name, text in zip(columns.values, texts, strict=False))
    seconds = _number(SECONDS, cells[SECONDS]) if columns.has_seconds else float(len(texts) or 1)
    if seconds < 0:
        raise ValueError(f"`{SECONDS}` must be >= 0, got {seconds:g}")
    each = (seconds / len(values),) * len(values) if values else ()
    reason = "the table holds no value"
    failure = EpochReport(
        epoch=0,
        metrics={},
        seconds=seconds,
        ending="failed",
        fail_reason=reason,
        fail_place=reason,
    )
    return Trained(
        params=params,
        values=values,
        seconds=each,
        failure=None if values else failure,
        limited={name: (_number(name, cells[name]),) * len(values) for name in limited if values},
    )


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"`{name}` must be a number, got {text!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"`{name}` must be a finite number, got {text!r}; leave a failure empty")
    return number


def _as_text(choice: Any) -> str:
    """One text for all ways to write a choice: true and True, 16 and 16.0, null and None."""
    text = str(choice)
    lowered = text.lower()
    if lowered in ("true", "false"):
        return lowered
    if lowered in ("null", "none"):
        return "null"
    try:
        return repr(float(text))
    except ValueError:
        return text
