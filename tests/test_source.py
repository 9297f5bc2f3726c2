"""The search as a source of tasks: what the study is told about each way a trial can end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from hpo.errors import NoSuccessfulTrialError, UnfitEnvironmentError
from hpo.search import StudySource
from hpo.spec import ExperimentSpec
from hpo.task_factory import TaskFactory
from hpo.tasks import EpochReport, TrialTask, lost
from storage import EpochRecord, create_study, is_infeasible, open_optuna_storage

MakeSource = Callable[..., StudySource]


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    """In a file, as in a run."""
    storage = open_optuna_storage(f"sqlite:///{tmp_path / 'hpo.db'}")
    return create_study(storage, "branin", direction="minimize", metric="loss")


@pytest.fixture
def recorded() -> list[EpochRecord]:
    """The epochs that the ledger would hold."""
    return []


@pytest.fixture
def source(
    study: optuna.Study,
    recorded: list[EpochRecord],
    branin: Callable[..., ExperimentSpec],
    tmp_path: Path,
) -> MakeSource:
    """A source of the branin spec; arguments are overrides."""

    def make(*overrides: str) -> StudySource:
        spec = branin(*overrides)
        tasks = TaskFactory(spec=spec, import_paths=(), folder=tmp_path, data_dir=tmp_path)
        return StudySource(study, spec, tasks, record_epoch=recorded.append)

    return make


def take(source: StudySource) -> TrialTask:
    task = source.next_task()
    assert task is not None
    return task


def report(epoch: int, loss: float, **ending: Any) -> EpochReport:
    return EpochReport(epoch=epoch, metrics={"loss": loss, "size": 1.0}, seconds=0.1, **ending)


def test_a_trial_at_full_budget_is_complete_with_its_last_value(
    source: MakeSource, study: optuna.Study, recorded: list[EpochRecord]
) -> None:
    search = source()
    task = take(search)
    search.reported(task, report(1, 0.5))
    search.ended(task, report(2, 0.7, ending="complete"))
    trial = study.trials[0]
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.7)
    assert trial.intermediate_values == {1: 0.5, 2: 0.7}
    assert [record.metrics["size"] for record in recorded] == [1.0, 1.0]


def test_a_trial_stopped_at_its_first_rung_is_pruned_with_its_value(
    source: MakeSource, study: optuna.Study
) -> None:
    search = source()
    search.ended(take(search), report(1, 0.5))
    trial = study.trials[0]
    assert (trial.state, trial.value) == (TrialState.PRUNED, 0.5)
    assert trial.intermediate_values == {1: 0.5}


def test_a_failed_trial_keeps_its_reason_and_what_it_had_reported(
    source: MakeSource, study: optuna.Study
) -> None:
    search = source()
    task = take(search)
    search.reported(task, report(1, 0.5))
    search.ended(task, report(1, 0.5, ending="failed", fail_reason="ValueError: no"))
    trial = study.trials[0]
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["fail_reason"] == "ValueError: no"
    assert trial.intermediate_values == {1: 0.5}


def test_the_budget_counts_every_trial_that_ended_or_runs(source: MakeSource) -> None:
    search = source("budget.n_trials=2")
    first = take(search)
    take(search)
    assert search.next_task() is None
    search.ended(first, lost("its worker died"))
    assert take(search).number == first.number
    assert search.next_task() is None


def test_what_runs_at_the_time_limit_goes_back_into_the_queue(
    source: MakeSource, study: optuna.Study
) -> None:
    search = source("budget.time_limit_s=0.5")
    task = take(search)
    while not search.is_over_time:
        pass
    assert search.next_task() is None
    search.ended(task, report(1, 0.5))
    assert study.trials[0].state == TrialState.WAITING


def test_what_a_dead_driver_left_running_is_handed_out_again_first(
    source: MakeSource, study: optuna.Study
) -> None:
    """Same number, same parameters, same seed; reporting an epoch again replaces its value."""
    before = source()
    lost = [take(before), take(before)]
    before.reported(lost[0], report(1, 0.5))
    after = source()
    found = [take(after), take(after)]
    assert [task.number for task in found] == [task.number for task in lost]
    assert [task.config for task in found] == [task.config for task in lost]
    after.reported(found[0], report(1, 0.25))
    assert study.trials[0].intermediate_values == {1: 0.25}
    assert len(study.trials) == 2


def test_failures_of_different_kinds_do_not_stop_the_search(source: MakeSource) -> None:
    search = source("budget.n_trials=20")
    for index in range(7):
        failure = report(0, 0.0, ending="failed", fail_place=f"ValueError line {index % 2}")
        search.ended(take(search), failure)
    assert search.next_task() is not None


def test_five_failures_of_one_kind_stop_it_unless_something_succeeded_before(
    source: MakeSource, study: optuna.Study
) -> None:
    search = source("budget.n_trials=20")
    failure = report(0, 0.0, ending="failed", fail_place="ValueError line 1")
    for _ in range(5):
        search.ended(take(search), failure)
    with pytest.raises(NoSuccessfulTrialError, match="ValueError line 1"):
        search.next_task()
    assert source("budget.n_trials=20").next_task() is not None  # mended, and started again
    study.add_trial(optuna.trial.create_trial(value=1.0))
    assert search.next_task() is not None


def test_infeasible_configs_are_recorded_as_such_and_stop_nothing(
    source: MakeSource, study: optuna.Study
) -> None:
    search = source("budget.n_trials=20")
    failure = report(
        0, 0.0, ending="failed", fail_place="no", fail_reason="no", fail_cause="infeasible"
    )
    for _ in range(6):
        search.ended(take(search), failure)
    assert search.next_task() is not None
    assert all(is_infeasible(trial) for trial in study.trials[:6])
    assert [trial.state for trial in study.trials[:6]] == [TrialState.FAIL] * 6


def test_data_that_cannot_be_used_end_the_search_and_not_the_trial(
    source: MakeSource, study: optuna.Study
) -> None:
    search = source()
    missing = report(0, 0.0, ending="failed", fail_reason="there is no folder", is_unfit=True)
    with pytest.raises(UnfitEnvironmentError, match="there is no folder"):
        search.ended(take(search), missing)
    assert [trial.state for trial in study.trials] == [TrialState.WAITING]


def test_what_is_known_before_training_is_an_attribute_of_the_trial(
    source: MakeSource, study: optuna.Study
) -> None:
    search = source()
    search.reported(take(search), report(1, 0.5, facts={"parameters": 1792.0}))
    assert study.trials[0].user_attrs["parameters"] == 1792


def test_gpu_and_threads_follow_the_resources(source: MakeSource) -> None:
    task = take(source("resources={cpu: 4, gpu: 0.5}"))
    assert (task.context.device, task.context.threads) == ("cuda", 4)
    task = take(source("resources={cpu: 0.5}"))
    assert (task.context.device, task.context.threads) == ("cpu", 1)
