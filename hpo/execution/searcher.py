"""What Ray Tune sees of an experiment: a searcher that hands out tasks, and their scheduler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from hpo.execution.actor import REPORT, TASK
from hpo.execution.lost_workers import LostWorkers
from hpo.tasks import EPOCH, EpochReport, TaskSource, TrialTask, lost


class TaskSearcher(Searcher):
    """Hands out the tasks of one stage after the other, all to the same warm workers.

    A stage begins when the last task of the one before it has ended; code between two stages runs
    in the iterator that yields them.
    """

    def __init__(self, stages: Iterator[TaskSource], concurrency: Callable[[], int]) -> None:
        """``concurrency`` says how many tasks may run at a time; it may change its mind."""
        super().__init__()
        self._stages, self._concurrency = stages, concurrency
        self._stage: TaskSource | None = None
        self._running: dict[str, tuple[TaskSource, TrialTask]] = {}
        self._ahead: list[TrialTask] = []
        self._told: dict[str, EpochReport] = {}
        self.error: Exception | None = None
        """What went wrong in a stage; Ray would only log it."""

    def suggest(self, trial_id: str) -> Any:
        """Ray asks for a task: the next one, None for "ask again", or that there is no more."""
        with self._keeping_error():
            if len(self._running) >= self._concurrency():
                self._ask_ahead()
                return None
            while self.error is None:
                if self._stage is not None and (task := self._next_task(self._stage)) is not None:
                    self._running[trial_id] = (self._stage, task)
                    return {TASK: task}
                if self._running:
                    return None
                self._stage = next(self._stages, None)
                if self._stage is None:
                    break
        return Searcher.FINISHED

    def _next_task(self, stage: TaskSource) -> TrialTask | None:
        return self._ahead.pop(0) if self._ahead else stage.next_task()

    def _ask_ahead(self) -> None:
        """While all workers are busy, think of what the next one that is free will do."""
        stage = self._stage
        if stage is not None and stage.knows_ahead and len(self._ahead) < self._concurrency():
            task = stage.next_task()
            self._ahead += [] if task is None else [task]

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Ray hands over an epoch of a task that goes on."""
        stage, task = self._running[trial_id]
        with self._keeping_error():
            stage.reported(task, result[REPORT])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Ray hands over the last epoch of a task, or says that its worker died."""
        stage, task = self._running.pop(trial_id)
        told = self._told.pop(trial_id, None) or lost("its worker died")
        report = None if error or result is None else result.get(REPORT)
        with self._keeping_error():
            stage.ended(task, report or told)

    def tell(self, trial_id: str, report: EpochReport) -> None:
        """Say why a worker died, before Ray says that it did; who comes first is right."""
        self._told.setdefault(trial_id, report)

    @property
    def is_anything_running(self) -> bool:
        """Whether a task has been handed out that has not ended."""
        return bool(self._running)

    @contextmanager
    def _keeping_error(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001  Ray would log it; `run_stages` raises it
            self.error = self.error or error

    def running(self, trial_id: str) -> tuple[TaskSource, TrialTask] | None:
        """A running task and the stage that it belongs to."""
        return self._running.get(trial_id)

    def runs_to_end(self, trial_id: str) -> bool:
        """Whether a running task has been chosen to go on, whatever the scheduler would say."""
        _, task = self._running.get(trial_id, (None, None))
        return task is not None and task.runs_to_end

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles a searcher for a restore that is not used here."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the study is the state."""


@dataclass(frozen=True)
class JudgedTask:
    """As much of Ray's trial as the schedulers look at; equal for all starts of one task."""

    trial_id: str


class StageScheduler(FIFOScheduler):
    """Asks the scheduler that a task's stage names for it; a task without one is not stopped.

    To Ray a task that is handed out again, because its worker died, is another trial. Its stage's
    scheduler hears of it as one, and of each of its epochs once: otherwise it would count twice.
    """

    def __init__(self, searcher: TaskSearcher) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._searcher = searcher
        self._lost_workers = LostWorkers()
        self._judged: dict[Path, int] = {}
        """The last epoch that was judged of each task, which goes by its folder."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A task is about to start."""
        if judge := self._judge_of(trial):
            task, scheduler = judge
            if task.context.folder not in self._judged:
                self._judged[task.context.folder] = 0
                scheduler.on_trial_add(tune_controller, _judged(task))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether a task goes on after this epoch."""
        running = self._searcher.running(trial.trial_id)
        if running is not None and running[0].is_over_time:
            return str(TrialScheduler.STOP)
        if self._searcher.runs_to_end(trial.trial_id):
            return str(TrialScheduler.CONTINUE)
        if judge := self._judge_of(trial):
            task, scheduler = judge
            if result[EPOCH] > self._judged[task.context.folder]:
                self._judged[task.context.folder] = result[EPOCH]
                return str(scheduler.on_trial_result(tune_controller, _judged(task), result))
        return str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A task reached its end."""
        if judge := self._judge_of(trial):
            task, scheduler = judge
            del self._judged[task.context.folder]
            scheduler.on_trial_complete(tune_controller, _judged(task), result)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """A task's worker died; its scheduler keeps what it has heard, for the task may go on."""
        said = Path(trial.error_file).read_text(encoding="utf-8")
        self._searcher.tell(trial.trial_id, self._lost_workers.report_of(said))

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """A task was taken back before it ended."""
        if judge := self._judge_of(trial):
            task, scheduler = judge
            del self._judged[task.context.folder]
            scheduler.on_trial_remove(tune_controller, _judged(task))

    def _judge_of(self, trial: Any) -> tuple[TrialTask, TrialScheduler] | None:
        """A running task with the scheduler that may stop it; None if nothing may."""
        if (running := self._searcher.running(trial.trial_id)) is None:
            return None
        stage, task = running
        scheduler: TrialScheduler | None = stage.scheduler_of(task)
        return None if scheduler is None else (task, scheduler)

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _judged(task: TrialTask) -> Any:
    return JudgedTask(str(task.context.folder))
