"""How many trials the machines have room for, and what asks for more machines."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources

from hpo.errors import UnfitEnvironmentError
from hpo.spec import ResourcesSpec

LOOK_S = 5.0
"""How often it is looked which machines there are."""
MANY = 10_000
"""Trials at a time, where nobody has said how many are wanted."""


def is_joined() -> bool:
    """Whether trials run on a cluster that somebody else has started."""
    return os.environ.get("RAY_ADDRESS", "local") != "local"


class Room:
    """How many trials run at a time: as many as fit, but no more than are wanted.

    On a joined cluster that changes: machines are lost, and join.
    """

    def __init__(self, resources: ResourcesSpec, wanted: int | None) -> None:
        self._resources, self._wanted = resources, wanted
        self._fitting, self._looked_s = 0, -math.inf

    @property
    def most(self) -> int:
        """More than that it will never be."""
        if is_joined():
            return self._wanted or MANY
        return self.now()

    @property
    def seen(self) -> int:
        """As many as there were at the last look."""
        return max(1, min(self._fitting, self._wanted or MANY))

    def now(self) -> int:
        """At least one, which waits for a machine: so Ray tells when there is one."""
        if time.monotonic() - self._looked_s > LOOK_S:
            self._fitting = n_trials_at_a_time(self._resources)
            if self._wanted and is_joined():
                _ask_for(self._resources, self._wanted)  # another run may have taken it back
            self._looked_s = time.monotonic()
        return self.seen


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


def n_trials_at_a_time(resources: ResourcesSpec) -> int:
    """How many trials all machines together hold that are there now."""
    return sum(n_trials_on(node["Resources"], resources) for node in nodes_that_fit(resources))


def must_fit(resources: ResourcesSpec) -> None:
    """Some machine that is there now must hold a trial.

    Raises:
        UnfitEnvironmentError: if none does.
    """
    if n_trials_at_a_time(resources) > 0:
        return
    joining = (
        ". If machines join when they are asked for, say for how many trials: -o concurrency=8"
        if is_joined()
        else ""
    )
    raise UnfitEnvironmentError(
        f"{too_little(resources)}. "
        "Lower `resources` in the spec (-o resources.gpu=0), or set RAY_ADDRESS to a cluster "
        f"that has them{joining}"
    )


def too_little(resources: ResourcesSpec) -> str:
    """What a trial asks for, and what the machines have that are there now."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    there = "; ".join(
        f"cpu={node['Resources'].get('CPU', 0):g}, gpu={node['Resources'].get('GPU', 0):g}"
        for node in nodes
    )
    where = "this machine has" if len(nodes) == 1 else f"the cluster's {len(nodes)} nodes have"
    return f"a trial asks for cpu={resources.cpu:g}, gpu={resources.gpu:g}; {where} {there}"


@contextmanager
def asked_for(resources: ResourcesSpec, wanted: int) -> Iterator[None]:
    """Ray's autoscaler, if there is one, brings machines for so many trials, and takes them away.

    A trial that waits would ask for one machine, and the next one only when that is there.
    """
    _ask_for(resources, wanted)
    try:
        yield
    finally:
        with suppress(Exception):  # the cluster is gone, say
            request_resources(bundles=[])


def _ask_for(resources: ResourcesSpec, wanted: int) -> None:
    bundle = {"CPU": resources.cpu, "GPU": resources.gpu}
    # Ray's autoscaler takes 0 GPUs for a wish to be on a machine with GPUs.
    request_resources(bundles=[{name: n for name, n in bundle.items() if n > 0}] * wanted)
