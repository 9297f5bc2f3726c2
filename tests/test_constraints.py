"""Constraints: what is refused before any training, what turns out infeasible, what is recorded."""

from __future__ import annotations

import json
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from wsgiref.simple_server import make_server

import optuna_dashboard
import pytest
from hypothesis import given
from hypothesis import strategies as st
from one_worker import OneWorker
from optuna.trial import TrialState

from hpo.errors import UsageError
from hpo.results import choose_finalists
from hpo.spec import LimitSpec
from storage import constraints_of, is_infeasible, was_refused

SPEC = """
name: limited
trainable: widths:train
objective: {metric: score, direction: maximize}
search_space: {width: {type: int, low: 1, high: 6}}
sampler: grid
constraints: {weights: {max: 16}, seconds: {max: 3, min: 2}}
budget: {n_trials: 6}
"""
WIDTHS = """
def train(config):
    yield {"score": 0.5, "seconds": 99}
    yield {"score": config["width"], "seconds": config["width"]}

def constraints(config, trial):
    if config["width"] == 6:
        raise ValueError("a width of 6 cannot be built")
    return {"weights": config["width"] ** 2}
"""

Begin = Callable[..., OneWorker]


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Begin:
    """A search of ``SPEC``, of whose texts arguments replace something."""

    def make(*replaced: tuple[str, str]) -> OneWorker:
        spec, widths = SPEC, WIDTHS
        for old, new in replaced:
            spec, widths = spec.replace(old, new), widths.replace(old, new)
        (tmp_path / "widths.py").write_text(widths)
        monkeypatch.delitem(sys.modules, "widths", raising=False)  # of another test
        return OneWorker(spec, tmp_path)

    return make


def test_each_trial_ends_as_its_constraints_say_and_all_excesses_are_recorded(begin: Begin) -> None:
    """In the order of the spec: weights.max, seconds.max, seconds.min; above 0 is broken."""
    worker = begin()
    worker.search()
    by_width = {trial.params["width"]: trial for trial in worker.study.trials}
    assert {
        width: (trial.state.name, is_infeasible(trial), constraints_of(trial))
        for width, trial in by_width.items()
    } == {
        1: ("COMPLETE", True, (-15, -2, 1)),
        2: ("COMPLETE", False, (-12, -1, 0)),
        3: ("COMPLETE", False, (-7, 0, -1)),
        4: ("COMPLETE", True, (0, 1, -2)),
        5: ("FAIL", True, (9,)),
        6: ("FAIL", True, (1,)),
    }
    assert by_width[4].value == 4  # it was trained, and that is told
    refused = by_width[5]
    assert was_refused(refused)
    assert refused.user_attrs["fail_cause"] == "infeasible"
    assert refused.user_attrs["weights"] == 25
    assert refused.user_attrs["fail_reason"] == (
        "infeasible: weights=25 breaks constraints.weights.max=16"
    )
    assert refused.number not in {number for number, _ in worker.trained}


def test_only_what_keeps_the_constraints_becomes_a_finalist(begin: Begin) -> None:
    worker = begin()
    worker.search()
    finalists = choose_finalists(worker.study.trials, worker.spec())
    assert [trial.params["width"] for trial in finalists] == [3, 2]


def test_a_stopped_trial_is_judged_by_nothing_but_its_last_epoch(begin: Begin) -> None:
    """It counts as PRUNED: what it would have come to, nobody knows."""
    top_1 = "grid\nscheduler: {name: one_epoch_top_k, k: 1}"
    worker = begin(("grid", top_1), ("n_trials: 6", "n_trials: 6, max_epochs: 2"))
    worker.search()
    pruned = [trial for trial in worker.study.trials if trial.state == TrialState.PRUNED]
    assert len(pruned) == 3
    assert not any(was_refused(trial) for trial in pruned)


def test_an_unknown_quantity_of_a_users_trainable_fails_with_what_there_is(begin: Begin) -> None:
    worker = begin(("seconds: {max", "secnds: {max"))
    with pytest.raises(UsageError, match="knows no 'secnds'"):
        worker.search("constraints.weights.max=99")
    reason = worker.study.trials[0].user_attrs["fail_reason"]
    assert "constraints.secnds: trainable 'widths:train' knows no 'secnds'" in reason
    assert "before training: weights; it reports: score, seconds" in reason


def test_what_nobody_tells_ends_the_search_with_its_first_whole_training(begin: Begin) -> None:
    """Also where a scheduler stops most: another thirty trials would end alike."""
    asha = "grid\nscheduler: {name: asha, grace_epochs: 1, reduction_factor: 3}"
    worker = begin(
        ("seconds: {max", "secnds: {max"),
        ("grid", asha),
        ("n_trials: 6", "n_trials: 6, max_epochs: 2"),
    )
    with pytest.raises(UsageError, match=r"stopped: constraints\.secnds: .* -o name=[a-z]+-2$"):
        worker.search("constraints.weights.max=99")
    assert sum(trial.state == TrialState.FAIL for trial in worker.study.trials) == 1


def test_a_limited_quantity_that_is_no_number_fails_as_nan(begin: Begin) -> None:
    worker = begin(('"seconds": config["width"]', '"seconds": float("nan")'))
    worker.search("search_space.width.high=2")
    assert [trial.user_attrs["fail_cause"] for trial in worker.study.trials] == ["nan", "nan"]


def test_optuna_dashboard_is_told_which_trials_are_infeasible(begin: Begin) -> None:
    """Through its own API: its pages draw what they find under `constraints`."""
    worker = begin()
    worker.search()
    with make_server("127.0.0.1", 0, optuna_dashboard.wsgi(worker.study._storage)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/api/studies/{worker.study._study_id}"
            with urllib.request.urlopen(url) as answer:
                shown = json.load(answer)["trials"]
        finally:
            server.shutdown()
            thread.join()
    infeasible = {trial["number"] for trial in shown if any(c > 0 for c in trial["constraints"])}
    assert len(infeasible) == 4
    assert infeasible == {trial.number for trial in worker.study.trials if is_infeasible(trial)}


ends = st.none() | st.floats(-1e6, 1e6)


@given(low=ends, high=ends, value=st.floats(-1e6, 1e6))
def test_a_value_is_beyond_an_end_if_and_only_if_its_excess_is_positive(
    low: float | None, high: float | None, value: float
) -> None:
    if (low is None and high is None) or (None not in (low, high) and low > high):  # type: ignore[operator]
        return
    excesses = LimitSpec(min=low, max=high).excesses(value)
    assert list(excesses) == [
        end for end, given in (("max", high), ("min", low)) if given is not None
    ]
    is_within = (low is None or low <= value) and (high is None or value <= high)
    assert all(excess <= 0 for excess in excesses.values()) == is_within
