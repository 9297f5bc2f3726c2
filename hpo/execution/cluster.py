"""Start Ray, or join a cluster, for the length of a run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import ray

from hpo.errors import UnfitEnvironmentError
from hpo.execution.interrupts import InterruptFlag
from hpo.execution.private_ray import private_folder, start_private_ray
from hpo.execution.room import Room, asked_for, is_joined, must_fit
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
def ray_cluster(
    resources: ResourcesSpec, wanted: int | None, interrupt: InterruptFlag
) -> Iterator[Room]:
    """Ray for the length of a ``with`` block; yields how many trials it has room for.

    Joins the cluster at ``RAY_ADDRESS`` if that is set, else starts Ray on this machine. A cluster
    that brings machines when they are asked for is asked for ``wanted`` trials at a time.

    A signal that comes while Ray starts, which may take a minute, ends that at once: what has
    started by then ends with this process.

    Raises:
        UnfitEnvironmentError: if Ray does not start, or no node can hold one trial and nobody has
            said for how many trials a joined cluster shall bring nodes.
        RunInterruptedError: after a signal while it started.
    """
    os.environ.update({key: os.environ.get(key, value) for key, value in RAY_ENVIRONMENT.items()})
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the study records what fails
    with ExitStack() as at_end:
        if not ray.is_initialized():
            with interrupt.at_once():
                _start(at_end)
            interrupt.listen()  # again: Ray has put a handler of its own on SIGTERM
        room = Room(resources, wanted)
        if wanted and is_joined():
            at_end.enter_context(asked_for(resources, wanted))
        else:
            must_fit(resources)
        yield room


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
