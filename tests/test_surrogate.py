"""What trials say of configs: the unit cube, the Gaussian process, and what it is told."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial
from scipy.integrate import quad
from scipy.optimize import check_grad
from scipy.stats import norm

from hpo.surrogate import (
    UnitCube,
    fit_gaussian_process,
    log_expected_improvement,
    to_normal,
    told_scores,
    training_seeds,
)
from hpo.surrogate.gaussian_process import _Kinds, _negative_log_likelihood, squared_distances
from storage import create_study, open_optuna_storage, put_constraints

DISTRIBUTIONS: dict[str, BaseDistribution] = {
    "float": FloatDistribution(-3.0, 5.0),
    "log": FloatDistribution(1e-5, 1e-1, log=True),
    "step": FloatDistribution(0.0, 0.3, step=0.1),
    "int": IntDistribution(2, 9),
    "int step": IntDistribution(1, 9, step=4),
    "int log": IntDistribution(1, 300, log=True),
    "one": IntDistribution(4, 4),
    "one float": FloatDistribution(0.5, 0.5),
    "choice": CategoricalDistribution(["relu", None, 3, True]),
}
CUBE = UnitCube(DISTRIBUTIONS)


def drawn(seed: int) -> dict[str, Any]:
    """A config of all kinds of parameters, drawn by Optuna."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return study.ask(DISTRIBUTIONS).params


# --- the cube ---


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31))
def test_a_config_comes_back_from_its_point(seed: int) -> None:
    config = drawn(seed)
    point = CUBE.encode([config])
    assert CUBE.decode(point[0]) == {
        name: pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
        for name, value in config.items()
    }
    np.testing.assert_allclose(CUBE.snap(point), point, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31))
def test_every_point_made_is_that_of_a_config(seed: int) -> None:
    """At random, near another one, evenly spread: decoding and encoding changes none."""
    rng = np.random.default_rng(seed)
    start = CUBE.at_random(1, rng)[0]
    made = np.concatenate(
        [
            CUBE.at_random(20, rng),
            CUBE.neighbours(start, rng, 5),
            CUBE.steps_from(start, rng, 20, 0.3),
            CUBE.from_uniform(rng.random((20, len(DISTRIBUTIONS)))),
        ]
    )
    for point in made:
        config = CUBE.decode(point)
        for name, value in config.items():
            internal = DISTRIBUTIONS[name].to_internal_repr(value)
            assert DISTRIBUTIONS[name]._contains(internal), (name, value)
        np.testing.assert_allclose(CUBE.encode([config])[0], point, atol=1e-9)


@pytest.mark.parametrize("name", ["step", "int", "int step", "choice"])
def test_evenly_spread_numbers_give_every_value_its_share(name: str) -> None:
    cube = UnitCube({name: DISTRIBUTIONS[name]})
    even = (np.arange(840) + 0.5)[:, None] / 840
    counts = np.unique(cube.from_uniform(even), return_counts=True)[1]
    assert len(set(counts)) == 1


def test_a_parameter_that_a_config_lacks_has_a_place_of_its_own() -> None:
    """A choice that is not there differs from every one that is."""
    point = CUBE.encode([{}])[0]
    column = CUBE.names.index("choice")
    assert point[column] not in CUBE.encode([drawn(seed) for seed in range(20)])[:, column]


# --- the process ---

POINTS = np.random.default_rng(0).random((25, 3))
IS_CATEGORICAL = np.array([False, False, False])
VALUES = to_normal(np.sin(5 * POINTS[:, 0]) + POINTS[:, 1] ** 2)


def test_the_gradient_of_the_likelihood_is_its_gradient() -> None:
    points = np.vstack([POINTS[:20], POINTS[:5]])
    distances = squared_distances(points, points, IS_CATEGORICAL)
    kinds = _Kinds(distances, np.arange(25) % 4)
    logs = np.array([-0.3, 0.4, 0.1, 0.2, -2.0, -1.5, -1.0])

    def value(at: Any) -> float:
        return _negative_log_likelihood(at, kinds, VALUES)[0]

    def gradient(at: Any) -> Any:
        return _negative_log_likelihood(at, kinds, VALUES)[1]

    assert check_grad(value, gradient, logs) < 1e-4


def test_a_process_finds_out_how_much_noise_there_is_and_what_matters() -> None:
    rng = np.random.default_rng(1)
    points = rng.random((150, 3))
    noisy = np.sin(5 * points[:, 0]) + 0.3 * rng.standard_normal(150)
    process = fit_gaussian_process(
        points, (noisy - noisy.mean()) / noisy.std(), np.array([False] * 3)
    )
    assert math.exp(process.log_noise) == pytest.approx(0.3**2 / noisy.var(), rel=0.4)
    assert np.argmin(process.log_length_scales) == 0
    grid = np.column_stack([np.linspace(0, 1, 20), np.full(20, 0.5), np.full(20, 0.5)])
    means, variances = process.posterior(grid)
    truth = (np.sin(5 * grid[:, 0]) - noisy.mean()) / noisy.std()
    assert np.abs(means - truth).mean() < 0.15
    assert np.all(np.abs(means - truth) < 5 * np.sqrt(variances) + 0.1)


def test_what_a_seed_adds_to_all_its_values_is_taken_off() -> None:
    """A lucky seed lifts its values by twice what the configs differ in."""
    rng = np.random.default_rng(2)
    points = rng.random((60, 1))
    truth, seeds = np.sin(5 * points[:, 0]), np.arange(60) % 5
    lucky = np.array([-2.0, 3.0, 0.5, -1.0, 0.0])[seeds]
    noisy = truth + lucky + 0.05 * rng.standard_normal(60)
    values = (noisy - noisy.mean()) / noisy.std()

    def error(of: Any) -> float:
        process = fit_gaussian_process(points, values, np.array([False]), of)
        believed = process.posterior(points)[0] * noisy.std()
        return float(((believed - believed.mean()) - (truth - truth.mean())).std())

    assert error(seeds) < 0.1
    assert error(None) > 3 * error(seeds)


def test_a_config_seen_often_is_believed_where_a_lucky_one_is_not() -> None:
    """One config is better by 2 at five looks; another one was so lucky at one of two."""
    looks = np.concatenate([np.arange(20), np.arange(20), [5, 5, 5]])
    points = (looks / 19)[:, None]
    noisy = np.random.default_rng(3).normal(0, 0.7, len(looks)) + 2 * (looks == 5)
    noisy[[15, 35]] = 2.0, -0.5
    values = (noisy - noisy.mean()) / noisy.std()
    process = fit_gaussian_process(points, values, np.array([False]))
    good, lucky, near = process.posterior(points[[5, 15, 6]])[0]
    assert good > lucky + 0.5
    assert good > near + 0.5  # what it has of its own is none of its neighbour's


def test_trials_share_a_seed_by_what_they_recorded() -> None:
    seeds = [7, 9, 7, None, None]
    trials = [
        create_trial(value=0.0, user_attrs={} if seed is None else {"seed": seed}) for seed in seeds
    ]
    for number, trial in enumerate(trials):
        trial.number = number
    first, second, third, *own = training_seeds(trials).tolist()
    assert first == third != second
    assert len({first, second, *own}) == 4


def test_two_choices_are_equal_or_not_however_far_their_indices_lie_apart() -> None:
    points = np.array([[0.0], [1.0], [5.0], [0.0], [1.0], [5.0]])
    values = np.array([1.2, -0.6, -0.6, 1.2, -0.6, -0.6])
    process = fit_gaussian_process(points, values, np.array([True]))
    means, _ = process.posterior(np.array([[0.0], [2.0], [3.0]]))
    assert means[0] > 0.8
    assert means[1] == pytest.approx(means[2])


def test_what_is_believed_of_running_trials_changes_no_mean_and_leaves_less_doubt() -> None:
    process = fit_gaussian_process(POINTS, VALUES, IS_CATEGORICAL)
    at = np.array([[0.9, 0.9, 0.1], [0.1, 0.9, 0.9]])
    before, after = process.posterior(at), process.believing(at[:1]).posterior(at)
    np.testing.assert_allclose(before[0], after[0], atol=1e-6)
    assert after[1][0] < before[1][0]


@pytest.mark.parametrize("z", [-30.0, -5.0, -1.0001, -0.9999, 0.0, 2.0, 6.0])
def test_expected_improvement_is_its_integral(z: float) -> None:
    integral, _ = quad(lambda x: x * norm.pdf(x + -z), 0, 40, epsabs=0, epsrel=1e-10)
    deviation = 0.3
    found = log_expected_improvement(np.array([z * deviation]), np.array([deviation**2]), 0.0)
    assert found[0] == pytest.approx(math.log(integral * deviation), rel=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=30))
def test_bent_values_keep_their_order_and_are_standardized(values: list[int]) -> None:
    bent = to_normal(np.array(values, dtype=float))
    order = np.argsort(values, kind="stable")
    assert np.all(np.diff(bent[order]) >= 0)
    assert abs(bent.mean()) < 1e-6
    assert bent.std() == pytest.approx(1) or len(set(values)) == 1


# --- what it is told ---


def complete(number: int, *curve: float) -> FrozenTrial:
    trial = create_trial(value=curve[-1], intermediate_values=dict(enumerate(curve, 1)))
    trial.number = number
    return trial


def ended(number: int, state: TrialState, *curve: float) -> FrozenTrial:
    trial = create_trial(state=state, intermediate_values=dict(enumerate(curve, 1)))
    trial.number = number
    return trial


def test_a_stopped_trial_is_told_as_if_it_had_gained_what_the_others_did() -> None:
    trials = [
        complete(0, 0.5, 0.7),
        complete(1, 0.4, 0.8),
        ended(2, TrialState.PRUNED, 0.2),
        ended(3, TrialState.PRUNED, 0.7),
    ]
    told = told_scores(trials, is_maximized=True)
    assert told == {0: 0.7, 1: 0.8, 2: pytest.approx(0.5), 3: 0.8}  # no better than the best


def test_of_a_loss_the_lowest_is_the_best() -> None:
    trials = [complete(0, 3.0, 1.0), ended(1, TrialState.PRUNED, 4.0)]
    assert told_scores(trials, is_maximized=False) == {0: -1.0, 1: -2.0}


def test_a_failed_trial_is_told_as_the_worst_and_nothing_before_any_other() -> None:
    failed = ended(1, TrialState.FAIL, 0.9)
    assert told_scores([failed], is_maximized=True) == {}
    trials = [complete(0, 0.6), failed, complete(2, 0.4)]
    assert told_scores(trials, is_maximized=True) == {0: 0.6, 1: 0.4, 2: 0.4}


def test_a_trial_that_broke_a_constraint_is_told_as_the_worst_however_good(tmp_path: Any) -> None:
    storage = open_optuna_storage(f"sqlite:///{tmp_path / 'hpo.db'}")
    study = create_study(storage, "told", direction="maximize", metric="accuracy")
    for value, is_broken in [(0.5, False), (0.9, True), (0.7, False)]:
        trial = study.ask()
        if is_broken:
            put_constraints(trial, [1.0])
        study.tell(trial, value)
    assert told_scores(study.trials, is_maximized=True) == {0: 0.5, 1: 0.5, 2: 0.7}


def test_running_and_waiting_trials_are_told_nothing_of() -> None:
    trials = [complete(0, 0.6), ended(1, TrialState.RUNNING, 0.9), ended(2, TrialState.WAITING)]
    assert told_scores(trials, is_maximized=True) == {0: 0.6}
