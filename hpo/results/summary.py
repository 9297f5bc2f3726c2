"""Ten lines that say what came out, for the terminal."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpo.results.finalists import close_to_winner
from hpo.results.outcome import Outcome, breaks_limits
from hpo.results.pareto import front_of, others_text, rule_text
from hpo.results.report import REPORT_FILE
from hpo.results.retrain import test_interval
from storage import was_answered, was_refused


def summary(outcome: Outcome, folder: Path, program: str = "hpo") -> str:
    """The outcome in at most ten lines; paths are relative to where the user stands.

    Two more tell of several objectives, one of params that changed while the winner trained.

    Args:
        outcome: what the experiment has come to.
        folder: its folder.
        program: how the user calls `hpo`, for the commands to type next.
    """
    name, spec, winner = outcome.experiment.name, outcome.spec, outcome.winner
    metric = spec.objective.metric
    lines = [_line(name, trials_line(outcome))]
    if winner is not None and winner.reported is not None:
        error = winner.reported.standard_error
        spread = "" if error is None else f" +- {error:.4f} (standard error)"
        rule = f"best mean of {len(outcome.finalists)} finalists"
        if close := close_to_winner(outcome):
            rule += f", not clearly better than trial {', '.join(map(str, close))}"
        if spec.is_multi_objective:
            n_front, rule = len(front_of(outcome.trials, spec)), rule_text(spec)
            front = f"{n_front} trials on it; finalists are its best in {metric}"
            lines.append(_line("front", front))
        lines += [
            _line("winner", f"trial {winner.number}, {rule}"),
            _line("params", params_text(winner.params)),
            *([_line("schedule", winner.schedule)] if winner.schedule else []),
            _line("search", f"{metric} {winner.search_value:.4f}{_optimism(outcome)}"),
            _line("re-runs", f"{metric} {winner.reported.mean:.4f}{spread}, {winner.seeds_text}"),
        ]
        if winner.others:
            lines.append(_line("at", others_text(winner)))
    lines += _test_lines(outcome, folder, program)
    lines += [
        _line("report", _relative(folder / REPORT_FILE)),
        _line("browse", f"{program} dashboard {name}"),
    ]
    return "\n".join(lines)


def trials_line(outcome: Outcome) -> str:
    """How many trials ended in which way, and what proposed and stopped them."""
    states = Counter(trial.state.name for trial in outcome.trials)
    n_refused = sum(was_refused(trial) for trial in outcome.trials)
    n_beyond = sum(breaks_limits(trial) for trial in outcome.trials)
    n_failed = states["FAIL"] - n_refused
    beyond = f" ({n_beyond} of them infeasible)" if n_beyond else ""
    ended = f"{states['COMPLETE']} complete{beyond}, {states['PRUNED']} pruned, {n_failed} failed"
    ended += f", {n_refused} infeasible" if n_refused else ""
    n_answered = sum(map(was_answered, outcome.trials))
    ended += f", {n_answered} answered from the record" if n_answered else ""
    waiting = f", {states['WAITING']} waiting" if states["WAITING"] else ""
    spec = outcome.spec
    return (
        f"{len(outcome.trials)} trials ({ended}{waiting}), sampler {outcome.sampler}, "
        f"scheduler {spec.scheduler.name}"
        + (f"; ended early: {outcome.search_end.reason}" if outcome.search_end else "")
    )


def params_text(params: Mapping[str, Any]) -> str:
    """``lr=0.0123 depth=3``: four significant digits."""
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in params.items()
    )


def _optimism(outcome: Outcome) -> str:
    """What a search value is: an extreme over noise, and that of the winner or of another trial."""
    is_maximized = outcome.spec.objective.direction == "maximize"
    extreme, pick = ("maximum", max) if is_maximized else ("minimum", min)
    best = pick(outcome.finalists, key=lambda finalist: finalist.search_value)
    winner = outcome.winner
    if winner is None or best.search_value == winner.search_value:
        return f", a {extreme} over noise"
    return f"; the {extreme} over noise was {best.search_value:.4f}, trial {best.number}"


def _test_lines(outcome: Outcome, folder: Path, program: str) -> list[str]:
    test, export, name = outcome.test, outcome.export, outcome.spec.trainable
    if test is None:
        return [_line("test", f"{name} offers no `finish`: nothing retrained, tested or exported")]
    interval = test_interval(test)
    spread = (
        f"{test.n_test} images"
        if interval is None
        else f"95 % interval {interval[0]:.4f} to {interval[1]:.4f}, "
        f"{test.n_correct} of {test.n_test}"
    )
    reads = len(outcome.test_readings)
    lines = [
        _line(
            "test",
            f"{test.metric} {test.value:.4f}, {spread}"
            + ("" if reads == 1 else f" (winner number {reads} to read the test set)"),
        )
    ]
    if export is not None:
        model = _relative(Path(export.path))
        example = next(iter(sorted((folder / "examples").glob("*.png"))), None)
        lines.append(
            _line("model", f"{model}, reloaded: largest difference {export.max_difference:.1e}")
        )
        if example is not None:
            lines.append(_line("try", f"{program} predict {model} {_relative(example)}"))
    return lines


def _line(label: str, text: str) -> str:
    return f"{label:<8} {text}"


def _relative(path: Path) -> str:
    """As the user would type it here; absolute if it lies elsewhere."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
