"""Whole runs in processes that are forked from one which has imported everything, and killed.

The journey of `hpo run` is the real one, with its databases, MLflow and files; its one worker lives
in the driver's process, so that a kill ends both. `KilledRuns` starts this file as a program.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from without_ray import drive_stages

import hpo.experiment
from hpo.execution import TrialDrive
from hpo.failpoints import VARIABLE
from hpo.places import Places
from hpo.progress import RunProgress
from hpo.search import n_trials_of
from hpo.spec import load_spec
from hpo.tasks import EpochReport, TaskSource, TrialTask, lost


class KilledRuns:
    """Runs of ``spec.yaml`` in folders, each in a process of its own; and the server of these."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._log = folder, folder / "stderr.txt"
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log.open("w"),
            text=True,
            env={**os.environ, "RAY_ADDRESS": "local"},  # it has no use for that of other tests
        )
        self._template = folder / "template"
        self._template.mkdir()
        self._must(0, self._template, "databases")

    def begin(self, name: str, files: dict[str, str]) -> Path:
        """A user's folder with empty databases, which take seconds to make."""
        shutil.copytree(self._template, folder := self.folder / name)
        for file, text in files.items():
            (folder / file).write_text(text)
        return folder

    def run_here(self, folder: Path) -> None:
        """In the server, which then has imported all that its children need."""
        self._must(0, folder, "run here")

    def run(self, folder: Path) -> None:
        """To its end, whether it was begun before or not."""
        self._must(0, folder, "run")

    def kill(self, folder: Path, failpoint: str) -> None:
        """The same, but it is killed at a failpoint that it comes to."""
        self._must(-signal.SIGKILL, folder, "run", failpoint)

    def close(self) -> None:
        """Its children have ended."""
        self._server.kill()
        self._server.communicate()

    def _must(self, end: int, folder: Path, what: str, failpoint: str = "") -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps([str(folder), what, failpoint]), file=self._server.stdin, flush=True)
        answer = self._server.stdout.readline().strip()
        assert answer == str(int(end)), (failpoint, self._log.read_text()[-5000:])


def serve() -> None:
    """Fork for each line of stdin, and print how the child ended: below 0 by a signal."""
    hpo.experiment.ray_cluster = one_worker_cluster  # type: ignore[assignment]
    hpo.experiment.run_stages = run_stages_here
    for line in sys.stdin:
        folder, what, failpoint = json.loads(line)
        if what != "run":
            print(work(Path(folder), what), flush=True)
            continue
        if (child := os.fork()) == 0:
            os.environ[VARIABLE] = failpoint
            os._exit(work(Path(folder), what))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def work(folder: Path, what: str) -> int:
    """Returns an exit code."""
    try:
        make_databases(folder) if what == "databases" else run(folder)
    except BaseException:  # noqa: BLE001  the child ends here, whatever it is
        traceback.print_exc()
        sys.stderr.flush()
        return 1
    return 0


def make_databases(folder: Path) -> None:
    from mlflow import MlflowClient

    from storage import Ledger, open_engine, open_optuna_storage

    places = Places.of(folder)
    assert Ledger(open_engine(places.storage_url)).names() == []
    open_optuna_storage(places.storage_url).engine.dispose()
    MlflowClient(tracking_uri=places.tracking_uri).search_experiments()


def run(folder: Path) -> None:
    """As `hpo run` does, or `hpo run --resume`."""
    from rich.console import Console

    from hpo.workspace import experiment_names

    os.chdir(folder)
    spec, places = load_spec(folder / "spec.yaml", (), [folder]), Places.of(folder)
    with RunProgress(spec, Console(stderr=True), n_trials_of(spec)) as progress:
        hpo.experiment.run_experiment(
            spec,
            places,
            progress,
            resume=spec.name in experiment_names(places),
            resume_command="",
        )


@contextmanager
def one_worker_cluster(*_: Any) -> Iterator[OneWorkerRoom]:
    """In place of Ray's."""
    yield OneWorkerRoom()


class OneWorkerRoom:
    """In place of a cluster's."""

    def now(self) -> int:
        return 1


def run_stages_here(
    stages: Iterator[TaskSource],
    *_: Any,
    room: OneWorkerRoom,
    is_interrupted: Callable[[], bool],
) -> None:
    """As Ray Tune runs them with one worker, in this process."""
    drive_stages(stages, n_workers=room.now, reported=reported_or_lost)


def reported_or_lost(task: TrialTask, drive: TrialDrive) -> EpochReport:
    """The next report of a worker, which may die on its way."""
    report = drive.next_report()
    return lost("its worker died, says the test") if loses_its_worker(task) else report


def loses_its_worker(task: TrialTask) -> bool:
    """Once, where the user's folder says so by a file: at the next report of a trial."""
    folder = task.context.folder
    wanted = folder.parents[3] / "lose.txt"
    if folder.parent.name != "trials" or not wanted.is_file():
        return False
    wanted.unlink()
    return True


if __name__ == "__main__":
    serve()
