"""`hpo replay`: a real study again on a simulated clock, tables, and what it refuses."""

from __future__ import annotations

import csv
import json
from functools import partial
from typing import Any

import numpy as np
import optuna
import pytest
from commands import Shell, assert_no_traceback
from conftest import BRANIN
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler
from test_schedulers import Trial

from hpo.execution import TrialDrive
from hpo.execution.actor import result_of
from hpo.places import Places
from hpo.replay import Replay, Wanted, replay_study
from hpo.search import StudySource
from hpo.spec import parse_spec
from hpo.tasks import TrialTask
from hpo.workspace import open_workspace
from storage import open_optuna_storage

STATES = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
SPEC = """
name: studied
trainable: analytic
objective: {metric: loss, direction: minimize}
fixed: {noise: 0.1}
search_space:
  x1: {type: float, low: -5, high: 10}
  x2: {type: float, low: 0, high: 15}
sampler: {name: tpe, n_startup_trials: 5}
scheduler: {name: asha, reduction_factor: 2}
budget: {n_trials: 16, max_epochs: 4}
concurrency: 1
finalists: {k: 1, n_seeds: 1}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A folder in which nothing needs Ray."""
    return Shell(tmp_path_factory.mktemp("replays"))


@pytest.fixture(scope="module")
def studied(folder: Shell) -> Shell:
    """The folder of a finished study."""
    folder.write("spec.yaml", SPEC)
    write_study(folder, SPEC)
    return folder


def study_of(shell: Shell, name: str = "studied") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=open_optuna_storage(shell.storage_url))


def replayed(shell: Shell, **wanted: Any) -> Replay:
    places = Places.of(shell.folder, {})
    return replay_study("studied", places, Wanted(**wanted), lambda _: None)


def write_study(shell: Shell, text: str, *overrides: str, n_trials: int | None = None) -> None:
    """A study as a run leaves it, ended after ``n_trials``: trained here, one trial at a time."""
    spec = parse_spec(text, "spec.yaml", overrides)
    workspace = open_workspace(spec, Places.of(shell.folder, {}), None)
    record = partial(workspace.ledger.put_epoch, workspace.experiment.id)
    source = StudySource(workspace.study, spec, workspace.tasks, record_epoch=record)
    n_left = n_trials or spec.budget.n_trials
    while n_left and (task := source.next_task()) is not None:
        train(source, task)
        n_left -= 1


def train(source: StudySource, task: TrialTask) -> None:
    """Train until the trainable or the scheduler ends it."""
    drive, trial = TrialDrive(task), Trial(str(task.number))
    scheduler: Any = source.scheduler
    scheduler.on_trial_add(None, trial)
    while (report := drive.next_report()).ending is None:
        result = result_of(task, report)
        if scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP:
            break
        source.reported(task, report)
    scheduler.on_trial_complete(None, trial, result_of(task, report))
    source.ended(task, report)


def test_the_record_has_the_best_so_far_of_the_study_exactly(studied: Shell) -> None:
    timeline = replayed(studied, n_seeds=1).strategies[0].timelines[0]
    trials = study_of(studied).trials
    begin = min(trial.datetime_start for trial in trials if trial.datetime_start)
    complete = [t for t in trials if t.state == TrialState.COMPLETE and t.datetime_complete]
    complete.sort(key=lambda trial: trial.datetime_complete or begin)
    values = np.minimum.accumulate([trial.value or 0.0 for trial in complete])
    ends = [(t.datetime_complete or begin) - begin for t in complete]
    is_better = np.diff(values, prepend=np.inf) < 0
    times, best = timeline.best_so_far("minimize")
    assert best.tolist() == values[is_better].tolist()
    assert times.tolist() == [e.total_seconds() for e, b in zip(ends, is_better, strict=True) if b]


def test_one_trial_at_a_time_the_studys_own_strategy_repeats_the_study(studied: Shell) -> None:
    assert_repeats(studied)


def test_so_it_does_with_the_study_of_a_real_run(shell: Shell) -> None:
    shell.write("spec.yaml", SPEC)
    done = shell.hpo("run", "spec.yaml")
    assert done.returncode == 0, done.stderr
    assert_repeats(shell)


def assert_repeats(shell: Shell) -> None:
    """Same sampler, scheduler and seed: every config, curve and decision is the recorded one."""
    result = replayed(shell, n_seeds=1, workers=[1])
    record, simulated = (strategy.timelines[0] for strategy in result.strategies)
    trials = study_of(shell).trials
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    for course, recorded in zip(simulated.courses, record.courses, strict=True):
        trial = trials[course.number]
        assert STATES[course.state] == trial.state
        assert dict(enumerate(course.values, start=1)) == trial.intermediate_values
        assert list(course.seconds) == list(recorded.seconds)
    best = simulated.best_so_far("minimize")[1]
    assert best.tolist() == record.best_so_far("minimize")[1].tolist()
    assert simulated.origins.keys() == {"recorded"}
    assert result.error is None  # nothing was predicted


def test_a_user_sees_a_table_and_gets_page_picture_and_tables(studied: Shell) -> None:
    done = studied.hpo(
        *("replay", "studied", "--samplers", "tpe,random", "--schedulers", "asha,none"),
        *("--workers", "1,64", "--seeds", "2", "--trials", "20", "--reach", "40,1.5"),
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(len(line) for line in lines) <= 80
    assert sum(line.startswith("random/none") for line in lines) == 6  # two workers, three tables
    assert "reaches 1.5000" in done.stdout
    assert "Surrogate, on held-out configs" in done.stdout
    assert "64 workers have only 20 trials" in done.stderr
    folder = studied.folder / "runs" / "studied" / "replay"
    assert {path.name for path in folder.iterdir()} == {
        *("report.html", "replay.png", "searches.csv", "curves.csv", "replay.json")
    }
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "").replace(
        "http://purl.org", ""
    ).replace("http://creativecommons.org", "").replace("https://matplotlib.org", "")
    with (folder / "searches.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1 + 2 * 2 * 2 * 2
    assert all(int(row["epochs"]) == sum(int(row[f"epochs_{o}"]) for o in ORIGINS) for row in rows)


ORIGINS = ("recorded", "interpolated", "extrapolated")


def test_json_is_the_same_twice_but_for_the_time_it_took(studied: Shell) -> None:
    def figures() -> Any:
        done = studied.hpo(
            *("replay", "studied", "--workers", "4", "--seeds", "3", "--out", "again", "--json")
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        for strategy in found["strategies"]:
            for search in strategy["searches"]:
                assert search.pop("computed_s") >= 0
        return found

    first = figures()
    assert first == figures()
    simulated = first["strategies"][1]
    assert [len(strategy["searches"]) for strategy in first["strategies"]] == [1, 3]
    assert sum(simulated["shares"].values()) == pytest.approx(1)
    assert simulated["shares"]["recorded"] < 1
    assert (studied.folder / "again" / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["stude"], "no experiment 'stude'"),
        (["spec.yaml"], "hpo replay spec.yaml --table"),
        (["studied", "--schedulers", "pbt"], "--schedulers pbt: cannot be replayed: a config that"),
        (["studied", "--samplers", "tpee"], "--samplers tpee: unknown sampler 'tpee'; did you"),
        (["studied", "--schedulers", "ash"], "did you mean 'asha'?"),
        (["studied", "--samplers", "grid"], "sampler grid needs a finite number of values"),
        (["studied", "--workers", "0"], "--workers must be at least 1, got 0"),
        (["studied", "--workers", "4,many"], "--workers takes whole numbers such as 1,4,16"),
        (["studied", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["studied", "--trials", "-3"], "--trials must be at least 1, got -3"),
        (["studied", "--reach", "high"], "--reach takes numbers"),
        (["studied", "--reach", "1,nan"], "--reach takes numbers such as 1,4,16, got '1,nan'"),
        (["studied", "--workers", ","], "--workers takes one or more with commas between"),
        (["studied", "--samplers", ""], "--samplers takes one or more with commas between"),
        (["studied", "--schedulers", " ,"], "--schedulers takes one or more with commas between"),
        (["studied", "--table", "any.csv"], "hpo replay SPEC.yaml --table any.csv"),
    ],
)
def test_what_cannot_be_followed_is_told(studied: Shell, arguments: list[str], told: str) -> None:
    done = studied.hpo("replay", *arguments)
    assert_no_traceback(done)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr, done.stderr


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_simulated(
    studied: Shell,
) -> None:
    studied.write("a_file", "")
    done = studied.hpo("replay", "studied", "--out", "a_file")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("hpo: cannot write into folder a_file: ")
    assert "--out DIR" in done.stderr
    assert_no_traceback(done)


def test_a_study_without_learning_curves_is_refused(folder: Shell) -> None:
    write_study(folder, BRANIN, "name=flat", "budget={n_trials: 12, max_epochs: 1}")
    done = folder.hpo("replay", "flat")
    assert (done.returncode, done.stdout) == (2, "")
    assert "yield its metrics after every epoch" in done.stderr


def test_too_few_trials_are_refused_with_the_number_it_takes(folder: Shell) -> None:
    write_study(folder, BRANIN, "name=short", "budget={n_trials: 20, max_epochs: 3}", n_trials=7)
    done = folder.hpo("replay", "short")
    assert (done.returncode, done.stdout) == (2, "")
    assert "needs 10 trials" in done.stderr
    assert "'short' has 7" in done.stderr


def test_an_unfinished_study_with_enough_trials_is_replayed(folder: Shell) -> None:
    write_study(folder, BRANIN, "name=going", "budget={n_trials: 40, max_epochs: 3}", n_trials=12)
    done = folder.hpo("replay", "going", "--seeds", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["trials"] == 40


def test_gp_with_many_workers_is_allowed_and_its_cost_told(folder: Shell) -> None:
    write_study(folder, BRANIN, "name=many", "budget={n_trials: 12, max_epochs: 3}")
    done = folder.hpo("replay", "many", "--samplers", "gp", "--workers", "1024", "--seeds", "1")
    assert done.returncode == 0, done.stderr
    assert "gp takes about 0.1 s a proposal" in done.stderr


TABLE_SPEC = """
name: benchmark
trainable: table
objective: {metric: accuracy, direction: maximize}
search_space:
  lr: {type: float, low: 0.1, high: 0.3, step: 0.1}
  width: {type: categorical, choices: [8, 16]}
sampler: {name: grid}
budget: {n_trials: 6}
"""


def table_text(columns: str) -> str:
    """Accuracies 10 to 62: tenths of lr, then width; two rows of each config, one seed each."""
    rows = [f"lr,width,{columns}"]
    for lr, width, seed in np.ndindex(3, 2, 2):
        value = 10 * (lr + 1) + 16 * width + seed
        cells = [str(value - 5 + epoch) for epoch in (1, 5)] if "epoch" in columns else [str(value)]
        rows.append(",".join([str((lr + 1) / 10), str(8 * (width + 1)), *cells, "30"]))
    return "\n".join(rows)


def test_a_table_is_searched_in_place_of_a_study(folder: Shell) -> None:
    """A grid search finds the best row, whatever the seeds of a config say."""
    folder.write("benchmark.yaml", TABLE_SPEC)
    folder.write("t.csv", table_text("value,seconds"))
    done = folder.hpo(
        *("replay", "benchmark.yaml", "--table", "t.csv", "--workers", "1,6", "--json")
    )
    assert done.returncode == 0, done.stderr
    one, six = json.loads(done.stdout)["strategies"]
    assert {search["best"] for search in one["searches"]} == {46.0, 47.0}
    assert (one["makespan_s"], six["makespan_s"]) == (180.0, 30.0)
    assert one["shares"] == {"recorded": 1.0, "interpolated": 0.0, "extrapolated": 0.0}
    assert json.loads(done.stdout)["surrogate_error"] is None


def test_a_table_of_curves_is_searched_with_a_scheduler(folder: Shell) -> None:
    folder.write("curves.yaml", TABLE_SPEC.replace("n_trials: 6", "n_trials: 6, max_epochs: 2"))
    folder.write("curves.csv", table_text("epoch_1,epoch_2,seconds"))
    done = folder.hpo("replay", "curves.yaml", "--table", "curves.csv", "--schedulers", "asha,none")
    assert done.returncode == 0, done.stderr
    assert "grid/asha" in done.stdout
    assert "Every epoch was recorded" in done.stdout


@pytest.mark.parametrize(
    ("spec", "columns", "options", "told"),
    [
        (TABLE_SPEC, "value,seconds", ["--schedulers", "asha"], "final values alone"),
        (
            TABLE_SPEC.replace("n_trials: 6", "n_trials: 6, max_epochs: 9"),
            "epoch_1,epoch_2,seconds",
            [],
            "budget.max_epochs=9, but t.csv holds 2 epochs",
        ),
        (TABLE_SPEC.replace("lr:", "rate:"), "value,seconds", [], "no column for 'rate'"),
        (TABLE_SPEC.replace("grid", "gird"), "value,seconds", [], "did you mean 'grid'?"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    folder: Shell, spec: str, columns: str, options: list[str], told: str
) -> None:
    folder.write("benchmark.yaml", spec)
    folder.write("t.csv", table_text(columns))
    done = folder.hpo("replay", "benchmark.yaml", "--table", "t.csv", *options)
    assert_no_traceback(done)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr, done.stderr
