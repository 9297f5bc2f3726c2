"""What travels between the driver and a worker, and where it comes from: jobs out, reports back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from hpo.seeds import derive_seed
from hpo.spec import ExperimentSpec
from trainables import PackedModel, TrialContext

EPOCH, OBJECTIVE = "epoch", "objective"
"""Keys of a worker's result that Ray's schedulers read."""

OUTPUT_FILE, TRACEBACK_FILE = "output.txt", "traceback.txt"
"""In a job's folder: what its trainable printed, and what it raised."""


@dataclass(frozen=True, kw_only=True)
class TrialJob:
    """Everything a worker needs to train one config.

    ``number`` is the trial's; ``seed_index`` counts its re-runs and is None in the search itself.
    The task "finish" retrains on everything but the test set, and hands the model back. With
    ``wants_fingerprint`` the first report names the data.
    """

    number: int
    seed_index: int | None = None
    task: Literal["train", "finish"] = "train"
    wants_fingerprint: bool = False
    trainable: str
    import_paths: tuple[Path, ...]
    config: Mapping[str, Any]
    context: TrialContext
    metric: str


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """The metrics of one epoch, and how the job ended if this report is its last.

    Attributes:
        epoch: counted from 1; 0 if the job failed in its first epoch.
        metrics: whatever the trainable yielded; of the last whole epoch if the job failed.
        seconds: how long the epoch took.
        ending: "complete" at full budget, "failed" if the trainable raised or broke its contract,
            None while the job goes on.
        fail_reason: what failed and where, in one line.
        fail_place: exception type and code line; equal for failures of one cause.
        traceback: of the user's exception.
        fingerprint: of the trainable's data, if the job asked for it.
        final_model: what the task "finish" hands back; None if the trainable offers no ``finish``.
    """

    epoch: int
    metrics: Mapping[str, float]
    seconds: float
    ending: Literal["complete", "failed"] | None = None
    fail_reason: str = ""
    fail_place: str = ""
    traceback: str = ""
    fingerprint: str | None = None
    final_model: PackedModel | None = None


class JobSource(Protocol):
    """One stage of an experiment: hands out jobs, and is told how they went."""

    @property
    def scheduler(self) -> Any:
        """Ray's scheduler that may stop the stage's jobs early; None if nothing may."""

    @property
    def is_over_time(self) -> bool:
        """Whether jobs that run should stop at their next report."""

    def next_job(self) -> TrialJob | None:
        """The next job; None if there is no more. The stage is over once all its jobs ended."""

    def reported(self, job: TrialJob, report: EpochReport) -> None:
        """A job goes on after this epoch."""

    def ended(self, job: TrialJob, report: EpochReport | None) -> None:
        """A job's last report; without an ``ending`` it was stopped. None: its worker died."""


class JobList:
    """A stage whose jobs are known beforehand and run to their end."""

    scheduler = None
    is_over_time = False

    def __init__(
        self, jobs: Sequence[TrialJob], on_end: Callable[[TrialJob, EpochReport, float], None]
    ) -> None:
        """``on_end`` gets each job, its last report and the seconds of all its epochs."""
        self._jobs, self._on_end = list(jobs), on_end
        self._seconds: dict[tuple[int, int | None], float] = {}

    def next_job(self) -> TrialJob | None:
        """The jobs in order."""
        return self._jobs.pop(0) if self._jobs else None

    def reported(self, job: TrialJob, report: EpochReport) -> None:
        """Add up the seconds."""
        key = (job.number, job.seed_index)
        self._seconds[key] = self._seconds.get(key, 0.0) + report.seconds

    def ended(self, job: TrialJob, report: EpochReport | None) -> None:
        """Hand the job over."""
        report = report or worker_died(job)
        self.reported(job, report)
        self._on_end(job, report, self._seconds[job.number, job.seed_index])


def worker_died(job: TrialJob) -> EpochReport:
    """The report that a dead worker could not send."""
    reason = f"the worker process of trial {job.number} died; out of memory is the usual cause"
    return EpochReport(
        epoch=0, metrics={}, seconds=0.0, ending="failed", fail_reason=reason, fail_place="worker"
    )


@dataclass(frozen=True, kw_only=True)
class JobFactory:
    """Makes jobs of one experiment: adds fixed values, seed, folder and budget to drawn params."""

    spec: ExperimentSpec
    import_paths: tuple[Path, ...]
    folder: Path
    data_dir: Path

    def trial(self, number: int, params: Mapping[str, Any]) -> TrialJob:
        """Trial ``number`` of the search."""
        seed = derive_seed(self.spec.seed, number, "trial")
        return self._job(number, params, seed, self.trial_folder(number))

    def rerun(self, number: int, params: Mapping[str, Any], seed_index: int) -> TrialJob:
        """Trial ``number`` once more on a fresh seed, which all finalists share."""
        seed = derive_seed(self.spec.seed, seed_index, "rerun")
        folder = self.folder / "reruns" / f"{number:05d}-{seed_index}"
        return replace(self._job(number, params, seed, folder), seed_index=seed_index)

    def retrain(self, number: int, params: Mapping[str, Any]) -> TrialJob:
        """The winner, to be trained on everything but the test set."""
        seed = derive_seed(self.spec.seed, number, "retrain")
        return replace(self._job(number, params, seed, self.folder / "retrain"), task="finish")

    def trial_folder(self, number: int) -> Path:
        """What trial ``number`` leaves behind stands here."""
        return self.folder / "trials" / f"{number:05d}"

    def _job(self, number: int, params: Mapping[str, Any], seed: int, folder: Path) -> TrialJob:
        spec = self.spec
        return TrialJob(
            number=number,
            trainable=spec.trainable,
            import_paths=self.import_paths,
            config={**spec.fixed, **params, "seed": seed},
            metric=spec.objective.metric,
            context=TrialContext(
                seed=seed,
                folder=folder,
                device="cuda" if spec.resources.gpu > 0 else "cpu",
                threads=max(1, int(spec.resources.cpu)),
                max_epochs=spec.budget.max_epochs,
                data_dir=self.data_dir,
            ),
        )
