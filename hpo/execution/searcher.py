"""What Ray Tune sees of an experiment: a searcher that hands out tasks, and their scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from hpo.execution.actor import REPORT, TASK
from hpo.tasks import TaskSource, TrialTask


class TaskSearcher(Searcher):
    """Hands out the tasks of one stage after the other, all to the same warm workers.

    A stage begins when the last task of the one before it has ended; code between two stages runs
    in the iterator that yields them.
    """

    def __init__(self, stages: Iterator[TaskSource], concurrency: int) -> None:
        super().__init__()
        self._stages, self._concurrency = stages, concurrency
        self._stage: TaskSource | None = None
        self._running: dict[str, tuple[TaskSource, TrialTask]] = {}
        self._ahead: list[TrialTask] = []
        self.error: Exception | None = None
        """What went wrong in a stage; Ray would only log it."""

    def suggest(self, trial_id: str) -> Any:
        """Ray asks for a task: the next one, None for "ask again", or that there is no more."""
        with self._keeping_error():
            if len(self._running) >= self._concurrency:
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
        if stage is not None and stage.knows_ahead and len(self._ahead) < self._concurrency:
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
        report = None if error or result is None else result.get(REPORT)
        with self._keeping_error():
            stage.ended(task, report)

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


class StageScheduler(FIFOScheduler):
    """Asks the scheduler that a task's stage names for it; a task without one is not stopped."""

    def __init__(self, searcher: TaskSearcher) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._searcher = searcher

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A task is about to start."""
        if scheduler := self._scheduler_of(trial):
            scheduler.on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether a task goes on after this epoch."""
        running = self._searcher.running(trial.trial_id)
        if running is not None and running[0].is_over_time:
            return str(TrialScheduler.STOP)
        if self._searcher.runs_to_end(trial.trial_id):
            return str(TrialScheduler.CONTINUE)
        if scheduler := self._scheduler_of(trial):
            return str(scheduler.on_trial_result(tune_controller, trial, result))
        return str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A task reached its end."""
        if scheduler := self._scheduler_of(trial):
            scheduler.on_trial_complete(tune_controller, trial, result)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """A task's worker died."""
        if scheduler := self._scheduler_of(trial):
            scheduler.on_trial_error(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """A task was taken back before it ended."""
        if scheduler := self._scheduler_of(trial):
            scheduler.on_trial_remove(tune_controller, trial)

    def _scheduler_of(self, trial: Any) -> TrialScheduler | None:
        if (running := self._searcher.running(trial.trial_id)) is None:
            return None
        stage, task = running
        scheduler: TrialScheduler | None = stage.scheduler_of(task)
        return scheduler

    def __getstate__(self) -> dict[str, Any]:
        return {}
