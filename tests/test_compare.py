"""`hpo compare`: pairing, independence of timing, resumption, what is told and what is refused."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, repeat
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from commands import Shell, assert_no_traceback
from conftest import BRANIN
from gate import Gate, halt
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial
from rich.console import Console
from selenium.webdriver import Chrome

from hpo.compare import WorkerClock, stages
from hpo.comparison import Comparison, as_json, comparison_text, study_run, write_files
from hpo.comparison.curves import resampled
from hpo.comparison.figures import cliques, ranks_figure
from hpo.comparison.files import curves_csv, studies_csv
from hpo.comparison_progress import ComparisonProgress
from hpo.comparison_workspace import (
    known_samplers,
    open_comparison,
    parse_samplers,
    plan_comparison,
)
from hpo.errors import SpecError, UsageError
from hpo.execution.actor import REPORT, TASK
from hpo.execution.drive import TrialDrive
from hpo.execution.searcher import TaskSearcher
from hpo.places import Places
from hpo.search import SAMPLERS, ManyStudies, StudySource, TimedSampler
from hpo.spec import ExperimentSpec
from hpo.storage_errors import exclusive
from hpo.task_factory import TaskFactory
from hpo.tasks import EpochReport, TaskList, TrialTask
from storage import EpochRecord, RerunRecord, StudyKey, create_study

DISCRETE = BRANIN.replace("high: 10}", "high: 10, step: 5}").replace(
    "high: 15}", "high: 15, step: 5}"
)
"""Sixteen cells."""


# -- many studies on the same workers ------------------------------------------------------------


def studies_of(spec: ExperimentSpec, folder: Path, seeds: range) -> list[optuna.Study]:
    storage = optuna.storages.InMemoryStorage()
    return [
        create_study(storage, f"study-{seed}", direction="minimize", metric="loss")
        for seed in seeds
    ]


def many(spec: ExperimentSpec, studies: list[optuna.Study], folder: Path) -> ManyStudies:
    sources = []
    for seed, study in enumerate(studies):
        one = spec.model_copy(update={"seed": seed})
        tasks = TaskFactory(spec=one, import_paths=(), folder=folder / str(seed), data_dir=folder)
        tasks.make_home()
        sources.append(StudySource(study, one, tasks, record_epoch=lambda _: None))
    return ManyStudies(sources)


def step(stage: ManyStudies, task: TrialTask, drive: TrialDrive) -> bool:
    """One epoch as Ray would pass it on; returns whether the trial goes on."""
    report = drive.next_report()
    scheduler = stage.scheduler_of(task)
    trial = PastTrial(f"{task.context.folder}")
    result = {"epoch": report.epoch, "objective": report.metrics["loss"]}
    if report.epoch == 1:
        scheduler.on_trial_add(None, trial)
    if report.ending is None and (
        task.runs_to_end or scheduler.on_trial_result(None, trial, result) == "CONTINUE"
    ):
        stage.reported(task, report)
        return True
    scheduler.on_trial_complete(None, trial, result)
    stage.ended(task, report)
    drive.close()
    return False


@dataclass(frozen=True)
class PastTrial:
    """What Ray's schedulers read of a trial."""

    trial_id: str


def record_of(studies: list[optuna.Study]) -> list[list[tuple[Any, ...]]]:
    return [
        [(t.params, t.state, t.value, t.intermediate_values, t.user_attrs) for t in study.trials]
        for study in studies
    ]


def run_on(stage: ManyStudies, turns: Iterator[int], n_workers: int) -> None:
    """Workers that run one epoch whenever it is their turn, asking ahead while all are busy."""
    running: list[tuple[TrialTask, TrialDrive]] = []
    ahead: list[TrialTask] = []
    while True:
        while len(running) < n_workers:
            task = ahead.pop(0) if ahead else stage.next_task()
            if task is None:
                break
            running.append((task, TrialDrive(task)))
        if not running:
            return
        folders = [task.context.folder.parents[1] for task, _ in running]
        assert len(set(folders)) == len(folders), "a study runs two trials at a time"
        turn = next(turns)
        if turn % 3 == 0 and (task := stage.next_task()) is not None:
            ahead.append(task)
        place = turn % len(running)
        if not step(stage, *running[place]):
            running.pop(place)


@settings(deadline=None, max_examples=8)
@given(turns=st.lists(st.integers(0, 99), min_size=1), n_workers=st.integers(2, 4))
def test_what_studies_ask_for_does_not_depend_on_the_workers(
    turns: list[int],
    n_workers: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Nor on which trial ends first, nor on what is asked ahead: with a scheduler, too."""

    from hpo.spec import parse_spec

    spec = parse_spec(
        BRANIN,
        "branin.yaml",
        ["sampler={name: tpe, n_startup_trials: 2}", "scheduler={name: asha, reduction_factor: 2}"],
    )
    records = []
    for some_turns, n in ((cycle(turns), n_workers), (repeat(1), 1)):
        folder = tmp_path_factory.mktemp("studies")
        studies = studies_of(spec, folder, range(3))
        run_on(many(spec, studies, folder), some_turns, n)
        records.append(record_of(studies))
    assert records[0] == records[1]
    assert [len(study) for study in records[0]] == [6, 6, 6]


def test_the_study_with_the_fewest_trials_is_asked_first(
    branin: Callable[..., ExperimentSpec], tmp_path: Path
) -> None:
    """After an interrupt one may have had more than another; they are to end at about one time."""
    spec = branin()
    studies = studies_of(spec, tmp_path, range(3))
    for study, n in zip(studies, (2, 0, 1), strict=True):
        for _ in range(n):
            study.add_trial(create_trial(value=1.0, intermediate_values={1: 1.0}))
    stage, asked = many(spec, studies, tmp_path), []
    for _ in range(6):
        task = stage.next_task()
        assert task is not None
        asked.append(task.context.folder.parents[1].name)
        while step(stage, task, drive := TrialDrive(task)):
            drive.close()
            break
        else:
            continue
        stage.ended(task, EpochReport(epoch=4, metrics={"loss": 1.0}, seconds=0, ending="complete"))
    assert asked == ["1", "1", "2", "0", "1", "2"]


@pytest.mark.parametrize("knows_ahead", [True, False])
def test_the_next_task_is_asked_ahead_only_of_a_stage_that_knows_it(
    *, knows_ahead: bool, branin: Callable[..., ExperimentSpec], tmp_path: Path
) -> None:
    factory = TaskFactory(spec=branin(), import_paths=(), folder=tmp_path, data_dir=tmp_path)
    tasks = [factory.trial(number, {"x1": 0.0, "x2": 0.0}) for number in range(4)]
    stage = TaskList(tasks, lambda *_: None)
    stage.knows_ahead = knows_ahead
    asked: list[int] = []
    take = stage.next_task

    def next_task() -> TrialTask | None:
        task = take()
        asked.append(-1 if task is None else task.number)
        return task

    stage.next_task = next_task  # type: ignore[method-assign]
    searcher = TaskSearcher(iter([stage]), concurrency=lambda: 1)
    done = {REPORT: EpochReport(epoch=1, metrics={"loss": 1.0}, seconds=0.1, ending="complete")}
    assert searcher.suggest("a")[TASK].number == 0
    assert searcher.suggest("b") is None
    assert asked == ([0, 1] if knows_ahead else [0])
    searcher.on_trial_complete("a", done)
    assert searcher.suggest("b")[TASK].number == 1
    assert searcher.suggest("c") is None
    assert searcher.suggest("c") is None
    searcher.on_trial_complete("b", done)
    assert searcher.suggest("c")[TASK].number == 2


def test_a_timed_sampler_draws_what_the_sampler_draws() -> None:
    space = {"x": optuna.distributions.FloatDistribution(0, 1)}
    drawn = []
    for wrap in (lambda sampler: sampler, TimedSampler):
        sampler = wrap(optuna.samplers.TPESampler(seed=0, n_startup_trials=2))
        study = optuna.create_study(sampler=sampler)
        for _ in range(5):
            trial = study.ask(space)
            study.tell(trial, trial.params["x"])
        drawn.append([trial.params for trial in study.trials])
    assert drawn[0] == drawn[1]
    assert sampler.seconds > 0


# -- what is asked for ----------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path) -> Shell:
    """A folder with two specs; no Ray."""
    shell = Shell(tmp_path)
    shell.write("branin.yaml", BRANIN)
    shell.write("discrete.yaml", DISCRETE)
    return shell


def plan_in(here: Shell, spec: str, *overrides: str, **options: Any) -> Any:
    given = {"samplers": None, "n_seeds": 10, "n_trials": None} | options
    return plan_comparison(here.folder / spec, overrides, Places.of(here.folder, {}), **given)


def test_every_sampler_that_a_spec_can_name_can_be_compared(here: Shell) -> None:
    names = known_samplers()
    assert len(names) == len(SAMPLERS) + 1
    names.remove("auto")  # which is one of the others, see below
    plan = plan_in(here, "discrete.yaml", samplers=",".join(names))
    assert {name: spec.sampler.name for name, spec in plan.samplers.items()} == dict(
        zip(names, names, strict=True)
    )


def test_studies_of_one_seed_are_paired(here: Shell) -> None:
    """Their trials and re-runs have the same seeds, whatever the sampler."""
    plan = plan_in(here, "discrete.yaml", "seed=3")
    seeds = {key: plan.study_spec(key).seed for key in plan.keys}
    assert len(seeds) == 40
    assert len(set(seeds.values())) == 10
    assert all(seeds[sampler, index] == seeds["random", index] for sampler, index in seeds)
    again = plan_in(here, "discrete.yaml", "seed=4")
    assert again.study_spec(("tpe", 0)).seed != seeds["tpe", 0]


def test_the_specs_own_sampler_keeps_its_options(here: Shell) -> None:
    plan = plan_in(here, "branin.yaml", "sampler={name: tpe, n_startup_trials: 3}", n_trials=7)
    assert plan.samplers["tpe"].sampler.n_startup_trials == 3
    assert plan.samplers["gp"].sampler.n_startup_trials == 10
    assert plan.n_trials == 7


def test_the_budget_is_one_of_trials_alone(here: Shell) -> None:
    """A limit of time would give a slow sampler fewer of them."""
    plan = plan_in(here, "branin.yaml", "budget.time_limit_s=1")
    assert plan.study_spec(("tpe", 0)).budget.time_limit_s is None


def test_grid_is_left_out_with_a_word_where_there_is_none(here: Shell) -> None:
    plan = plan_in(here, "branin.yaml")
    assert list(plan.samplers) == ["random", "tpe", "gp"]
    assert "no grid: " in plan.notes[0]
    assert "search_space.x1" in plan.notes[0]
    with pytest.raises(SpecError, match=r"search_space\.x1: sampler grid needs"):
        plan_in(here, "branin.yaml", samplers="grid,random")


def test_a_grid_of_fewer_cells_than_trials_is_said(here: Shell) -> None:
    plan = plan_in(here, "discrete.yaml", n_trials=30)
    assert plan.notes == ("the grid has 16 cells, fewer than 30 trials",)
    assert plan.n_trials_of(("grid", 0)) == 16


CONDITIONAL = (
    "search_space={x1: {type: int, low: 0, high: 9, grid: 2}, "
    "x2: {type: float, low: 0, high: 1, grid: 2, when: {x1: [3, 9]}}}"
)


def test_what_a_sampler_does_unexpectedly_is_noted(here: Shell) -> None:
    """As `hpo run` would warn of it; without its way out, which is another one here."""
    cells = ["search_space.x1.step=1.5", "search_space.x2.step=1.5"]
    plan = plan_in(here, "branin.yaml", *cells, samplers="grid,random", n_trials=20)
    (note,) = plan.notes
    assert note.startswith("the grid has 121 cells and the budget 20 trials: a random part")
    assert "-o" not in note

    plan = plan_in(here, "branin.yaml", CONDITIONAL, samplers="grid,tpe,gp,cmaes", n_trials=4)
    gp, cmaes, grid = plan.notes
    assert gp.startswith("sampler gp models only the parameters that every trial has. Those with")
    assert cmaes.startswith("sampler cmaes models only")
    assert grid == "the grid has 3 cells, fewer than 4 trials"


def test_what_all_samplers_do_unexpectedly_is_noted_once(here: Shell) -> None:
    given = ["enqueue=[{x1: 0, x2: 0}, {x1: 1, x2: 0}]", "warm_start=[other]"]
    plan = plan_in(here, "branin.yaml", *given, samplers="random,tpe", n_trials=1)
    left_out, not_tried = plan.notes
    assert left_out.startswith("warm_start is left out")
    assert not_tried.startswith("2 configs are given by `default` and `enqueue` and the budget has")


@pytest.mark.parametrize(
    ("overrides", "samplers", "chosen"),
    [
        ([], "random,auto,gp", "gp"),
        (["sampler=auto"], "gp,auto", "gp"),
        (["budget.n_trials=300"], "tpe,auto", "tpe"),
        ([CONDITIONAL], "auto,gp,tpe", "tpe"),
        (["stages=[[x1], [x2]]", "scheduler=none"], "auto,gp", "gp"),
    ],
)
def test_auto_beside_the_sampler_that_it_chooses_is_refused(
    here: Shell, overrides: list[str], samplers: str, chosen: str
) -> None:
    """They are one: each would ask for what the other asks for."""
    with pytest.raises(UsageError, match=f"auto is {chosen} here.*Leave out auto or {chosen}"):
        plan_in(here, "branin.yaml", *overrides, samplers=samplers)


def test_what_auto_chooses_is_noted_and_may_be_compared_with_other_options_of_it(
    here: Shell,
) -> None:
    plan = plan_in(here, "branin.yaml", samplers="auto,tpe")
    assert plan.notes == ("auto is gp here",)
    other = "sampler={name: gp, n_startup_trials: 3}"
    plan = plan_in(here, "branin.yaml", other, samplers="auto,gp")
    assert list(plan.samplers) == ["auto", "gp"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("random,tpee", "unknown sampler 'tpee'; did you mean 'tpe'?"),
        ("random,xyz", "unknown sampler 'xyz'. Known: "),
        ("random,tpe,random", "'random' is repeated"),
        ("random", "at least two"),
        ("", "at least two"),
    ],
)
def test_samplers_that_cannot_be_compared_are_refused(text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=re.escape(problem)):
        parse_samplers(text)


def test_a_range_that_is_yet_to_be_found_is_refused_with_the_way_out(here: Shell) -> None:
    own = "def train(config):\n    return config['lr']\ndef find_lr(config, trial):\n    pass\n"
    here.write("with_finder.py", own)
    spec = re.sub(r"search_space:.*?sampler", "search_space: {lr: {from: lr_finder}}\nsampler",
                  BRANIN, flags=re.S)  # fmt: skip
    here.write("lr.yaml", spec.replace("analytic", "with_finder:train"))
    done = here.hpo("compare", "lr.yaml")
    assert done.returncode == 2
    assert "hpo lr-find lr.yaml" in done.stderr
    assert_no_traceback(done)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--samplers", "random,tpee"), "did you mean 'tpe'?"),
        (("--samplers", "auto,gp"), "--samplers: auto is gp here"),
        (("--seeds", "0"), "--seeds"),
        (("--trials", "0"), "--trials"),
        (("--resume",), "nothing to resume"),
        (("-o", "budget.n_trials=few"), "must be a whole number"),
        (("-o", "trainable=nope:train"), "no module 'nope' in {folder}; a trainable"),
    ],
)
def test_wrong_arguments_exit_with_2_and_leave_nothing(
    here: Shell, arguments: tuple[str, ...], problem: str
) -> None:
    before = sorted(here.folder.iterdir())
    done = here.hpo("compare", "branin.yaml", *arguments)
    assert done.returncode == 2
    assert problem.format(folder=here.folder) in done.stderr
    assert_no_traceback(done)
    assert sorted(here.folder.iterdir()) == before


@pytest.mark.parametrize(
    ("url", "way_out"),
    [
        ("nonsense", "such as sqlite:////folder/hpo.db"),
        ("oracel://me@there/x", "such as sqlite:////folder/hpo.db"),
        ("postgresql+pg8000://me@there/x", "pip install pg8000"),
    ],
)
def test_a_url_that_cannot_be_used_is_told_with_the_way_out(
    here: Shell, url: str, way_out: str
) -> None:
    done = here.hpo("compare", "branin.yaml", "--samplers", "random,tpe", "--storage", url)
    assert done.returncode == 3
    assert "cannot open database" in done.stderr
    assert way_out in done.stderr
    assert "secret" not in done.stderr
    assert_no_traceback(done)


def test_a_second_driver_is_kept_away_from_a_comparison_alone(here: Shell) -> None:
    """Experiments are others, whatever they are called."""
    places = Places.of(here.folder, {})
    with exclusive(places, "branin", "comparison"):
        done = here.hpo("compare", "branin.yaml", "--samplers", "random,tpe", "--seeds", "6")
        assert done.returncode == 3
        assert f"comparison 'branin' is being run by process {os.getpid()}" in done.stderr
        assert_no_traceback(done)
        for name in ("branin", "branin-compare", "compare"):
            with exclusive(places, name):
                pass


def test_where_a_comparison_keeps_its_checkpoints_is_remembered(here: Shell) -> None:
    """Who goes on need not name the place again."""
    plan = plan_in(here, "branin.yaml", samplers="random,tpe", n_seeds=2)
    kept = Places.of(here.folder, {}, checkpoints=f"{here.folder}/kept")
    begun = open_comparison(plan, kept, None)
    later = open_comparison(plan, Places.of(here.folder, {}), begun.record)
    for key in plan.keys:
        home = later.tasks(key).checkpoint_home(0)
        assert home == begun.tasks(key).checkpoint_home(0)
        assert home.parents[1].is_dir()  # every machine looks for it before a trial
        assert home.is_relative_to(here.folder / "kept")


def test_a_folder_that_cannot_be_written_is_refused_before_anything_runs(here: Shell) -> None:
    done = here.hpo("compare", "branin.yaml", "--out", "branin.yaml")
    assert done.returncode == 3
    assert "cannot write into folder branin.yaml: File exists" in done.stderr
    assert "--out DIR" in done.stderr
    assert "starting Ray" not in done.stderr
    assert_no_traceback(done)
    assert optuna.get_all_study_names(here.storage_url) == []


def test_what_is_told_to_have_ended_is_in_the_database(here: Shell) -> None:
    """Also where a trial ends after later ones, because it was held back: a kill loses none."""
    plan = plan_in(
        here, "branin.yaml", "scheduler={name: one_epoch_top_k, k: 2}", samplers="random,tpe",
        n_seeds=1,
    )  # fmt: skip
    workspace = open_comparison(plan, Places.of(here.folder, {}), None)
    told = []

    class Witness(ComparisonProgress):
        def trial_ended(self, key: StudyKey, trial: optuna.trial.FrozenTrial) -> None:
            told.append((key, trial.number))
            kept = workspace.studies[key].trials[trial.number]
            assert (kept.state, kept.params) == (trial.state, trial.params)

    specs = {key: plan.study_spec(key) for key in plan.keys}
    progress = Witness(Console(stderr=True), specs)
    searches = next(stages(workspace, progress, WorkerClock()))
    assert isinstance(searches, ManyStudies)
    run_on(searches, repeat(1), 2)
    assert sorted(told) == [(key, n) for key in sorted(plan.keys) for n in range(6)]


# -- what is told ---------------------------------------------------------------------------------


def a_run(
    sampler: str, index: int, values: Sequence[float | None], scores: list[float | None]
) -> Any:
    """A study whose trials took two epochs of half a second each; ``scores`` of its re-runs.

    The value NaN stands for a trial that failed, None for a config that was refused.
    """
    known = [None if value is None or math.isnan(value) else value for value in values]
    trials = [
        create_trial(
            state=TrialState.FAIL if known[number] is None else TrialState.COMPLETE,
            value=known[number],
            system_attrs={"constraints": [1.0]} if value is None else {},
            params={"x": float(number + len(sampler))},
            distributions={"x": optuna.distributions.FloatDistribution(0, 99)},
        )
        for number, value in enumerate(values)
    ]
    for number, trial in enumerate(trials):
        trial.number = number
    best = min(
        (number for number, trial in enumerate(trials) if trial.value is not None),
        key=lambda number: trials[number].value,
        default=0,
    )
    now = trials[0].datetime_start
    return study_run(
        trials=trials,
        epochs={
            number: [
                EpochRecord(trial_number=number, epoch=e, metrics={}, seconds=0.5, reported_at=now)
                for e in (1, 2)
            ]
            for number, value in enumerate(values)
            if value is not None
        },
        sampler_s=dict.fromkeys(range(len(values)), 0.1),
        reruns=[
            RerunRecord(
                trial_number=best,
                seed_index=i,
                seed=i,
                value=score,
                fail_reason=None if score is not None else "ValueError: no",
                seconds=1.0,
                finished_at=now,
            )
            for i, score in enumerate(scores)
        ],
        maximize=False,
        sampler=sampler,
        seed_index=index,
        seed=index,
        study_name=f"made-up/compare/{sampler}/{index}",
        n_planned=4,
        n_reruns=3,
    )


def a_comparison(n_seeds: int = 10, gain: float = 1.0) -> Comparison:
    """Of a sampler that is better by ``gain`` on every seed, one that is not, and random."""
    rng = np.random.default_rng(0)
    runs = []
    for index in range(n_seeds):
        noise = float(rng.normal()) / 100
        base = [9.0, 5.0 + noise, 6.0, 4.0 + noise]
        runs += [
            a_run("random", index, base, [4.5 + noise] * 3),
            a_run("good", index, [v - gain for v in base], [4.5 + noise - gain] * 3),
            a_run("same", index, base[:3], [4.5 + noise + (-1) ** index / 50] * 3),
        ]
    return Comparison(
        name="made-up", spec="name: made-up\n", trainable="none", metric="loss", maximize=False,
        seed=0, samplers=("random", "good", "same"), n_seeds=n_seeds, n_trials=4, n_reruns=3,
        runs=tuple(runs), notes=("the grid has 3 cells, fewer than 4 trials",), wall_s=10.0,
        utilization=0.95, provenance={"python": "3"},
    )  # fmt: skip


def test_a_clear_difference_is_told_in_words_with_p_share_of_seeds_and_effect() -> None:
    text = comparison_text(a_comparison()).replace("\n  ", " ")
    assert "good beats random (p=0.0059 after Holm, better on 10 of 10 seeds, effect 1.00)." in text
    assert re.search(r"(random and same|same and random): no significant difference \(p=", text)
    assert "10 seeds can show p >= 0.002 at best, 0.0059 after Holm over 3 pairs." in text
    assert "fewer than 4 trials" in text


def test_samplers_that_drew_the_same_configs_are_told_to_have_done_so() -> None:
    """Neither to be equally good nor to be the same: they may have had too few trials to part."""
    comparison = a_comparison()
    twins = [replace(run, sampler="same") for run in comparison.runs_of("random")]
    others = [run for run in comparison.runs if run.sampler != "same"]
    text = comparison_text(replace(comparison, runs=(*others, *twins))).replace("\n  ", " ")
    assert "random and same drew the same configs on every seed" in text
    assert "good and same" not in text
    assert "good beats same" in text


def test_one_seed_is_told_as_one() -> None:
    text = comparison_text(a_comparison(n_seeds=1))
    assert "3 samplers x 1 seed x 4 trials" in text
    assert "1 seed can show p >= 1 at best" in text


def test_few_seeds_show_no_difference_however_large() -> None:
    text = comparison_text(a_comparison(n_seeds=4, gain=100.0))
    assert "No significant difference between any two samplers." in text
    assert " beats " not in text
    assert "could become significant, however large. 7 can." in text.replace("\n ", "")


@pytest.mark.parametrize("gain", [1.0, 1e-6, 1e6])
def test_the_table_fits_80_columns(gain: float) -> None:
    comparison = a_comparison(gain=gain)
    assert max(map(len, comparison_text(comparison).splitlines())) <= 80


def test_the_numbers_of_the_table_are_what_they_say() -> None:
    best, *_ = a_comparison().summaries
    assert best.sampler == "good"
    assert best.seen == pytest.approx(3.0, abs=0.01)
    assert best.score == pytest.approx(3.5, abs=0.01)
    assert best.over_report == pytest.approx(0.5)
    assert best.area == pytest.approx((8 + 4 + 4 + 3) / 4, abs=0.01)
    assert best.rank == 1.0
    assert best.random_equivalent is None  # no random trial was so good
    assert best.trials_to_random == pytest.approx(2.0, abs=0.05)
    assert best.epochs == 8


def table_cell(comparison: Comparison, sampler: str, heading: str) -> str:
    """What the table of the terminal says."""
    head, *lines = comparison_text(comparison).split("\n\n")[1].splitlines()
    line = next(line for line in lines if line.startswith(f"{sampler} "))
    end = head.index(heading) + len(heading)
    return line[:end].split()[-1]


def test_random_equivalents_are_trials_of_all_seeds_and_worst_where_they_have_no_value() -> None:
    """The best of three draws from 0, 1, 1, 9, 9, 9 (of 6) is 0 with a chance of 1 - (5/6)**3."""
    comparison = a_comparison(n_seeds=2)
    others = [run for run in comparison.runs if run.sampler == "same"]
    runs = [
        *(a_run("random", index, [1.0, value, 9.0], [1.0] * 3)
          for index, value in enumerate((0.0, math.nan))),
        *(a_run("good", index, [9.0, 9 - (1 - (3 / 6) ** 3) * 8 - (1 - (5 / 6) ** 3)], [1.0] * 3)
          for index in range(2)),
        *others,
    ]  # fmt: skip
    comparison = replace(comparison, runs=tuple(runs))
    assert sorted(comparison.random_pool) == [-9, -9, -9, -1, -1, 0]
    assert table_cell(comparison, "good", "= random") == "3.0"
    assert table_cell(comparison, "random", "= random") == "4.0"  # its budget
    best = [a_run("good", index, [0.0], [0.0] * 3) for index in range(2)]
    comparison = replace(comparison, runs=(*runs[:2], *best, *others))
    assert table_cell(comparison, "good", "= random") == ">6"
    none = [a_run("random", index, [math.nan], []) for index in range(2)]
    comparison = replace(comparison, runs=(*none, *best, *others))
    assert table_cell(comparison, "good", "= random") == "-"


def test_seconds_of_the_sampler_are_told_apart_from_those_of_training() -> None:
    """Four trials of two epochs of half a second; a tenth of a second for each proposal."""
    comparison = a_comparison(n_seeds=2)
    assert comparison.timing.training_s["good"] == pytest.approx(4.0)
    assert comparison.timing.sampler_s["good"] == pytest.approx(0.4)
    text = comparison_text(comparison).replace("\n ", "")
    assert "training + of the sampler in a study: random 4.0 + 0.4, good 4.0 + 0.4, same 3" in text
    for table, n in ((studies_csv(comparison), 4), (curves_csv(comparison), 1)):
        first = next(csv.DictReader(table.splitlines()))
        assert float(first["training_s"]) == pytest.approx(n)
        assert float(first["sampler_s"]) == pytest.approx(n / 10)
    timing = as_json(comparison)["timing"]
    assert timing["training_s"]["same"] == pytest.approx(3.0)
    assert timing["sampler_s"]["same"] == pytest.approx(0.3)
    assert timing["studies"][0]["training_s"] == pytest.approx(4.0)
    assert timing["studies"][0]["sampler_s"] == pytest.approx(0.4)


def test_curves_over_epochs_and_seconds_show_what_had_been_reached_by_then() -> None:
    """A trial counts once it has ended: after 2 epochs, or 1.1 s with the sampler's own."""
    comparison = a_comparison(n_seeds=1)
    values = comparison.runs_of("good")[0].values
    for effort, each in (("epochs", 2.0), ("seconds", 1.1)):
        spent, curves = comparison.curves_over(effort, "good")
        assert (spent[0], spent[-1]) == (pytest.approx(each), pytest.approx(4 * each))
        assert curves.shape == (1, len(spent))
        ended = np.floor(spent / each + 1e-9).astype(int)
        assert set(ended) == {1, 2, 3, 4}
        assert curves[0].tolist() == [values[:n].min() for n in ended]


def test_curves_over_epochs_begin_with_the_first_success_and_keep_the_last() -> None:
    runs = [
        a_run("some", 0, [math.nan, 5.0, 4.0], []),
        a_run("some", 1, [3.0], []),
    ]
    spent, (late, short) = resampled(runs, "epochs")
    assert np.isnan(late[spent < 4]).all()
    assert set(late[(spent >= 4) & (spent < 6)]) == {5.0}
    assert late[-1] == 4.0
    assert set(short) == {3.0}


def test_a_config_that_was_refused_is_no_trial_of_a_curve() -> None:
    """It has cost nothing, so that the budget begins behind it; its sampler's time is counted."""
    comparison = a_comparison(n_seeds=1)
    refused = a_run("good", 0, [None, None, 4.0, None, 3.0, 2.0, 1.0], [1.0] * 3)
    others = [run for run in comparison.runs if run.sampler != "good"]
    comparison = replace(comparison, runs=(refused, *others))
    assert comparison.mean_curve("good").tolist() == [4.0, 3.0, 2.0, 1.0]
    assert refused.epochs.tolist() == [2, 4, 6, 8]
    assert refused.sampler_s == pytest.approx([0.3, 0.5, 0.6, 0.7])
    rows = csv.DictReader(curves_csv(comparison).splitlines())
    assert [row["trial"] for row in rows if row["sampler"] == "good"] == ["2", "4", "5", "6"]
    (row,) = (r for r in csv.DictReader(studies_csv(comparison).splitlines()) if r["trial"] == "6")
    assert (row["n_trials"], row["n_infeasible"]) == ("4", "3")


@pytest.mark.parametrize(
    ("ranks", "difference", "groups"),
    [
        ([1.0, 2.0, 3.0], 0.5, []),
        ([1.0, 2.0, 3.0], 1.0, []),  # apart by the critical difference: told apart
        ([1.0, 2.0, 3.0], 1.5, [(0, 1), (1, 2)]),
        ([1.0, 2.0, 3.0], 2.5, [(0, 2)]),
        ([1.0, 1.2, 2.9, 3.0], 1.0, [(0, 1), (2, 3)]),
        ([1.5, 1.5], 1.0, [(0, 1)]),
        ([1.0, 1.9, 2.8, 3.0], 1.2, [(0, 1), (1, 3)]),
    ],
)
def test_bars_join_all_that_are_not_told_apart(
    ranks: list[float], difference: float, groups: list[tuple[int, int]]
) -> None:
    """As long as they can be: none lies within another."""
    assert cliques(ranks, difference) == groups


def test_the_rank_figure_joins_what_its_critical_difference_does_not_tell_apart() -> None:
    """Ten seeds of three: ranks 1, 2.5 and 2.5 at a critical difference of 1.05."""
    comparison = a_comparison()
    (axes,) = ranks_figure(comparison).axes
    bars = [sorted(line.get_xdata()) for line in axes.lines if line.get_linewidth() == 4]
    assert comparison.critical_difference == pytest.approx(1.05, abs=0.01)
    assert bars == [[pytest.approx(2.5, abs=0.05), pytest.approx(2.5, abs=0.05)]]
    words = [text.get_text().strip() for text in axes.texts]
    assert {"good 1.00", "random 2.50", "same 2.50", "critical difference 1.05"} <= set(words)
    none = ranks_figure(a_comparison(n_seeds=2)).axes[0]
    assert none.get_title(loc="left").startswith("Friedman's test tells none apart")
    assert len([line for line in none.lines if line.get_linewidth() == 4]) == 1


def test_a_study_that_ends_early_keeps_its_incumbent() -> None:
    curves = a_comparison().curves("same")
    assert (curves[:, 3] == curves[:, 2]).all()


def test_a_study_without_a_success_ranks_last_and_hides_nothing() -> None:
    comparison = a_comparison()
    failed = a_run("good", 0, [math.nan] * 4, [])
    unstable = a_run("good", 1, [1.0] * 4, [1.0, None, 1.0])
    others = [
        r for r in comparison.runs if (r.sampler, r.seed_index) not in {("good", 0), ("good", 1)}
    ]
    comparison = replace(comparison, runs=(failed, unstable, *others))
    good = next(s for s in comparison.summaries if s.sampler == "good")
    assert good.n_without == 2
    assert good.score == pytest.approx(3.5, abs=0.01)
    pair = next(p for p in comparison.pairs if {p.first, p.second} == {"good", "random"})
    assert (pair.test.n_better, pair.test.n_worse) == (8, 2)
    assert "2 of 10 studies of good have no score" in comparison_text(comparison).replace("\n ", "")


def test_the_files_hold_everything_and_are_the_same_each_time(tmp_path: Path) -> None:
    comparison = a_comparison()
    for folder in ("one", "two"):
        write_files(comparison, tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == [
        *("curves.csv", "curves.png", "ranks.png", "report.html"),
        *("results.csv", "results.json", "scores.png"),
    ]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    rows = list(csv.DictReader((tmp_path / "one" / "results.csv").open()))
    assert len(rows) == 30
    assert {row["study"] for row in rows} >= {"made-up/compare/good/0"}
    rows = list(csv.DictReader((tmp_path / "one" / "curves.csv").open()))
    assert len(rows) == 10 * (4 + 4 + 3)
    assert [row["epochs"] for row in rows[:4]] == ["2", "4", "6", "8"]
    result = json.loads((tmp_path / "one" / "results.json").read_text())
    all_spent = {"trials": 4, "epochs": 8, "seconds": 4.4}
    for effort, curves in (
        *((effort, result["curves"]) for effort in ("trials", "epochs")),
        ("seconds", result["timing"]["curves"]),
    ):
        assert list(curves) == ["random", "good", "same"]
        curve = curves["good"][effort]
        assert len({len(points) for points in curve.values()}) == 1
        assert curve["mean"][0] == pytest.approx(8.0)
        assert curve["mean"][-1] == pytest.approx(3.0, abs=0.01)
        assert curve["low"][-1] < curve["mean"][-1] < curve["high"][-1]
        assert curve["spent"][-1] == pytest.approx(all_spent[effort])
    page = (tmp_path / "one" / "report.html").read_text()
    assert "Note: the grid has 3 cells, fewer than 4 trials." in page
    assert "good beats random" in page
    assert page.count("data:image/png;base64,") == 3
    assert re.search(r'training s</th>\s*<th scope="col" class="n">sampler s</th>', page)
    assert re.search(r'<td class="n">4\.00</td>\s*<td class="n">0\.40</td>', page)
    assert not re.findall(r'(?:src|href)="(?!data:)', page)


def test_no_table_of_the_page_is_wider_than_a_small_window_or_breaks_a_name(
    browser: Chrome, tmp_path: Path
) -> None:
    write_files(a_comparison(), tmp_path)
    browser.get((tmp_path / "report.html").as_uri())
    widths = browser.execute_script(
        "return [...document.querySelectorAll('.scroll')].map(e => [e.scrollWidth, e.clientWidth])"
    )
    assert len(widths) == 3
    assert [pair for pair in widths if pair[0] > pair[1]] == []
    heights = browser.execute_script(
        "return [...document.querySelectorAll('.name')].map(cell => cell.offsetHeight)"
    )
    assert max(heights) < 40  # one line


# -- the journey ----------------------------------------------------------------------------------

MY_MODULE = '''
def train(config, trial):
    """Halts at the test's `Gate` in the middle of some trial; noisy, so that seeds matter.

    Ends by itself, before the budget does; what it has trained whole stands in a file.
    """
    for epoch in range(1, 4):
        if trial.folder.name == "00002" and epoch == 2:
            HALT
        yield {"score": config["x"] * (1 - config["x"]) - 1 / epoch + trial.seed % 1000 / 1e5}
    with (trial.folder.parents[3] / "trained.txt").open("a") as file:
        file.write(f"{config['x']} {trial.seed}\\n")

def fingerprint(config, trial):
    return (trial.data_dir / "data.txt").read_text()
'''

COMPARED = """
name: NAME
trainable: compared_module:train
objective: {metric: score, direction: maximize}
search_space: {x: {type: float, low: 0, high: 1, step: 0.25}}
sampler: {name: tpe, n_startup_trials: 2}
scheduler: {name: asha, reduction_factor: 2}
seed: 1
budget: {n_trials: 4, max_epochs: 5}
finalists: {k: 2, n_seeds: 2}
"""


@pytest.fixture
def gate(shell: Shell) -> Iterator[Gate]:
    """Closed at first; removed afterwards."""
    gate = Gate(shell.folder)
    yield gate
    gate.remove()


def test_an_interrupted_comparison_is_resumed_to_the_result_of_an_undisturbed_one(
    shell: Shell, gate: Gate
) -> None:
    """Equal but for what stands under "timing": verdict, curves, every trial and re-run."""
    shell.write("compared_module.py", MY_MODULE.replace("HALT", halt(shell.folder)))
    data = shell.folder / "data" / "data.txt"
    data.parent.mkdir()
    data.write_text("first")
    for name in ("cut", "whole"):
        shell.write(f"{name}.yaml", COMPARED.replace("NAME", name))
    options = ("--samplers", "grid,random,tpe", "--seeds", "2", "--json")
    process = shell.start("compare", "cut.yaml", *options)
    gate.wait_for(process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stdout == ""
    assert "2 seeds the paired test can show p >= 0.5 at best" in stderr
    assert "hpo compare cut.yaml --samplers grid,random,tpe --seeds 2 --json --resume" in stderr
    assert "Traceback" not in stderr
    names = optuna.get_all_study_names(shell.storage_url)
    trials = [
        trial
        for name in names
        for trial in optuna.load_study(study_name=name, storage=shell.storage_url).trials
    ]
    assert 0 < len(trials) < 24
    assert all(trial.state.is_finished() for trial in trials)

    gate.open()
    again = shell.hpo("compare", "cut.yaml", *options)
    assert again.returncode == 2
    assert "Go on with --resume" in again.stderr
    more = shell.hpo("compare", "cut.yaml", *options[:2], "--seeds", "20", "--resume")
    assert more.returncode == 2
    assert "--seeds: 2 -> 20" in more.stderr
    data.write_text("other")
    other = shell.hpo("compare", "cut.yaml", *options, "--resume")
    assert other.returncode == 2, other.stderr
    assert "the data have changed since this search began" in other.stderr
    assert "begin another comparison: -o name=cut-2" in other.stderr
    data.write_text("first")
    resumed = shell.hpo("compare", "cut.yaml", *options, "--resume")
    whole = shell.hpo("compare", "whole.yaml", *options)
    assert resumed.returncode == whole.returncode == 0, resumed.stderr + whole.stderr

    def result_of(stdout: str) -> dict[str, Any]:
        result = json.loads(stdout.replace('"cut', '"whole').replace("name: cut", "name: whole"))
        assert 0 < result.pop("timing")["utilization"] <= 1
        return result  # type: ignore[no-any-return]

    assert result_of(resumed.stdout) == result_of(whole.stdout)
    result = json.loads(whole.stdout)
    assert sorted(study["study"] for study in result["studies"]) == sorted(
        name for name in optuna.get_all_study_names(shell.storage_url) if name.startswith("whole")
    )
    by_seed = [s["seed"] for s in result["studies"]]
    assert by_seed == by_seed[:2] * 3
    assert all(len(study["reruns"]) == 3 for study in result["studies"])
    assert {study["n_trials"] for study in result["studies"]} == {4}
    trained = (shell.folder / "runs/whole/compare/trained.txt").read_text().splitlines()
    assert len(trained) == len(set(trained)), "the same was trained twice"
    written = json.loads((shell.folder / "runs/whole/compare/results.json").read_text())
    assert written == result

    shown = shell.hpo("compare", "whole.yaml", *options[:-1], "--resume", "--out", "elsewhere")
    assert shown.returncode == 0, shown.stderr
    assert "is finished" in shown.stderr
    assert "whole: score (higher is better) of 3 samplers x 2 seeds x 4 trials" in shown.stdout
    assert (shell.folder / "elsewhere" / "report.html").is_file()
