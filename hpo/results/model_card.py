"""The model card: what a reader has to know before using the winner, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.provenance import shown_versions
from hpo.results.evidence import EVIDENCE_FILE, Evidence, read_evidence
from hpo.results.manifest import read_manifest, replace_file
from hpo.results.outcome import Outcome
from hpo.results.pareto import rule_text
from hpo.results.retrain import test_interval

MODEL_CARD_FILE = "model_card.md"
TEMPLATE = "model_card.md.j2"

DATA_KEYS = (
    "dataset", "image_size", "resize", "channels", "split_seed", "validation_fraction",
    "test_fraction", "n_train",
)  # fmt: skip
"""Keys of a config that say which images and which split."""

SPLIT_OFF = {"validation_fraction": "validation", "test_fraction": "test"}
"""Fractions, and the parts that they make unless the data set brings them along."""

TASKS = {
    "classes": "image-classification",
    "masks": "image-segmentation",
    "values": "image-regression",
}
"""The names that Hugging Face has for what models do, by target."""

MAX_CONFUSION_CLASSES = 30
"""A wider matrix cannot be read in a page; the card then shows the largest confusions."""

N_CONFUSIONS = 20


def write_model_card(outcome: Outcome, folder: Path) -> None:
    """Write ``model_card.md`` from the ledger, the evidence of the test set and the manifest.

    Raises:
        StorageError: if the evidence is not there, or the card cannot be written.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # noqa: S701  Markdown, no HTML; what could break a table is escaped
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(cell=_cell, value=_value, versions=shown_versions)
    evidence = read_evidence(folder / EVIDENCE_FILE)
    page = environment.get_template(TEMPLATE).render(
        outcome=outcome,
        spec=outcome.spec,
        rule=rule_text(outcome.spec) if outcome.spec.is_multi_objective else "",
        interval=None if outcome.test is None else test_interval(outcome.test),
        description=evidence.description,
        any_size=evidence.resized_outputs is not None,
        height=evidence.images.shape[2],
        width=evidence.images.shape[3],
        data=_data(outcome, evidence.description),
        fixed={key: value for key, value in outcome.spec.fixed.items() if key not in DATA_KEYS},
        task=TASKS[evidence.description["target"]],
        class_names=evidence.class_names,
        classes=class_figures(evidence.confusion, evidence.class_names),
        confusion=_matrix(evidence),
        confusions=_largest_confusions(evidence),
        n_confusions=N_CONFUSIONS,
        rms_errors=_named(evidence.class_names, evidence.rms_errors),
        files=list(read_manifest(folder).values()),
    )
    replace_file(folder / MODEL_CARD_FILE, page.encode())


def class_figures(
    confusion: npt.NDArray[np.int64] | None, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Precision, recall, F1, intersection over union and count of each class.

    A figure is None where nothing was counted that it could be a share of.

    Args:
        confusion: (n_classes, n_classes) counts by true class (rows) and predicted class.
        names: of the classes.
    """
    if confusion is None:
        return []
    rows = []
    for index, name in enumerate(names):
        hits = int(confusion[index, index])
        n_true, n_found = int(confusion[index].sum()), int(confusion[:, index].sum())
        rows.append(
            {
                "name": name,
                "precision": _share(hits, n_found),
                "recall": _share(hits, n_true),
                "f1": _share(2 * hits, n_true + n_found),
                "iou": _share(hits, n_true + n_found - hits),
                "n": n_true,
            }
        )
    return rows


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _data(outcome: Outcome, description: Mapping[str, Any]) -> dict[str, Any]:
    """Which images and which split, as far as it is known; fractions that made no part are left."""
    assert outcome.winner is not None
    described = description.get("config")  # a user's own may be anything
    config = {
        **outcome.spec.fixed,
        **outcome.winner.params,
        **(described if isinstance(described, dict) else {}),
    }
    given = [
        name for name in ("validation", "test") if name in (description.get("given_parts") or ())
    ]
    unused = {key for key, part in SPLIT_OFF.items() if part in given}
    unused |= {"split_seed"} if len(given) == len(SPLIT_OFF) else set()
    data = {key: config[key] for key in DATA_KEYS if key in config and key not in unused}
    return {**data, **({"parts that the data set has": ", ".join(given)} if given else {})}


def _matrix(evidence: Evidence) -> list[list[int]]:
    """Rows of the confusion matrix; none if there is none, or it is too wide for a page."""
    if evidence.confusion is None or len(evidence.class_names) > MAX_CONFUSION_CLASSES:
        return []
    rows: list[list[int]] = evidence.confusion.tolist()
    return rows


def _largest_confusions(evidence: Evidence) -> list[tuple[str, str, int]]:
    """True class, predicted class, count: the most frequent mistakes, if there is no matrix."""
    if evidence.confusion is None or _matrix(evidence):
        return []
    mistakes = evidence.confusion - np.diag(np.diag(evidence.confusion))
    order = np.argsort(-mistakes, axis=None, kind="stable")[:N_CONFUSIONS]
    pairs = [divmod(int(place), len(mistakes)) for place in order]
    names = evidence.class_names
    return [
        (names[true], names[found], int(mistakes[true, found]))
        for true, found in pairs
        if mistakes[true, found]
    ]


def _named(
    names: Sequence[str], numbers: npt.NDArray[np.float64] | None
) -> list[tuple[str, float]]:
    return [] if numbers is None else list(zip(names, numbers.tolist(), strict=True))


def _cell(value: Any) -> str:
    """A text that stays in its cell of a Markdown table."""
    return str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def _value(value: Any) -> str:
    """A number as a reader wants it; a dash for none."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
