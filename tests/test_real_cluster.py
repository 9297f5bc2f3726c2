"""A real cluster on this machine, a head and two workers: jobs, a lost worker, a lost head."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
from canary import ask_ray, command_lines, rows_of
from gate import Gate, halt
from postgresql import PASSWORD, PostgreSQL
from ray_nodes import Node, RayCluster

from storage import Ledger, open_engine, open_optuna_storage

PATIENCE_S = 600
"""Only a test that hangs waits as long."""

TRAINABLE = '''
import os
import re

def train(config, trial):
    """Halts at a `Gate` in the middle of trial 1: in epoch 2, and when it has gone on, in 3."""
    epoch, score, halts_in = 0, 0.0, 2
    if (kept := trial.checkpoints.load()) is not None:
        epoch, score, halts_in = kept[0], kept[1]["score"], 3
    while epoch < 3:
        epoch += 1
        with open("FOLDER/trained.txt", "a") as file:
            print(trial.folder.parts[-3], trial.folder.name, epoch, os.getpid(), file=file)
        if (trial.folder.name, epoch) == ("00001", halts_in):
            HALT
        score += config["x"]
        trial.checkpoints.save(epoch, {"score": score})
        yield {"score": score}
'''
WAITING = """
import os

def train(config, trial):
    with open("TOLD", "w") as told:
        print(trial.folder.name, os.getpid(), file=told)
    open("GATE").close()
    yield config["x"]
"""
NEEDS_MORE = """
with open("/proc/self/cmdline") as file:
    if file.read().startswith("ray::"):
        raise ImportError("libmore.so: no such file")

def train(config):
    return config["x"]
"""
SPEC = """
name: shared
trainable: halts_on_cluster:train
objective: {metric: score, direction: maximize}
search_space: {x: {type: float, low: 0, high: 1}}
sampler: random
budget: {n_trials: 4, max_epochs: 3}
finalists: {k: 1, n_seeds: 1, confirmations: 0}
"""


@dataclass
class Team:
    """A user's folder, a cluster, the folder that all its machines share, and its database."""

    folder: Path
    cluster: RayCluster
    database: str

    @property
    def runs(self) -> Path:
        return self.folder / "shared" / "runs"

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """`hpo` in a process of its own, with the cluster's token unless told otherwise."""
        return subprocess.Popen(
            [sys.executable, "-m", "hpo", *arguments],
            cwd=self.folder / "user",
            env={**self.cluster.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def at_cluster(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return self.start(*arguments, "--address", self.cluster.dashboard, **environment)

    def hpo(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        process = self.at_cluster(*arguments, **environment)
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
        assert "Traceback" not in stderr, stderr
        return process.returncode, stdout, stderr

    def trained(self, name: str) -> list[tuple[str, int, int]]:
        """Trial, epoch and process of each epoch of a search that was begun, in order."""
        lines = (self.folder / "trained.txt").read_text(encoding="utf-8").split("\n")
        words = [line.split() for line in lines if line.startswith(f"{name} ")]
        return [(trial, int(epoch), int(pid)) for _, trial, epoch, pid in words]

    def node_of_trial_1(self, name: str) -> Node:
        pids = [pid for trial, _, pid in self.trained(name) if trial == "00001"]
        return self.cluster.node_of(pids[-1])

    def check(self, name: str) -> None:
        """The budget is spent to the trial, nothing runs, and each epoch is recorded once."""
        study = optuna.load_study(study_name=name, storage=open_optuna_storage(self.database))
        assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4
        for trial in study.trials:
            assert trial.value == pytest.approx(3 * trial.params["x"])
            assert list(trial.intermediate_values) == [1, 2, 3]
        ledger = Ledger(open_engine(self.database))
        experiment = ledger.find(name)
        assert experiment is not None
        assert experiment.finished_at is not None
        epochs = ledger.epochs(experiment.id)
        told = [[one.epoch for one in epochs[number]] for number in range(4)]
        assert told == [[1, 2, 3]] * 4


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory, postgresql: PostgreSQL) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("team")
    shared, user = folder / "shared", folder / "user"
    user.mkdir()
    source = TRAINABLE.replace("HALT", halt(folder)).replace("FOLDER", str(folder))
    (user / "halts_on_cluster.py").write_text(source, encoding="utf-8")
    (user / "shared.yaml").write_text(SPEC, encoding="utf-8")
    places = {
        "HPO_STORAGE_URL": postgresql.new("team"),
        "HPO_CHECKPOINTS": f"{shared}/kept",
        "HPO_RUNS": f"{shared}/runs",
        "HPO_DATA": f"{shared}/data",
    }
    # `python` of a job is the one of whoever has started the head.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    cluster = RayCluster({**places, "PATH": path})
    try:
        cluster.start_head()
        for _ in range(2):
            cluster.start_worker()
        yield Team(folder, cluster, places["HPO_STORAGE_URL"])
    finally:
        cluster.close()


@contextmanager
def gate_of(team: Team) -> Iterator[Gate]:
    """Closed at first; one for each time that the trainable is awaited."""
    gate = Gate(team.folder)
    try:
        yield gate
    finally:
        gate.remove()


def test_a_job_is_followed_left_alone_stopped_gone_on_with_and_survives_a_lost_worker(
    team: Team,
) -> None:
    """The whole life of a submitted run, as its user sees it."""
    with gate_of(team) as gate:
        first = team.at_cluster("submit", "shared.yaml")
        gate.wait_for(first)
        first.send_signal(signal.SIGINT)
        stdout, stderr = first.communicate(timeout=PATIENCE_S)
        assert first.returncode == 130, stderr
        assert "submitted as hpo-shared" in stderr
        assert "detached; hpo-shared goes on." in stderr
        assert f"jobs logs shared -f --address {team.cluster.dashboard}" in stderr
        assert f"jobs stop shared --address {team.cluster.dashboard}" in stderr
        assert "results will be in" in stdout  # what the job wrote until then
        list_and_stop(team)

    with gate_of(team) as gate:
        second = team.at_cluster("submit", "shared.yaml")
        gate.wait_for(second)
        assert team.trained("shared")[-1][:2] == ("00001", 3)  # and not epoch 1 again
        the_password_is_nowhere(team)
        node = team.node_of_trial_1("shared")
        gate.open()
        node.kill()
        stdout, stderr = second.communicate(timeout=PATIENCE_S)
    assert second.returncode == 0, stdout + stderr
    assert "submitted as hpo-shared-2" in stderr
    assert "4 trials (4 complete" in stdout
    team.check("shared")
    epochs = Counter(epoch for trial, epoch, _ in team.trained("shared") if trial == "00001")
    assert epochs == {1: 1, 2: 2, 3: 2}  # it was cut off twice, and lost no checkpoint


def the_password_is_nowhere(team: Team) -> None:
    """Of the database, which stands in the environment of the cluster, while a job runs there."""
    code, listed, _ = team.hpo("jobs", "list", "--json")
    assert code == 0
    head = ask_ray(team.cluster.address, token=team.cluster.token).stdout
    assert "hpo-shared-2" in head
    assert PASSWORD not in head + listed
    assert not [line for line in command_lines() if PASSWORD.encode() in line]
    folders = (team.folder, team.cluster.folder)
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert {"raylet.out", "shared.yaml", "spec.yaml"} <= {file.name for file in files}
    assert [file for file in files if PASSWORD.encode() in file.read_bytes()] == []
    assert [row for row in rows_of(team.database) if PASSWORD in row] == []


def list_and_stop(team: Team) -> None:
    """What can be done with a job that runs; nothing without the token."""
    code, stdout, _ = team.hpo("jobs", "list", "--json")
    (row,) = json.loads(stdout)
    assert (code, row["id"], row["status"]) == (0, "hpo-shared", "RUNNING")
    code, stdout, stderr = team.hpo("jobs", "list", RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN="")
    assert (code, stdout) == (5, "")
    assert "asks for a token" in stderr
    assert "RAY_AUTH_MODE=token" in stderr
    follower = team.at_cluster("submit", "shared.yaml", "-o", "seed=7")
    code, _, stderr = team.hpo("jobs", "stop", "shared")
    assert (code, stderr) == (0, "hpo-shared: asked to end, which takes up to 30 s\n")
    _, stderr = follower.communicate(timeout=PATIENCE_S)
    assert "hpo-shared runs already" in stderr
    assert "another spec" in stderr
    assert follower.returncode == 143, stderr
    assert "hpo-shared was stopped" in stderr


def test_what_the_machines_lack_is_told_and_the_exit_code_of_the_run_is_that_of_submit(
    team: Team,
) -> None:
    """The driver can import it, the workers cannot. Somebody else's job is called like this one."""
    job = ("job", "submit", "--submission-id", "hpo-lacking", "--", "true")
    subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", *job],
        env={**team.cluster.environment, "RAY_ADDRESS": team.cluster.dashboard},
        check=True,
        capture_output=True,
    )
    (team.folder / "user" / "needs_more.py").write_text(NEEDS_MORE, encoding="utf-8")
    code, stdout, stderr = team.hpo(
        *("submit", "shared.yaml", "-o", "trainable=needs_more:train", "--name", "lacking")
    )
    assert code == 5
    assert "no trial can run on the cluster as it is, 1 problem:" in stdout
    assert re.search(r"127\.0\.0\.[23]: trainable: module 'needs_more' .* libmore\.so", stdout)
    assert "hpo-lacking-2 ended with exit code 5" in stderr
    assert not (team.runs / "lacking" / "spec.yaml").exists()


def test_a_machine_that_joins_in_the_middle_of_a_run_gets_its_next_trial(team: Team) -> None:
    """Each machine holds one trial, and none of them ends before the next has begun."""
    n = team.cluster.n_workers
    with waiting_trials(team) as trials:
        process = team.start("run", "joined.yaml", RAY_ADDRESS=team.cluster.address)
        with ended_at_last(process):
            before = {trials.next_one(process)[0] for _ in range(n)}
            joined = team.cluster.start_worker()
            trial, pid = trials.next_one(process)
            assert trial not in before
            assert pid in joined.pids()
            trials.open()
            stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, stderr
    assert "4 trials (4 complete" in stdout
    joined.kill()


def test_a_machine_without_hpo_that_joins_ends_the_run_and_is_named(team: Team) -> None:
    """Each trial would go there and fail at once; what is finished is kept, and none is blamed."""
    shadow = team.folder / "shadow" / "hpo"
    shadow.mkdir(parents=True)
    shadow.joinpath("__init__.py").write_text("raise ModuleNotFoundError(\"No module 'hpo'\")\n")
    name = ("-o", "name=misled")
    with waiting_trials(team) as trials:
        process = team.start("run", "joined.yaml", *name, RAY_ADDRESS=team.cluster.address)
        with ended_at_last(process):
            for _ in range(team.cluster.n_workers):
                trials.next_one(process)
            bad = team.cluster.start_worker(PYTHONPATH=str(shadow.parent))
            _, stderr = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 5
        assert "Traceback" not in stderr
        assert f"no trial can run on {bad.host}: no worker starts there: " in stderr
        assert "ModuleNotFoundError: No module 'hpo'" in stderr
        assert "mend that machine or take it away, then go on with --resume" in stderr
        storage = open_optuna_storage(team.database)
        study = optuna.load_study(study_name="misled", storage=storage)
        assert {trial.state.name for trial in study.trials} == {"WAITING"}
        bad.kill()
        trials.open()
        again = team.start(
            "run", "joined.yaml", *name, "--resume", RAY_ADDRESS=team.cluster.address
        )
        stdout, stderr = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, stderr
    assert "4 trials (4 complete" in stdout


@dataclass
class WaitingTrials:
    """Trials that tell that they have begun, and wait."""

    told: Path
    gate: Path

    def __post_init__(self) -> None:
        for pipe in (self.told, self.gate):
            os.mkfifo(pipe)
        self._reader = os.open(self.told, os.O_RDWR)  # so it has no end
        self._lines: list[str] = []

    def next_one(self, process: subprocess.Popen[str]) -> tuple[str, int]:
        """Trial and process of the next that begins."""
        if not self._lines:
            exit_of_process = os.pidfd_open(process.pid)
            ready, _, _ = select.select([self._reader, exit_of_process], [], [], PATIENCE_S)
            os.close(exit_of_process)
            assert self._reader in ready, process.communicate() if ready else "no trial begins"
            self._lines += os.read(self._reader, 4096).decode().splitlines()  # each comes whole
        trial, pid = self._lines.pop(0).split()
        return trial, int(pid)

    def open(self) -> None:
        """Who waits goes on, and nobody waits any more."""
        waiting = self.gate.rename(self.gate.with_name("was_gate"))
        self.gate.touch()
        with suppress(OSError):  # nobody waits
            os.close(os.open(waiting, os.O_WRONLY | os.O_NONBLOCK))
        waiting.unlink()

    def close(self) -> None:
        os.close(self._reader)
        self.told.unlink()
        self.gate.unlink()


@contextmanager
def waiting_trials(team: Team) -> Iterator[WaitingTrials]:
    """Those of joined.yaml."""
    trials = WaitingTrials(team.folder / "told", team.folder / "waiting")
    source = WAITING.replace("TOLD", str(trials.told)).replace("GATE", str(trials.gate))
    (team.folder / "user" / "waits.py").write_text(source, encoding="utf-8")
    spec = SPEC.replace("name: shared", "name: joined").replace("halts_on_cluster", "waits")
    (team.folder / "user" / "joined.yaml").write_text(spec, encoding="utf-8")
    try:
        yield trials
    finally:
        trials.close()


@contextmanager
def ended_at_last(process: subprocess.Popen[str]) -> Iterator[None]:
    """Whatever a test comes to, its command does not outlive it."""
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_when_the_head_is_lost_a_new_cluster_finishes_the_study(team: Team) -> None:
    """Database and checkpoints are all that it needs: the driver was lost with the head.

    What lay in the folder of results is lost, too. Its worker joins when the run has begun.
    """
    with gate_of(team) as gate:
        job = team.at_cluster("submit", "shared.yaml", "--name", "moved", "--no-wait")
        stdout, stderr = job.communicate(timeout=PATIENCE_S)
        assert (job.returncode, stdout) == (0, "hpo-moved\n"), stderr
        follower = team.at_cluster("jobs", "logs", "moved", "-f")
        gate.wait_for(follower)
        team.cluster.close()  # all its machines at once
        _, stderr = follower.communicate(timeout=PATIENCE_S)
        assert follower.returncode == 5
        assert "Traceback" not in stderr
        gate.open()
        runs = team.folder / "new" / "runs"
        environment = {**team.cluster.environment, "HPO_RUNS": str(runs)}
        team.runs.rename(team.folder / "lost")
        with closing(RayCluster(environment)) as cluster:
            cluster.start_head(dashboard=False)
            run = ("run", "shared.yaml", "-o", "name=moved", "--begin-or-resume")
            there = {"HPO_RUNS": str(runs), "RAY_ADDRESS": cluster.address}
            refused = team.start(*run, **there)
            _, stderr = refused.communicate(timeout=PATIENCE_S)
            assert refused.returncode == 5
            assert "If machines join when they are asked for" in stderr
            process = team.start(*run, "-o", "concurrency=2", **there)
            assert process.stderr is not None
            assert any("for one to join" in line for line in process.stderr)
            cluster.start_worker()
            stdout, stderr = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0, stderr
    team.check("moved")
    assert {"report.html", "spec.yaml"} < {file.name for file in (runs / "moved").iterdir()}
    epochs = Counter(epoch for trial, epoch, _ in team.trained("moved") if trial == "00001")
    assert epochs == {1: 1, 2: 2, 3: 1}
