"""How a search ends before its budget is spent, and that it goes on only if it is told to."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_worker import OneWorker
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.errors import NoSuccessfulTrialError
from hpo.search.ending import EarlyEnd
from hpo.search.terminator import Terminator
from hpo.spec import parse_spec
from storage import put_constraints, search_end

SPEC = """
name: ends
trainable: slopes:train
objective: {metric: score, direction: maximize}
search_space: {x: {type: int, low: 0, high: 99}}
sampler: random
budget: {n_trials: 12}
"""
SLOPES = """
def train(config):
    return config["x"]

def constraints(config, trial):
    return {"odd": config["x"] % 2, "x": config["x"]}
"""

Begin = Callable[..., OneWorker]


@pytest.fixture
def begin(tmp_path: Path) -> Begin:
    """A search of ``SPEC``, of whose text arguments replace something."""
    (tmp_path / "slopes.py").write_text(SLOPES)

    def make(*replaced: tuple[str, str]) -> OneWorker:
        text = SPEC
        for old, new in replaced:
            text = text.replace(old, new)
        return OneWorker(text, tmp_path)

    return make


def values(worker: OneWorker) -> list[float]:
    return [trial.params["x"] for trial in worker.study.trials]


def test_a_search_that_spends_its_budget_has_not_ended_early(begin: Begin) -> None:
    worker = begin()
    worker.search()
    assert worker.states() == ["COMPLETE"] * 12
    assert search_end(worker.study) is None


def test_it_ends_with_the_first_trial_that_reaches_the_target(begin: Begin) -> None:
    worker = begin()
    worker.search("budget.target_value=70")
    *before, last = values(worker)
    assert max(before) < 70 <= last
    end = search_end(worker.study)
    assert end is not None
    assert (end.by, end.limit) == ("target_value", 70)
    assert end.reason == f"trial {len(before)} reached target_value=70"


def test_a_target_is_reached_from_above_where_less_is_better(begin: Begin) -> None:
    worker = begin(("maximize", "minimize"))
    worker.search("budget.target_value=20")
    *before, last = values(worker)
    assert min(before) > 20 >= last


def test_a_trial_that_breaks_a_constraint_reaches_no_target(begin: Begin) -> None:
    """The first ones that are good enough are all infeasible, so the search goes on."""
    worker = begin(("budget", "constraints: {score: {max: 70}}\nbudget"))
    worker.search("budget.target_value=60")
    *before, last = values(worker)
    assert 60 <= last <= 70
    assert [x for x in before if x >= 60] == [x for x in before if x > 70] != []


def test_it_ends_when_so_many_trials_have_not_improved(begin: Begin) -> None:
    worker = begin()
    worker.search("budget.patience_trials=4")
    drawn = values(worker)
    assert len(drawn) < 12
    assert drawn.index(max(drawn)) == len(drawn) - 5


def test_a_search_that_has_ended_does_not_go_on_by_itself(begin: Begin) -> None:
    worker = begin()
    worker.search("budget.patience_trials=4")
    n = len(worker.study.trials)
    worker.search("budget.patience_trials=4")
    worker.search("budget.patience_trials=4", "budget.target_value=98")
    assert len(worker.study.trials) == n


@pytest.mark.parametrize(
    ("overrides", "n_more"),
    [
        pytest.param(["budget.patience_trials=6"], 2, id="more patience"),
        pytest.param([], None, id="no limit to it"),
        pytest.param(["budget.patience_trials=4", "budget.n_trials=13"], 4, id="more trials"),
    ],
)
def test_a_search_goes_on_if_its_condition_is_raised_or_taken_away(
    overrides: list[str], n_more: int | None, begin: Begin
) -> None:
    """With more trials patience begins anew; otherwise it counts from the incumbent."""
    worker = begin(("n_trials: 12", "n_trials: 99"))
    worker.search("budget.patience_trials=4", "budget.n_trials=12")
    n = len(worker.study.trials)
    assert n < 12
    best = max(values(worker))
    worker.study.sampler = optuna.samplers.RandomSampler(0)
    overrides = (
        overrides if "budget.n_trials=13" in overrides else [*overrides, "budget.n_trials=12"]
    )
    worker.search(*overrides, f"search_space.x.high={best}")  # so that nothing improves
    expected = 12 if n_more is None else min(n + n_more, 13)
    assert len(worker.study.trials) == expected


def test_the_time_limit_is_told_and_counts_anew_from_each_start(begin: Begin) -> None:
    worker = begin()
    worker.search("budget.time_limit_s=1e-9")
    end = search_end(worker.study)
    assert end is not None
    assert end.reason == "time_limit_s=1e-09 was reached"
    worker.search("budget.time_limit_s=999")
    assert len(worker.study.trials) == 12
    assert search_end(worker.study) is None


def test_configs_that_are_refused_cost_nothing(begin: Begin) -> None:
    worker = begin(("budget", "constraints: {odd: {max: 0}}\nbudget"))
    worker.search()
    states = worker.states()
    assert states.count("COMPLETE") == 12
    assert states.count("FAIL") > 0
    refused = {trial.number for trial in worker.study.trials if trial.params["x"] % 2}
    assert refused == {trial.number for trial in worker.study.trials if trial.state.name == "FAIL"}
    assert not refused & {number for number, _ in worker.trained}


def test_of_a_grid_each_infeasible_cell_is_a_cell(begin: Begin) -> None:
    worker = begin(("budget", "constraints: {odd: {max: 0}}\nbudget"), ("random", "grid"))
    worker.search("search_space.x.high=9")
    assert sorted(values(worker)) == list(range(10))
    assert worker.states().count("COMPLETE") == 5


def test_a_search_that_finds_nothing_feasible_ends_with_the_commonest_reason(begin: Begin) -> None:
    worker = begin(("budget", "constraints: {x: {min: 1000}}\nbudget"))
    with pytest.raises(
        NoSuccessfulTrialError, match=r"120 configs in a row .* constraints\.x\.min"
    ):
        worker.search()
    assert len(worker.study.trials) == 120


def test_first_configs_that_are_all_refused_for_one_cause_end_the_search_soon(
    begin: Begin, tmp_path: Path
) -> None:
    """As with a mistake in what is fixed. Whoever goes on after all gets as many again."""
    refuses = SLOPES.replace("return {", 'raise ValueError("n_train is too large")\n    return {')
    (tmp_path / "refuses.py").write_text(refuses)
    worker = begin(("slopes", "refuses"))
    for n in (20, 40):
        with pytest.raises(NoSuccessfulTrialError, match=r"20 configs .* n_train is too large"):
            worker.search()
        assert len(worker.study.trials) == n


@pytest.mark.parametrize(
    ("refused_by", "n"),
    [
        pytest.param(lambda _: "infeasible: n_train is too large", 20, id="one cause"),
        pytest.param(lambda number: f"infeasible: {number} is too large", 100, id="several"),
        pytest.param(lambda number: f"infeasible: {number > 0}", 100, id="another at first"),
        pytest.param(lambda _: "infeasible: constraints.odd.max=0", 100, id="a narrow limit"),
        pytest.param(lambda number: "infeasible" if number else None, 101, id="one was trained"),
    ],
)
def test_only_a_cause_that_no_config_escapes_ends_it_so_soon(
    refused_by: Callable[[int], str | None], n: int
) -> None:
    text = SPEC.replace("slopes:train", "trainables.analytic:train")
    spec = parse_spec(text, "spec.yaml", ["budget.n_trials=2"])
    study = optuna.create_study(direction="maximize")
    early_end = EarlyEnd(study, spec)
    for number in range(n):
        assert early_end.judge(number) is None
        trial = study.ask()
        if (cause := refused_by(number)) is None:
            study.tell(trial, 1.0)
        else:
            put_constraints(trial, [1.0])
            trial.set_user_attr("fail_place", cause)
            study.tell(trial, state=TrialState.FAIL)
    if refused_by(0) is None:
        assert early_end.judge(n) is not None
    else:
        with pytest.raises(NoSuccessfulTrialError, match=f"{n} configs in a row"):
            early_end.judge(n)


def test_with_something_to_show_it_ends_early_instead(begin: Begin) -> None:
    worker = begin(("budget", "constraints: {x: {max: 1000}}\nbudget"))
    worker.search("budget.n_trials=2")
    worker.search("constraints.x.max=-1", "budget.n_trials=3")
    end = search_end(worker.study)
    assert end is not None
    assert end.by == "infeasible"
    assert len(worker.study.trials) == 102


ended = st.sampled_from(["COMPLETE", "PRUNED", "FAIL", "infeasible", "refused"])


@settings(deadline=None, max_examples=60)
@given(
    trials=st.lists(st.tuples(ended, st.integers(0, 9)), max_size=12), patience=st.integers(1, 5)
)
def test_patience_counts_what_follows_the_best_feasible_trial(
    trials: list[tuple[str, int]], patience: int
) -> None:
    text = SPEC.replace("slopes:train", "trainables.analytic:train")
    spec = parse_spec(text, "spec.yaml", [f"budget.patience_trials={patience}"])
    study = optuna.create_study(direction="maximize")
    early_end = EarlyEnd(study, spec)
    best, n_since, is_over = -math.inf, 0, False
    for kind, value in trials:
        trial = study.ask()
        if kind in ("infeasible", "refused"):
            put_constraints(trial, [1.0])
        is_whole = kind in ("COMPLETE", "infeasible")
        state = TrialState[kind] if kind.isupper() else TrialState.FAIL
        study.tell(trial, value if is_whole else None, TrialState.COMPLETE if is_whole else state)
        if kind == "COMPLETE" and value > best:
            best, n_since = value, 0
        elif kind != "refused" and best > -math.inf:
            n_since += 1
        is_over = n_since >= patience
        assert (early_end.judge(len(study.trials)) is not None) == is_over
        if is_over:
            break


def near_the_bottom(n: int, *, is_settled: bool) -> list[FrozenTrial]:
    """Trials of a bowl: at random, or after 20 of these at its bottom."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    space = {name: FloatDistribution(-5, 5) for name in "xy"}
    for number in range(n):
        if is_settled and number >= 20:
            study.enqueue_trial(dict.fromkeys(space, 0.001 * (number - 20)))
        trial = study.ask(space)  # type: ignore[arg-type]
        study.tell(trial, sum(value**2 for value in trial.params.values()))
    return study.trials


def test_the_terminator_stops_where_there_is_nothing_to_gain_and_not_before() -> None:
    minimize = StudyDirection.MINIMIZE
    assert not Terminator(0, minimize).says_stop(near_the_bottom(29, is_settled=True))
    assert Terminator(0, minimize).says_stop(near_the_bottom(30, is_settled=True))
    assert not Terminator(0, minimize).says_stop(near_the_bottom(30, is_settled=False))


def test_the_terminator_says_the_same_after_a_resume() -> None:
    """Its threshold comes from the first trials, its random numbers from how many there are."""
    trials, live = near_the_bottom(32, is_settled=False), Terminator(7, StudyDirection.MINIMIZE)
    before = [live.says_stop(trials[:n]) for n in (30, 31, 32)]
    assert before[-1] == Terminator(7, StudyDirection.MINIMIZE).says_stop(trials)
