"""What Ray says of a worker that is no more, in our words: why, as far as that can be known."""

from __future__ import annotations

import re
from pathlib import Path

from ray.util import get_node_ip_address

from hpo.tasks import EpochReport, lost, unfit

VMSTAT = Path("/proc/vmstat")
LOW_ON_MEMORY = "low on memory"
"""Of Ray's memory monitor. Its words for any other death name "the OOM killer" as a guess."""
NODE_DIED = "node has died"
NOT_IMPORTED, NOT_BEGUN = "failed to import on the worker", "raised in its creation task"
WORKERS_ADDRESS = re.compile(r"^\s*ip: (\S+)$", re.MULTILINE)


class LostWorkers:
    """Makes a report of each worker that Ray calls dead."""

    def __init__(self) -> None:
        self._n_oom_kills = n_oom_kills()

    def report_of(self, error: str) -> EpochReport:
        """What there is to report of the task that a worker had.

        Args:
            error: all that Ray says of it.
        """
        n_before, self._n_oom_kills = self._n_oom_kills, n_oom_kills()
        if LOW_ON_MEMORY in error:
            return lost("Ray ended its worker: the node was low on memory", "out_of_memory")
        if NODE_DIED in error:
            return lost("the node died that its worker was on")
        if NOT_IMPORTED in error or NOT_BEGUN in error:  # nothing of a user runs in there
            return unfit(_worker_machine(error), f"no worker starts there: {_last_line(error)}")
        if "Traceback" in error or "died" not in error:
            return lost(f"its worker failed: {_last_line(error)}")
        if self._n_oom_kills > n_before and _was_here(error):
            return lost("the kernel killed its worker for want of memory", "out_of_memory")
        return lost("its worker died; want of memory is the usual cause")


def _was_here(error: str) -> bool:
    """Whether the worker was on this machine, the only one whose kernel can be asked."""
    named = WORKERS_ADDRESS.search(error)
    return named is None or named[1].startswith("127.") or named[1] == get_node_ip_address()


def _worker_machine(error: str) -> str:
    """Where it was, as Ray tells of an exception in it."""
    named = re.search(r"\bip=([^,)\s]+)", error)
    return named[1] if named else "a machine of the cluster"


def n_oom_kills() -> int:
    """Processes that the kernel of this machine has killed for want of memory; 0 if unknown."""
    try:
        lines = VMSTAT.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "Ray gives no reason"
