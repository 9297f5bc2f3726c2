"""What lies in the folder of an experiment against what is recorded of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from optuna.trial import FrozenTrial

from hpo.auditing import BACKUP, NOTHING, Difference
from hpo.errors import StorageError
from hpo.lineage import PARENT, born_at, lineage_of
from hpo.results import (
    EVIDENCE_FILE,
    MANIFEST_FILE,
    MODEL_CARD_FILE,
    REPORT_FILE,
    Outcome,
    read_manifest,
    verified,
)
from hpo.spec import PbtSpec
from hpo.tasks import TrialTask
from hpo.workspace import Workspace
from storage import EpochRecord
from trainables import CHECKPOINTS, Checkpoint, Checkpoints, Place

SPEC, REPORT, MODEL_CARD = "spec.yaml", REPORT_FILE, MODEL_CARD_FILE
CHECKPOINTS_LEFT, FOLDER_LEFT, PART_LEFT = "remove checkpoints", "remove folder", "remove part"
"""Names of repairs, as those of the files that are written anew."""


def file_differences(workspace: Workspace, outcome: Outcome) -> Iterator[Difference]:
    """Everything in the folder that is missing, another one, or not to be there."""
    if not workspace.folder.is_dir():
        yield _difference(
            "folder",
            f"{workspace.folder}",
            NOTHING,
            way_out="go to the folder in which it was run, and audit it there",
        )
        return
    yield from _spec(workspace)
    yield from _trial_folders(workspace, outcome)
    yield from _checkpoints_left(workspace, outcome)
    for trial in outcome.trials:
        if not trial.state.is_finished():
            yield from _checkpoints(workspace, outcome, trial)
    if outcome.experiment.finished_at is not None:
        yield from _pages(workspace)
        yield from _parts(workspace)
    yield from _exports(workspace, outcome)


def compared_files(workspace: Workspace, outcome: Outcome) -> list[Place]:
    """Files that are there and were compared."""
    folder = workspace.folder
    named = [SPEC, REPORT, MODEL_CARD, MANIFEST_FILE]
    if outcome.export is not None:
        try:
            named += read_manifest(folder)
        except StorageError:
            named.remove(MANIFEST_FILE)
    checkpoints = [
        one.path
        for trial in outcome.trials
        if not trial.state.is_finished()
        for one in _task(workspace, outcome, trial).context.resume_from
    ]
    return [path for path in (*(folder / name for name in named), *checkpoints) if path.is_file()]


def _difference(
    what: str,
    expected: str,
    found: str,
    *,
    trial: int | None = None,
    repair: str = "",
    way_out: str = "",
) -> Difference:
    return Difference(
        trial=trial,
        place="files",
        what=what,
        expected=expected,
        found=found,
        repair=repair,
        way_out=way_out,
    )


def _spec(workspace: Workspace) -> Iterator[Difference]:
    path = workspace.folder / SPEC
    if not path.is_file():
        yield _difference(SPEC, "a file", NOTHING, repair=SPEC)
    elif path.read_text(encoding="utf-8", errors="replace") != workspace.experiment.spec:
        yield _difference(SPEC, "the recorded spec", "another one", repair=SPEC)


def _trial_folders(workspace: Workspace, outcome: Outcome) -> Iterator[Difference]:
    """Those of trials that there are not."""
    known = {workspace.tasks.trial_folder(trial.number) for trial in outcome.trials}
    for folder in sorted(workspace.tasks.trial_folder(0).parent.glob("*")):
        if folder not in known:
            name = f"trials/{folder.name}"
            yield _difference(name, NOTHING, "a folder of no trial", repair=FOLDER_LEFT)


def _checkpoints_left(workspace: Workspace, outcome: Outcome) -> Iterator[Difference]:
    """Those of trials that have ended, wherever checkpoints are kept."""
    ended = [trial.number for trial in outcome.trials if trial.state.is_finished()]
    is_open = len(ended) < len(outcome.trials)
    if is_open and isinstance(outcome.spec.scheduler, PbtSpec):
        return  # of a population they are parents of others until it has ended
    for number, n_left in workspace.tasks.kept_checkpoints(ended).items():
        yield _difference(
            CHECKPOINTS,
            NOTHING,
            f"{n_left} of a trial that has ended",
            trial=number,
            repair=CHECKPOINTS_LEFT,
        )


def _checkpoints(
    workspace: Workspace, outcome: Outcome, trial: FrozenTrial
) -> Iterator[Difference]:
    """Of a trial that goes on the newest must be there, and what else is there must be whole.

    The worker of a driver that was killed may have saved one more, and dropped the oldest.
    """
    for age, checkpoint in enumerate(_task(workspace, outcome, trial).context.resume_from):
        if age > 0 and not checkpoint.path.is_file():
            continue
        if (complaint := _complaint(checkpoint)) is not None:
            yield Difference(
                trial=trial.number,
                place="checkpoints",
                what=f"epoch {checkpoint.epoch}",
                expected=f"SHA-256 {checkpoint.sha256[:12]}",
                found=complaint,
                way_out="the trial goes on from an earlier one, or begins again",
            )


def _complaint(checkpoint: Checkpoint) -> str | None:
    """What a worker would say of a checkpoint; None if it is whole."""
    door = Checkpoints(checkpoint.path.parent, resume_from=(checkpoint,))
    return None if door.find() is not None else door.complaints[0]


def _task(workspace: Workspace, outcome: Outcome, trial: FrozenTrial) -> TrialTask:
    """With the checkpoints that the next start would hand to a worker."""
    own = outcome.epochs.get(trial.number, ())
    if isinstance(outcome.spec.scheduler, PbtSpec):
        return workspace.tasks.member(
            trial.number,
            trial.params,
            lineage_of(outcome.trials, trial),
            [*_inherited(outcome, trial), *own],
            keep_every=outcome.spec.scheduler.interval_epochs,
        )
    return workspace.tasks.going_on(workspace.tasks.trial(trial.number, trial.params), own)


def _inherited(outcome: Outcome, trial: FrozenTrial) -> Sequence[EpochRecord]:
    """The epoch that a trial of a population goes on from, as long as it has none of its own."""
    parent = trial.user_attrs.get(PARENT)
    if parent is None or outcome.epochs.get(trial.number):
        return ()
    return [one for one in outcome.epochs.get(parent, ()) if one.epoch == born_at(trial)]


def _pages(workspace: Workspace) -> Iterator[Difference]:
    """The report; and the model card, where there is something to tell of a model."""
    has_model = (workspace.folder / EVIDENCE_FILE).is_file()
    for name in (REPORT, *([MODEL_CARD] if has_model else [])):
        path = workspace.folder / name
        if not path.is_file() or path.stat().st_size == 0:
            yield _difference(name, "a file", NOTHING, repair=name)


def _parts(workspace: Workspace) -> Iterator[Difference]:
    """Files that were never whole; those of an export that was refused are kept on purpose."""
    for path in sorted(workspace.folder.rglob("*.part")):
        name = path.relative_to(workspace.folder).as_posix()
        yield _difference(name, NOTHING, "a file that was never whole", repair=PART_LEFT)


def _exports(workspace: Workspace, outcome: Outcome) -> Iterator[Difference]:
    """Each file of the winner's model, as manifest and ledger have it."""
    folder, export = workspace.folder, outcome.export
    if export is None:
        if outcome.test is not None and outcome.experiment.finished_at is not None:
            yield _difference("export", "a record of the winner's model", NOTHING, way_out=BACKUP)
        return
    try:
        manifest = read_manifest(folder)
    except StorageError as error:
        yield _difference(MANIFEST_FILE, "a manifest", "no JSON", way_out=str(error))
        return
    recorded = {Path(one.path).name: one for one in outcome.exports}
    wanted = {*manifest, Path(export.path).name}
    for file in sorted(wanted):
        try:
            verified(folder, file, manifest)
        except StorageError as error:
            sha256 = manifest[file].sha256[:12] if file in manifest else export.sha256[:12]
            yield _difference(file, f"SHA-256 {sha256}", "another file", way_out=str(error))
            continue
        entry, record = manifest[file], recorded.get(file)
        if record is None or record.trial_number != entry.trial_number:
            continue  # of weights and evidence the manifest alone tells
        if record.sha256 != entry.sha256:
            yield _difference(
                file,
                f"SHA-256 {record.sha256[:12]} as recorded",
                f"{entry.sha256[:12]}",
                way_out=f"write it anew: hpo export {workspace.spec.name}",
            )
