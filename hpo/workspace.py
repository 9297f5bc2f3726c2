"""Lay out an experiment for work: its record, its study and its folder."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import Study

from hpo.errors import UsageError
from hpo.failpoints import failpoint
from hpo.places import Places
from hpo.provenance import git_commit, versions
from hpo.results import Outcome, read_outcome
from hpo.search import narrowed, opening_of, record_opening, recorded_opening, warm_params
from hpo.spec import ExperimentSpec, parse_recorded_spec, parse_spec, spec_to_yaml
from hpo.storage_errors import storage_errors
from hpo.task_factory import TaskFactory
from storage import (
    ComparisonLedger,
    ExperimentRecord,
    Ledger,
    LrRangeRecord,
    create_pareto_study,
    database_exists,
    open_engine,
    open_optuna_storage,
    record_checkpoint_place,
    recorded_checkpoint_place,
    shown_url,
    study_exists,
)
from trainables import remove_tree

IMPORTS_FILE = "imports.txt"
"""In a run's folder: where its trainable was looked for, one folder a line, for `hpo resume`."""


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
    workspace = laid_out(parse_recorded_spec(experiment.spec), places, experiment, ledger)
    if recorded_opening(workspace.study) is None:
        opening = opening_of(workspace.spec, warm_params_of(workspace.spec, places))
        record_opening(workspace.study, opening)
        failpoint("opening decided")
    if (uri := workspace.places.checkpoint_uri) is not None:
        record_checkpoint_place(workspace.study, uri)
    workspace.folder.mkdir(parents=True, exist_ok=True)
    workspace.tasks.make_home()
    write_spec(workspace)
    failpoint("spec written")
    return workspace


def _remove(experiment: ExperimentRecord, ledger: Ledger, places: Places) -> None:
    """Remove an experiment none of whose trials has ended.

    The study goes before the record: cut off in between, the experiment can still be begun anew.
    Its trials' folders go first: a trainable would take what lies there for its own checkpoint.
    """
    storage = open_optuna_storage(places.storage_url)
    folder = places.run_folder(experiment.name)
    remove_tree(folder / "trials")
    places = remembered_places(experiment.name, places)
    if (checkpoints := places.checkpoints_of(folder, experiment.id)) is not None:
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
    return opening_of(spec, warm_params_of(spec, places))


def warm_params_of(spec: ExperimentSpec, places: Places) -> list[dict[str, Any]]:
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
    return laid_out(parse_recorded_spec(experiment.spec), places, experiment, ledger)


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


def remembered_places(name: str, places: Places) -> Places:
    """``places`` with that of checkpoints that an experiment was begun with, if there is one."""
    storage = open_optuna_storage(places.storage_url)
    if not study_exists(storage, name):
        return places
    study = optuna.load_study(study_name=name, storage=storage)
    return places.with_checkpoints(recorded_checkpoint_place(study))


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


def laid_out(
    spec: ExperimentSpec, places: Places, experiment: ExperimentRecord, ledger: Ledger
) -> Workspace:
    study = study_of(spec, open_optuna_storage(places.storage_url))
    places = places.with_checkpoints(recorded_checkpoint_place(study))
    return Workspace(
        spec=spec,
        places=places,
        experiment=experiment,
        study=study,
        ledger=ledger,
        tasks=task_factory(spec, places, experiment.id),
    )


def task_factory(spec: ExperimentSpec, places: Places, record_id: str = "") -> TaskFactory:
    """What makes the tasks of an experiment; ``record_id`` is empty as long as there is none."""
    folder = places.run_folder(spec.name)
    return TaskFactory(
        spec=spec,
        import_paths=places.imports,
        folder=folder,
        data_dir=places.data,
        checkpoints=places.checkpoints_of(folder, record_id),
    )


def study_of(spec: ExperimentSpec, storage: BaseStorage) -> Study:
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


def finished(workspace: Workspace) -> Workspace:
    """The workspace of an experiment that is over; recording that is the caller's last step."""
    return replace(workspace, experiment=replace(workspace.recorded(), finished_at=now()))


def now() -> dt.datetime:
    """The present, as a naive time in UTC."""
    return dt.datetime.now(dt.UTC).replace(tzinfo=None)
