"""`hpo run` with study, ledger and MLflow on a PostgreSQL server, whatever becomes of the two."""

from __future__ import annotations

import subprocess
from typing import Any

import optuna
import pytest
from commands import Shell
from gate import Gate, halt
from mlflow import MlflowClient
from postgresql import PASSWORD, PostgreSQL

from storage import open_optuna_storage

TRAINABLE = '''
def train(config, trial):
    """Halts in trial 1, and again in trial 2."""
    for epoch in range(1, 4):
        if (trial.folder.name, epoch) == ("00001", 2):
            HALT1
        if (trial.folder.name, epoch) == ("00002", 2):
            HALT2
        yield {"score": config["x"] * epoch}
'''
SPEC = """
name: shared
trainable: halts:train
objective: {metric: score, direction: maximize}
search_space: {x: {type: float, low: 0, high: 1}}
sampler: {name: tpe, n_startup_trials: 2}
seed: 1
budget: {n_trials: 4, max_epochs: 3}
concurrency: 1
finalists: {k: 1, n_seeds: 1, confirmations: 0}
"""


@pytest.fixture
def urls(postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Two databases: Optuna and MLflow cannot share one."""
    found = {
        "HPO_STORAGE_URL": postgresql.new("studies"),
        "MLFLOW_TRACKING_URI": postgresql.new("tracking"),
    }
    for name, url in found.items():
        monkeypatch.setenv(name, url)
    return found


def trials_of(url: str) -> list[tuple[Any, ...]]:
    storage = open_optuna_storage(url)
    trials = optuna.load_study(study_name="shared", storage=storage).trials
    storage.engine.dispose()
    return [(t.number, t.state, t.params, t.values, t.intermediate_values) for t in trials]


def restarted(server: PostgreSQL, process: subprocess.Popen[str], gate: Gate) -> list[str]:
    """The server, while a trial halts at the gate; returns what the user was told."""
    assert process.stderr is not None
    gate.wait_for(process)
    server.stop()
    gate.let_pass()
    told = [""]
    try:
        while "does not answer" not in told[-1]:
            told.append(process.stderr.readline())
            assert told[-1], told
    finally:
        server.start()
    return told


def test_a_restarted_server_and_a_killed_driver_cost_nothing(
    shell: Shell, postgresql: PostgreSQL, urls: dict[str, str]
) -> None:
    """The same trials as on SQLite undisturbed, each of them once in MLflow, and no password."""
    gates, module, told = [], TRAINABLE, [""]
    for word in ("HALT1", "HALT2"):
        (folder := shell.folder / word).mkdir()
        gates.append(Gate(folder))
        module = module.replace(word, halt(folder))
    shell.write("halts.py", module)
    shell.write("shared.yaml", SPEC)

    process = shell.start("run", "shared.yaml")
    try:
        told = restarted(postgresql, process, gates[0])
        gates[1].wait_for(process)
    finally:
        process.kill()
        told.append(process.communicate()[1])
        gates[1].open()

    resumed = shell.hpo("run", "shared.yaml", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    said = "".join([*told, resumed.stdout, resumed.stderr])
    assert PASSWORD not in said
    assert "Traceback" not in said

    tracked = MlflowClient(tracking_uri=urls["MLFLOW_TRACKING_URI"])
    experiment = tracked.get_experiment_by_name("shared")
    assert experiment is not None
    runs = tracked.search_runs([experiment.experiment_id])
    numbers = sorted(run.data.tags.get("hpo.trial_number", "parent") for run in runs)
    assert numbers == ["0", "1", "2", "3", "parent"]
    assert {run.info.status for run in runs} == {"FINISHED"}

    on_file = f"sqlite:///{shell.folder / 'other.db'}"
    undisturbed = shell.hpo("run", "shared.yaml", "--storage", on_file)
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert trials_of(urls["HPO_STORAGE_URL"]) == trials_of(on_file)

    compared = shell.hpo(
        *("compare", "shared.yaml", "--samplers", "random,tpe", "--seeds", "1", "--trials", "2")
    )
    assert compared.returncode == 0, compared.stderr
    for gate in gates:
        gate.remove()
