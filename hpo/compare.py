"""The journey of `hpo compare`: many studies side by side, their best re-run, and a verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial

from hpo.comparison import Comparison, best_trial, write_files
from hpo.comparison_progress import ComparisonProgress
from hpo.comparison_workspace import (
    N_RERUNS,
    ComparisonWorkspace,
    Plan,
    find_comparison,
    open_comparison,
)
from hpo.errors import NoSuccessfulTrialError, RunInterruptedError
from hpo.execution import InterruptFlag, Room, check_cluster, is_joined, ray_cluster, run_stages
from hpo.going_on import another
from hpo.places import Places
from hpo.plan import first_config
from hpo.same_data import SameData, known_data
from hpo.search import ManyStudies, SharedCourses, StudySource, TimedSampler, recorded_course
from hpo.storage_errors import exclusive, make_folder, refuse_if_driven, storage_errors
from hpo.tasks import EpochReport, TaskList, TaskSource, TrialTask
from hpo.workspace import now
from storage import (
    ComparisonRecord,
    EpochRecord,
    Lease,
    RerunRecord,
    StudyKey,
    record_data_config,
)
from trainables import BEST_WEIGHTS

Rerun = tuple[StudyKey, TrialTask]
"""A study's best config on a fresh seed."""


def compare_samplers(
    plan: Plan,
    places: Places,
    out: Path,
    progress: ComparisonProgress,
    *,
    resume: bool,
    resume_command: str,
) -> Comparison:
    """Run every study, re-run its best config, write report and tables.

    Args:
        plan: what to compare.
        places: where to keep the studies.
        out: folder of the report.
        progress: is told what happens.
        resume: go on with the comparison of that name, instead of beginning it.
        resume_command: what to type to go on, for the message of an interrupt.

    Raises:
        UsageError: if there is nothing to resume, or something that is not resumed.
        StorageError: if the database or a folder cannot be used.
        UnfitEnvironmentError: if the machine or cluster lacks the resources.
        NoSuccessfulTrialError: if no trial of any study succeeded.
        RunInterruptedError: after SIGINT or SIGTERM.
    """
    with storage_errors(), InterruptFlag() as interrupt:
        refuse_if_driven(places, plan.spec.name, "comparison")
        find_comparison(plan, places, resume=resume)
        make_folder(out)  # now: at the end hours would be lost
        name = plan.spec.name
        with exclusive(places, name, "comparison") as lease:
            # Again, now that no other driver can change it.
            recorded = find_comparison(plan, places, resume=resume)
            workspace = open_comparison(plan, places, recorded)
            if workspace.record.finished_at is None:
                progress.say(f"{name}: starting Ray; results will be in {out}")
                with ray_cluster(plan.spec.resources, plan.spec.concurrency, interrupt) as room:
                    look_at_cluster(workspace, progress, interrupt)
                    run_workers(workspace, progress, room, interrupt, lease)
                if interrupt.signum is not None:
                    raise RunInterruptedError(
                        interrupt.signum,
                        f"interrupted; what is finished is kept. Go on with:\n  {resume_command}",
                    )
            else:
                progress.say(f"comparison {name!r} is finished: nothing is left to do")
            interrupt.release()  # nothing asks any more: a signal now ends the process at once
            return wind_up(workspace, out)


def look_at_cluster(
    workspace: ComparisonWorkspace, progress: ComparisonProgress, interrupt: InterruptFlag
) -> None:
    """Whether trials could run on a cluster that somebody else has started.

    Raises:
        UnfitEnvironmentError: names everything that its machines lack.
        RunInterruptedError: after a signal.
    """
    if not is_joined():
        return
    tasks = workspace.tasks(next(iter(workspace.studies)))
    task = tasks.trial(0, first_config(tasks.spec, {}))
    with interrupt.at_once():
        home = workspace.places.checkpoints or tasks.folder
        check_cluster(task, home, tasks.spec.resources, progress.say)


def run_workers(
    workspace: ComparisonWorkspace,
    progress: ComparisonProgress,
    room: Room,
    interrupt: InterruptFlag,
    lease: Lease,
) -> None:
    """Everything that trains."""

    def is_interrupted() -> bool:
        if interrupt.is_set:
            progress.say("interrupted: ending the trials that run, which takes up to 10 s")
        return interrupt.is_set or lease.is_lost

    clock = WorkerClock()
    progress.begin(_finished_trials(workspace))
    try:
        run_stages(
            same_data(workspace).over(stages(workspace, progress, clock)),
            workspace.plan.spec.resources,
            room=room,
            is_interrupted=is_interrupted,
        )
    finally:
        _record(workspace, lambda record: clock.added_to(record, room.seen))


def wind_up(workspace: ComparisonWorkspace, out: Path) -> Comparison:
    """Everything that needs no worker: statistics and files."""
    comparison = workspace.comparison()
    write_files(comparison, out)
    _record(workspace, lambda record: replace(record, finished_at=record.finished_at or now()))
    return comparison


def stages(
    workspace: ComparisonWorkspace, progress: ComparisonProgress, clock: WorkerClock
) -> Iterator[TaskSource]:
    """All searches side by side, then the re-runs of what they found."""
    sources = [_study_source(workspace, key, progress) for key in workspace.studies]
    yield ManyStudies(sources, _trained_before(workspace), clock.worked)
    wanted = _wanted_reruns(workspace)
    progress.begin_reruns(_recorded(wanted, workspace).count(None))
    while untrained := _untrained(wanted, workspace, progress):
        yield _reruns(untrained, workspace, progress, clock)


def _study_source(
    workspace: ComparisonWorkspace,
    key: StudyKey,
    progress: ComparisonProgress,
) -> StudySource:
    record = workspace.record
    is_known = record.data_fingerprint is not None and _has_trained(workspace)
    is_asked = workspace.studies[key] is workspace.data_study and not is_known
    watch = StudyWatch(workspace, key, progress)
    source = StudySource(
        watch.draft,
        workspace.plan.study_spec(key),
        workspace.tasks(key),
        record_epoch=watch.epoch_recorded,
        recorded_epochs=watch.epochs_of,
        record_fingerprint=partial(_keep_fingerprint, workspace, progress) if is_asked else None,
        observers=[watch],
    )
    watch.sampler = watch.draft.sampler = TimedSampler(watch.draft.sampler)
    return source


class StudyWatch:
    """A `SearchObserver` that moves the trials of a draft into the database as they end.

    The search runs on a draft in memory, because a study in a database writes a dozen times a trial
    and reads as often: the driver would be slower than many workers. What a killed driver loses are
    the trials that ran; they are asked for again, with the same numbers, so the same params.
    """

    sampler: TimedSampler

    def __init__(
        self, workspace: ComparisonWorkspace, key: StudyKey, progress: ComparisonProgress
    ) -> None:
        self._workspace, self._key, self._progress = workspace, key, progress
        self._tasks = workspace.tasks(key)
        self._kept = workspace.studies[key]
        self.draft = draft_of(self._kept)
        self._sampler_s: dict[int, float] = {}
        self._epochs: dict[int, dict[int, EpochRecord]] = {}
        self._n_kept = len(self.draft.get_trials(deepcopy=False))

    def trial_started(self, number: int, params: Mapping[str, Any]) -> None:
        """Remember the seconds of the sampler."""
        self._sampler_s[number] = self.sampler.seconds
        self._epochs.setdefault(number, {})  # one that was held back has some

    def epochs_of(self, number: int) -> Sequence[EpochRecord]:
        """Of a trial that has not ended: it was held back, and goes on behind them."""
        return list(self._epochs.get(number, {}).values())

    def epoch_recorded(self, epoch: EpochRecord) -> None:
        """Remember an epoch; one that is told again replaces itself."""
        self._epochs[epoch.trial_number][epoch.epoch] = epoch

    def epoch_reported(self, number: int, report: EpochReport) -> None:
        """Nothing: it is kept when its trial has ended."""

    def trial_held_back(self, number: int) -> None:
        """Nothing: it is kept when it has ended."""

    def trial_warned(self, number: int, warning: str) -> None:
        """Tell the user."""
        sampler, index = self._key
        self._progress.say(f"warning: {sampler}, seed {index}, trial {number}: {warning}")

    def trial_ended(self, trial: FrozenTrial) -> None:
        """Keep it, and what ended before it; nobody needs its weights, which could fill a disk."""
        (self._tasks.trial_folder(trial.number) / BEST_WEIGHTS).unlink(missing_ok=True)
        # The database numbers trials as they come in: one that overtook another has to wait.
        for ended in self.draft.get_trials(deepcopy=False)[self._n_kept :]:
            if not ended.state.is_finished():
                break
            self._keep(ended)

    def _keep(self, trial: FrozenTrial) -> None:
        sampler_s = self._sampler_s.pop(trial.number, 0.0)
        epochs = list(self._epochs.pop(trial.number, {}).values())
        # The study comes last: a trial that is in it has its epochs in the ledger.
        self._workspace.ledger.put_trial(
            self._workspace.record.id, self._key, trial.number, sampler_s, epochs
        )
        self._kept.add_trial(trial)
        self._n_kept += 1
        self._progress.trial_ended(self._key, trial)  # last: a user may rely on what it says


def draft_of(study: Study) -> Study:
    """A copy in memory, with the same trials under the same numbers."""
    draft = optuna.create_study(study_name=study.study_name, direction=study.direction)
    draft.add_trials(study.get_trials(deepcopy=False))
    return draft


def _trained_before(workspace: ComparisonWorkspace) -> SharedCourses:
    """What an earlier start has trained, for all studies."""
    courses, epochs = SharedCourses(), workspace.ledger.epochs(workspace.record.id)
    for key, study in workspace.studies.items():
        tasks, max_epochs = workspace.tasks(key), workspace.plan.spec.budget.max_epochs
        for trial in study.get_trials(deepcopy=False):
            records = epochs.get(key, {}).get(trial.number, ())
            identity = tasks.trial(trial.number, trial.params).identity
            courses.remember(identity, recorded_course(trial, records, max_epochs))
    return courses


def _wanted_reruns(workspace: ComparisonWorkspace) -> list[Rerun]:
    """Every study's best config on fresh seeds: the same ones for all studies of one seed index.

    Raises:
        NoSuccessfulTrialError: if no study has one.
    """
    trials = {key: _best(workspace, key) for key in workspace.studies}
    if not any(trials.values()):
        raise NoSuccessfulTrialError(_why_nothing_succeeded(workspace))
    return [
        (key, workspace.tasks(key).rerun(best.number, best.params, seed_index))
        for key, best in trials.items()
        if best is not None
        for seed_index in range(N_RERUNS)
    ]


def _recorded(wanted: Sequence[Rerun], workspace: ComparisonWorkspace) -> list[RerunRecord | None]:
    """What has come of each; None where it is still to be trained."""
    recorded = {
        (key, rerun.trial_number, rerun.seed_index): rerun
        for key, reruns in workspace.ledger.reruns(workspace.record.id).items()
        for rerun in reruns
    }
    return [recorded.get((key, task.number, task.seed_index or 0)) for key, task in wanted]


def _untrained(
    wanted: Sequence[Rerun], workspace: ComparisonWorkspace, progress: ComparisonProgress
) -> list[Rerun]:
    """Those that are to be trained next, no two of them alike: one answers all its likes."""
    records = list(zip(wanted, _recorded(wanted, workspace), strict=True))
    answers = {
        task.identity: r for (_, task), r in records if r is not None and r.value is not None
    }
    untrained: dict[str, Rerun] = {}
    for (key, task), record in records:
        if record is not None:
            continue
        if (same := answers.get(task.identity)) is None:
            untrained.setdefault(task.identity, (key, task))
        else:
            answer = replace(same, trial_number=task.number, finished_at=now())
            _keep_rerun(key, answer, workspace, progress)
    return list(untrained.values())


def _reruns(
    untrained: Sequence[Rerun],
    workspace: ComparisonWorkspace,
    progress: ComparisonProgress,
    clock: WorkerClock,
) -> TaskList:
    metric = workspace.plan.spec.objective.metric
    keys = {task.context.folder: key for key, task in untrained}

    def on_end(task: TrialTask, report: EpochReport, seconds: float) -> None:
        assert task.seed_index is not None
        clock.worked(seconds)
        (task.context.folder / BEST_WEIGHTS).unlink(missing_ok=True)
        record = RerunRecord(
            trial_number=task.number,
            seed_index=task.seed_index,
            seed=task.context.seed,
            value=report.metrics.get(metric) if report.ending == "complete" else None,
            fail_reason=report.fail_reason or None,
            seconds=seconds,
            finished_at=now(),
        )
        _keep_rerun(keys[task.context.folder], record, workspace, progress)

    return TaskList([task for _, task in untrained], on_end, progress.say)


def _keep_rerun(
    key: StudyKey,
    record: RerunRecord,
    workspace: ComparisonWorkspace,
    progress: ComparisonProgress,
) -> None:
    workspace.ledger.add_rerun(workspace.record.id, key, record)
    progress.rerun_ended(key, record)


def _best(workspace: ComparisonWorkspace, key: StudyKey) -> FrozenTrial | None:
    trials = workspace.studies[key].get_trials(deepcopy=False)
    return best_trial(trials, maximize=workspace.maximize)


def _why_nothing_succeeded(workspace: ComparisonWorkspace) -> str:
    trials = [t for s in workspace.studies.values() for t in s.get_trials(deepcopy=False)]
    reasons = [str(t.user_attrs["fail_reason"]) for t in trials if "fail_reason" in t.user_attrs]
    last = f"; the last failure:\n  {reasons[-1]}" if reasons else ""
    return f"none of {len(trials)} trials succeeded{last}"


def _finished_trials(workspace: ComparisonWorkspace) -> dict[StudyKey, Sequence[FrozenTrial]]:
    return {
        key: [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
        for key, study in workspace.studies.items()
    }


def _keep_fingerprint(
    workspace: ComparisonWorkspace,
    progress: ComparisonProgress,
    config: Mapping[str, Any],
    fingerprint: str,
    warnings: Sequence[str],
) -> None:
    """Record which data the comparison is about, and say what is wrong with them."""
    for warning in warnings:
        progress.say(f"warning: {warning}")
    record_data_config(workspace.data_study, config)
    _record(workspace, lambda record: replace(record, data_fingerprint=fingerprint))


def same_data(workspace: ComparisonWorkspace) -> SameData:
    """What makes sure that a comparison with results goes on with the data it began with."""
    known = None
    if _has_trained(workspace):
        known = known_data(workspace.data_study, workspace.record.data_fingerprint)
    return SameData(
        known, f"Bring the data back, or begin another comparison: {another(workspace.plan.spec)}"
    )


def _has_trained(workspace: ComparisonWorkspace) -> bool:
    return any(_finished_trials(workspace).values())


def _record(
    workspace: ComparisonWorkspace, change: Callable[[ComparisonRecord], ComparisonRecord]
) -> None:
    """Change the record as it is in the ledger now."""
    recorded = workspace.ledger.find(workspace.record.name)
    workspace.ledger.put(change(recorded or workspace.record))


class WorkerClock:
    """How busy the workers of this start have been, from their first epoch to their last."""

    def __init__(self) -> None:
        self._busy_s = 0.0
        self._begin: float | None = None
        self._end = 0.0

    def worked(self, seconds: float) -> None:
        """A worker has just been busy for so long."""
        self._end = time.monotonic()
        if self._begin is None:
            self._begin = self._end - seconds
        self._busy_s += seconds

    def added_to(self, record: ComparisonRecord, n_workers: int) -> ComparisonRecord:
        """The record with the seconds of this start."""
        wall_s = 0.0 if self._begin is None else self._end - self._begin
        return replace(
            record,
            wall_s=record.wall_s + wall_s,
            busy_s=record.busy_s + self._busy_s,
            capacity_s=record.capacity_s + wall_s * n_workers,
        )
