"""A search in stages: a few parameters at a time, the others at the best that is known."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_worker import OneWorker
from optuna.trial import FrozenTrial, TrialState
from without_ray import KilledError

from hpo.errors import SpecError
from hpo.places import Places
from hpo.plan import plan_text
from hpo.search import StudySource
from hpo.search.space import start_value
from hpo.search.staged import shares
from hpo.spec import ExperimentSpec, check_params, parse_spec
from hpo.task_factory import TaskFactory
from hpo.tasks import EpochReport, TrialTask
from storage import is_infeasible, recorded_sampler, stage_of

SPEC = """
name: staged
trainable: hills:train
objective: {metric: score, direction: maximize}
fixed: {most: 9}
search_space:
  depth: {type: int, low: 1, high: 9}
  filters: {type: categorical, choices: [8, 16, 32]}
  lr: {type: float, low: 0.0001, high: 1, log: true}
  optimizer: {type: categorical, choices: [adam, sgd], default: sgd}
  momentum: {type: float, low: 0, high: 1, when: {optimizer: sgd}}
sampler: random
budget: {n_trials: 13}
stages: [[depth, filters], [lr], [optimizer, momentum]]
"""
HILLS = """
import math

def train(config):
    return (config["filters"] - abs(config["depth"] - 6) - abs(math.log10(config["lr"]) + 3)
            + config.get("momentum", 0.5))

def constraints(config, trial):
    if config["depth"] > config["most"]:
        raise ValueError(f"depth {config['depth']} does not fit")
    return {}
"""
STAGES = [{"depth", "filters"}, {"lr"}, {"optimizer", "momentum"}]
START = {"depth": 5, "filters": 8, "lr": 0.01, "optimizer": "sgd", "momentum": 0.5}

Begin = Callable[..., OneWorker]


@pytest.fixture
def begin(tmp_path: Path) -> Begin:
    """A search of ``SPEC``, of whose text arguments replace something."""
    (tmp_path / "hills.py").write_text(HILLS)

    def make(*replaced: tuple[str, str], name: str = "staged") -> OneWorker:
        text = SPEC
        for old, new in (("name: staged", f"name: {name}"), *replaced):
            text = text.replace(old, new)
        return OneWorker(text, tmp_path)

    return make


def incumbent_before(stage: int, trials: list[FrozenTrial]) -> dict[str, Any]:
    """What trials of ``stage`` differ from in its own parameters alone."""
    known = [
        trial
        for trial in trials
        if (stage_of(trial) or 0) < stage
        and trial.state == TrialState.COMPLETE
        and not is_infeasible(trial)
    ]
    return max(known, key=lambda trial: trial.value or 0.0).params if known else START


def assert_only_its_own_differ(trials: list[FrozenTrial]) -> None:
    for trial in trials:
        stage = stage_of(trial)
        assert stage is not None
        if stage > 0:
            incumbent = incumbent_before(stage, trials)
            others = START.keys() - STAGES[stage - 1]
            assert {name: trial.params.get(name) for name in others} == {
                name: incumbent.get(name) for name in others
            }


def stages(worker: OneWorker) -> list[int | None]:
    return [stage_of(trial) for trial in worker.study.trials]


@pytest.mark.parametrize("sampler", ["auto", "cmaes", "gp", "random", "sobol", "tpe"])
def test_in_a_stage_only_its_parameters_differ_from_the_incumbent(
    sampler: str, begin: Begin
) -> None:
    """The incumbent is the best of the stages before; the defaults are tried before these."""
    worker = begin(("random", sampler))
    worker.search()
    assert stages(worker) == [0] + [1] * 4 + [2] * 4 + [3] * 4
    assert_only_its_own_differ(worker.study.trials)
    space = worker.spec().search_space
    assert [check_params(space, trial.params) for trial in worker.study.trials] == [[]] * 13
    for stage, names in enumerate(STAGES, start=1):
        varied = [
            tuple(trial.params.get(name) for name in sorted(names))
            for trial in worker.study.trials
            if stage_of(trial) == stage
        ]
        assert len(set(varied)) > 1


def test_what_it_begins_with_comes_before_the_first_stage_and_counts(begin: Begin) -> None:
    """What it lacks is no matter of chance: these are the start values."""
    worker = begin(("stages", "enqueue: [{filters: 32}, {optimizer: adam}]\nstages"))
    worker.search()
    assert stages(worker) == [0] * 3 + [1] * 4 + [2] * 3 + [3] * 3
    first, second, third = (trial.params for trial in worker.study.trials[:3])
    assert first == START
    assert second == {**START, "filters": 32}
    assert third == {n: v for n, v in START.items() if n != "momentum"} | {"optimizer": "adam"}
    assert_only_its_own_differ(worker.study.trials)


@pytest.mark.parametrize("n_reports", [1, 4, 5, 6, 9, 12])
def test_a_search_that_is_killed_and_resumed_asks_for_the_same(
    n_reports: int, begin: Begin
) -> None:
    whole, killed = begin(name="whole"), begin(name="killed")
    whole.search()
    with pytest.raises(KilledError):
        killed.search(n_reports=n_reports)
    begin(name="killed").search()
    again = begin(name="killed").study
    assert [trial.params for trial in again.trials] == [
        trial.params for trial in whole.study.trials
    ]


def test_configs_that_are_refused_are_drawn_anew_in_their_stage(begin: Begin) -> None:
    worker = begin(("most: 9", "most: 5"))
    worker.search()
    trials = worker.study.trials
    whole = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(trials) > len(whole)
    assert [stage_of(trial) for trial in whole] == [0] + [1] * 4 + [2] * 4 + [3] * 4
    assert_only_its_own_differ(trials)


def test_with_a_larger_budget_the_last_stage_goes_on(begin: Begin) -> None:
    worker = begin()
    worker.search()
    worker.search("budget.n_trials=20")
    assert stages(worker) == [0] + [1] * 4 + [2] * 4 + [3] * 11
    assert_only_its_own_differ(worker.study.trials)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 999), n_workers=st.integers(1, 6), n_first=st.integers(0, 2))
def test_a_stage_begins_when_all_trials_of_the_one_before_have_ended(
    seed: int, n_workers: int, n_first: int
) -> None:
    """However many workers there are and in whatever order, and way, their trials end."""
    first = f"enqueue: {[{'depth': depth + 1} for depth in range(n_first)]}\nstages"
    text = SPEC.replace("hills:train", "trainables.analytic:train").replace("stages", first)
    spec = parse_spec(text.replace(", default: sgd", ""), "spec.yaml")
    study, rng = optuna.create_study(direction="maximize"), random.Random(seed)  # noqa: S311
    source = StudySource(study, spec, factory(spec), record_epoch=lambda _: None)
    running: list[TrialTask] = []
    while True:
        while len(running) < n_workers and (task := source.next_task()) is not None:
            running.append(task)
            assert len({stage_of(study.trials[one.number]) for one in running}) == 1
        if not running:
            break
        source.ended(running.pop(rng.randrange(len(running))), an_end(rng))
    by_stage = [stage_of(trial) for trial in study.trials]
    assert by_stage == sorted(by_stage, key=lambda stage: stage or 0)
    n_spent = [
        sum(stage_of(t) == s and not is_infeasible(t) for t in study.trials) for s in (1, 2, 3)
    ]
    n_opening = sum(stage_of(t) == 0 and not is_infeasible(t) for t in study.trials)
    assert n_spent == shares(13 - n_opening, 3)


def factory(spec: ExperimentSpec) -> TaskFactory:
    return TaskFactory(spec=spec, import_paths=(), folder=Path("none"), data_dir=Path("none"))


def an_end(rng: random.Random) -> EpochReport:
    if rng.random() < 0.2:
        return EpochReport(
            epoch=0,
            metrics={},
            seconds=0.0,
            ending="failed",
            fail_place=f"infeasible: {rng.random()}",
            fail_cause="infeasible",
        )
    ending = "complete" if rng.random() < 0.8 else None
    return EpochReport(epoch=1, metrics={"score": rng.random()}, seconds=0.0, ending=ending)


def test_where_to_begin_is_the_default_else_the_middle_of_the_scale() -> None:
    space = parse_spec(
        SPEC.replace("hills:train", "trainables.analytic:train"), "spec.yaml"
    ).search_space
    found = {name: start_value(parameter) for name, parameter in space.items()}  # type: ignore[arg-type]
    assert found == START


@given(n_trials=st.integers(-3, 999), n_stages=st.integers(1, 9))
def test_the_budget_is_shared_evenly_and_the_rest_goes_to_the_first(
    n_trials: int, n_stages: int
) -> None:
    sizes = shares(n_trials, n_stages)
    assert sum(sizes) == max(n_trials, 0)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1


def test_the_plan_and_the_record_tell_the_stages(begin: Begin, tmp_path: Path) -> None:
    worker = begin(("stages", "enqueue: [{filters: 32}]\nstages"))
    note = "depth filters (4) -> lr (4) -> optimizer momentum (3)"
    plan = plan_text(worker.spec(), Places.of(tmp_path))
    assert "sampler random in stages, scheduler none" in plan
    assert f"random in stages: {note}" in plan
    worker.source()
    assert recorded_sampler(worker.study) == ("random in stages", note)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("stages=[[depth, filters], [lr], [optimiser, momentum]]", "did you mean 'optimizer'?"),
        ("stages=[[depth, filters], [lr, depth], [optimizer, momentum]]", "in stage 1 already"),
        ("stages=[[depth], [optimizer, momentum]]", "missing: filters, lr"),
        ("stages=[[depth, filters, lr, optimizer, momentum], []]", "names no parameter"),
        ("stages=[[depth, filters, momentum], [lr, optimizer]]", "name both in one stage"),
        ("stages=[depth, filters]", "stages.0"),
        ("budget.n_trials=2", "3 stages need at least a trial each"),
        ("sampler=nsga2", "keeps one population"),
        ("sampler=grid", "is searched whole"),
        ("scheduler=one_epoch_top_k", "completes no trial before all are tried"),
    ],
)
def test_stages_that_make_no_sense_are_refused(override: str, problem: str) -> None:
    text = SPEC.replace("hills:train", "trainables.analytic:train")
    with pytest.raises(SpecError) as caught:
        parse_spec(text, "spec.yaml", [override])
    assert problem in str(caught.value)
