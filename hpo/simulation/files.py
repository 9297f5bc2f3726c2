"""What a replay leaves: a page, a picture, tables for a spreadsheet, all figures as JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpo.curves import Direction
from hpo.simulation.figure import draw_strategies
from hpo.simulation.outcome import Strategy, common_times
from hpo.simulation.text import caveats, duration, label, number, shares_text

TEMPLATE = "report.html.j2"
PAGE, PICTURE, SEARCHES, CURVES, FIGURES = (
    "report.html",
    "replay.png",
    "searches.csv",
    "curves.csv",
    "replay.json",
)


def write_files(
    summary: Mapping[str, Any],
    strategies: Sequence[Strategy],
    targets: Sequence[float],
    folder: Path,
) -> None:
    """Write all files to ``folder``, each beside its place first, so that no half file is left.

    Raises:
        OSError: if one cannot be written.
    """
    metric, direction = summary["metric"], summary["direction"]
    drawn = (strategies, targets, metric, direction)
    files = {
        PICTURE: draw_strategies(*drawn, "png"),
        PAGE: _page(summary, draw_strategies(*drawn, "svg").decode()).encode(),
        SEARCHES: _csv(_search_rows(summary)),
        CURVES: _csv(_curve_rows(strategies, direction)),
        FIGURES: json.dumps(summary, indent=2).encode(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        beside = folder / f"{name}.part"
        beside.write_bytes(content)
        beside.replace(folder / name)


def _page(summary: Mapping[str, Any], svg: str) -> str:
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, duration=duration, label=label, shares=shares_text)
    drawing = Markup(svg[svg.index("<svg") :])  # noqa: S704  matplotlib escapes the texts in it
    return environment.get_template(TEMPLATE).render(
        summary=summary, drawing=drawing, caveats=caveats(summary)
    )


def _search_rows(summary: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """One row per search."""
    for strategy in summary["strategies"]:
        for search in strategy["searches"]:
            origins = search["epoch_origins"]
            yield {
                "strategy": label(strategy),
                "sampler": strategy["sampler"],
                "scheduler": strategy["scheduler"],
                "workers": strategy["workers"],
                "seed": search["seed"],
                "best": search["best"],
                "makespan_s": search["makespan_s"],
                "utilization": search["utilization"],
                "epochs": search["epochs"],
                **{f"epochs_{origin}": origins.get(origin, 0) for origin in strategy["shares"]},
                **{
                    f"trials_{state}": search["trials"].get(state, 0)
                    for state in ("complete", "stopped", "failed", "infeasible")
                },
            }


def _curve_rows(strategies: Sequence[Strategy], direction: Direction) -> Iterable[dict[str, Any]]:
    """Quartiles of the best value so far, for each strategy at the same times."""
    times = common_times(strategies)
    for strategy in strategies:
        for time, *quartiles in zip(times, *strategy.band(times, direction), strict=True):
            low, median, high = ("" if math.isnan(q) else float(q) for q in quartiles)
            yield {
                "strategy": strategy.label,
                "workers": strategy.n_workers,
                "time_s": float(time),
                "low": low,
                "median": median,
                "high": high,
            }


def _csv(rows: Iterable[dict[str, Any]]) -> bytes:
    rows, text = list(rows), io.StringIO(newline="")
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue().encode()
