"""Start Ray, or join a cluster, and make sure that it can run a trial at all."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import ray

from hpo.errors import UnfitEnvironmentError
from hpo.execution.interrupts import InterruptFlag
from hpo.execution.private_ray import private_folder, start_private_ray
from hpo.spec import ResourcesSpec

# Ray's own defaults cost more than a short trial, or speak where we do: see docs/architecture.md.
RAY_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}

START_WAIT, START_WAIT_S = "RAY_gcs_server_port_wait_time_s", "120"
"""Ray's own patience with its first process is 30 s. That with the second one, 30 s, is fixed."""


@contextmanager
def ray_cluster(resources: ResourcesSpec, interrupt: InterruptFlag) -> Iterator[int]:
    """Ray for the length of a ``with`` block; yields how many trials fit at a time.

    Joins the cluster at ``RAY_ADDRESS`` if that is set, else starts Ray on this machine.

    A signal that comes while Ray starts, which may take a minute, ends that at once: what has
    started by then ends with this process.

    Raises:
        UnfitEnvironmentError: if Ray does not start, or no node can ever hold one trial.
        RunInterruptedError: after a signal while it started.
    """
    os.environ.update({key: os.environ.get(key, value) for key, value in RAY_ENVIRONMENT.items()})
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the study records what fails
    with ExitStack() as at_end:
        if not ray.is_initialized():
            with interrupt.at_once():
                _start(at_end)
            interrupt.listen()  # again: Ray has put a handler of its own on SIGTERM
        yield _n_trials_at_a_time(resources)


def _start(at_end: ExitStack) -> None:
    address = os.environ.get("RAY_ADDRESS", "local")
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": True,
    }
    try:
        if address == "local":
            # To look that long for a cluster that is not there would help nobody.
            os.environ.setdefault(START_WAIT, START_WAIT_S)
            folder = at_end.enter_context(private_folder())
            start_private_ray(folder, include_dashboard=False, **options)
        else:
            ray.init(address=address, **options)
        at_end.callback(ray.shutdown)
    except Exception as error:  # noqa: BLE001  that is what a node raises which starts too slowly
        raise UnfitEnvironmentError(no_start_text(address, error)) from None


def no_start_text(address: str, error: Exception) -> str:
    """What to tell and to advise if `ray.init` of ``address`` raised ``error``."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    way_out = (
        "A machine that is busy may be too slow for it: try again when it has less to do, or set "
        "RAY_ADDRESS to a cluster that runs (ray start --head)"
        if address == "local"
        else "Set RAY_ADDRESS to a cluster that runs, or unset it to start Ray on this machine"
    )
    return f"Ray does not start (RAY_ADDRESS={address}): {reason.rstrip('.')}. {way_out}"


def is_joined() -> bool:
    """Whether trials run on a cluster that somebody else has started."""
    return os.environ.get("RAY_ADDRESS", "local") != "local"


def nodes_that_fit(resources: ResourcesSpec) -> list[dict[str, Any]]:
    """What Ray knows of each node that can hold a trial."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return [node for node in nodes if n_trials_on(node["Resources"], resources) > 0]


def n_trials_on(there: Mapping[str, float], resources: ResourcesSpec) -> int:
    """How many trials a node holds at a time that has so many CPUs and GPUs, by Ray's names."""
    n_by_cpu = _times(resources.cpu, there.get("CPU", 0))
    n_gpus = there.get("GPU", 0)
    if resources.gpu == 0:
        return n_by_cpu
    if resources.gpu < 1:  # Ray gives no trial parts of two GPUs
        return min(n_by_cpu, int(n_gpus) * _times(resources.gpu, 1))
    return min(n_by_cpu, _times(resources.gpu, n_gpus))


def _times(part: float, whole: float) -> int:
    """How often ``part`` goes into ``whole``; 0.1 goes ten times into 1."""
    return int(whole / part + 1e-9)


def _n_trials_at_a_time(resources: ResourcesSpec) -> int:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    fitting = sum(n_trials_on(node["Resources"], resources) for node in nodes)
    if fitting == 0:
        there = "; ".join(
            f"cpu={node['Resources'].get('CPU', 0):g}, gpu={node['Resources'].get('GPU', 0):g}"
            for node in nodes
        )
        where = "this machine has" if len(nodes) == 1 else f"the cluster's {len(nodes)} nodes have"
        raise UnfitEnvironmentError(
            f"a trial asks for cpu={resources.cpu:g}, gpu={resources.gpu:g}; {where} {there}. "
            "Lower `resources` in the spec (-o resources.gpu=0), or set RAY_ADDRESS to a cluster "
            "that has them"
        )
    return fitting
