"""Keep MLflow up to date while a search runs, from a thread of its own that can stop nothing."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from optuna.trial import FrozenTrial

from hpo.tasks import EpochReport
from hpo.tracking.picture import RunPicture
from hpo.tracking.projection import Projection
from storage import without_passwords

RETRY_S = 30.0
CLOSE_TIMEOUT_S, URGENT_TIMEOUT_S = 60.0, 10.0


class Tracker:
    """A `SearchObserver` that projects each trial as it ends.

    While MLflow is down it says so once and tries again every ``RETRY_S`` seconds; what it missed
    is projected at the end of the run or by `hpo sync`.
    """

    def __init__(
        self,
        open_projection: Callable[[], Projection],
        parent: RunPicture,
        picture_of: Callable[[FrozenTrial], RunPicture],
        say: Callable[[str], None],
    ) -> None:
        """How to connect to MLflow, what to show there, and how to tell the user something.

        Args:
            open_projection: connects to MLflow.
            parent: what to show of an experiment that is not finished.
            picture_of: what to show of a trial that has ended.
            say: shows a line to the user.
        """
        self._open_projection, self._say = open_projection, say
        self._parent, self._picture_of = parent, picture_of
        self._ended: queue.SimpleQueue[FrozenTrial | None] = queue.SimpleQueue()
        self._projection: Projection | None = None
        self._retry_at = 0.0
        self._has_complained = False
        self._status = "RUNNING"
        self._is_abandoned = False
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def trial_started(self, number: int, params: Mapping[str, Any]) -> None:
        """Nothing: a run is written when its trial has ended."""

    def epoch_reported(self, number: int, report: EpochReport) -> None:
        """Nothing: a run is written when its trial has ended."""

    def trial_held_back(self, number: int) -> None:
        """Nothing: a run is written when its trial has ended."""

    def trial_warned(self, number: int, warning: str) -> None:
        """Nothing: it is for the user's eyes."""

    def trial_ended(self, trial: FrozenTrial) -> None:
        """Project the trial, soon."""
        self._ended.put(trial)

    def abandon(self) -> None:
        """Write nothing more: another process does."""
        self._is_abandoned = True

    def close(self, status: str, *, is_urgent: bool) -> bool:
        """Wait until MLflow shows the trials so far, or has failed to answer.

        Returns whether this has come to an end; else a thread still writes to MLflow.

        Args:
            status: of the parent run: "RUNNING" if there is more to come, else how it ended.
            is_urgent: somebody pressed Ctrl-C and waits.
        """
        self._status = status
        self._ended.put(None)
        self._thread.join(URGENT_TIMEOUT_S if is_urgent else CLOSE_TIMEOUT_S)
        return not self._thread.is_alive()

    def _work(self) -> None:
        # Not before the first trial has ended: importing MLflow would slow the workers' start.
        while (trial := self._ended.get()) is not None:
            self._attempt(partial(self._put_trial, trial))
        if self._projection is not None:
            self._attempt(lambda projection: projection.end_parent(self._parent, self._status))

    def _put_trial(self, trial: FrozenTrial, projection: Projection) -> None:
        projection.put_trial(self._picture_of(trial))

    def _attempt(self, write: Callable[[Projection], None]) -> None:
        if self._is_abandoned or time.monotonic() < self._retry_at:
            return
        try:
            if self._projection is None:
                self._projection = self._open_projection()
                if not self._is_abandoned:  # which may have come while MLflow was being imported
                    self._projection.put_parent(self._parent, status="RUNNING")
            if not self._is_abandoned:
                write(self._projection)
        except Exception as error:  # noqa: BLE001  MLflow is a picture; it must not stop the search
            self._projection = None
            self._retry_at = time.monotonic() + RETRY_S
            if not self._has_complained:
                self._has_complained = True
                self._say(
                    f"MLflow cannot be written ({short_reason(error)}). The search goes on; "
                    f"`hpo sync {self._parent.name}` catches up later."
                )


def short_reason(error: BaseException) -> str:
    """The first line of an error that may be pages long, and quote the server's URL."""
    text = str(error).strip() or type(error).__name__
    return without_passwords(text.splitlines()[0])[:200]
