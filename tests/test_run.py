"""`hpo run`, typed as a user does: what the study, the ledger and the terminal hold afterwards."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import optuna
import pytest
from commands import Done, Shell, assert_no_traceback
from conftest import BRANIN, ROOT
from mlflow import MlflowClient
from optuna.trial import TrialState

from storage import Ledger, open_engine, recorded_finalists

MY_MODULE = '''
import math, os, sys

def train(config, trial):
    """Fails in three ways for some x; else five epochs."""
    print("seed", trial.seed)
    if config["x"] < 0.1:
        raise ValueError(f"x is too small: {config['x']}")
    for epoch in range(1, 6):
        yield {"score": math.nan if config["x"] > 0.9 else config["x"] - 1 / epoch}

def broken(config):
    raise RuntimeError("no such luck")

def misnamed(config):
    return {"scor": 1.0}
'''

DICE = '''
import torch
from trainables import FinalModel

class Dice(torch.nn.Module):
    """Computes something else each time."""
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.rand(len(images), 2)

def train(config):
    return config["x"]

def finish(config, trial):
    images = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    return FinalModel(predictor=Dice(), class_names=("no", "yes"), n_correct=2, n_test=3,
                      test_images=images, test_labels=torch.tensor([1, 1, 0]))
'''

MINE = """
name: mine
trainable: my_module:train
objective: {metric: score, direction: maximize}
search_space: {x: {type: float, low: 0, high: 1}}
sampler: random
seed: 1
budget: {n_trials: 12}
concurrency: 1
finalists: {k: 2, n_seeds: 2}
"""


@pytest.fixture(scope="module")
def user(shell: Shell) -> Shell:
    """A folder with a user's own trainable, which imports nothing of ours."""
    shell.write("my_module.py", MY_MODULE)
    shell.write("mine.yaml", MINE)
    shell.write("branin.yaml", BRANIN)
    return shell


@pytest.fixture(scope="module")
def asha_run(user: Shell) -> Done:
    """A finished search under ASHA."""
    overrides = (
        "scheduler={name: asha, reduction_factor: 2}",
        "budget.n_trials=20",
        "concurrency=2",
        "name=asha",
    )
    return user.hpo("run", "branin.yaml", *(f"-o{override}" for override in overrides))


@pytest.fixture(scope="module")
def mine_run(user: Shell) -> Done:
    """A finished search over the user's own trainable."""
    return user.hpo("run", "mine.yaml")


def study_of(shell: Shell, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=shell.storage_url)


def states(shell: Shell, name: str) -> Counter[str]:
    return Counter(trial.state.name for trial in study_of(shell, name).trials)


def test_every_trial_of_the_budget_has_ended(user: Shell, asha_run: Done) -> None:
    assert asha_run.returncode == 0, asha_run.stderr
    counts = states(user, "asha")
    assert counts["COMPLETE"] + counts["PRUNED"] + counts["FAIL"] == 20 == sum(counts.values())
    assert counts["PRUNED"] > 0


@pytest.mark.usefixtures("asha_run")
def test_a_pruned_trial_has_all_its_intermediate_values(user: Shell) -> None:
    """As many as the worker reported, the one that stopped it included."""
    ledger = Ledger(open_engine(user.storage_url))
    experiment = ledger.find("asha")
    assert experiment is not None
    epochs = ledger.epochs(experiment.id)
    for trial in study_of(user, "asha").trials:
        reported = {record.epoch: record.metrics["loss"] for record in epochs[trial.number]}
        assert trial.intermediate_values == reported
        assert list(reported) == list(range(1, len(reported) + 1))
        assert trial.value == reported[len(reported)]
        is_full = len(reported) == 4
        assert (trial.state == TrialState.COMPLETE) == is_full


def test_the_summary_is_ten_lines_at_most_and_alone_on_stdout(
    asha_run: Done,
) -> None:
    lines = asha_run.stdout.splitlines()
    assert len(lines) <= 10
    assert lines[0].startswith("asha ")
    assert "minimum over noise" in asha_run.stdout
    assert "3 fresh seeds" in asha_run.stdout


def test_without_a_terminal_each_finished_trial_is_one_line_on_stderr(
    asha_run: Done,
) -> None:
    lines = [line for line in asha_run.stderr.splitlines() if line.startswith("trial ")]
    assert len(lines) == 20
    assert "\x1b" not in asha_run.stderr
    assert_no_traceback(asha_run)


def test_a_generator_of_the_users_own_runs_and_its_failures_do_not_stop_the_search(
    user: Shell, mine_run: Done
) -> None:
    assert mine_run.returncode == 0, mine_run.stderr
    failed = {
        trial.number: trial.user_attrs["fail_reason"]
        for trial in study_of(user, "mine").trials
        if trial.state == TrialState.FAIL
    }
    xs = {trial.number: trial.params["x"] for trial in study_of(user, "mine").trials}
    assert {number for number, x in xs.items() if x < 0.1 or x > 0.9} == set(failed)
    reasons = " ".join(failed.values())
    assert "x is too small" in reasons
    assert "my_module.py:8" in reasons
    assert "'score' is nan" in reasons
    assert states(user, "mine")["COMPLETE"] == 12 - len(failed)


@pytest.mark.usefixtures("mine_run")
def test_what_a_trainable_prints_stands_in_its_trials_folder(user: Shell) -> None:
    seed = study_of(user, "mine").trials[0].user_attrs["seed"]
    output = user.folder / "runs" / "mine" / "trials" / "00000" / "output.txt"
    assert output.read_text() == f"seed {seed}\n"


@pytest.mark.usefixtures("mine_run")
def test_finalists_are_rerun_on_fresh_seeds_that_they_share(user: Shell) -> None:
    ledger = Ledger(open_engine(user.storage_url))
    experiment = ledger.find("mine")
    assert experiment is not None
    reruns = ledger.reruns(experiment.id)
    study = study_of(user, "mine")
    assert {rerun.trial_number for rerun in reruns} == set(recorded_finalists(study))
    assert {study.trials[rerun.trial_number].state for rerun in reruns} == {TrialState.COMPLETE}
    assert len(reruns) == 4
    seeds = {rerun.trial_number: set() for rerun in reruns}  # type: dict[int, set[int]]
    for rerun in reruns:
        seeds[rerun.trial_number].add(rerun.seed)
    first, second = seeds.values()
    assert first == second
    assert not first & {trial.user_attrs["seed"] for trial in study.trials}
    confirmed = ledger.confirmations(experiment.id)
    assert len({one.trial_number for one in confirmed}) == 1
    assert len({one.seed for one in confirmed} - first) == 3


@pytest.mark.usefixtures("mine_run")
def test_an_experiment_that_exists_is_not_begun_again(user: Shell) -> None:
    done = user.hpo("run", "mine.yaml")
    assert done.returncode == 2
    assert "12 of 12 trials are finished" in done.stderr
    assert "--resume" in done.stderr
    assert_no_traceback(done)


@pytest.mark.usefixtures("mine_run")
def test_an_experiment_with_another_search_space_is_refused_with_the_difference(
    user: Shell,
) -> None:
    done = user.hpo("run", "mine.yaml", "--resume", "-o", "search_space.x.high=2")
    assert done.returncode == 2
    assert "search_space.x.high: 1.0 -> 2.0" in done.stderr
    assert_no_traceback(done)


@pytest.mark.usefixtures("mine_run")
def test_resuming_a_finished_experiment_shows_its_result_again(user: Shell) -> None:
    done = user.hpo("run", "mine.yaml", "--resume")
    assert done.returncode == 0, done.stderr
    assert "there is nothing left to do" in done.stderr
    assert done.stdout.startswith("mine ")


def test_nothing_to_resume_is_an_error_that_leaves_nothing_behind(user: Shell) -> None:
    done = user.hpo("run", "mine.yaml", "--resume", "-o", "name=never")
    assert done.returncode == 2
    assert "nothing to resume" in done.stderr
    assert not (user.folder / "runs" / "never").exists()
    assert_no_traceback(done)


def test_resuming_in_a_folder_without_runs_leaves_it_as_it_was(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.write("branin.yaml", BRANIN)
    done = shell.hpo("run", "branin.yaml", "--resume")
    assert done.returncode == 2
    assert "nothing to resume" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["branin.yaml"]


def test_a_raised_budget_goes_on_with_the_same_study(user: Shell) -> None:
    first = user.hpo("run", "branin.yaml", "-o", "name=longer", "-o", "budget.n_trials=3")
    assert first.returncode == 0, first.stderr
    params = [trial.params for trial in study_of(user, "longer").trials]
    second = user.hpo(
        "run", "branin.yaml", "-o", "name=longer", "-o", "budget.n_trials=5", "--resume"
    )
    assert second.returncode == 0, second.stderr
    trials = study_of(user, "longer").trials
    assert len(trials) == 5
    assert [trial.params for trial in trials[:3]] == params


def test_five_identical_failures_at_the_start_stop_the_search(user: Shell) -> None:
    done = user.hpo("run", "mine.yaml", "-o", "name=broken", "-o", "trainable=my_module:broken")
    assert done.returncode == 4
    assert done.stderr.count("no such luck") == 1
    assert "first 5 trials all failed" in done.stderr
    counts = states(user, "broken")
    assert counts == {"FAIL": 5}
    assert_no_traceback(done)


def test_a_search_in_which_nothing_succeeds_says_why(user: Shell) -> None:
    done = user.hpo(
        "run",
        "mine.yaml",
        "-oname=misnamed",
        "-otrainable=my_module:misnamed",
        "-obudget.n_trials=2",
    )
    assert done.returncode == 4
    assert "reported no 'score'" in done.stderr
    assert "scor" in done.stderr
    assert_no_traceback(done)


def test_a_model_that_computes_something_else_when_reloaded_fails_the_command(user: Shell) -> None:
    user.write("dice.py", DICE)
    options = ("-oname=dice", "-otrainable=dice:train", "-obudget.n_trials=2")
    done = user.hpo("run", "mine.yaml", *options)
    assert done.returncode == 1
    message = "part-standalone_model.pt: outputs of the reloaded model differ by up to 0."
    assert message in done.stderr
    assert not (user.folder / "runs" / "dice" / "standalone_model.pt").exists()
    mlflow_runs = MlflowClient(user.tracking_uri).search_runs(
        [MlflowClient(user.tracking_uri).get_experiment_by_name("dice").experiment_id],
        "tags.`hpo.kind` = 'parent'",
    )
    assert [run.info.status for run in mlflow_runs] == ["FAILED"]
    assert_no_traceback(done)


def test_resources_that_nobody_has_are_refused_before_anything_is_recorded(user: Shell) -> None:
    """With `concurrency` set, machines would be waited for that an autoscaler may bring."""
    huge = ("-oname=huge", "-oresources={cpu: 64, gpu: 1}", "-oconcurrency=null")
    done = user.hpo("run", "mine.yaml", *huge)
    assert done.returncode == 5
    assert "cpu=64, gpu=1" in done.stderr
    assert "cpu=2, gpu=0" in done.stderr
    assert "huge" not in optuna.get_all_study_names(user.storage_url)
    assert_no_traceback(done)


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////proc/nowhere/hpo.db", "what://x/y"])
def test_a_database_that_cannot_be_opened_is_a_storage_error(user: Shell, url: str) -> None:
    done = user.hpo("run", "mine.yaml", "-o", "name=nodb", "--storage", url)
    assert done.returncode == 3
    assert "cannot open database" in done.stderr
    assert_no_traceback(done)


def test_a_grid_with_conditions_ends_with_its_last_cell(user: Shell) -> None:
    """One enqueued config is a cell, the other lies beside the grid; nothing is tried twice."""
    done = user.hpo(
        "run",
        "mine.yaml",
        "-oname=grid",
        "-osampler=grid",
        "-osearch_space={x: {type: float, low: 0.2, high: 0.8, grid: 3}, "
        "kind: {type: categorical, choices: [a, b]}, "
        "extra: {type: int, low: 1, high: 2, when: {kind: b}}}",
        "-oenqueue=[{x: 0.3, kind: a}, {x: 0.8, kind: b, extra: 1}]",
        "-obudget.n_trials=100",
    )
    assert done.returncode == 0, done.stderr
    params = [trial.params for trial in study_of(user, "grid").trials]
    assert params[:2] == [{"x": 0.3, "kind": "a"}, {"x": 0.8, "kind": "b", "extra": 1}]
    cells = {tuple(sorted(cell.items())) for cell in params}
    assert len(cells) == len(params) == 3 * (1 + 2) + 1
    assert all(("extra" in cell) == (cell["kind"] == "b") for cell in params)
    assert "10 trials (10 complete" in done.stdout


SIZES = """
def train(config, trial):
    for epoch in range(1, 4):
        yield {"score": config["size"] - 1 / epoch, "memory": 3 * config["size"]}

def constraints(config, trial):
    return {"weights": config["size"] ** 2}
"""
LIMITED = """
name: limited
trainable: sizes:train
objective: {metric: score, direction: maximize}
search_space: {size: {type: int, low: 1, high: 5}}
sampler: random
trial_seed: common
scheduler: {name: one_epoch_top_k, k: 6}
constraints: {weights: {max: 16}, memory: {max: 10}}
budget: {n_trials: 8, max_epochs: 3, target_value: 2.6}
concurrency: 2
finalists: {k: 2, n_seeds: 2}
"""


def test_a_search_ends_at_its_target_within_its_constraints_and_stays_ended(user: Shell) -> None:
    """Of sizes 1 to 5, 5 is refused, 4 too large as it turns out; 3 is what was wanted."""
    user.write("sizes.py", SIZES)
    user.write("limited.yaml", LIMITED)
    done = user.hpo("run", "limited.yaml")
    assert done.returncode == 0, done.stderr
    trials = study_of(user, "limited").trials
    by_size = {size: [t for t in trials if t.params["size"] == size] for size in range(1, 6)}
    assert {t.user_attrs.get("fail_cause") for t in by_size[5]} <= {"infeasible"}
    assert len(trials) - len(by_size[5]) == 8
    best = [t for t in by_size[3] if t.state == TrialState.COMPLETE]
    assert best
    assert all(len(t.intermediate_values) == 3 for t in best)
    assert not {t.state for t in trials} & {TrialState.RUNNING, TrialState.WAITING}
    reached = "reached target_value=2.6"
    assert reached in done.stdout
    assert "params   size=3" in done.stdout
    again = user.hpo("run", "limited.yaml", "--resume")
    assert reached in again.stderr
    assert "-o budget.target_value=..." in again.stderr
    assert len(study_of(user, "limited").trials) == len(trials)
    on = user.hpo("run", "limited.yaml", "--resume", "-obudget={n_trials: 10, max_epochs: 3}")
    assert on.returncode == 0, on.stderr
    spent = [t for t in study_of(user, "limited").trials if t.params["size"] < 5]
    assert len(spent) == 10
    assert "ended early" not in on.stdout


@pytest.mark.usefixtures("ray_address")
def test_the_trainable_in_the_readme_runs_as_it_stands_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shell = Shell(tmp_path)
    for language, name in (("python", "my_module.py"), ("yaml", "mine.yaml")):
        block = re.search(rf"```{language}\n(.*?)```", readme, re.DOTALL)
        assert block is not None
        shell.write(name, block.group(1))
    monkeypatch.delitem(sys.modules, "my_module", raising=False)  # of the other tests
    done = shell.hpo("run", "mine.yaml")
    monkeypatch.delitem(sys.modules, "my_module", raising=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mine     20 trials (20 complete, 0 pruned, 0 failed)")
