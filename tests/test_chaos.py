"""Trainables of which most fail: every sampler comes to the end of its budget all the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
from one_worker import OneWorker

from hpo.spec import SamplerSpec

FAILING = """
import random

def train(config, trial):
    fate = random.Random(trial.folder.name + "TABLE").random()
    if fate < 0.3:
        raise ArithmeticError("as three of ten do")
    for epoch in range(1, 4):
        is_nan = fate < 0.6
        yield {"loss": float("nan") if is_nan else config["x"] ** 2 + config["y"] + 1 / epoch}
"""
SPEC = """
name: chaos
trainable: chaotic:train
objective: {metric: loss, direction: minimize}
search_space:
  x: {type: int, low: -9, high: 9}
  y: {type: int, low: 0, high: 9}
sampler: SAMPLER
scheduler: {name: asha, reduction_factor: 2}
budget: {n_trials: 40, max_epochs: 3}
"""
SAMPLERS = [
    get_args(kind.model_fields["name"].annotation)[0] for kind in get_args(get_args(SamplerSpec)[0])
]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_with_three_of_ten_raising_and_three_of_ten_nan_a_search_ends(
    sampler: str, tmp_path: Path
) -> None:
    """Which ones depends on their numbers alone."""
    (tmp_path / "chaotic.py").write_text(FAILING)
    worker = OneWorker(SPEC.replace("SAMPLER", sampler), tmp_path)
    worker.search()
    trials = worker.study.trials
    causes = Counter(trial.user_attrs.get("fail_cause") for trial in trials)
    assert len(trials) == 40
    assert all(trial.state.is_finished() for trial in trials)
    assert causes["error"] + causes["nan"] == sum(trial.state.name == "FAIL" for trial in trials)
    assert min(causes["error"], causes["nan"]) > 5
    assert any(trial.state.name == "COMPLETE" for trial in trials)
