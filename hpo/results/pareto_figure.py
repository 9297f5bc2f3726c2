"""The Pareto front, drawn: what each objective costs in the first one."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from optuna.trial import FrozenTrial, TrialState

from hpo.results.figures import BLUE, GREY, VERMILION, styled
from hpo.results.outcome import Outcome, breaks_limits
from hpo.results.pareto import front_of

LOG_FROM = 30.0
"""Values whose largest is so many times the smallest are told apart on a logarithmic axis alone."""


def pareto_figures(outcome: Outcome) -> list[go.Figure | str]:
    """The first objective against each of the others: front, finalists and winner marked."""
    complete = [trial for trial in outcome.trials if trial.state == TrialState.COMPLETE]
    if not complete:
        return ["No trial is COMPLETE."]
    return [_figure(outcome, complete, index) for index in range(1, len(outcome.spec.objectives))]


def _figure(outcome: Outcome, complete: Sequence[FrozenTrial], index: int) -> go.Figure:
    front = sorted(front_of(complete, outcome.spec), key=lambda trial: trial.values[index])
    on_front = {trial.number for trial in front}
    finalists = {finalist.number for finalist in outcome.finalists}
    winner = {outcome.winner.number} if outcome.winner else set()
    infeasible = [trial for trial in complete if breaks_limits(trial)]
    beaten = [t for t in complete if t.number not in on_front and not breaks_limits(t)]
    groups = {
        "infeasible": (infeasible, {"color": GREY, "size": 8, "symbol": "x"}),
        "COMPLETE trial": (beaten, {"color": GREY, "size": 8}),
        "Pareto front": (front, {"color": BLUE, "size": 9}),
        "finalist": (
            [trial for trial in complete if trial.number in finalists],
            {"color": BLUE, "size": 15, "symbol": "circle-open", "line": {"width": 2}},
        ),
        "winner": (
            [trial for trial in complete if trial.number in winner],
            {"color": VERMILION, "size": 15, "symbol": "star"},
        ),
    }
    # Of three objectives the front is a surface, whose trials are no steps in a plane.
    is_line = len(outcome.spec.objectives) == 2
    figure = go.Figure()
    for name, (trials, marker) in groups.items():
        if not trials:
            continue
        figure.add_scatter(
            x=[trial.values[index] for trial in trials],
            y=[trial.values[0] for trial in trials],
            customdata=[trial.number for trial in trials],
            name=name,
            mode="lines+markers" if is_line and name == "Pareto front" else "markers",
            line={"width": 1, "shape": _step(outcome, index)},
            marker=marker,
            hovertemplate="trial %{customdata}: %{y:.4g} at %{x:,.5g}",
        )
    other = outcome.spec.objectives[index].metric
    drawn = styled(figure, other, outcome.spec.objective.metric, height=440)
    if _is_wide([trial.values[index] for trial in complete]):
        drawn.update_xaxes(type="log")
    return drawn


def _step(outcome: Outcome, index: int) -> str:
    """Steps that pass through nothing better than what was found."""
    return "hv" if outcome.spec.objectives[index].direction == "minimize" else "vh"


def _is_wide(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) / min(values) > LOG_FROM
