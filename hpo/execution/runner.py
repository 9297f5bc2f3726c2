"""Run the stages of an experiment under Ray Tune, on workers that are started once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray import tune
from ray.tune import Callback, Stopper

from hpo.errors import UnfitEnvironmentError
from hpo.execution.actor import REPORT, TrialActor
from hpo.execution.room import Room
from hpo.execution.searcher import StageScheduler, TaskSearcher
from hpo.execution.stalls import NO_WORKER_S, StallWatch
from hpo.spec import ResourcesSpec
from hpo.tasks import TaskSource


def run_stages(
    stages: Iterator[TaskSource],
    resources: ResourcesSpec,
    *,
    room: Room,
    is_interrupted: Callable[[], bool],
) -> None:
    """Run every task of every stage, as many at a time as there is room for, until interrupted.

    Trials that an interrupt stops are still RUNNING in the study: the caller requeues them.

    Raises:
        UnfitEnvironmentError: if there is no worker for a long time.
        Exception: whatever a stage raised, e.g. because of its database.
    """
    searcher = TaskSearcher(stages, room.now)

    def must_stop() -> bool:
        return searcher.error is not None or is_interrupted()

    def no_worker() -> None:
        searcher.error = searcher.error or UnfitEnvironmentError(no_worker_text(resources))

    # Ray would start one worker at a time; the searcher never asks ahead of its concurrency.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(room.most)
    # Ray Tune insists on a folder; nothing in it is needed afterwards.
    with tempfile.TemporaryDirectory(prefix="hpo-ray-", ignore_cleanup_errors=True) as folder:
        tune.Tuner(
            tune.with_resources(TrialActor, {"cpu": resources.cpu, "gpu": resources.gpu}),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=_WarmWorkers(searcher, room.most),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name="stages",
                storage_path=folder,
                stop=_StopWhen(must_stop),
                callbacks=[_Watching(searcher, no_worker)],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        ).fit()
    if searcher.error is not None:
        raise searcher.error


class _WarmWorkers(StageScheduler):
    """Has Ray keep all its workers between two stages.

    There nothing is staged, and Ray keeps one worker of all. Another one, as soon as it is asked
    for, is given up for the one that is free by then: where tasks are shorter than the start of a
    worker, all that follows would run on one.
    """

    def __init__(self, searcher: TaskSearcher, n_to_keep: int) -> None:
        super().__init__(searcher)
        self._n_to_keep = n_to_keep

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A task is about to start; the first one says what a worker needs."""
        tune_controller._actor_cache.increase_max(trial.placement_group_factory, self._n_to_keep)
        self._n_to_keep = 0
        super().on_trial_add(tune_controller, trial)


class _StopWhen(Stopper):
    """Stops everything as soon as ``must_stop`` has said so, which is not asked again."""

    def __init__(self, must_stop: Callable[[], bool]) -> None:
        self._must_stop, self._is_stopped = must_stop, False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        self._is_stopped = self._is_stopped or self._must_stop()
        return self._is_stopped

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles a stopper for a restore that is not used here


class _Watching(Callback):
    """Ends a task that has stalled, by ending its worker; and a run that finds no worker."""

    def __init__(self, searcher: TaskSearcher, no_worker: Callable[[], None]) -> None:
        self._searcher, self._no_worker = searcher, no_worker
        self._watch = StallWatch()
        self._workers: dict[str, Any] = {}

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Ray does this several times a second."""
        self._watch.look(is_anything_to_do=self._searcher.is_anything_running)
        for trial_id, report in self._watch.stalled().items():
            self._watch.ended(trial_id)
            self._searcher.tell(trial_id, report)
            ray.kill(self._workers.pop(trial_id))
        if self._watch.is_without_workers:
            self._no_worker()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker, new or warm, has taken a task."""
        if running := self._searcher.running(trial.trial_id):
            self._workers[trial.trial_id] = trial.temporary_state.ray_actor
            self._watch.started(trial.trial_id, running[1])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """It has reported an epoch."""
        if trial.trial_id in self._workers:
            self._watch.reported(trial.trial_id, result[REPORT])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It has ended."""
        self._watch.ended(trial.trial_id)
        self._workers.pop(trial.trial_id, None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its worker died."""
        self.on_trial_complete(iteration, trials, trial)


def no_worker_text(resources: ResourcesSpec) -> str:
    """What to tell and to advise if nothing can be started for a long time."""
    all_there, free = ray.cluster_resources(), ray.available_resources()
    there = ", ".join(
        f"{kind.lower()}={all_there.get(kind, 0):g} ({free.get(kind, 0):g} free)"
        for kind in ("CPU", "GPU")
    )
    return (
        f"no trial could be started for {NO_WORKER_S:.0f} s: one asks for cpu={resources.cpu:g}, "
        f"gpu={resources.gpu:g}; Ray has {there}. What is finished is kept; go on with --resume "
        "when there is room (ray status)"
    )
