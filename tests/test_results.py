"""From trials to a winner: who is re-run, who wins, and how sure the test accuracy is."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.errors import ExportMismatchError
from hpo.results import (
    Finalist,
    Outcome,
    accuracy_interval,
    choose_finalists,
    export_model,
    rerun_tasks,
)
from hpo.spec import ExperimentSpec
from hpo.tasks import TaskFactory
from storage import ExperimentRecord, RerunRecord
from trainables import FinalModel, pack

MakeSpec = Callable[..., ExperimentSpec]


def trials_with(*values: float | None, xs: tuple[float, ...] | None = None) -> list[FrozenTrial]:
    """COMPLETE trials of these values; None stands for a failed one."""
    study = optuna.create_study()
    for index, value in enumerate(values):
        study.add_trial(
            create_trial(
                state=TrialState.FAIL if value is None else TrialState.COMPLETE,
                value=value,
                params={"x": float(index) if xs is None else xs[index]},
                distributions={"x": FloatDistribution(0, 100)},
            )
        )
    return study.trials


def finalist(*values: float | None, n_seeds: int = 3) -> Finalist:
    reruns = tuple(
        RerunRecord(
            trial_number=0,
            seed_index=index,
            seed=index,
            value=value,
            fail_reason=None if value is not None else "it failed",
            seconds=1.0,
            finished_at=dt.datetime(2026, 1, 1),
        )
        for index, value in enumerate(values)
    )
    return Finalist(number=0, params={}, search_value=1.0, reruns=reruns, n_seeds=n_seeds)


def test_finalists_are_the_best_complete_trials_in_the_direction(branin: MakeSpec) -> None:
    trials = trials_with(3.0, None, 1.0, 2.0, 4.0)
    assert [trial.number for trial in choose_finalists(trials, branin())] == [2, 3, 0]
    maximized = branin("objective={metric: loss, direction: maximize}", "finalists.k=2")
    assert [trial.number for trial in choose_finalists(trials, maximized)] == [4, 0]


def test_a_config_is_a_finalist_once(branin: MakeSpec) -> None:
    trials = trials_with(1.0, 2.0, 3.0, xs=(5.0, 5.0, 6.0))
    assert [trial.number for trial in choose_finalists(trials, branin())] == [0, 2]


def test_a_rerun_that_a_former_finalist_of_the_same_config_has_had_is_not_paid_again(
    branin: MakeSpec, tmp_path: Path
) -> None:
    """Trial 2 has the params of trial 0, and a better value by luck."""
    spec = branin("finalists={k: 2, n_seeds: 2}")
    tasks = TaskFactory(spec=spec, import_paths=(), folder=tmp_path, data_dir=tmp_path)
    had = finalist(0.25, None).reruns  # of trial 0; its second one failed
    trials = trials_with(3.0, 2.0, 1.0, xs=(5.0, 6.0, 5.0))
    experiment = ExperimentRecord(
        id="id",
        name="branin",
        spec="",
        created_at=dt.datetime(2026, 1, 1),
        versions={},
        git_commit=None,
        data_fingerprint=None,
    )
    finalists = [
        Finalist(number=n, params=trials[n].params, search_value=1.0, reruns=(), n_seeds=2)
        for n in (2, 1)
    ]
    outcome = Outcome(
        experiment=experiment,
        spec=spec,
        trials=trials,
        epochs={},
        finalists=tuple(finalists),
        test_readings=(),
        exports=(),
        reruns=had,
    )
    recorded: list[RerunRecord] = []
    said: list[str] = []
    source = rerun_tasks(outcome, tasks, recorded.append, said.append)
    asked = []
    while task := source.next_task():
        asked.append((task.number, task.seed_index))
    assert asked == [(1, 0), (1, 1), (2, 1)]
    assert [(r.trial_number, r.seed_index, r.value, r.seconds) for r in recorded] == [
        (2, 0, 0.25, 0.0)
    ]
    assert said == ["re-run of trial 2, seed 1: loss=0.2500 as trial 0, not trained again"]


def test_the_mean_of_the_reruns_counts_and_not_the_search_value() -> None:
    assert finalist(0.2, 0.4, 0.6).mean == pytest.approx(0.4)
    assert finalist(0.2, 0.4, 0.6).standard_error == pytest.approx(0.2 / 3**0.5)


def test_a_config_that_fails_on_one_seed_has_no_mean() -> None:
    assert finalist(0.2, None, 0.6).mean is None
    assert finalist(0.2, 0.4).mean is None  # the third is still missing


def test_the_interval_of_an_accuracy_is_wilsons() -> None:
    """R: prop.test(81, 263, correct = FALSE) gives 0.2553 to 0.3662 (Newcombe 1998, table I)."""
    low, high = accuracy_interval(81, 263)
    assert (low, high) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_accuracy_and_stays_within_0_and_1(counts: tuple[int, int]) -> None:
    n_correct, n_test = counts
    low, high = accuracy_interval(n_correct, n_test)
    assert 0 <= low <= n_correct / n_test + 1e-12
    assert n_correct / n_test - 1e-12 <= high <= 1
    assert low < high


class Noisy(torch.nn.Module):
    """A model that computes something else each time it is asked."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.rand(images.shape[0], 2)


def test_an_export_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    model = FinalModel(
        predictor=Noisy(),
        class_names=("a", "b"),
        n_correct=1,
        n_test=2,
        test_images=torch.zeros(4, 1, 8, 8, dtype=torch.uint8),
        test_labels=torch.zeros(4, dtype=torch.int64),
    )
    with pytest.raises(ExportMismatchError, match="more than 1e-05"):
        export_model(pack(model), 0, tmp_path)
    assert not (tmp_path / "standalone_model.pt").exists()
