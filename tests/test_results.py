"""From trials to a winner: who is re-run, who wins, and how sure the test accuracy is."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

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
    confirmation_tasks,
    export_model,
    rerun_tasks,
    wanted_reruns,
)
from hpo.spec import ExperimentSpec
from hpo.task_factory import TaskFactory
from hpo.tasks import EpochReport, SideBySide, TaskList
from storage import ExperimentRecord, RerunRecord, record_finalists, recorded_finalists
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


def records(values: Sequence[float | None], number: int = 0) -> tuple[RerunRecord, ...]:
    """Re-runs of a trial, one seed after the other; None stands for one that failed."""
    return tuple(
        RerunRecord(
            trial_number=number,
            seed_index=index,
            seed=index,
            value=value,
            fail_reason=None if value is not None else "it failed",
            seconds=1.0,
            finished_at=dt.datetime(2026, 1, 1),
        )
        for index, value in enumerate(values)
    )


def finalist(*values: float | None, number: int = 0, n_seeds: int = 3) -> Finalist:
    return Finalist(
        number=number,
        params={"x": float(number)},
        search_value=1.0,
        reruns=records(values, number),
        n_seeds=n_seeds,
    )


def outcome_with(spec: ExperimentSpec, *finalists: Finalist, **given: Any) -> Outcome:
    """An experiment with these finalists, the best first."""
    experiment = ExperimentRecord(
        id="id",
        name="branin",
        spec="",
        created_at=dt.datetime(2026, 1, 1),
        versions={},
        git_commit=None,
        data_fingerprint=None,
    )
    known: dict[str, Any] = {
        "experiment": experiment,
        "spec": spec,
        "trials": (),
        "epochs": {},
        "finalists": finalists,
        "test_readings": (),
        "exports": (),
        "sampler": "random",
        "sampler_note": "",
    }
    return Outcome(**(known | given))


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
    finalists = [
        Finalist(number=n, params=trials[n].params, search_value=1.0, reruns=(), n_seeds=2)
        for n in (2, 1)
    ]
    outcome = outcome_with(spec, *finalists, trials=trials, reruns=had)
    recorded: list[RerunRecord] = []
    said: list[str] = []
    source = rerun_tasks(outcome, wanted_reruns(outcome), tasks, recorded.append, said.append)
    asked = []
    while task := source.next_task():
        asked.append((task.number, task.seed_index))
    assert asked == [(1, 0), (1, 1), (2, 1)]
    assert [(r.trial_number, r.seed_index, r.value, r.seconds) for r in recorded] == [
        (2, 0, 0.25, 0.0)
    ]
    assert said == ["re-run of trial 2, seed 1: loss=0.2500 as trial 0, not trained again"]


def test_of_many_trials_the_believed_ones_are_finalists_and_not_the_luckiest(
    branin: MakeSpec,
) -> None:
    """A low value among high ones is luck; among low ones it is believed."""
    xs = tuple(float(x) for x in range(0, 100, 3))
    values = [((x - 60) / 20) ** 2 + 0.3 * math.sin(7 * x) for x in xs]
    lucky = xs.index(9.0)
    values[lucky] = min(values) - 0.1
    chosen = choose_finalists(trials_with(*values, xs=xs), branin())
    assert lucky not in [trial.number for trial in chosen]
    assert all(abs(trial.params["x"] - 60) < 15 for trial in chosen)


def wanted(spec: ExperimentSpec, *finalists: Finalist) -> list[tuple[int, int]]:
    """Numbers and seeds that are to be run next."""
    return [(one.number, seed) for one, seed in wanted_reruns(outcome_with(spec, *finalists))]


def test_every_finalist_is_run_on_every_shared_seed_first(branin: MakeSpec) -> None:
    spec = branin("finalists={k: 2, n_seeds: 2, max_share: 0}")
    first, second = finalist(number=7, n_seeds=2), finalist(0.5, number=3, n_seeds=2)
    assert wanted(spec, first, second) == [(7, 0), (3, 1), (7, 1)]


def test_those_that_overlap_with_the_best_are_run_on_one_more_seed_each(branin: MakeSpec) -> None:
    """Trial 9 is clearly worse, trial 4 failed on a seed: neither is asked again."""
    spec = branin("finalists={k: 4, n_seeds: 3, max_share: 0.5}", "budget.n_trials=40")
    finalists = (
        finalist(1.0, 1.2, 1.4, number=5),
        finalist(1.1, 1.3, 1.5, number=2),
        finalist(3.0, 3.1, 3.2, number=9),
        finalist(1.0, None, 1.0, number=4),
    )
    assert wanted(spec, *finalists) == [(2, 3), (5, 3)]
    more = (finalist(1.0, 1.2, 1.4, 1.2, number=5), *finalists[1:])
    assert wanted(spec, *more) == [(2, 3)]  # the seeds stay common to all


def test_nothing_more_is_run_once_the_best_is_clear(branin: MakeSpec) -> None:
    spec = branin("finalists={k: 2, n_seeds: 3, max_share: 1}")
    assert wanted(spec, finalist(1.0, 1.1, 1.2), finalist(1.6, 1.7, 1.8, number=1)) == []
    higher = branin("finalists={k: 2, n_seeds: 3, max_share: 1}", "objective.direction=maximize")
    assert wanted(higher, finalist(1.6, 1.7, 1.8), finalist(1.0, 1.1, 1.2, number=1)) == []


@pytest.mark.parametrize(("max_share", "n_seeds"), [(0.0, 3), (0.22, 3), (0.23, 4), (0.5, 10)])
def test_reruns_stay_within_their_share_of_the_budget(
    branin: MakeSpec, max_share: float, n_seeds: int
) -> None:
    """Of 48 trials; 3 confirmations are part of it. What is asked for at least is run anyway."""
    finalists = f"finalists={{k: 2, n_seeds: 3, max_share: {max_share}}}"
    spec = branin(finalists, "budget.n_trials=48")
    n = 0
    while asked := wanted(
        spec, *(finalist(*(i % 2 for i in range(n)), number=number) for number in (1, 2))
    ):
        assert len(asked) in (2, 6)
        n += len(asked) // 2
    assert n == n_seeds


def test_one_seed_makes_nothing_clear(branin: MakeSpec) -> None:
    spec = branin("finalists={k: 2, n_seeds: 1, max_share: 1}", "budget.n_trials=20")
    two = finalist(1.0, n_seeds=1), finalist(9.0, number=1, n_seeds=1)
    assert wanted(spec, *two) == [(0, 1), (1, 1)]


def test_what_the_winner_reaches_comes_from_seeds_that_did_not_choose_it(
    branin: MakeSpec, tmp_path: Path
) -> None:
    spec = branin("finalists={k: 1, n_seeds: 2, confirmations: 3}")
    tasks = TaskFactory(spec=spec, import_paths=(), folder=tmp_path, data_dir=tmp_path)
    winner = finalist(0.1, 0.2, n_seeds=2)
    outcome, recorded = outcome_with(spec, winner), list[RerunRecord]()
    source = confirmation_tasks(outcome, winner, tasks, recorded.append, lambda _: None)
    seeds = []
    while task := source.next_task():
        seeds.append(task.context.seed)
        loss = {"loss": 0.5 + len(seeds)}
        source.ended(task, EpochReport(epoch=1, metrics=loss, seconds=1.0, ending="complete"))
    chose = {tasks.rerun(0, {}, index).context.seed for index in range(100)}
    assert len(set(seeds)) == 3
    assert not chose & set(seeds)
    confirmed = replace(winner, confirmations=tuple(recorded))
    assert (winner.mean, confirmed.mean) == (pytest.approx(0.15), pytest.approx(0.15))
    assert winner.reported is not None
    assert winner.reported.mean == pytest.approx(0.15)
    assert winner.seeds_text == "2 fresh seeds that chose it"
    assert confirmed.reported is not None
    assert confirmed.reported.mean == pytest.approx(2.5)
    assert confirmed.seeds_text == "3 fresh seeds that did not choose it"
    rest = confirmation_tasks(outcome, confirmed, tasks, recorded.append, lambda _: None)
    assert rest.next_task() is None


def test_finalists_stay_what_they_are_until_more_trials_have_ended() -> None:
    study = optuna.create_study()
    study.add_trial(create_trial(value=1.0))
    assert recorded_finalists(study) == []
    record_finalists(study, [0])
    assert recorded_finalists(study) == [0]
    study.add_trial(create_trial(state=TrialState.WAITING))
    assert recorded_finalists(study) == [0]
    study.add_trial(create_trial(value=0.5))
    assert recorded_finalists(study) == []


def test_an_epoch_that_is_told_twice_took_its_seconds_once(
    branin: MakeSpec, tmp_path: Path
) -> None:
    """A trainable that ends by itself tells its last epoch again; one that raises adds to it."""
    tasks = TaskFactory(spec=branin(), import_paths=(), folder=tmp_path, data_dir=tmp_path)
    heard: list[float] = []
    stage = TaskList(
        [tasks.rerun(0, {}, 0), tasks.rerun(0, {}, 1)], lambda *end: heard.append(end[2])
    )
    for ending, seconds in (("complete", 2.0), ("failed", 0.5)):
        task = stage.next_task()
        assert task is not None
        for epoch in (1, 2):
            stage.reported(task, EpochReport(epoch=epoch, metrics={}, seconds=2.0))
        stage.ended(task, EpochReport(epoch=2, metrics={}, seconds=seconds, ending=ending))
    assert heard == [4.0, 4.5]


def test_two_lists_of_tasks_are_one_stage(branin: MakeSpec, tmp_path: Path) -> None:
    """All of the first, then the second, while the first still runs; each hears of its own."""
    tasks = TaskFactory(spec=branin(), import_paths=(), folder=tmp_path, data_dir=tmp_path)
    heard: list[tuple[str, int | None]] = []

    def listed(name: str, n: int, first: int) -> TaskList:
        many = [tasks.rerun(first, {}, index) for index in range(n)]
        return TaskList(many, lambda task, _report, _s: heard.append((name, task.seed_index)))

    both = SideBySide([listed("a", 1, 0), listed("b", 2, 1)])
    running = [both.next_task() for _ in range(3)]
    assert both.next_task() is None
    report = EpochReport(epoch=1, metrics={}, seconds=1.0, ending="complete")
    for task in reversed(running):
        assert task is not None
        both.ended(task, report)
    assert heard == [("b", 1), ("b", 0), ("a", 0)]


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
