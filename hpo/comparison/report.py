"""All files of a comparison: report, pictures, tables, JSON."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

from hpo.comparison.figures import FIGURES
from hpo.comparison.files import as_json, curves_csv, studies_csv, study_rows
from hpo.comparison.result import Comparison
from hpo.comparison.verdict import (
    HEADINGS,
    heading,
    number,
    p_text,
    table_rows,
    timing_line,
    verdict,
)

REPORT_FILE = "report.html"
TEMPLATE = "report.html.j2"


def write_files(comparison: Comparison, folder: Path) -> None:
    """Write everything to ``folder``, each file beside its place first.

    Raises:
        OSError: if it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {name: _png(comparison, name) for name in FIGURES}
    files = {f"{name}.png": content for name, content in pictures.items()}
    files |= {
        "results.json": (json.dumps(as_json(comparison), indent=1) + "\n").encode(),
        "results.csv": studies_csv(comparison).encode(),
        "curves.csv": curves_csv(comparison).encode(),
        REPORT_FILE: _page(comparison, pictures).encode(),
    }
    for name, content in files.items():
        beside = folder / f"{name}.part"
        beside.write_bytes(content)
        beside.replace(folder / name)


def _png(comparison: Comparison, name: str) -> bytes:
    picture = io.BytesIO()
    # Without the version of the library, which would be the only thing that differs.
    FIGURES[name](comparison).savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


def _page(comparison: Comparison, pictures: dict[str, bytes]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    studies = study_rows(comparison)
    environment.filters.update(number=number, p=p_text)
    return environment.get_template(TEMPLATE).render(
        comparison=comparison,
        heading=heading(comparison),
        verdict=verdict(comparison),
        headings=HEADINGS,
        rows=table_rows(comparison),
        studies=studies,
        any_infeasible=any(study["n_infeasible"] for study in studies),
        timing=timing_line(comparison),
        pictures={name: base64.b64encode(content).decode() for name, content in pictures.items()},
    )
