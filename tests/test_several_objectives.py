"""Several objectives: bad specs, the front, the rule of the winner, a search from end to end."""

from __future__ import annotations

import datetime as dt
import json
import sys
import threading
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from wsgiref.simple_server import make_server

import optuna
import optuna_dashboard
import pytest
import sqlalchemy as sa
from commands import Shell, assert_no_traceback
from hypothesis import given
from hypothesis import strategies as st
from one_worker import OneWorker
from optuna.trial import FrozenTrial, TrialState, create_trial
from without_ray import KilledError

from hpo.errors import SpecError
from hpo.results import Finalist, choose_finalists
from hpo.results.pareto import by_one_standard_error, front_of
from hpo.spec import ExperimentSpec, differences, parse_spec, spec_to_yaml
from storage import (
    ExperimentRecord,
    Ledger,
    RerunRecord,
    open_engine,
    open_optuna_storage,
    pareto_front,
    put_constraints,
)

SPEC = """
name: traded
trainable: sizes:train
objective:
  - {metric: score, direction: maximize}
  - {metric: weights, direction: minimize}
search_space: {width: {type: int, low: 1, high: 6}, x: {type: float, low: 0, high: 1}}
sampler: {name: gp, n_startup_trials: 3}
budget: {n_trials: 7}
finalists: {k: 2, n_seeds: 2, confirmations: 1}
"""
SIZES = """
def train(config):
    yield {"score": 0.5}
    yield {"score": config["width"] - config["x"] + config["seed"] / 1e12}

def constraints(config, trial):
    assert trial.wanted == ("score", "weights")
    return {"weights": config["width"] ** 2}
"""
CNN = SPEC.replace("sizes:train", "cnn").replace("score", "val_accuracy")
CNN = CNN.replace("metric: weights", "metric: n_parameters")
CNN = CNN.replace("width: {type: int, low: 1, high: 6}", "depth: {type: int, low: 1, high: 3}")
CNN = CNN.replace("x: {type: float, low: 0, high: 1}", "dropout: {type: float, low: 0, high: 0.5}")


def test_the_spec_reads_back_as_it_was_written() -> None:
    spec = parse_spec(CNN, "spec.yaml")
    assert parse_spec(spec_to_yaml(spec), "written") == spec
    swapped = "objective=[{metric: n_parameters, direction: minimize}, " + (
        "{metric: val_accuracy, direction: maximize}]"
    )
    changed = parse_spec(CNN, "spec.yaml", [swapped])
    assert changed.objective.metric == "n_parameters"
    assert len(differences(spec, changed)) == 1
    one = "objective={metric: val_accuracy, direction: maximize}"
    assert "objective: {metric: val_accuracy" in spec_to_yaml(parse_spec(CNN, "spec.yaml", [one]))


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        ("n_parameters", "n_parametrs", "6:14", "did you mean 'n_parameters'?"),
        ("n_parameters", "val_accuracy", "6:14", "'val_accuracy' is an objective twice"),
        ("sampler: {name: gp, n_startup_trials: 3}", "sampler: cmaes", "8:10", "sampler=nsga2"),
        ("budget:", "scheduler: asha\nbudget:", "9:12", "-o scheduler=none"),
        ("n_trials: 7", "n_trials: 7, target_value: 1", "9:37", "for one objective"),
        ("n_trials: 7", "n_trials: 7, patience_trials: 1", "9:40", "for one objective"),
        ("n_trials: 70", "n_trials: 70, terminator: true", "9:36", "for one objective"),
        ("  - {metric: n_parameters, direction: minimize}\n", "", "5:3", "two or three"),
        ("direction: minimize", "directon: minimize", "6:28", "did you mean 'direction'?"),
    ],
)
def test_what_does_not_go_with_several_objectives_is_told_at_its_place(
    old: str, new: str, place: str, words: str
) -> None:
    text = CNN.replace("n_trials: 7", "n_trials: 70, max_epochs: 3") if "70" in old else CNN
    assert old in text
    with pytest.raises(SpecError) as caught:
        parse_spec(text.replace(old, new), "spec.yaml")
    told = [problem for problem in caught.value.problems if words in problem]
    assert [problem.split(": ")[0] for problem in told] == [f"spec.yaml:{place}"]


def test_what_compares_searches_by_one_value_refuses_several(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(CNN)
    for command in (
        ("compare", "spec.yaml"),
        ("replay", "spec.yaml", "--table", "results.csv"),
    ):
        done = Shell(tmp_path).hpo(*command)
        assert done.returncode == 2
        assert f"hpo {command[0]} judges searches by one objective" in done.stderr
        assert_no_traceback(done)


def trials_of(values: Sequence[Sequence[float]], infeasible: set[int]) -> list[FrozenTrial]:
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"][: len(values[0])])
    for number, one in enumerate(values):
        trial = study.ask({"x": optuna.distributions.IntDistribution(0, 0)})
        put_constraints(trial, [1.0 if number in infeasible else -1.0])
        study.tell(trial, one)
    study.add_trial(create_trial(state=TrialState.FAIL))
    return study.trials


points = st.integers(2, 3).flatmap(
    lambda n: st.lists(st.tuples(*[st.integers(0, 5)] * n), min_size=1, max_size=12)
)


@given(values=points, infeasible=st.sets(st.integers(0, 11)))
def test_the_front_is_what_nothing_feasible_dominates(
    values: list[tuple[int, ...]], infeasible: set[int]
) -> None:
    """By the definition, word for word, and as Optuna has it."""
    directions = ("maximize", "minimize", "minimize")[: len(values[0])]
    trials = trials_of(values, infeasible)
    feasible = [n for n in range(len(values)) if n not in infeasible]

    def dominates(a: int, b: int) -> bool:
        gains = [
            (x - y) * (1 if direction == "maximize" else -1)
            for x, y, direction in zip(values[a], values[b], directions, strict=True)
        ]
        return all(gain >= 0 for gain in gains) and any(gain > 0 for gain in gains)

    expected = [n for n in feasible if not any(dominates(other, n) for other in feasible)]
    assert pareto_front(trials, directions) == expected
    study = optuna.create_study(directions=list(directions))
    study.add_trials(trials)
    assert sorted(trial.number for trial in study.best_trials) == expected


def finalist(number: int, values: Sequence[float], weights: float) -> Finalist:
    reruns = tuple(
        RerunRecord(
            trial_number=number,
            seed_index=index,
            seed=index,
            value=value,
            fail_reason=None,
            seconds=1.0,
            finished_at=dt.datetime(2026, 1, 1),
            others={"weights": weights},
        )
        for index, value in enumerate(values)
    )
    return Finalist(
        number=number,
        params={},
        search_value=9.0,
        reruns=reruns,
        n_seeds=len(values),
        other_search_values={"weights": 1e9},
    )


def traded(*overrides: str) -> ExperimentSpec:
    return parse_spec(SPEC, "spec.yaml", overrides, None)


def test_the_winner_is_the_smallest_within_one_standard_error_of_the_best() -> None:
    """The best has a mean of 0.90 and a standard error of 0.01."""
    best = finalist(0, [0.89, 0.91], 100)
    near, nearer = finalist(1, [0.895, 0.895], 50), finalist(2, [0.899, 0.899], 60)
    far = finalist(3, [0.889, 0.889], 1)
    ranked = [best, nearer, near, far]
    assert [one.number for one in by_one_standard_error(ranked, traded())] == [1, 0, 2, 3]
    alike = [best, finalist(4, [0.895, 0.895], 100)]
    assert by_one_standard_error(alike, traded())[0] is best  # of equal sizes the better one
    alone = [finalist(5, [0.9], 100), finalist(6, [0.89], 1)]  # one seed makes no error known
    assert by_one_standard_error(alone, traded())[0].number == 5


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], OneWorker]:
    """A search in a folder of its own, of a trainable that knows its size beforehand."""

    def begin(name: str) -> OneWorker:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "sizes.py").write_text(SIZES)
        monkeypatch.delitem(sys.modules, "sizes", raising=False)
        return OneWorker(SPEC, folder)

    return begin


def test_a_search_tells_the_study_all_values_and_goes_on_after_a_kill(
    worker: Callable[[str], OneWorker],
) -> None:
    whole, killed = worker("whole"), worker("killed")
    whole.search()
    with pytest.raises(KilledError):
        killed.search(n_reports=9)
    worker("killed").search()
    params = [trial.params for trial in whole.study.trials]
    assert [trial.params for trial in killed.study.trials] == params
    assert whole.study.metric_names == ["score", "weights"]
    for trial in whole.study.trials:
        assert trial.values[1] == trial.params["width"] ** 2
        assert trial.intermediate_values == {1: 0.5, 2: trial.values[0]}
    spec = whole.spec()
    front = front_of(whole.study.trials, spec)
    assert {t.number for t in choose_finalists(whole.study.trials, spec)} <= {
        t.number for t in front
    }


def test_an_objective_that_nothing_tells_is_a_failure_with_what_there_is(
    worker: Callable[[str], OneWorker],
) -> None:
    lacking = worker("lacking")
    (lacking.folder / "sizes.py").write_text(SIZES.replace('{"weights"', '{"size"'))
    del sys.modules["sizes"]
    lacking.search("budget.n_trials=1")
    reason = lacking.study.trials[0].user_attrs["fail_reason"]
    assert "reported no 'weights'" in reason
    assert "it reported: score; it knows before training: size" in reason


def test_optuna_dashboard_is_told_directions_names_and_values(
    worker: Callable[[str], OneWorker],
) -> None:
    """Of these it draws the Pareto front by itself."""
    shown = worker("shown")
    shown.search("budget.n_trials=3", "sampler=random")
    with make_server("127.0.0.1", 0, optuna_dashboard.wsgi(shown.study._storage)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/api/studies/{shown.study._study_id}"
            with urllib.request.urlopen(url) as answer:
                study = json.load(answer)
        finally:
            server.shutdown()
            thread.join()
    assert study["directions"] == ["maximize", "minimize"]
    assert study["objective_names"] == ["score", "weights"]
    best = {trial["number"] for trial in study["best_trials"]}
    assert best == {trial.number for trial in front_of(shown.study.trials, shown.spec())}


def test_values_of_other_objectives_are_recorded_in_a_database_of_before(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'hpo.db'}"
    open_optuna_storage(url)
    Ledger(open_engine(url))
    with open_engine(url).begin() as connection:
        connection.execute(sa.text("DROP TABLE hpo_other_values"))
    ledger = Ledger(open_engine(url))
    created = dt.datetime(2026, 1, 1)
    ledger.put(
        ExperimentRecord(
            id="id",
            name="traded",
            spec=SPEC,
            created_at=created,
            versions={},
            git_commit=None,
            data_fingerprint=None,
        )
    )
    (rerun, other) = finalist(3, [0.5, 0.25], 16).reruns
    ledger.add_rerun("id", rerun)
    ledger.add_confirmation("id", other)
    assert ledger.reruns("id") == [rerun]
    assert ledger.confirmations("id") == [other]


def test_a_run_of_several_objectives_reports_its_front(tmp_path: Path) -> None:
    (tmp_path / "sizes.py").write_text(SIZES)
    (tmp_path / "spec.yaml").write_text(SPEC)
    shell = Shell(tmp_path)
    done = shell.hpo("run", "spec.yaml", "-o", "sampler=sobol")
    assert done.returncode == 0, done.stderr
    assert "weights=" in done.stderr
    assert "smallest weights within 1 s.e. of the best score" in done.stdout
    page = (tmp_path / "runs" / "traded" / "report.html").read_text(encoding="utf-8")
    assert '<table id="front">' in page
    assert 'id="pareto-0"' in page
    again = shell.hpo("run", "spec.yaml", "-o", "sampler=sobol", "--resume")
    assert "there is nothing left to do" in again.stderr
    assert again.stdout == done.stdout
