"""What an audit finds: differences between the places that keep an experiment, in words."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Place = Literal["study", "ledger", "mlflow", "checkpoints", "files"]
WIDTH = 80
MAX_SHOWN = 60
"""Characters of a value in a line; JSON has all of them."""
NOTHING = "nothing"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two places should tell the same, and do not.

    Attributes:
        trial: its number; None if it is a matter of the whole experiment.
        place: where it is wrong. The study is the truth, and the ledger of what it does not hold.
        what: such as "metric loss of epoch 3".
        expected: as it should be.
        found: as it is.
        repair: name of what mends it; empty if nothing does.
        way_out: what to do where nothing mends it.
    """

    trial: int | None
    place: Place
    what: str
    expected: str
    found: str
    repair: str = ""
    way_out: str = ""

    @property
    def sentence(self) -> str:
        """For a reader."""
        subject = "experiment" if self.trial is None else f"trial {self.trial}"
        values = f"expected {_shown(self.expected)}, found {_shown(self.found)}"
        return f"{subject}, {self.place}: {self.what}: {values}"


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How much was compared."""

    trials: int
    epochs: int
    mlflow_runs: int
    files: int


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What an audit has found.

    Attributes:
        name: of the experiment.
        counts: of what was compared.
        differences: all that there were at first.
        left: those that are still there, after a repair if there was one.
        untold: why MLflow was not compared; empty if it was.
    """

    name: str
    counts: Counts
    differences: tuple[Difference, ...]
    left: tuple[Difference, ...]
    untold: str = ""

    def as_json(self) -> Mapping[str, Any]:
        """All of it for a program."""
        return {
            "name": self.name,
            "compared": asdict(self.counts),
            "mlflow": self.untold or "compared",
            "differences": [
                {
                    **{key: value for key, value in asdict(one).items() if key != "repair"},
                    "repairable": bool(one.repair),
                    "repaired": one not in self.left,
                }
                for one in self.differences
            ],
            "n_left": len(self.left),
        }


def audit_text(audit: Audit) -> str:
    """A line for each difference, and a last one that sums up; at most 80 columns wide."""
    lines = [_line(one, is_left=one in audit.left) for one in audit.differences]
    if audit.untold:
        lines.append(_folded(f"MLflow was not compared: {audit.untold}"))
    counts = audit.counts
    compared = ", ".join(
        (
            _n(counts.trials, "trial"),
            _n(counts.epochs, "epoch"),
            _n(counts.mlflow_runs, "MLflow run"),
            _n(counts.files, "file"),
        )
    )
    found = _n(len(audit.differences), "difference")
    n_mended = len(audit.differences) - len(audit.left)
    mended = f", {n_mended} mended" if n_mended else ""
    lines.append(_folded(f"{audit.name}: {compared} compared: {found}{mended}"))
    return "\n".join(lines)


def _line(one: Difference, *, is_left: bool) -> str:
    if not is_left:
        return _folded(f"{one.sentence}; mended")
    return _folded(f"{one.sentence}{f'; {one.way_out}' if one.way_out else ''}")


def _folded(text: str) -> str:
    return textwrap.fill(
        text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _shown(value: str) -> str:
    line = " ".join(value.split())
    return line if len(line) <= MAX_SHOWN else f"{line[: MAX_SHOWN - 3]}..."


def _n(count: int, word: str) -> str:
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"
