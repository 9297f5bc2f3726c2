"""A search goes on with the code and the data that it began with, or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from commands import Shell, assert_no_traceback
from here import places_of, run_here, spec_of
from without_ray import KilledError

from hpo.errors import UnfitEnvironmentError, UsageError
from hpo.going_on import changed_libraries, find_record
from hpo.places import Places
from hpo.provenance import code_of, libraries_of
from hpo.workspace import Workspace, find_workspace, open_workspace
from storage import record_data_config
from trainables import trainable_sources

TRAIN = """
from helper import halved

def train(config, trial):
    for epoch in range(1, 4):
        yield {"loss": halved(config["x"]) / epoch}

def fingerprint(config, trial):
    return config["kind"] + (trial.data_dir / "data.txt").read_text()
"""
SPEC = """
name: mine
trainable: mine:train
objective: {metric: loss, direction: minimize}
search_space:
  x: {type: float, low: 0, high: 1}
  kind: {type: categorical, choices: [a, b]}
sampler: random
budget: {n_trials: 4, max_epochs: 3}
concurrency: 1
finalists: {k: 1, n_seeds: 2, confirmations: 0}
"""
N_REPORTS = 3 * 4  # of the search; then come the re-runs


@pytest.fixture
def places(tmp_path: Path, empty_store: Path) -> Places:
    (tmp_path / "mine.py").write_text(TRAIN)
    (tmp_path / "helper.py").write_text("import json\n\ndef halved(x):\n    return x / 2\n")
    (tmp_path / "mine.yaml").write_text(SPEC)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "data.txt").write_text(" first")
    return places_of(tmp_path, empty_store)


def cut_off(places: Places, n_reports: int = 4) -> None:
    """Killed in its second trial, if no other time is given."""
    with pytest.raises(KilledError):
        run_here(spec_of(SPEC, places), places, n_reports=n_reports)


def resumed(places: Places, *overrides: str) -> Workspace:
    return run_here(spec_of(SPEC, places, *overrides), places, resume=True)


# --- code ---


def test_the_code_of_a_trainable_is_its_module_and_what_it_imports_beside_it(
    tmp_path: Path,
) -> None:
    files = {
        "top.py": "import numpy, low\nfrom pack.inner import deep\nimport trainables",
        "low.py": "def later():\n    from pack import other",
        "pack/__init__.py": "",
        "pack/inner.py": "from . import near\nfrom .sub.far import x",
        "pack/near.py": "import top",
        "pack/other.py": "this is no Python",
        "pack/sub/far.py": "from ... import beyond\nfrom ..side import *",
        "pack/side.py": "",
        "pack/inner_unused.py": "",
        "unused.py": "",
        "numpy.txt": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = trainable_sources("top:train", [tmp_path])
    unused = {"unused.py", "pack/inner_unused.py", "numpy.txt"}
    assert set(found) == set(files) - unused
    assert all(len(sha256) == 64 for sha256 in found.values())
    (tmp_path / "pack/near.py").write_text("import top  # changed")
    changed = trainable_sources("top:train", [tmp_path])
    assert {name for name in files if found.get(name) != changed.get(name)} == {"pack/near.py"}


def test_the_code_of_a_registered_trainable_is_the_part_of_our_package_that_it_needs() -> None:
    analytic, cnn = trainable_sources("analytic"), trainable_sources("cnn")
    assert {"trainables/analytic.py", "trainables/contract.py"} <= set(analytic)
    assert {"trainables/cnn/training.py", "trainables/images/augmentation.py"} <= set(cnn)
    assert "trainables/analytic.py" not in cnn
    assert "trainables/cnn/training.py" not in analytic
    assert trainable_sources("no_such_module:train") == {}


def test_of_an_installed_trainable_it_is_the_code_of_its_package() -> None:
    found = trainable_sources("rich.live:Live")
    assert {"rich/live.py", "rich/table.py"} <= set(found)
    assert all(name.startswith("rich/") for name in found)


def test_with_other_code_a_search_does_not_go_on(places: Places) -> None:
    """The message names the file; with the code it had, the search goes on."""
    cut_off(places)
    folder = places.imports[0]
    before = (folder / "helper.py").read_text()
    (folder / "helper.py").write_text(before.replace("/", "//"))
    shell = Shell(folder)
    done = shell.hpo("run", "mine.yaml", "--resume")
    assert done.returncode == 2
    assert "begun with other code of its trainable 'mine:train'" in done.stderr
    assert "\n  helper.py: " in done.stderr
    assert "-o name=mine-2 -o warm_start=[mine]" in done.stderr
    assert_no_traceback(done)
    (folder / "helper.py").write_text(before)
    assert find_record(spec_of(SPEC, places), places, resume=True) is not None


def test_a_file_that_is_gone_is_named_too(places: Places) -> None:
    cut_off(places)
    (places.imports[0] / "helper.py").rename(places.imports[0] / "mended.py")
    mine = places.imports[0] / "mine.py"
    mine.write_text(mine.read_text().replace("helper", "mended"))
    with pytest.raises(UsageError, match=r"helper.py: \w{12} -> none\n  mended.py: none -> \w{12}"):
        find_record(spec_of(SPEC, places), places, resume=True)


def test_before_anything_was_trained_other_code_begins_anew(places: Places) -> None:
    cut_off(places, n_reports=0)
    first = find_workspace("mine", places).experiment
    mine = places.imports[0] / "mine.py"
    mine.write_text(mine.read_text().replace("/ epoch", "* epoch"))
    spec = spec_of(SPEC, places)
    recorded = find_record(spec, places, resume=True)
    second = open_workspace(spec, places, recorded).experiment
    assert first.id != second.id
    assert code_of(first.versions).keys() == code_of(second.versions).keys()
    assert code_of(first.versions) != code_of(second.versions)


def test_a_finished_experiment_shows_its_result_whatever_has_become_of_its_code(
    places: Places,
) -> None:
    """More trials would be other ones; and a budget below what is spent is none."""
    run_here(spec_of(SPEC, places), places)
    shell = Shell(places.imports[0])
    fewer = shell.hpo("run", "mine.yaml", "--resume", "--trials", "3")
    assert fewer.returncode == 2
    assert "budget.n_trials=3, but 4 trials of experiment 'mine' are finished" in fewer.stderr
    assert "--trials 4" in fewer.stderr
    more = spec_of(SPEC, places, "budget.n_trials=6")
    assert find_record(more, places, resume=True) is not None
    mine = places.imports[0] / "mine.py"
    mine.write_text(mine.read_text().replace("/ epoch", "* epoch"))
    done = shell.hpo("run", "mine.yaml", "--resume")
    assert done.returncode == 0, done.stderr
    assert "there is nothing left to do" in done.stderr
    with pytest.raises(UsageError, match="other code"):
        find_record(more, places, resume=True)


def test_a_record_without_code_is_accepted(places: Places) -> None:
    cut_off(places)
    workspace = find_workspace("mine", places)
    old = replace(workspace.experiment, versions=libraries_of(workspace.experiment.versions))
    workspace.ledger.put(old)
    mine = places.imports[0] / "mine.py"
    mine.write_text(mine.read_text() + "\n# changed\n")
    assert find_record(spec_of(SPEC, places), places, resume=True) is not None


def test_another_library_is_noted(places: Places) -> None:
    cut_off(places)
    experiment = find_workspace("mine", places).experiment
    assert changed_libraries(experiment) == []
    now = experiment.versions["torch"]
    before = replace(experiment, versions={**experiment.versions, "torch": "1.0"})
    assert changed_libraries(before) == [f"torch: 1.0 -> {now[:12]}"]


# --- data ---


@pytest.mark.parametrize("n_reports", [4, N_REPORTS])
def test_with_other_data_nothing_is_trained_and_nothing_recorded(
    n_reports: int, places: Places
) -> None:
    """Whether it was cut off in the search or in the re-runs; with its data it goes on."""
    cut_off(places, n_reports)
    before = find_workspace("mine", places)
    n_epochs = sum(map(len, before.outcome().epochs.values()))
    data = places.data / "data.txt"
    data.write_text(" second")
    with pytest.raises(UsageError) as refusal:
        resumed(places)
    message = str(refusal.value)
    kind = before.study.trials[0].params["kind"]
    assert f"recorded  {kind} first\n" in message
    assert f"found     {kind} second\n" in message
    assert "-o name=mine-2 -o warm_start=[mine]" in message
    refused = find_workspace("mine", places).outcome()
    assert sum(map(len, refused.epochs.values())) == n_epochs
    assert refused.reruns == ()
    assert "RUNNING" not in [trial.state.name for trial in refused.trials]
    assert [trial for trial in refused.trials if trial.state.name == "FAIL"] == []
    data.write_text(" first")
    done = resumed(places).outcome()
    assert [trial.state.name for trial in done.trials] == ["COMPLETE"] * 4
    assert len(done.reruns) == 2


@pytest.mark.parametrize("n_reports", [4, N_REPORTS])
def test_data_that_cannot_be_read_any_more_are_no_result_of_a_trial(
    n_reports: int, places: Places
) -> None:
    """They may be there tomorrow; that a trial or a re-run failed would stand for good."""
    cut_off(places, n_reports)
    data = places.data / "data.txt"
    data.rename(places.data / "moved.txt")
    with pytest.raises(UnfitEnvironmentError, match="cannot be read any more: FileNotFoundError"):
        resumed(places)
    refused = find_workspace("mine", places).outcome()
    assert refused.reruns == ()
    assert [trial for trial in refused.trials if trial.state.name == "FAIL"] == []


def test_before_anything_was_trained_other_data_are_taken(places: Places) -> None:
    """They may have been named, and the driver killed before it wrote the first epoch."""
    cut_off(places, n_reports=0)
    begun = find_workspace("mine", places)
    record_data_config(begun.study, begun.tasks.trial(0, {}).config)
    begun.ledger.put(replace(begun.experiment, data_fingerprint="first"))
    (places.data / "data.txt").write_text(" second")
    with pytest.raises(KilledError):
        run_here(spec_of(SPEC, places), places, resume=True, n_reports=1)
    assert find_workspace("mine", places).experiment.data_fingerprint.endswith("second")


def test_trials_set_the_budget_behind_all_overrides(places: Places) -> None:
    shell = Shell(places.imports[0])
    options = ("-obudget.n_trials=9", "--trials", "7", "--print-config")
    assert "n_trials: 7" in shell.hpo("run", "mine.yaml", *options).stdout
