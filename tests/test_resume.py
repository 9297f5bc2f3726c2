"""`hpo resume NAME`: what was begun goes on, as it is recorded, without its spec."""

from __future__ import annotations

import subprocess
import sys

import optuna
import pytest
from commands import Shell, assert_no_traceback

MINE = "def train(config):\n    return config['x']\n"
SPEC = """
name: mine
trainable: beside:train
objective: {metric: objective, direction: maximize}
search_space: {x: {type: float, low: 0, high: 1}}
sampler: random
budget: {n_trials: 2}
finalists: {k: 1, n_seeds: 1, confirmations: 0}
concurrency: 1
"""


@pytest.fixture(scope="module")
def user(shell: Shell) -> Shell:
    """A folder with an experiment, whose spec and trainable lie in another one, with overrides."""
    (shell.folder / "specs").mkdir()
    shell.write("specs/beside.py", MINE)
    shell.write("specs/mine.yaml", SPEC)
    done = shell.hpo("run", "specs/mine.yaml", "-oseed=7")
    assert done.returncode == 0, done.stderr
    shell.write("first.txt", done.stdout)
    return shell


def test_of_a_finished_experiment_it_says_so_and_starts_no_ray(user: Shell) -> None:
    for command in (("resume", "mine"), ("run", "specs/mine.yaml", "-oseed=7", "--resume")):
        done = user.hpo(*command, RAY_ADDRESS="127.0.0.1:1")  # nobody is there
        assert done.returncode == 0, done.stderr
        assert "'mine' is finished: there is nothing left to do" in done.stderr
        assert done.stdout == (user.folder / "first.txt").read_text()


def test_of_a_finished_experiment_nothing_heavy_is_loaded(user: Shell) -> None:
    """So that it takes seconds, of which loading Ray would take most."""
    code = (
        "import sys\n"
        "from hpo.cli import app\n"
        "try: app(['resume', 'mine'])\n"
        "except SystemExit: pass\n"
        "heavy = {'ray', 'torch', 'mlflow', 'pandas', 'sklearn', 'plotly'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=user.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (user.folder / "first.txt").read_text()


def test_with_more_trials_it_searches_on_without_the_spec(user: Shell) -> None:
    """The trainable is found where it was found before."""
    (user.folder / "specs" / "mine.yaml").unlink()
    done = user.hpo("resume", "mine", "--trials", "4")
    assert done.returncode == 0, done.stderr
    study = optuna.load_study(study_name="mine", storage=user.storage_url)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4
    recorded = (user.folder / "runs" / "mine" / "spec.yaml").read_text()
    assert "n_trials: 4" in recorded
    assert "seed: 7" in recorded


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nobody",), "no experiment 'nobody'"),
        (("mine", "--trials", "0"), "--trials"),
        (("mine", "--storage", "sqlite:////nowhere/hpo.db"), "no experiment 'mine'"),
    ],
)
def test_what_cannot_be_resumed_is_refused(
    arguments: tuple[str, ...], said: str, user: Shell
) -> None:
    done = user.hpo("resume", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert_no_traceback(done)


def test_a_trainable_that_is_gone_is_named(user: Shell) -> None:
    (user.folder / "specs" / "beside.py").rename(user.folder / "elsewhere.txt")
    sys.modules.pop("beside", None)  # as in a process of its own
    done = user.hpo("resume", "mine", "--trials", "9")
    assert done.returncode == 2
    assert "the recorded spec of 'mine'" in done.stderr
    assert "beside" in done.stderr
    assert_no_traceback(done)
