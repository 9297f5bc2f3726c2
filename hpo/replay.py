"""The journey of `hpo replay`: a study once more, on a simulated clock, with other strategies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import InMemoryStorage

from hpo.curves import Curve, Timeline
from hpo.errors import SpecError, UsageError
from hpo.execution import SimulatedClock, simulate
from hpo.places import Places
from hpo.search import (
    StudySource,
    awaits_lr_range,
    n_grid_points,
    n_trials_of,
    warnings_about,
)
from hpo.seeds import derive_seed
from hpo.simulation import (
    LimitsError,
    Replayed,
    ServedCurves,
    Strategy,
    SurrogateError,
    read_table,
    recorded_timeline,
    start_seconds,
    strategy_as_json,
    trained_configs,
    write_files,
)
from hpo.spec import (
    ExperimentSpec,
    GpSpec,
    PbtSpec,
    load_spec,
    parse_recorded_spec,
    parse_spec,
    refuse_several_objectives,
)
from hpo.storage_errors import make_folder, storage_errors
from hpo.task_factory import TaskFactory
from hpo.tasks import TrialTask
from hpo.workspace import find_workspace
from storage import EpochRecord, create_study

MIN_TRIALS = 10
"""Trials that a surrogate is fitted to, at least: on fewer its error could not even be told."""
GP_PROPOSAL_S = 0.05
"""CPU seconds of a proposal of `gp` after 60 trials: 0.04 with two parameters, 0.06 with six."""
N_SEEDS = 10
FOLDER = "replay"

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to simulate; None stands for what the study itself had.

    Attributes:
        samplers: by name, as in a spec.
        schedulers: likewise.
        workers: how many, each >= 1.
        n_seeds: searches of each combination.
        n_trials: of each search.
        targets: values of the objective whose time is asked for.
    """

    samplers: Sequence[str] | None = None
    schedulers: Sequence[str] | None = None
    workers: Sequence[int] | None = None
    n_seeds: int = N_SEEDS
    n_trials: int | None = None
    targets: Sequence[float] | None = None


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What came of it.

    Attributes:
        spec: of the study, or the one that the table was searched with.
        source: what the curves come from, in words.
        start_s: seconds before the first epoch of a simulated trial.
        error: of the surrogate; None if it was not needed.
        limits_error: likewise of what it says of constraints; None also if there are none.
        targets: see `Wanted`.
        strategies: the record itself first, if there is one.
    """

    spec: ExperimentSpec
    source: str
    n_trials: int
    n_seeds: int
    start_s: float
    error: SurrogateError | None
    limits_error: LimitsError | None
    targets: tuple[float, ...]
    strategies: tuple[Strategy, ...]

    def as_json(self) -> dict[str, Any]:
        """Everything but the curves."""
        objective = self.spec.objective
        return {
            "name": self.spec.name,
            "source": self.source,
            "metric": objective.metric,
            "direction": objective.direction,
            "trials": self.n_trials,
            "seeds": self.n_seeds,
            "start_s": self.start_s,
            "surrogate_error": None if self.error is None else vars(self.error),
            "limits_error": None if self.limits_error is None else vars(self.limits_error),
            "strategies": [
                strategy_as_json(strategy, self.targets, objective.direction)
                for strategy in self.strategies
            ],
        }


@dataclass(frozen=True, kw_only=True)
class _Ground:
    """What searches are simulated on: a study's record, or a table."""

    spec_text_or_path: str | Path
    spec: ExperimentSpec
    source: str
    curves: ServedCurves
    start_s: float
    n_workers: int
    has_curves: bool
    record: Timeline | None
    target: float | None


def replay_study(name: str, places: Places, wanted: Wanted, say: Say) -> Replay:
    """Search the record of experiment ``name`` again.

    Raises:
        UsageError: if there is no such experiment, or too little of it, or the wish is unknown.
        StorageError: if the database cannot be used.
    """
    with storage_errors():
        return _replay(_study_ground(name, places), wanted, say)


def replay_table(spec_path: Path, table_path: Path, wanted: Wanted, say: Say) -> Replay:
    """Search a table of results with the spec at ``spec_path``, whose trainable is never called.

    Raises:
        SpecError: if the spec breaks a rule.
        UsageError: if the table cannot be searched, or the wish is unknown.
    """
    return _replay(_table_ground(spec_path, table_path, say), wanted, say)


def save(result: Replay, folder: Path) -> None:
    """Write page, picture and tables to ``folder``.

    Raises:
        StorageError: if they cannot be written.
    """
    with storage_errors():
        make_folder(folder)
        write_files(result.as_json(), result.strategies, result.targets, folder)


def simulated_search(
    spec: ExperimentSpec, curves: Callable[[TrialTask], Curve], n_workers: int
) -> Timeline:
    """One search as `hpo run` would do it, but for its clock; nothing of it is kept."""
    objective = spec.objective
    study = create_study(
        InMemoryStorage(), spec.name, direction=objective.direction, metric=objective.metric
    )
    nowhere = Path("/nonexistent")  # no task of it is ever executed
    tasks = TaskFactory(spec=spec, import_paths=(), folder=nowhere, data_dir=nowhere)
    clock = SimulatedClock()
    epochs = SimulatedLedger()
    source = StudySource(
        study, spec, tasks, record_epoch=epochs.put, recorded_epochs=epochs.of, clock=clock
    )
    return simulate(iter([source]), curves, n_workers, clock)


class SimulatedLedger:
    """As much of the ledger as a simulated search needs: epochs of trials that may go on."""

    def __init__(self) -> None:
        self._epochs: dict[int, list[EpochRecord]] = {}

    def put(self, record: EpochRecord) -> None:
        """Remember an epoch of a trial that keeps checkpoints; another one begins again anyway."""
        if record.checkpoint is not None:
            self._epochs.setdefault(record.trial_number, []).append(record)

    def of(self, number: int) -> list[EpochRecord]:
        """Epochs of a trial, in order."""
        return self._epochs.get(number, [])


def _study_ground(name: str, places: Places) -> _Ground:
    if name.endswith((".yaml", ".yml")):
        raise UsageError(
            f"{name} is a spec; give the name of an experiment, or a table to search: "
            f"hpo replay {name} --table results.csv"
        )
    workspace = find_workspace(name, places)
    refuse_several_objectives(workspace.spec, "hpo replay")
    spec, trials = workspace.spec, workspace.study.get_trials(deepcopy=False)
    if isinstance(spec.scheduler, PbtSpec):
        raise UsageError(
            f"{name!r} was searched with scheduler pbt, and cannot be replayed: its configs "
            "changed while they were trained, so no curve is that of one config"
        )
    epochs, metric = workspace.ledger.epochs(workspace.experiment.id), spec.objective.metric
    trained = trained_configs(trials, epochs, metric, spec.constraints)
    n_reported = sum(bool(config.values) for config in trained)
    if n_reported and all(len(config.values) < 2 for config in trained):
        raise UsageError(
            f"the trials of {name!r} reported once each, at their end: there are no learning "
            "curves to replay. Make the trainable yield its metrics after every epoch, and run it "
            "with another name"
        )
    timeline = recorded_timeline(trials, epochs, metric)
    n_candidates = sum(course.is_candidate for course in timeline.trained)
    if n_reported < MIN_TRIALS or not n_candidates:
        feasible = "COMPLETE and feasible" if spec.constraints else "COMPLETE"
        raise UsageError(
            f"a replay needs {MIN_TRIALS} trials with learning curves, one of them {feasible}; "
            f"{name!r} has {n_reported}, of which {n_candidates} {feasible}, of "
            f"{n_trials_of(spec)} planned. Go on with it: hpo run SPEC --resume, with a larger "
            "budget.n_trials if that is spent"
        )
    start_s = start_seconds(timeline)
    _, best = timeline.best_so_far(spec.objective.direction)
    return _Ground(
        spec_text_or_path=workspace.experiment.spec,
        spec=spec,
        source=f"{n_reported} recorded trials of {name}",
        curves=ServedCurves(
            trained,
            spec.search_space,
            max_epochs=spec.budget.max_epochs,
            start_s=start_s,
            seed=spec.seed,
            constraints=spec.constraints,
            keeps_checkpoints=any(one.checkpoint for trial in epochs.values() for one in trial),
        ),
        start_s=start_s,
        n_workers=spec.concurrency or timeline.n_workers,
        has_curves=True,
        record=timeline,
        target=float(best[-1]),
    )


def _table_ground(spec_path: Path, table_path: Path, say: Say) -> _Ground:
    if not spec_path.exists():
        raise UsageError(
            f"with --table, NAME is the YAML file of a spec, and there is no file {spec_path}: "
            f"hpo replay SPEC.yaml --table {table_path}"
        )
    spec = load_spec(spec_path, import_paths=None)
    refuse_several_objectives(spec, "hpo replay")
    if awaits_lr_range(spec):
        raise UsageError(f"{spec_path}: no range is found in a table; give lr `low` and `high`")
    table = read_table(table_path, spec)
    max_epochs = spec.budget.max_epochs
    if max_epochs is not None and max_epochs > table.n_epochs:
        raise UsageError(
            f"{spec_path} asks for budget.max_epochs={max_epochs}, but {table_path} holds "
            + (f"{table.n_epochs} epochs" if table.n_epochs > 1 else "final values alone")
            + "; set max_epochs to that"
        )
    if table.n_outside:
        say(f"{table_path}: {table.n_outside} rows lie outside of the search space; left out")
    if table.ignored_columns:
        say(f"{table_path}: columns without a meaning here: {', '.join(table.ignored_columns)}")
    if not table.has_seconds:
        say(f"{table_path} has no column `seconds`: every epoch is taken to last 1 s")
    return _Ground(
        spec_text_or_path=spec_path,
        spec=spec,
        source=f"{len(table.trained)} rows of {table_path.name}",
        curves=ServedCurves(
            table.trained,
            spec.search_space,
            max_epochs=max_epochs,
            start_s=0.0,
            seed=spec.seed,
            constraints=spec.constraints,
        ),
        start_s=0.0,
        n_workers=spec.concurrency or 1,
        has_curves=table.n_epochs > 1,
        record=None,
        target=None,
    )


def _replay(ground: _Ground, wanted: Wanted, say: Say) -> Replay:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spec = ground.spec
    samplers = list(dict.fromkeys(wanted.samplers or [spec.sampler.name]))
    schedulers = list(dict.fromkeys(wanted.schedulers or [spec.scheduler.name]))
    workers = list(dict.fromkeys(wanted.workers or [ground.n_workers]))
    _refuse_too_few(wanted, workers)
    specs = {
        (sampler, scheduler): _with_strategy(ground, sampler, scheduler, wanted.n_trials)
        for sampler in samplers
        for scheduler in schedulers
    }
    for warning in _warnings(specs.values(), workers, wanted.n_seeds):
        say(f"warning: {warning}")
    strategies = list(_simulated(ground, specs, workers, wanted.n_seeds, say))
    if ground.record is not None:
        strategies.insert(0, _record_of(ground))
    targets = wanted.targets or _own_targets(ground, strategies)
    is_predicted = any(s.shares()["recorded"] < 1 for s in strategies)
    if is_predicted:
        say("measuring the surrogate's error on held-out trials")
    return Replay(
        spec=spec,
        source=ground.source,
        n_trials=n_trials_of(next(iter(specs.values()))),
        n_seeds=wanted.n_seeds,
        start_s=ground.start_s,
        error=ground.curves.error if is_predicted else None,
        limits_error=ground.curves.limits_error if is_predicted else None,
        targets=tuple(dict.fromkeys(targets)),
        strategies=tuple(strategies),
    )


def _refuse_too_few(wanted: Wanted, workers: Sequence[int]) -> None:
    for option, numbers in (
        ("--workers", workers),
        ("--seeds", [wanted.n_seeds]),
        ("--trials", [1 if wanted.n_trials is None else wanted.n_trials]),
    ):
        if wrong := [number for number in numbers if number < 1]:
            raise UsageError(f"{option} must be at least 1, got {wrong[0]}")


def _with_strategy(
    ground: _Ground, sampler: str, scheduler: str, n_trials: int | None
) -> ExperimentSpec:
    """The spec with another sampler and scheduler; its own keep their settings.

    Raises:
        UsageError: if one is unknown or does not fit the study.
    """
    if scheduler == "pbt":
        raise UsageError(
            "--schedulers pbt: cannot be replayed: a config that changes while it is trained has "
            "no curve, in a record or a table. Try it with hpo run"
        )
    if scheduler != "none" and not ground.has_curves:
        raise UsageError(
            f"--schedulers {scheduler}: the table holds final values alone, so there is nothing to "
            "stop early. Give columns epoch_1, epoch_2, ... or --schedulers none"
        )
    if sampler == "grid" and ground.record is not None:
        _refuse_grid_without_points(ground.spec)
    given = {"sampler": sampler, "scheduler": scheduler}
    overrides = [
        f"{key}={name}" for key, name in given.items() if name != getattr(ground.spec, key).name
    ]
    overrides += [] if n_trials is None else [f"budget.n_trials={n_trials}"]
    text_or_path = ground.spec_text_or_path
    try:
        if isinstance(text_or_path, Path):
            return load_spec(text_or_path, overrides, import_paths=None)
        if not overrides:
            return parse_recorded_spec(text_or_path)
        return parse_spec(text_or_path, "the recorded spec", overrides, import_paths=None)
    except SpecError as error:
        problems = [_in_words_of_replay(problem, given) for problem in error.problems]
        raise UsageError("\n  ".join(["cannot be replayed:", *problems])) from None


def _refuse_grid_without_points(spec: ExperimentSpec) -> None:
    """A recorded spec cannot be changed, so the lines that `hpo run` advises are of no use."""
    continuous = [name for name, p in spec.search_space.items() if n_grid_points(p) is None]
    if continuous:
        raise UsageError(
            f"--samplers grid: {spec.name!r} was searched with {', '.join(continuous)} continuous, "
            "of which a grid has no points. Replay other samplers, or run a spec that gives them "
            "`grid` or `step`, under another name, and replay that"
        )


def _in_words_of_replay(problem: str, given: Mapping[str, str]) -> str:
    for key, name in given.items():
        problem = problem.replace(f"-o {key}={name}: {key}: ", f"--{key}s {name}: ")
    return problem


def _warnings(
    specs: Iterable[ExperimentSpec], workers: Sequence[int], n_seeds: int
) -> Iterator[str]:
    specs = list(specs)
    n_trials = n_trials_of(specs[0])
    for warning in dict.fromkeys(warning for spec in specs for warning in warnings_about(spec)):
        yield warning.replace("-o budget.n_trials=", "--trials ").replace(
            "-o sampler=", "--samplers "
        )
    n_by_gp = sum(n_trials_of(s) for s in specs if isinstance(s.sampler, GpSpec))
    if n_by_gp:
        n_proposals = n_by_gp * len(workers) * n_seeds
        yield (
            f"gp takes about {GP_PROPOSAL_S:g} s a proposal, and more the more trials there are: "
            f"{n_proposals:,} proposals take {n_proposals * GP_PROPOSAL_S:,.0f} s or more. On the "
            "simulated clock a proposal takes no time: with many workers gp would keep them waiting"
        )
    if idle := [number for number in workers if number > n_trials]:
        yield (
            f"{max(idle):,} workers have only {n_trials:,} trials to run, which all start at once; "
            f"give more, e.g. --trials {4 * max(idle)}"
        )


def _simulated(
    ground: _Ground,
    specs: Mapping[tuple[str, str], ExperimentSpec],
    workers: Sequence[int],
    n_seeds: int,
    say: Say,
) -> Iterator[Strategy]:
    for (sampler, scheduler), spec in specs.items():
        for n_workers in workers:
            searches = []
            for index in range(n_seeds):
                seed = _seed(spec.seed, index)
                start = time.perf_counter()
                timeline = simulated_search(
                    spec.model_copy(update={"seed": seed}), ground.curves, n_workers
                )
                computed_s = time.perf_counter() - start
                searches.append(Replayed(seed=seed, timeline=timeline, computed_s=computed_s))
            mean_s = sum(search.computed_s for search in searches) / n_seeds
            say(f"{sampler}/{scheduler}, {n_workers} workers: {mean_s:.2f} s per seed")
            yield Strategy(
                sampler=sampler,
                scheduler=scheduler,
                n_workers=n_workers,
                searches=tuple(searches),
            )


def _seed(study_seed: int, index: int) -> int:
    """The first one is the study's own: one trial at a time, its search is what was recorded."""
    return study_seed if index == 0 else derive_seed(study_seed, index, "replay")


def _record_of(ground: _Ground) -> Strategy:
    assert ground.record is not None
    return Strategy(
        sampler=ground.spec.sampler.name,
        scheduler=ground.spec.scheduler.name,
        n_workers=ground.record.n_workers,
        is_record=True,
        searches=(Replayed(seed=ground.spec.seed, timeline=ground.record, computed_s=0.0),),
    )


def _own_targets(ground: _Ground, strategies: Sequence[Strategy]) -> list[float]:
    """The best of the record; of a table, the median of what the first strategy finds."""
    if ground.target is not None:
        return [ground.target]
    finals = strategies[0].final_values(ground.spec.objective.direction)
    finite = sorted(value for value in finals.tolist() if value == value)
    return [finite[len(finite) // 2]] if finite else []
