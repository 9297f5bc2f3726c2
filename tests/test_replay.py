"""`hpo replay`: a real study again on a simulated clock, tables, and what it refuses."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
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

from hpo.curves import Curve
from hpo.execution import TrialDrive
from hpo.execution.actor import result_of
from hpo.places import Places
from hpo.replay import Replay, Wanted, replay_study, simulated_search
from hpo.search import StudySource
from hpo.simulation import ServedCurves, trained_configs
from hpo.spec import parse_spec
from hpo.tasks import TrialTask
from hpo.workspace import find_workspace, open_workspace
from storage import is_infeasible, open_optuna_storage, was_answered, was_refused

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


def replayed(shell: Shell, name: str = "studied", **wanted: Any) -> Replay:
    places = Places.of(shell.folder, {})
    return replay_study(name, places, Wanted(**wanted), lambda _: None)


def write_study(
    shell: Shell, text: str, *overrides: str, n_trials: int | None = None, n_workers: int = 1
) -> None:
    """A study as a run leaves it, ended after ``n_trials``, by workers that take turns."""
    spec = parse_spec(text, "spec.yaml", overrides, [shell.folder])
    workspace = open_workspace(spec, Places.of(shell.folder, {}), None)
    ledger, experiment_id = workspace.ledger, workspace.experiment.id
    source = StudySource(
        workspace.study,
        spec,
        replace(workspace.tasks, import_paths=(shell.folder,)),
        record_epoch=partial(ledger.put_epoch, experiment_id),
        recorded_epochs=lambda number: ledger.epochs(experiment_id, number).get(number, []),
    )
    running: list[tuple[TrialTask, TrialDrive]] = []
    n_left = n_trials or sys.maxsize
    while True:
        while n_left and len(running) < n_workers and (task := source.next_task()) is not None:
            running.append((task, TrialDrive(task)))
            source.scheduler.on_trial_add(None, Trial(str(task.number)))  # type: ignore[arg-type]
            n_left -= 1
        if not running:
            return
        turn = running.pop(0)
        if goes_on(source, *turn):
            running.append(turn)


def goes_on(source: StudySource, task: TrialTask, drive: TrialDrive) -> bool:
    """Train an epoch; whether neither the trainable nor the scheduler has ended it."""
    report, trial, scheduler = drive.next_report(), Trial(str(task.number)), source.scheduler
    told: tuple[Any, ...] = (None, trial, result_of(task, report))
    if report.ending is None and scheduler.on_trial_result(*told) == TrialScheduler.CONTINUE:
        source.reported(task, report)
        return True
    scheduler.on_trial_complete(*told)
    source.ended(task, report)
    return False


def test_the_record_has_the_best_so_far_of_the_study_exactly(studied: Shell) -> None:
    assert_record_is_the_study(studied, "studied")


def assert_record_is_the_study(shell: Shell, name: str) -> None:
    """The first row of a replay has the best-so-far of what is COMPLETE and feasible."""
    timeline = replayed(shell, name, n_seeds=1).strategies[0].timelines[0]
    trials = study_of(shell, name).trials
    begin = min(trial.datetime_start for trial in trials if trial.datetime_start)
    complete = [t for t in trials if t.state == TrialState.COMPLETE and not is_infeasible(t)]
    complete.sort(key=lambda trial: trial.datetime_complete or begin)
    assert complete
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


def assert_repeats(shell: Shell, name: str = "studied") -> None:
    """Same sampler, scheduler and seed: every config, curve and decision is the recorded one."""
    result = replayed(shell, name, n_seeds=1, workers=[1])
    record, simulated = (strategy.timelines[0] for strategy in result.strategies)
    trials = study_of(shell, name).trials
    assert {TrialState.COMPLETE, TrialState.PRUNED} <= {trial.state for trial in trials}
    assert asked_again(shell, name) == {t.number: t.params for t in trials if not was_answered(t)}
    for course, recorded in zip(simulated.courses, record.trained, strict=True):
        trial = trials[course.number]
        assert course.is_infeasible == recorded.is_infeasible
        assert STATES[course.state] == trial.state
        assert dict(enumerate(course.values, start=1)) == trial.intermediate_values
        assert list(course.seconds) == list(recorded.seconds)
    best = simulated.best_so_far("minimize")[1]
    assert best.tolist() == record.best_so_far("minimize")[1].tolist()
    assert simulated.origins.keys() == {"recorded"}
    assert result.error is None  # nothing was predicted


def asked_again(shell: Shell, name: str) -> dict[int, dict[str, Any]]:
    """The params that the study's own search asks one worker to train, by the trial's number."""
    workspace = find_workspace(name, Places.of(shell.folder, {}))
    spec, asked = workspace.spec, {}
    epochs, trials = workspace.ledger.epochs(workspace.experiment.id), workspace.study.trials
    curves = ServedCurves(
        trained_configs(trials, epochs, spec.objective.metric, spec.constraints),
        spec.search_space,
        max_epochs=spec.budget.max_epochs,
        start_s=0.0,
        seed=spec.seed,
        constraints=spec.constraints,
    )

    def remembered(task: TrialTask) -> Curve:
        asked[task.number] = {name: task.config[name] for name in spec.search_space}
        return curves(task)

    simulated_search(spec, remembered, n_workers=1)
    return asked


LIMITED = """
name: limited
trainable: limited:train
objective: {metric: loss, direction: minimize}
search_space:
  size: {type: float, low: 1, high: 10}
  y: {type: float, low: 0, high: 1}
sampler: {name: tpe, n_startup_trials: 8}
scheduler: {name: asha, reduction_factor: 2}
constraints: {weights: {max: 25}, latency: {max: 0.9}}
budget: {n_trials: 24, max_epochs: 3}
concurrency: 1
"""
LIMITED_TRAINABLE = """
def train(config):
    for epoch in (1, 2, 3):
        loss = 20 - config["size"] - 3 * config["y"] + 3 / epoch
        yield {"loss": loss, "latency": config["y"] + 0.1 * epoch}

def constraints(config, trial):
    return {"weights": config["size"] ** 2}
"""


@pytest.fixture(scope="module")
def limited(folder: Shell) -> Shell:
    """The folder of a study whose best trials break a limit: of size before, of latency after."""
    folder.write("limited.py", LIMITED_TRAINABLE)
    write_study(folder, LIMITED)
    return folder


def test_a_study_with_constraints_is_repeated_with_its_infeasible_trials(limited: Shell) -> None:
    trials = study_of(limited, "limited").trials
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    best = min(complete, key=lambda trial: trial.value or np.inf)
    assert is_infeasible(best)
    assert any(was_refused(trial) for trial in trials)
    assert_repeats(limited, "limited")
    assert_record_is_the_study(limited, "limited")


def test_other_searches_of_it_keep_the_constraints_too(limited: Shell) -> None:
    """None finds what only a config beyond a limit can have, but for the surrogate's error."""
    result = replayed(limited, "limited", samplers=["random"], n_seeds=3, n_trials=40)
    best_feasible = 20 - 5 - 3 * 0.6 + 1
    assert min(result.strategies[1].final_values("minimize")) > best_feasible - 0.5
    for timeline in result.strategies[1].timelines:
        refused = [course for course in timeline.courses if course.state == "failed"]
        assert len(refused) > 15  # 56 % of all configs are too large, and count for no trial
        assert all(course.is_infeasible and not course.values for course in refused)
        assert len(timeline.courses) - len(refused) == 40
    assert result.limits_error is not None
    assert result.limits_error.n_judged > 10
    assert result.limits_error.share is not None
    assert result.limits_error.share_of_guess is not None
    assert result.limits_error.share < 0.6 * result.limits_error.share_of_guess


def test_a_study_in_which_nothing_is_feasible_is_refused(limited: Shell) -> None:
    nothing = ("name=nothing", "constraints={latency: {max: 0.01}}", "scheduler=none")
    write_study(limited, LIMITED, *nothing, n_trials=3)
    done = limited.hpo("replay", "nothing")
    assert (done.returncode, done.stdout) == (2, "")
    assert "one of them COMPLETE and feasible; 'nothing' has 3, of which 0" in done.stderr


ANSWERED = (
    "name=answered",
    "trial_seed=common",
    "search_space.x1.step=5",
    "search_space.x2.step=5",
    "budget.n_trials=24",
)


def test_what_was_answered_from_the_record_is_no_training(folder: Shell) -> None:
    """It is answered once more in the replay, so that all is as recorded."""
    write_study(folder, SPEC, *ANSWERED)
    trials = study_of(folder, "answered").trials
    answered = [trial for trial in trials if was_answered(trial)]
    assert answered
    assert_repeats(folder, "answered")
    assert_record_is_the_study(folder, "answered")
    result = replayed(folder, "answered", n_seeds=5)
    (record,), timelines = (strategy.timelines for strategy in result.strategies)
    assert len(record.courses) == 24
    assert record.n_epochs == timelines[0].n_epochs
    assert result.source == f"{24 - len(answered)} recorded trials of answered"
    courses = [course for timeline in timelines for course in timeline.courses]
    assert all(second > 0 for course in courses for second in course.seconds)
    assert result.start_s > 0


def test_what_knows_nothing_of_others_is_repeated_by_any_number_of_workers(folder: Shell) -> None:
    """Three trained at a time: all configs are known beforehand, and nothing is stopped."""
    apart = (
        "name=apart",
        "sampler=sobol",
        "scheduler=none",
        "budget={n_trials: 10, max_epochs: 2}",
    )
    write_study(folder, SPEC, *apart, n_workers=3)
    assert_record_is_the_study(folder, "apart")
    result = replayed(folder, "apart", n_seeds=1, workers=[1, 3])
    record, *simulated = (
        {course.number: tuple(course.values) for course in strategy.timelines[0].courses}
        for strategy in result.strategies
    )
    assert simulated == [record, record]
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
        (
            ["studied", "--samplers", "grid"],
            "'studied' was searched with x1, x2 continuous",
        ),
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
    assert "gp takes about 0.05 s a proposal" in done.stderr


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


def test_what_a_strategy_does_unexpectedly_is_said_once_with_options_of_replay(
    folder: Shell,
) -> None:
    width = "width: {type: int, low: 1, high: 3, when: {net: a}}"
    net = "net: {type: categorical, choices: [a, b]}"
    folder.write(
        "warned.yaml",
        TABLE_SPEC.replace("n_trials: 6", "n_trials: 4").replace(
            "width: {type: categorical, choices: [8, 16]}", f"{net}\n  {width}"
        ),
    )
    folder.write("warned.csv", "lr,net,width,value\n0.1,a,1,5\n0.2,b,,6\n0.3,a,3,7\n")
    done = folder.hpo(
        *("replay", "warned.yaml", "--table", "warned.csv", "--samplers", "grid,gp"),
        *("--workers", "1,2", "--seeds", "1"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the grid has 12 cells and the budget 4 trials") == 1
    assert "For all of it: --trials 12" in done.stderr
    assert done.stderr.count("sampler gp models only the parameters that every trial has") == 1
    assert "A sampler that models them: --samplers tpe" in done.stderr


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
