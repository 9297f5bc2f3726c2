"""Commands that run nothing, and wrong ways to type the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Shell, assert_no_traceback
from conftest import BRANIN, ROOT

from hpo.spec import parse_spec

CNN = str(ROOT / "search_spaces" / "cnn.yaml")


@pytest.fixture
def here(tmp_path: Path) -> Shell:
    """An empty folder; no Ray."""
    shell = Shell(tmp_path)
    shell.write("branin.yaml", BRANIN)
    return shell


def test_validate_says_how_large_the_search_is(here: Shell) -> None:
    done = here.hpo("validate", CNN)
    assert done.returncode == 0
    assert "30 trials over 7 parameters, infinitely many configs" in done.stdout
    discrete = "-osearch_space={depth: {type: int, low: 1, high: 3}}"
    done = here.hpo("validate", CNN, discrete, "-osampler=grid", "--json")
    assert json.loads(done.stdout) == {
        "n_trials": 3,
        "n_parameters": 1,
        "n_conditional": 0,
        "n_distinct_configs": 3,
        "n_grid": 3,
        "warnings": [],
    }


def test_print_config_prints_a_spec_that_reads_back_to_itself(here: Shell) -> None:
    done = here.hpo("run", "branin.yaml", "-o", "seed=7", "--print-config")
    assert done.returncode == 0
    assert parse_spec(done.stdout, "printed") == parse_spec(BRANIN, "branin", ["seed=7"])


def test_dry_run_shows_the_plan_and_leaves_nothing_behind(here: Shell) -> None:
    done = here.hpo("run", "branin.yaml", "--dry-run")
    assert done.returncode == 0
    assert "6 trials" in done.stdout
    assert "x1=" in done.stdout
    assert "nothing was run" in done.stdout
    assert [path.name for path in here.folder.iterdir()] == ["branin.yaml"]


@pytest.mark.parametrize("command", ["run", "validate"])
def test_every_problem_of_a_spec_is_shown_with_its_place(here: Shell, command: str) -> None:
    here.write("bad.yaml", BRANIN.replace("low: 0", "low: 20").replace("random", "randm"))
    done = here.hpo(command, "bad.yaml", "-o", "budget.n_trials=few")
    assert done.returncode == 2
    assert "bad.yaml has 3 problems" in done.stderr
    assert "bad.yaml:7:26: search_space.x2.low" in done.stderr
    assert "did you mean 'random'?" in done.stderr
    assert "-o budget.n_trials=few" in done.stderr
    assert done.stdout == ""
    assert_no_traceback(done)


@pytest.mark.parametrize("text", [None, "[1, 2", "- a list", ""])
def test_a_spec_that_is_missing_or_no_yaml_is_an_error_of_its_file(
    here: Shell, text: str | None
) -> None:
    if text is not None:
        here.write("other.yaml", text)
    done = here.hpo("run", "other.yaml")
    assert done.returncode == 2
    assert "other.yaml" in done.stderr
    assert_no_traceback(done)


@pytest.mark.parametrize(
    "arguments",
    [("run",), ("fly",), ("run", "branin.yaml", "--fast"), ("predict", "model.pt"), ("sync",)],
)
def test_wrong_arguments_are_told_with_exit_code_2(here: Shell, arguments: tuple[str, ...]) -> None:
    done = here.hpo(*arguments)
    assert done.returncode == 2
    assert "Usage" in done.stderr
    assert_no_traceback(done)


def test_a_trainable_of_the_users_own_is_found_beside_the_spec(here: Shell) -> None:
    (here.folder / "lab").mkdir()
    here.write("lab/beside_the_spec.py", "def train(config):\n    return config['x1']\n")
    spec = BRANIN.replace("analytic", "beside_the_spec:train")
    here.write("lab/mine.yaml", spec)
    assert here.hpo("validate", "lab/mine.yaml").returncode == 0
    here.write("lab/typo.yaml", spec.replace(":train", ":trane"))
    done = here.hpo("validate", "lab/typo.yaml")
    assert done.returncode == 2
    assert "did you mean 'train'?" in done.stderr


def test_every_command_stands_in_the_readme() -> None:
    from hpo.cli import app

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    names = [command.callback.__name__ for command in app.registered_commands if command.callback]
    assert names
    for name in names:
        assert f"hpo {name.replace('_', '-')}" in readme
