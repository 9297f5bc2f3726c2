"""Mend what an audit has found, where study and ledger hold what it takes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence

from hpo.audited_files import (
    CHECKPOINTS_LEFT,
    FOLDER_LEFT,
    MODEL_CARD,
    PART_LEFT,
    REPORT,
    SPEC,
)
from hpo.auditing import REQUEUE, Difference
from hpo.results import write_model_card, write_report
from hpo.synchronization import (
    open_projection,
    pictures_of_trials,
    synchronize,
    written_or_said,
)
from hpo.workspace import Workspace, write_spec
from storage import requeue_running

REWRITE_RUN = "rewrite run"
"""Name of a repair: MLflow forgets nothing, so a run that is wrong is deleted and made anew."""


def mend(workspace: Workspace, differences: Sequence[Difference]) -> bool:
    """Mend all that can be mended; whether there was anything.

    Raises:
        UnfitEnvironmentError: if MLflow cannot be written.
        StorageError: if a file cannot be.
    """
    wanted = {one.repair for one in differences if one.repair}
    for repair, carry_out in REPAIRS.items():
        if repair in wanted:
            carry_out(workspace, [one for one in differences if one.repair == repair])
    return bool(wanted)


def _requeue(workspace: Workspace, _: Sequence[Difference]) -> None:
    requeue_running(workspace.study)


def _write_spec(workspace: Workspace, _: Sequence[Difference]) -> None:
    write_spec(workspace)


def _write_report(workspace: Workspace, _: Sequence[Difference]) -> None:
    write_report(workspace.outcome(), workspace.study, workspace.folder / REPORT)


def _write_model_card(workspace: Workspace, _: Sequence[Difference]) -> None:
    write_model_card(workspace.outcome(), workspace.folder)


def _remove_checkpoints(workspace: Workspace, differences: Sequence[Difference]) -> None:
    for one in differences:
        assert one.trial is not None, "checkpoints are a trial's"
        workspace.tasks.remove_checkpoints([one.trial])


def _remove_folders(workspace: Workspace, differences: Sequence[Difference]) -> None:
    for one in differences:
        shutil.rmtree(workspace.folder / one.what)


def _remove_parts(workspace: Workspace, differences: Sequence[Difference]) -> None:
    for one in differences:
        (workspace.folder / one.what).unlink(missing_ok=True)


def _rewrite_runs(workspace: Workspace, differences: Sequence[Difference]) -> None:
    """Those of trials that differ are deleted, and with those that are missing made anew."""
    wrong = {str(one.trial) for one in differences if one.trial is not None}
    outcome = workspace.outcome()
    known = {picture.key for picture, _ in pictures_of_trials(workspace, outcome)}
    with written_or_said(workspace):
        projection = open_projection(workspace)
        projection.remove_doubles()
        projection.remove_trials(wrong | (projection.keys - known))
        synchronize(workspace)


REPAIRS: dict[str, Callable[[Workspace, Sequence[Difference]], None]] = {
    REQUEUE: _requeue,
    SPEC: _write_spec,
    REPORT: _write_report,
    MODEL_CARD: _write_model_card,
    CHECKPOINTS_LEFT: _remove_checkpoints,
    FOLDER_LEFT: _remove_folders,
    PART_LEFT: _remove_parts,
    REWRITE_RUN: _rewrite_runs,
}
"""What mends a difference, by its ``repair``; in this order."""
