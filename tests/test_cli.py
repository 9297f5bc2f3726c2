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


GRID = "-osearch_space={a: {type: int, low: 0, high: 999}, b: {type: int, low: 0, high: 1}}"
CONDITIONAL = (
    "-osearch_space={x1: {type: int, low: 0, high: 9, grid: 2}, "
    "x2: {type: float, low: 0, high: 1, grid: 2, when: {x1: [0, 9]}}}"
)
WARNINGS = [
    pytest.param(
        [GRID, "-otrainable=trainables.analytic:train", "-osampler=grid"],
        ["the grid has 2,000 cells and the budget 6 trials: a random part of the grid",
         "-o budget.n_trials=2000", "-o sampler=tpe"],
        id="a grid larger than the budget",
    ),
    pytest.param(
        [CONDITIONAL, "-osampler=gp"],
        ["sampler gp", "Those with a condition (x2) are drawn at random", "-o sampler=tpe"],
        id="gp on a conditional space",
    ),
    pytest.param(
        [CONDITIONAL, "-osampler=grid", "-osearch_space.x2.when={x1: [3, 4]}"],
        ["grid never tries `x2`: it is drawn when x1 is 3 or 4, which is no grid point of `x1`"],
        id="a condition between the points of a grid",
    ),
    pytest.param(
        ["-oenqueue=[{x1: 0}, {x1: 1}]", "-osearch_space.x2.default=3", "-obudget.n_trials=2"],
        ["3 configs are given", "the budget has 2 trials", "-o budget.n_trials=3"],
        id="more to begin with than the budget",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "words"), WARNINGS)
def test_what_a_valid_spec_does_unexpectedly_is_a_warning(
    here: Shell, overrides: list[str], words: list[str]
) -> None:
    """Of `validate` and `run` on stderr, and in the JSON."""
    for command in (["validate", "branin.yaml"], ["run", "branin.yaml", "--dry-run"]):
        done = here.hpo(*command, *overrides)
        assert done.returncode == 0, done.stderr
        (warning,) = done.stderr.splitlines()
        assert warning.startswith("warning: ")
        assert [word for word in words if word not in warning] == []
        assert "warning" not in done.stdout
    (warning,) = json.loads(here.hpo("validate", "branin.yaml", "--json", *overrides).stdout)[
        "warnings"
    ]
    assert [word for word in words if word not in warning] == []


def test_a_run_warns_before_it_starts_anything(here: Shell) -> None:
    done = here.hpo("run", "branin.yaml", "--resume", CONDITIONAL, "-osampler=gp")
    assert done.returncode == 2
    assert done.stderr.startswith("warning: sampler gp")
    assert "nothing to resume" in done.stderr


def test_validate_and_the_plan_say_what_is_conditional(here: Shell) -> None:
    done = here.hpo("validate", "branin.yaml", CONDITIONAL)
    assert "over 2 parameters (1 conditional), infinitely many configs" in done.stdout
    done = here.hpo("run", "branin.yaml", "--dry-run", CONDITIONAL)
    assert "conditions  x2 when x1 is 0 or 9" in done.stdout
    done = here.hpo("validate", "branin.yaml", CONDITIONAL, "-osampler=grid", "--json")
    size = json.loads(done.stdout)
    assert (size["n_conditional"], size["n_grid"], size["n_distinct_configs"]) == (1, 4, None)


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
