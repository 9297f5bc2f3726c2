"""The report: everything an experiment has come to, in one HTML file that opens offline."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hpo.lineage import population_text
from hpo.results.finalists import close_to_winner
from hpo.results.outcome import Finalist, Outcome, breaks_limits
from hpo.results.pareto import front_of, others_text, rule_text, seen_by_each_objective, shown
from hpo.results.retrain import test_interval
from hpo.spec import condition_text
from storage import was_answered

if TYPE_CHECKING:
    from markupsafe import Markup

REPORT_FILE = "report.html"
TEMPLATE = "report.html.j2"


@dataclass(frozen=True, kw_only=True)
class Card:
    """One of the three values that stand side by side; ``value`` is empty if there is none."""

    heading: str
    value: str = ""
    spread: str = ""
    notes: tuple[str, ...]


def write_report(outcome: Outcome, study: Study, path: Path) -> None:
    """Write all about ``outcome`` to ``path``: beside it first, so that no half file is left."""
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number, param=_param, utc=_utc, condition=condition_text)
    environment.filters.update(shown=shown)
    page = environment.get_template(TEMPLATE).render(
        outcome=outcome,
        experiment=outcome.experiment,
        spec=outcome.spec,
        population=population_text(outcome.spec),
        cards=[_search_card(outcome), _rerun_card(outcome), _test_card(outcome)],
        close=close_to_winner(outcome),
        n_rerun_seeds=max((len(one.reruns) for one in outcome.finalists), default=0),
        states=Counter(trial.state.name for trial in outcome.trials),
        n_beyond=sum(breaks_limits(trial) for trial in outcome.trials),
        n_answered=sum(map(was_answered, outcome.trials)),
        causes=Counter(_cause(t) for t in outcome.trials if t.state == TrialState.FAIL),
        failures=_failures(outcome),
        seconds=_seconds(outcome),
        plots=_plots(outcome, study),
        front=front_of(outcome.trials, outcome.spec) if outcome.spec.is_multi_objective else [],
        rule=rule_text(outcome.spec) if outcome.spec.is_multi_objective else "",
        plotly_js=get_plotlyjs(),
    )
    beside = path.with_suffix(".part")
    beside.write_text(page, encoding="utf-8")
    beside.replace(path)


def _search_card(outcome: Outcome) -> Card:
    finalist = next(iter(outcome.finalists), None)
    if finalist is None:
        return Card(heading="Search value", notes=("No trial is COMPLETE.",))
    if outcome.spec.is_multi_objective:
        return _front_card(outcome, finalist)
    is_maximized = outcome.spec.objective.direction == "maximize"
    extreme, pick = ("maximum", max) if is_maximized else ("minimum", min)
    best = pick(outcome.finalists, key=lambda finalist: finalist.search_value)
    if best.search_value == finalist.search_value:
        trials = outcome.trials
        n_complete = sum(t.state == TrialState.COMPLETE and not breaks_limits(t) for t in trials)
        spread = f"{extreme} of {n_complete} COMPLETE trials"
        if any(breaks_limits(trial) for trial in trials):
            spread += " that keep the constraints"
        note = f"Trial {finalist.number} in the search: a {extreme} over noise."
    else:
        spread = f"{extreme} of the search: {_number(best.search_value)} (trial {best.number})"
        note = f"Trial {finalist.number} in the search, chosen for its re-runs."
    return Card(
        heading="Search value",
        value=_number(finalist.search_value),
        spread=spread,
        notes=(note,),
    )


def _front_card(outcome: Outcome, finalist: Finalist) -> Card:
    others = finalist.other_search_values.items()
    n_front = len(front_of(outcome.trials, outcome.spec))
    return Card(
        heading=f"Search {outcome.spec.objective.metric}",
        value=_number(finalist.search_value),
        spread=", ".join(f"{metric} {shown(value)}" for metric, value in others),
        notes=(f"Trial {finalist.number}, one of {n_front} on the Pareto front.",),
    )


def _rerun_card(outcome: Outcome) -> Card:
    heading, winner = "Re-runs on fresh seeds", outcome.winner
    if winner is None or winner.reported is None:
        n_seeds = outcome.spec.finalists.n_seeds
        note = f"No finalist has succeeded on all {n_seeds} fresh seeds."
        return Card(
            heading=heading, notes=(note if outcome.finalists else "There is no finalist.",)
        )
    reached = winner.reported
    gain = reached.mean - winner.search_value
    if outcome.spec.objective.direction == "minimize":
        gain = -gain
    comparison = "Equal to"
    if not math.isclose(reached.mean, winner.search_value, rel_tol=1e-9):
        comparison = f"{_number(abs(gain))} {'better' if gain > 0 else 'worse'} than"
    error = reached.standard_error
    place = f"the best of {len(outcome.finalists)} finalists"
    if outcome.spec.is_multi_objective:
        place = rule_text(outcome.spec)
    return Card(
        heading=heading,
        value=_number(reached.mean),
        spread="" if error is None else f"± {_number(error)} standard error",
        notes=(
            f"Trial {winner.number}, {place}: mean over {winner.seeds_text}.",
            f"{comparison} its search value.",
            *([f"At {others_text(winner)}."] if winner.others else []),
        ),
    )


def _test_card(outcome: Outcome) -> Card:
    test, numbers = outcome.test, [str(r.trial_number) for r in outcome.test_readings]
    n_times = "1 time" if len(numbers) == 1 else f"{len(numbers)} times"
    by_trials = f": trial {', '.join(numbers)}" if numbers else ""
    readings = f"The test set was read {n_times}{by_trials}."
    if test is None:
        notes = [readings]
        if outcome.experiment.finished_at and outcome.winner and not numbers:
            notes = [f"{outcome.spec.trainable} offers no finish: nothing to test or export."]
        return Card(heading="Test value", notes=tuple(notes))
    spread, measured = "", f"{test.n_test:,} images."
    if interval := test_interval(test):
        spread = f"95 % interval {interval[0]:.4f} to {interval[1]:.4f} (Wilson)"
        measured = f"{test.n_correct:,} of {test.n_test:,} correct."
    return Card(
        heading=f"Test {test.metric}",
        value=_number(test.value),
        spread=spread,
        notes=(
            f"Trial {test.trial_number}, retrained on all but the test set: {measured}",
            readings,
        ),
    )


def _cause(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get("fail_cause") or "error").replace("_", " ")


def _failures(outcome: Outcome) -> list[tuple[str, str]]:
    """What failed, and why: trials of the search, re-runs, confirmations."""
    trials = [
        (f"trial {trial.number}", str(trial.user_attrs.get("fail_reason", "no reason recorded")))
        for trial in outcome.trials
        if trial.state == TrialState.FAIL
    ]
    reruns = [
        (f"re-run of trial {finalist.number}, seed {rerun.seed_index + 1}", rerun.fail_reason)
        for finalist in outcome.finalists
        for rerun in finalist.reruns
        if rerun.fail_reason is not None
    ]
    confirmations = [
        (f"confirmation of trial {finalist.number}, seed {one.seed_index + 1}", one.fail_reason)
        for finalist in outcome.finalists
        for one in finalist.confirmations
        if one.fail_reason is not None
    ]
    return trials + reruns + confirmations


def _seconds(outcome: Outcome) -> list[tuple[str, int, float]]:
    """Stage, its tasks, and the seconds that workers spent on their epochs."""
    searched = [sum(epoch.seconds for epoch in epochs) for epochs in outcome.epochs.values()]
    reruns = [rerun.seconds for finalist in outcome.finalists for rerun in finalist.reruns]
    confirmed = [one.seconds for finalist in outcome.finalists for one in finalist.confirmations]
    retrained = [reading.seconds for reading in outcome.test_readings]
    stages = {
        "search": searched,
        "re-runs": reruns,
        "confirmations": confirmed,
        "retraining": retrained,
    }
    rows = [(stage, len(seconds), sum(seconds)) for stage, seconds in stages.items()]
    return [*rows, ("total", sum(n for _, n, _ in rows), sum(seconds for _, _, seconds in rows))]


def _plots(outcome: Outcome, study: Study) -> dict[str, Any]:
    from hpo.results import figures
    from hpo.results.pareto_figure import pareto_figures

    views = seen_by_each_objective(outcome, study)
    first, its_study = views[0]
    pareto = pareto_figures(outcome) if outcome.spec.is_multi_objective else []
    return {
        "finalists": _embedded("finalists", figures.finalists_figure(outcome)),
        "pareto": [_embedded(f"pareto-{index}", figure) for index, figure in enumerate(pareto)],
        "n_for_importances": figures.N_FOR_IMPORTANCES,
        "learning_curves": _embedded("curves", figures.learning_curves_figure(first, its_study)),
        "timeline": _embedded("timeline", figures.timeline_figure(first, its_study)),
        "objectives": [
            _plots_of_values(view, its_study, f"-of-{index}" if index else "")
            for index, (view, its_study) in enumerate(views)
        ],
    }


def _plots_of_values(outcome: Outcome, study: Study, suffix: str) -> dict[str, Any]:
    """What is drawn of the values of one objective; ``suffix`` tells its figures from others'."""
    from hpo.results import figures

    slices = figures.slice_figures(outcome, study)
    importances = figures.importances_figure(outcome, study)
    return {
        "metric": outcome.spec.objective.metric,
        "history": _embedded(f"history{suffix}", figures.history_figure(outcome, study)),
        "importances": _embedded(f"importances{suffix}", importances),
        "n_finite": len(figures.finite_values(outcome)),
        "slices": [
            _embedded(f"slice{suffix}-{index}", figure) for index, figure in enumerate(slices)
        ],
    }


def _embedded(name: str, figure: Any) -> Markup:
    """HTML of a figure, or of the sentence that stands for it."""
    from markupsafe import Markup
    from plotly.io import to_html

    if isinstance(figure, str):
        return Markup("<p>{}</p>").format(figure)
    config = {"displayModeBar": False, "responsive": True}
    drawn = to_html(figure, config, include_plotlyjs=False, full_html=False, div_id=name)
    return Markup(drawn)  # noqa: S704  plotly writes every < of a figure's data as \u003c


def _number(value: float) -> str:
    """Four decimals, as an accuracy wants them, unless the value is too small or large for that."""
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.3e}"


def _param(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _utc(time: dt.datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"
