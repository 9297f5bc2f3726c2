"""Killed at any step of a run and resumed, an experiment is what it would have been."""

from __future__ import annotations

import ast
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import OWN_TRAINABLE, ROOT
from killed_runs import KilledRuns

from hpo.failpoints import FAILPOINTS
from hpo.search.source import RETRIES
from storage import Ledger, open_engine, open_optuna_storage
from trainables.checkpoints import replacing

TRAINABLE = """
import torch

changeable_while_training = ("x",)

def constraints(config, trial):
    if config.get("x") == 5:
        raise ValueError("five cannot be built")
    return {"size": float(config.get("x", 1))}

def fingerprint(config, trial):
    return "f" * 64

def train(config, trial):
    total, first = 0.0, 1
    if (kept := trial.checkpoints.load()) is not None:
        epoch, state = kept
        total, first = state["total"], epoch + 1
    for epoch in range(first, trial.max_epochs + 1):
        with open("trained.txt", "a") as file:
            print("/".join(trial.folder.parts[-2:]), epoch, file=file)
        if config["x"] == 4 and epoch == 2:
            raise ArithmeticError("four goes wrong")
        torch.manual_seed(trial.seed + epoch)
        total += config["x"] * float(torch.rand(())) / epoch
        trial.checkpoints.save(epoch, {"total": total})
        yield {"loss": total, "elsewhere": 1.0}
"""
FINISHING = """
from mine import constraints, fingerprint, train
import own_trainable

def finish(config, trial):
    import torch
    torch.manual_seed(trial.seed)
    return own_trainable.finish({"pixels": False, "rebuilds": False}, trial)
"""
FINDING_LR = """
from math import log10
from mine import constraints, fingerprint, train
from trainables import range_test

def find_lr(config, trial):
    return range_test(lambda rate: 0.5 + (log10(rate) + 1) ** 2)
"""
FILES = {
    "mine.py": TRAINABLE,
    "finishing.py": FINISHING,
    "finding_lr.py": FINDING_LR,
    "own_trainable.py": OWN_TRAINABLE,
}
SPEC = """
name: killed
trainable: mine:train
objective: {metric: loss, direction: minimize}
search_space: {x: {type: int, low: 1, high: 7, default: 2}}
enqueue: [{x: 5}, {x: 4}]
trial_seed: common
sampler: random
scheduler: {name: asha, reduction_factor: 2}
constraints: {size: {max: 6}}
budget: {n_trials: 9, max_epochs: 3, patience_trials: 4}
finalists: {k: 2, n_seeds: 1, confirmations: 1}
"""
TOP_K = SPEC.replace("{name: asha, reduction_factor: 2}", "{name: one_epoch_top_k, k: 2}")
LR = (
    SPEC.replace("mine:", "finding_lr:")
    .replace("default: 2}}", "default: 2}, lr: {from: lr_finder}}")
    .replace("trial_seed: common\n", "")
)
POPULATION = """
name: killed
trainable: mine:train
objective: {metric: loss, direction: minimize}
search_space: {x: {type: float, low: 1, high: 3}}
sampler: random
scheduler: {name: pbt, perturb: [x], quantile: 0.5}
budget: {n_trials: 4, max_epochs: 3}
finalists: {k: 1, n_seeds: 1, confirmations: 1}
"""
LOSE = {"lose.txt": "trials/00000 2"}
"""The worker of the first trial dies once, before its second report."""

SPECIAL = {
    "first value recorded": (TOP_K, {}),
    "generation judged": (POPULATION, {}),
    "child born": (POPULATION, {}),
    "seed of a member recorded": (POPULATION, {}),
    "range found recorded": (LR, {}),
    "retry counted": (SPEC, LOSE),
    "trial requeued": (SPEC, LOSE),
}
"""What it takes to come to a failpoint that most searches pass by."""

EXPORTING = ["test reading recorded", "model exported", "examples saved", "export recorded"]
EXPORTING += ["model card written"]
"""Failpoints of runs that hand back a model; to compare each export costs seconds."""

NTH = {"epoch recorded": 5, "value recorded": 5, "trial asked": 4, "trial told": 4}
NTH |= {"param drawn": 4, "seed recorded": 4, "checkpoint renamed": 2, "MLflow run ended": 2}
"""Which time it is killed there; else the first."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KilledRuns]:
    runs = KilledRuns(tmp_path_factory.mktemp("runs"))
    yield runs
    runs.close()


@pytest.fixture(scope="module")
def whole_runs() -> dict[str, Path]:
    """Folders of undisturbed runs, by their specs."""
    return {}


@pytest.mark.parametrize("failpoint", [name for name in FAILPOINTS if name not in EXPORTING])
def test_killed_at_a_failpoint_and_resumed_a_run_is_what_it_would_have_been(
    failpoint: str, runs: KilledRuns, whole_runs: dict[str, Path], tmp_path: Path
) -> None:
    """The same trials, values, epochs, re-runs, winner, in the study, the ledger and MLflow.

    At most one epoch is trained twice.
    """
    spec, more = SPECIAL.get(failpoint, (SPEC, {}))
    if spec not in whole_runs:
        whole = runs.folder / f"whole-{len(whole_runs)}"
        whole_runs[spec] = runs.begin(whole, {**FILES, "spec.yaml": spec})
        runs.run(whole_runs[spec])
    cut = runs.begin(tmp_path / "cut", {**FILES, "spec.yaml": spec, **more})
    runs.kill(cut, f"{failpoint}:{NTH.get(failpoint, 1)}")
    runs.run(cut)
    assert_same(cut, whole_runs[spec])
    twice = trained(cut) - trained(whole_runs[spec])
    assert twice.total() <= 1 + len(more)


def test_killed_at_each_step_of_an_export_in_turn_it_comes_to_its_end(
    runs: KilledRuns, tmp_path: Path
) -> None:
    spec = SPEC.replace("mine:", "finishing:").replace("n_trials: 9", "n_trials: 2")
    whole, cut = (
        runs.begin(tmp_path / name, {**FILES, "spec.yaml": spec}) for name in ("whole", "cut")
    )
    runs.run(whole)
    for failpoint in EXPORTING:
        runs.kill(cut, failpoint)
    runs.run(cut)
    assert_same(cut, whole)
    for name in ("standalone_model.pt", "manifest.json", "model_card.md"):
        assert (cut / "runs" / "killed" / name).is_file()


def assert_same(one: Path, other: Path) -> None:
    """Two folders with a run that came to its end."""
    for what in (study_of, ledger_of, mlflow_of, files_of):
        assert what(one) == what(other)


def study_of(folder: Path) -> list[tuple[Any, ...]]:
    """All that it says of its trials, but when; none is RUNNING, none waits."""
    storage = open_optuna_storage(f"sqlite:///{folder}/runs/hpo.db")
    trials = optuna.load_study(study_name="killed", storage=storage).trials
    storage.engine.dispose()
    assert all(trial.state.is_finished() for trial in trials)
    return [
        (
            trial.state.name,
            trial.params,
            trial.values,
            trial.intermediate_values,
            {
                name: str(value).replace(str(folder), "")
                for name, value in trial.user_attrs.items()
                if name not in (RETRIES, "traceback")
            },
            trial.system_attrs,
        )
        for trial in trials
    ]


def ledger_of(folder: Path) -> dict[str, Any]:
    """What was recorded, but for times and the names of folders."""
    ledger = Ledger(open_engine(f"sqlite:///{folder}/runs/hpo.db"))
    experiment = ledger.find("killed")
    assert experiment is not None
    assert experiment.finished_at is not None
    epochs = [one for of_trial in ledger.epochs(experiment.id).values() for one in of_trial]
    reruns = [*ledger.reruns(experiment.id), *ledger.confirmations(experiment.id)]
    return {
        "spec": (experiment.spec, experiment.data_fingerprint),
        "epochs": [(one.trial_number, one.epoch, one.metrics, one.checkpoint) for one in epochs],
        "reruns": [(one.trial_number, one.seed_index, one.seed, one.value) for one in reruns],
        "test": [(one.trial_number, one.value) for one in ledger.test_readings(experiment.id)],
        "exports": [(Path(o.path).name, o.trial_number) for o in ledger.exports(experiment.id)],
    }


def mlflow_of(folder: Path) -> dict[str, Any]:
    """Its runs by the trial's number: one of each, with all epochs, and their parent."""
    with sqlite3.connect(f"file:{folder}/runs/mlflow.db?mode=ro", uri=True) as database:
        rows = database.execute("SELECT run_uuid, status FROM runs").fetchall()
        tags = database.execute("SELECT run_uuid, key, value FROM tags").fetchall()
        metrics = database.execute("SELECT run_uuid, key, step, value FROM metrics").fetchall()
        params = database.execute("SELECT run_uuid, key, value FROM params").fetchall()
    database.close()
    number = {run: "parent" for run, _ in rows}
    number |= {run: value for run, key, value in tags if key == "hpo.trial_number"}
    assert Counter(number.values()).most_common(1)[0][1] == 1
    return {
        "runs": sorted((number[run], status) for run, status in rows),
        "states": sorted((number[run], value) for run, key, value in tags if key == "hpo.state"),
        "metrics": sorted((number[run], *metric) for run, *metric in metrics),
        "params": sorted((number[run], *param) for run, *param in params),
    }


def files_of(folder: Path) -> set[str]:
    """What lies in the folder of the run; its checkpoints are gone."""
    run = folder / "runs" / "killed"
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert not any("checkpoint" in file or ".part" in file for file in files)
    return files


def trained(folder: Path) -> Counter[str]:
    """Task and epoch of everything that was paid for."""
    return Counter((folder / "trained.txt").read_text().splitlines())


def test_each_failpoint_has_one_place_in_the_code(tmp_path: Path) -> None:
    """A new one is killed at as soon as it has a name."""
    named = Counter[str]()
    for path in (ROOT / "hpo").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "failpoint":
                named.update([ast.literal_eval(node.args[0])] if is_word(node.args[0]) else [])
    named.update(f"checkpoint {step}" for step in [*replacing(tmp_path / "file", b""), "pruned"])
    assert named == Counter(FAILPOINTS.keys())


def is_word(node: ast.expr) -> bool:
    """Whether it is no f-string, which `TrialDrive` makes of the steps of a checkpoint."""
    return isinstance(node, ast.Constant)
