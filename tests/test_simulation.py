"""The simulated clock, the curves that are served on it, and tables in place of a study."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from hpo.curves import Course, Curve, Timeline
from hpo.errors import UsageError
from hpo.execution import SimulatedClock, simulate
from hpo.replay import simulated_search
from hpo.search import StudySource
from hpo.simulation import (
    Replayed,
    ServedCurves,
    Strategy,
    Trained,
    read_table,
    replay_text,
    strategy_as_json,
)
from hpo.simulation.outcome import common_times
from hpo.simulation.surrogate import Encoding
from hpo.spec import ExperimentSpec, LimitSpec, parse_spec
from hpo.task_factory import TaskFactory
from hpo.tasks import EpochReport, TaskList, TaskSource, TrialTask
from storage import create_study
from trainables.analytic import branin as branin_function
from trainables.analytic import train

Branin = Callable[..., ExperimentSpec]
FAILURE = EpochReport(
    epoch=1, metrics={}, seconds=3.0, ending="failed", fail_reason="no", fail_place="here"
)


def source_of(
    spec: ExperimentSpec, clock: SimulatedClock | None = None
) -> tuple[optuna.Study, StudySource]:
    """A search whose study is in memory."""
    study = create_study(InMemoryStorage(), spec.name, direction="minimize", metric="loss")
    tasks = TaskFactory(spec=spec, import_paths=(), folder=Path("x"), data_dir=Path("x"))
    source = StudySource(
        study, spec, tasks, record_epoch=lambda _: None, clock=clock or SimulatedClock()
    )
    return study, source


def curve(values: list[float], seconds: float = 1.0, **keys: Any) -> Curve:
    n = len(values)
    return Curve(values=values, seconds=[seconds] * n, origins=["recorded"] * n, **keys)


def branin_curve(task: TrialTask) -> Curve:
    """As the analytic trainable has it, at ten seconds an epoch."""
    losses = [metrics["loss"] for metrics in train(task.config, task.context)]
    return curve(losses, 10.0)


def task_list(spec: ExperimentSpec, n: int) -> TaskList:
    tasks = TaskFactory(spec=spec, import_paths=(), folder=Path("x"), data_dir=Path("x"))
    params = {"x1": 1.0, "x2": 1.0}
    return TaskList([tasks.trial(number, params) for number in range(n)], lambda *_: None)


# --- the clock ---


@settings(deadline=None, max_examples=50)
@given(
    seconds=st.lists(st.floats(0.1, 100.0), min_size=1, max_size=30),
    n_workers=st.integers(1, 8),
)
def test_workers_are_never_idle_while_a_task_waits(seconds: list[float], n_workers: int) -> None:
    """Graham 1969: such a schedule lasts at most total / workers + longest."""
    spec = parse_spec(SPEC, "branin.yaml", import_paths=None)
    curves = [curve([1.0], s) for s in seconds]
    stages: Iterator[TaskSource] = iter([task_list(spec, len(seconds))])
    timeline = simulate(stages, lambda task: curves[task.number], n_workers)
    total, longest = sum(seconds), max(seconds)
    assert len(timeline.courses) == len(seconds)
    assert max(total / n_workers, longest) <= timeline.makespan_s + 1e-6
    assert timeline.makespan_s <= total / n_workers + longest + 1e-6
    assert timeline.utilization == pytest.approx(total / n_workers / timeline.makespan_s)
    for course in timeline.courses:
        running = [c for c in timeline.courses if c.started_s <= course.started_s < c.ended_s]
        assert len(running) <= n_workers


def test_a_stage_begins_when_the_one_before_it_is_over(branin: Branin) -> None:
    clock, begins = SimulatedClock(), []

    def stages() -> Iterator[TaskSource]:
        for n_tasks in (3, 1):
            begins.append(clock.now_s)
            yield task_list(branin(), n_tasks)

    timeline = simulate(stages(), lambda _: curve([1.0, 2.0]), 2, clock)
    assert begins == [0.0, 4.0]
    assert timeline.makespan_s == 6.0
    assert timeline.utilization == 8 / 12


def test_what_a_stage_raises_is_raised(branin: Branin) -> None:
    class Broken(TaskList):
        def ended(self, task: TrialTask, report: EpochReport) -> None:
            raise UsageError("broken")

    broken = Broken([task_list(branin(), 1).next_task()], lambda *_: None)  # type: ignore[list-item]
    with pytest.raises(UsageError, match="broken"):
        simulate(iter([broken]), lambda _: curve([1.0]), 1)


@pytest.mark.parametrize("n_workers", [1, 5, 1024])
def test_the_study_is_told_what_the_workers_did(branin: Branin, n_workers: int) -> None:
    study, source = source_of(branin("scheduler=asha", "budget.n_trials=40"))
    timeline = simulate(iter([source]), branin_curve, n_workers)
    states = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
    assert {trial.number: trial.state for trial in study.trials} == {
        course.number: states[course.state] for course in timeline.courses
    }
    assert len(study.trials) == 40
    for course in timeline.courses:
        trial = study.trials[course.number]
        assert list(trial.intermediate_values.values()) == course.values
    # ASHA's rungs of a search of four epochs, at reduction factor 3, are 1 and 3.
    assert {len(c.values) for c in timeline.courses if c.state == "stopped"} <= {1, 3}
    assert {c.state for c in timeline.courses} == {"complete", "stopped"}
    assert timeline.best_so_far("minimize")[1][-1] == study.best_value


def test_the_same_search_twice_is_the_same(branin: Branin) -> None:
    timelines = []
    for _ in range(2):
        _, source = source_of(branin("sampler=tpe", "scheduler=asha", "budget.n_trials=30"))
        timelines.append(simulate(iter([source]), branin_curve, 4))
    assert timelines[0] == timelines[1]


def test_a_time_limit_counts_simulated_seconds(branin: Branin) -> None:
    clock = SimulatedClock()
    study, source = source_of(
        branin("budget={n_trials: 100, max_epochs: 4, time_limit_s: 95}"), clock
    )
    timeline = simulate(iter([source]), branin_curve, 1, clock)
    assert [course.state for course in timeline.courses] == ["complete", "complete", "stopped"]
    assert timeline.makespan_s == 100.0  # the report after the limit ends it
    assert study.trials[2].state == TrialState.WAITING


@pytest.mark.parametrize(("keeps_checkpoints", "n_epochs"), [(True, 6 + 2 * 3), (False, 6 + 2 * 4)])
def test_a_trial_goes_on_where_it_was_if_its_trainable_keeps_checkpoints(
    keeps_checkpoints: bool, n_epochs: int, branin: Branin
) -> None:
    """Of six trials of an epoch the best two come to four epochs, at ten seconds each."""
    spec = branin("scheduler={name: one_epoch_top_k, k: 2}")

    def curves(task: TrialTask) -> Curve:
        return replace(branin_curve(task), keeps_checkpoints=keeps_checkpoints)

    timeline = simulated_search(spec, curves, n_workers=1)
    assert timeline.n_epochs == n_epochs
    assert timeline.makespan_s == 10.0 * n_epochs
    assert sum(course.state == "complete" for course in timeline.courses) == 2


def test_a_failure_is_told_with_its_reason_and_after_its_time(branin: Branin) -> None:
    study, source = source_of(branin("budget.n_trials=1"))
    timeline = simulate(iter([source]), lambda _: curve([1.0], 2.0, failure=FAILURE), 1)
    assert study.trials[0].state == TrialState.FAIL
    assert study.trials[0].user_attrs["fail_reason"] == "no"
    assert (timeline.makespan_s, timeline.courses[0].state) == (5.0, "failed")


# --- what is served ---

SPEC = """
name: branin
trainable: table
objective: {metric: loss, direction: minimize}
search_space:
  x1: {type: float, low: -5, high: 10}
  x2: {type: float, low: 0, high: 15}
  net: {type: categorical, choices: [a, b, true, null]}
sampler: {name: random}
budget: {n_trials: 6, max_epochs: 4}
"""


def served(trained: list[Trained], max_epochs: int | None = 4) -> ServedCurves:
    space = parse_spec(SPEC, "branin.yaml", import_paths=None).search_space
    return ServedCurves(trained, space, max_epochs=max_epochs, start_s=0.5, seed=0)


def asked(x1: float, x2: float, net: Any = "a", seed: int = 0) -> TrialTask:
    spec = parse_spec(SPEC, "branin.yaml", import_paths=None)
    tasks = TaskFactory(spec=spec, import_paths=(), folder=Path("x"), data_dir=Path("x"))
    task = tasks.trial(0, {"x1": x1, "x2": x2, "net": net})
    context = type(task.context)(seed=seed, folder=Path("x"))
    return TrialTask(**{**vars(task), "context": context})


def whole(x1: float, x2: float, **keys: Any) -> Trained:
    """Four epochs of a learning curve down to Branin's value."""
    value = branin_function(x1, x2)
    values = tuple(value + 50 * 0.5**epoch for epoch in range(1, 5))
    params = {"x1": x1, "x2": x2, "net": "a"}
    return Trained(**{"params": params, "values": values, "seconds": (2.0,) * 4, **keys})


def grid(n: int) -> list[Trained]:
    return [whole(x1, x2) for x1 in np.linspace(-4, 9, n) for x2 in np.linspace(1, 14, n)]


def test_a_trained_config_is_served_as_it_was() -> None:
    curves, trained = served(grid(3)), grid(3)[4]
    served_curve = curves(asked(trained.params["x1"], trained.params["x2"]))
    assert tuple(served_curve.values) == trained.values
    assert tuple(served_curve.seconds) == trained.seconds
    assert set(served_curve.origins) == {"recorded"}
    assert served_curve.start_s == 0.5


def test_of_a_config_trained_several_times_the_seed_chooses() -> None:
    curves = served([whole(1.0, 1.0, values=(float(k),) * 4) for k in range(3)])
    assert [curves(asked(1.0, 1.0, seed=seed)).values[0] for seed in (3, 4, 5)] == [0, 1, 2]


def test_a_training_on_the_trials_own_seed_comes_before_the_others() -> None:
    """Of several on that seed the trial of the same number: it may have been stopped later."""
    numbered = [
        whole(1.0, 1.0, values=(float(k),) * 4, seed=seed, number=number)
        for k, (seed, number) in enumerate([(7, 3), (8, 4), (8, 0)])
    ]
    curves = served(numbered)
    assert [curves(asked(1.0, 1.0, seed=seed)).values[0] for seed in (7, 8, 5)] == [0, 2, 2]


LIMITS = {"weights": LimitSpec(max=5.0), "latency": LimitSpec(max=10.0)}


def limited(x1: float, x2: float, **keys: Any) -> Trained:
    """Refused beyond x1 = 0 for its weights; its latency is x2 + epoch, told in the second half."""
    facts, latency = {"weights": x1 + 5}, (np.nan, np.nan, x2 + 3, x2 + 4)
    if x1 <= 0:
        return whole(x1, x2, **{"facts": facts, "limited": {"latency": latency}, **keys})
    failure = replace(FAILURE, fail_cause="infeasible", facts=facts)
    return whole(x1, x2, values=(), seconds=(), facts=facts, failure=failure)


def limited_curves(*more: Trained) -> ServedCurves:
    space = parse_spec(SPEC, "branin.yaml", import_paths=None).search_space
    points = np.linspace(-4, 5, 6), np.linspace(1, 14, 6)
    trained = [limited(x1, x2) for x1 in points[0] for x2 in points[1]]
    return ServedCurves(
        [*trained, *more], space, max_epochs=4, start_s=0.5, seed=0, constraints=LIMITS
    )


def within_limits(x1: float, x2: float) -> TrialTask:
    return replace(asked(x1, x2), constraints=LIMITS)


def test_a_config_is_refused_where_what_is_limited_is_predicted_to_be_beyond() -> None:
    curves = limited_curves()
    refused = curves(within_limits(1.2, 5.0))
    assert refused.failure is not None
    assert refused.failure.is_infeasible
    assert refused.failure.facts == {"weights": pytest.approx(6.2, abs=0.2)}
    assert refused.failure.fail_place == "infeasible: constraints.weights.max=5"
    assert (refused.values, refused.start_s) == ((), 0.5)
    near = curves(within_limits(-0.3, 5.0))  # a refused one is the nearest
    assert near.failure is None
    assert near.facts == {"weights": pytest.approx(4.7, abs=0.2)}
    assert near.limited["latency"] == pytest.approx([np.nan, np.nan, 8, 9], abs=0.3, nan_ok=True)


def test_a_stopped_training_goes_on_with_what_it_told_of_its_limits() -> None:
    """As the others are predicted, from where it stopped."""
    latency = (np.nan, np.nan, 20.0)
    stopped = limited(
        *(-2.0, 6.0),
        values=whole(-2.0, 6.0).values[:3],
        seconds=(2.0,) * 3,
        is_stopped=True,
        limited={"latency": latency},
    )
    going_on = limited_curves(stopped)(within_limits(-2.0, 6.0))
    assert going_on.limited["latency"][2] == 20.0
    assert going_on.limited["latency"][3] == pytest.approx(21.0, abs=2.0)


def test_how_often_a_config_is_judged_wrongly_is_told() -> None:
    """Half of the configs are refused, and of the others those with a latency beyond 10."""
    error = limited_curves().limits_error
    assert error is not None
    assert error.n_judged == 36
    assert error.share is not None
    assert error.share < 0.5 * 6 / 36
    assert error.share_of_guess == pytest.approx(6 / 36)
    assert served(grid(3)).limits_error is None


def test_a_stopped_curve_goes_on_from_where_it_stopped_and_says_so() -> None:
    true = whole(0.0, 7.0).values
    stopped = whole(0.0, 7.0, values=true[:2], seconds=(2.0, 2.0), is_stopped=True)
    going_on = served([*grid(4), stopped])(asked(0.0, 7.0))
    assert tuple(going_on.values[:2]) == true[:2]
    assert list(going_on.origins) == ["recorded", "recorded", "extrapolated", "extrapolated"]
    assert going_on.values[3] == pytest.approx(true[3], abs=3)


def test_between_configs_it_is_interpolated_and_beyond_them_extrapolated() -> None:
    curves = served(grid(5))
    between = curves(asked(1.0, 6.0))
    assert set(between.origins) == {"interpolated"}
    assert between.values[3] == pytest.approx(whole(1.0, 6.0).values[3], abs=15)  # of 300
    assert between.seconds[0] == pytest.approx(2.0, rel=0.01)
    for beyond in (asked(9.5, 6.0), asked(1.0, 0.5), asked(1.0, 6.0, net="b")):
        assert set(curves(beyond).origins) == {"extrapolated"}


def test_epochs_that_no_neighbour_was_trained_for_are_extrapolated() -> None:
    stopped = whole(1.0, 6.0, values=(50.0,), seconds=(2.0,), is_stopped=True)
    near = served([*grid(3), stopped])(asked(1.01, 6.0))
    assert list(near.origins) == ["interpolated"] + ["extrapolated"] * 3


def test_a_config_fails_like_the_trained_one_it_is_nearest_to() -> None:
    failed = whole(1.0, 6.0, values=(50.0,), seconds=(2.0,), failure=FAILURE)
    curves = served([*grid(3), failed])
    assert curves(asked(1.0, 6.0)).failure == FAILURE
    near = curves(asked(1.01, 6.0))
    assert (near.failure, len(near.values)) == (FAILURE, 1)
    assert curves(asked(8.0, 13.0)).failure is None


def test_a_shorter_search_gets_the_beginning_of_a_curve() -> None:
    assert len(served(grid(3), max_epochs=2)(asked(-4.0, 1.0)).values) == 2


def test_the_error_is_told_on_configs_that_were_held_out() -> None:
    """A fine grid predicts itself; of values that are pure noise nothing can be predicted."""
    error = served(grid(7)).error
    assert error.n_final == 49
    assert error.final_rank_correlation is not None
    assert error.final_rank_correlation > 0.9
    assert error.final_mae is not None
    assert error.final_spread is not None
    assert error.final_mae < 0.3 * error.final_spread
    noise = np.random.default_rng(0).normal(size=49)
    noisy = [
        whole(t.params["x1"], t.params["x2"], values=(float(value),) * 4)
        for t, value in zip(grid(7), noise, strict=True)
    ]
    rank_correlation = served(noisy).error.final_rank_correlation
    assert rank_correlation is not None
    assert rank_correlation < 0.5


def test_the_same_config_is_never_both_learned_from_and_held_out() -> None:
    """Noise that repeats at each config would else look predictable."""
    noise = np.random.default_rng(0).normal(size=49)
    twice = [
        whole(t.params["x1"], t.params["x2"], values=(float(value),) * 4)
        for t, value in zip(grid(7), noise, strict=True)
        for _ in range(2)
    ]
    rank_correlation = served(twice).error.final_rank_correlation
    assert rank_correlation is not None
    assert rank_correlation < 0.5


@given(x1=st.floats(-5, 10), net=st.sampled_from(["a", "b", True, None]))
def test_params_are_encoded_on_their_own_scale(x1: float, net: Any) -> None:
    encoding = Encoding(parse_spec(SPEC, "branin.yaml", import_paths=None).search_space)
    row = encoding.row({"x1": x1, "net": net})
    assert row[0] == pytest.approx((x1 + 5) / 15)
    assert row[1] == -1  # x2 is absent
    assert np.count_nonzero(row[2:]) == 1


# --- tables ---

HEADER = "x1,x2,net,epoch_1,epoch_2,seconds,comment\n"


def table_file(folder: Path, text: str) -> Path:
    path = folder / "results.csv"
    path.write_text(text, encoding="utf-8")
    return path


def table_spec(*overrides: str) -> ExperimentSpec:
    return parse_spec(SPEC, "branin.yaml", ["budget.max_epochs=2", *overrides], None)


def test_a_table_is_read_as_configs_with_curves(tmp_path: Path) -> None:
    rows = "1,2,a,9,8,4,x\n1,2.0,True,7,,1,\n0,0,none,,,3,\n99,2,a,1,1,1,\n1,2,z,1,1,1,\n"
    table = read_table(table_file(tmp_path, HEADER + rows), table_spec())
    first, short, failed = table.trained
    assert first.params == {"x1": 1.0, "x2": 2.0, "net": "a"}
    assert (first.values, first.seconds) == ((9.0, 8.0), (2.0, 2.0))
    assert (short.params["net"], short.values, short.seconds) == (True, (7.0,), (1.0,))
    assert failed.params["net"] is None
    assert failed.failure is not None
    assert (table.n_outside, table.ignored_columns, table.n_epochs) == (2, ("comment",), 2)


def test_a_table_tells_what_constraints_limit_in_columns_of_their_names(tmp_path: Path) -> None:
    spec = table_spec("constraints={latency: {max: 3}, loss: {max: 9}}")
    rows = "1,2,a,9,8,4,x,5\n1,2.0,b,7,,1,,2\n1,2,b,,,1,,\n"
    text = HEADER.replace("comment", "comment,latency") + rows
    table = read_table(table_file(tmp_path, text), spec)
    assert [config.limited for config in table.trained] == [
        {"latency": (5.0, 5.0)},
        {"latency": (2.0,)},
        {},
    ]
    assert table.ignored_columns == ("comment",)
    with pytest.raises(UsageError, match="no column for 'latency', which `constraints` names"):
        read_table(table_file(tmp_path, HEADER + "1,2,a,9,8,4,x\n"), spec)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x1,x2,value\n1,1,1\n", "no column for 'net'"),
        ("x1,x2,net\n1,1,a\n", "neither a column `value` nor columns `epoch_1`"),
        ("x1,x2,net,value,epoch_1\n1,1,a,1,1\n", "both `value` and `epoch_1`"),
        ("x1,x2,net,epoch_1,epoch_3\n1,1,a,1,1\n", "no column `epoch_2`"),
        ("x1,x2,net,net,value\n1,1,a,a,1\n", "'net' is there twice"),
        ("x1,x2,net,value\n1,low,a,1\n", "line 2: `x2` must be a number, got 'low'"),
        ("x1,x2,net,value\n1,1,a,nan\n", "line 2: `value` must be a finite number, got 'nan'"),
        ("x1,x2,net,value,seconds\n1,1,a,1,-1\n", "line 2: `seconds` must be >= 0, got -1"),
        ("x1,x2,net,value\n1,99,a,1\n", "none of its 1 rows"),
        ("", "no column for 'x1'"),
    ],
)
def test_what_is_wrong_with_a_table_is_told(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError) as error:
        read_table(table_file(tmp_path, text), table_spec())
    assert told in str(error.value)


def test_a_column_of_problems_is_told_in_a_few_lines(tmp_path: Path) -> None:
    path = table_file(tmp_path, "x1,x2,net,value\n" + "1,1,a,?\n" * 30)
    with pytest.raises(UsageError, match="has 30 problems") as error:
        read_table(path, table_spec())
    assert len(str(error.value).splitlines()) == 7


def test_a_table_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read as CSV"):
        read_table(path, table_spec())
    with pytest.raises(UsageError, match="No such file"):
        read_table(tmp_path / "none.csv", table_spec())


# --- figures over seeds ---


def timeline_of(ends: Mapping[float, float]) -> Timeline:
    """Tasks of one epoch that end at a time with a value."""
    courses = [
        Course(
            number=number,
            started_s=0.0,
            ended_s=end,
            values=[value],
            seconds=[end],
            origins=["recorded"],
            state="complete",
        )
        for number, (end, value) in enumerate(ends.items())
    ]
    return Timeline(n_workers=len(courses), courses=courses)


def strategy_of(*ends: Mapping[float, float], name: str = "tpe") -> Strategy:
    searches = tuple(
        Replayed(seed=seed, timeline=timeline_of(e), computed_s=0.0) for seed, e in enumerate(ends)
    )
    return Strategy(sampler=name, scheduler="asha", n_workers=1000, searches=searches)


def test_a_search_without_a_value_yet_counts_as_the_worst() -> None:
    strategy = strategy_of({1.0: 5.0, 3.0: 4.0}, {2.0: 1.0}, {4.0: 9.0})
    low, median, high = strategy.band(np.array([0.5, 1.0, 2.0, 3.0, 4.0]), "minimize")
    assert np.array_equal(median, [np.nan, np.nan, 5.0, 4.0, 4.0], equal_nan=True)
    assert np.array_equal(low, [np.nan, 5.0, 1.0, 1.0, 1.0], equal_nan=True)
    assert np.array_equal(high, [np.nan, np.nan, np.nan, np.nan, 9.0], equal_nan=True)
    low, median, high = strategy.band(np.array([4.0]), "maximize")
    assert (low[0], median[0], high[0]) == (1.0, 5.0, 9.0)


def test_the_time_to_reach_a_value_is_a_median_over_all_seeds() -> None:
    strategy = strategy_of({1.0: 5.0, 3.0: 4.0}, {2.0: 1.0}, {4.0: 9.0})
    reached = strategy_as_json(strategy, [4.0, 0.0], "minimize")["reached"]
    assert reached[0] == {"value": 4.0, "median_s": 3.0, "n_seeds": 2}
    assert reached[1] == {"value": 0.0, "median_s": None, "n_seeds": 0}


def test_strategies_are_compared_at_the_same_times() -> None:
    times = common_times([strategy_of({1.0: 5.0}), strategy_of({1000.0: 5.0})])
    assert (times[0], times[-1]) == (1.0, pytest.approx(1000.0))


@pytest.mark.parametrize("value", [0.98765, 123456.789, -4.2e-9, 0.0])
@pytest.mark.parametrize("seconds", [0.001, 59.96, 3599.9, 1e6])
def test_the_tables_fit_80_columns(value: float, seconds: float) -> None:
    error = dict.fromkeys(
        ("final_mae", "final_spread", "final_rank_correlation", "seconds_mae"), value
    )
    strategy = strategy_of({seconds: value}, name="one_long_name_of_a_sampler")
    summary = {
        "name": "branin",
        "direction": "minimize",
        "metric": "loss",
        "trials": 100_000,
        "seeds": 20,
        "source": "30 recorded trials of branin",
        "start_s": seconds,
        "surrogate_error": {
            **error,
            "n_final": 12,
            "n_seconds": 1000,
            "seconds_rank_correlation": 0.5,
        },
        "limits_error": {"n_judged": 1000, "share": 0.5, "share_of_guess": 0.5},
        "strategies": [strategy_as_json(strategy, [value], "minimize")],
    }
    lines = replay_text(summary).splitlines()
    assert max(len(line) for line in lines) <= 80, lines
