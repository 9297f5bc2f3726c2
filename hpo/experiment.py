"""The journey of `hpo run`: search, finalists, retraining, test, export, report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from hpo.errors import NoSuccessfulTrialError, RunInterruptedError
from hpo.execution import (
    InterruptFlag,
    Room,
    check_cluster,
    is_joined,
    ray_cluster,
    run_stages,
    server_problem,
)
from hpo.failpoints import failpoint
from hpo.going_on import (
    another,
    changed_libraries,
    find_record,
    finished_workspace,
    has_trained,
    nothing_left,
)
from hpo.lr_finder import find_range
from hpo.places import Places
from hpo.plan import first_config
from hpo.progress import RunProgress
from hpo.results import (
    EVIDENCE_FILE,
    REPORT_FILE,
    Finalist,
    Outcome,
    confirmation_tasks,
    export_model,
    rerun_tasks,
    retrain_task,
    save_examples,
    wanted_reruns,
    write_model_card,
    write_report,
)
from hpo.same_data import SameData, known_data
from hpo.search import awaits_lr_range, search_source
from hpo.spec import ExperimentSpec
from hpo.storage_errors import exclusive, refuse_if_driven, storage_errors
from hpo.synchronization import open_tracker, synchronize
from hpo.tasks import SideBySide, TaskSource
from hpo.tracking import Tracker, short_reason
from hpo.workspace import (
    Workspace,
    experiment_names,
    finished,
    open_workspace,
    remembered_places,
    task_factory,
)
from storage import (
    Lease,
    LostLeaseError,
    RerunRecord,
    TestReading,
    record_data_config,
    record_finalists,
    record_tracking_is_late,
    recorded_finalists,
    requeue_running,
    tracking_is_late,
)
from trainables import BEST_WEIGHTS, PackedModel


def run_experiment(
    spec: ExperimentSpec,
    places: Places,
    progress: RunProgress,
    *,
    resume: bool,
    resume_command: str,
) -> Outcome:
    """Search, re-run the finalists, retrain and test the winner, export it, write the report.

    Args:
        spec: what to do.
        places: where to keep it.
        progress: is told what happens.
        resume: go on with the experiment of that name, instead of beginning it.
        resume_command: what to type to go on, for the message of an interrupt.

    Raises:
        UsageError: if there is nothing to resume, or something that is not resumed.
        StorageError: if the database or the folder cannot be used.
        UnfitEnvironmentError: if the machine or cluster lacks the resources.
        NoSuccessfulTrialError: if no trial succeeded.
        ExportMismatchError: if the exported model computes something else.
        RunInterruptedError: after SIGINT or SIGTERM.
    """
    with storage_errors(), InterruptFlag() as interrupt:
        refuse_if_driven(places, spec.name)
        find_record(spec, places, resume=resume)
        with exclusive(places, spec.name) as lease:
            # Again, now that no other driver can change it.
            recorded = find_record(spec, places, resume=resume)
            if (workspace := finished_workspace(recorded, places)) is not None:
                progress.say(nothing_left(workspace))
                if tracking_is_late(workspace.study):
                    try_to_synchronize(workspace, progress)
                return workspace.outcome()
            if recorded is None and spec.name in experiment_names(places):
                progress.say(
                    f"experiment {spec.name!r} had not finished a trial: it begins anew, "
                    "with the spec as it is now"
                )
            progress.say(f"{spec.name}: starting Ray; results will be in {places.runs}")
            if recorded is not None:
                for change in changed_libraries(recorded):
                    progress.say(f"note: since the experiment began, {change}")
                recorded = replace(recorded, finished_at=None)  # it goes on
            with ray_cluster(spec.resources, spec.concurrency, interrupt) as room:
                known_places = remembered_places(spec.name, places)
                look_at_cluster(spec, known_places, progress, interrupt)
                workspace = open_workspace(spec, places, recorded)
                models, is_quiet = run_workers(workspace, progress, room, interrupt, lease)
            if interrupt.signum is not None:
                raise RunInterruptedError(
                    interrupt.signum,
                    f"interrupted; what is finished is kept. Go on with:\n  {resume_command}",
                )
            interrupt.release()  # nothing asks any more: a signal now ends the process at once
            return wind_up(workspace, progress, models, is_quiet=is_quiet)


def look_at_cluster(
    spec: ExperimentSpec, places: Places, progress: RunProgress, interrupt: InterruptFlag
) -> None:
    """Whether trials could run on a cluster that somebody else has started; nothing is recorded.

    MLflow is only warned of: it never stops a search.

    Raises:
        UnfitEnvironmentError: names everything that its machines lack.
        RunInterruptedError: after a signal.
    """
    if not is_joined():
        return
    if problem := server_problem(places.tracking_uri):
        progress.say(
            f"warning: MLflow does not answer ({problem}); the search goes on without it, "
            f"`hpo sync {spec.name}` catches up"
        )
    tasks = task_factory(spec, places)
    task = tasks.trial(0, first_config(spec, {}))
    with interrupt.at_once():
        check_cluster(task, places.checkpoints or tasks.folder, spec.resources, progress.say)


def run_workers(
    workspace: Workspace,
    progress: RunProgress,
    room: Room,
    interrupt: InterruptFlag,
    lease: Lease,
) -> tuple[list[PackedModel], bool]:
    """Everything that trains.

    Returns the retrained winner, or nothing if it was exported before, and whether MLflow is
    quiet: two writers at a time would double its runs.

    At the end nothing is RUNNING in the study, and MLflow has been told all it would hear. One who
    has lost the lease leaves both to the process that has it.

    Raises:
        LostLeaseError: if another process has taken over.
        Exception: whatever a stage raised.
    """

    def is_interrupted() -> bool:
        if interrupt.is_set:
            progress.say("interrupted: ending the trials that run, which takes up to 10 s")
        return interrupt.is_set or lease.is_lost

    models: list[PackedModel] = []
    tracker = open_tracker(workspace, progress.say)
    status = "FAILED"
    progress.already_finished(workspace.study.get_trials(deepcopy=False))
    try:
        run_stages(
            same_data(workspace).over(stages(workspace, progress, tracker, models)),
            workspace.spec.resources,
            room=room,
            is_interrupted=is_interrupted,
        )
        status = "KILLED" if interrupt.is_set else "RUNNING"
    finally:
        try:
            lease.confirm()
            requeue_running(workspace.study)
            failpoint("leftovers requeued")
        except LostLeaseError:
            tracker.abandon()
            raise
        finally:
            is_quiet = tracker.close(status, is_urgent=interrupt.is_set or lease.is_lost)
    return models, is_quiet


def wind_up(
    workspace: Workspace, progress: RunProgress, models: list[PackedModel], *, is_quiet: bool
) -> Outcome:
    """Everything that needs no worker: export, report, MLflow."""
    if models:
        try:
            export(workspace, models[0])
        except Exception:
            if is_quiet:
                try_to_synchronize(workspace, progress, "FAILED")
            raise
    drop_weights_of_losers(workspace)
    failpoint("weights of losers removed")
    workspace = finished(workspace)
    write_report(workspace.outcome(), workspace.study, workspace.folder / REPORT_FILE)
    failpoint("report written")
    if (workspace.folder / EVIDENCE_FILE).is_file():  # the trainable has handed a model back
        write_model_card(workspace.outcome(), workspace.folder)
        failpoint("model card written")
    record_tracking_is_late(workspace.study, is_late=True)
    if is_quiet:
        try_to_synchronize(workspace, progress)
    else:
        progress.say(
            f"MLflow is slow; bring it up to date later with: hpo sync {workspace.spec.name}"
        )
    # Last: of what is called finished nothing is done again.
    workspace.ledger.put(workspace.experiment)
    failpoint("finish recorded")
    return workspace.outcome()


def stages(
    workspace: Workspace, progress: RunProgress, tracker: Tracker, models: list[PackedModel]
) -> Iterator[TaskSource]:
    """The stages that need workers; each begins when the one before it is over."""
    if awaits_lr_range(workspace.spec):
        workspace = yield from find_range(workspace, progress.say)
    experiment, ledger = workspace.experiment, workspace.ledger
    is_known = experiment.data_fingerprint is not None and has_trained(workspace.study)
    yield search_source(
        workspace.study,
        workspace.spec,
        workspace.tasks,
        record_epoch=partial(ledger.put_epoch, experiment.id),
        recorded_epochs=lambda number: ledger.epochs(experiment.id, number).get(number, []),
        record_fingerprint=None if is_known else partial(keep_fingerprint, workspace, progress),
        observers=[progress, tracker],
    )
    if not recorded_finalists(workspace.study):
        chosen = [finalist.number for finalist in workspace.outcome().finalists]
        record_finalists(workspace.study, sorted(chosen))
        failpoint("finalists recorded")
    while wanted := wanted_reruns(outcome := workspace.outcome()):
        record_rerun = partial(keep_rerun, workspace)
        yield rerun_tasks(outcome, wanted, workspace.tasks, record_rerun, progress.say)
    winner = winner_of(outcome)
    record = partial(keep_confirmation, workspace)
    last = [confirmation_tasks(outcome, winner, workspace.tasks, record, progress.say)]
    if outcome.export is None or not Path(outcome.export.path).is_file():  # lost with a cluster
        keep = partial(keep_model, workspace, models)
        # It takes longest, so it comes first.
        last.insert(0, retrain_task(winner, workspace.tasks, keep, progress.say))
    yield SideBySide(last)


def same_data(workspace: Workspace) -> SameData:
    """What makes sure that an experiment with results goes on with the data it began with."""
    known, name = None, workspace.spec.name
    if has_trained(workspace.study):
        known = known_data(workspace.study, workspace.experiment.data_fingerprint)
    return SameData(
        known,
        "Bring the data back, or begin another experiment with the best of this one: "
        f"{another(workspace.spec)} -o warm_start=[{name}]",
    )


def keep_fingerprint(
    workspace: Workspace,
    progress: RunProgress,
    config: Mapping[str, Any],
    fingerprint: str,
    warnings: Sequence[str],
) -> None:
    """Record which data the experiment is about, and say what is wrong with them."""
    for warning in warnings:
        progress.say(f"warning: {warning}")
    record_data_config(workspace.study, config)  # first: without it a fingerprint says nothing
    workspace.ledger.put(replace(workspace.experiment, data_fingerprint=fingerprint))
    failpoint("fingerprint recorded")


def keep_rerun(workspace: Workspace, record: RerunRecord) -> None:
    """Record a re-run of a finalist."""
    workspace.ledger.add_rerun(workspace.experiment.id, record)
    failpoint("re-run recorded")


def keep_confirmation(workspace: Workspace, record: RerunRecord) -> None:
    """Record a re-run of the winner on a seed that did not choose it."""
    workspace.ledger.add_confirmation(workspace.experiment.id, record)
    failpoint("confirmation recorded")


def keep_model(
    workspace: Workspace, models: list[PackedModel], model: PackedModel, reading: TestReading
) -> None:
    """Record the reading of the test set at once, and hold the model for its export."""
    workspace.ledger.put_test_reading(workspace.experiment.id, reading)
    failpoint("test reading recorded")
    models.append(model)


def winner_of(outcome: Outcome) -> Finalist:
    """The finalist to retrain.

    Raises:
        NoSuccessfulTrialError: if every finalist failed on some fresh seed.
    """
    if outcome.winner is None:
        reasons = {r.fail_reason for f in outcome.finalists for r in f.reruns if r.fail_reason}
        raise NoSuccessfulTrialError(
            "every finalist failed when it was re-run on fresh seeds:\n  "
            + "\n  ".join(sorted(reasons))
        )
    return outcome.winner


def export(workspace: Workspace, model: PackedModel) -> None:
    """Write the model that can be deployed, and images to try it with; recorded last of all."""
    winner = winner_of(workspace.outcome())
    record = export_model(model, winner.number, workspace.folder, winner.schedule)
    failpoint("model exported")
    save_examples(model, workspace.folder / "examples")
    failpoint("examples saved")
    workspace.ledger.put_export(workspace.experiment.id, record)
    failpoint("export recorded")


def drop_weights_of_losers(workspace: Workspace) -> None:
    """Keep `best_valid.pt` of finalists alone: the weights of every trial could fill a disk."""
    finalists = {finalist.number for finalist in workspace.outcome().finalists}
    for trial in workspace.study.get_trials(deepcopy=False):
        if trial.state != TrialState.RUNNING and trial.number not in finalists:
            (workspace.tasks.trial_folder(trial.number) / BEST_WEIGHTS).unlink(missing_ok=True)


def try_to_synchronize(
    workspace: Workspace, progress: RunProgress, status: str = "RUNNING"
) -> None:
    """Bring MLflow up to date, or say how to do it later: it never fails a run."""
    try:
        synchronize(workspace, status)
    except Exception as error:  # noqa: BLE001  whatever MLflow raises, the ledger has everything
        progress.say(
            f"MLflow is not up to date ({short_reason(error)}); "
            f"catch up with: hpo sync {workspace.spec.name}"
        )
