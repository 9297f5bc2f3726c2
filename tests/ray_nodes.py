"""A real Ray cluster on one machine: each node has processes and an address of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from ray.util import get_node_ip_address

RAY = (sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats")
# Of a lost node Ray would learn in 15 s, of a lost head in a minute.
SOON = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


N_STARTS = 3


@dataclass
class Node:
    """One machine of the cluster, as far as Ray can tell."""

    process: subprocess.Popen[str]
    host: str

    def pids(self) -> set[int]:
        """Of all that runs on it: raylet, agents, workers, and on a head the drivers of jobs."""
        with contextlib.suppress(psutil.NoSuchProcess):
            node = psutil.Process(self.process.pid)
            return {node.pid, *(child.pid for child in node.children(recursive=True))}
        return set()

    def kill(self) -> None:
        """As if its plug was pulled."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        self.process.wait()


@dataclass
class RayCluster:
    """A head without CPUs, and workers; everything that Ray asks for a token does so here."""

    environment: dict[str, str]
    token: str = "a-token-for-tests-that-is-long-enough"  # noqa: S105
    nodes: list[Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Ray's sockets lie in it, and their paths must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="hpo-ray-", dir="/tmp"))
        self.port, self.dashboard_port = free_port(), free_port()
        self.host = get_node_ip_address()
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}
        inherited = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        self.environment = {**inherited, **SOON, **token, **self.environment}

    @property
    def address(self) -> str:
        """Of the head, for a driver on this machine; Ray takes no loopback address for a head."""
        return f"{self.host}:{self.port}"

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    def start_head(self, *, dashboard: bool = True) -> Node:
        return self._start(
            *("--head", "--port", str(self.port), "--num-cpus", "0"),
            *("--ray-client-server-port", str(free_port())),
            *("--include-dashboard", str(dashboard).lower()),
            *("--dashboard-port", str(self.dashboard_port)),
        )

    def start_worker(self, **environment: str) -> Node:
        """One more machine; ``environment`` is what differs there."""
        host = f"127.0.0.{len(self.nodes) + 1}"
        there = ("--address", self.address, "--num-cpus", "1", "--node-ip-address", host)
        return self._start(*there, host=host, **environment)

    def _start(self, *arguments: str, host: str = "", **environment: str) -> Node:
        """A node that has joined; Ray gives it 30 s for that, which a busy machine may exceed."""
        ports = ("--min-worker-port", "0", "--max-worker-port", "0")
        memory = ("--object-store-memory", "80000000")
        for _ in range(N_STARTS):
            agent = ("--dashboard-agent-listen-port", str(free_port()))
            # In one folder, each would unpack a job's files anew under the feet of the others.
            own = ("--temp-dir", f"{self.folder}/{len(self.nodes)}")
            process = subprocess.Popen(
                [*RAY, *arguments, *ports, *agent, *own, *memory],
                env={**self.environment, **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            assert process.stdout is not None
            told = []
            for line in process.stdout:
                told.append(line)
                if "Ray runtime started" in line:
                    self.nodes.append(Node(process, host or self.host))
                    return self.nodes[-1]
            process.wait()
        raise AssertionError("".join(told))

    @property
    def n_workers(self) -> int:
        """Those that live."""
        return sum(node.process.poll() is None for node in self.nodes) - 1

    def node_of(self, pid: int) -> Node:
        """The node that a worker process belongs to."""
        return next(node for node in self.nodes if pid in node.pids())

    def close(self) -> None:
        """End all that was started here, and nothing else."""
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port
