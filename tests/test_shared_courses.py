"""What one study of a comparison has trained answers the others, and changes no study's result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import cycle, repeat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.study import Study
from test_compare import run_on

from hpo.search import ManyStudies, SharedCourses, StudySource, recorded_course
from hpo.spec import ExperimentSpec, parse_spec
from hpo.task_factory import TaskFactory
from hpo.tasks import TrialTask
from storage import EpochRecord, create_study, is_infeasible

STEPS = """
def constraints(config, trial):
    return {"size": config["x"] * 10}

def train(config, trial):
    for epoch in range(1, trial.max_epochs + 1):
        yield {"loss": config["x"] + trial.seed % 100 / 1000 + 1 / epoch, "width": config["x"]}

train.constraints = constraints

def diverges(config, trial):
    for epoch in range(1, trial.max_epochs + 1):
        yield {"loss": float("nan") if config["x"] == 2 and epoch == 3 else config["x"] / epoch}

def ends_early(config, trial):
    yield {"loss": config["x"] + 1}
    yield {"loss": config["x"]}
"""
SPEC = """
name: steps
trainable: shared_steps:train
objective: {metric: loss, direction: minimize}
search_space: {x: {type: int, low: 1, high: 3}}
trial_seed: common
constraints: {width: {max: 2}}
budget: {n_trials: 8, max_epochs: 4}
"""
SAMPLERS = ("random", "sobol", "grid", "{name: tpe, n_startup_trials: 2}")


@dataclass
class Bench:
    """The studies of some samplers on one seed, and what is written of them."""

    folder: Path
    overrides: tuple[str, ...] = ()
    samplers: tuple[str, ...] = SAMPLERS
    studies: list[Study] = field(default_factory=list)
    epochs: dict[tuple[int, int], dict[int, EpochRecord]] = field(default_factory=dict)
    """Of each (study, trial)."""
    trained: list[TrialTask] = field(default_factory=list)
    worked_s: float = 0.0

    def __post_init__(self) -> None:
        (self.folder / "shared_steps.py").write_text(STEPS)
        self.studies = [self._study(sampler) for sampler in self.samplers]

    def _study(self, sampler: str) -> Study:
        return create_study(_memory(), sampler, direction="minimize", metric="loss")

    def spec(self, index: int) -> ExperimentSpec:
        overrides = [f"sampler={self.samplers[index]}", *self.overrides]
        return parse_spec(SPEC, "steps.yaml", overrides, [self.folder])

    def tasks(self, index: int) -> TaskFactory:
        tasks = TaskFactory(
            spec=self.spec(index),
            import_paths=(self.folder,),
            folder=self.folder / str(index),
            data_dir=self.folder,
        )
        tasks.make_home()
        return tasks

    def source(self, index: int) -> StudySource:
        def record(epoch: EpochRecord) -> None:
            self.epochs.setdefault((index, epoch.trial_number), {})[epoch.epoch] = epoch

        return StudySource(
            self.studies[index], self.spec(index), self.tasks(index), record_epoch=record
        )

    def stage(self, *indices: int, courses: SharedCourses | None = None) -> ManyStudies:
        """Some of the studies, or all, side by side."""
        bench = self

        class Logged(ManyStudies):
            def next_task(self) -> TrialTask | None:
                task = super().next_task()
                bench.trained += [] if task is None else [task]
                return task

        def worked(seconds: float) -> None:
            self.worked_s += seconds

        chosen = indices or range(len(self.samplers))
        return Logged([self.source(index) for index in chosen], courses, worked)

    def courses(self) -> SharedCourses:
        """As a resumed comparison finds them in its ledger."""
        courses = SharedCourses()
        for index, study in enumerate(self.studies):
            for trial in study.trials:
                epochs = list(self.epochs.get((index, trial.number), {}).values())
                identity = self.tasks(index).trial(trial.number, trial.params).identity
                courses.remember(identity, recorded_course(trial, epochs, 4))
        return courses

    @property
    def result(self) -> list[Any]:
        """All that must not depend on who trained what."""
        return [
            [(t.state, t.params, t.values, t.intermediate_values, t.user_attrs, t.system_attrs,
              [(e.epoch, e.metrics) for e in self.epochs.get((index, t.number), {}).values()])
             for t in study.trials]
            for index, study in enumerate(self.studies)
        ]  # fmt: skip


def _memory() -> Any:
    from optuna.storages import InMemoryStorage

    return InMemoryStorage()


def alone(folder: Path, *overrides: str) -> Bench:
    """Each study by itself, one after the other, as if there were no others."""
    folder.mkdir()
    bench = Bench(folder, overrides)
    for index in range(len(bench.samplers)):
        run_on(bench.stage(index), repeat(1), 1)
    return bench


def times_trained(tasks: list[TrialTask]) -> Mapping[str, int]:
    return Counter(task.identity for task in tasks)


SCHEDULERS = (
    "scheduler=none",
    "scheduler={name: asha, reduction_factor: 2}",
    "scheduler={name: median, min_trials: 2}",
    "scheduler={name: one_epoch_top_k, k: 2}",
)


def test_every_config_is_trained_once_for_all_samplers(tmp_path: Path) -> None:
    """Three configs and a common seed: the grid trains them, or whoever comes first."""
    bench = Bench(tmp_path)
    run_on(bench.stage(), repeat(1), 2)
    assert sorted(times_trained(bench.trained).values()) == [1, 1, 1]
    assert {len(study.trials) for study in bench.studies} == {3, 8}


@pytest.mark.parametrize("function", ["train", "ends_early"])
def test_an_answer_costs_its_study_what_training_would_have_cost(
    function: str, tmp_path: Path
) -> None:
    """But the workers, nothing: they were busy as long as something was trained."""
    bench = Bench(tmp_path, (f"trainable=shared_steps:{function}", "constraints={}"))
    run_on(bench.stage(), repeat(1), 1)
    by_config: dict[int, set[float]] = {}
    for (index, number), epochs in bench.epochs.items():
        if "answered_by" not in bench.studies[index].trials[number].user_attrs:
            seconds = sum(epoch.seconds for epoch in epochs.values())
            by_config.setdefault(bench.studies[index].trials[number].params["x"], set()).add(
                seconds
            )
    assert [len(seconds) for seconds in by_config.values()] == [1, 1, 1]
    total = sum(seconds for (paid,) in map(sorted, by_config.values()) for seconds in [paid])
    assert bench.worked_s == pytest.approx(total)


@pytest.mark.parametrize("seeds", ["common", "per_trial"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@settings(deadline=None, max_examples=6)
@given(turns=st.lists(st.integers(0, 99), min_size=1), n_workers=st.integers(1, 4))
def test_no_study_can_tell_whether_it_was_answered(
    scheduler: str,
    seeds: str,
    turns: list[int],
    n_workers: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Whatever the workers do, each comes to what it would have come to alone."""
    overrides = (scheduler, f"trial_seed={seeds}")
    folder = tmp_path_factory.mktemp("bench")
    together = Bench(folder, overrides)
    run_on(together.stage(), cycle(turns), n_workers)
    by_itself = alone(folder / "alone", *overrides)
    assert together.result == by_itself.result
    assert len(together.trained) < len(by_itself.trained)
    for study in together.studies:
        states = {trial.state.name for trial in study.trials}
        assert {"COMPLETE"} <= states <= {"COMPLETE", "PRUNED"}


@pytest.mark.parametrize("function", ["diverges", "ends_early"])
def test_an_answer_ends_as_a_training_does(function: str, tmp_path: Path) -> None:
    """A failure is met by each study itself; a trainable that ends by itself is COMPLETE."""
    overrides = (f"trainable=shared_steps:{function}", "constraints={}", SCHEDULERS[1])
    together = Bench(tmp_path, overrides)
    run_on(together.stage(), repeat(1), 2)
    by_itself = alone(tmp_path / "alone", *overrides)

    def outline(bench: Bench) -> list[Any]:
        return [
            [(t.state, t.params, t.values, t.intermediate_values) for t in study.trials]
            for study in bench.studies
        ]

    assert outline(together) == outline(by_itself)
    assert len(together.trained) < len(by_itself.trained)


def test_a_later_start_judges_what_an_earlier_one_has_trained_as_that_did(tmp_path: Path) -> None:
    """A trainable that ends by itself was judged after its last epoch, too."""
    overrides = ("trainable=shared_steps:ends_early", "constraints={}", SCHEDULERS[1])
    bench = Bench(tmp_path, overrides, samplers=("grid", *SAMPLERS))
    run_on(bench.stage(0), repeat(1), 1)
    run_on(bench.stage(1, 2, 3, 4, courses=bench.courses()), repeat(1), 2)
    assert bench.result[1:] == alone(tmp_path / "alone", *overrides).result


@pytest.mark.parametrize("function", ["train", "ends_early"])
def test_a_later_start_trains_nothing_that_an_earlier_one_has_trained(
    function: str, tmp_path: Path
) -> None:
    """The first study ran alone; the others are answered from its record, facts included."""
    overrides = (f"trainable=shared_steps:{function}",)
    overrides += () if function == "train" else ("constraints={}",)
    bench = Bench(tmp_path, overrides, samplers=("grid", *SAMPLERS))
    run_on(bench.stage(0), repeat(1), 1)
    assert len(bench.trained) == 3
    run_on(bench.stage(1, 2, 3, 4, courses=bench.courses()), repeat(1), 2)
    assert len(bench.trained) == 3
    assert bench.result[1:] == alone(tmp_path / "alone", *overrides).result
    if function == "train":
        wide = [trial for trial in bench.studies[1].trials if trial.params["x"] == 3]
        assert wide
        assert all(is_infeasible(trial) for trial in wide)
        assert wide[0].user_attrs["size"] == 30


def test_a_study_that_waits_for_another_ones_training_keeps_no_worker(tmp_path: Path) -> None:
    """Two studies that ask for the same: the second worker gets a trial of the third."""
    bench = Bench(tmp_path, ("trial_seed=per_trial",), samplers=("random", "random", "grid"))
    stage = bench.stage()
    first, second = stage.next_task(), stage.next_task()
    assert first is not None
    assert second is not None
    owners = [task.context.folder.relative_to(tmp_path).parts[0] for task in (first, second)]
    assert owners == ["0", "2"]
    assert stage.next_task() is None
