"""What a terminal shows while a search runs: a table that fits, and a bar."""

from __future__ import annotations

import io
from collections.abc import Callable

import optuna
import pytest
from optuna.trial import TrialState
from rich.console import Console

from hpo.progress import RunProgress
from hpo.search import ask, search_sampler
from hpo.spec import ExperimentSpec
from hpo.tasks import EpochReport
from storage import put_constraints


def shown(spec: ExperimentSpec, *, width: int, is_terminal: bool) -> list[str]:
    """The last drawing of a search of six trials, of which the fifth fails and the sixth runs."""
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=is_terminal, color_system=None)
    sampler = search_sampler(spec, 6)
    study = optuna.create_study(direction=spec.objective.direction, sampler=sampler)
    with RunProgress(spec, console, n_trials=6) as progress:
        for number in range(6):
            trial = ask(study, spec.search_space)
            progress.trial_started(number, trial.params)
            report = EpochReport(epoch=1, metrics={"loss": 10.0 - number}, seconds=0.5)
            progress.epoch_reported(number, report)
            if number == 4:
                trial.set_user_attr("fail_reason", "ValueError: no (my_module.py:3)")
                study.tell(trial, state=TrialState.FAIL)
            elif number < 4:
                study.tell(trial, 10.0 - number)
            if number < 5:
                progress.trial_ended(study.trials[number])
    return stream.getvalue().splitlines()


def test_the_table_fits_80_columns_and_shows_every_column(
    branin: Callable[..., ExperimentSpec],
) -> None:
    lines = shown(branin(), width=80, is_terminal=True)
    heading = next(line for line in lines if "trial" in line and "params" in line)
    assert heading.split() == ["trial", "state", "epoch", "loss", "s", "params"]
    assert max(len(line.rstrip()) for line in lines) <= 80 + len("\x1b[2K")
    text = "\n".join(lines)
    assert "5/6" in text
    assert "best 7.0000 (trial 3)" in text
    assert "running" in text
    assert "ValueError: no (my_module.py:3)" in text


def test_of_a_search_in_stages_it_says_which_one_a_trial_belongs_to(
    branin: Callable[..., ExperimentSpec],
) -> None:
    spec = branin("stages=[[x2], [x1]]", "budget.n_trials=6")
    lines = shown(spec, width=80, is_terminal=False)
    told = [line.split(" stage ")[1].split(",")[0] for line in lines if " stage " in line]
    assert told == ["1 of 2"] * 3 + ["2 of 2"] * 2
    assert "search, stage 2 of 2" in "\n".join(shown(spec, width=80, is_terminal=True))


def test_without_a_terminal_there_are_lines_and_no_drawing(
    branin: Callable[..., ExperimentSpec],
) -> None:
    lines = shown(branin(), width=80, is_terminal=False)
    assert [line.split()[:3] for line in lines if line.startswith("trial")] == [
        ["trial", str(number), state] for number, state in enumerate(["COMPLETE"] * 4 + ["FAIL"])
    ]
    assert not any("━" in line for line in lines)


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_trial_that_waits_costs_nothing_or_was_trained_before_is_told_so(
    is_terminal: bool, branin: Callable[..., ExperimentSpec]
) -> None:
    """An infeasible config does not move the bar: it is no part of the budget."""
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=is_terminal, color_system=None)
    study = optuna.create_study(direction="minimize")
    trials = [study.ask() for _ in range(4)]
    put_constraints(trials[0], [1.0])
    study.tell(trials[0], state=TrialState.FAIL)
    put_constraints(trials[1], [1.0])
    study.tell(trials[1], 0.5)
    trials[2].set_user_attr("answered_by", 1)
    study.tell(trials[2], 2.0)
    with RunProgress(branin(), console, n_trials=6) as progress:
        for number in range(4):
            progress.trial_started(number, {})
        for number in range(3):
            progress.trial_ended(study.trials[number])
        progress.trial_held_back(3)
    shown = stream.getvalue()
    if is_terminal:
        assert "held back" in shown
        assert "2/6" in shown
        assert "best 2.0000 (trial 2)" in shown
    else:
        lines = shown.splitlines()
        assert [line.split()[2] for line in lines] == ["INFEASIBLE", "INFEASIBLE", "COMPLETE"]
        assert "as trial 1, not trained again" in lines[2]


def test_a_search_that_goes_on_counts_and_remembers_the_trials_before(
    branin: Callable[..., ExperimentSpec],
) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=True, color_system=None)
    study = optuna.create_study(direction="minimize")
    for value in (3.0, 1.0, 2.0):
        study.tell(study.ask(), value)
    study.ask()
    with RunProgress(branin(), console, n_trials=6) as progress:
        progress.already_finished(study.trials)
    assert "3/6" in stream.getvalue()
    assert "best 1.0000 (trial 1)" in stream.getvalue()
