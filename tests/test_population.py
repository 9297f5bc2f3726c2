"""Scheduler pbt: a population whose trials go on from one another, at any time and in any order."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_worker import OneWorker, outline, trained
from optuna.trial import FrozenTrial
from without_ray import KilledError

from hpo.errors import SpecError, UsageError
from hpo.execution import TrialDrive
from hpo.lineage import lineage_of, schedule_text
from hpo.search.population import Generation, judged, perturbed
from hpo.spec import ExperimentSpec, PbtSpec, parse_spec

GROWING = """
import torch

changeable_while_training = ("speed", "kind", "n")

def train(config, trial):
    epoch, total = 0, 0.0
    if (kept := trial.checkpoints.load()) is not None:
        epoch, total = kept[0], kept[1]["total"]
    while epoch < 6:
        epoch += 1
        with (trial.folder.parents[1] / "trained.txt").open("a") as file:
            print(trial.folder.name, epoch, file=file)
        torch.manual_seed(trial.seed + epoch)
        total += config["speed"] + config["offset"] + float(torch.rand(())) / 10
        if FAILS:
            raise ValueError("this one fails")
        trial.checkpoints.save(epoch, {"total": total})
        yield {"total": total}
"""
SPEC = """
name: grown
trainable: growing:train
objective: {metric: total, direction: maximize}
search_space:
  speed: {type: float, low: 0.01, high: 1, log: true}
  offset: {type: float, low: 0, high: 1}
  kind: {type: categorical, choices: [a, b, c]}
sampler: {name: tpe, n_startup_trials: 2}
scheduler: {name: pbt, perturb: [speed, kind], interval_epochs: 2}
seed: 3
budget: {n_trials: 8, max_epochs: 6}
"""
N_TRIALS, INTERVAL, MAX_EPOCHS = 8, 2, 6
N_REPLACED = 2
N_ALL = N_TRIALS + 2 * N_REPLACED
"""Founders, and the new ones of both generations that are judged."""

Begin = Callable[..., OneWorker]


def begun(folder: Path, name: str = "grown", fails: str = "False") -> OneWorker:
    """A driver's start; a second one of a name is a new process."""
    module = "growing" if fails == "False" else "failing"
    (folder / name).mkdir(exist_ok=True)
    (folder / name / f"{module}.py").write_text(GROWING.replace("FAILS", fails))
    text = SPEC.replace("name: grown", f"name: {name}").replace("growing:", f"{module}:")
    return OneWorker(text, folder / name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> OneWorker:
    """A search that nothing disturbed."""
    worker = begun(tmp_path_factory.mktemp("whole"))
    worker.search()
    return worker


@pytest.fixture
def begin(tmp_path: Path) -> Begin:
    """Searches in a folder of their own."""
    return partial(begun, tmp_path)


def children(worker: OneWorker) -> list[FrozenTrial]:
    return [trial for trial in worker.study.trials if "parent" in trial.user_attrs]


# --- a search ---


def test_the_worst_end_and_others_go_on_from_the_best(
    whole: OneWorker,
) -> None:
    trials = whole.study.trials
    assert len(trials) == N_ALL
    for epoch in (INTERVAL, 2 * INTERVAL):
        born = [child for child in children(whole) if child.user_attrs["parent_epoch"] == epoch]
        values = {
            trial.number: trial.intermediate_values[epoch]
            for trial in trials
            if epoch in trial.intermediate_values
            and trial.user_attrs.get("parent_epoch", 0) < epoch
        }
        assert len(values) == N_TRIALS
        ranked = sorted(values, key=values.__getitem__, reverse=True)
        replaced = {child.user_attrs["replaces"] for child in born}
        assert replaced == set(ranked[-N_REPLACED:])
        assert {trials[number].state.name for number in replaced} == {"PRUNED"}
        for child in born:
            parent = child.user_attrs["parent"]
            assert parent in ranked[:N_REPLACED]
            inherited = {e: v for e, v in trials[parent].intermediate_values.items() if e <= epoch}
            assert inherited.items() <= child.intermediate_values.items()
            assert child.params["offset"] == trials[parent].params["offset"]
            assert child.params != trials[parent].params
    assert Counter(whole.states()) == {"COMPLETE": N_TRIALS, "PRUNED": 2 * N_REPLACED}


def test_it_costs_trials_times_epochs_exactly_and_leaves_no_checkpoint(
    whole: OneWorker,
) -> None:
    """In the trainable's own count and in the ledger's, where no epoch stands twice."""
    assert trained(whole).total() == N_TRIALS * MAX_EPOCHS
    assert set(trained(whole).values()) == {1}
    assert Counter(f"{number:05d} {epoch}" for number, epoch in whole.epochs) == trained(whole)
    assert list(whole.folder.glob("trials/*/checkpoints")) == []


def test_a_child_is_worth_what_its_lineage_has_made_of_it(
    whole: OneWorker,
) -> None:
    """Each epoch adds speed and offset, and a tenth of a random number at most."""
    for trial in whole.study.trials:
        lineage, total, before = lineage_of(whole.study.trials, trial), 0.0, 0
        for past in lineage:
            total += (past.until_epoch - before) * (past.params["speed"] + past.params["offset"])
            before = past.until_epoch
        n_own = max(trial.intermediate_values) - before
        total += n_own * (trial.params["speed"] + trial.params["offset"])
        assert trial.value is not None
        assert 0 <= trial.value - total <= 0.1 * MAX_EPOCHS


@pytest.mark.parametrize(
    ("n_workers", "n_reports"),
    [(1, 1), (1, 16), (1, 33), (2, 7), (2, 20), (3, 40)],
)
def test_killed_and_resumed_it_is_what_it_would_have_been(
    n_workers: int, n_reports: int, whole: OneWorker, begin: Begin
) -> None:
    """However many workers there are, and whoever reports first: same trials, parents, params."""
    keys: dict[str, Any] = {"n_workers": n_workers, "order": np.random.default_rng(n_reports)}
    with pytest.raises(KilledError):
        begin().search(**keys, n_reports=n_reports)
    resumed = begin()
    resumed.search(**keys)
    assert outline(resumed) == outline(whole)
    assert trained(resumed) == trained(whole)


def test_what_others_go_on_from_stays_while_a_trial_itself_goes_on_and_is_cut_off(
    begin: Begin,
) -> None:
    """Its parent's checkpoint of the last generation, that is, through all of a longer one."""
    overrides = ("scheduler.interval_epochs=3", "scheduler.quantile=0.5")
    long = begin("long")
    long.search(*overrides)
    for n_reports in (N_TRIALS * 3 + 2, 3, 3, 3):  # each of the old ones before its last epoch
        with pytest.raises(KilledError):
            begin().search(*overrides, n_reports=n_reports)
    resumed = begin()
    resumed.search(*overrides)
    assert outline(resumed) == outline(long)
    assert trained(resumed) == trained(long)
    assert resumed.warnings == []


class DiesAtItError(Exception):
    """The driver is no more, in the middle of what follows from a generation."""


@pytest.mark.parametrize("n_writes", range(6))
def test_a_driver_that_dies_while_a_generation_is_judged_leaves_nothing_half_done(
    n_writes: int, whole: OneWorker, begin: Begin
) -> None:
    """Recorded, then two new trials, then two that end."""
    killed = begin()
    writes = itertools.count()

    def write(original: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **keys: Any) -> Any:
            is_judged = bool([k for k in killed.study.user_attrs if k.startswith("pbt_")])
            is_plan = bool(arguments) and str(arguments[0]).startswith("pbt_")
            if (is_judged or is_plan) and next(writes) == n_writes:
                raise DiesAtItError
            return original(*arguments, **keys)

        return counted

    for name in ("set_user_attr", "add_trial", "tell"):
        setattr(killed.study, name, write(getattr(killed.study, name)))
    with pytest.raises(DiesAtItError):
        killed.search()
    resumed = begin()
    resumed.search()
    assert outline(resumed) == outline(whole)
    assert trained(resumed) == trained(whole)


def test_who_fails_is_replaced_and_a_damaged_checkpoint_costs_epochs_alone(begin: Begin) -> None:
    fails = 'trial.folder.name == "00003" and epoch == 3'
    whole = begin("whole", fails)
    whole.search()
    assert whole.states()[3] == "FAIL"
    born = [child for child in children(whole) if child.user_attrs["replaces"] == 3]
    assert [child.user_attrs["parent_epoch"] for child in born] == [2 * INTERVAL]
    assert Counter(whole.states())["COMPLETE"] == N_TRIALS
    with pytest.raises(KilledError):
        begin("cut", fails).search(n_reports=16)
    for path in (begin("cut", fails).folder / "trials").glob("*/checkpoints/*"):
        path.write_bytes(b"")
    resumed = begin("cut", fails)
    resumed.search()
    assert [t.params for t in resumed.study.trials] == [t.params for t in whole.study.trials]
    assert resumed.warnings


def test_a_config_that_is_refused_is_no_member_and_a_refused_child_is_replaced(
    begin: Begin,
) -> None:
    """Kind c cannot be built: of the founders none has it in the end; of the children some do."""
    worker = begin()
    refusing = """
def constraints(config, trial):
    if config["kind"] == "c":
        raise ValueError("no c")
    return {}
"""
    (worker.folder / "refusing.py").write_text(GROWING.replace("FAILS", "False") + refusing)
    worker.text = worker.text.replace("growing:", "refusing:")
    worker.search("scheduler.perturb=[kind]", "scheduler.resample=0")
    trials = worker.study.trials
    refused = [trial for trial in trials if trial.params["kind"] == "c"]
    assert {trial.state.name for trial in refused} == {"FAIL"}
    founders = [t for t in trials if "parent" not in t.user_attrs and t not in refused]
    assert len(founders) == N_TRIALS
    born_late = [t.number for t in refused if t.user_attrs.get("parent_epoch") == INTERVAL]
    assert born_late
    assert set(born_late) <= {trial.user_attrs.get("replaces") for trial in trials}


def test_a_trainable_that_keeps_no_checkpoint_is_told_after_one_generation_of_one_trial(
    begin: Begin,
) -> None:
    worker = begin()
    text = GROWING.replace("FAILS", "False").replace("trial.checkpoints.save", "print")
    (worker.folder / "forgetful.py").write_text(text)
    worker.text = worker.text.replace("growing:", "forgetful:")
    with pytest.raises(UsageError, match=r"kept no checkpoint of epoch 2.*checkpoints\.save"):
        worker.search()
    assert trained(worker).total() == INTERVAL


# --- a config that changes ---


def test_a_rerun_follows_the_whole_lineage(whole: OneWorker) -> None:
    """Each part with its own config, on one seed, in a folder that is its own."""
    trials = whole.study.trials
    child = max(children(whole), key=lambda trial: trial.user_attrs["parent_epoch"])
    lineage = lineage_of(trials, child)
    tasks = whole.tasks()
    task = tasks.rerun(child.number, child.params, 0, lineage)
    drive, totals = TrialDrive(task), []
    for epoch in range(1, MAX_EPOCHS + 1):
        report = drive.next_report()
        assert report.epoch == epoch, report.fail_reason
        totals.append(report.metrics["total"])
    assert report.ending == "complete"
    gains = [after - before for before, after in itertools.pairwise([0.0, *totals])]
    for epoch, gain in enumerate(gains, start=1):
        params = next((past.params for past in lineage if epoch <= past.until_epoch), child.params)
        assert 0 <= gain - params["speed"] - params["offset"] <= 0.1
    alone = tasks.rerun(child.number, child.params, 0)
    assert alone.identity != task.identity


def test_a_schedule_is_told_by_its_changes_alone(
    whole: OneWorker,
) -> None:
    for child in children(whole):
        lineage = lineage_of(whole.study.trials, child)
        told = schedule_text(lineage, child.params)
        assert "offset" not in told
        assert told
    assert schedule_text((), {"speed": 1.0}) == ""


# --- who ends, and what is perturbed ---

values_of_trials = st.lists(st.integers(-5, 5).map(float), min_size=4, max_size=30)


@given(
    values=values_of_trials,
    quantile=st.floats(0.01, 0.5),
    n_failed=st.integers(0, 3),
    sign=st.sampled_from([1, -1]),
)
def test_the_best_quantile_takes_the_place_of_the_worst(
    values: list[float], quantile: float, n_failed: int, sign: int
) -> None:
    by_number = dict(enumerate(values))
    failed = [100 + index for index in range(n_failed)]
    keys: dict[str, Any] = {"epoch": 1, "first_child": 200, "quantile": quantile, "seed": 7}
    generation = judged(by_number, failed, sign=sign, **keys)
    losers = [loser for loser, _ in generation.replaced]
    parents = {parent for _, parent in generation.replaced}
    stays = set(by_number) - set(losers)
    assert len(losers) == len(set(losers)) == int(quantile * len(values) + 1e-9) + n_failed
    assert parents <= stays
    for loser in set(losers) & set(by_number):
        assert all(sign * by_number[loser] >= sign * by_number[one] for one in stays)
    n_best = max(1, len(losers) - n_failed)
    for parent in parents:
        n_better = sum(sign * by_number[one] < sign * by_number[parent] for one in stays)
        assert n_better < n_best
    assert Generation(**json.loads(json.dumps(vars(generation)))).epoch == 1


SPACE = """
search_space:
  continuous: {type: float, low: 0.001, high: 1, log: true}
  linear: {type: float, low: -1, high: 1}
  steps: {type: float, low: 0, high: 0.9, step: 0.1}
  whole: {type: int, low: 1, high: 9}
  threes: {type: int, low: 3, high: 30, step: 3}
  scale: {type: int, low: 1, high: 64, log: true}
  choice: {type: categorical, choices: [4, 8, 16, 32]}
"""


def space_of(text: str) -> ExperimentSpec:
    head, _, tail = SPEC.partition("search_space:")
    _, _, rest = tail.partition("sampler:")
    return parse_spec(
        f"{head}{text}\nsampler:{rest}", "spec.yaml", ["scheduler=none"], import_paths=None
    )


@settings(deadline=None)
@given(data=st.data(), seed=st.integers(0, 999), resample=st.sampled_from([0.0, 0.5, 1.0]))
def test_what_is_perturbed_stays_in_the_space_and_moves(
    data: st.DataObject, seed: int, resample: float
) -> None:
    space = space_of(SPACE).search_space
    start = {
        "continuous": data.draw(st.floats(0.001, 1)),
        "linear": data.draw(st.floats(-1, 1)),
        "steps": data.draw(st.integers(0, 9)) / 10,
        "whole": data.draw(st.integers(1, 9)),
        "threes": 3 * data.draw(st.integers(1, 10)),
        "scale": data.draw(st.integers(1, 64)),
        "choice": data.draw(st.sampled_from([4, 8, 16, 32])),
    }
    spec = PbtSpec(name="pbt", perturb=[*space], resample=resample)
    params = perturbed(start, space, spec, seed, 5)
    assert params == perturbed(start, space, spec, seed, 5)
    for name, value in params.items():
        parameter = space[name]
        assert parameter.accepts(value), (name, start[name], value)  # type: ignore[union-attr]
        assert type(value) is type(start[name])
    if resample == 0:
        assert all(params[name] != start[name] for name in space if name != "linear")
        assert abs(params["choice"].bit_length() - start["choice"].bit_length()) == 1
        ratio = params["continuous"] / start["continuous"]
        assert (
            ratio == pytest.approx(0.8)
            or ratio == pytest.approx(1.25)
            or (params["continuous"] in (0.001, 1))
        )


# --- what a spec may not say ---

WRONG = {
    "scheduler.perturb=[sped]": "unknown parameter: 'sped'; did you mean 'speed'?",
    "scheduler.perturb=[speed, speed]": "`speed` stands there twice",
    "scheduler.perturb=[offset]": "unknown changeable parameter of 'growing:train': 'offset'",
    "scheduler.perturb=[n]": "unknown parameter: 'n'",
    "scheduler.perturb=[]": "must have at least 1 entry",
    "scheduler=pbt": "scheduler.perturb: this key is required",
    "fixed={n: 1}": "",
    "search_space.speed={type: float, low: 1, high: 1}": "`speed` has one value",
    "search_space.kind={type: categorical, choices: [a]}": "`kind` has one value",
    "search_space.speed={type: float, low: 0, high: 1, when: {kind: a}}": "has a condition",
    "search_space.offset={type: float, low: 0, high: 1, when: {kind: a}}": "`kind` decides whether",
    "scheduler.interval_epochs=6": "must be < budget.max_epochs=6, got 6",
    "scheduler.quantile=0.1": "`quantile`=0.1 of budget.n_trials=8 is less than one trial",
    "scheduler.quantile=0.6": "must be <= 0.5",
    "budget={n_trials: 8}": "scheduler pbt needs `max_epochs`",
    "budget.n_trials=3": "is the population of scheduler pbt, which needs 4 trials, got 3",
    "budget.patience_trials=3": "is no end for scheduler pbt",
    "budget.target_value=3": "is no end for scheduler pbt",
    "trial_seed=common": "answers no trial by another one; drop `trial_seed: common`",
    "stages=[[speed], [offset, kind]]": "knows no stages",
    "sampler=grid": "sampler grid tries every combination",
    "objective=[{metric: total, direction: maximize}, {metric: b, direction: minimize}]": (
        "scheduler pbt judges trials by one objective"
    ),
    "trainable=analytic": "trainable 'analytic' lets nothing change while it trains",
}


@pytest.mark.parametrize("override", WRONG)
def test_what_pbt_cannot_do_is_told_before_a_trial_is_wasted(override: str, begin: Begin) -> None:
    worker = begin()
    if not WRONG[override]:
        worker.spec(override)
        return
    with pytest.raises(SpecError) as told:
        worker.spec(override)
    assert WRONG[override] in str(told.value)
