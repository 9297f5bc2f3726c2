"""Lay out an experiment for work: find or begin its record, its study and its folder."""

from __future__ import annotations

import datetime as dt
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.storages import BaseStorage
from optuna.study import Study

from hpo.errors import StorageError, UsageError
from hpo.failpoints import failpoint
from hpo.places import Places
from hpo.provenance import (
    changed,
    changed_code,
    git_commit,
    libraries_of,
    library_versions,
    versions,
)
from hpo.results import Outcome, read_outcome
from hpo.search import (
    awaits_lr_range,
    is_over,
    n_spent,
    n_trials_of,
    narrowed,
    opening_of,
    record_opening,
    recorded_opening,
    warm_params,
)
from hpo.spec import (
    ExperimentSpec,
    PbtSpec,
    differences,
    parse_recorded_spec,
    parse_spec,
    spec_to_yaml,
)
from hpo.tasks import TaskFactory
from storage import (
    LEASE_S,
    ComparisonLedger,
    DatabaseError,
    ExperimentRecord,
    Lease,
    LeaseHeldError,
    Ledger,
    LrRangeRecord,
    create_pareto_study,
    database_exists,
    hold_lease,
    open_engine,
    open_optuna_storage,
    record_checkpoint_place,
    recorded_checkpoint_place,
    search_end,
    shown_url,
    study_exists,
    tracking_is_late,
)
from trainables import LR, remove_tree, trainable_sources

IMPORTS_FILE = "imports.txt"
"""In a run's folder: where its trainable was looked for, one folder a line, for `hpo resume`."""

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


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """One experiment laid out for work: its spec, its record, its study, its folder."""

    spec: ExperimentSpec
    places: Places
    experiment: ExperimentRecord
    study: Study
    ledger: Ledger
    tasks: TaskFactory

    @property
    def folder(self) -> Path:
        """runs/NAME."""
        return self.places.run_folder(self.spec.name)

    def recorded(self) -> ExperimentRecord:
        """The experiment as the ledger has it now: a range may have been found, say."""
        return self.ledger.find(self.spec.name) or self.experiment

    def outcome(self) -> Outcome:
        """What the experiment has come to so far."""
        return read_outcome(self.experiment, self.study, self.ledger)


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
        _warm_params(spec, places)  # refuses unknown names before anything is recorded
        return None
    found = ledger.lr_range(recorded.id)
    if refusal := _refusal(recorded, spec, places, found, storage):
        if found is None and not _has_trained(spec.name, storage):
            _warm_params(spec, places)
            return None
        raise refusal
    n_done = 0
    if study_exists(storage, spec.name):
        n_done = n_spent(_study(spec, storage).get_trials(deepcopy=False), spec)
    _refuse_smaller_budget(recorded, spec, n_done)
    if not resume:
        raise UsageError(
            f"experiment {spec.name!r} exists: {n_done} of {n_trials_of(spec)} trials "
            f"are finished. Go on with --resume, or begin another: -o name={spec.name}-2"
        )
    return replace(recorded, spec=spec_to_yaml(spec if found is None else _narrowed(spec, found)))


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


def another(spec: ExperimentSpec) -> str:
    """What to add to the command line to begin another experiment of the same spec."""
    return f"-o name={spec.name}-2"


def _is_done(recorded: ExperimentRecord, spec: ExperimentSpec, storage: BaseStorage) -> bool:
    if recorded.finished_at is None or not study_exists(storage, spec.name):
        return False
    return is_over(_study(spec, storage), spec)


def _refuse_smaller_budget(recorded: ExperimentRecord, spec: ExperimentSpec, n_done: int) -> None:
    """Raise UsageError if the budget is lowered below what is spent: it could never be exact."""
    is_lowered = spec.budget.n_trials < parse_recorded_spec(recorded.spec).budget.n_trials
    if is_lowered and n_trials_of(spec) < n_done:
        raise UsageError(
            f"budget.n_trials={spec.budget.n_trials}, but {n_done} trials of experiment "
            f"{spec.name!r} are finished; give at least as many: --trials {n_done}"
        )


def changed_libraries(recorded: ExperimentRecord) -> list[str]:
    """``torch: 2.14.1 -> 2.15.0``, for each library that was another one when it began."""
    return changed(libraries_of(recorded.versions), library_versions())


def _has_trained(name: str, storage: BaseStorage) -> bool:
    """Whether an experiment has anything to lose."""
    return study_exists(storage, name) and has_trained(
        optuna.load_study(study_name=name, storage=storage)
    )


def has_trained(study: Study) -> bool:
    """Whether a trial has ended, or has an epoch to lose: it may have been cut off or held back."""
    trials = study.get_trials(deepcopy=False)
    return any(trial.state.is_finished() or trial.intermediate_values for trial in trials)


def open_workspace(
    spec: ExperimentSpec, places: Places, recorded: ExperimentRecord | None
) -> Workspace:
    """Begin an experiment, or go on with a recorded one.

    Args:
        spec: as it is given now.
        places: where to keep it.
        recorded: what `find_record` has found; if that is None although there is a record of that
            name, then what it has left is removed.

    Raises:
        UsageError: if ``warm_start`` names an experiment that is not there.
        DatabaseError: if the database cannot be opened.
    """
    ledger = Ledger(open_engine(places.storage_url))
    if recorded is None and (vain := ledger.find(spec.name)) is not None:
        _remove(vain, ledger, places)
    experiment = recorded or new_experiment(spec, places)
    ledger.put(experiment)
    failpoint("experiment recorded")
    workspace = _laid_out(parse_recorded_spec(experiment.spec), places, experiment, ledger)
    if recorded_opening(workspace.study) is None:
        opening = opening_of(workspace.spec, _warm_params(workspace.spec, places))
        record_opening(workspace.study, opening)
        failpoint("opening decided")
    if (uri := workspace.places.checkpoint_uri) is not None:
        record_checkpoint_place(workspace.study, uri)
    workspace.folder.mkdir(parents=True, exist_ok=True)
    write_spec(workspace)
    failpoint("spec written")
    return workspace


def _remove(experiment: ExperimentRecord, ledger: Ledger, places: Places) -> None:
    """Remove an experiment none of whose trials has ended.

    The study goes before the record: cut off in between, the experiment can still be begun anew.
    Its trials' folders go first: a trainable would take what lies there for its own checkpoint.
    """
    storage = open_optuna_storage(places.storage_url)
    folder = places.run_folder(experiment.name) / "trials"
    remove_tree(folder)
    if study_exists(storage, experiment.name):
        study = optuna.load_study(study_name=experiment.name, storage=storage)
        places = places.with_checkpoints(recorded_checkpoint_place(study))
    if (checkpoints := places.checkpoints_of(folder)) is not None:
        remove_tree(checkpoints)
    if study_exists(storage, experiment.name):
        optuna.delete_study(study_name=experiment.name, storage=storage)
    ledger.remove(experiment.id)


def planned_opening(spec: ExperimentSpec, places: Places) -> list[dict[str, Any]]:
    """The params that the first trials of an experiment would be made of if it began now.

    Raises:
        UsageError: if ``warm_start`` names an experiment that is not there.
        DatabaseError: if the database cannot be opened.
    """
    return opening_of(spec, _warm_params(spec, places))


def _warm_params(spec: ExperimentSpec, places: Places) -> list[dict[str, Any]]:
    """The best of the experiments that ``warm_start`` names."""
    if not spec.warm_start:
        return []
    known = [name for name in experiment_names(places) if name != spec.name]
    if missing := [name for name in spec.warm_start if name not in known]:
        raise UsageError(
            f"warm_start: no experiment {', '.join(map(repr, missing))} in "
            f"{shown_url(places.storage_url)}; known: {', '.join(known) or 'none'}"
        )
    others = [find_workspace(name, places) for name in dict.fromkeys(spec.warm_start)]
    return [
        params
        for other in others
        for params in warm_params(other.study, other.spec.fixed, spec.search_space)
    ]


def with_lr_range(workspace: Workspace, found: LrRangeRecord) -> Workspace:
    """The workspace whose search space is narrowed to what was found, for good: it is recorded."""
    spec = narrowed(workspace.spec, found.low, found.high)
    experiment = replace(workspace.experiment, spec=spec_to_yaml(spec))
    workspace.ledger.put_lr_range(experiment.id, found)
    failpoint("range found recorded")
    workspace.ledger.put(experiment)
    tasks = replace(workspace.tasks, spec=spec)
    workspace = replace(workspace, spec=spec, experiment=experiment, tasks=tasks)
    write_spec(workspace)
    return workspace


def write_spec(workspace: Workspace) -> None:
    """Write the recorded spec into the experiment's folder, for readers."""
    imports = "".join(f"{folder}\n" for folder in workspace.places.imports)
    (workspace.folder / IMPORTS_FILE).write_text(imports, encoding="utf-8")
    (workspace.folder / "spec.yaml").write_text(workspace.experiment.spec, encoding="utf-8")


def find_workspace(name: str, places: Places) -> Workspace:
    """A recorded experiment, to look at.

    Raises:
        UsageError: if there is none called ``name``.
        DatabaseError: if the database cannot be opened.
    """
    experiment, ledger = _find_experiment(name, places)
    return _laid_out(parse_recorded_spec(experiment.spec), places, experiment, ledger)


def recorded_spec(
    name: str, places: Places, overrides: Sequence[str] = ()
) -> tuple[ExperimentSpec, Places]:
    """The spec of a recorded experiment to go on with, and where to look for its trainable, too.

    Raises:
        UsageError: if there is no experiment called ``name``.
        SpecError: if an override breaks a rule, or the trainable is not there any more.
        StorageError: if the database or the folder cannot be read.
    """
    with storage_errors():
        experiment, _ = _find_experiment(name, places)
        file = places.run_folder(name) / IMPORTS_FILE
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    folders = tuple(dict.fromkeys((*places.imports, *map(Path, lines))))
    spec = parse_spec(experiment.spec, f"the recorded spec of {name!r}", overrides, folders)
    return spec, replace(places, imports=folders)


def _find_experiment(name: str, places: Places) -> tuple[ExperimentRecord, Ledger]:
    if name not in (known := experiment_names(places)):
        where = shown_url(places.storage_url)
        if name in comparison_names(places):
            raise UsageError(
                f"{name!r} in {where} is a comparison, no experiment: go on with it, or see its "
                "result again, with `hpo compare SPEC ... --resume`"
            )
        raise UsageError(f"no experiment {name!r} in {where}; known: {', '.join(known) or 'none'}")
    ledger = Ledger(open_engine(places.storage_url))
    experiment = ledger.find(name)
    assert experiment is not None
    return experiment, ledger


def refuse_several_objectives(spec: ExperimentSpec, command: str) -> None:
    """Of what compares searches by one value.

    Raises:
        UsageError: if ``spec`` has several objectives.
    """
    if spec.is_multi_objective:
        metrics = ", ".join(objective.metric for objective in spec.objectives)
        raise UsageError(
            f"{command} judges searches by one objective, and {spec.name!r} has "
            f"{len(spec.objectives)} ({metrics}). Give a spec with one of them, and limit the "
            "others under `constraints`"
        )


def refuse_population(spec: ExperimentSpec, command: str, why: str) -> None:
    """Of what takes a trial for its params.

    Raises:
        UsageError: if the scheduler of ``spec`` is ``pbt``.
    """
    if isinstance(spec.scheduler, PbtSpec):
        raise UsageError(
            f"{command} does not go with scheduler pbt of {spec.name!r}: {why}. Take another "
            "scheduler, e.g. -o scheduler=asha"
        )


def experiment_names(places: Places) -> list[str]:
    """All recorded experiments; a database that is not there has none, and is not made.

    Raises:
        DatabaseError: if the database cannot be opened.
    """
    if not database_exists(places.storage_url):
        return []
    return Ledger(open_engine(places.storage_url)).names()


def comparison_names(places: Places) -> list[str]:
    """The same of comparisons."""
    if not database_exists(places.storage_url):
        return []
    return ComparisonLedger(open_engine(places.storage_url)).names()


def has_begun(name: str, places: Places) -> bool:
    """Whether there is an experiment of that name to go on with.

    Raises:
        StorageError: if the database cannot be opened.
    """
    with storage_errors():
        return name in experiment_names(places)


def _laid_out(
    spec: ExperimentSpec, places: Places, experiment: ExperimentRecord, ledger: Ledger
) -> Workspace:
    study = _study(spec, open_optuna_storage(places.storage_url))
    places = places.with_checkpoints(recorded_checkpoint_place(study))
    return Workspace(
        spec=spec,
        places=places,
        experiment=experiment,
        study=study,
        ledger=ledger,
        tasks=task_factory(spec, places),
    )


def task_factory(spec: ExperimentSpec, places: Places) -> TaskFactory:
    """What makes the tasks of an experiment."""
    folder = places.run_folder(spec.name)
    return TaskFactory(
        spec=spec,
        import_paths=places.imports,
        folder=folder,
        data_dir=places.data,
        checkpoints=places.checkpoints_of(folder),
    )


def _study(spec: ExperimentSpec, storage: BaseStorage) -> Study:
    if study_exists(storage, spec.name):
        return optuna.load_study(study_name=spec.name, storage=storage)
    objectives = {objective.metric: objective.direction for objective in spec.objectives}
    study = create_pareto_study(storage, spec.name, objectives)
    failpoint("study made")
    return study


def new_experiment(spec: ExperimentSpec, places: Places) -> ExperimentRecord:
    """The record of an experiment that begins now."""
    return ExperimentRecord(
        id=uuid.uuid4().hex,
        name=spec.name,
        spec=spec_to_yaml(spec),
        created_at=now(),
        versions=versions(spec.trainable, places.imports),
        git_commit=git_commit(places.runs.parent),
        data_fingerprint=None,
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


def _narrowed(spec: ExperimentSpec, found: LrRangeRecord) -> ExperimentSpec:
    return narrowed(spec, found.low, found.high)


def finished_workspace(recorded: ExperimentRecord | None, places: Places) -> Workspace | None:
    """The workspace of an experiment whose search is over, and all that follows it; else None.

    Args:
        recorded: what `find_record` has found.
        places: where it is kept.
    """
    if recorded is None or recorded.finished_at is None:
        return None
    ledger = Ledger(open_engine(places.storage_url))
    workspace = _laid_out(parse_recorded_spec(recorded.spec), places, recorded, ledger)
    return workspace if is_over(workspace.study, workspace.spec) else None


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
        workspace = finished_workspace(find_record(spec, places, resume=True), places)
        if workspace is None or tracking_is_late(workspace.study):
            return None
        say(nothing_left(workspace))
        return workspace.outcome()


def nothing_left(workspace: Workspace) -> str:
    """What is said of a finished experiment, with how to search on where its search ended early."""
    text = f"experiment {workspace.spec.name!r} is finished: there is nothing left to do"
    if (end := search_end(workspace.study)) is None:
        return text
    lifted = f"-o budget.{end.by}=... or " if end.limit is not None else ""
    return f"{text} ({end.reason}; search on with {lifted}more trials: --trials ...)"


def finished(workspace: Workspace) -> Workspace:
    """The workspace of an experiment that is over; recording that is the caller's last step."""
    return replace(workspace, experiment=replace(workspace.recorded(), finished_at=now()))


def now() -> dt.datetime:
    """The present, as a naive time in UTC."""
    return dt.datetime.now(dt.UTC).replace(tzinfo=None)


@contextmanager
def exclusive(places: Places, name: str, kind: str = "experiment") -> Iterator[Lease]:
    """Keep other processes from driving the experiment ``name``, or what else has a name.

    A process that is taken for dead and is not, because it was suspended, say, cannot write any
    more once another one has taken over.

    Raises:
        StorageError: if it is being driven.
        LostLeaseError: inside, at the next write, if another process has taken over.
    """
    with ExitStack() as stack:
        try:
            lease = stack.enter_context(hold_lease(places.storage_url, f"{kind} {name!r}"))
        except LeaseHeldError as error:
            raise StorageError(
                f"{error}. Wait for it, end it there, or begin another one under another name. "
                f"One that is dead is taken over: at once on this machine, from another one "
                f"{LEASE_S:.0f} s after it was last heard of"
            ) from None
        yield lease


def make_folder(folder: Path) -> None:
    """A folder for what a command writes, which the user may have named with --out.

    Raises:
        StorageError: if there can be no such folder, or nothing can be written into it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(
            f"cannot write into folder {folder}: {reason}. Name another one: --out DIR"
        ) from None


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn whatever a database or a disk does into one `StorageError`."""
    try:
        yield
    except (DatabaseError, optuna.exceptions.StorageInternalError) as error:
        raise StorageError(str(error)) from error
    except sa.exc.SQLAlchemyError as error:
        raise StorageError(f"the database failed: {str(error).splitlines()[0]}") from error
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        raise StorageError(f"{place}{error.strerror or error}") from error
