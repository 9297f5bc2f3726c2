"""What a search begins with: defaults, enqueued params, the best of other experiments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from commands import Shell, assert_no_traceback
from conftest import BRANIN
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial
from test_space import conditional_spaces, small

from hpo.chosen_config import chosen_config
from hpo.errors import UsageError
from hpo.going_on import find_record
from hpo.places import Places
from hpo.search import (
    Space,
    StudySource,
    ask,
    build_sampler,
    distributions,
    enqueue_opening,
    grid,
    n_trials_of,
    narrowed,
    opening_of,
    record_opening,
    warm_params,
)
from hpo.spec import ExperimentSpec, GridSpec, check_params, parse_recorded_spec, parse_spec
from hpo.task_factory import TaskFactory
from hpo.tasks import EpochReport
from hpo.workspace import Workspace, open_workspace
from storage import create_study, open_optuna_storage, put_constraints

Params = dict[str, Any]

OPTIMIZERS = """
name: optimizers
trainable: trainables.analytic:train
objective: {metric: loss, direction: minimize}
search_space:
  optimizer: {type: categorical, choices: [sgd, adam], default: adam}
  lr: {type: float, low: 0.001, high: 1, log: true, default: 0.01}
  momentum: {type: float, low: 0, high: 1, default: 1, when: {optimizer: sgd}}
  depth: {type: int, low: 1, high: 5}
enqueue:
  - {optimizer: sgd, lr: 1, momentum: 0.5, depth: 2}
  - {optimizer: adam, lr: 0.01}
  - {depth: 4}
sampler: random
budget: {n_trials: 8}
"""


def optimizers(*overrides: str) -> ExperimentSpec:
    return parse_spec(OPTIMIZERS, "optimizers.yaml", overrides)


def asked(spec: ExperimentSpec, study: optuna.Study | None = None) -> list[Params]:
    """What a search asks for from its beginning to its end; nothing is trained."""
    study = study or optuna.create_study()
    study.sampler = build_sampler(spec.sampler, spec.search_space, spec.seed, spec.budget.n_trials)
    enqueue_opening(study, spec)
    trials = []
    while len(trials) < n_trials_of(spec):
        trials.append(ask(study, spec.search_space))
        study.tell(trials[-1], 0.0)
    return [trial.params for trial in trials]


def test_defaults_come_first_then_what_is_enqueued_and_what_they_lack_is_drawn() -> None:
    """The second entry says what the defaults say: it is tried once."""
    first, second, third, fourth, *_ = asked(optimizers())
    assert {**first, "depth": None} == {"optimizer": "adam", "lr": 0.01, "depth": None}
    assert second == {"optimizer": "sgd", "lr": 1.0, "momentum": 0.5, "depth": 2}
    assert third["depth"] == 4
    assert third["lr"] not in (0.01, 1.0)
    assert fourth["lr"] not in (0.01, 1.0)
    assert opening_of(optimizers()) == [
        {"optimizer": "adam", "lr": 0.01},
        {"optimizer": "sgd", "lr": 1.0, "momentum": 0.5, "depth": 2},
        {"depth": 4},
    ]


def test_a_whole_number_given_for_a_float_is_the_float_a_sampler_would_draw() -> None:
    (entry,) = [params for params in opening_of(optimizers()) if "momentum" in params]
    assert type(entry["lr"]) is float


def test_the_default_of_a_parameter_counts_where_the_draw_makes_it_active() -> None:
    """Nobody said which optimizer: whichever is drawn, momentum is 1 or is not there."""
    space = "search_space.optimizer={type: categorical, choices: [sgd, adam]}"
    firsts = [asked(optimizers(space, "enqueue=[]", f"seed={n}"))[0] for n in range(12)]
    assert {(p["optimizer"], p.get("momentum")) for p in firsts} == {("sgd", 1.0), ("adam", None)}


def test_a_config_chosen_by_hand_has_what_its_choices_make_active() -> None:
    """What is chosen decides about others; what is left open is as in trial 0."""
    assert "momentum" not in chosen_config(optimizers(), [])
    config = chosen_config(optimizers(), ["optimizer=sgd"])
    assert (config["optimizer"], config["momentum"], config["lr"]) == ("sgd", 1.0, 0.01)
    beside_the_space = chosen_config(optimizers(), ["optimizer=lion"])
    assert "momentum" not in beside_the_space


def test_a_null_that_is_a_choice_can_be_the_default() -> None:
    space = "search_space={norm: {type: categorical, choices: [batch, null], default: null}}"
    assert opening_of(optimizers(space, "enqueue=[]")) == [{"norm": None}]
    undecided = "search_space={norm: {type: categorical, choices: [batch, null]}}"
    assert opening_of(optimizers(undecided, "enqueue=[]")) == []


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'hpo.db'}"


def stored(url: str, name: str = "optimizers") -> optuna.Study:
    """The study as a new process opens it."""
    storage = open_optuna_storage(url)
    if name in optuna.get_all_study_names(storage):
        return optuna.load_study(study_name=name, storage=storage)
    return create_study(storage, name, direction="minimize", metric="loss")


@pytest.mark.parametrize("n_there", [0, 1, 2, 3])
def test_a_kill_while_the_queue_was_filled_loses_and_doubles_nothing(
    url: str, n_there: int
) -> None:
    study = stored(url)
    record_opening(study, opening_of(optimizers()))
    for params in opening_of(optimizers())[:n_there]:
        study.enqueue_trial(params)
    assert asked(optimizers(), stored(url)) == asked(optimizers())


def test_a_search_that_goes_on_does_not_begin_again(url: str) -> None:
    whole = asked(optimizers())
    first = asked(optimizers("budget.n_trials=4"), stored(url))
    again = stored(url)
    spec = optimizers()
    again.sampler = build_sampler(spec.sampler, spec.search_space, 0, spec.budget.n_trials)
    enqueue_opening(again, optimizers())
    assert first + [ask(again, optimizers().search_space).params for _ in range(4)] == whole


def test_the_opening_counts_in_the_budget(
    url: str, tmp_path: Path, branin: Callable[..., ExperimentSpec]
) -> None:
    spec = branin("enqueue=[{x1: 1}, {x1: 2}]", "budget.n_trials=3")
    tasks = TaskFactory(spec=spec, import_paths=(), folder=tmp_path, data_dir=tmp_path)
    source = StudySource(stored(url), spec, tasks, record_epoch=lambda _: None)
    configs = []
    while task := source.next_task():
        configs.append(task.config)
        report = EpochReport(epoch=1, metrics={"loss": 1.0}, seconds=0.1, ending="complete")
        source.ended(task, report)
    assert len(configs) == 3
    assert [config["x1"] for config in configs[:2]] == [1.0, 2.0]


def test_a_grid_goes_on_behind_what_was_enqueued_and_repeats_no_cell() -> None:
    space = (
        "search_space={a: {type: int, low: 0, high: 2}, "
        "b: {type: categorical, choices: [x, y], default: y}, "
        "c: {type: float, low: 0, high: 1, grid: 3, when: {b: x}}}"
    )
    enqueue = "enqueue=[{b: x, c: 0.3, a: 1}, {a: 2, b: y}, {a: 0}]"
    spec = optimizers(space, enqueue, "sampler=grid", "budget.n_trials=100")
    trials = asked(spec)
    assert len(trials) == n_trials_of(spec) == 12 + 1  # one lies between two points
    assert trials[0]["b"] == "y"
    assert trials[1] == {"a": 1, "b": "x", "c": 0.3}
    assert sorted(map(repr, trials[:1] + trials[2:])) == sorted(map(repr, grid(spec.search_space)))


@settings(deadline=None, max_examples=40)
@given(conditional_spaces(small), st.data())
def test_a_grid_of_any_space_tries_each_cell_once_whatever_is_enqueued(
    space: Space, data: st.DataObject
) -> None:
    """Some values of some cells are enqueued, in any order, whole or in part."""
    cells = grid(space)
    enqueue = []
    for cell in data.draw(st.lists(st.sampled_from(cells), max_size=4)):
        names = data.draw(st.sets(st.sampled_from(list(cell))))
        enqueue.append({name: cell[name] for name in cell if name in names})
    spec = optimizers("budget.n_trials=100000").model_copy(
        update={"search_space": space, "enqueue": enqueue, "sampler": GridSpec(name="grid")}
    )
    trials = asked(spec)
    assert len(trials) == n_trials_of(spec) == len(cells)
    assert all(cell in trials for cell in cells)
    assert not any(check_params(space, params) for params in trials)


def with_trials(study: optuna.Study, spec: ExperimentSpec, *trials: tuple[Params, Any]) -> None:
    """Add finished trials: params and value; None is a failed one."""
    every = distributions(spec.search_space)
    for params, value in trials:
        study.add_trial(
            create_trial(
                params=params,
                distributions={name: every[name] for name in params},
                value=value,
                state=TrialState.FAIL if value is None else TrialState.COMPLETE,
            )
        )


def test_the_best_distinct_complete_configs_of_another_study_are_taken(url: str) -> None:
    spec = optimizers()
    study = stored(url)
    adam = {"optimizer": "adam", "depth": 1}
    with_trials(
        study,
        spec,
        ({**adam, "lr": 0.1}, 3.0),
        ({**adam, "lr": 0.2}, 1.0),
        ({**adam, "lr": 0.2}, 1.5),
        ({**adam, "lr": 0.3}, None),
        ({**adam, "lr": 0.4}, 2.0),
        ({**adam, "lr": 0.5}, 4.0),
    )
    infeasible = study.ask()
    infeasible.suggest_float("lr", 0.001, 1, log=True)
    put_constraints(infeasible, [1.0])
    study.tell(infeasible, 0.0)
    best = warm_params(study, {}, spec.search_space)
    assert [params["lr"] for params in best] == [0.2, 0.4, 0.1]


def test_what_of_another_config_does_not_fit_is_left_out(url: str) -> None:
    """Unknown names, values outside, conditions that do not hold; a fixed value may fit."""
    other, study = optimizers(), stored(url)
    with_trials(study, other, ({"optimizer": "sgd", "lr": 0.5, "momentum": 0.1, "depth": 5}, 1.0))
    space = optimizers(
        "search_space.lr.high=0.1",
        "search_space.momentum.low=0.2",
        "search_space.block={type: categorical, choices: [vgg, dense]}",
        "enqueue=[]",
    ).search_space
    assert warm_params(study, {"block": "vgg", "noise": 1}, space) == [
        {"optimizer": "sgd", "depth": 5, "block": "vgg"}
    ]
    nothing = optimizers("search_space={x: {type: int, low: 0, high: 1}}", "enqueue=[]")
    assert warm_params(study, {}, nothing.search_space) == []


def test_of_a_maximized_metric_the_largest_values_are_the_best(url: str) -> None:
    spec = optimizers()
    study = create_study(open_optuna_storage(url), "max", direction="maximize", metric="loss")
    with_trials(study, spec, *[({"depth": depth}, float(depth)) for depth in (1, 3, 2, 5, 4)])
    assert [p["depth"] for p in warm_params(study, {}, spec.search_space)] == [5, 4, 3]


@pytest.fixture
def here(tmp_path: Path) -> Shell:
    """A user's folder; no Ray."""
    shell = Shell(tmp_path)
    shell.write("branin.yaml", BRANIN)
    return shell


def begin(here: Shell, *overrides: str, resume: bool = False) -> Workspace:
    """The workspace of the branin spec, as `hpo run` lays it out."""
    places = Places.of(here.folder)
    spec = parse_spec(BRANIN, "branin.yaml", overrides)
    return open_workspace(spec, places, find_record(spec, places, resume=resume))


def test_a_warm_start_is_decided_when_the_experiment_begins(here: Shell) -> None:
    """What the other experiment finds later changes nothing."""
    other = begin(here, "name=other", "fixed.noise=0.1")
    with_trials(other.study, other.spec, ({"x1": 3.0, "x2": 2.0}, 1.0))
    warm = ("name=warm", "warm_start=[other]", "enqueue=[{x1: -3, x2: 12}]")
    begun = begin(here, *warm)
    with_trials(other.study, other.spec, ({"x1": 3.1, "x2": 2.1}, 0.5))
    resumed = begin(here, *warm, resume=True)
    expected = [{"x1": -3.0, "x2": 12.0}, {"x1": 3.0, "x2": 2.0}]
    assert asked(begun.spec, resumed.study)[:2] == expected
    assert [trial.value for trial in resumed.study.trials[:2]] == [0.0, 0.0]  # measured anew


def test_an_unknown_experiment_to_begin_from_is_refused_before_anything_is_recorded(
    here: Shell,
) -> None:
    begin(here, "name=other")
    done = here.hpo("run", "branin.yaml", "-owarm_start=[othr, other]")
    assert done.returncode == 2
    assert "warm_start: no experiment 'othr'" in done.stderr
    assert "known: other" in done.stderr
    assert_no_traceback(done)
    assert optuna.get_all_study_names(here.storage_url) == ["other"]
    assert here.hpo("run", "branin.yaml", "-owarm_start=[othr]", "--dry-run").returncode == 2


def test_an_experiment_cannot_begin_from_itself(here: Shell) -> None:
    with pytest.raises(UsageError, match="no experiment 'branin'"):
        begin(here, "warm_start=[branin]")


def test_the_plan_shows_what_the_search_begins_with(here: Shell) -> None:
    other = begin(here, "name=other")
    with_trials(other.study, other.spec, ({"x1": 3.0, "x2": 2.0}, 1.0))
    done = here.hpo(
        "run", "branin.yaml", "--dry-run", "-owarm_start=[other]", "-oenqueue=[{x1: 1.5, x2: 7}]"
    )
    *_, heading, first, second, _, _ = done.stdout.splitlines()
    assert (heading, first, second) == ("first configs", "  x1=1.5 x2=7", "  x1=3 x2=2")


def test_a_rate_outside_of_the_range_that_was_found_is_drawn_anew() -> None:
    """The opening is decided before the range test, and queued behind it."""
    lr = "{type: float, low: 0.001, high: 1, log: true, default: 0.01}"
    spec = parse_recorded_spec(OPTIMIZERS.replace(lr, "{from: lr_finder}"))
    spec = spec.model_copy(update={"enqueue": []})
    study = optuna.create_study()
    warm = [{"depth": 1, "lr": 0.5}, {"depth": 2, "lr": 0.05}]
    record_opening(study, opening_of(spec, warm))
    _, outside, inside, *_ = asked(narrowed(spec, 0.01, 0.1), study)
    assert outside["depth"] == 1
    assert outside["lr"] != 0.5
    assert (inside["depth"], inside["lr"]) == (2, 0.05)
