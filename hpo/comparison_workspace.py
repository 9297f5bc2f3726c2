"""Lay out a comparison for work: check what is asked for, find or begin its record and studies."""

from __future__ import annotations

import difflib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import get_args

import optuna
from optuna.study import Study

from hpo.comparison import Comparison, StudyRun, study_run
from hpo.errors import SpecError, UsageError
from hpo.places import Places
from hpo.provenance import changed_code, git_commit, shown_versions, versions
from hpo.search import awaits_lr_range, chosen_samplers, n_trials_of, opening_of, surprises_of
from hpo.seeds import derive_seed
from hpo.spec import (
    ExperimentSpec,
    SamplerSpec,
    differences,
    load_spec,
    parse_recorded_spec,
    refuse_population,
    refuse_several_objectives,
    spec_to_yaml,
)
from hpo.task_factory import TaskFactory
from hpo.workspace import now
from storage import (
    ComparisonLedger,
    ComparisonRecord,
    StudyKey,
    count_states,
    create_study,
    database_exists,
    open_engine,
    open_optuna_storage,
    record_checkpoint_place,
    recorded_checkpoint_place,
    shown_url,
    study_exists,
)
from trainables import LR, trainable_sources

DEFAULT_SAMPLERS = ("grid", "random", "tpe", "gp")
N_RERUNS = 3
"""Of each study's best config: a tenth of the work of 30 trials, and enough to see a standard error
go down by 40 %."""

LAWFUL_CHANGES = ("resources.", "concurrency")
"""What may differ when a comparison goes on. Neither trials nor seeds: whoever adds some after a
look at the p-values will find what is not there."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is asked for: one spec for each sampler, equal but for it.

    Attributes:
        spec: as it was given.
        samplers: name -> the spec with that sampler; in the order of the table.
        n_seeds: studies of each.
        notes: what a reader should know.
    """

    spec: ExperimentSpec
    samplers: Mapping[str, ExperimentSpec]
    n_seeds: int
    notes: tuple[str, ...]

    @property
    def n_trials(self) -> int:
        """Budget of a study; a small grid has fewer."""
        return self.spec.budget.n_trials

    @property
    def keys(self) -> list[StudyKey]:
        """Every study, those of one seed side by side."""
        return [(sampler, index) for index in range(self.n_seeds) for sampler in self.samplers]

    def study_spec(self, key: StudyKey) -> ExperimentSpec:
        """Of one study. Its seed is that of all studies with its index, so they are paired."""
        sampler, index = key
        spec = self.samplers[sampler]
        return spec.model_copy(update={"seed": derive_seed(spec.seed, index, "compare")})

    def n_trials_of(self, key: StudyKey) -> int:
        """Of one study."""
        return n_trials_of(self.samplers[key[0]])


def plan_comparison(
    spec_path: Path,
    overrides: Sequence[str],
    places: Places,
    samplers: str | None,
    n_seeds: int,
    n_trials: int | None,
) -> Plan:
    """Read the spec once for each sampler.

    Args:
        spec_path: of the YAML file.
        overrides: of its values.
        places: where to look for the trainable.
        samplers: names with commas between; None for the default ones that the space allows.
        n_seeds: studies of each.
        n_trials: of a study; None for the spec's budget.

    Raises:
        SpecError: if the spec breaks the rules, by itself or with one of the samplers.
        UsageError: if a sampler is unknown or named twice, or ``auto`` is one of the others, or
            there are fewer than two.
    """
    overrides = [*overrides, *([] if n_trials is None else [f"budget.n_trials={n_trials}"])]
    spec = _load(spec_path, overrides, places)
    refuse_several_objectives(spec, "hpo compare")
    refuse_population(
        spec,
        "hpo compare",
        "it compares samplers by what they propose knowing what came of it, and of a population "
        "all is drawn before the first result",
    )
    if awaits_lr_range(spec):
        raise UsageError(
            f"search_space.{LR}: its range is found by `hpo run` before a search, and a comparison "
            f"needs one that all share. Find it with `hpo lr-find {spec_path}` and give "
            f"`low` and `high`"
        )
    names, notes = parse_samplers(samplers), []
    by_name: dict[str, ExperimentSpec] = {}
    for name in names:
        if name == spec.sampler.name:  # with the options that the spec gives it
            by_name[name] = spec
            continue
        try:
            by_name[name] = _load(spec_path, [*overrides, f"sampler={name}"], places)
        except SpecError as error:
            if name != "grid" or samplers is not None:
                raise
            notes.append(f"no grid: {error.problems[0].split(': ', 1)[-1]}")
    if spec.warm_start:
        notes.append("warm_start is left out: no study begins with what others have found")
    notes += _choice_of_auto(by_name)
    surprises = [surprise.what for one in by_name.values() for surprise in surprises_of(one)]
    notes += dict.fromkeys(surprises)  # what they share is said once
    if "grid" in by_name and (cells := n_trials_of(by_name["grid"])) < spec.budget.n_trials:
        notes.append(f"the grid has {cells} cells, fewer than {spec.budget.n_trials} trials")
    return Plan(spec=spec, samplers=by_name, n_seeds=n_seeds, notes=tuple(notes))


def _choice_of_auto(by_name: Mapping[str, ExperimentSpec]) -> list[str]:
    """Which sampler ``auto`` stands for, as a note; none if it takes no part.

    Raises:
        UsageError: if that one takes part itself, with the same options.
    """
    if "auto" not in by_name:
        return []
    chosen = {name: _proposing(spec) for name, spec in by_name.items()}
    kinds = " and ".join(dict.fromkeys(sampler.name for sampler in chosen["auto"]))
    for name, proposing in chosen.items():
        if name != "auto" and proposing == chosen["auto"]:
            raise UsageError(
                f"--samplers: auto is {name} here, with the same options, so both would ask for "
                f"the same trials. Leave out auto or {name}"
            )
    return [f"auto is {kinds} here"]


def _proposing(spec: ExperimentSpec) -> list[SamplerSpec]:
    return chosen_samplers(spec, n_trials_of(spec), len(opening_of(spec)))


def parse_samplers(text: str | None) -> list[str]:
    """The names in a list with commas.

    Raises:
        UsageError: if one is unknown or stands there twice, or there are fewer than two.
    """
    if text is None:
        return list(DEFAULT_SAMPLERS)
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = known_samplers()
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}? " if close else ". "
            raise UsageError(
                f"--samplers: unknown sampler {name!r}{hint}Known: {', '.join(sorted(known))}"
            )
    if repeated := [name for index, name in enumerate(names) if name in names[:index]]:
        raise UsageError(
            f"--samplers: {repeated[0]!r} is repeated; a sampler is compared with others"
        )
    if len(names) < 2:
        raise UsageError(f"--samplers: needs at least two to compare, got {text!r}")
    return names


def known_samplers() -> list[str]:
    """Every name that a spec's ``sampler`` may have."""
    kinds = get_args(get_args(SamplerSpec)[0])
    return [str(get_args(kind.model_fields["name"].annotation)[0]) for kind in kinds]


def _load(path: Path, overrides: Sequence[str], places: Places) -> ExperimentSpec:
    """Without a limit of time: the budget that is equal is one of trials."""
    spec = load_spec(path, overrides, places.imports)
    return spec.model_copy(update={"budget": spec.budget.model_copy(update={"time_limit_s": None})})


@dataclass(frozen=True)
class ComparisonWorkspace:
    """One comparison laid out for work: its plan, its record, its studies."""

    plan: Plan
    places: Places
    record: ComparisonRecord
    ledger: ComparisonLedger
    studies: Mapping[StudyKey, Study]

    @property
    def data_study(self) -> Study:
        """The one whose first trial names the data of all."""
        return next(iter(self.studies.values()))

    def tasks(self, key: StudyKey) -> TaskFactory:
        """Those of one study, in a folder of its own."""
        sampler, index = key
        folder = comparison_folder(self.places, self.plan.spec.name)
        folder = folder / "studies" / f"{sampler}-{index:02d}"
        return TaskFactory(
            spec=self.plan.study_spec(key),
            import_paths=self.places.imports,
            folder=folder,
            data_dir=self.places.data,
            checkpoints=self.places.checkpoints_of(folder, self.record.id),
        )

    def comparison(self) -> Comparison:
        """What it has come to, read from the ledger."""
        plan, record = self.plan, self.ledger.find(self.plan.spec.name) or self.record
        return Comparison(
            name=plan.spec.name,
            spec=record.spec,
            trainable=plan.spec.trainable,
            metric=plan.spec.objective.metric,
            maximize=self.maximize,
            seed=plan.spec.seed,
            samplers=tuple(plan.samplers),
            n_seeds=plan.n_seeds,
            n_trials=plan.n_trials,
            n_reruns=N_RERUNS,
            runs=tuple(self._runs()),
            notes=plan.notes,
            wall_s=record.wall_s,
            utilization=record.busy_s / record.capacity_s if record.capacity_s else None,
            provenance={
                **shown_versions(record.versions),
                "git commit": record.git_commit,
                "data fingerprint": record.data_fingerprint,
            },
        )

    @cached_property
    def maximize(self) -> bool:
        """Whether a higher value is better."""
        return self.plan.spec.objective.direction == "maximize"

    def _runs(self) -> Iterator[StudyRun]:
        ledger, record = self.ledger, self.record
        epochs, reruns = ledger.epochs(record.id), ledger.reruns(record.id)
        proposals = ledger.proposals(record.id)
        for key, study in self.studies.items():
            yield study_run(
                trials=study.get_trials(deepcopy=False),
                epochs=epochs.get(key, {}),
                sampler_s=proposals.get(key, {}),
                reruns=reruns.get(key, ()),
                maximize=self.maximize,
                sampler=key[0],
                seed_index=key[1],
                seed=self.plan.study_spec(key).seed,
                study_name=study.study_name,
                n_planned=self.plan.n_trials,
                n_reruns=N_RERUNS,
            )


def comparison_folder(places: Places, name: str) -> Path:
    """Everything that belongs to one comparison and is no row of a database.

    Within the folder of that name: beside it, an experiment could be called the same.
    """
    return places.run_folder(name) / "compare"


def study_name(name: str, key: StudyKey) -> str:
    """Of one of a comparison's studies, as optuna-dashboard shows it."""
    sampler, index = key
    return f"{name}/compare/{sampler}/{index}"


def find_comparison(plan: Plan, places: Places, *, resume: bool) -> ComparisonRecord | None:
    """The record of a comparison that goes on, None for a new one; changes nothing.

    Raises:
        UsageError: if it exists and shall not be resumed, or is another one, or if it does not
            exist and shall be resumed.
        DatabaseError: if the database cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    name, url = plan.spec.name, places.storage_url
    ledger = ComparisonLedger(open_engine(url)) if not resume or database_exists(url) else None
    recorded = ledger.find(name) if ledger else None
    if recorded is None:
        if resume:
            known = ", ".join(ledger.names() if ledger else []) or "none"
            raise UsageError(
                f"nothing to resume: there is no comparison {name!r} in {shown_url(url)}. "
                f"Known: {known}. Without --resume it is begun"
            )
        return None
    _refuse_another(recorded, plan, places)
    if not resume:
        storage = open_optuna_storage(url)
        names = [study_name(name, key) for key in plan.keys]
        n = sum(
            count_states(optuna.load_study(study_name=study, storage=storage)).total()
            for study in names
            if study_exists(storage, study)
        )
        total = sum(plan.n_trials_of(key) for key in plan.keys)
        raise UsageError(
            f"comparison {name!r} exists: {n} of {total} trials are finished. "
            f"Go on with --resume, or begin another: -o name={name}-2"
        )
    return replace(recorded, spec=spec_to_yaml(plan.spec))


def _refuse_another(recorded: ComparisonRecord, plan: Plan, places: Places) -> None:
    """Raise if the plan, or the code of its trainable, is not that of the record."""
    before = parse_recorded_spec(recorded.spec)
    changed = [
        difference
        for difference in differences(before, plan.spec)
        if not difference.startswith(LAWFUL_CHANGES)
    ]
    for option, was, given in (
        ("--samplers", ",".join(recorded.samplers), ",".join(plan.samplers)),
        ("--seeds", recorded.n_seeds, plan.n_seeds),
    ):
        if was != given:
            changed.append(f"{option}: {was} -> {given}")
    if recorded.finished_at is None:
        code = trainable_sources(plan.spec.trainable, places.imports)
        changed += [f"code {change}" for change in changed_code(recorded.versions, code)]
    if changed:
        raise UsageError(
            "\n  ".join(
                [
                    f"comparison {recorded.name!r} exists and is another one (recorded -> given):",
                    *changed,
                    "What is compared is fixed before the first look at it. "
                    f"Begin another one: -o name={recorded.name}-2",
                ]
            )
        )


def open_comparison(
    plan: Plan, places: Places, recorded: ComparisonRecord | None
) -> ComparisonWorkspace:
    """Begin a comparison, or go on with a recorded one.

    Raises:
        DatabaseError: if the database cannot be opened.
    """
    ledger = ComparisonLedger(open_engine(places.storage_url))
    record = recorded or ComparisonRecord(
        id=uuid.uuid4().hex,
        name=plan.spec.name,
        spec=spec_to_yaml(plan.spec),
        samplers=list(plan.samplers),
        n_seeds=plan.n_seeds,
        created_at=now(),
        versions=versions(plan.spec.trainable, places.imports),
        git_commit=git_commit(places.runs.parent),
    )
    ledger.put(record)
    storage = open_optuna_storage(places.storage_url)
    existing = set(optuna.get_all_study_names(storage))
    objective, studies = plan.spec.objective, {}
    for key in plan.keys:
        name = study_name(plan.spec.name, key)
        studies[key] = (
            optuna.load_study(study_name=name, storage=storage)
            if name in existing
            else create_study(storage, name, direction=objective.direction, metric=objective.metric)
        )
    first = studies[plan.keys[0]]
    places = places.with_checkpoints(recorded_checkpoint_place(first))
    if (uri := places.checkpoint_uri) is not None:
        record_checkpoint_place(first, uri)
    workspace = ComparisonWorkspace(plan, places, record, ledger, studies)
    for key in plan.keys:
        workspace.tasks(key).make_home()
    return workspace
