"""The contract that every scheduler keeps, and whom ASHA and the median rule stop."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import optuna
import pytest
from conftest import BRANIN
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler
from test_samplers import name_of

from hpo.search.schedulers import SCHEDULERS, bracket_graces, bracket_order, build_scheduler
from hpo.spec import ExperimentSpec, SchedulerSpec, parse_spec
from hpo.tasks import EPOCH, NUMBER, OBJECTIVE

CONTINUE, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP
MAX_EPOCHS = 4
KEYS: dict[str, dict[str, Any]] = {
    "asha": {"reduction_factor": 2},
    "hyperband": {"reduction_factor": 2},
    "median": {"min_trials": 2},
    "none": {},
    "one_epoch_top_k": {},
    "pbt": {"perturb": ["x1"]},
}
"""What the tests set unless they say otherwise; ASHA's rungs are then at epochs 1, 2 and 4."""

every_scheduler = pytest.mark.parametrize("name", sorted(map(name_of, SCHEDULERS)))
every_judging_scheduler = pytest.mark.parametrize(
    "name", sorted(set(map(name_of, SCHEDULERS)) - {"one_epoch_top_k", "pbt"})
)
"""All that judge a trial while it runs: the others stop all, and choose among them later."""
both_directions = pytest.mark.parametrize("direction", ["minimize", "maximize"])


@dataclass(frozen=True)
class Trial:
    """All that Ray's schedulers read of Ray's trial."""

    trial_id: str
    status: str = "RUNNING"


class BusyRay:
    """All that they ask of Ray. Here another trial always waits for a worker: a reason to pause."""

    def get_live_trials(self) -> set[Trial]:
        """The trials that have not ended."""
        return {Trial("next", status="PENDING")}


def run(
    scheduler: TrialScheduler,
    name: str,
    curve: Sequence[float],
    *,
    fails: bool = False,
    number: int = 0,
) -> tuple[list[str], TrialState]:
    """Show a scheduler a trial as Ray does; returns its decisions and how the trial ended.

    Ray asks for a decision after each report but one that ends the trial by itself, and hands the
    last report of every trial to `on_trial_complete`, of a stopped one too. The last report of a
    trial that fails repeats its last epoch and has no value. ``number`` is that of the trial, and
    with it hyperband's bracket; that of 0 has its rungs where ASHA has them.
    """
    ray, trial, decisions = BusyRay(), Trial(name), []
    results = [
        {EPOCH: epoch, OBJECTIVE: value, NUMBER: number}
        for epoch, value in enumerate(curve, start=1)
    ]
    if fails:
        results.append({EPOCH: len(curve), OBJECTIVE: math.nan, NUMBER: number})
    scheduler.on_trial_add(ray, trial)
    for result in results[:-1]:
        decisions.append(scheduler.on_trial_result(ray, trial, result))
        if decisions[-1] == STOP:
            scheduler.on_trial_complete(ray, trial, result)
            return decisions, TrialState.PRUNED
    scheduler.on_trial_complete(ray, trial, results[-1])
    return decisions, TrialState.FAIL if fails else TrialState.COMPLETE


def spec_with(name: str, direction: str = "minimize", **keys: int) -> ExperimentSpec:
    """A search of ``MAX_EPOCHS`` epochs under a scheduler, with ``keys`` of its section."""
    budget = {"n_trials": 9, "max_epochs": keys.pop("max_epochs", MAX_EPOCHS)}
    return parse_spec(
        BRANIN,
        "branin.yaml",
        [
            f"scheduler={json.dumps({'name': name} | KEYS[name] | keys)}",
            f"budget={json.dumps(budget)}",
            f"objective.direction={direction}",
        ],
        import_paths=None,  # pbt wants a trainable that Branin's function is not
    )


def flat(direction: str, goodness: float) -> list[float]:
    """A learning curve that is better the higher ``goodness`` is."""
    return [goodness if direction == "maximize" else -goodness] * MAX_EPOCHS


def test_every_scheduler_a_spec_can_name_has_a_builder() -> None:
    assert set(get_args(get_args(SchedulerSpec)[0])) == set(SCHEDULERS)


@every_judging_scheduler
@both_directions
def test_a_trial_better_than_all_before_goes_on(name: str, direction: str) -> None:
    scheduler = build_scheduler(spec_with(name, direction))
    for goodness in range(8):
        _, state = run(scheduler, str(goodness), flat(direction, goodness))
        assert state == TrialState.COMPLETE


@every_judging_scheduler
@both_directions
@pytest.mark.parametrize("grace_epochs", [1, 2])
def test_a_clearly_worse_trial_is_stopped_after_its_grace_epochs_by_all_but_none(
    name: str, direction: str, grace_epochs: int
) -> None:
    keys = {} if name == "none" else {"grace_epochs": grace_epochs}
    scheduler = build_scheduler(spec_with(name, direction, **keys))
    for goodness in (5, 6, 7):
        run(scheduler, str(goodness), flat(direction, goodness))
    decisions, _ = run(scheduler, "worse", flat(direction, 0))
    stopped = [CONTINUE] * (grace_epochs - 1) + [STOP]
    assert decisions == ([CONTINUE] * (MAX_EPOCHS - 1) if name == "none" else stopped)


def test_asha_stops_at_its_rungs_alone() -> None:
    """With reduction factor 3 and 9 epochs these are 1 and 3: at 2 even the worst goes on."""
    scheduler = build_scheduler(spec_with("asha", reduction_factor=3, max_epochs=9))
    for number in range(3):
        run(scheduler, str(number), [1.0] * 9)
    assert run(scheduler, "late", [1.0, 99.0, 99.0, 99.0])[0] == [CONTINUE, CONTINUE, STOP]
    _, state = run(scheduler, "beside the rungs", [1.0, 99.0, 1.0, 99.0, 99.0, 99.0])
    assert state == TrialState.COMPLETE


@pytest.mark.parametrize("reduction_factor", [2, 3, 4])
def test_asha_lets_one_in_the_reduction_factor_go_on(reduction_factor: int) -> None:
    """Whoever is among the best ``n / reduction_factor`` of ``n`` at the first rung goes on."""
    spec = spec_with("asha", reduction_factor=reduction_factor)
    n, decisions = 6 * reduction_factor, []
    for rank in range(n):  # 0 is the best
        scheduler = build_scheduler(spec)
        for other in range(n):
            run(scheduler, str(other), [float(other)])
        decisions += run(scheduler, "new", [rank + 0.5, 0.0])[0]
    assert decisions == [CONTINUE] * 6 + [STOP] * (n - 6)


def test_the_median_rule_waits_for_min_trials() -> None:
    scheduler = build_scheduler(spec_with("median", min_trials=3))
    for number in range(3):
        assert run(scheduler, str(number), flat("minimize", -number))[1] == TrialState.COMPLETE
    assert run(scheduler, "worst", flat("minimize", -10))[1] == TrialState.PRUNED


values = st.integers(-9, 9).map(float)  # few, so that curves meet
curves = st.lists(values, min_size=1, max_size=MAX_EPOCHS)
Trained = tuple[list[float], bool]
"""What a trial reported, and whether it then failed."""


@every_scheduler
@settings(deadline=None, max_examples=40)
@given(histories=st.lists(curves, max_size=8))
def test_a_trial_goes_on_or_stops_and_is_never_paused(
    name: str, histories: list[list[float]]
) -> None:
    """A paused trial would keep its worker, and Ray would start another one for the next."""
    scheduler = build_scheduler(spec_with(name))
    decided = {
        decision
        for number, curve in enumerate(histories)
        for decision in run(scheduler, str(number), curve, number=number)[0]
    }
    assert decided <= ({CONTINUE} if name == "none" else {CONTINUE, STOP})


@every_scheduler
@pytest.mark.parametrize("some_fail", [False, True], ids=["none failed", "some failed"])
@settings(deadline=None, max_examples=40)
@given(
    trials=st.lists(st.tuples(curves, st.booleans()), max_size=8),
    new=curves,
    direction=st.sampled_from(["minimize", "maximize"]),
)
def test_a_scheduler_rebuilt_from_the_study_decides_as_the_one_that_saw_it_live(
    name: str, some_fail: bool, trials: list[Trained], new: list[float], direction: str
) -> None:
    spec = spec_with(name, direction)
    live, study = build_scheduler(spec), optuna.create_study(direction=direction)
    for number, (curve, fails) in enumerate(trials):
        decisions, state = run(live, str(number), curve, fails=fails and some_fail, number=number)
        reported = curve[: len(decisions)] if state == TrialState.PRUNED else curve
        study.add_trial(
            optuna.trial.create_trial(
                state=state,
                value=curve[-1] if state == TrialState.COMPLETE else None,
                intermediate_values=dict(enumerate(reported, start=1)),
            )
        )
    rebuilt, number = build_scheduler(spec, study.trials), len(trials)
    assert run(rebuilt, "new", new, number=number) == run(live, "new", new, number=number)


@every_scheduler
def test_a_trial_that_went_on_is_told_whole_even_if_it_would_be_stopped_now(name: str) -> None:
    """It ran beside others that came as far only later, or its config was answered unasked."""
    study = optuna.create_study(direction="maximize")
    for goodness in (9, 9, 9, 0):
        curve = flat("maximize", goodness)
        study.add_trial(
            optuna.trial.create_trial(
                value=curve[-1], intermediate_values=dict(enumerate(curve, start=1))
            )
        )
    rebuilt = build_scheduler(spec_with(name, "maximize"), study.trials)
    decisions, _ = run(rebuilt, "new", flat("maximize", 1), number=4)
    assert decisions[-1] == (CONTINUE if name == "none" else STOP)


def test_one_epoch_top_k_stops_every_trial_after_its_first_epochs() -> None:
    scheduler = build_scheduler(spec_with("one_epoch_top_k", epochs=2))
    for goodness in (5, 9, 0):
        decisions, _ = run(scheduler, str(goodness), flat("minimize", goodness))
        assert decisions == [CONTINUE, STOP]


def test_pbt_stops_every_trial_after_each_generation() -> None:
    scheduler = build_scheduler(spec_with("pbt", interval_epochs=2))
    for goodness in (5, 9, 0):
        decisions, _ = run(scheduler, str(goodness), flat("minimize", goodness))
        assert decisions == [CONTINUE, STOP]


def test_each_bracket_of_hyperband_waits_longer_and_knows_its_own_trials_alone() -> None:
    """Rungs of bracket s begin at 2**s epochs; bracket 2 of 4 epochs has none to stop at."""
    spec = spec_with("hyperband")
    order = bracket_order(3, 2)
    for bracket, decisions in enumerate([[STOP], [CONTINUE, STOP], [CONTINUE] * 3]):
        number = order.index(bracket)
        scheduler = build_scheduler(spec)
        for other in range(3):
            run(
                scheduler,
                f"best of bracket {other}",
                flat("minimize", 9),
                number=order.index(other),
            )
        assert run(scheduler, "worse", flat("minimize", 0), number=number)[0] == decisions
        alone = build_scheduler(spec)
        for other in {0, 1, 2} - {bracket}:
            run(alone, f"best of bracket {other}", flat("minimize", 9), number=order.index(other))
        assert run(alone, "worse", flat("minimize", 0), number=number)[1] == TrialState.COMPLETE


def test_hyperband_gives_its_brackets_the_trials_of_the_paper() -> None:
    """Li et al. 2018, algorithm 1, line 3, for R = 81 and eta = 3: ceil(5 / (s + 1) * 3**s)."""
    assert bracket_graces(1, 3, 81) == [1, 3, 9, 27, 81]
    order = bracket_order(5, 3)
    assert [order.count(bracket) for bracket in range(5)] == [81, 34, 15, 8, 5]


@given(n_brackets=st.integers(1, 5), reduction_factor=st.integers(2, 4), part=st.floats(0, 1))
def test_the_brackets_are_mixed_from_the_first_trial_on(
    n_brackets: int, reduction_factor: int, part: float
) -> None:
    """However few trials a search has, each bracket has its share of them, less than two off."""
    order = bracket_order(n_brackets, reduction_factor)
    first = order[: round(part * len(order))]
    for bracket in range(n_brackets):
        share = order.count(bracket) / len(order)
        assert abs(first.count(bracket) - share * len(first)) < 2
