"""Killed at any step of a run and resumed, an experiment is what it would have been."""

from __future__ import annotations

import ast
import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import OWN_TRAINABLE, ROOT
from killed_runs import KilledRuns
from optuna.trial import FrozenTrial

from hpo.failpoints import FAILPOINTS
from hpo.results import read_outcome
from hpo.results.manifest import MODEL_FILE, sha256_of
from hpo.search.source import RETRIES
from hpo.spec import parse_recorded_spec
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
TOP_K = TOP_K.replace(", patience_trials: 4", "")
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
budget: {n_trials: 4, max_epochs: 2}
finalists: {k: 1, n_seeds: 1, confirmations: 1}
"""
EXPORTING = SPEC.replace("mine:", "finishing:").replace("n_trials: 9", "n_trials: 2")

TRACKED = f"{SPEC}seed: 1\n"

SPECIAL = {
    TRACKED: [
        "MLflow experiment made",
        "MLflow run begun",
        "MLflow run logged",
        "MLflow run ended",
        "MLflow parent ended",
    ],
    LR: ["range found recorded"],
    TOP_K: ["first value recorded"],
    POPULATION: ["seed of a member recorded", "generation judged", "child born"],
    EXPORTING: [
        "test reading recorded",
        "model exported",
        "examples saved",
        "export recorded",
        "model card written",
    ],
}
"""What it takes to come to a failpoint that most searches pass by, in the order of a run.

MLflow's are apart, because its thread comes to them at any time.
"""
OTHERS = [name for name in FAILPOINTS if not any(name in names for names in SPECIAL.values())]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KilledRuns]:
    runs = KilledRuns(tmp_path_factory.mktemp("runs"))
    runs.run_here(runs.begin("whole-search", {**FILES, "spec.yaml": SPEC}))
    yield runs
    runs.close()


def test_a_run_that_is_killed_at_one_failpoint_after_the_other_is_what_it_would_have_been(
    runs: KilledRuns,
) -> None:
    """SIGKILL of driver and worker, at once; each time the run is resumed until the next one.

    The same trials, values, epochs, re-runs, winner, in the study, the ledger and MLflow; each
    kill costs one epoch at most, and what had ended by then stays as it is.
    """
    whole, cut = (
        runs.folder / "whole-search",
        runs.begin("cut-search", {**FILES, "spec.yaml": SPEC}),
    )
    for failpoint in OTHERS:
        if "retr" in failpoint or "requeued" in failpoint:
            (cut / "lose.txt").touch()
        runs.kill(cut, failpoint)
        assert ended(cut) == ended(whole)[: len(ended(cut))], failpoint
    runs.run(cut)
    assert_same(cut, whole)
    assert (trained(cut) - trained(whole)).total() <= len(OTHERS)


@pytest.mark.parametrize("spec", SPECIAL)
def test_so_is_one_of_another_kind(spec: str, runs: KilledRuns) -> None:
    number = [*SPECIAL].index(spec)
    whole, cut = (
        runs.begin(f"{name}-{number}", {**FILES, "spec.yaml": spec}) for name in ("whole", "cut")
    )
    runs.run(whole)
    for failpoint in SPECIAL[spec]:
        runs.kill(cut, failpoint)
    runs.run(cut)
    assert_same(cut, whole)
    assert (trained(cut) - trained(whole)).total() <= len(SPECIAL[spec])


def test_a_model_that_is_lost_with_its_folder_before_the_end_is_made_again(
    runs: KilledRuns,
) -> None:
    """As with the head of a cluster whose results nobody shares: the new one has other paths."""
    runs.kill(runs.begin("lost", {**FILES, "spec.yaml": EXPORTING}), "export recorded")
    found = (runs.folder / "lost").rename(runs.folder / "found")
    shutil.rmtree(found / "runs" / "killed")
    runs.run(found)
    ledger = Ledger(open_engine(f"sqlite:///{found}/runs/hpo.db"))
    experiment = ledger.find("killed")
    assert experiment is not None
    assert experiment.finished_at is not None
    study = optuna.load_study(study_name="killed", storage=f"sqlite:///{found}/runs/hpo.db")
    export = read_outcome(experiment, study, ledger).export
    assert export is not None
    assert Path(export.path) == found / "runs" / "killed" / MODEL_FILE
    assert sha256_of(Path(export.path)) == export.sha256
    assert len(ledger.test_readings(experiment.id)) == 1


def assert_same(one: Path, other: Path) -> None:
    """Two folders with a run that came to its end."""
    for what in (study_of, ledger_of, mlflow_of, files_of):
        assert what(one) == what(other)


def study_of(folder: Path) -> list[tuple[Any, ...]]:
    """All that it says of its trials, but when; none is RUNNING, none waits."""
    trials = trials_of(folder)
    assert all(trial.state.is_finished() for trial in trials)
    return [told_of(trial, folder) for trial in trials]


def ended(folder: Path) -> list[tuple[Any, ...]]:
    """The same of the first trials, those that have ended."""
    return [told_of(trial, folder) for trial in trials_of(folder) if trial.state.is_finished()]


def trials_of(folder: Path) -> list[FrozenTrial]:
    storage = open_optuna_storage(f"sqlite:///{folder}/runs/hpo.db")
    studies = optuna.get_all_study_names(storage)
    trials = optuna.load_study(study_name="killed", storage=storage).trials if studies else []
    storage.engine.dispose()
    return trials


def told_of(trial: FrozenTrial, folder: Path) -> tuple[Any, ...]:
    return (
        trial.state.name,
        trial.params,
        trial.values,
        trial.intermediate_values,
        {
            # The children have the user's module as the server had imported it.
            name: re.sub(f"{folder.parent}/[a-z0-9-]+", "", str(value))
            for name, value in trial.user_attrs.items()
            if name not in (RETRIES, "traceback")
        },
        trial.system_attrs,
    )


def ledger_of(folder: Path) -> dict[str, Any]:
    """What was recorded, but for times and the names of folders."""
    ledger = Ledger(open_engine(f"sqlite:///{folder}/runs/hpo.db"))
    experiment = ledger.find("killed")
    assert experiment is not None
    assert experiment.finished_at is not None
    epochs = [one for of_trial in ledger.epochs(experiment.id).values() for one in of_trial]
    reruns = [*ledger.reruns(experiment.id), *ledger.confirmations(experiment.id)]
    return {
        "spec": (parse_recorded_spec(experiment.spec), experiment.data_fingerprint),
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
