"""What a user sees while an experiment runs: a live table on a terminal, else a line per trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from hpo.lineage import PARENT, born_at
from hpo.live_drawing import LiveDrawing
from hpo.results import front_of, params_text, shown
from hpo.search import is_spent_on
from hpo.spec import ExperimentSpec
from hpo.tasks import EpochReport
from storage import ANSWERED_BY, is_infeasible, stage_of

MAX_ROWS = 10
COLOURS = {
    "RUNNING": "cyan",
    "HELD BACK": "blue",
    "COMPLETE": "green",
    "PRUNED": "yellow",
    "FAIL": "red",
    "INFEASIBLE": "magenta",
}


@dataclass
class _Row:
    number: int
    params: str
    state: str = "RUNNING"
    epoch: int = 0
    value: float | None = None
    seconds: dict[int, float] = field(default_factory=dict)
    """Of each epoch, also of those before it was held back."""


class RunProgress(LiveDrawing):
    """A `SearchObserver` that draws on stderr; results go to stdout, elsewhere."""

    def __init__(self, spec: ExperimentSpec, console: Console, n_trials: int) -> None:
        super().__init__(console)
        self._spec = spec
        self._rows: dict[int, _Row] = {}
        self._best: _Row | None = None
        self._front: list[FrozenTrial] = []
        self._first_failures: dict[str | None, int] = {}
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[best]}"),
            console=console,
        )
        self._task = self._bar.add_task("search", total=n_trials, best="")
        self._drawing = Live(
            console=console, get_renderable=self._table_and_bar, refresh_per_second=4
        )

    def already_finished(self, trials: Sequence[FrozenTrial]) -> None:
        """Trials of an earlier start of the same experiment; those that have not ended are none."""
        for trial in trials:
            row = _Row(trial.number, "", _state(trial), value=_first_value(trial))
            self._remember_best(row, trial)
        n_spent = sum(is_spent_on(trial, self._spec) for trial in trials)
        self._bar.update(self._task, completed=n_spent, best=self._best_text())

    def trial_started(self, number: int, params: Mapping[str, Any]) -> None:
        """A new row, or an old one that goes on."""
        seconds = self._rows[number].seconds if number in self._rows else {}
        self._rows[number] = _Row(number, params_text(params), seconds=seconds)

    def epoch_reported(self, number: int, report: EpochReport) -> None:
        """The row's epoch and value."""
        row = self._rows[number]
        row.epoch, row.value = report.epoch, report.quantities[self._spec.objective.metric]
        row.seconds[report.epoch] = report.seconds

    def trial_held_back(self, number: int) -> None:
        """The row waits."""
        self._rows[number].state = "HELD BACK"

    def trial_warned(self, number: int, warning: str) -> None:
        """A line."""
        self.say(f"warning: trial {number}: {warning}")

    def trial_ended(self, trial: FrozenTrial) -> None:
        """The row's end; off a terminal, its line."""
        row = self._rows[trial.number]
        row.state, row.value = _state(trial), _first_value(trial)
        self._remember_best(row, trial)
        advance = int(is_spent_on(trial, self._spec))
        self._bar.update(self._task, advance=advance, best=self._best_text())
        failure = self._failure_text(trial)
        same = trial.user_attrs.get(ANSWERED_BY)
        trained = f"after {row.epoch} epochs, {sum(row.seconds.values()):.1f} s"
        how = trained if same is None else f"as trial {same}, not trained again"
        if (parent := trial.user_attrs.get(PARENT)) is not None:
            how += f", from trial {parent} at epoch {born_at(trial)}"
        if stage := stage_of(trial):
            of_stages = f"stage {stage} of {len(self._spec.stages)}"
            self._bar.update(self._task, description=f"search, {of_stages}")
            how = f"{of_stages}, {how}"
        if not self._console.is_terminal:
            value = "" if row.value is None else f" {self._spec.objective.metric}={row.value:.4f}"
            others = zip(self._spec.objectives[1:], (trial.values or [])[1:], strict=False)
            value += "".join(f" {one.metric}={shown(other)}" for one, other in others)
            self.say(f"trial {row.number:>3} {row.state:<8}{value} {how}; {row.params}{failure}")
        elif failure:
            self.say(f"trial {row.number} failed{failure}")

    def _failure_text(self, trial: FrozenTrial) -> str:
        """Why a trial failed; in full for the first failure of its kind alone."""
        if (reason := trial.user_attrs.get("fail_reason")) is None:
            return ""
        first = self._first_failures.setdefault(trial.user_attrs.get("fail_place"), trial.number)
        return f"\n  {reason}" if first == trial.number else f"; failed like trial {first}"

    def _remember_best(self, row: _Row, trial: FrozenTrial) -> None:
        if row.state != "COMPLETE" or row.value is None:
            return
        if self._spec.is_multi_objective:
            self._front = front_of([*self._front, trial], self._spec)
        sign = self._spec.objective.sign
        if self._best is None or sign * row.value < sign * (self._best.value or 0.0):
            self._best = row

    def _best_text(self) -> str:
        if self._best is None:
            return ""
        if self._spec.is_multi_objective:
            return f"{len(self._front)} on the Pareto front"
        return f"best {self._best.value:.4f} (trial {self._best.number})"

    def _table_and_bar(self) -> Group:
        metric = self._spec.objective.metric
        widths = {"trial": 5, "state": 10, "epoch": 5, metric: max(8, len(metric)), "s": 6}
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for heading, width in widths.items():
            table.add_column(
                heading, width=width, justify="left" if heading == "state" else "right"
            )
        rest = self._console.width - sum(widths.values()) - 2 * len(widths)
        table.add_column("params", width=max(8, rest), no_wrap=True, overflow="ellipsis")
        rows = list(self._rows.values())  # at once: this is another thread
        running = [row for row in rows if row.state == "RUNNING"]
        ended = [row for row in rows if row.state != "RUNNING"]
        for row in [*ended[-max(1, MAX_ROWS - len(running)) :], *running[:MAX_ROWS]]:
            table.add_row(
                str(row.number),
                f"[{COLOURS.get(row.state, 'default')}]{row.state.lower()}[/]",
                str(row.epoch),
                "" if row.value is None else f"{row.value:.4f}",
                f"{sum(list(row.seconds.values())):.1f}",
                row.params,
            )
        return Group(table, self._bar)


def _first_value(trial: FrozenTrial) -> float | None:
    return None if trial.values is None else trial.values[0]


def _state(trial: FrozenTrial) -> str:
    """How a trial stands; one that was judged at all and breaks a constraint is infeasible."""
    judged = trial.state in (TrialState.COMPLETE, TrialState.FAIL)
    return "INFEASIBLE" if judged and is_infeasible(trial) else trial.state.name
