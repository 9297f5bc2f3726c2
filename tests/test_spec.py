"""A spec: what is refused and how that is said, and that what is written reads back equal."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from test_space import finite_parameters, scalars, texts

from hpo.errors import SpecError
from hpo.search import values
from hpo.spec import (
    CategoricalParameter,
    ExperimentSpec,
    FloatParameter,
    IntParameter,
    differences,
    load_spec,
    parse_recorded_spec,
    parse_spec,
    spec_to_yaml,
)

OBJECTIVE = "objective: {metric: loss, direction: minimize}"
SPEC = f"""\
name: branin
trainable: analytic
{OBJECTIVE}
fixed: {{noise: 0.1}}
search_space:
  x1: {{type: float, low: -5, high: 10}}
  x2: {{type: float, low: 0, high: 15, step: 0.5}}
sampler: {{name: random}}
scheduler: {{name: asha}}
budget: {{n_trials: 6, max_epochs: 4}}
"""

USERS_OWN = "trainables.analytic:train"
"""A trainable by its module, as a user names one: its hyperparameters may have any name."""


def problems_of(text: str, *overrides: str) -> list[str]:
    """What is wrong with a spec, line by line; `SpecError` if it is fine is a failed test."""
    with pytest.raises(SpecError) as caught:
        parse_spec(text, "spec.yaml", overrides)
    return list(caught.value.problems)


def place_of(marked: str) -> tuple[str, str]:
    """A text without its mark ``»``, and the place "spec.yaml:line:column" where the mark stood."""
    before, _, after = marked.partition("»")
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    return before + after, f"spec.yaml:{line}:{column}"


def bad(name: str, old: str, marked: str, *words: str) -> Any:
    """A case: ``old`` of the good spec becomes ``marked``, ``»`` stands where the problem is."""
    assert old in SPEC
    return pytest.param(SPEC.replace(old, marked), words, id=name)


BAD_SPECS = [
    bad("unknown key", "{name: asha}", "{name: asha, »grace_epoch: 2}",
        "scheduler.grace_epoch", "unknown key", "did you mean 'grace_epochs'?",
        "Known: grace_epochs, name, reduction_factor"),
    bad("unknown section", "budget:", "»limits: {}\nbudget:", "limits: unknown key", "budget, "),
    bad("unknown key of a parameter", "low: -5", "low: -5, »stepp: 1",
        "search_space.x1.stepp", "did you mean 'step'?",
        "Known: default, grid, high, log, low, step, type, when"),
    bad("repeated key", "fixed:", "»name: other\nfixed:",
        "name: repeats a key that stands at spec.yaml:1:1"),
    bad("missing key", "{type: float, low: -5, ", "»{type: float, ",
        "search_space.x1.low: this key is required"),
    bad("missing section", f"name: branin\ntrainable: analytic\n{OBJECTIVE}",
        "»name: branin\ntrainable: analytic", "objective: this key is required"),
    bad("low above high", "low: -5", "low: »12", "search_space.x1.low", "must not exceed `high`",
        "10", "got 12"),
    bad("log from zero", "low: -5", "log: true, low: »0", "`low` must be > 0 when `log` is true",
        "got 0"),
    bad("log from below zero", "low: -5", "log: true, low: »-5", "`low` must be > 0", "got -5"),
    bad("step with log", "low: -5", "log: true, low: 1, step: »1", "search_space.x1.step",
        "`step` and `log` exclude each other", "got 1"),
    bad("high between two steps", "high: 15", "high: »15.2", "search_space.x2.high",
        "`low` plus a whole number of steps, e.g. 15.0", "got 15.2"),
    bad("step of zero", "step: 0.5", "step: »0", "search_space.x2.step", "> 0", "got 0"),
    bad("empty choices", "{type: float, low: -5, high: 10}",
        "{type: categorical, choices: »[]}", "search_space.x1.choices", "at least 1", "got []"),
    bad("repeated choice", "{type: float, low: -5, high: 10}",
        "{type: categorical, choices: »[1, 2, 1.0]}", "once", "1.0 is repeated"),
    bad("unknown type", "{type: float, low: -5", "{type: »flaot, low: -5",
        "search_space.x1.type", "'flaot'", "did you mean 'float'?", "categorical, float, int"),
    bad("parameter without type", "{type: float, low: -5, high: 10}", "»{low: -5, high: 10}",
        "search_space.x1", "`type`", "'low': -5"),
    bad("unknown sampler", "name: random", "name: »randm", "sampler.name", "'randm'",
        "did you mean 'random'?", "Known: auto, cmaes, gp, grid, nsga2, random, sobol, tpe"),
    bad("unknown sampler in short", "{name: random}", "»tpee", "'tpee'", "did you mean 'tpe'?"),
    bad("unknown scheduler", "name: asha", "name: »ahsa", "scheduler.name", "'ahsa'",
        "did you mean 'asha'?", "Known: asha, hyperband, median, none, one_epoch_top_k"),
    bad("unknown trainable", ": analytic", ": »analytc", "trainable", "'analytc'",
        "did you mean 'analytic'?", "Known: analytic, cnn", "my_module:train"),
    bad("trainable in no module", ": analytic", ": »no_such_module:train", "no_such_module.py"),
    bad("unknown metric", "metric: loss", "metric: »los", "objective.metric", "'los'",
        "did you mean 'loss'?", "Known: loss"),
    bad("unknown hyperparameter", "{noise: 0.1}", "{noize: »0.1}", "fixed.noize", "'noize'",
        "did you mean 'noise'?", "Known: noise, x1, x2"),
    bad("unknown searched hyperparameter", "x1: {", "x3: »{", "search_space.x3", "'x3'",
        "Known: noise, x1, x2"),
    bad("fixed and searched", "noise: 0.1", "x1: »1", "fixed.x1", "also in `search_space`"),
    bad("seed as a hyperparameter", "noise: 0.1", "seed: »1", "fixed.seed", "the spec's `seed`"),
    bad("asha without max_epochs", "{n_trials: 6, max_epochs: 4}", "»{n_trials: 6}", "budget",
        "asha needs `max_epochs`"),
    bad("grace beyond the budget", "name: asha", "name: asha, grace_epochs: »5",
        "scheduler.grace_epochs", "must not exceed budget.max_epochs=4", "got 5"),
    bad("hyperband without max_epochs", "asha}\nbudget: {n_trials: 6, max_epochs: 4}",
        "hyperband}\nbudget: »{n_trials: 6}", "budget", "hyperband needs `max_epochs`"),
    bad("more to finish than trials", "name: asha", "name: one_epoch_top_k, k: »7", "scheduler.k",
        "must not exceed budget.n_trials=6", "got 7"),
    bad("more to finish than trials by default",
        "scheduler: {name: asha}\nbudget: {n_trials: 6",
        "scheduler: »one_epoch_top_k\nbudget: {n_trials: 4",
        "scheduler", "`k` must not exceed budget.n_trials=4", "got 5"),
    bad("first epochs that are all", "name: asha", "name: one_epoch_top_k, epochs: »4",
        "scheduler.epochs", "must be < budget.max_epochs=4", "got 4"),
    bad("patience where nothing improves", "asha}\nbudget: {n_trials: 6",
        "one_epoch_top_k}\nbudget: {patience_trials: »3, n_trials: 6", "budget.patience_trials",
        "one_epoch_top_k", "finishes none"),
    bad("constraint on nothing known", "budget:", "constraints: {los: »{max: 1}}\nbudget:",
        "constraints.los: unknown quantity of 'analytic'", "did you mean 'loss'?", "Known: loss"),
    bad("constraint without an end", "budget:", "constraints: {loss: »{}}\nbudget:",
        "constraints.loss: give `max`, `min` or both"),
    bad("constraint that nothing keeps", "budget:",
        "constraints: {loss: {min: »2, max: 1}}\nbudget:", "constraints.loss.min",
        "must not exceed `max`, which is 1.0", "got 2.0"),
    bad("terminator that never judges", "n_trials: 6", "terminator: »true, n_trials: 30",
        "budget.terminator", "after 30 COMPLETE trials", "n_trials=30", "got True"),
    bad("unknown trial seed", "budget:", "trial_seed: »each\nbudget:", "trial_seed",
        "'per_trial' or 'common'", "got 'each'"),
    pytest.param(
        SPEC.replace("random", "grid").replace("x1: {", "x1: »{"),
        ("search_space.x1", "grid needs a finite number of values", "`step`",
         "x1: {type: float, low: -5, high: 10, grid: 5}"),
        id="grid of a continuous float",
    ),
    bad("one grid point", "high: 15,", "high: 15, grid: »1,", "x2.grid: must be >= 2", "got 1"),
    bad("endless grid points", "high: 15,", "high: 15, grid: »1001,", "<= 1000", "got 1001"),
    bad("default outside the range", "high: 10}", "high: 10, default: »11}",
        "search_space.x1.default", "must be a number from -5.0 to 10.0", "got 11"),
    bad("default between two steps", "step: 0.5}", "step: 0.5, default: »0.3}",
        "from 0.0 to 15.0 in steps of 0.5", "got 0.3"),
    bad("default that is no choice", "{type: float, low: -5, high: 10}",
        "{type: categorical, choices: [a, b], default: »null}", "must be one of 'a', 'b'",
        "got None"),
    bad("condition that is none", "high: 15,", "high: 15, when: »x1,", "search_space.x2.when",
        "must be a mapping", "got 'x1'"),
    bad("condition on an unknown parameter", "high: 15,", "high: 15, when: {x11: »1},",
        "search_space.x2.when.x11", "unknown parameter: 'x11'; did you mean 'x1'? Known: x1"),
    bad("condition on a fixed value", "high: 15,", "high: 15, when: {noise: »0.1},",
        "`noise` is fixed, so it decides nothing", "move `noise` into `search_space`"),
    bad("condition on itself", "high: 15,", "high: 15, when: {x2: »1},", "decide about itself"),
    bad("condition on a later parameter", "high: 10}", "high: 10, when: {x2: »1}}",
        "search_space.x1.when.x2", "`x2` stands below; move it above `x1`"),
    bad("condition on a float", "high: 15,", "high: 15, when: {x1: »1},", "`x1` is a float",
        "categorical or int"),
    bad("mapping as a condition's value", "high: 15,", "high: 15, when: {x1: »{a: 1}},",
        "must be a number, a word, true, false, null or a list of them", "got {'a': 1}"),
    bad("enqueue that is no list", "budget:", "enqueue: »{x1: 1}\nbudget:", "must be a list"),
    bad("enqueued word", "budget:", "enqueue: [»x1]\nbudget:", "enqueue.0", "must be a mapping"),
    bad("enqueued list of values", "budget:", "enqueue: [{x1: »[1, 2]}]\nbudget:", "enqueue.0.x1",
        "must be a number, a word, true, false or null", "got [1, 2]"),
    bad("enqueued nothing", "budget:", "enqueue: [{x1: 1}, »{}]\nbudget:", "enqueue.1",
        "names no parameter"),
    bad("enqueued unknown parameter", "budget:", "enqueue: [{x3: »1}]\nbudget:", "enqueue.0.x3",
        "unknown parameter: 'x3'", "Known: x1, x2"),
    bad("enqueued value outside", "budget:", "enqueue: [{x1: 1, x2: »15.5}]\nbudget:",
        "enqueue.0.x2", "must be a number from 0.0 to 15.0", "got 15.5"),
    bad("warm start of one word", "budget:", "warm_start: »cnn\nbudget:", "must be a list",
        "got 'cnn'"),
    bad("word for a number", "n_trials: 6", 'n_trials: »"3"', "budget.n_trials",
        "must be a whole number", "got '3'"),
    bad("fraction for a whole number", "n_trials: 6", "n_trials: »1.5", "whole number", "got 1.5"),
    bad("truth for a whole number", "n_trials: 6", "n_trials: »true", "whole number", "got True"),
    bad("yes is a word", "low: -5", "low: 1, log: »yes", "search_space.x1.log",
        "must be true or false", "got 'yes'"),
    bad("number for a word", "name: branin", "name: »2024", "name: must be a word", "got 2024"),
    bad("word for a section", "{metric: loss, direction: minimize}", "»loss", "objective",
        "must be a mapping", "got 'loss'"),
    bad("list for a section", "budget:", "resources: »[1]\nbudget:", "resources",
        "must be a mapping", "got [1]"),
    bad("infinity", "low: -5", "low: »-.inf", "search_space.x1.low", "finite", "got -inf"),
    bad("no trials", "n_trials: 6", "n_trials: »0", "budget.n_trials", ">= 1", "got 0"),
    bad("unknown direction", "minimize", "»smaller", "objective.direction", "'maximize'",
        "'minimize'", "got 'smaller'"),
    bad("name that leaves the folder", "name: branin", "name: »../x", "name: must begin with",
        "got '../x'"),
    bad("a core and a half", "budget:", "resources: {cpu: »1.5}\nbudget:", "resources.cpu",
        "above 1 must be a whole number", "got 1.5"),
    bad("mapping as a fixed value", "noise: 0.1", "noise: »{a: 1}", "fixed.noise", "number",
        "got {'a': 1}"),
    bad("no YAML", "name: random}", "name: random\nscheduler»: {a: b}}", "is no YAML"),
    bad("tab", "budget:", "»\tbudget:", "is no YAML"),
    bad("control character", ": analytic", ": »\x01", "is no YAML"),
    bad("two documents", "budget:", "»---\nbudget:", "is no YAML"),
]  # fmt: skip


@pytest.mark.parametrize(("marked", "words"), BAD_SPECS)
def test_a_problem_is_told_with_its_place_value_rule_and_way_out(
    marked: str, words: tuple[str, ...]
) -> None:
    text, place = place_of(marked)
    (problem,) = problems_of(text)
    assert problem.startswith(f"{place}: ")
    assert [word for word in words if word not in problem] == []


CONDITIONS = f"""\
name: conditions
trainable: {USERS_OWN}
{OBJECTIVE}
search_space:
  a: {{type: int, low: 1, high: 3}}
  b: {{type: categorical, choices: [x, y], when: {{a: [1, 2]}}}}
  c: {{type: int, low: 0, high: 1, when: {{b: x}}}}
  lr: {{from: lr_finder}}
budget: {{n_trials: 6}}
"""


@pytest.mark.parametrize(
    ("old", "marked", "words"),
    [
        ("a: [1, 2]", "a: »[1, 4]", "b.when.a: `a` must be a whole number from 1 to 3, got 4"),
        ("a: [1, 2]", "a: »true", "`a` must be a whole number from 1 to 3, got True"),
        ("a: [1, 2]", "a: »[]", "must name at least one value of `a`, got []"),
        ("b: x}", "b: »z}", "c.when.b: `b` must be one of 'x', 'y', got 'z'"),
        ("b: x}", "lr: »1}", "`lr` stands below; move it above `c`"),
        ("b: x}", "b: x, »a: 3}", "c.when: never holds: no value of `a` agrees"),
        ("high: 3}", "high: 3, when: {c: »1}}", "a.when.c: is a circle: a -> c -> b -> a"),
        ("budget:", "enqueue: [{a: 1, c: »1}]\nbudget:", "c: is drawn only when b is x; say so"),
        ("budget:", "enqueue: [{a: 3, b: »x}]\nbudget:", "b: is drawn only when a is 1 or 2; say"),
        ("budget:", "enqueue: [{lr: »0.1}]\nbudget:", "lr: its range is found before the search"),
    ],
)
def test_what_is_wrong_with_a_condition_is_told_in_its_place(
    old: str, marked: str, words: str
) -> None:
    assert old in CONDITIONS
    text, place = place_of(CONDITIONS.replace(old, marked, 1))
    found = [problem for problem in problems_of(text) if "find_lr" not in problem]
    (problem,) = found
    assert words in problem
    line, column = place.split(":")[1:]
    if "never holds" not in words:  # which is about the condition as a whole
        assert problem.startswith(f"spec.yaml:{line}:{column}: ")


def test_the_suggested_line_of_a_grid_is_a_valid_one() -> None:
    text = SPEC.replace("{name: random}", "grid")
    (problem,) = problems_of(text)
    line = problem.splitlines()[-1].strip()
    assert parse_spec(text.replace("x1: {type: float, low: -5, high: 10}", line), "spec.yaml")


def test_a_parameter_may_be_called_like_a_key_of_its_own() -> None:
    space = "{low: {type: int, high: 3}, int: {type: int, low: 1, high: 3, int: 1}}"
    head, tail = SPEC.replace("analytic", USERS_OWN).split("search_space:")
    found = problems_of(f"{head}search_space: {space}\nsampler{tail.partition('sampler')[2]}")
    assert [problem.split(" ", maxsplit=1)[1] for problem in found] == [
        "search_space.low.low: this key is required",
        "search_space.int.int: unknown key. Known: default, grid, high, log, low, step, type, when",
    ]


def test_a_range_of_more_steps_than_decimals_count_is_refused() -> None:
    (problem,) = problems_of(SPEC.replace("high: 15, step: 0.5", "high: 1e30, step: 0.7"))
    assert "search_space.x2" in problem


def test_the_good_spec_of_these_tests_is_good() -> None:
    assert parse_spec(SPEC, "spec.yaml").search_space["x2"] == FloatParameter(
        type="float", low=0, high=15, step=0.5
    )


def test_all_problems_are_listed_at_once_in_the_order_of_the_lines() -> None:
    text = (
        SPEC.replace("branin", "../x")
        .replace("loss", "los")
        .replace("low: -5", "low: 20")
        .replace("low: 0,", "low: zero,")
        .replace("random", "randm")
        .replace("n_trials: 6", "n_trials: 0")
    ) + "seed: -1\nseeed: 1\nname: twice\n"
    found = problems_of(text, "concurrency=0", "finalists.k=x")
    assert [problem.partition(": ")[0] for problem in found] == [
        "spec.yaml:1:7", "spec.yaml:3:21", "spec.yaml:6:26", "spec.yaml:7:26", "spec.yaml:8:17",
        "spec.yaml:10:20", "spec.yaml:11:7", "spec.yaml:12:1", "spec.yaml:13:1",
        "-o concurrency=0", "-o finalists.k=x",
    ]  # fmt: skip


def test_a_spec_error_ends_the_command_with_code_2_and_counts_the_problems() -> None:
    with pytest.raises(SpecError, match=r"^spec\.yaml has 2 problems:\n  spec") as caught:
        parse_spec(SPEC.replace("loss", "los").replace("random", "randm"), "spec.yaml")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(None, "no such file", id="missing"),
        pytest.param(b"", "must be a mapping", id="empty"),
        pytest.param(b"# nothing yet\n", "must be a mapping", id="only a comment"),
        pytest.param(b"- a\n- b\n", "must be a mapping", id="list"),
        pytest.param(b"\xff\xfe\x00", "cannot be read", id="no UTF-8"),
    ],
)
def test_a_file_that_is_no_spec_is_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "spec.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpecError, match=words) as caught:
        load_spec(path)
    assert str(path) in str(caught.value)


def test_a_folder_is_no_spec(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        load_spec(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "../x", "/x", "a/b", "a\\b", "..", ".", ".x", "-x", "", " x", "x ", "x\n", "x\0",
        "x\x1b[2J", "x" * 65, "\u202ex", "\u00e9", "~x", "$HOME", "x;y", "x*",
        "hpo.db", "HPO.DB-wal", "mlflow.db", "mlArtifacts",
    ],
)  # fmt: skip
def test_a_name_that_is_no_folder_of_its_own_is_refused(name: str) -> None:
    (problem,) = problems_of(SPEC.replace("name: branin", f"name: {json.dumps(name)}"))
    assert problem.startswith("spec.yaml:1:7: name: ")
    (problem,) = problems_of(SPEC, f"name={json.dumps(name)}")
    assert "name: " in problem


@pytest.mark.parametrize("name", ["x", "X", "0", "a.b", "a_b-c", "x" * 64, "hpo", "mlflow-2"])
def test_a_name_of_letters_digits_and_a_few_signs_is_taken(name: str) -> None:
    assert parse_spec(SPEC, "spec.yaml", [f"name={json.dumps(name)}"]).name == name


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system [touch evil]",
        "!!python/name:os.system x",
        "!!binary aGk=",
        "!mine {a: 1}",
    ],
)
def test_tags_that_name_code_or_anything_else_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    problems = problems_of(SPEC.replace("noise: 0.1", f"noise: {value}"))
    tag = value.split(maxsplit=1)[0].replace("!!", "tag:yaml.org,2002:")
    assert f"spec.yaml:4:16: fixed.noise: no tags such as {tag}" in problems
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_an_end_is_not_read_to_its_end() -> None:
    with pytest.raises(SpecError, match="longer than 200,000 characters"):
        load_spec(Path("/dev/zero"))


def test_what_is_too_long_to_be_recorded_is_refused_before_anything_runs() -> None:
    word = f"  c: {{type: categorical, choices: [&word {'x' * 1000}, y]}}\nsampler"
    often = ", ".join(["{c: *word}"] * 200)
    text = f"{SPEC.replace('sampler', word)}enqueue: [{often}]\n".replace("analytic", "own:train")
    with pytest.raises(SpecError, match=r"written out, .* it is longer than 200,000 characters"):
        parse_spec(text, "spec.yaml", (), None)


def test_aliases_of_aliases_are_refused_before_they_are_spelled_out() -> None:
    """Six lists of ten aliases each would be a million values."""
    tens = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 7))
    (problem,) = problems_of(f"{SPEC}a0: &a0 x\n{tens}")
    assert problem == "holds more than 20,000 values, aliases counted"


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("&a [*a]", id="a list that holds itself"),
        pytest.param("&a {b: *a}", id="a mapping that holds itself"),
        pytest.param("[" * 600 + "]" * 600, id="600 lists in each other"),
    ],
)
def test_endless_nesting_is_a_problem_of_the_spec(value: str) -> None:
    assert problems_of(SPEC.replace("noise: 0.1", f"noise: {value}"))


def test_an_override_sets_one_value() -> None:
    spec = parse_spec(SPEC, "spec.yaml", ["budget.n_trials=9", "seed=3", "sampler={name: tpe}"])
    changed = differences(parse_spec(SPEC, "spec.yaml"), spec)
    assert changed == [
        "seed: 0 -> 3",
        "sampler.name: random -> tpe",
        "budget.n_trials: 6 -> 9",
        "sampler.n_startup_trials: absent -> 10",
    ]


def test_an_override_makes_the_section_it_needs() -> None:
    assert parse_spec(SPEC, "spec.yaml", ["resources.cpu=0.5"]).resources.cpu == 0.5


def test_the_last_of_two_overrides_counts() -> None:
    assert parse_spec(SPEC, "spec.yaml", ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("budget.n_trials=zero", "budget.n_trials: must be a whole number, got 'zero'"),
        ("search_space.x1.low=11", "search_space.x1.low: `low` must not exceed `high`"),
        ("sampler.name=tpee", "did you mean 'tpe'?"),
        ("objective.metric=los", "did you mean 'loss'?"),
        ("sampler.n_startup=3", "sampler.n_startup: unknown key"),
        ("sampelr.name=tpe", "sampelr: unknown key; did you mean 'sampler'?"),
        ("name.x=3", "'name' is no section"),
        ("seed=[1", "is no YAML"),
        ("seed=", "seed: must be a whole number"),
        ("seed", "must have the form path=value"),
        ("=3", "must have the form path=value"),
        ("budget..n_trials=3", "must have the form path=value"),
    ],
)
def test_a_bad_override_is_told_as_it_was_typed(override: str, words: str) -> None:
    (problem,) = problems_of(SPEC, override)
    assert problem.startswith(f"-o {override}: ")
    assert words in problem


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "0.0001", "1.0e-04", "+.0001"])
def test_numbers_are_read_as_scientists_write_them(text: str) -> None:
    fixed = parse_spec(SPEC.replace("noise: 0.1", f"noise: {text}"), "spec.yaml").fixed
    assert fixed == {"noise": 0.0001}


@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "1e", "2024-01-31", '"1e-4"'])
def test_words_stay_words(word: str) -> None:
    spec = parse_spec(SPEC.replace("noise: 0.1", f"noise: {word}"), "spec.yaml")
    assert spec.fixed == {"noise": word.strip('"')}


@pytest.mark.parametrize("section", ["sampler", "scheduler"])
def test_a_name_alone_is_short_for_its_section(section: str) -> None:
    long = SPEC.replace("name: random", "name: tpe")
    name = {"sampler": "tpe", "scheduler": "asha"}[section]
    short = long.replace(f"{section}: {{name: {name}}}", f"{section}: {name}")
    assert short != long
    assert parse_spec(short, "spec.yaml") == parse_spec(long, "spec.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "search_spaces").iterdir()), ids=lambda p: p.name)
def test_every_file_in_search_spaces_is_valid(path: Path) -> None:
    spec = load_spec(path)
    assert parse_spec(spec_to_yaml(spec), "written") == spec


def test_a_recorded_spec_outlives_its_trainable() -> None:
    gone = SPEC.replace("analytic", "module_that_was_deleted:train")
    assert parse_recorded_spec(gone).trainable == "module_that_was_deleted:train"
    assert "module_that_was_deleted" in problems_of(gone)[0]


@st.composite
def continuous_floats(draw: st.DrawFn) -> FloatParameter:
    log = draw(st.booleans())
    ends = st.floats(5e-324 if log else None, allow_nan=False, allow_infinity=False)
    low, high = sorted([draw(ends), draw(ends)])
    return FloatParameter(type="float", low=low, high=high, log=log)


@st.composite
def with_condition(draw: st.DrawFn, name: str, parent: Any, child: Any) -> Any:
    """The parameter with what only some have: a default, points of a grid, a condition."""
    given = child.model_dump()
    if (axis := values(child)) is not None:
        given["default"] = draw(st.sampled_from(axis[:20]))
    if child.type != "categorical":
        given["grid"] = draw(st.integers(2, 9))
    if parent.type != "float":
        some = st.sampled_from((values(parent) or [])[:20])
        given["when"] = {name: draw(some | st.lists(some, min_size=1, max_size=3))}
    return type(child).model_validate(given)


def opening_of_all(space: dict[str, Any]) -> dict[str, Any]:
    """The first value of each parameter that is always drawn and has one."""
    return {
        name: axis[0]
        for name, parameter in space.items()
        if not parameter.when and (axis := values(parameter)) is not None
    }


@st.composite
def limits(draw: st.DrawFn) -> dict[str, float]:
    low, high = sorted(draw(st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=2)))
    return draw(st.sampled_from([{"min": low}, {"max": high}, {"min": low, "max": high}]))


@st.composite
def specs(draw: st.DrawFn) -> ExperimentSpec:
    """Any valid spec of a user's trainable."""
    sampler = draw(
        st.sampled_from(["auto", "cmaes", "gp", "grid", "nsga2", "random", "sobol", "tpe"])
    )
    parameters = finite_parameters if sampler == "grid" else finite_parameters | continuous_floats()
    names = texts.filter(lambda name: name not in ("", "seed"))
    space = draw(st.dictionaries(names, parameters, min_size=1, max_size=4))
    for parent, child in itertools.pairwise(space):
        if draw(st.booleans()):
            space[child] = draw(with_condition(parent, space[parent], space[child]))
    fixed = draw(st.dictionaries(names, scalars | st.lists(scalars, max_size=3), max_size=4))
    max_epochs = draw(st.integers(1, 100))
    schedulers = [
        {"name": "none"},
        {"name": "median", "min_trials": draw(st.integers(1, 9))},
        {"name": "asha", "grace_epochs": draw(st.integers(1, max_epochs))},
        {"name": "hyperband", "grace_epochs": draw(st.integers(1, max_epochs))},
    ]
    return ExperimentSpec.model_validate(
        {
            "name": draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)),
            "trainable": USERS_OWN,
            "seed": draw(st.integers(0, 2**64)),
            "objective": {
                "metric": draw(texts.filter(bool)),
                "direction": draw(st.sampled_from(["maximize", "minimize"])),
            },
            "fixed": {name: value for name, value in fixed.items() if name not in space},
            "search_space": space,
            "enqueue": [entry] if (entry := opening_of_all(space)) else [],
            "warm_start": draw(st.lists(texts, max_size=2)),
            "sampler": sampler,
            "scheduler": draw(st.sampled_from(schedulers)),
            "budget": {
                "n_trials": draw(st.integers(1, 10**6)),
                "max_epochs": max_epochs,
                "time_limit_s": draw(st.none() | st.floats(1e-3, 1e9)),
                "target_value": draw(st.none() | st.floats(-1e9, 1e9)),
                "patience_trials": draw(st.none() | st.integers(1, 99)),
            },
            "trial_seed": draw(st.sampled_from(["blocked", "per_trial", "common"])),
            "constraints": draw(st.dictionaries(texts, limits(), max_size=2)),
            "resources": {"cpu": draw(st.sampled_from([0.25, 1, 4])), "gpu": 0.5},
            "concurrency": draw(st.none() | st.integers(1, 64)),
        }
    )


@settings(deadline=None, max_examples=50)
@given(specs())
def test_what_is_written_reads_back_equal(spec: ExperimentSpec) -> None:
    """Types too: 1, 1.0 and true are equal in Python and different in a spec."""
    again = parse_spec(spec_to_yaml(spec), "written")
    assert again == spec
    assert repr(again) == repr(spec)
    assert differences(spec, again) == []


@pytest.mark.parametrize("character", ["\x00", "\x1b", "\x7f", "\x85", "\ufeff", "\u2028"])
def test_a_word_with_an_odd_character_reads_back_equal(character: str) -> None:
    spec = parse_spec(SPEC, "spec.yaml").model_copy(update={"fixed": {"noise": f"a{character}b"}})
    assert parse_recorded_spec(spec_to_yaml(spec)) == spec


def test_differences_name_what_changed_appeared_and_went() -> None:
    def space(**parameters: IntParameter | CategoricalParameter) -> ExperimentSpec:
        spec = parse_spec(SPEC, "spec.yaml")
        return spec.model_copy(update={"search_space": parameters})

    depth, wide = (IntParameter(type="int", low=1, high=high) for high in (2, 3))
    kind = CategoricalParameter(type="categorical", choices=["a"])
    assert differences(space(depth=depth), space(depth=depth)) == []
    assert differences(space(depth=depth), space(depth=wide, kind=kind)) == [
        "search_space.depth.high: 2 -> 3",
        "search_space.kind.type: absent -> categorical",
        "search_space.kind.choices: absent -> ['a']",
    ]
    assert "search_space.kind.type: categorical -> absent" in differences(
        space(depth=depth, kind=kind), space(depth=depth)
    )


def test_each_value_of_a_hyperparameter_of_the_cnn_is_judged_in_its_place() -> None:
    text = """
name: cnn
trainable: cnn
objective: {metric: val_accuracy, direction: maximize}
fixed:
  block: resnt
  filters: 0
search_space:
  depth: {type: int, low: 0, high: 3}
  kernel_size: {type: float, low: 1, high: 5}
  activation: {type: categorical, choices: [relu, gleu]}
  resize: {type: categorical, choices: [6, 9]}
budget: {n_trials: 3, max_epochs: 2}
"""
    found = problems_of(text)
    assert "fixed.block: must be 'vgg', 'resnet', 'inception' or 'dense', got 'resnt'" in found[0]
    assert "spec.yaml:7:12: fixed.filters: must be >= 1, got 0" in found[1]
    assert "search_space.depth.low: must be >= 1, got 0" in found[2]
    assert "search_space.kernel_size.low: must be of type int, got 1.0" in found[3]
    assert "search_space.kernel_size.high: must be of type int, got 5.0" in found[4]
    assert "search_space.activation.choices.1: must be 'relu'" in found[5]
    assert len(found) == 6
