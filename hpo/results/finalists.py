"""Re-run the best trials on fresh seeds: the maximum of a noisy search is no estimate."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import replace

from optuna.trial import TrialState

from hpo.errors import NoSuccessfulTrialError
from hpo.results.outcome import Outcome
from hpo.tasks import EpochReport, TaskFactory, TaskList, TrialTask
from storage import RerunRecord, is_infeasible


def rerun_tasks(
    outcome: Outcome,
    tasks: TaskFactory,
    record: Callable[[RerunRecord], None],
    say: Callable[[str], None],
) -> TaskList:
    """The re-runs that are still missing: every finalist on every one of the shared fresh seeds.

    One that a former finalist of the same config has had is answered from the record.

    Raises:
        NoSuccessfulTrialError: if there is no finalist, because no trial reached its full budget.
    """
    if not outcome.finalists:
        raise NoSuccessfulTrialError(_why_none(outcome))
    metric = outcome.spec.objective.metric

    def on_end(task: TrialTask, report: EpochReport, seconds: float) -> None:
        assert task.seed_index is not None
        value = report.metrics.get(metric) if report.ending == "complete" else None
        record(
            RerunRecord(
                trial_number=task.number,
                seed_index=task.seed_index,
                seed=task.context.seed,
                value=value,
                fail_reason=report.fail_reason or None,
                seconds=seconds,
                finished_at=_now(),
            )
        )
        told = f"failed: {report.fail_reason}" if value is None else f"{metric}={value:.4f}"
        say(f"re-run of trial {task.number}, seed {task.seed_index + 1}: {told} ({seconds:.1f} s)")

    missing = [
        tasks.rerun(finalist.number, finalist.params, seed_index)
        for seed_index in range(outcome.spec.finalists.n_seeds)
        for finalist in sorted(outcome.finalists, key=lambda finalist: finalist.number)
        if seed_index not in [rerun.seed_index for rerun in finalist.reruns]
    ]
    known = {
        tasks.rerun(r.trial_number, outcome.trials[r.trial_number].params, r.seed_index).identity: r
        for r in outcome.reruns
        if r.value is not None
    }
    unknown = []
    for task in missing:
        if (same := known.get(task.identity)) is None:
            unknown.append(task)
            continue
        record(replace(same, trial_number=task.number, seconds=0.0, finished_at=_now()))
        say(
            f"re-run of trial {task.number}, seed {same.seed_index + 1}: {metric}={same.value:.4f} "
            f"as trial {same.trial_number}, not trained again"
        )
    return TaskList(unknown, on_end)


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
