"""The figures of the report: Optuna's own in one style, or the sentence that stands for one."""

from __future__ import annotations

import datetime as dt
import html
import math
from typing import Any

import plotly.graph_objects as go
from optuna import visualization
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hpo.results.outcome import Outcome
from hpo.spec import CategoricalParameter, FloatParameter, IntParameter

# Colours that colour-blind readers can tell apart: Okabe & Ito 2008, https://jfly.uni-koeln.de/color
BLUE, ORANGE, VERMILION, GREEN = "#0072B2", "#E69F00", "#D55E00", "#009E73"
GREY = "#AAAAAA"
STATE_COLORS = {
    "PRUNED": ORANGE,
    "COMPLETE": BLUE,
    "INFEASIBLE": GREY,
    "FAIL": VERMILION,
    "RUNNING": GREEN,
}

AXIS = {
    "automargin": True,
    "title": {"font_size": 13, "standoff": 12},
    "exponentformat": "e",
    "gridcolor": "#E3E3E3",
    "linecolor": "#888",
    "zeroline": False,
}

LABEL_LENGTH = 24
"""Characters; a longer one would leave no room for what it stands beside."""

N_FOR_IMPORTANCES = 50
"""PED-ANOVA compares the best tenth with all, and wants 5 trials in it (Optuna's documentation)."""


def finalists_figure(outcome: Outcome) -> go.Figure | str:
    """Search value, each re-run and their mean, one line per finalist."""
    if not any(finalist.values for finalist in outcome.finalists):
        return "No finalist has been re-run."
    labels = [f"trial {finalist.number}" for finalist in outcome.finalists]
    figure = go.Figure()
    figure.add_scatter(
        x=[value for finalist in outcome.finalists for value in finalist.values],
        y=[f"trial {finalist.number}" for finalist in outcome.finalists for _ in finalist.values],
        name="re-run",
        marker={"color": BLUE, "size": 8, "opacity": 0.4},
    )
    figure.add_scatter(
        x=[finalist.mean for finalist in outcome.finalists],
        y=labels,
        error_x={"array": [finalist.standard_error or 0 for finalist in outcome.finalists]},
        name="mean of re-runs ± standard error",
        marker={"color": BLUE, "size": 11, "symbol": "line-ns", "line": {"width": 3}},
    )
    figure.add_scatter(
        x=[finalist.search_value for finalist in outcome.finalists],
        y=labels,
        name="search value",
        marker={"color": VERMILION, "size": 11, "symbol": "diamond-open", "line": {"width": 2}},
    )
    figure.update_traces(mode="markers", marker_line_color=BLUE, hovertemplate="%{y}: %{x:.4g}")
    figure.update_traces(marker_line_color=VERMILION, selector={"name": "search value"})
    figure.update_yaxes(autorange="reversed")
    return styled(figure, outcome.spec.objective.metric, "", height=110 + 40 * len(labels))


def history_figure(outcome: Outcome, study: Study) -> go.Figure | str:
    """Value of each COMPLETE trial, and the incumbent."""
    if not finite_values(outcome):
        return "No trial is COMPLETE with a finite value."
    figure = visualization.plot_optimization_history(study)
    values, incumbent, beyond = figure.data  # drawn in this order, the incumbent shall be below
    figure.data = (incumbent, values, beyond) if beyond.x else (incumbent, values)
    incumbent, values, *rest = figure.data
    values.update(name="COMPLETE trial", marker={"color": BLUE, "size": 8})
    for beyond in rest:
        marker = {"color": GREY, "size": 8, "symbol": "x"}
        beyond.update(name="infeasible", marker=marker, showlegend=True)
    incumbent.update(name="incumbent", line={"color": VERMILION, "width": 2, "shape": "hv"})
    figure.update_traces(hovertemplate="trial %{x}: %{y:.4g}")
    n_trials = len(outcome.trials)
    figure.update_xaxes(_whole_numbers(n_trials), range=[-0.5, n_trials - 0.5])
    return styled(figure, "trial number", outcome.spec.objective.metric)


def importances_figure(outcome: Outcome, study: Study) -> go.Figure | str:
    """Share of each parameter in what sets the best trials apart."""
    values = finite_values(outcome)
    if len(values) < 2:
        return f"Importances need 2 COMPLETE trials with finite values; there are {len(values)}."
    if len(outcome.spec.search_space) < 2:
        name = next(iter(outcome.spec.search_space))
        return f"{name} is the only parameter, so there is nothing to compare it with."
    # Optuna would call all parameters equally important, which nobody has found out.
    if len(set(values)) == 1:
        return f"All {len(values)} COMPLETE trials have the same value: nothing tells them apart."
    figure = visualization.plot_param_importances(study)
    figure.update_traces(marker_color=BLUE, hovertemplate="%{y}: %{x:.3f}")
    figure.update_yaxes(_short_ticks({name: name for name in outcome.spec.search_space}))
    height = 70 + 30 * len(outcome.spec.search_space)
    return styled(figure, "importance", "", height=height, legend=False)


def learning_curves_figure(outcome: Outcome, study: Study) -> go.Figure | str:
    """What each trial reported after each epoch."""
    drawn = ("PRUNED", "COMPLETE", "RUNNING")
    trials = [t for t in outcome.trials if t.intermediate_values and t.state.name in drawn]
    if not trials:
        return "No trial that is COMPLETE or PRUNED has reported an epoch."
    figure = visualization.plot_intermediate_values(study)
    states = {f"Trial{trial.number}": trial.state.name for trial in trials}
    known = [trace for trace in figure.data if trace.name in states]  # the search may go on
    figure.data = sorted(known, key=lambda trace: drawn.index(states[trace.name]))
    seen: set[str] = set()
    for trace in figure.data:
        state = states[trace.name]
        number = trace.name.removeprefix("Trial")
        trace.update(
            name=state,
            legendgroup=state,
            showlegend=state not in seen,
            line={"color": STATE_COLORS[state], "width": 1.5},
            marker={"size": 5},
            opacity=0.7,
            hovertemplate=f"trial {number}, epoch %{{x}}: %{{y:.4g}}",
        )
        seen.add(state)
    figure.update_xaxes(_whole_numbers(max(max(trial.intermediate_values) for trial in trials)))
    return styled(figure, "epoch", outcome.spec.objective.metric, height=440)


def slice_figures(outcome: Outcome, study: Study) -> list[go.Figure]:
    """Value over each parameter, in the order of the spec; the later the trial, the darker."""
    if not finite_values(outcome):
        return []
    metric, figures = outcome.spec.objective.metric, []
    drawn = {name for trial in outcome.trials if _is_finite(trial) for name in trial.params}
    for name, parameter in outcome.spec.search_space.items():
        if name not in drawn:  # its condition has held in none of them
            continue
        figure = visualization.plot_slice(study, params=[name], target_name=metric)
        figure.update_traces(
            marker={
                "showscale": False,
                "size": 8,
                "colorscale": [[0, "#C6DBEF"], [1, "#08306B"]],
                "line": {"color": "#555", "width": 0.5},
            },
            hovertemplate="trial %{marker.color}: %{y:.4g} at %{x}",
            selector={"name": "Feasible Trial"},
        )
        beyond = {"color": GREY, "size": 8, "symbol": "x"}
        hover = "infeasible: %{y:.4g} at %{x}"
        selector = {"name": "Infeasible Trial"}
        figure.update_traces(marker=beyond, hovertemplate=hover, selector=selector)
        if isinstance(parameter, CategoricalParameter):
            labels = {repr(choice): str(choice) for choice in parameter.choices}
            figure.update_xaxes(_short_ticks(labels))
        elif isinstance(parameter, IntParameter | FloatParameter):
            figure.update_xaxes(_whole_range(parameter))
        figures.append(styled(figure, name, metric, height=240, legend=False))
    return figures


def timeline_figure(outcome: Outcome, study: Study) -> go.Figure | str:
    """When each trial ran."""
    if all(trial.state == TrialState.WAITING for trial in outcome.trials):
        return "No trial has begun."
    figure = visualization.plot_timeline(study)
    # Optuna draws a second for a trial that waits, though it takes none.
    figure.data = [trace for trace in figure.data if trace.name != TrialState.WAITING.name]
    for trace in figure.data:
        trace.update(
            base=[_in_utc(start) for start in trace.base],
            text=[f"{milliseconds / 1000:,.1f} s" for milliseconds in trace.x],
            hovertemplate="trial %{y}: %{text}",
            marker={"color": STATE_COLORS[trace.name], "line": {"width": 0}},
        )
    figure.update_yaxes(_whole_numbers(len(outcome.trials)), autorange="reversed")
    height = min(600, 130 + 10 * len(outcome.trials))
    return styled(figure, "time (UTC)", "trial number", height=height)


def finite_values(outcome: Outcome) -> list[float]:
    """Values of the COMPLETE trials but infinite ones, which Optuna does not draw either."""
    return [trial.value or 0.0 for trial in outcome.trials if _is_finite(trial)]


def _is_finite(trial: FrozenTrial) -> bool:
    if trial.state != TrialState.COMPLETE or trial.value is None:
        return False
    return math.isfinite(trial.value)


def styled(
    figure: go.Figure, x_title: str, y_title: str, height: int = 360, *, legend: bool = True
) -> go.Figure:
    """The figure in the report's style, with the product's words on its axes."""
    figure.update_xaxes(title_text=_short(x_title))
    figure.update_yaxes(title_text=_short(y_title))
    templates = [trace.hovertemplate for trace in figure.data]
    styled = go.Figure(_escaped(figure.to_dict()))
    for trace, template in zip(styled.data, templates, strict=True):
        trace.hovertemplate = f"{template}<extra></extra>"
    styled.update_layout(
        template="none",
        title=None,
        showlegend=legend,
        height=height,
        margin={"l": 60, "r": 20, "t": 40 if legend else 10, "b": 50},
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#222"},
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    styled.update_xaxes(AXIS)
    styled.update_yaxes(AXIS)
    return styled


def _escaped(value: Any) -> Any:
    """Plotly takes a few HTML tags in any text; a user's names and choices are no HTML."""
    if isinstance(value, str):
        return html.escape(value, quote=False)
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(item) for item in value]
    return value


def _short(text: str) -> str:
    return text if len(text) <= LABEL_LENGTH else text[: LABEL_LENGTH - 1] + "…"


def _short_ticks(labels: dict[str, str]) -> dict[str, list[str]]:
    return {"tickvals": list(labels), "ticktext": [_short(text) for text in labels.values()]}


def _whole_numbers(n: int) -> dict[str, int]:
    """No tick between two of ``n`` whole numbers; among many plotly finds round ones itself."""
    return {"dtick": 1} if n <= 12 else {}


def _whole_range(parameter: IntParameter | FloatParameter) -> dict[str, Any]:
    """All that could have been drawn, not only what was."""
    low, high = float(parameter.low), float(parameter.high)
    if not parameter.log:
        margin = 0.04 * (high - low) or 1
        whole = _whole_numbers(parameter.high - parameter.low) if parameter.type == "int" else {}
        return {"range": [low - margin, high + margin], **whole}
    first, last = math.log10(low), math.log10(high)
    margin, decades = 0.04 * (last - first) or 1, last - first
    ticks: dict[str, Any] = {"dtick": math.ceil(decades / 6)}
    if decades < 3:
        ticks = {"dtick": "D2", "tickformat": "~g"}  # at 1, 2 and 5 of each decade
    return {"range": [first - margin, last + margin], **ticks}


def _in_utc(local: str) -> str:
    """Optuna's times are local ones without a zone, those of our own records are UTC."""
    return dt.datetime.fromisoformat(local).astimezone(dt.UTC).replace(tzinfo=None).isoformat()
