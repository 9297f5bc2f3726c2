"""The report: one file that opens offline and says what was computed, and nothing else."""

from __future__ import annotations

import datetime as dt
import html
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import InMemoryStorage
from optuna.study import Study
from optuna.trial import TrialState
from plotly.offline import get_plotlyjs
from selenium.webdriver import Chrome

from hpo.results import REPORT_FILE, Outcome, figures, read_outcome, write_report
from hpo.results.summary import summary, trials_line
from hpo.search import named_search
from storage import (
    ExperimentRecord,
    ExportRecord,
    Ledger,
    RerunRecord,
    SearchEnd,
    TestReading,
    create_study,
    open_engine,
    put_constraints,
    put_intermediate_value,
    put_search_end,
    record_sampler,
)

HOSTILE = "<script>document.title=1</script>"
CHOICE = "<b>relu</b> &amp; " + "x" * 300
SPEC = f"""
name: sample
trainable: my_module:train
objective: {{metric: val_score, direction: maximize}}
search_space:
  lr: {{type: float, low: 1e-4, high: 1, log: true}}
  '{HOSTILE}': {{type: categorical, choices: [relu, '{CHOICE}']}}
budget: {{n_trials: 6, max_epochs: 2}}
finalists: {{k: 2, n_seeds: 2}}
"""
DISTRIBUTIONS: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-4, 1, log=True),
    HOSTILE: CategoricalDistribution(["relu", CHOICE]),
}
NOW = dt.datetime(2026, 1, 2, 3, 4, 5)


@dataclass
class Sample:
    """An experiment of the test's making, in a real ledger and a real study."""

    experiment: ExperimentRecord
    study: Study
    ledger: Ledger
    folder: Path

    def trial(self, *values: float, state: TrialState = TrialState.COMPLETE, **attrs: str) -> None:
        """A trial that reported ``values``, one per epoch."""
        names = [name for name in DISTRIBUTIONS if name in self.experiment.spec]
        trial = self.study.ask({name: DISTRIBUTIONS[name] for name in names})
        for epoch, value in enumerate(values, start=1):
            put_intermediate_value(trial, epoch, value)
        for key, attr in attrs.items():
            trial.set_user_attr(key, attr)
        self.study.tell(trial, values[-1] if state == TrialState.COMPLETE else None, state)

    def reruns(self, number: int, values: Sequence[float | None], reason: str = "") -> None:
        """Re-runs of a finalist; None is one that failed."""
        self._add(self.ledger.add_rerun, number, values, reason)

    def confirmations(self, number: int, values: Sequence[float | None], reason: str = "") -> None:
        """The winner on seeds that chose nothing; None is one that failed."""
        self._add(self.ledger.add_confirmation, number, values, reason)

    def _add(
        self,
        add: Callable[[str, RerunRecord], None],
        number: int,
        values: Sequence[float | None],
        reason: str,
    ) -> None:
        for seed_index, value in enumerate(values):
            add(
                "id",
                RerunRecord(
                    trial_number=number,
                    seed_index=seed_index,
                    seed=seed_index,
                    value=value,
                    fail_reason=reason if value is None else None,
                    seconds=1.5,
                    finished_at=NOW,
                ),
            )

    def read_test_set(self, number: int, n_correct: int) -> None:
        """A winner's reading, of 100 images."""
        reading = TestReading(
            trial_number=number,
            metric="accuracy",
            value=n_correct / 100,
            n_correct=n_correct,
            n_test=100,
            seconds=4.0,
            read_at=NOW,
        )
        self.ledger.put_test_reading("id", reading)

    def outcome(self) -> Outcome:
        """What there is so far."""
        return read_outcome(self.experiment, self.study, self.ledger)

    def write(self) -> Path:
        """The report of it."""
        path = self.folder / REPORT_FILE
        write_report(self.outcome(), self.study, path)
        return path

    def page(self) -> str:
        """The report without plotly.js, its white space made even."""
        page = self.write().read_text(encoding="utf-8").replace(get_plotlyjs(), "")
        return " ".join(page.split())


@pytest.fixture
def begin(tmp_path: Path) -> Callable[..., Sample]:
    """Begin an experiment: ``begin(("maximize", "minimize"))`` replaces text of the spec."""

    def make(*replacements: tuple[str, str]) -> Sample:
        spec = SPEC
        for old, new in replacements:
            assert old in spec
            spec = spec.replace(old, new)
        direction = "minimize" if "minimize" in spec else "maximize"
        study = create_study(InMemoryStorage(), "sample", direction=direction, metric="val_score")
        study.sampler = optuna.samplers.RandomSampler(seed=0)
        ledger = Ledger(open_engine(f"sqlite:///{tmp_path / 'hpo.db'}"))
        experiment = ExperimentRecord(
            id="id",
            name="sample",
            spec=spec,
            created_at=NOW - dt.timedelta(seconds=90),
            versions={"optuna": "5.0.0"},
            git_commit="c0ffee-dirty",
            data_fingerprint="f1n9e4",
            finished_at=NOW,
        )
        ledger.put(experiment)
        folder = tmp_path / "sample"
        folder.mkdir()
        return Sample(experiment=experiment, study=study, ledger=ledger, folder=folder)

    return make


@pytest.fixture
def finished(begin: Callable[..., Sample]) -> Sample:
    """Six trials of all endings, two finalists, a test and an export."""
    sample = begin()
    sample.trial(0.5, 0.7)
    sample.trial(0.6, 0.9)
    sample.trial(0.3, state=TrialState.PRUNED)
    sample.trial(state=TrialState.FAIL, fail_reason=f"ValueError: {HOSTILE}")
    sample.trial(0.4, 0.8)
    sample.study.enqueue_trial({"lr": 0.1})
    sample.reruns(1, [0.84, 0.86])
    sample.reruns(4, [0.80, 0.70])
    sample.read_test_set(1, n_correct=83)
    export = ExportRecord(
        path=f"/home/{'deep/' * 60}standalone_model.pt",
        trial_number=1,
        sha256="ab" * 32,
        max_difference=2.5e-7,
        n_compared=100,
        exported_at=NOW,
    )
    sample.ledger.put_export("id", export)
    return sample


def test_the_three_values_stand_side_by_side(finished: Sample) -> None:
    """Search value, mean of the re-runs and test accuracy, each with what it is worth."""
    page = finished.page()
    cards = page[page.index('class="cards"') : page.index("</section>")]
    told = [
        "0.9000", "maximum of 3 COMPLETE trials",
        "0.8500", "± 0.0100 standard error", "0.0500 worse than its search value",
        "0.8300", "95 % interval 0.7445 to 0.8911 (Wilson)",
        "The test set was read 1 time: trial 1.",
    ]  # fmt: skip
    places = [cards.index(text) for text in told]
    assert places == sorted(places)


def test_the_record_is_told(finished: Sample) -> None:
    """States, seconds, export, versions, commit, fingerprint, spec."""
    page = finished.page()
    assert "6 trials: 3 COMPLETE, 1 PRUNED, 1 FAIL, 1 WAITING." in page
    assert "begun 2026-01-02 03:02:35 UTC · finished 2026-01-02 03:04:05 UTC" in page
    assert re.search(r"re-runs</th> <td class=\"n\">4</td> <td class=\"n\">6.00</td>", page)
    assert re.search(r"total</th> <td class=\"n\">5</td> <td class=\"n\">10.00</td>", page)
    for text in ("ab" * 32, "2.5e-07", "c0ffee-dirty", "f1n9e4", "optuna 5.0.0", "my_module:train"):
        assert text in page


def test_a_parameter_that_some_trials_lack_is_told_with_its_condition(
    begin: Callable[..., Sample],
) -> None:
    """``b`` is drawn in some trials, ``c`` in none, and the best trial has neither."""
    space = """  a: {type: categorical, choices: [x, y]}
  b: {type: float, low: 0, high: 1, when: {a: [x]}}
  c: {type: int, low: 0, high: 9, when: {a: [y, z], b: 1}}
  lr: {type: float, low: 1e-4, high: 1, log: true}
"""
    sample = begin((SPEC[SPEC.index("  lr:") : SPEC.index("budget:")], space))
    for number, a in enumerate("xyxyxy"):
        sample.study.enqueue_trial({"a": a})
        trial = sample.study.ask()
        trial.suggest_categorical("a", ["x", "y"])
        if a == "x":
            trial.suggest_float("b", 0, 1)
        trial.suggest_float("lr", 1e-4, 1, log=True)
        sample.study.tell(trial, 0.1 * number)
    page = sample.page()
    assert "0.0 to 1.0, when a is x" in page
    assert "0 to 9, when a is y or z and b is 1" in page
    assert page.count("<td>not drawn</td>") == 2
    assert page.count('<td class="choice">not drawn</td>') == 3
    assert [name for name in ("slice-2", "slice-3") if f'id="{name}"' in page] == ["slice-2"]
    assert 'id="importances"' in page


def test_no_half_file_is_left_behind(finished: Sample) -> None:
    """The report replaces an older one, and nothing lies beside it."""
    (finished.folder / REPORT_FILE).write_text("older")
    assert "sample" in finished.page()
    assert [path.name for path in finished.folder.iterdir()] == [REPORT_FILE]


def test_the_file_refers_to_nothing_outside(finished: Sample) -> None:
    """No address to load anything from, in markup or in styles."""
    assert not re.findall(r"(?:src|href)=(?!\"data:)|@import|url\(|https?://", finished.page())


def test_plotly_stands_in_the_file_once(finished: Sample) -> None:
    """Six plots and more share one copy of five megabytes."""
    assert finished.write().read_text(encoding="utf-8").count(get_plotlyjs()) == 1


def test_text_of_users_is_no_markup(finished: Sample) -> None:
    """A parameter's name, a choice and a fail reason stand there as they were written."""
    page = finished.page()
    assert HOSTILE not in page
    assert "<b>relu</b>" not in page
    assert html.escape(f"ValueError: {HOSTILE}") in page


def test_without_a_complete_trial_the_report_says_why(begin: Callable[..., Sample]) -> None:
    """Nothing but failures is a result, too."""
    sample = begin()
    sample.experiment = replace(sample.experiment, finished_at=None)
    sample.trial(state=TrialState.FAIL, fail_reason="OSError: no data")
    sample.trial(0.2, state=TrialState.PRUNED)
    page = sample.page()
    assert "not finished" in page
    assert "OSError: no data" in page
    assert page.count("No trial is COMPLETE.") == 1
    assert page.count("No trial is COMPLETE with a finite value.") == 2  # history, slices
    assert "there are 0." in page
    assert "The test set was read 0 times." in page


def test_an_experiment_without_a_trial_has_a_report(begin: Callable[..., Sample]) -> None:
    """As when the first worker could not start."""
    page = begin().page()
    assert "0 trials: 0 COMPLETE" in page
    assert "No trial has begun." in page


def test_a_search_may_go_on_while_its_report_is_written(finished: Sample) -> None:
    """What has come to the study after the outcome was read is left out of the curves."""
    outcome = finished.outcome()
    finished.trial(0.123456, state=TrialState.PRUNED)
    path = finished.folder / REPORT_FILE
    write_report(outcome, finished.study, path)
    assert "0.123456" not in path.read_text(encoding="utf-8").replace(get_plotlyjs(), "")


def test_a_minimized_metric_has_a_minimum(begin: Callable[..., Sample]) -> None:
    """Lower is better, and without `finish` there is no test; infinity is not drawn."""
    sample = begin(("maximize", "minimize"))
    for value in (3.0, 1.0, 2.0, float("inf")):
        sample.trial(value)
    sample.reruns(1, [1.9, 2.1])
    sample.reruns(2, [1.0, 1.5])
    page = sample.page()
    assert "minimum of the search: 1.0000 (trial 1)" in page
    assert "0.7500 better than its search value." in page
    assert "my_module:train offers no finish" in page
    assert "PED-ANOVA over 3 COMPLETE trials" in page


def test_a_finalist_that_fails_on_a_fresh_seed_does_not_win(begin: Callable[..., Sample]) -> None:
    """Its reason is told, and the reading of an earlier winner is still counted."""
    sample = begin()
    sample.trial(0.9)
    sample.reruns(0, [0.8, None], reason="MemoryError: too large")
    sample.read_test_set(0, n_correct=70)
    sample.read_test_set(7, n_correct=90)
    page = sample.page()
    assert "No finalist has succeeded on all 2 fresh seeds." in page
    assert "re-run of trial 0, seed 2</th><td>MemoryError: too large" in page
    assert "The test set was read 2 times: trial 0, 7." in page


def test_confirmations_are_what_is_told_and_failed_ones_are_not_hidden(
    begin: Callable[..., Sample],
) -> None:
    sample = begin()
    sample.trial(0.9)
    sample.reruns(0, [0.8, 0.84])
    sample.confirmations(0, [0.6, None, 0.7], reason="MemoryError: too large")
    page = sample.page()
    assert "0.6500" in page[page.index('class="cards"') : page.index("</section>")]
    told = "2 fresh seeds that did not choose it; it FAILED on 1 more"
    assert f"mean over {told}." in page
    assert 'on 3 seeds that did not choose, 1 FAILED</th> <td class="n">0.6500' in page
    assert "confirmation of trial 0, seed 2</th><td>MemoryError: too large" in page
    assert re.search(r"confirmations</th> <td class=\"n\">3</td> <td class=\"n\">4.50</td>", page)
    assert f"val_score 0.6500 +- 0.0500 (standard error), {told}" in summary(
        sample.outcome(), sample.folder
    )


def test_if_every_confirmation_failed_the_seeds_that_chose_are_named_as_such(
    begin: Callable[..., Sample],
) -> None:
    sample = begin()
    sample.trial(0.9)
    sample.reruns(0, [0.8, 0.84])
    sample.confirmations(0, [None, None], reason="MemoryError: too large")
    told = "2 fresh seeds that chose it; it FAILED on 2 more"
    assert f"mean over {told}." in sample.page()
    assert told in summary(sample.outcome(), sample.folder)


def test_finalists_that_are_not_told_apart_are_named(begin: Callable[..., Sample]) -> None:
    """Trial 1 is close to trial 0, trial 2 is not; re-runs may cost a quarter of six trials."""
    sample = begin(("{k: 2,", "{k: 3,"))
    for value in (0.9, 0.8, 0.7):
        sample.trial(value)
    sample.reruns(0, [0.80, 0.84])
    sample.reruns(1, [0.79, 0.83])
    sample.reruns(2, [0.10, 0.12])
    assert "Trial 0 is not clearly better than trial 1: standard errors overlap." in sample.page()
    assert "more than the 0.25 (<code>max_share</code>) of 6 trials" in sample.page()
    told = "trial 0, best mean of 3 finalists, not clearly better than trial 1\n"
    assert told in summary(sample.outcome(), sample.folder)


def test_the_rule_of_auto_is_told_with_what_it_chose(begin: Callable[..., Sample]) -> None:
    sample = begin()
    sample.trial(0.9)
    record_sampler(sample.study, *named_search(sample.outcome().spec, 6, 0))
    assert (
        "Sampler auto (gp): 6 trials (at most 200) over 2 parameters (at most 20), none of them "
        "conditional; scheduler none."
    ) in sample.page()


ONE_PARAMETER = (f"  '{HOSTILE}': {{type: categorical, choices: [relu, '{CHOICE}']}}\n", "")


@pytest.mark.parametrize(
    ("replacements", "values", "sentence"),
    [
        ([], [0.5], "need 2 COMPLETE trials with finite values; there are 1."),
        ([], [0.5, 0.5, 0.5], "All 3 COMPLETE trials have the same value"),
        ([ONE_PARAMETER], [0.5, 0.6], "lr is the only parameter"),
    ],
)
def test_a_sentence_stands_for_importances_that_nobody_can_know(
    begin: Callable[..., Sample], replacements: Any, values: list[float], sentence: str
) -> None:
    """Optuna would draw equal bars."""
    sample = begin(*replacements)
    for value in values:
        sample.trial(value)
    page = sample.page()
    assert sentence in page
    assert 'id="importances"' not in page


def test_the_timeline_is_in_utc(finished: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna's times are local; twelve hours east of Greenwich they are another day's."""
    began = finished.study.trials[0].datetime_start
    assert began is not None
    in_utc = began.astimezone(dt.UTC).replace(tzinfo=None) - dt.timedelta(hours=12)
    monkeypatch.setenv("TZ", "EAST-12")
    time.tzset()
    try:
        offset = dt.datetime.now().astimezone().utcoffset()
        page = finished.page()
    finally:
        monkeypatch.undo()
        time.tzset()
    assert offset == dt.timedelta(hours=12)
    assert in_utc.isoformat() in page


def test_a_browser_draws_every_plot_offline(finished: Sample, browser: Chrome) -> None:
    """No error in the console, nothing loaded, nothing wider than the window, no text run."""
    browser.get(finished.write().as_uri())
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('.plotly-graph-div')]"
        ".map(plot => [plot.id, plot.querySelectorAll('svg.main-svg').length > 0])"
    )
    plots = ["finalists", "history", "curves", "importances", "slice-0", "slice-1", "timeline"]
    assert drawn == [[plot, True] for plot in plots]
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 800
    assert browser.title == "sample: report"
    texts = browser.execute_script(
        "return [...document.querySelectorAll('.xtitle, .xtick text')].map(t => t.textContent)"
    )
    assert HOSTILE[:23] + "…" in texts
    assert CHOICE[:23] + "…" in texts


def test_infeasible_trials_are_shown_as_such_and_are_no_incumbent(
    begin: Callable[..., Sample],
) -> None:
    sample = begin()
    sample.trial(0.7, 0.8)
    trial = sample.study.ask(DISTRIBUTIONS)
    put_constraints(trial, [-1.0, 0.5])
    sample.study.tell(trial, 0.9)
    sample.trial(state=TrialState.FAIL, fail_reason="took 9 s", fail_cause="timeout")
    sample.trial(state=TrialState.FAIL, fail_reason="nan", fail_cause="nan")
    sample.trial(state=TrialState.FAIL, fail_reason="inf", fail_cause="nan")
    end = SearchEnd(by="target_value", limit=0.8, reason="trial 0 reached it", n_trials=9)
    put_search_end(sample.study, end)
    outcome, page = sample.outcome(), sample.page()
    assert [finalist.number for finalist in outcome.finalists] == [0]
    assert "maximum of 1 COMPLETE trials that keep the constraints" in page
    assert "1 COMPLETE trials are infeasible" in page
    assert "Causes of FAIL: 2 nan, 1 timeout." in page
    assert "The search ended early: trial 0 reached it." in page
    history = figures.history_figure(outcome, sample.study)
    incumbent, values, beyond = history.data
    assert [list(trace.y) for trace in (values, beyond)] == [[0.8], [0.9]]
    assert max(incumbent.y) == 0.8
    line = trials_line(outcome)
    assert "2 complete (1 of them infeasible), 0 pruned, 3 failed)" in line
    assert line.endswith("; ended early: trial 0 reached it")
