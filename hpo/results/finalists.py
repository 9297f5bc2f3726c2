"""Re-run the best trials on fresh seeds: the maximum of a noisy search is no estimate."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

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

    Raises:
        NoSuccessfulTrialError: if there is no finalist, because no trial reached its full budget.
    """
    if not outcome.finalists:
        raise NoSuccessfulTrialError(_no_success(outcome))
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
                finished_at=dt.datetime.now(dt.UTC).replace(tzinfo=None),
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
    return TaskList(missing, on_end)


def _no_success(outcome: Outcome) -> str:
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
