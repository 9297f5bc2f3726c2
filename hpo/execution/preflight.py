"""Look from every machine of a cluster whether a trial could run there, before any does."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import ray
from ray import cloudpickle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hpo.errors import UnfitEnvironmentError
from hpo.execution.fitness import UnfitMachineError, must_have_data, must_see_gpu
from hpo.execution.room import LOOK_S, nodes_that_fit, too_little
from hpo.execution.stalls import NO_WORKER_S
from hpo.spec import ResourcesSpec
from hpo.tasks import TrialTask
from trainables import DataError, Place, TrainableError, find_trainable, write_whole

PACKAGE = "hpo-platform"
PATIENCE_S = 25
"""After that what the others have said is enough: a trial can run on those that are well."""
FIRST_NODE_S = 1800
"""A machine that is rented first has to boot, and to be given torch."""
SERVER_PATIENCE_S = 5
N_READERS = 16
N_SHOWN = 3
"""Machines that are named for one problem."""

GONE = "it was lost while it was asked"

Told: TypeAlias = tuple[list[str], bool]
"""A machine's problems, and whether it has written what the driver shall find."""


@dataclass(frozen=True)
class _Look:
    """Which machine was asked, and where it shall leave a file."""

    node_id: str
    address: str
    probe: Place


def check_cluster(
    task: TrialTask, home: Place, resources: ResourcesSpec, say: Callable[[str], None]
) -> None:
    """Ask every machine that can run a trial for all that it lacks.

    Args:
        task: a trial of the search.
        home: where checkpoints go; what a machine writes there must be seen here.
        resources: of one trial.
        say: is told of machines that take long.

    Raises:
        UnfitEnvironmentError: names every problem with the machines that have it.
    """
    gpu = resources.gpu
    asked: dict[Any, _Look] = {}
    for node in _first_nodes(resources, say):
        probe = home / f".probe-{uuid.uuid4().hex}"
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        look = ray.remote(num_cpus=0, num_gpus=gpu, max_retries=0)(look_from_there())
        answer = look.options(scheduling_strategy=there).remote(
            version(PACKAGE), cloudpickle.dumps((task, probe))
        )
        asked[answer] = _Look(node["NodeID"], node["NodeManagerAddress"], probe)
    ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=PATIENCE_S)
    names = _names([asked[answer].address for answer in late])
    if late and not ready:
        # Others may have all GPUs, or so much to do that to import torch takes a minute.
        say(f"{names}: no answer after {PATIENCE_S} s; waiting up to {NO_WORKER_S:.0f} s in all")
        ready, late = ray.wait(late, num_returns=1, timeout=NO_WORKER_S - PATIENCE_S)
    elif late:
        say(f"warning: {names}: no answer after {PATIENCE_S} s; the others were asked")
    machines: dict[str, list[str]] = defaultdict(list)
    readers = ThreadPoolExecutor(N_READERS)  # a store takes its time for each
    try:
        told = readers.map(_problems_told, ready, (asked[answer] for answer in ready))
        for answer, problems in zip(ready, told, strict=True):
            for problem in problems:
                machines[problem].append(asked[answer].address)
    finally:  # at a Ctrl-C, too, which waits for no store
        readers.shutdown(wait=False, cancel_futures=True)
    if 0 < len(machines[GONE]) < len(ready):
        say(f"warning: {_names(machines[GONE])}: {GONE}; the others were asked")
        machines[GONE].clear()
    for answer in late:
        if not ready:
            machines[_no_answer_text(gpu)].append(asked[answer].address)
        ray.cancel(answer, force=True)
        with suppress(OSError):  # it may have been written in the meantime
            asked[answer].probe.unlink(missing_ok=True)
    machines = {problem: named for problem, named in machines.items() if named}
    if machines:
        raise UnfitEnvironmentError(problems_text(machines))


def _first_nodes(resources: ResourcesSpec, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Those that can hold a trial, as soon as there are any."""
    is_told, deadline = False, time.monotonic() + FIRST_NODE_S
    while not (nodes := nodes_that_fit(resources)):
        if not is_told:
            say(f"{too_little(resources)}: waiting up to {FIRST_NODE_S} s for one to join")
            is_told = True
        if time.monotonic() > deadline:
            raise UnfitEnvironmentError(
                f"{too_little(resources)}. No other one has joined within {FIRST_NODE_S} s: "
                "`ray status` tells why, or lower `resources` in the spec"
            )
        time.sleep(LOOK_S)
    return nodes


def look_from_there() -> Callable[[str, bytes], Told]:
    """The function that a worker runs; it travels whole, since hpo may be missing there."""

    def look(wanted: str, payload: bytes) -> Told:
        import sys
        from importlib.metadata import PackageNotFoundError, version

        try:
            there = version("hpo-platform")
            import hpo  # noqa: F401  may be another one than the package
        except (PackageNotFoundError, ImportError) as error:
            return [
                f"no package hpo for {sys.executable} ({type(error).__name__}); install there "
                f"what the driver has, hpo-platform {wanted}"
            ], False
        if there != wanted:
            other = f"hpo-platform {there}, but the driver has {wanted}"
            return [f"{other}; install the same everywhere"], False
        import os
        import pickle

        from hpo.environment import PRIVATE
        from hpo.execution.preflight import problems_here

        os.umask(PRIVATE)  # it may be the first to make the experiment's folder
        return problems_here(*pickle.loads(payload))  # noqa: S301  the driver's own

    return look


def problems_here(task: TrialTask, probe: Place) -> Told:
    """What this machine lacks to run ``task``; leaves a file at ``probe`` for the driver."""
    problems = [*_gpu_problems(task), *_trainable_problems(task)]
    try:
        write_whole(probe, probe.name.encode())
    except OSError as error:
        return [*problems, f"cannot write checkpoints: {_first_line(error)}. {_WAY_OUT}"], False
    return problems, True


def _gpu_problems(task: TrialTask) -> list[str]:
    try:
        must_see_gpu(task)
    except UnfitMachineError as error:
        return [str(error)]
    return []


def _trainable_problems(task: TrialTask) -> list[str]:
    try:
        trainable = find_trainable(task.trainable, task.import_paths)
    except TrainableError as error:
        return [
            f"trainable: {error}. `hpo submit` brings the files of the working directory along; "
            "what they import must be installed on every machine"
        ]
    try:
        must_have_data(trainable, task)
    except DataError as error:
        return [
            f"data: {error}. HPO_DATA names a folder that has one path on every machine "
            f"(now {task.context.data_dir})"
        ]
    return []


_WAY_OUT = (
    "Name a place that every machine can write to: --checkpoints (HPO_CHECKPOINTS) with a shared "
    "folder or s3://bucket/name, or HPO_RUNS with a shared folder"
)


def _problems_told(answer: Any, look: _Look) -> list[str]:
    problems: list[str]
    try:
        problems, has_written = ray.get(answer)
    except ray.exceptions.RayError as error:
        is_there = any(node["Alive"] for node in ray.nodes() if node["NodeID"] == look.node_id)
        return [f"its worker failed: {_first_line(error)}" if is_there else GONE]
    return [*problems, *(unseen(look.probe) if has_written else ())]


def unseen(probe: Place) -> list[str]:
    """A problem unless this process sees what a machine has written, which is then removed."""
    try:
        content = probe.read_bytes()
        probe.unlink(missing_ok=True)
    except OSError:
        content = b""
    if content == probe.name.encode():
        return []
    return [
        f"what it writes to {probe.parent} is not seen by the driver: a trial that is cut off "
        f"could not go on elsewhere. {_WAY_OUT}"
    ]


def _no_answer_text(gpu: float) -> str:
    waits = f"busy (a trial asks for gpu={gpu:g})" if gpu else "busy"
    return f"no answer within {NO_WORKER_S:.0f} s: {waits} or not reachable; `ray status` tells"


def problems_text(machines: Mapping[str, list[str]]) -> str:
    """All problems, each with the machines that have it."""
    count = "1 problem" if len(machines) == 1 else f"{len(machines)} problems"
    lines = [f"no trial can run on the cluster as it is, {count}:"]
    for problem, named in machines.items():
        lines.append(f"{_names(named)}: {problem}")
    return "\n  ".join(lines)


def _names(machines: Sequence[str]) -> str:
    names = sorted(machines)
    more = f" and {len(names) - N_SHOWN} more" if len(names) > N_SHOWN else ""
    return ", ".join(names[:N_SHOWN]) + more


def server_problem(uri: str) -> str | None:
    """Why an http server does not answer, in words; None if it does, or ``uri`` is none.

    What it answers is not looked at: a server that asks for a password is there.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return None
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"  # no password in an error
    try:
        with urllib.request.urlopen(address, timeout=SERVER_PATIENCE_S):  # noqa: S310  http only
            return None
    except urllib.error.HTTPError:
        return None
    except (OSError, ValueError) as error:
        return _first_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
