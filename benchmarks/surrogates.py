"""Which model predicts best what a config that nobody trained would come to: replay's surrogate.

    .venv/bin/hpo run search_spaces/cnn.yaml
    .venv/bin/python benchmarks/surrogates.py cnn

Mean absolute error of the final values of complete configs, each predicted from the others (five
folds over configs), on the experiments that are named and on 40 configs of the noisy Branin
function. Beside the Gaussian process that replay uses: the two kinds of forests of scikit-learn,
300 trees each, which Eggensperger et al. 2015 (AAAI-15) prefer for large records.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor
from sklearn.model_selection import GroupKFold

from hpo.curves import FloatArray
from hpo.places import Places
from hpo.simulation import Trained, trained_configs
from hpo.simulation.surrogate import Encoding, Surrogate
from hpo.spec import ExperimentSpec, parse_spec
from hpo.workspace import find_workspace
from trainables import TrialContext
from trainables.analytic import train

Predict = Callable[[FloatArray, int], float]
"""(n_columns,) params and a number of epochs -> the value after the last of them."""

N_FOLDS = 5
N_TREES = 300
BRANIN = """
name: branin
trainable: analytic
objective: {metric: loss, direction: minimize}
fixed: {noise: 1.0}
search_space:
  x1: {type: float, low: -5, high: 10}
  x2: {type: float, low: 0, high: 15}
budget: {n_trials: 40, max_epochs: 9}
"""


def main(names: Sequence[str]) -> None:
    """Measure and print."""
    models = {"extra trees": extra_trees, "random forest": random_forest, "GP": gaussian_process}
    print(f"{'record':10} complete  guess median  " + "  ".join(f"{name:>13}" for name in models))
    for name, (trained, encoded) in records(names).items():
        ends = [one.values[-1] for one in trained if is_complete(one)]
        guess = float(np.mean(np.abs(np.array(ends) - np.median(ends))))
        errors = [held_out_error(fit, trained, encoded) for fit in models.values()]
        row = "  ".join(f"{error:13.4g}" for error in errors)
        print(f"{name:10} {len(ends):8}  {guess:12.4g}  {row}")


def records(names: Sequence[str]) -> dict[str, tuple[list[Trained], FloatArray]]:
    """What was trained, and its params as rows, by the name of the record."""
    found = {}
    for name in names:
        workspace = find_workspace(name, Places.of(Path.cwd()))
        outcome, spec = workspace.outcome(), workspace.spec
        trained = trained_configs(outcome.trials, outcome.epochs, spec.objective.metric)
        found[name] = encoded_of([one for one in trained if one.values], spec)
    spec = parse_spec(BRANIN, "branin", ())
    return {**found, "branin": encoded_of(branin_record(spec), spec)}


def branin_record(spec: ExperimentSpec) -> list[Trained]:
    """Configs at random places."""
    rng = np.random.default_rng(0)
    trained = []
    for seed in range(spec.budget.n_trials or 0):
        params = {"x1": float(rng.uniform(-5, 10)), "x2": float(rng.uniform(0, 15))}
        context = TrialContext(seed=seed, folder=Path(), max_epochs=spec.budget.max_epochs)
        values = tuple(metrics["loss"] for metrics in train({**params, **spec.fixed}, context))
        trained.append(Trained(params=params, values=values, seconds=(1.0,) * len(values)))
    return trained


def encoded_of(trained: list[Trained], spec: ExperimentSpec) -> tuple[list[Trained], FloatArray]:
    """With (n, n_columns) params."""
    encoding = Encoding(spec.search_space)
    return trained, np.array([encoding.row(one.params) for one in trained])


def is_complete(one: Trained) -> bool:
    """Whether its last value is final."""
    return not one.is_stopped and one.failure is None


def held_out_error(
    fit: Callable[[list[Trained], FloatArray], Predict], trained: list[Trained], encoded: FloatArray
) -> float:
    """Mean absolute error over the complete configs; equal configs are held out together."""
    _, groups = np.unique(encoded, axis=0, return_inverse=True)
    errors = []
    for kept, held in GroupKFold(N_FOLDS).split(encoded, groups=groups.ravel()):
        predict = fit([trained[index] for index in kept], encoded[kept])
        errors += [
            abs(predict(encoded[index], len(trained[index].values)) - trained[index].values[-1])
            for index in held
            if is_complete(trained[index])
        ]
    return float(np.mean(errors))


def gaussian_process(trained: list[Trained], encoded: FloatArray) -> Predict:
    """Replay's own."""
    surrogate = Surrogate(trained, encoded, 0)
    return lambda row, n_epochs: float(surrogate.predict(row, n_epochs)[0][-1])


def extra_trees(trained: list[Trained], encoded: FloatArray) -> Predict:
    """Extremely randomized trees (Geurts et al. 2006)."""
    return _forest(ExtraTreesRegressor(N_TREES, random_state=0), trained, encoded)


def random_forest(trained: list[Trained], encoded: FloatArray) -> Predict:
    """A random forest (Breiman 2001)."""
    return _forest(RandomForestRegressor(N_TREES, random_state=0), trained, encoded)


def _forest(forest: Any, trained: list[Trained], encoded: FloatArray) -> Predict:
    rows = [
        [*row, np.log2(epoch)]
        for one, row in zip(trained, encoded, strict=True)
        for epoch in range(1, len(one.values) + 1)
    ]
    forest.fit(rows, [value for one in trained for value in one.values])
    return lambda row, n_epochs: float(forest.predict([[*row, np.log2(n_epochs)]])[0])


if __name__ == "__main__":
    main(sys.argv[1:])
