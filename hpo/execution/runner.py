"""Run the stages of an experiment under Ray Tune, on workers that are started once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from ray import tune
from ray.tune import Stopper

from hpo.execution.actor import TrialActor
from hpo.execution.searcher import StageScheduler, TaskSearcher
from hpo.spec import ResourcesSpec
from hpo.tasks import TaskSource


def run_stages(
    stages: Iterator[TaskSource],
    resources: ResourcesSpec,
    *,
    concurrency: int,
    is_interrupted: Callable[[], bool],
) -> None:
    """Run every task of every stage, ``concurrency`` at a time; returns early if interrupted.

    Trials that an interrupt stops are still RUNNING in the study: the caller requeues them.

    Raises:
        Exception: whatever a stage raised, e.g. because of its database.
    """
    searcher = TaskSearcher(stages, concurrency)

    def must_stop() -> bool:
        return searcher.error is not None or is_interrupted()

    # Ray would start one worker at a time; the searcher never asks ahead of its concurrency.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(concurrency)
    # Ray Tune insists on a folder; nothing in it is needed afterwards.
    with tempfile.TemporaryDirectory(prefix="hpo-ray-", ignore_cleanup_errors=True) as folder:
        tune.Tuner(
            tune.with_resources(TrialActor, {"cpu": resources.cpu, "gpu": resources.gpu}),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=_WarmWorkers(searcher, concurrency),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name="stages",
                storage_path=folder,
                stop=_StopWhen(must_stop),
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

    def __init__(self, searcher: TaskSearcher, concurrency: int) -> None:
        super().__init__(searcher)
        self._n_to_keep = concurrency

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
