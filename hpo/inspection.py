"""`hpo inspect`: what a config builds, what it costs, and what the whole search space can build."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from rich.console import Console
from rich.table import Table

from hpo.chosen_config import chosen_config
from hpo.errors import UnfitEnvironmentError, UsageError
from hpo.places import Places
from hpo.search import ask
from hpo.spec import ExperimentSpec
from trainables import TRAINABLES, DataError, Inspection, TrainableError, find_inspect
from trainables.cnn.description import BYTES_PER_PARAMETER

N_SAMPLED = 200
"""Random configs that stand for a search space."""


@dataclass(frozen=True, kw_only=True)
class SpaceFacts:
    """What random configs of a search space build.

    Attributes:
        n_configs: how many were drawn.
        infeasible: why some cannot be built, each reason with the number of configs.
        n_parameters: least, median, most; None if no config can be built.
        multiply_adds: the same, for one image.
    """

    n_configs: int
    infeasible: Mapping[str, int]
    n_parameters: tuple[float, float, float] | None
    multiply_adds: tuple[float, float, float] | None


def inspect_config(
    spec: ExperimentSpec, places: Places, assignments: Sequence[str]
) -> tuple[Inspection, SpaceFacts]:
    """The network of one config of a spec, and what its space can build.

    Args:
        spec: names the trainable, the fixed values and the space.
        places: where its data lie.
        assignments: ``name=value`` of parameters; the others are those of trial 0.

    Raises:
        UsageError: if the trainable has no network to show, an assignment cannot be followed, or
            the network of this config cannot be built.
        UnfitEnvironmentError: if a folder of pictures is missing.
    """
    inspect = _inspect_of(spec)
    try:
        inspection = inspect(chosen_config(spec, assignments), places.data)
    except DataError as error:
        raise UnfitEnvironmentError(str(error)) from None
    except ValueError as error:
        raise UsageError(f"this config cannot be built: {error}") from None
    return inspection, space_facts(spec, places, inspect)


def space_facts(
    spec: ExperimentSpec, places: Places, inspect: Callable[..., Inspection]
) -> SpaceFacts:
    """Draw random configs, always the same ones, and describe them.

    Raises:
        UnfitEnvironmentError: if a folder of pictures that one of them names is missing.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    built: list[Inspection] = []
    infeasible: dict[str, int] = {}
    for _ in range(N_SAMPLED):
        try:
            built.append(
                inspect({**spec.fixed, **ask(study, spec.search_space).params}, places.data)
            )
        except DataError as error:
            raise UnfitEnvironmentError(str(error)) from None
        except ValueError as error:
            infeasible[str(error)] = infeasible.get(str(error), 0) + 1
    return SpaceFacts(
        n_configs=N_SAMPLED,
        infeasible=dict(sorted(infeasible.items(), key=lambda item: -item[1])),
        n_parameters=_spread([one.n_parameters for one in built]),
        multiply_adds=_spread([one.multiply_adds for one in built]),
    )


def _inspect_of(spec: ExperimentSpec) -> Callable[..., Inspection]:
    try:
        inspect = find_inspect(spec.trainable)
    except TrainableError as error:
        raise UsageError(str(error)) from None
    if inspect is None:
        known = [name for name in TRAINABLES if find_inspect(name)]
        raise UsageError(
            f"trainable {spec.trainable!r} has no network to show; those that have one: "
            f"{', '.join(known)}"
        )
    return inspect


def _spread(numbers: Sequence[float]) -> tuple[float, float, float] | None:
    if not numbers:
        return None
    return min(numbers), statistics.median(numbers), max(numbers)


def inspection_as_json(inspection: Inspection, space: SpaceFacts) -> dict[str, Any]:
    """The same for a program."""
    return {
        "config": inspection.config.model_dump(),
        "data": asdict(inspection.data),
        "layers": [asdict(layer) for layer in inspection.layers],
        "totals": {
            part: {"n_parameters": n_parameters, "multiply_adds": multiply_adds}
            for part, n_parameters, multiply_adds in _totals(inspection)
        },
        "advice": list(inspection.advice),
        "space": asdict(space),
    }


def inspection_text(inspection: Inspection, space: SpaceFacts, params: str, width: int) -> str:
    """A table of layers, of totals, advice, and the space, at most ``width`` columns wide."""
    data = inspection.data
    stream = io.StringIO()
    console = Console(file=stream, width=width, color_system=None)
    shape = f"{data.channels}x{data.height}x{data.width}"
    console.print(f"config  {params}", highlight=False, soft_wrap=True)
    console.print(
        f"input   {shape}, {data.target}: {data.n_outputs}\n", highlight=False, soft_wrap=True
    )
    for line in _layer_lines(inspection, width):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print()
    console.print(_total_table(inspection))
    for sentence in inspection.advice:
        console.print(f"\nadvice  {sentence}", highlight=False)
    console.print(f"\n{_space_text(space)}", highlight=False)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


WIDE, MIN_PATH = 110, 16
"""Columns from which on large numbers are written out; and that a layer's path always gets."""


def _layer_lines(inspection: Inspection, width: int) -> Iterable[str]:
    """A line per layer below the name of its part; paths get what the other columns leave."""
    count = _short if width < WIDE else _exact
    heading = ("layer", "kind", "output", "params", "values", "sees", "mult-adds")
    rows = [
        (
            f"  {layer.path}",
            layer.kind,
            "x".join(str(size) for size in layer.out_shape),
            count(layer.n_parameters) if layer.n_parameters else "",
            count(layer.n_values),
            "all" if layer.receptive_field is None else str(layer.receptive_field),
            count(layer.multiply_adds) if layer.multiply_adds else "",
        )
        for layer in inspection.layers
    ]
    widths = [max(len(row[column]) for row in [heading, *rows]) for column in range(len(heading))]
    gap = " " if width < WIDE else "  "
    others = sum(widths[1:]) + len(gap) * (len(widths) - 1)
    widths[0] = min(widths[0], max(MIN_PATH, width - others))
    yield _line(heading, widths, gap)
    part = ""
    for layer, row in zip(inspection.layers, rows, strict=True):
        if layer.part != part:
            part = layer.part
            yield part
        yield _line(row, widths, gap)


def _line(row: Sequence[str], widths: Sequence[int], gap: str) -> str:
    path, kind, *numbers = row
    cells = [_shortened(path, widths[0]).ljust(widths[0]), kind.ljust(widths[1])]
    cells += [number.rjust(size) for number, size in zip(numbers, widths[2:], strict=True)]
    return gap.join(cells)


def _shortened(path: str, width: int) -> str:
    """Its first name and as many of its last as fit: where a layer is, and what it is."""
    names = path.split(".")
    for n_left_out in range(1, len(names) - 1):
        if len(path) <= width:
            break
        path = names[0] + "…" + ".".join(names[1 + n_left_out :])
    return path[:width]


def _total_table(inspection: Inspection) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    table.add_column("part")
    for heading in ("params", "mult-adds", "float32 MB"):
        table.add_column(heading, justify="right")
    for part, n_parameters, multiply_adds in _totals(inspection):
        megabytes = n_parameters * BYTES_PER_PARAMETER / 1e6
        table.add_row(part, _exact(n_parameters), _exact(multiply_adds), f"{megabytes:.2f}")
    return table


def _totals(inspection: Inspection) -> Iterable[tuple[str, int, int]]:
    for part in ("backbone", "neck", "head"):
        layers = [layer for layer in inspection.layers if layer.part == part]
        yield (
            part,
            sum(layer.n_parameters for layer in layers),
            sum(layer.multiply_adds for layer in layers),
        )
    yield "total", inspection.n_parameters, inspection.multiply_adds


def _space_text(space: SpaceFacts) -> str:
    lines = [f"space   {space.n_configs} random configs of it:"]
    for name, spread in (("params", space.n_parameters), ("mult-adds", space.multiply_adds)):
        if spread is not None:
            least, median, most = (_short(round(number)) for number in spread)
            lines.append(f"        {name} {least} to {most}, half of them below {median}")
    n_infeasible = sum(space.infeasible.values())
    if n_infeasible:
        lines.append(f"        {n_infeasible} cannot be built, most often:")
        lines += [f"        {n} x {reason}" for reason, n in [*space.infeasible.items()][:3]]
    else:
        lines.append("        all can be built")
    return "\n".join(lines)


def _exact(number: int) -> str:
    return f"{number:,}"


def _short(number: int) -> str:
    """12,345 is written out; 1234567 is 1.23M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e5, "k")):
        if number >= limit:
            return f"{number / {'G': 1e9, 'M': 1e6, 'k': 1e3}[unit]:.3g}{unit}"
    return _exact(number)
