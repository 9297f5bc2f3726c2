"""A run keeps to itself: its files, its Ray, its passwords; watched from outside while it runs."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from canary import ask_ray, command_lines, readable, rows_of
from commands import Shell
from conftest import BRANIN
from gate import Gate, halt
from postgresql import PASSWORD, PostgreSQL

from hpo.execution.private_ray import private_folder

KNOWN = "a-token-that-others-know-by-now"
WATCHED = '''
def train(config, trial):
    """Halts at the test's `Gate` in trial 1."""
    for epoch in (1, 2):
        if (trial.folder.name, epoch) == ("00001", 2):
            HALT
        trial.checkpoints.save(epoch, {})
        yield {"score": config["x"] * epoch}
'''
SPEC = """
name: watched
trainable: watched_module:train
objective: {metric: score, direction: maximize}
search_space: {x: {type: float, low: 0, high: 1}}
sampler: {name: random}
budget: {n_trials: 2, max_epochs: 2}
concurrency: 1
finalists: {k: 1, n_seeds: 1}
"""


@dataclass
class Watched:
    """What was seen of a run from outside.

    Attributes:
        listening: addresses and ports at which its processes accept connections.
        connected: addresses of others that its processes were connected to.
        command_lines: of all processes of this machine.
        environments: of the processes that it had started.
        ray_folder: of Ray's files.
        ray_files: what was in them.
        head: what Ray's head says to who has the token.
        strangers: what it says to who has another one.
        reached: those of its ports that answered at another address of this machine.
    """

    listening: set[tuple[str, int]] = field(default_factory=set)
    connected: set[str] = field(default_factory=set)
    command_lines: list[bytes] = field(default_factory=list)
    environments: list[bytes] = field(default_factory=list)
    ray_folder: Path = Path()
    ray_folder_mode: int = 0
    ray_files: dict[Path, bytes] = field(default_factory=dict)
    head: str = ""
    strangers: list[subprocess.CompletedProcess[str]] = field(default_factory=list)
    reached: list[int] = field(default_factory=list)
    stdout: str = ""
    stderr: str = ""
    exit_code: int | None = None


@pytest.fixture(scope="module")
def databases(postgresql: PostgreSQL) -> tuple[str, str]:
    """Of the ledger and of MLflow, with a password each: in the user part, and in the query."""
    ledger, mlflow = postgresql.new("watched"), postgresql.new("watched_mlflow")
    bare = mlflow.replace(f":{PASSWORD}@", "@")
    return ledger, f"{bare}?password={PASSWORD}"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A folder in which runs start a Ray of their own."""
    return Shell(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def watched(alone: Shell, databases: tuple[str, str]) -> Iterator[Watched]:
    """A run that was looked at while a trial was under way, and has ended since."""
    alone.write("watched_module.py", WATCHED.replace("HALT", halt(alone.folder)))
    alone.write("watched.yaml", SPEC)
    gate = Gate(alone.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("HPO_STORAGE_URL", databases[0])
        patch.setenv("MLFLOW_TRACKING_URI", databases[1])
        patch.setenv("RAY_AUTH_MODE", "disabled")  # of another cluster, whose token others know
        patch.setenv("RAY_AUTH_TOKEN", KNOWN)
        process = alone.start("run", "watched.yaml")
    yield watch(process, gate)
    gate.remove()


def watch(process: subprocess.Popen[str], gate: Gate) -> Watched:
    """Look at a command while a trial of it is at the gate; then let it come to its end."""
    seen = Watched()
    gate.wait_for(process)
    try:
        look_at(psutil.Process(process.pid), seen)
    finally:
        gate.let_through()
        gate.open()
        seen.stdout, seen.stderr = process.communicate(timeout=300)
    seen.exit_code = process.returncode
    return seen


def look_at(driver: psutil.Process, seen: Watched) -> None:
    started = driver.children(recursive=True)
    for process in (driver, *started):
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                seen.listening.add((address_in(connection.laddr.ip), connection.laddr.port))
            elif connection.raddr:
                seen.connected.add(address_in(connection.raddr.ip))
    seen.command_lines = command_lines()
    for process in started:
        seen.environments += readable(Path(f"/proc/{process.pid}/environ"))
    raylet = next(process for process in started if process.name() == "raylet")
    options = " ".join(raylet.cmdline())
    session = re.search(r"--session[_-]dir=(\S+)", options)
    address = re.search(r"--gcs-address=(\S+)", options)
    assert session is not None
    assert address is not None
    seen.ray_folder = Path(session[1]).parents[1]
    seen.ray_folder_mode = stat.S_IMODE(seen.ray_folder.stat().st_mode)
    files = [path for path in seen.ray_folder.rglob("*") if path.is_file()]
    seen.ray_files = {path: path.read_bytes() for path in files}
    token = re.search(rb"RAY_AUTH_TOKEN=(\w+)", b"".join(seen.environments))
    assert token is not None
    seen.head = ask_ray(address[1], token=token[1].decode()).stdout
    seen.strangers = [ask_ray(address[1], token=one) for one in ("0" * 64, KNOWN)]
    seen.reached = [port for _, port in seen.listening if answers_elsewhere(port)]


def address_in(ip: str) -> str:
    """An IPv4 address that a socket of IPv6 writes in its own way."""
    return ip.removeprefix("::ffff:")


def answers_elsewhere(port: int) -> bool:
    """Whether a port answers at an address of this machine that is not loopback."""
    own = {
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == socket.AF_INET and not address.address.startswith("127.")
    }
    for address in own:
        with socket.socket() as client:
            client.settimeout(5)
            if client.connect_ex((address, port)) == 0:
                return True
    return False


def test_it_went_well(watched: Watched) -> None:
    assert watched.exit_code == 0, watched.stderr
    assert "watched" in watched.stdout


def test_everything_listens_on_loopback_alone(watched: Watched) -> None:
    assert len(watched.listening) > 3  # Ray's head, its node, its workers
    assert {ip for ip, _ in watched.listening} <= {"127.0.0.1", "::1"}
    assert watched.reached == []


def test_nothing_outside_is_connected_to(watched: Watched) -> None:
    assert watched.connected <= {"127.0.0.1", "::1"}


def test_ray_answers_nobody_without_the_token(watched: Watched) -> None:
    assert "WATCHED" in watched.head or "job_id" in watched.head
    assert len(watched.strangers) == 2
    for stranger in watched.strangers:
        assert stranger.returncode != 0
        assert "job_id" not in stranger.stdout
        assert re.search("(?i)unauthenticated|token", stranger.stderr)


TWICE = """
import ray
from hpo.execution.private_ray import private_folder, start_private_ray

for _ in range(2):
    with private_folder() as folder:
        start_private_ray(folder, include_dashboard=False, log_to_driver=False)
        print(ray.get(ray.remote(lambda: __import__("os").environ["RAY_AUTH_TOKEN"]).remote()))
        ray.shutdown()
"""


def test_each_ray_of_a_process_has_a_token_of_its_own() -> None:
    """Ray itself reads mode and token once."""
    done = subprocess.run(
        [sys.executable, "-c", TWICE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert len({*done.stdout.split()}) == 2, done.stderr


def test_files_of_ray_are_private_and_go_with_the_run(watched: Watched) -> None:
    assert watched.ray_folder_mode == 0o700
    assert len(watched.ray_files) > 5
    assert not watched.ray_folder.exists()


def test_the_password_is_nowhere(
    watched: Watched, alone: Shell, databases: tuple[str, str]
) -> None:
    shows_no_password(watched)
    files = [path for path in alone.folder.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert [path for path in files if PASSWORD.encode() in path.read_bytes()] == []
    for url in databases:
        rows = rows_of(url)
        assert rows
        assert not [row for row in rows if PASSWORD in row]


def shows_no_password(seen: Watched) -> None:
    """Neither while it ran nor in what it printed."""
    for path, content in seen.ray_files.items():
        assert PASSWORD.encode() not in content, path
    for text in (*seen.command_lines, *seen.environments):
        assert PASSWORD.encode() not in text
    for line in (seen.stdout, seen.stderr, seen.head):
        assert PASSWORD not in line


def test_the_password_is_in_no_comparison_and_no_dashboard(
    watched: Watched, alone: Shell, databases: tuple[str, str]
) -> None:
    (folder := alone.folder / "in_comparison").mkdir()
    alone.write("compared_module.py", WATCHED.replace("HALT", halt(folder)))
    alone.write("compared.yaml", SPEC.replace("watched", "compared"))
    options = ("--samplers", "random,tpe", "--seeds", "2", "--trials", "2", "--json")
    gate = Gate(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("HPO_STORAGE_URL", databases[0])
        patch.setenv("MLFLOW_TRACKING_URI", databases[1])
        compared = watch(alone.start("compare", "compared.yaml", *options), gate)
        dashboard = alone.start("dashboard", "watched", "--port", "0")
    gate.remove()
    assert compared.exit_code == 0, compared.stderr
    shows_no_password(compared)
    assert dashboard.stdout is not None
    told = [dashboard.stdout.readline()]
    root = told[-1].partition("/dashboard")[0]
    for page in ("/dashboard", "/api/studies", "/api/meta"):
        with urllib.request.urlopen(f"{root}{page}", timeout=60) as answer:  # noqa: S310
            told.append(answer.read().decode())
    assert not [line for line in command_lines() if PASSWORD.encode() in line]
    dashboard.send_signal(signal.SIGINT)
    told += dashboard.communicate(timeout=60)
    assert '"study_name": "watched"' in "".join(told)
    assert not [text for text in told if PASSWORD in text]
    files = [path for path in alone.folder.rglob("*") if path.is_file()]
    assert "results.json" in {path.name for path in files}
    assert [path for path in files if PASSWORD.encode() in path.read_bytes()] == []
    assert [row for row in rows_of(databases[0]) if PASSWORD in row] == []


def test_a_wrong_password_is_told_and_not_shown(alone: Shell, databases: tuple[str, str]) -> None:
    wrong = {"HPO_STORAGE_URL": databases[0].replace(PASSWORD, "canary-0815")}
    done = alone.hpo("sync", "watched", **wrong)
    assert done.returncode == 3
    assert "password authentication failed" in done.stderr
    assert "canary" not in done.stderr + done.stdout
    wrong = {"MLFLOW_TRACKING_URI": "http://me:canary-0815@127.0.0.1:1"}
    for command in ("sync", "audit"):
        done = alone.hpo(command, "watched", HPO_STORAGE_URL=databases[0], **wrong)
        assert done.returncode == 5
        assert "http://me:***@127.0.0.1:1" in done.stderr
        assert "canary" not in done.stderr + done.stdout


def test_what_a_run_writes_is_its_users_alone(shell: Shell, branin: Callable[..., object]) -> None:
    """On a Ray that was started by somebody who lets others read; the workers write, too."""
    shell.write("branin.yaml", BRANIN.replace("n_trials: 6", "n_trials: 2"))
    before = os.umask(0o022)
    try:
        done = shell.hpo("run", "branin.yaml")
    finally:
        os.umask(before)
    assert done.returncode == 0, done.stderr
    runs = shell.folder / "runs"
    modes = {path: path.stat().st_mode for path in (runs, *runs.rglob("*"))}
    assert {path.name for path in modes} > {"hpo.db", "mlflow.db", "report.html", "spec.yaml"}
    assert [path for path, mode in modes.items() if mode & 0o077] == []


def test_it_needs_no_network(alone: Shell) -> None:
    """In a network namespace that has loopback alone."""
    if subprocess.run(["unshare", "--net", "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to make a network namespace")
    alone.write("branin.yaml", BRANIN.replace("n_trials: 6", "n_trials: 2"))
    command = f"ip link set lo up && exec {sys.executable} -m hpo run branin.yaml"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", command],
        cwd=alone.folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_what_a_killed_driver_has_left_is_removed_by_a_later_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        monkeypatch.setenv("RAY_TMPDIR", place)
        left, just_killed, users = (Path(place, name) for name in ("hpo-1", "hpo-2", "hpo-data"))
        for folder in (left, just_killed, users):
            folder.mkdir()
        (just_killed / "driver.lock").touch()
        with private_folder() as running:
            locks = [left / "driver.lock", Path(running).with_name("driver.lock")]
            for lock in locks:
                lock.touch()
                os.utime(lock, (0, 0))  # of long ago
            with private_folder():
                assert not left.exists()
                assert Path(running).parent.exists()
        assert sorted(Path(place).iterdir()) == [just_killed, users]
