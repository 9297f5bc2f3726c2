"""What has been trained is not trained again: answers from the record, and trials held back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from one_worker import OneWorker
from without_ray import KilledError

from hpo.search.holding import FIRST_VALUE
from storage import ANSWERED_BY

COMMON = """
name: common
trainable: steps:train
objective: {metric: loss, direction: minimize}
search_space: {x: {type: int, low: 1, high: 3}}
sampler: random
trial_seed: common
constraints: {size: {max: 2}}
budget: {n_trials: 8, max_epochs: 2}
"""
TOP_K = """
name: top
trainable: steps:train
objective: {metric: loss, direction: minimize}
search_space: {x: {type: float, low: 0, high: 9}}
sampler: random
scheduler: {name: one_epoch_top_k, k: 2}
budget: {n_trials: 6, max_epochs: 3}
"""
STEPS = """
def train(config, trial):
    for epoch in (1, 2, 3):
        yield {"loss": config["x"] + 1 / epoch, "seed": trial.seed, "size": config["x"]}
"""

Begin = Callable[[str], OneWorker]


@pytest.fixture
def begin(tmp_path: Path) -> Begin:
    """The searches of a spec; a second call is a new process."""
    (tmp_path / "steps.py").write_text(STEPS)
    return lambda text: OneWorker(text, tmp_path)


def test_with_a_common_seed_each_config_is_trained_once(begin: Begin) -> None:
    worker = begin(COMMON)
    worker.search()
    trials = worker.study.trials
    first = {trial.params["x"]: trial.number for trial in reversed(trials)}
    assert len(trials) == 8
    assert Counter(worker.trained) == Counter(
        (number, epoch) for number in first.values() for epoch in (1, 2)
    )
    for trial in trials:
        same = trials[first[trial.params["x"]]]
        is_same = trial.number == same.number
        assert trial.user_attrs.get(ANSWERED_BY) == (None if is_same else same.number)
        assert (trial.state.name, trial.value) == ("COMPLETE", same.value)
        assert trial.intermediate_values == same.intermediate_values
        assert trial.system_attrs == same.system_attrs  # its constraints
        assert trial.user_attrs["seed"] == same.user_attrs["seed"]
        for epoch in (1, 2):
            copied, original = (worker.epochs[n, epoch] for n in (trial.number, same.number))
            assert copied.metrics == original.metrics
            assert copied.seconds == (original.seconds if is_same else 0.0)


def test_with_a_seed_of_its_own_each_trial_is_trained(begin: Begin) -> None:
    worker = begin(COMMON)
    worker.search("trial_seed=per_trial")
    assert len(worker.trained) == 16
    assert len({trial.user_attrs["seed"] for trial in worker.study.trials}) == 8


def test_trials_take_turns_with_five_seeds_unless_the_spec_says_otherwise(begin: Begin) -> None:
    worker = begin(COMMON.replace("trial_seed: common\n", ""))
    worker.search()
    seeds = [trial.user_attrs["seed"] for trial in worker.study.trials]
    assert len(set(seeds)) == 5
    assert seeds[5:] == seeds[: len(seeds) - 5]


def test_a_later_start_answers_from_what_earlier_ones_trained(begin: Begin) -> None:
    begin(COMMON).search("budget.n_trials=6")
    later = begin(COMMON)
    n_known = len({trial.params["x"] for trial in later.study.trials})
    later.search("budget.n_trials=20")
    n_all = len({trial.params["x"] for trial in later.study.trials})
    assert len(later.trained) == 2 * (n_all - n_known)


def test_all_train_their_first_epoch_and_the_best_k_to_the_end(begin: Begin) -> None:
    worker = begin(TOP_K)
    worker.search()
    first, rest = worker.trained[:6], worker.trained[6:]
    assert first == [(number, 1) for number in range(6)]
    best = sorted(range(6), key=lambda number: worker.study.trials[number].params["x"])[:2]
    assert rest == [(number, epoch) for number in sorted(best) for epoch in (1, 2, 3)]
    for trial in worker.study.trials:
        x, is_best = trial.params["x"], trial.number in best
        assert trial.state.name == ("COMPLETE" if is_best else "PRUNED")
        assert trial.value == x + (1 / 3 if is_best else 1)
        assert len(trial.intermediate_values) == (3 if is_best else 1)


@pytest.mark.parametrize("n_reports", [4, 6, 7, 9, 10])
def test_a_kill_in_either_phase_loses_and_repeats_nothing(n_reports: int, begin: Begin) -> None:
    """But the epochs of the trial that ran: it keeps no checkpoint. Same result, same number."""
    whole = begin(TOP_K.replace("name: top", "name: whole"))
    whole.search()
    killed = begin(TOP_K)
    with pytest.raises(KilledError):
        killed.search(n_reports=n_reports)
    again = begin(TOP_K)
    again.search()
    outline = [
        [(t.state, t.params, t.intermediate_values, t.user_attrs) for t in worker.study.trials]
        for worker in (whole, again)
    ]
    assert outline[0] == outline[1]
    trained = Counter(killed.trained + again.trained)
    assert trained.keys() == set(whole.trained)
    lost = trained - Counter(whole.trained)
    assert len({number for number, _ in lost}) <= 1
    assert n_reports <= 6 or not any(number not in dict(whole.trained[6:]) for number, _ in lost)


def test_of_equal_configs_among_the_best_one_trains_to_the_end(begin: Begin) -> None:
    worker = begin(TOP_K.replace("name: top", "name: equal\ntrial_seed: common"))
    worker.search("search_space.x={type: int, low: 1, high: 1}")
    assert [number for number, epoch in worker.trained if epoch == 3] == [0]
    same = worker.study.trials[1]
    assert (same.state.name, same.value, same.user_attrs[ANSWERED_BY]) == ("COMPLETE", 4 / 3, 0)
    assert same.intermediate_values == worker.study.trials[0].intermediate_values


def test_more_trials_are_measured_by_all_before_them(begin: Begin) -> None:
    """Of the new ones those finish that are among the best k of all; what is PRUNED stays so."""
    begin(TOP_K).search()
    more = begin(TOP_K)
    more.search("budget.n_trials=12")
    values = [trial.user_attrs[FIRST_VALUE] for trial in more.study.trials]
    first_best = set(sorted(range(6), key=values.__getitem__)[:2])
    best = set(sorted(range(12), key=values.__getitem__)[:2])
    complete = {t.number for t in more.study.trials if t.state.name == "COMPLETE"}
    assert complete == first_best | best


def test_a_failure_takes_no_place_among_the_best(begin: Begin, tmp_path: Path) -> None:
    text = STEPS.replace("    for epoch", "    if config['x'] < 5: raise ValueError\n    for epoch")
    worker = begin(TOP_K)
    (tmp_path / "steps_that_fail.py").write_text(text)
    worker.text = worker.text.replace("steps:", "steps_that_fail:")
    worker.search()
    states = Counter(worker.states())
    assert states["FAIL"] > 0
    assert states["COMPLETE"] == 2
