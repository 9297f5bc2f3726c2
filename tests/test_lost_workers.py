"""A worker that dies costs its own task at most an epoch; what a user's code raises is its own."""

from __future__ import annotations

import inspect
import json
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import ray
from commands import Shell
from one_worker import OneWorker, outline, trained
from optuna.trial import TrialState
from ray._private import function_manager
from ray.tune.schedulers import FIFOScheduler
from test_going_on import KEEPS, SCHEDULERS, SPEC
from without_ray import drive_stages

from hpo.execution import TrialDrive
from hpo.execution.lost_workers import NOT_BEGUN, NOT_IMPORTED, LostWorkers, n_oom_kills
from hpo.search.source import RETRIES
from hpo.task_factory import TaskFactory
from hpo.tasks import EPOCH, N_RETRIES, EpochReport, TaskList, TrialTask, lost

Begin = Callable[..., OneWorker]
DEATH = lost("its worker died")


@pytest.fixture
def begin(tmp_path: Path) -> Begin:
    """The searches of a spec; a second call of one name is a new process."""

    def make(name: str = "cut", text: str = SPEC, module: str = KEEPS) -> OneWorker:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        trainable = "keeps" if module == KEEPS else f"keeps_{zlib.crc32(module.encode())}"
        (folder / f"{trainable}.py").write_text(module)
        return OneWorker(text.replace("keeps:", f"{trainable}:"), folder)

    return make


def train(
    worker: OneWorker,
    loses: Callable[[TrialTask, int], bool],
    scheduler_of_search: FIFOScheduler | None = None,
) -> None:
    """A search whose worker dies instead of making a task's n-th report, where it ``loses``."""
    source = worker.source()
    source.scheduler = scheduler_of_search or source.scheduler
    n_reports = Counter[TrialDrive]()

    def reported(task: TrialTask, drive: TrialDrive) -> EpochReport:
        n_reports[drive] += 1
        return DEATH if loses(task, n_reports[drive]) else drive.next_report()

    drive_stages(iter([source]), reported=reported)


def without_retries(worker: OneWorker) -> list[tuple[Any, ...]]:
    """All that its study says of its trials, but when, and how often a worker died."""
    told = outline(worker)
    for *_, attributes in told:
        attributes.pop(RETRIES, None)
    return told


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_search_that_loses_workers_is_what_it_would_have_been(
    scheduler: str, begin: Begin
) -> None:
    """Whatever judges it hears of each epoch once; each death costs the epoch it came in."""
    text = f"{SPEC}scheduler: {SCHEDULERS[scheduler]}\n"
    whole, cut = begin("whole", text), begin("cut", text)
    whole.search()
    deaths = Counter[str]()

    def loses(task: TrialTask, n_reports: int) -> bool:
        is_time = n_reports == len(task.known) + 1 + task.number % 2
        deaths[f"{task.number:05d}"] += is_time
        return is_time and deaths[f"{task.number:05d}"] == 1

    train(cut, loses)
    assert sum(deaths.values()) >= 2
    assert without_retries(cut) == without_retries(whole)
    assert trained(cut) == trained(whole)  # the report was lost before its epoch was trained


class Hearing(FIFOScheduler):
    """One of Ray's, which keeps what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[str, int]] = []

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        self.heard.append((Path(trial.trial_id).name, result[EPOCH]))
        return str(self.CONTINUE)


@pytest.mark.parametrize("keeps", [True, False])
def test_a_scheduler_hears_of_each_epoch_once(keeps: bool, begin: Begin) -> None:
    """Also where all are trained again: what it hears twice may count twice."""
    module = KEEPS if keeps else KEEPS.replace("trial.checkpoints.save(", "print(")
    deaths, hearing = iter([True]), Hearing()
    train(begin(module=module), lambda _, n: n == 3 and next(deaths, False), hearing)
    epochs = (1, 2, 3)  # the last one is told to nobody
    assert hearing.heard == [(f"{number:05d}", epoch) for number in range(5) for epoch in epochs]


def test_after_three_retries_a_trial_is_a_failure_and_the_search_goes_on(begin: Begin) -> None:
    """From the last checkpoint each time; the count is the study's, whoever drives it."""
    worker = begin()
    with pytest.raises(RuntimeError, match="the second one"):
        train(worker, dies_in_epoch_2_of_trial_0_until_the_driver_dies(at=2))
    worker = begin()
    train(worker, lambda task, n: task.number == 0 and n > len(task.known))
    first, *others = worker.study.trials
    assert (first.state, first.user_attrs["fail_cause"]) == (TrialState.FAIL, "worker_died")
    assert first.user_attrs[RETRIES] == N_RETRIES == 3
    assert {trial.state for trial in others} == {TrialState.COMPLETE}
    assert len(others) == 4
    assert trained(worker)["00000 1"] == 1
    ends = [warning.split(", ")[-1] for _, warning in worker.warnings]
    assert ends == ["retry 3 of 3"]  # of this driver; the two before it were told of the others
    assert not list(worker.folder.glob("trials/*/checkpoints"))


def dies_in_epoch_2_of_trial_0_until_the_driver_dies(*, at: int) -> Callable[..., bool]:
    n_deaths = 0

    def loses(task: TrialTask, n_reports: int) -> bool:
        nonlocal n_deaths
        if n_reports <= max(len(task.known), 1):
            return False
        n_deaths += 1
        if n_deaths > at:
            raise RuntimeError("the second one was the last")
        return True

    return loses


def test_what_a_trainable_raises_is_not_tried_again(begin: Begin) -> None:
    worker = begin(module=KEEPS.replace("total +=", "1 / (trial.folder.name != '00001'); total +="))
    train(worker, lambda *_: False)
    assert worker.states() == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert trained(worker)["00001 1"] == 1
    assert RETRIES not in worker.study.trials[1].user_attrs


def test_without_checkpoints_it_begins_again_with_epoch_1(begin: Begin) -> None:
    worker = begin(module=KEEPS.replace("trial.checkpoints.save(", "print("))
    deaths = iter([False, True])
    train(worker, lambda task, n: task.number == 0 and n < 3 and next(deaths, False))
    assert trained(worker)["00000 1"] == 2
    assert "it goes on from epoch 1, retry 1 of 3" in worker.warnings[0][1]


def test_a_search_that_has_ended_early_lets_a_lost_trial_come_to_its_end(begin: Begin) -> None:
    """As it does with those that run; a driver that dies instead leaves it to the next one."""
    search = begin().source("budget.target_value=1e9")
    first, second = search.next_task(), search.next_task()
    run_to_end(search, first)
    assert search.next_task() is None
    assert second is not None
    search.ended(second, DEATH)
    for _ in range(2):
        again = search.next_task()
        assert again is not None
        assert again.number == second.number
        search = begin().source("budget.target_value=1e9")  # the driver dies


def run_to_end(search: Any, task: TrialTask | None) -> None:
    assert task is not None
    drive = TrialDrive(task)
    while (report := drive.next_report()).ending is None:
        search.reported(task, report)
    search.ended(task, report)


def test_re_runs_begin_again_too(begin: Begin) -> None:
    tasks: TaskFactory = begin().tasks()
    heard: list[EpochReport] = []
    said: list[str] = []
    stage = TaskList(
        [tasks.rerun(3, {"x": 1.0}, 0)], lambda _task, report, _s: heard.append(report), said.append
    )
    for _ in range(N_RETRIES + 1):
        task = stage.next_task()
        assert task is not None
        stage.ended(task, DEATH)
    assert stage.next_task() is None
    assert heard == [DEATH]
    assert said[0] == ("warning: reruns/00003-0: its worker died; it begins again, retry 1 of 3")
    assert len(said) == N_RETRIES


# --- what Ray says ---

DIED = """The actor died unexpectedly before finishing this task.
\tclass_name: TrialActor
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit \
detail: Worker unexpectedly exits with a connection error code 2. End of file. Some common causes \
include: (1) the process was killed by the OOM killer due to high memory usage, (2) ..."""
SAID = {
    DIED: ("worker_died", "its worker died; want of memory is the usual cause"),
    "The actor is dead because its node has died. Node Id: f00": (
        "worker_died",
        "the node died that its worker was on",
    ),
    "Task was killed due to the node running low on memory.": (
        "out_of_memory",
        "Ray ended its worker: the node was low on memory",
    ),
}


@pytest.mark.parametrize("said", SAID)
def test_what_ray_says_of_a_death_becomes_a_cause_and_a_reason(said: str) -> None:
    report = LostWorkers().report_of(said)
    assert (report.fail_cause, report.fail_reason) == SAID[said]
    assert report.is_lost


@pytest.mark.parametrize(
    "reason", [f"The actor with name TrialActor {NOT_IMPORTED}. This may be", "System error"]
)
def test_a_machine_without_hpo_is_named_and_no_trial_blamed(reason: str) -> None:
    """It has joined after the others were looked at, and has room: each retry would go there."""
    where = f"The actor died because of an error {NOT_BEGUN}, ray::X.__init__() (ip=10.0.0.9)"
    last = "ModuleNotFoundError: No module named 'hpo'"
    said = f"{where}\nRuntimeError: {reason}:\n\nTraceback\n{last}"
    report = LostWorkers().report_of(said)
    assert (report.is_unfit, report.is_lost, report.fail_cause) == (True, False, None)
    assert "10.0.0.9: no worker starts there: ModuleNotFoundError: No mod" in report.fail_reason
    assert f'"{NOT_IMPORTED}.' in inspect.getsource(function_manager)
    assert f"{NOT_BEGUN}, " in inspect.getsource(ray.exceptions)


def test_a_kill_by_the_kernel_is_told_from_its_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray only guesses at it."""
    assert n_oom_kills() >= 0  # of this machine
    file = tmp_path / "vmstat"
    monkeypatch.setattr("hpo.execution.lost_workers.VMSTAT", file)
    assert n_oom_kills() == 0
    file.write_text("nr_free_pages 1\noom_kill 7\nnr 2\n")
    workers = LostWorkers()
    assert workers.report_of(DIED).fail_cause == "worker_died"
    file.write_text("oom_kill 8\n")
    assert workers.report_of(DIED).fail_cause == "out_of_memory"
    assert workers.report_of(DIED).fail_cause == "worker_died"
    for n, (address, cause) in enumerate(
        {"127.0.0.2": "out_of_memory", "192.0.2.1": "worker_died"}.items(), start=9
    ):  # the kernel of another machine cannot be asked
        file.write_text(f"oom_kill {n}\n")
        assert workers.report_of(f"{DIED}\n\tip: {address}\n").fail_cause == cause


# --- under Ray ---

DYING = """
import os
import signal

def train(config, trial):
    kept = trial.checkpoints.load()
    for epoch in range(1 if kept is None else kept[0] + 1, 4):
        with open("FOLDER/trained.txt", "a") as file:
            print("/".join(trial.folder.parts[-2:]), epoch, file=file)
        died = trial.folder / "died"
        is_wanted = WANTED
        if is_wanted and epoch == 2 and (not died.exists() or trial.folder.name == "00002"):
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        trial.checkpoints.save(epoch, {})
        yield {"score": config["x"] * epoch}
"""
DYING_SPEC = """
name: dying
trainable: dying:train
objective: {metric: score, direction: maximize}
search_space: {x: {type: float, low: 0, high: 1}}
sampler: random
budget: {n_trials: 4, max_epochs: 3}
finalists: {k: 1, n_seeds: 1, confirmations: 1}
concurrency: 1
"""


def test_killed_workers_cost_a_search_an_epoch_each_and_a_deadly_config_its_trial(
    shell: Shell,
) -> None:
    """Trial 1 and the re-run lose one worker each, trial 2 all it gets."""
    wanted = 'trial.folder.name in ("00001", "00002") or trial.folder.parent.name == "reruns"'
    module = DYING.replace("FOLDER", str(shell.folder))
    shell.write("dying.py", module.replace("WANTED", wanted))
    shell.write("dying.yaml", DYING_SPEC)
    done = shell.hpo("run", "dying.yaml")
    assert done.returncode == 0, done.stderr
    study = optuna.load_study(study_name="dying", storage=shell.storage_url)
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]
    assert study.trials[2].user_attrs["fail_cause"] == "worker_died"
    counts = Counter((shell.folder / "trained.txt").read_text().splitlines())
    (rerun,) = {line.split()[0] for line in counts if line.startswith("reruns/")}
    assert {line: n for line, n in counts.items() if n != 1} == {
        "trials/00001 2": 2,
        "trials/00002 2": 1 + N_RETRIES,
        f"{rerun} 1": 2,
        f"{rerun} 2": 2,
    }
    assert "warning: trial 1: its worker died; want of memory is the usual cause" in done.stderr
    assert f"warning: {rerun}: its worker died" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.dumps([t.params for t in study.trials])  # all of them were drawn
