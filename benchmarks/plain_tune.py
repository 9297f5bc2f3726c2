"""The search of soak.py as one writes it with Ray Tune, OptunaSearch and their MLflow callback.

    .venv/bin/python benchmarks/plain_tune.py FOLDER [DATABASE]

Called again after it was killed, it goes on as Ray's documents say. It prints a line for each trial
that Ray Tune says is complete. Without a database Optuna's study lives in memory, and in what Ray
Tune writes of its searcher.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch

N_TRIALS, N_EPOCHS, EPOCH_S, N_WORKERS = 16, 4, 0.25, 2


def main(folder: Path, database: str | None = None) -> None:
    """Begin, or go on."""
    trainable = tune.with_resources(partial(train, trained=str(folder / "trained.txt")), {"cpu": 1})
    results = folder / "results" / "soak"
    if tune.Tuner.can_restore(str(results)):
        tuner = tune.Tuner.restore(str(results), trainable, resume_errored=True)
    else:
        tuner = new_tuner(trainable, folder, database)
    tuner.fit()


def new_tuner(trainable: Any, folder: Path, database: str | None) -> tune.Tuner:
    """All that Ray Tune offers for a search that survives."""
    search = OptunaSearch(
        # Here, not as `param_space`: what is restored before its first trial does not know that.
        space={"x": FloatDistribution(-5, 5), "y": FloatDistribution(-5, 5)},
        metric="loss",
        mode="min",
        study_name="soak",
        storage=None if database is None else optuna.storages.RDBStorage(database),
        seed=0,
    )
    mlflow = MLflowLoggerCallback(f"sqlite:///{folder}/mlflow.db", experiment_name="soak")
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            metric="loss",
            mode="min",
            num_samples=N_TRIALS,
            reuse_actors=True,
            search_alg=ConcurrencyLimiter(search, N_WORKERS),
        ),
        run_config=tune.RunConfig(
            name="soak",
            storage_path=str(folder / "results"),
            failure_config=tune.FailureConfig(max_failures=3),
            callbacks=[Told(), mlflow],
        ),
    )


class Told(tune.Callback):
    """Prints what Ray Tune acknowledges."""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A line with its id and its last value."""
        print(f"told {trial.trial_id} {trial.last_result['loss']:.4f}", flush=True)


def train(config: dict[str, Any], trained: str) -> None:
    """Epochs of a quarter of a second, each with a checkpoint."""
    epoch = 0
    if (kept := tune.get_checkpoint()) is not None:
        with kept.as_directory() as kept_in:
            epoch = json.loads((Path(kept_in) / "state.json").read_text())["epoch"]
    for following in range(epoch + 1, N_EPOCHS + 1):
        time.sleep(EPOCH_S)
        with Path(trained).open("a") as file:
            print(tune.get_context().get_trial_id(), following, file=file)
        with tempfile.TemporaryDirectory() as written:
            (Path(written) / "state.json").write_text(json.dumps({"epoch": following}))
            loss = config["x"] ** 2 + config["y"] ** 2 + 1 / following
            tune.report({"loss": loss}, checkpoint=tune.Checkpoint.from_directory(written))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), *sys.argv[2:])
