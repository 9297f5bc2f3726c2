"""A run that is interrupted, and one that meets another run of the same experiment."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator

import optuna
import psutil
import pytest
from commands import Shell, assert_no_traceback
from conftest import ROOT
from gate import Gate, halt

from hpo.errors import RunInterruptedError
from hpo.execution import InterruptFlag
from storage import hold_lease

MY_MODULE = '''
def train(config, trial):
    """Halts at the test's `Gate`, so that an interrupt comes in the middle of trial 2."""
    for epoch in range(1, 5):
        if trial.folder.name >= "00002" and epoch == 2:
            HALT
        yield {"score": config["x"] * epoch}
'''

KEEPING = '''
import os

def train(config, trial):
    """Halts at a `Gate` in the middle of trial 1, and at another one in that of trial 2."""
    kept = trial.checkpoints.load() or (0, {"score": 0.0})
    epoch, score = kept[0], kept[1]["score"]
    while epoch < 4:
        epoch += 1
        with open("FOLDER/trained.txt", "a") as file:
            print(os.getpid(), "/".join(trial.folder.parts[-3:]), epoch, file=file)
        if (trial.folder.name, epoch) == ("00001", 2):
            HALT1
        if (trial.folder.name, epoch) == ("00002", 3):
            HALT2
        score += config["x"] * epoch
        trial.checkpoints.save(epoch, {"score": score})
        yield {"score": score}
'''

SLOW = """
name: slow
trainable: slow_module:train
objective: {metric: score, direction: maximize}
search_space: {x: {type: float, low: 0, high: 1}}
sampler: {name: tpe, n_startup_trials: 2}
scheduler: asha
seed: 1
budget: {n_trials: 5, max_epochs: 4}
concurrency: 1
finalists: {k: 2, n_seeds: 2}
"""


@pytest.fixture(scope="module")
def user(shell: Shell) -> Shell:
    """A folder with a trainable that halts."""
    shell.write("slow_module.py", MY_MODULE.replace("HALT", halt(shell.folder)))
    shell.write("slow.yaml", SLOW)
    return shell


def trials_of(shell: Shell, name: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=name, storage=shell.storage_url).trials


def states(shell: Shell, name: str) -> Counter[str]:
    return Counter(trial.state.name for trial in trials_of(shell, name))


def record(shell: Shell, name: str) -> list[tuple[object, ...]]:
    return [
        (trial.number, trial.params, trial.state, trial.value, trial.intermediate_values)
        for trial in trials_of(shell, name)
    ]


@pytest.fixture
def gate(user: Shell) -> Iterator[Gate]:
    """Closed at first; removed afterwards."""
    gate = Gate(user.folder)
    yield gate
    gate.remove()


def test_an_interrupted_search_is_resumed_to_the_trials_of_an_undisturbed_one(
    user: Shell, gate: Gate
) -> None:
    """At concurrency 1: the same trials, the same values, the exact budget, nothing RUNNING."""
    process = user.start("run", "slow.yaml", "-oname=cut")
    gate.wait_for(process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert stderr.count("interrupted: ending") == 1
    assert "--resume" in stderr
    assert "Traceback" not in stderr
    assert states(user, "cut")["RUNNING"] == 0
    assert states(user, "cut")["WAITING"] == 1

    gate.open()
    resumed = user.hpo("run", "slow.yaml", "-oname=cut", "--resume")
    whole = user.hpo("run", "slow.yaml", "-oname=whole")
    assert resumed.returncode == whole.returncode == 0, resumed.stderr + whole.stderr

    assert record(user, "cut") == record(user, "whole")
    assert len(record(user, "cut")) == 5


def test_killed_worker_or_driver_a_trial_goes_on_from_its_checkpoint(user: Shell) -> None:
    """SIGKILL both: the same trials, values and epochs as undisturbed; two are trained twice.

    The worker of the dead driver, which waits at a pipe in another's cluster, is no more either.
    """
    gates, halts = [], {"FOLDER": str(user.folder)}
    for word in ("HALT1", "HALT2"):
        (folder := user.folder / word).mkdir()
        gates.append(Gate(folder))
        halts[word] = halt(folder)
    module = KEEPING
    for word, text in halts.items():
        module = module.replace(word, text)
    user.write("keeping.py", module)
    *_, word = made_by("run").split()  # the same line begins it and goes on with it
    arguments = ("run", "slow.yaml", "-otrainable=keeping:train", "-oscheduler=none", word)
    process = user.start(*arguments, "-oname=killed")
    gates[0].wait_for(process)
    first_worker = int((user.folder / "trained.txt").read_text().split()[-3])
    gates[0].open()
    os.kill(first_worker, signal.SIGKILL)
    gates[1].wait_for(process)
    worker = psutil.Process(int((user.folder / "trained.txt").read_text().split()[-3]))
    process.kill()
    _, stderr = process.communicate(timeout=30)
    assert "warning: trial 1: its worker died" in stderr
    assert "it goes on from its last checkpoint, retry 1 of 3" in stderr
    assert psutil.wait_procs([worker], timeout=30)[1] == []
    gates[1].open()

    resumed = user.hpo(*arguments, "-oname=killed")
    whole = user.hpo(*arguments, "-oname=unkilled")
    assert resumed.returncode == whole.returncode == 0, resumed.stderr + whole.stderr
    assert record(user, "killed") == record(user, "unkilled")
    lines = (user.folder / "trained.txt").read_text().splitlines()
    epochs = Counter(tuple(line.split()[1:]) for line in lines if "/trials/" in line)
    assert {key: n for key, n in epochs.items() if n != 1} == {
        ("killed/trials/00001", "2"): 2,
        ("killed/trials/00002", "3"): 2,
    }
    assert list(user.folder.glob("runs/*/*/*/checkpoints")) == []
    for gate in gates:
        gate.remove()


def made_by(target: str) -> str:
    """The one command line of a target of the Makefile, its folder as it is."""
    make = ("make", "--no-print-directory", "--dry-run", "--old-file", ".venv/installed", target)
    done = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    assert line.startswith(".venv/bin/hpo run search_spaces/cnn.yaml ")
    return line


def test_a_second_driver_of_one_experiment_is_refused(user: Shell, gate: Gate) -> None:
    arguments = ("run", "slow.yaml", "-oname=twice")
    process = user.start(*arguments)
    gate.wait_for(process)
    second = user.hpo(*arguments)
    third = user.hpo(*arguments, "--resume")
    other = user.hpo(*arguments, "--resume", "-oseed=2")  # what differs is told by who may drive
    sync = user.hpo("sync", "twice")
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 143, stderr
    for refused in (second, third, other, sync):
        assert refused.returncode == 3
        assert str(process.pid) in refused.stderr
        assert_no_traceback(refused)


def test_a_suspended_driver_that_was_overtaken_wakes_up_and_writes_nothing(
    user: Shell, gate: Gate
) -> None:
    """SIGSTOP, as when a laptop sleeps; what takes over does not wait for it, nor the other way."""
    process = user.start("run", "slow.yaml", "-oname=suspended")
    gate.wait_for(process)
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    with hold_lease(user.storage_url, "experiment 'suspended'", lease_s=0.0):
        before = record(user, "suspended")
        gate.let_pass()
        process.send_signal(signal.SIGCONT)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 3, stderr
        told = [line for line in stderr.splitlines() if line.startswith("hpo: ")]
        assert len(told) == 1, stderr
        assert f"process {os.getpid()} on " in told[0]
        assert "has taken over experiment 'suspended'" in told[0]
        assert "Traceback" not in stderr
        assert record(user, "suspended") == before
    assert user.hpo("run", "slow.yaml", "-oname=suspended", "--resume").returncode == 0
    assert states(user, "suspended").total() == 5


def test_ctrl_c_ends_a_run_with_its_own_ray_and_all_its_processes(
    user: Shell, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal goes to the whole process group, as from a terminal."""
    monkeypatch.delenv("RAY_ADDRESS")
    process = user.start("run", "slow.yaml", "-oname=alone")
    gate.wait_for(process)
    started = psutil.Process(process.pid).children(recursive=True)
    assert "raylet" in [child.name() for child in started]
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert "hpo run slow.yaml -oname=alone --resume" in stderr
    assert "Traceback" not in stderr
    assert states(user, "alone")["RUNNING"] == 0
    _, left = psutil.wait_procs(started, timeout=30)
    assert left == []


def test_a_killed_driver_takes_its_own_ray_and_all_its_workers_along(
    user: Shell, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL: nobody could say goodbye. Ray's own agents take a minute or two to see it."""
    monkeypatch.delenv("RAY_ADDRESS")
    process = user.start("run", "slow.yaml", "-oname=orphans")
    gate.wait_for(process)
    started = psutil.Process(process.pid).children(recursive=True)
    started = [child for child in started if not child.name().endswith("Agent")]
    process.kill()
    process.communicate(timeout=30)
    _, left = psutil.wait_procs(started, timeout=60)
    assert left == []
    assert states(user, "orphans")["RUNNING"] == 1


def test_ctrl_c_while_ray_starts_ends_it_then_and_there(
    user: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has been recorded by then, so there is nothing to go on with."""
    monkeypatch.delenv("RAY_ADDRESS")
    process = user.start("run", "slow.yaml", "-oname=early")
    assert process.stderr is not None
    while "starting Ray" not in process.stderr.readline():
        assert process.poll() is None
    started = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.endswith("hpo: interrupted before anything was run\n")
    assert "Traceback" not in stderr
    _, left = psutil.wait_procs(started, timeout=30)
    assert left == []
    assert not (user.folder / "runs" / "early" / "spec.yaml").exists()


class Goodbye:
    """Interrupts the process when Python cleans it up."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_that_python_loses_while_it_cleans_up_ends_the_start_all_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An exception in ``__del__``, or when a weak reference ends, is printed and dropped."""
    things, message = [Goodbye()], "interrupted before anything was run"
    with (
        InterruptFlag() as interrupt,
        pytest.raises(RunInterruptedError, match=message),
        interrupt.at_once(),
    ):
        things.clear()
    assert capsys.readouterr().err == ""
