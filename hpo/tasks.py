"""What travels between driver and worker, and where it comes from: tasks out, reports back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from hpo.errors import UnfitEnvironmentError
from hpo.lineage import Lineage
from hpo.seeds import derive_seed
from hpo.spec import ExperimentSpec, LimitSpec
from storage import EpochRecord
from trainables import (
    CHECKPOINTS,
    N_KEPT,
    Checkpoint,
    LrRangeTest,
    PackedModel,
    Place,
    Segment,
    TrialContext,
    checkpoint_in,
    folder_names,
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
    may go without one; None if that is to be judged by its epochs. With ``runs_to_end`` no
    scheduler is asked whether it goes on. ``metric`` is the first objective, ``other_objectives``
    may follow; of several some may be known before training.

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
    trainable: str
    import_paths: tuple[Path, ...]
    config: Mapping[str, Any]
    context: TrialContext
    metric: str
    other_objectives: tuple[str, ...] = ()
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
        is_unfit: the data are missing or unreadable, whatever the config.
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


@dataclass(frozen=True, kw_only=True)
class TaskFactory:
    """Makes tasks of one experiment: adds fixed values, seed, folder and budget to drawn params.

    Attributes:
        spec: of the experiment.
        import_paths: where to look for its trainable.
        folder: of the experiment; each task has one of its own in it.
        data_dir: folder of data sets.
        checkpoints: stands for ``folder`` where checkpoints are concerned; None: they lie in it.
    """

    spec: ExperimentSpec
    import_paths: tuple[Path, ...]
    folder: Path
    data_dir: Path
    checkpoints: Place | None = None

    def trial(self, number: int, params: Mapping[str, Any]) -> TrialTask:
        """Trial ``number`` of the search."""
        spec = self.spec
        n_seeds = spec.n_trial_seeds
        seed = derive_seed(spec.seed, number if n_seeds is None else number % n_seeds, "trial")
        task = self._task(number, params, seed, self.trial_folder(number))
        return replace(
            task,
            constraints=spec.constraints,
            time_limit_s=spec.budget.trial_time_limit_s,
            context=replace(
                task.context,
                keeps_checkpoints=True,
                wanted=tuple(dict.fromkeys((*task.context.wanted, *spec.constraints))),
            ),
        )

    def going_on(self, task: TrialTask, epochs: Sequence[EpochRecord]) -> TrialTask:
        """``task`` behind those ``epochs`` of an earlier start, all that were reported, in order.

        Without a checkpoint among them it begins with epoch 1 again, as of a trainable that keeps
        none.
        """
        if not any(epoch.checkpoint for epoch in epochs):
            return task
        resume_from = self._checkpoints(epochs)
        return replace(
            task,
            known=tuple(_reported_before(one) for one in epochs),
            context=replace(task.context, resume_from=resume_from),
        )

    def member(
        self,
        number: int,
        params: Mapping[str, Any],
        lineage: Lineage,
        epochs: Sequence[EpochRecord],
        *,
        keep_every: int,
    ) -> TrialTask:
        """Trial ``number`` of a population, behind all that it and its lineage have trained.

        Args:
            number: of the trial.
            params: of the trial.
            lineage: what it began with.
            epochs: its own if it has trained any, and those of its parent up to where it began.
            keep_every: after so many epochs others may go on from its checkpoint.
        """
        task = self.trial(number, params)
        if not epochs:
            return replace(task, context=replace(task.context, keep_every=keep_every))
        own_s = sum(one.seconds for one in epochs if one.trial_number == number)
        context = replace(
            task.context,
            keep_every=keep_every,
            resume_from=self._checkpoints(epochs, keep_every),
            earlier=self._segments(lineage, task.context.seed),
        )
        done = replace(_reported_before(epochs[-1]), seconds=own_s)
        return replace(task, done=done, context=context)

    def _checkpoints(
        self, epochs: Sequence[EpochRecord], keep_every: int = 1
    ) -> tuple[Checkpoint, ...]:
        """Those that lie there, the newest first: the last ones, and the last of every so many."""
        kept = {one.epoch: one for one in epochs if one.checkpoint is not None}
        apart = [epoch for epoch in kept if epoch % keep_every == 0]
        there = sorted({*[*kept][-N_KEPT:], *apart[-N_KEPT:]}, reverse=True)
        return tuple(
            checkpoint_in(self.checkpoint_home(one.trial_number), one.epoch, one.checkpoint or "")
            for one in map(kept.__getitem__, there)
        )

    def _segments(self, lineage: Lineage, seed: int) -> tuple[Segment, ...]:
        return tuple(
            Segment(
                config={**self.spec.fixed, **past.params, "seed": seed},
                until_epoch=past.until_epoch,
            )
            for past in lineage
        )

    def rerun(
        self, number: int, params: Mapping[str, Any], seed_index: int, lineage: Lineage = ()
    ) -> TrialTask:
        """Trial ``number`` once more on a fresh seed, which all finalists share.

        Like confirmations and the retraining it keeps no checkpoint: cut off, it begins again.
        """
        seed = derive_seed(self.spec.seed, seed_index, "rerun")
        folder = self.folder / "reruns" / f"{number:05d}-{seed_index}"
        return replace(self._task(number, params, seed, folder, lineage), seed_index=seed_index)

    def confirmation(
        self, number: int, params: Mapping[str, Any], seed_index: int, lineage: Lineage = ()
    ) -> TrialTask:
        """The winner once more, on a seed that had no part in choosing it."""
        seed = derive_seed(self.spec.seed, seed_index, "confirmation")
        folder = self.folder / "confirmations" / f"{number:05d}-{seed_index}"
        return replace(self._task(number, params, seed, folder, lineage), seed_index=seed_index)

    def retrain(self, number: int, params: Mapping[str, Any], lineage: Lineage = ()) -> TrialTask:
        """The winner, to be trained on everything but the test set."""
        seed = derive_seed(self.spec.seed, number, "retrain")
        task = self._task(number, params, seed, self.folder / "retrain", lineage)
        return replace(task, purpose="finish")

    def find_lr(self, config: Mapping[str, Any], folder: Path) -> TrialTask:
        """A range test, before there is a trial; what it prints or raises lies in ``folder``."""
        seed = derive_seed(self.spec.seed, 0, "find_lr")
        return replace(self._task(0, config, seed, folder), purpose="find_lr")

    def trial_folder(self, number: int) -> Path:
        """What trial ``number`` leaves behind stands here."""
        return self.folder / "trials" / f"{number:05d}"

    def checkpoint_home(self, number: int) -> Place:
        """Where the checkpoints of trial ``number`` lie."""
        folder = self.trial_folder(number)
        return self._home(folder) or folder

    def kept_checkpoints(self, numbers: Sequence[int]) -> dict[int, int]:
        """How many files are kept of these trials, of those that have any.

        Raises:
            OSError: if an object store does not answer, or refuses.
        """
        home, kept = self._home(self.folder / "trials"), dict[int, int]()
        names = None if home is None else set(folder_names(home))  # one look instead of a thousand
        for number in numbers:
            if names is not None and self.trial_folder(number).name not in names:
                continue
            place = self.checkpoint_home(number) / CHECKPOINTS
            files = place.glob("*") if isinstance(place, Path) else place.iterdir()
            if n_files := sum(1 for _ in files):
                kept[number] = n_files
        return kept

    def remove_checkpoints(self, numbers: Sequence[int]) -> None:
        """Remove those of trials that have ended."""
        home, ended = self._home(self.folder / "trials"), set(numbers)
        if home is None:
            there = ended
        else:  # one look into a store is cheaper than a thousand removals of nothing
            there = ended & {int(name) for name in folder_names(home) if name.isdecimal()}
        for number in there:
            remove_checkpoints(self.checkpoint_home(number))

    def _home(self, folder: Path) -> Place | None:
        """What stands for a folder of this experiment in the place of its checkpoints."""
        if self.checkpoints is None or not folder.is_relative_to(self.folder):
            return None
        return self.checkpoints / str(folder.relative_to(self.folder))

    def _task(
        self,
        number: int,
        params: Mapping[str, Any],
        seed: int,
        folder: Path,
        lineage: Lineage = (),
    ) -> TrialTask:
        """``lineage`` is trained first, each part of it with its own config."""
        spec = self.spec
        others = tuple(objective.metric for objective in spec.objectives[1:])
        return TrialTask(
            number=number,
            trainable=spec.trainable,
            import_paths=self.import_paths,
            config={**spec.fixed, **params, "seed": seed},
            metric=spec.objective.metric,
            other_objectives=others,
            stall_timeout_s=spec.budget.stall_timeout_s,
            context=TrialContext(
                seed=seed,
                folder=folder,
                device="cuda" if spec.resources.gpu > 0 else "cpu",
                threads=max(1, int(spec.resources.cpu)),
                max_epochs=spec.budget.max_epochs,
                data_dir=self.data_dir,
                checkpoint_home=self._home(folder),
                wanted=(spec.objective.metric, *others) if others else (),
                keeps_checkpoints=bool(lineage),  # each part goes on from the one before it
                earlier=self._segments(lineage, seed),
            ),
        )


def _reported_before(epoch: EpochRecord) -> EpochReport:
    return EpochReport(
        epoch=epoch.epoch,
        metrics=epoch.metrics,
        seconds=epoch.seconds,
        checkpoint=epoch.checkpoint,
        is_known=True,
    )
