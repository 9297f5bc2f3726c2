"""What a cluster lacks is told before the first trial, all of it at once."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from commands import Shell, assert_no_traceback
from conftest import BRANIN

from hpo.execution import server_problem
from hpo.execution.preflight import look_from_there, problems_here, problems_text, unseen
from hpo.places import Places
from hpo.spec import ExperimentSpec, ResourcesSpec, parse_spec
from hpo.tasks import TrialTask
from hpo.workspace import task_factory

CNN = """
name: seen
trainable: cnn
objective: {metric: val_accuracy, direction: maximize}
fixed: {dataset: "folder:pictures"}
search_space: {lr: {type: float, low: 1e-3, high: 1e-1, log: true}}
budget: {n_trials: 2, max_epochs: 1}
"""


def task_of(spec: ExperimentSpec, folder: Path) -> TrialTask:
    return task_factory(spec, Places.of(folder, {})).trial(0, {"lr": 0.01})


def test_a_machine_tells_all_that_it_lacks(
    branin: Callable[..., ExperimentSpec], tmp_path: Path
) -> None:
    """In one answer: no GPU that torch sees, no such trainable, no folder to write to."""
    spec = branin().model_copy(
        update={"resources": ResourcesSpec(gpu=1), "trainable": "not_there:train"}
    )
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    problems, has_written = problems_here(task_of(spec, tmp_path), tmp_path / "file" / "probe")
    assert not has_written
    gpu, trainable, storage = problems
    assert "sees no GPU" in gpu
    assert "resources.gpu=0" in gpu
    assert "no module 'not_there'" in trainable
    assert "hpo submit" in trainable
    assert "cannot write checkpoints" in storage
    assert "HPO_CHECKPOINTS" in storage


def test_data_that_are_not_there_are_told_with_their_folder(tmp_path: Path) -> None:
    task = task_of(parse_spec(CNN, "cnn.yaml"), tmp_path)
    problems, has_written = problems_here(task, tmp_path / "probe")
    (problem,) = problems
    assert has_written
    assert f"data: there is no folder {tmp_path}/data/pictures" in problem
    assert "HPO_DATA" in problem
    for name in ("cats", "dogs"):
        (tmp_path / "data" / "pictures" / name).mkdir(parents=True)
    assert problems_here(task, tmp_path / "probe") == ([], True)


def test_a_machine_without_the_drivers_hpo_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    problems, has_written = look_from_there()("0.0.1", b"")
    assert not has_written
    assert re.fullmatch(r"hpo-platform \S+, but the driver has 0\.0\.1; install .*", problems[0])
    monkeypatch.setitem(sys.modules, "hpo", None)  # as if it was not installed
    problems, has_written = look_from_there()("0.0.1", b"")
    assert not has_written
    assert f"no package hpo for {sys.executable}" in problems[0]
    assert "hpo-platform 0.0.1" in problems[0]


def test_what_a_machine_writes_where_the_driver_does_not_see_it_is_told(
    branin: Callable[..., ExperimentSpec], tmp_path: Path
) -> None:
    """Each has its own disk below that path; what is seen does not stay."""
    mine, theirs = tmp_path / "mine" / ".probe-1", tmp_path / "theirs" / ".probe-1"
    assert problems_here(task_of(branin(), tmp_path), theirs) == ([], True)
    (problem,) = unseen(mine)
    assert f"what it writes to {mine.parent} is not seen by the driver" in problem
    assert "HPO_CHECKPOINTS" in problem
    theirs.write_bytes(b"of something else")
    assert len(unseen(theirs)) == 1
    assert problems_here(task_of(branin(), tmp_path), theirs) == ([], True)
    assert unseen(theirs) == []
    assert not theirs.exists()


@pytest.mark.parametrize("dataset", ["digits", "cifar10"])
def test_nothing_is_downloaded_to_find_out(dataset: str, tmp_path: Path) -> None:
    """Data that are made, or may be downloaded by the worker that needs them, are not missing."""
    task = task_of(parse_spec(CNN, "cnn.yaml", [f"fixed.dataset={dataset}"]), tmp_path)
    allowed = replace(task, config={**task.config, "download": True})
    assert problems_here(allowed, tmp_path / "probe") == ([], True)
    assert not (tmp_path / "data").exists()


def test_machines_with_one_problem_stand_in_one_line() -> None:
    text = problems_text({"no hpo": [f"10.0.0.{n}" for n in range(5)], "no GPU": ["10.0.0.1"]})
    assert text.splitlines() == [
        "no trial can run on the cluster as it is, 2 problems:",
        "  10.0.0.0, 10.0.0.1, 10.0.0.2 and 2 more: no hpo",
        "  10.0.0.1: no GPU",
    ]


def test_a_tracking_server_that_does_not_answer_is_told_without_its_password() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        problem = server_problem(f"http://me:canary@127.0.0.1:{bound.getsockname()[1]}/mlflow")
    assert problem is not None
    assert "refused" in problem
    assert "canary" not in problem
    assert server_problem("sqlite:////folder/mlflow.db") is None


LATE = """
import sys
from pathlib import Path

import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hpo.errors import UnfitEnvironmentError
from hpo.execution import preflight
from hpo.places import Places
from hpo.spec import ResourcesSpec, load_spec
from hpo.workspace import task_factory

@ray.remote(num_gpus=1)
class Trial:
    def is_begun(self):
        return True

def look(gpu):
    try:
        preflight.check_cluster(task, home, ResourcesSpec(gpu=gpu), print)
        print("fit")
    except UnfitEnvironmentError as error:
        print(error)
    print(sorted(file.name for file in home.iterdir()))

home = Path.cwd() / "home"
home.mkdir()
task = task_factory(load_spec(Path("branin.yaml")), Places.of(Path.cwd(), {})).trial(0, {})
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
addresses = [node.node_id for node in (cluster.add_node(num_cpus=1, num_gpus=1) for _ in range(2))]
ray.init(cluster.address, log_to_driver=False)
look(1)
patience_s = preflight.PATIENCE_S
preflight.PATIENCE_S, preflight.NO_WORKER_S, preflight.FIRST_NODE_S = 1, 2, 1
there = [NodeAffinitySchedulingStrategy(node, soft=False) for node in addresses]
trials = [Trial.options(scheduling_strategy=one).remote() for one in there]
ray.get([trial.is_begun.remote() for trial in trials])
look(1)
ray.kill(trials[0])
preflight.PATIENCE_S = patience_s  # a worker has to start for it, on a machine that is busy
look(1)
look(8)
ray.shutdown()
cluster.shutdown()
"""


def test_machines_that_are_busy_are_waited_for_and_at_last_named(tmp_path: Path) -> None:
    """All GPUs of others: no run. Those of one: the others are enough. Too few: after a while."""
    (tmp_path / "branin.yaml").write_text(BRANIN, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", LATE],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    told = iter(done.stdout.splitlines())
    assert [next(told), next(told)] == ["fit", "[]"], done.stderr
    assert re.fullmatch(r"\S+, \S+: no answer after 1 s; waiting up to 2 s in all", next(told))
    assert "no trial can run on the cluster as it is, 1 problem:" in next(told)
    assert "no answer within 2 s: busy (a trial asks for gpu=1) or not" in next(told)
    assert next(told) == "[]"
    assert re.fullmatch(r"warning: \S+: no answer after 25 s; the others were asked", next(told))
    assert [next(told), next(told)] == ["fit", "[]"]
    assert "asks for cpu=1, gpu=8" in (waiting := next(told))
    assert waiting.endswith("waiting up to 1 s for one to join")
    assert "No other one has joined within 1 s: `ray status` tells" in next(told)


def test_a_joined_ray_is_looked_at_before_anything_is_recorded(shell: Shell) -> None:
    """By a real worker; what the experiment would have been called is still free."""
    shell.write("seen.yaml", CNN)
    done = shell.hpo("run", "seen.yaml")
    assert done.returncode == 5
    assert "no trial can run on the cluster as it is, 1 problem:" in done.stderr
    assert "data: there is no folder" in done.stderr
    assert_no_traceback(done)
    assert not (shell.folder / "runs" / "seen" / "spec.yaml").exists()
    again = shell.hpo("run", "seen.yaml", "--resume")
    assert "nothing to resume" in again.stderr
    compared = shell.hpo("compare", "seen.yaml", "--samplers", "random,tpe", "--seeds", "2")
    assert compared.returncode == 5
    assert "data: there is no folder" in compared.stderr
    audited = shell.hpo("audit", "seen")
    assert audited.returncode == 2
    assert "is a comparison, no experiment" in audited.stderr
