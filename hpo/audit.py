"""The journey of `hpo audit`: compare all that keeps an experiment, and mend what can be mended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hpo.audit_repairs import REWRITE_RUN, mend
from hpo.audited_files import compared_files, file_differences
from hpo.auditing import Audit, Counts, Difference, Records, record_differences
from hpo.errors import StorageError, UnfitEnvironmentError
from hpo.places import Places
from hpo.results import Outcome
from hpo.search import is_over, n_spent, n_trials_of
from hpo.storage_errors import exclusive, storage_errors
from hpo.synchronization import picture_of_experiment, pictures_of_trials
from hpo.tracking import (
    NOTHING,
    PARENT_RUN,
    RunPicture,
    nested,
    short_reason,
    shown_runs,
    unlike,
    without_results,
)
from hpo.workspace import Workspace, find_workspace
from storage import shown_url

Shown = Mapping[str, Sequence[RunPicture]]
"""What MLflow shows, by key of its run; of one key there should be one."""


def audit_experiment(name: str, places: Places, *, repair: bool) -> Audit:
    """Compare study, ledger, MLflow, checkpoints and files of an experiment that nobody drives.

    Without ``repair`` nothing is changed.

    Raises:
        UsageError: if there is no experiment called ``name``.
        StorageError: if the database cannot be read, or the experiment is being run.
        UnfitEnvironmentError: if MLflow has to be mended and cannot be written.
    """
    with storage_errors():
        workspace = find_workspace(name, places)
        with exclusive(places, name):
            found = _compared(workspace)
            if not repair or not mend(workspace, found.differences):
                return found
            again = _compared(find_workspace(name, places))
            new = [one for one in again.left if one not in found.differences]
            return Audit(
                name=name,
                counts=again.counts,
                differences=(*found.differences, *new),
                left=again.left,
                untold=again.untold,
            )


def refuse_differences(audit: Audit, command: str) -> None:
    """Raise what says how an audit has ended; nothing if all is as it should be.

    Raises:
        StorageError: if there are differences; ``command`` is what would mend some of them.
        UnfitEnvironmentError: if there are none but MLflow could not be compared.
    """
    if audit.left:
        n, n_repairable = len(audit.left), sum(bool(one.repair) for one in audit.left)
        told = f"{n} difference{'' if n == 1 else 's'} in experiment {audit.name!r}"
        if n_repairable:
            told += f", {n_repairable} of which can be mended: {command}"
        raise StorageError(told)
    if audit.untold:
        raise UnfitEnvironmentError(f"MLflow was not compared: {audit.untold}")


def _compared(workspace: Workspace) -> Audit:
    outcome, untold = workspace.outcome(), ""
    differences = [
        *record_differences(_records(workspace, outcome)),
        *file_differences(workspace, outcome),
    ]
    shown: Shown = {}
    try:
        shown = shown_runs(workspace.places.tracking_uri, outcome.experiment)
    except Exception as error:  # noqa: BLE001  whatever MLflow raises, the rest is compared
        store = shown_url(workspace.places.tracking_uri)
        untold = f"{store} cannot be read: {short_reason(error)}"
    else:
        differences += _mlflow_differences(workspace, outcome, shown)
    return Audit(
        name=workspace.spec.name,
        counts=Counts(
            trials=len(outcome.trials),
            epochs=sum(map(len, outcome.epochs.values())),
            mlflow_runs=sum(map(len, shown.values())),
            files=len(compared_files(workspace, outcome)),
        ),
        differences=tuple(differences),
        left=tuple(differences),
        untold=untold,
    )


def _records(workspace: Workspace, outcome: Outcome) -> Records:
    spec, tasks = outcome.spec, workspace.tasks
    is_finished = outcome.experiment.finished_at is not None
    return Records(
        trials=outcome.trials,
        epochs=outcome.epochs,
        metrics=[objective.metric for objective in spec.objectives],
        max_epochs=spec.budget.max_epochs,
        seeds={t.number: tasks.trial(t.number, t.params).context.seed for t in outcome.trials},
        reruns=outcome.reruns,
        is_finished=is_finished,
        n_spent=n_spent(outcome.trials, spec),
        n_trials=n_trials_of(spec),
        ended_early=outcome.search_end is not None or is_over(workspace.study, spec),
    )


def _mlflow_differences(
    workspace: Workspace, outcome: Outcome, shown: Shown
) -> Iterator[Difference]:
    """Run by run; what should not be there comes last.

    Until a trial has ended MLflow is told nothing, and nothing of results before all has ended.
    """
    if not shown and not any(trial.state.is_finished() for trial in outcome.trials):
        return
    is_finished = outcome.experiment.finished_at is not None
    if not is_finished:
        shown = {key: [without_results(run) for run in runs] for key, runs in shown.items()}
    parent = picture_of_experiment(workspace, outcome)
    parent = parent if is_finished else without_results(parent)
    yield from _run_differences(parent, shown.get(PARENT_RUN, ()))
    parent_id = next((one.run_id for one in shown.get(PARENT_RUN, ())), "")
    expected = {PARENT_RUN}
    for picture, _ in pictures_of_trials(workspace, outcome):
        wanted = picture if is_finished else without_results(picture)
        expected.add(picture.key)
        yield from _run_differences(nested(wanted, parent_id), shown.get(picture.key, ()))
    for key in sorted(shown.keys() - expected):
        for run in shown[key]:
            found = f"run {run.run_id} of trial {key or 'none'}"
            yield _of_mlflow(None, "run of no trial that has ended", NOTHING, found)


def _run_differences(expected: RunPicture, runs: Sequence[RunPicture]) -> Iterator[Difference]:
    trial = None if expected.key == PARENT_RUN else int(expected.key)
    if not runs:
        yield _of_mlflow(trial, "run", "one", NOTHING)
        return
    first, *others = runs
    for what, wanted, found in unlike(expected, first):
        yield _of_mlflow(trial, what, wanted, found)
    for run in others:
        yield _of_mlflow(trial, "runs", f"one, {first.run_id}", f"another one, {run.run_id}")


def _of_mlflow(trial: int | None, what: str, expected: str, found: str) -> Difference:
    return Difference(
        trial=trial,
        place="mlflow",
        what=what,
        expected=expected,
        found=found,
        repair=REWRITE_RUN,
    )
