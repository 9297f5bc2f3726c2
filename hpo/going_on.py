"""Whether an experiment begins or goes on, and what must not have changed in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import optuna
from optuna.storages import BaseStorage
from optuna.study import Study

from hpo.errors import UsageError
from hpo.places import Places
from hpo.provenance import changed, changed_code, libraries_of, library_versions
from hpo.results import Outcome
from hpo.search import awaits_lr_range, is_over, n_spent, n_trials_of, narrowed
from hpo.spec import ExperimentSpec, PbtSpec, differences, parse_recorded_spec, spec_to_yaml
from hpo.storage_errors import refuse_if_driven, storage_errors
from hpo.workspace import Workspace, experiment_names, laid_out, study_of, warm_params_of
from storage import (
    ExperimentRecord,
    Ledger,
    LrRangeRecord,
    open_engine,
    open_optuna_storage,
    search_end,
    shown_url,
    study_exists,
    tracking_is_late,
)
from trainables import LR, trainable_sources

# What may differ when an experiment goes on: it changes how much and where, not what is searched.
LAWFUL_CHANGES = (
    "budget.n_trials",
    "budget.time_limit_s",
    "budget.target_value",
    "budget.patience_trials",
    "budget.terminator",
    "budget.trial_time_limit_s",
    "budget.stall_timeout_s",
    "resources.",
    "concurrency",
)


def find_record(spec: ExperimentSpec, places: Places, *, resume: bool) -> ExperimentRecord | None:
    """The record of an experiment that goes on, None for one to begin; changes no record.

    One that has come to nothing so far is begun anew if the spec or the code is another one now.

    Raises:
        UsageError: if it exists and shall not be resumed, or with another spec or other code, or if
            it does not exist and shall be resumed, or if ``warm_start`` names one that does not
            exist, or if its budget is lowered below what is spent.
        DatabaseError: if the database cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if resume and spec.name not in (known := experiment_names(places)):
        raise UsageError(
            f"nothing to resume: there is no experiment {spec.name!r} in "
            f"{shown_url(places.storage_url)}. Known: {', '.join(known) or 'none'}. "
            "Without --resume it is begun"
        )
    ledger = Ledger(open_engine(places.storage_url))
    storage = open_optuna_storage(places.storage_url)
    recorded = ledger.find(spec.name)
    if recorded is None:
        if study_exists(storage, spec.name):
            raise UsageError(
                f"the database holds a study {spec.name!r} that is no experiment of ours; "
                f"choose another name: -o name={spec.name}-2"
            )
        warm_params_of(spec, places)  # refuses unknown names before anything is recorded
        return None
    found = ledger.lr_range(recorded.id)
    if refusal := _refusal(recorded, spec, places, found, storage):
        if found is None and not _has_trained(spec.name, storage):
            warm_params_of(spec, places)
            return None
        raise refusal
    n_done = 0
    if study_exists(storage, spec.name):
        n_done = n_spent(study_of(spec, storage).get_trials(deepcopy=False), spec)
    _refuse_smaller_budget(recorded, spec, n_done)
    if not resume:
        raise UsageError(
            f"experiment {spec.name!r} exists: {n_done} of {n_trials_of(spec)} trials "
            f"are finished. Go on with --resume, or begin another: -o name={spec.name}-2"
        )
    return replace(recorded, spec=spec_to_yaml(spec if found is None else _narrowed(spec, found)))


def outcome_if_finished(
    spec: ExperimentSpec, places: Places, say: Callable[[str], None]
) -> Outcome | None:
    """What an experiment has come to where nothing is left to do, not even for MLflow; else None.

    Nothing of Ray or MLflow is loaded for that.

    Args:
        spec: of the experiment to go on with.
        places: where it is kept.
        say: shows a line to the user.

    Raises:
        UsageError: as `find_record`.
        StorageError: if the database cannot be used.
    """
    with storage_errors():
        refuse_if_driven(places, spec.name)
        workspace = finished_workspace(find_record(spec, places, resume=True), places)
        if workspace is None or tracking_is_late(workspace.study):
            return None
        say(nothing_left(workspace))
        return workspace.outcome()


def finished_workspace(recorded: ExperimentRecord | None, places: Places) -> Workspace | None:
    """The workspace of an experiment whose search is over, and all that follows it; else None.

    Args:
        recorded: what `find_record` has found.
        places: where it is kept.
    """
    if recorded is None or recorded.finished_at is None:
        return None
    ledger = Ledger(open_engine(places.storage_url))
    workspace = laid_out(parse_recorded_spec(recorded.spec), places, recorded, ledger)
    return workspace if is_over(workspace.study, workspace.spec) else None


def nothing_left(workspace: Workspace) -> str:
    """What is said of a finished experiment, with how to search on where its search ended early."""
    text = f"experiment {workspace.spec.name!r} is finished: there is nothing left to do"
    if (end := search_end(workspace.study)) is None:
        return text
    lifted = f"-o budget.{end.by}=... or " if end.limit is not None else ""
    return f"{text} ({end.reason}; search on with {lifted}more trials: --trials ...)"


def _refusal(
    recorded: ExperimentRecord,
    spec: ExperimentSpec,
    places: Places,
    found: LrRangeRecord | None,
    storage: BaseStorage,
) -> UsageError | None:
    """Why an experiment cannot go on: its spec or its code is another one. None if it can.

    Where nothing is left to train, code does not matter any more.
    """
    if unlawful := unlawful_changes(recorded, spec, found):
        head = f"experiment {spec.name!r} exists with another spec (recorded -> given):"
        return UsageError("\n  ".join([head, *unlawful, f"Begin another one: {another(spec)}"]))
    code = changed_code(recorded.versions, trainable_sources(spec.trainable, places.imports))
    if not code or _is_done(recorded, spec, storage):
        return None
    commit = f" as it was at git commit {recorded.git_commit}" if recorded.git_commit else ""
    return UsageError(
        "\n  ".join(
            [
                f"experiment {spec.name!r} was begun with other code of its trainable "
                f"{spec.trainable!r} (SHA-256, recorded -> present):",
                *code,
                f"Bring the code back{commit}, or begin another experiment with the best of this "
                f"one: {another(spec)} -o warm_start=[{spec.name}]",
            ]
        )
    )


def unlawful_changes(
    recorded: ExperimentRecord, spec: ExperimentSpec, found: LrRangeRecord | None
) -> list[str]:
    """What of a spec must not differ when its experiment goes on, but does; nothing if it may.

    Args:
        recorded: the experiment that exists.
        spec: as it is given now.
        found: its learning rates, which stay what they are; None if they were not looked for, or
            if that came to nothing: then another range may be given.
    """
    before = parse_recorded_spec(recorded.spec)
    lawful: tuple[str, ...] = LAWFUL_CHANGES
    if isinstance(before.scheduler, PbtSpec):  # which has one population from start to end
        lawful = tuple(key for key in lawful if key != "budget.n_trials")
    if found is not None:
        before, spec = _narrowed(before, found), _narrowed(spec, found)
    elif awaits_lr_range(before):
        lawful = (*lawful, f"search_space.{LR}.")
    return [
        difference for difference in differences(before, spec) if not difference.startswith(lawful)
    ]


def another(spec: ExperimentSpec) -> str:
    """What to add to the command line to begin another experiment of the same spec."""
    return f"-o name={spec.name}-2"


def _is_done(recorded: ExperimentRecord, spec: ExperimentSpec, storage: BaseStorage) -> bool:
    if recorded.finished_at is None or not study_exists(storage, spec.name):
        return False
    return is_over(study_of(spec, storage), spec)


def _refuse_smaller_budget(recorded: ExperimentRecord, spec: ExperimentSpec, n_done: int) -> None:
    """Raise UsageError if the budget is lowered below what is spent: it could never be exact."""
    is_lowered = spec.budget.n_trials < parse_recorded_spec(recorded.spec).budget.n_trials
    if is_lowered and n_trials_of(spec) < n_done:
        raise UsageError(
            f"budget.n_trials={spec.budget.n_trials}, but {n_done} trials of experiment "
            f"{spec.name!r} are finished; give at least as many: --trials {n_done}"
        )


def _narrowed(spec: ExperimentSpec, found: LrRangeRecord) -> ExperimentSpec:
    return narrowed(spec, found.low, found.high)


def _has_trained(name: str, storage: BaseStorage) -> bool:
    """Whether an experiment has anything to lose."""
    return study_exists(storage, name) and has_trained(
        optuna.load_study(study_name=name, storage=storage)
    )


def has_trained(study: Study) -> bool:
    """Whether a trial has ended, or has an epoch to lose: it may have been cut off or held back."""
    trials = study.get_trials(deepcopy=False)
    return any(trial.state.is_finished() or trial.intermediate_values for trial in trials)


def changed_libraries(recorded: ExperimentRecord) -> list[str]:
    """``torch: 2.14.1 -> 2.15.0``, for each library that was another one when it began."""
    return changed(libraries_of(recorded.versions), library_versions())
