"""Ray that does not start is a fault of the environment, told with a way out of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys

import pytest
from ray.autoscaler._private.constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray.experimental.internal_kv import _internal_kv_get

from hpo.execution.cluster import no_start_text
from hpo.execution.room import asked_for, n_trials_on
from hpo.spec import ResourcesSpec

START = """
from hpo.errors import UnfitEnvironmentError
from hpo.execution import InterruptFlag, ray_cluster
from hpo.spec import ResourcesSpec

try:
    with InterruptFlag() as interrupt, ray_cluster(ResourcesSpec(), None, interrupt):
        print("started")
except UnfitEnvironmentError as error:
    print(error)
"""


def test_a_ray_that_is_too_slow_is_told_without_a_traceback() -> None:
    """In a process of its own, since Ray runs in this one; it is given no time at all."""
    done = subprocess.run(
        [sys.executable, "-c", START],
        env={**os.environ, "RAY_ADDRESS": "local", "RAY_gcs_server_port_wait_time_s": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Ray does not start (RAY_ADDRESS=local): " in done.stdout
    assert "try again when it has less to do" in done.stdout
    assert "Traceback" not in done.stderr


def test_machines_are_asked_for_while_a_run_wants_them_and_let_go_after(ray_address: str) -> None:
    """Of Ray's autoscaler, which reads the wish where it is read here."""
    with asked_for(ResourcesSpec(cpu=2), 3):
        assert wish() == [{"CPU": 2}] * 3
    assert wish() == []
    with contextlib.suppress(KeyError), asked_for(ResourcesSpec(gpu=0.5), 1):
        assert wish() == [{"CPU": 1, "GPU": 0.5}]
        raise KeyError
    assert wish() == []


def wish() -> list[dict[str, float]]:
    written = _internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL)
    bundles: list[dict[str, float]] = json.loads(written)
    return bundles


@pytest.mark.parametrize(
    ("address", "error", "text"),
    [
        # Ray's own words for a node that was slower than 30 s.
        (
            "local",
            Exception("The current node timed out during startup. This could happen because ..."),
            r"\(RAY_ADDRESS=local\): The current node timed out .* less to do",
        ),
        ("10.0.0.9:6379", ConnectionError("no\nsuch"), r": no\. Set RAY_ADDRESS to a cluster"),
        ("local", RuntimeError(), r": RuntimeError\. A machine"),
    ],
)
def test_the_first_line_is_told_and_what_to_do(address: str, error: Exception, text: str) -> None:
    assert re.search(text, no_start_text(address, error))


@pytest.mark.parametrize(
    ("cpu", "gpu", "n_trials"),
    [(1, 0, 8), (2, 0.5, 4), (1, 0.1, 8), (1, 0.4, 4), (1, 2, 1), (8, 1, 1), (1, 4, 0), (16, 0, 0)],
)
def test_trials_share_a_gpu_or_have_several_but_of_one_machine(
    cpu: float, gpu: float, n_trials: int
) -> None:
    """0.4 of a GPU goes five times into two, but Ray gives no trial a part of both."""
    there = {"CPU": 8.0, "GPU": 2.0, "memory": 1e9}
    assert n_trials_on(there, ResourcesSpec(cpu=cpu, gpu=gpu)) == n_trials
