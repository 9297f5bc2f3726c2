"""Ray's class trainable: an actor that drives one task after the other, an epoch per step."""

from __future__ import annotations

import math
import os
from typing import Any

from ray import tune

from hpo.environment import PRIVATE
from hpo.execution.drive import TrialDrive
from hpo.tasks import EPOCH, NUMBER, OBJECTIVE, EpochReport, TrialTask

TASK = "task"
"""Key of a Ray trial's config that holds its `TrialTask`."""
REPORT = "report"
"""Key of a Ray trial's result that holds its `EpochReport`."""


class TrialActor(tune.Trainable):
    """Runs in a worker process and is reused: a new process would import torch for every task."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take the first task; what it writes is for its user alone, on a cluster as here."""
        os.umask(PRIVATE)
        self._take(config[TASK])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next task."""
        self._drive.close()
        self._take(new_config[TASK])
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch."""
        return result_of(self._task, self._drive.next_report())

    def cleanup(self) -> None:
        """The run is over, or was interrupted."""
        self._drive.close()

    def _take(self, task: TrialTask) -> None:
        self._task = task
        self._drive = TrialDrive(task)


def result_of(task: TrialTask, report: EpochReport) -> dict[str, Any]:
    """A report as the searcher and Ray's schedulers read it."""
    return {
        REPORT: report,
        EPOCH: report.epoch,
        NUMBER: task.number,
        # NaN for a failed trial: Ray's median rule needs the key and passes over NaN.
        OBJECTIVE: report.metrics.get(task.metric, math.nan)
        if report.ending != "failed"
        else math.nan,
        "done": report.ending is not None,
    }
