"""Re-run the best trials on fresh seeds, and the winner on others: a maximum is no estimate."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from optuna.trial import TrialState

from hpo.errors import NoSuccessfulTrialError
from hpo.lineage import lineage_of
from hpo.results.outcome import Finalist, Outcome, ranked_by_mean
from hpo.task_factory import TaskFactory
from hpo.tasks import EpochReport, TaskList, TrialTask
from storage import RerunRecord, is_infeasible

Wanted = Sequence[tuple[Finalist, int]]
"""Finalists to re-run, each with the index of the fresh seed."""


def wanted_reruns(outcome: Outcome) -> Wanted:
    """What has to be run before the winner can be chosen; empty if it can be.

    First every finalist on every one of the shared fresh seeds. Then, as long as the standard error
    of the best one overlaps those of others, these and it on one more seed, if their share of the
    budget allows it.

    Raises:
        NoSuccessfulTrialError: if there is no finalist, because no trial reached its full budget.
    """
    if not outcome.finalists:
        raise NoSuccessfulTrialError(_why_none(outcome))
    by_number = sorted(outcome.finalists, key=lambda finalist: finalist.number)
    missing = [
        (finalist, seed_index)
        for seed_index in range(outcome.spec.finalists.n_seeds)
        for finalist in by_number
        if seed_index not in [rerun.seed_index for rerun in finalist.reruns]
    ]
    return missing or _more_seeds(outcome)


def _more_seeds(outcome: Outcome) -> Wanted:
    close = _overlapping(outcome)
    if len(close) < 2:
        return []
    n_seeds = min(len(finalist.reruns) for finalist in close)
    wanted = [(finalist, n_seeds) for finalist in close if len(finalist.reruns) == n_seeds]
    n_run = sum(len(finalist.reruns) for finalist in outcome.finalists)
    n_after = n_run + len(wanted) + outcome.spec.finalists.confirmations
    is_affordable = n_after <= outcome.spec.finalists.max_share * outcome.spec.budget.n_trials
    return wanted if is_affordable else []


def _overlapping(outcome: Outcome) -> list[Finalist]:
    """The best finalist and those that are not clearly worse; one seed makes nothing clear."""
    best, *others = ranked_by_mean(outcome.finalists, outcome.spec)
    if best.estimate is None:
        return []
    sign = outcome.spec.objective.sign

    def is_close(other: Finalist) -> bool:
        if best.estimate is None or other.estimate is None:
            return False
        if best.estimate.standard_error is None or other.estimate.standard_error is None:
            return True
        reach = best.estimate.standard_error + other.estimate.standard_error
        return sign * (other.estimate.mean - best.estimate.mean) < reach

    close = [best, *(other for other in others if is_close(other))]
    return sorted(close, key=lambda finalist: finalist.number)


def close_to_winner(outcome: Outcome) -> list[int]:
    """The finalists that the winner's re-runs do not tell apart from it, by number.

    None if it was chosen by more than its mean.
    """
    if outcome.winner is None or outcome.spec.is_multi_objective:
        return []
    numbers = [finalist.number for finalist in _overlapping(outcome)]
    return [number for number in numbers if number != outcome.winner.number]


def rerun_tasks(
    outcome: Outcome,
    wanted: Wanted,
    tasks: TaskFactory,
    record: Callable[[RerunRecord], None],
    say: Callable[[str], None],
) -> TaskList:
    """The re-runs that are wanted.

    One that a former finalist of the same config has had is answered from the record.
    """
    metric = outcome.spec.objective.metric
    known = {
        _rerun_again(tasks, outcome, r).identity: r for r in outcome.reruns if r.value is not None
    }
    unknown = []
    for finalist, seed_index in wanted:
        task = tasks.rerun(finalist.number, finalist.params, seed_index, finalist.lineage)
        if (same := known.get(task.identity)) is None:
            unknown.append(task)
            continue
        record(replace(same, trial_number=task.number, seconds=0.0, finished_at=_now()))
        say(
            f"re-run of trial {task.number}, seed {same.seed_index + 1}: {metric}={same.value:.4f} "
            f"as trial {same.trial_number}, not trained again"
        )
    return TaskList(unknown, partial(_rerun_ended, "re-run", metric, record, say), say)


def _rerun_again(tasks: TaskFactory, outcome: Outcome, rerun: RerunRecord) -> TrialTask:
    trial = outcome.trials[rerun.trial_number]
    lineage = lineage_of(outcome.trials, trial)
    return tasks.rerun(trial.number, trial.params, rerun.seed_index, lineage)


def confirmation_tasks(
    outcome: Outcome,
    winner: Finalist,
    tasks: TaskFactory,
    record: Callable[[RerunRecord], None],
    say: Callable[[str], None],
) -> TaskList:
    """The winner on seeds that did not choose it, as far as it has not had them."""
    done = {one.seed_index for one in winner.confirmations}
    missing = [
        tasks.confirmation(winner.number, winner.params, seed_index, winner.lineage)
        for seed_index in range(outcome.spec.finalists.confirmations)
        if seed_index not in done
    ]
    metric = outcome.spec.objective.metric
    return TaskList(missing, partial(_rerun_ended, "confirmation", metric, record, say), say)


def _rerun_ended(
    word: str,
    metric: str,
    record: Callable[[RerunRecord], None],
    say: Callable[[str], None],
    task: TrialTask,
    report: EpochReport,
    seconds: float,
) -> None:
    assert task.seed_index is not None
    is_whole = report.ending == "complete"
    value = report.quantities.get(metric) if is_whole else None
    others = {name: report.quantities[name] for name in task.other_objectives if is_whole}
    record(
        RerunRecord(
            trial_number=task.number,
            seed_index=task.seed_index,
            seed=task.context.seed,
            value=value,
            fail_reason=report.fail_reason or None,
            seconds=seconds,
            finished_at=_now(),
            others=others,
        )
    )
    told = f"failed: {report.fail_reason}" if value is None else f"{metric}={value:.4f}"
    say(f"{word} of trial {task.number}, seed {task.seed_index + 1}: {told} ({seconds:.1f} s)")


def _why_none(outcome: Outcome) -> str:
    """Why there is no finalist."""
    n_complete = sum(trial.state == TrialState.COMPLETE for trial in outcome.trials)
    if n_complete:
        names = ", ".join(outcome.spec.constraints)
        return f"none of {n_complete} COMPLETE trials keeps the constraints ({names}); widen them"
    reasons = [trial.user_attrs.get("fail_reason") for trial in outcome.trials]
    last = next((reason for reason in reversed(reasons) if reason), None)
    told = f"none of {len(outcome.trials)} trials succeeded"
    if last is None:
        return told
    told += f"; the last failure:\n  {last}"
    if all(is_infeasible(trial) for trial in outcome.trials):
        told += (
            "\nNo config can be trained: change `fixed` or `search_space`, and begin another "
            f"experiment: -o name={outcome.spec.name}-2"
        )
    return told


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(tzinfo=None)
