"""How long a simulated search takes: an hour of eight workers, and 1,024 workers.

    .venv/bin/python benchmarks/replay.py

The record is made here: 60 trials of the analytic trainable at about a minute per epoch. Curves of
other configs come from the surrogate, as in `hpo replay`. CPU seconds stand beside the seconds,
because a busy machine doubles the latter. For comparison: what `Study.ask` and `tell` alone take.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import optuna

from hpo.replay import simulated_search
from hpo.search import distributions
from hpo.simulation import ServedCurves, Trained
from hpo.spec import ExperimentSpec, parse_spec
from trainables import TrialContext
from trainables.analytic import train

SPEC = """
name: replay
trainable: analytic
objective: {metric: loss, direction: minimize}
fixed: {noise: 0.1}
search_space:
  x1: {type: float, low: -5, high: 10}
  x2: {type: float, low: 0, high: 15}
sampler: random
scheduler: asha
budget: {n_trials: 100000, max_epochs: 9, time_limit_s: 3600}
"""
N_RECORDED = 60
EPOCH_S = 60.0
REPEATS = 3


def main() -> None:
    """Measure and print."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    curves = served_curves(spec_with())
    curves.error  # noqa: B018  fits the surrogate, which is done once and not measured here
    print("strategy       workers  trials  epochs  simulated    seconds  CPU seconds  ask+tell")
    for sampler, n_workers, overrides in (
        ("random", 8, ()),
        ("tpe", 8, ()),
        ("random", 1024, ("budget={n_trials: 1024, max_epochs: 9}",)),
        ("random", 1024, ("budget={n_trials: 2048, max_epochs: 9}",)),
        ("tpe", 1024, ("budget={n_trials: 1024, max_epochs: 9}",)),
    ):
        spec = spec_with(f"sampler={sampler}", *overrides)
        measure(spec, curves, n_workers)


def spec_with(*overrides: str) -> ExperimentSpec:
    """The search, with ``-o`` options."""
    return parse_spec(SPEC, "replay.yaml", overrides)


def served_curves(spec: ExperimentSpec) -> ServedCurves:
    """Those of trials at random places, some a fifth faster or slower than others."""
    rng = np.random.default_rng(0)
    trained = []
    for seed in range(N_RECORDED):
        params = {"x1": float(rng.uniform(-5, 10)), "x2": float(rng.uniform(0, 15))}
        context = TrialContext(seed=seed, folder=Path(), max_epochs=spec.budget.max_epochs)
        values = tuple(metrics["loss"] for metrics in train({**params, **spec.fixed}, context))
        seconds = (EPOCH_S * float(rng.uniform(0.8, 1.2)),) * len(values)
        trained.append(Trained(params=params, values=values, seconds=seconds))
    return ServedCurves(
        trained, spec.search_space, max_epochs=spec.budget.max_epochs, start_s=1.0, seed=0
    )


def measure(spec: ExperimentSpec, curves: ServedCurves, n_workers: int) -> None:
    """Print the fastest of several searches, each with a seed of its own."""
    figures = []
    for seed in range(REPEATS):
        start, start_cpu = time.perf_counter(), time.process_time()
        timeline = simulated_search(spec.model_copy(update={"seed": seed}), curves, n_workers)
        figures.append((time.perf_counter() - start, time.process_time() - start_cpu, timeline))
    seconds, cpu_s, timeline = min(figures, key=lambda figure: figure[1])
    n_trials = len(timeline.courses)
    print(
        f"{spec.sampler.name + '/' + spec.scheduler.name:14} {n_workers:7,} {n_trials:7,} "
        f"{timeline.n_epochs:7,} {timeline.makespan_s:8,.0f} s {seconds:8.2f} s {cpu_s:10.2f} s "
        f"{ask_and_tell_s(spec, n_trials):7.2f} s",
        flush=True,
    )


def ask_and_tell_s(spec: ExperimentSpec, n_trials: int) -> float:
    """CPU seconds of as many trials in Optuna alone, with its own sampler, one after the other."""
    samplers = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}
    study = optuna.create_study(sampler=samplers[spec.sampler.name](seed=0))
    space = distributions(spec.search_space)
    start = time.process_time()
    for number in range(n_trials):
        study.tell(study.ask(space), float(number % 7))
    return time.process_time() - start


if __name__ == "__main__":
    main()
