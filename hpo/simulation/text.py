"""The figures of a replay as two tables of at most 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WIDTH = 80
LABEL_WIDTH = 14


def replay_text(summary: Mapping[str, Any]) -> str:
    """Tables and sentences about ``summary``, which is what `--json` prints."""
    lines = [
        f"{summary['name']}: {summary['direction']} {summary['metric']}, {summary['trials']} "
        f"trials a search, {_count(summary['seeds'], 'seed')}",
        f"from {summary['source']}",
        "",
        f"{'':{LABEL_WIDTH}}{'':>6} {'best value at the end':^26}{'means over the seeds':>24}",
        f"{'strategy':{LABEL_WIDTH}}{'work.':>6}{'median':>9}{'low':>9}{'high':>9}"
        f"{'ends':>8}{'epochs':>8}{'busy':>5}{'rec/int/ext':>12}",
        *(_row(strategy) for strategy in summary["strategies"]),
    ]
    for index, target in enumerate(_targets(summary)):
        lines += [
            "",
            f"{'reaches ' + number(target):20}{'median after':>14}{'seeds':>10}",
            *(_reached_row(strategy, index) for strategy in summary["strategies"]),
        ]
    return "\n".join([*lines, "", *LEGEND, *caveats(summary)])


LEGEND = (
    "low, high: quartiles over the seeds; busy: share of the workers' time in which",
    "they train; rec/int/ext: epochs (%) recorded, interpolated, extrapolated.",
)


def caveats(summary: Mapping[str, Any]) -> list[str]:
    """How far the figures can be trusted."""
    lines = []
    if summary["start_s"]:
        lines.append(
            f"A trial takes {duration(summary['start_s'])} beside its epochs, as in the record."
        )
    lines += _error_lines(summary["surrogate_error"], summary["metric"])
    return [*lines, *_limits_lines(summary["limits_error"])]


def _error_lines(error: Mapping[str, Any] | None, metric: str) -> list[str]:
    if error is None:
        return ["Every epoch was recorded: nothing is predicted."]
    if error["final_mae"] is None:
        return ["The surrogate's error is unknown: no complete config could be held out."]
    lines = [
        f"Surrogate, on held-out configs: {metric} off by {number(error['final_mae'])} on average",
        f"({error['n_final']} complete ones; guessing their median: "
        f"{number(error['final_spread'])}), rank correlation "
        f"{_correlation(error['final_rank_correlation'])};",
        f"seconds of a trial off by {duration(error['seconds_mae'])} ({error['n_seconds']}), rank "
        f"correlation {_correlation(error['seconds_rank_correlation'])}.",
    ]
    if error["final_mae"] >= error["final_spread"]:
        lines += [
            "It predicts final values no better than their median does: differences between",
            "strategies that rest on predicted epochs prove nothing.",
        ]
    return lines


def _limits_lines(error: Mapping[str, Any] | None) -> list[str]:
    if error is None:
        return []
    if error["share"] is None:
        return ["How well constraints are predicted is unknown: no config could be held out."]
    lines = [
        f"Constraints: {error['share']:.0%} of {error['n_judged']} held-out configs judged wrongly "
        f"(guessing: {error['share_of_guess']:.0%})."
    ]
    if error["share"] >= error["share_of_guess"] > 0:
        lines.append("Which config breaks a constraint is predicted no better than by guessing.")
    return lines


def number(value: float | None) -> str:
    """Four decimals, as an accuracy wants them, unless it is too small or large for that."""
    if value is None:
        return "-"
    if value == 0 or 1e-3 <= abs(value) < 1e3:
        return f"{value:.4f}"
    return f"{value:.2e}"


def duration(seconds: float | None) -> str:
    """At most seven characters: 0.25 s, 42 s, 12m 05s, 3h 07m, 12 d."""
    if seconds is None:
        return "-"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest_s:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m" if hours < 100 else f"{hours / 24:,.0f} d"


def label(strategy: Mapping[str, Any]) -> str:
    """The strategy's name in a row."""
    if strategy["recorded"]:
        return "recorded"
    return f"{strategy['sampler']}/{strategy['scheduler']}"


def shares_text(shares: Mapping[str, float]) -> str:
    """Percent recorded, interpolated, extrapolated: 12/80/8."""
    return "/".join(f"{100 * share:.0f}" for share in shares.values())


def _row(strategy: Mapping[str, Any]) -> str:
    low, high = strategy["best_quartiles"]
    spread = ("", "") if strategy["recorded"] else (number(low), number(high))
    name = label(strategy)
    if len(name) > LABEL_WIDTH:
        name = f"{name}\n{'':{LABEL_WIDTH}}"
    return (
        f"{name:{LABEL_WIDTH}}{strategy['workers']:>6,}{number(strategy['best_median']):>9}"
        f"{spread[0]:>9}{spread[1]:>9}{duration(strategy['makespan_s']):>8}"
        f"{strategy['epochs']:>8,.0f}{strategy['utilization']:>5.0%}"
        f"{shares_text(strategy['shares']):>12}"
    )


def _reached_row(strategy: Mapping[str, Any], index: int) -> str:
    reached = strategy["reached"][index]
    seeds = f"{reached['n_seeds']} of {len(strategy['searches'])}"
    name = f"{label(strategy)} {strategy['workers']:,}"
    return f"{name:20}{duration(reached['median_s']):>14}{seeds:>10}"


def _targets(summary: Mapping[str, Any]) -> list[float]:
    first = next(iter(summary["strategies"]), None)
    return [] if first is None else [reached["value"] for reached in first["reached"]]


def _correlation(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def _count(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number} {noun}s"
