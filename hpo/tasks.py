"""What travels between driver and worker: tasks out, reports back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from hpo.errors import UnfitEnvironmentError
from hpo.spec import LimitSpec
from trainables import (
    LrRangeTest,
    PackedModel,
    TrialContext,
    remove_checkpoints,
)

EPOCH, OBJECTIVE, NUMBER = "epoch", "objective", "trial_number"
"""Keys of a worker's result that Ray's schedulers read."""

FailCause = Literal[
    "infeasible",
    "nan",
    "timeout",
    "out_of_memory",
    "unknown_quantity",
    "stalled",
    "worker_died",
    "error",
]
"""Why a trial failed, for machines: what a sampler may learn from depends on it."""

N_RETRIES = 3
"""So often a task is handed out again whose worker has died: that may be the machine's fault."""

OUTPUT_FILE, TRACEBACK_FILE = "output.txt", "traceback.txt"
"""In a task's folder: what its trainable printed, and what it raised."""


@dataclass(frozen=True, kw_only=True)
class KnownData:
    """The data that a search began with: on others a worker trains nothing.

    Attributes:
        config: of the trial that has named them, since the data may be a matter of the config.
        fingerprint: what it named them.
    """

    config: Mapping[str, Any]
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class TrialTask:
    """Everything a worker needs to train one config.

    ``number`` is the trial's; ``seed_index`` counts its re-runs and is None in the search itself.
    With the purpose "finish" it is retrained on everything but the test set, and the model handed
    back; with "find_lr" nothing but its learning rates is looked at. With ``wants_fingerprint`` the
    first report names the data; where ``known_data`` are no more what they were it is the last one,
    and names them as they are now. Configs that break a limit on what is known beforehand are not
    trained; ``time_limit_s`` ends a training at its next report, ``stall_timeout_s`` is how long it
    may go without one; None if that is to be judged by its epochs, or by ``whole_s``, how long the
    longest whole training of this config has taken. With ``runs_to_end`` no scheduler is asked
    whether it goes on. ``metric`` is the first objective, ``other_objectives`` may follow; of
    several some may be known before training.

    ``home`` is a folder that the driver has made where the checkpoints go, and that every machine
    has to see; None where nobody needs to, or that is an object store.

    ``known`` are the epochs that an earlier start has trained and reported. They are reported
    again, marked, so that whoever judges the trial sees all of it; then the training goes on. Or it
    goes on behind ``done``, the last of them, without a word.
    """

    number: int
    seed_index: int | None = None
    purpose: Literal["train", "finish", "find_lr"] = "train"
    wants_fingerprint: bool = False
    known_data: KnownData | None = None
    runs_to_end: bool = False
    constraints: Mapping[str, LimitSpec] = field(default_factory=dict)
    time_limit_s: float | None = None
    stall_timeout_s: float | None = None
    whole_s: float = 0.0
    trainable: str
    import_paths: tuple[Path, ...]
    config: Mapping[str, Any]
    context: TrialContext
    metric: str
    other_objectives: tuple[str, ...] = ()
    home: Path | None = None
    known: tuple[EpochReport, ...] = ()
    done: EpochReport | None = None

    @property
    def objectives(self) -> tuple[str, ...]:
        """All that a report must tell."""
        return (self.metric, *self.other_objectives)

    def broken_limit(self, facts: Mapping[str, float]) -> tuple[str, str] | None:
        """What forbids a config of which ``facts`` are known: in words, and the limit; or None."""
        for name, limit in self.constraints.items():
            for end, excess in limit.excesses(facts[name]).items() if name in facts else ():
                if excess > 0:
                    place = f"constraints.{name}.{end}={getattr(limit, end):g}"
                    return f"{name}={facts[name]:g} breaks {place}", place
        return None

    @property
    def identity(self) -> str:
        """Equal for two tasks that train one thing: same config, seed and budget of epochs.

        Of a config that changed while it trained, all that it was before.

        What one of them came to answers the other: nothing is paid for twice.
        """
        thing: list[Any] = [self.trainable, dict(self.config), self.context.max_epochs]
        if earlier := self.context.earlier:
            thing.append([[dict(one.config), one.until_epoch] for one in earlier])
        return json.dumps(thing, sort_keys=True)


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """The metrics of one epoch, and how the task ended if this report is its last.

    Attributes:
        epoch: counted from 1; 0 if the task failed in its first epoch.
        metrics: whatever the trainable yielded; of the last whole epoch if the task failed.
        seconds: how long the epoch took.
        ending: "complete" at full budget, "failed" if the trainable raised or broke its contract,
            None while the task goes on.
        fail_reason: what failed and where, in one line.
        fail_place: exception type and code line; equal for failures of one cause.
        fail_cause: the kind of failure; None while there is none.
        is_unfit: the data are missing or unreadable, or its machine is unfit, whatever the config.
        is_lost: its worker died before it could report; the trainable has said nothing of this.
        traceback: of the user's exception.
        fingerprint: of the trainable's data, if the task asked for it, or knows it.
        warnings: of the trainable about its data, if the task asked for the fingerprint.
        facts: what the trainable's ``constraints`` know of the config before any training.
        final_model: what "finish" hands back; None if the trainable offers no ``finish``.
        lr_range_test: what "find_lr" hands back.
        checkpoint: SHA-256 of the checkpoint with which the trial goes on after this epoch; None if
            its trainable kept none.
        is_known: whether an earlier start of the trial trained this epoch, and reported it.
        complaints: what has been wrong with checkpoints since the last report.
    """

    epoch: int
    metrics: Mapping[str, float]
    seconds: float
    ending: Literal["complete", "failed"] | None = None
    fail_reason: str = ""
    fail_place: str = ""
    fail_cause: FailCause | None = None
    is_unfit: bool = False
    is_lost: bool = False
    traceback: str = ""
    fingerprint: str | None = None
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, float] | None = None
    final_model: PackedModel | None = None
    lr_range_test: LrRangeTest | None = None
    checkpoint: str | None = None
    is_known: bool = False
    complaints: tuple[str, ...] = ()

    @property
    def is_infeasible(self) -> bool:
        """Whether the config was refused before any training."""
        return self.fail_cause == "infeasible"

    @property
    def quantities(self) -> Mapping[str, float]:
        """What constraints may name: facts known before the training, and the metrics."""
        return {**(self.facts or {}), **self.metrics}


class TaskSource(Protocol):
    """One stage of an experiment: hands out tasks, and is told how they went."""

    @property
    def knows_ahead(self) -> bool:
        """Whether the next task is the same before and after the tasks that run have ended."""

    @property
    def is_over_time(self) -> bool:
        """Whether tasks that run should stop at their next report."""

    def next_task(self) -> TrialTask | None:
        """The next task; None if there is no more. The stage is over once all its tasks ended."""

    def scheduler_of(self, task: TrialTask) -> Any:
        """Ray's scheduler that may stop this task early; None if nothing may."""

    def reported(self, task: TrialTask, report: EpochReport) -> None:
        """A task goes on after this epoch."""

    def ended(self, task: TrialTask, report: EpochReport) -> None:
        """A task's last report; without an ``ending`` it was stopped.

        A task that ``is_lost`` may be handed out again as the next one.
        """


class TaskList:
    """A stage whose tasks are known beforehand and run to their end."""

    knows_ahead = True
    is_over_time = False

    def __init__(
        self,
        tasks: Sequence[TrialTask],
        on_end: Callable[[TrialTask, EpochReport, float], None],
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``on_end`` gets each task, its last report and the seconds of all its epochs.

        ``say`` shows a line to the user.
        """
        self._tasks, self._on_end, self._say = list(tasks), on_end, say
        self._seconds: dict[Path, dict[tuple[int, bool], float]] = {}
        self._n_retries: Counter[Path] = Counter()

    def next_task(self) -> TrialTask | None:
        """The tasks in order."""
        return self._tasks.pop(0) if self._tasks else None

    def scheduler_of(self, task: TrialTask) -> None:
        """Nothing stops them."""

    def reported(self, task: TrialTask, report: EpochReport) -> None:
        """Keep the seconds of each epoch: a trainable that ends by itself tells its last twice."""
        seconds = self._seconds.setdefault(task.context.folder, {})  # each task has its own
        seconds[report.epoch, report.ending == "failed"] = report.seconds

    def ended(self, task: TrialTask, report: EpochReport) -> None:
        """Hand the task over; one that is lost begins again, at once and `N_RETRIES` times.

        Raises:
            UnfitEnvironmentError: if the data cannot be used: that says nothing of the task.
        """
        if report.is_unfit:
            raise UnfitEnvironmentError(report.fail_reason)
        folder = task.context.folder
        remove_checkpoints(task.context.checkpoint_home or folder)
        if report.is_lost and self._n_retries[folder] < N_RETRIES:
            self._n_retries[folder] += 1
            self._say(
                f"warning: {folder.relative_to(folder.parents[1])}: {report.fail_reason}; it "
                f"begins again, retry {self._n_retries[folder]} of {N_RETRIES}"
            )
            self._tasks.insert(0, task)
            return
        self.reported(task, report)
        self._on_end(task, report, sum(self._seconds[folder].values()))


class SideBySide:
    """Several lists of tasks as one stage: no worker waits at the end of one of them."""

    knows_ahead = True
    is_over_time = False

    def __init__(self, lists: Sequence[TaskList]) -> None:
        self._lists = list(lists)
        self._running: dict[Path, TaskList] = {}

    def next_task(self) -> TrialTask | None:
        """The tasks of the first list, then those of the second, ..."""
        for tasks in self._lists:
            if (task := tasks.next_task()) is not None:
                self._running[task.context.folder] = tasks
                return task
        return None

    def scheduler_of(self, task: TrialTask) -> None:
        """Nothing stops them."""

    def reported(self, task: TrialTask, report: EpochReport) -> None:
        """Tell the task's list."""
        self._running[task.context.folder].reported(task, report)

    def ended(self, task: TrialTask, report: EpochReport) -> None:
        """Tell the task's list."""
        self._running.pop(task.context.folder).ended(task, report)


def excesses(limits: Mapping[str, LimitSpec], quantities: Mapping[str, float]) -> list[float]:
    """How far a trial is beyond each limit whose quantity is known; above 0 is broken."""
    return [
        excess
        for name, limit in limits.items()
        if name in quantities
        for excess in limit.excesses(quantities[name]).values()
    ]


def unfit(machine: str, reason: str) -> EpochReport:
    """The report of a task that could not begin, for want of something on its machine."""
    return EpochReport(
        epoch=0,
        metrics={},
        seconds=0.0,
        ending="failed",
        fail_reason=f"no trial can run on {machine}: {reason.rstrip('.')}. What is finished is "
        "kept; mend that machine or take it away, then go on with --resume",
        is_unfit=True,
    )


def lost(reason: str, cause: FailCause = "worker_died") -> EpochReport:
    """The report that a dead worker could not send; ``reason`` is what is known of its death."""
    return EpochReport(
        epoch=0,
        metrics={},
        seconds=0.0,
        ending="failed",
        fail_reason=reason,
        fail_place=cause.replace("_", " "),
        fail_cause=cause,
        is_lost=True,
    )
