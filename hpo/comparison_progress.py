"""What a user sees while a comparison runs: a bar on a terminal, else a line for each study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optuna.trial import FrozenTrial
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from hpo.live_drawing import LiveDrawing
from hpo.search import is_spent_on, n_spent, n_trials_of
from hpo.spec import ExperimentSpec
from storage import RerunRecord, StudyKey


class ComparisonProgress(LiveDrawing):
    """Draws on stderr; results go to stdout, elsewhere."""

    def __init__(self, console: Console, specs: Mapping[StudyKey, ExperimentSpec]) -> None:
        """``specs``: of each study."""
        super().__init__(console)
        self._specs = specs
        self._left = {key: n_trials_of(spec) for key, spec in specs.items()}
        self._total = sum(self._left.values())
        self._n_studies_ended = 0
        self._failures: set[str] = set()
        self._drawing = self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task("trials", total=self._total)

    def begin(self, finished: Mapping[StudyKey, Sequence[FrozenTrial]]) -> None:
        """Trials of an earlier start."""
        spent = {key: n_spent(trials, self._specs[key]) for key, trials in finished.items()}
        for key, n in spent.items():
            self._left[key] -= n
        self._n_studies_ended = sum(left <= 0 for left in self._left.values())
        n = sum(spent.values())
        self._bar.update(self._task, completed=n)
        self.say(f"{self._total - n} trials in {len(self._left)} studies to go")

    def trial_ended(self, key: StudyKey, trial: FrozenTrial) -> None:
        """One more, if it counts; a line when it was its study's last, or failed in a new way."""
        is_spent = is_spent_on(trial, self._specs[key])
        self._left[key] -= is_spent
        self._bar.update(self._task, advance=is_spent)
        place = str(trial.user_attrs.get("fail_place", ""))
        if place and place not in self._failures:
            self._failures.add(place)
            sampler, index = key
            self.say(
                f"trial {trial.number} of {sampler}, seed {index}, failed; others like it are not "
                f"shown:\n  {trial.user_attrs.get('fail_reason')}"
            )
        if is_spent and self._left[key] == 0:
            self._n_studies_ended += 1
            if not self._console.is_terminal:
                sampler, index = key
                self.say(
                    f"study {self._n_studies_ended:>3} of {len(self._left)} ended: "
                    f"{sampler}, seed {index}"
                )

    def begin_reruns(self, n: int) -> None:
        """Of the best config of each study."""
        self.say(f"{n} re-runs on fresh seeds to go")
        self._bar.update(self._task, description="re-runs", completed=0, total=n)

    def rerun_ended(self, key: StudyKey, record: RerunRecord) -> None:
        """One more; a line if it failed."""
        self._bar.update(self._task, advance=1)
        if record.fail_reason is not None:
            sampler, index = key
            self.say(
                f"re-run of trial {record.trial_number} of {sampler}, seed {index}, failed:\n"
                f"  {record.fail_reason}"
            )
