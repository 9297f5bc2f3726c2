"""How many epochs and trials per second one driver can record: what limits the size of a cluster.

    .venv/bin/python benchmarks/ledger.py
    .venv/bin/python benchmarks/ledger.py postgresql://hpo@localhost/hpo

Without an argument the ledger is an SQLite file on this disk. Nothing is trained: a search is asked
for trials, is told of their epochs, and ends them, as in `hpo run`. The database keeps the
experiment `ledger-benchmark-...`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import optuna

from hpo.places import Places
from hpo.search import search_source
from hpo.spec import parse_spec
from hpo.tasks import EpochReport
from hpo.workspace import open_workspace

SPEC = """
name: ledger-benchmark
trainable: analytic
objective: {metric: loss, direction: minimize}
search_space:
  x1: {type: float, low: -5, high: 10}
  x2: {type: float, low: 0, high: 15}
sampler: random
budget: {n_trials: 200, max_epochs: 10}
"""
EPOCH_S = 60.0
"""Of the example: how many workers that keeps busy."""


class Stopwatch:
    """Seconds of each call, by name."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Time the block."""
        start = time.perf_counter()
        yield
        self.seconds[name].append(time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        url = sys.argv[1] if len(sys.argv) > 1 else None
        places = Places.of(Path(folder), {}, storage_url=url)
        watch = search(places)
    n_trials = len(watch.seconds["end"])
    n_epochs = len(watch.seconds["epoch"]) + n_trials
    for name, per in (("ask", "trial"), ("epoch", "epoch"), ("end", "trial")):
        milliseconds = 1000 * median(watch.seconds[name])
        print(f"{name:6} {milliseconds:7.2f} ms per {per} (median)")
    total = sum(map(sum, watch.seconds.values()))
    print(f"{n_epochs / total:,.0f} epochs and {n_trials / total:,.1f} trials per second")
    print(f"{n_epochs / total * EPOCH_S:,.0f} workers whose epochs take {EPOCH_S:g} s")


def search(places: Places) -> Stopwatch:
    """A whole search, one trial after the other; its last epoch belongs to its end."""
    name = f"name=ledger-benchmark-{time.time_ns()}"
    spec, watch = parse_spec(SPEC, "ledger.yaml", [name]), Stopwatch()
    workspace = open_workspace(spec, places, None)
    record: Callable[..., None] = partial(workspace.ledger.put_epoch, workspace.experiment.id)
    source = search_source(workspace.study, spec, workspace.tasks, record_epoch=record)
    while True:
        with watch.of("ask"):
            task = source.next_task()
        if task is None:
            watch.seconds["ask"].pop()  # that the budget is spent was no trial
            return watch
        for epoch in range(1, spec.budget.max_epochs or 1):
            with watch.of("epoch"):
                source.reported(task, report_of(epoch))
        with watch.of("end"):
            source.ended(task, report_of(spec.budget.max_epochs or 1, is_last=True))


def report_of(epoch: int, *, is_last: bool = False) -> EpochReport:
    """As a worker sends it."""
    metrics = {"loss": 1 / epoch, "val_loss": 2 / epoch, "val_accuracy": 1 - 1 / epoch}
    ending = "complete" if is_last else None
    return EpochReport(epoch=epoch, metrics=metrics, seconds=EPOCH_S, ending=ending)


if __name__ == "__main__":
    main()
