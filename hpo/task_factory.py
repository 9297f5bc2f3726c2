"""Where the tasks of an experiment come from, and where what they leave behind lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpo.lineage import Lineage
from hpo.seeds import derive_seed
from hpo.spec import ExperimentSpec
from hpo.tasks import EpochReport, TrialTask
from storage import EpochRecord
from trainables import (
    CHECKPOINTS,
    N_KEPT,
    Checkpoint,
    Place,
    Segment,
    StoredPath,
    TrialContext,
    checkpoint_in,
    folder_names,
    remove_checkpoints,
)


@dataclass(frozen=True, kw_only=True)
class TaskFactory:
    """Makes tasks of one experiment: adds fixed values, seed, folder and budget to drawn params.

    Attributes:
        spec: of the experiment.
        import_paths: where to look for its trainable.
        folder: of the experiment; each task has one of its own in it.
        data_dir: folder of data sets.
        checkpoints: stands for ``folder`` where checkpoints are concerned; None: they lie in it.
    """

    spec: ExperimentSpec
    import_paths: tuple[Path, ...]
    folder: Path
    data_dir: Path
    checkpoints: Place | None = None

    def trial(self, number: int, params: Mapping[str, Any]) -> TrialTask:
        """Trial ``number`` of the search."""
        spec = self.spec
        n_seeds = spec.n_trial_seeds
        seed = derive_seed(spec.seed, number if n_seeds is None else number % n_seeds, "trial")
        task = self._task(number, params, seed, self.trial_folder(number))
        return replace(
            task,
            constraints=spec.constraints,
            time_limit_s=spec.budget.trial_time_limit_s,
            context=replace(
                task.context,
                keeps_checkpoints=True,
                wanted=tuple(dict.fromkeys((*task.context.wanted, *spec.constraints))),
            ),
        )

    def going_on(self, task: TrialTask, epochs: Sequence[EpochRecord]) -> TrialTask:
        """``task`` behind those ``epochs`` of an earlier start, all that were reported, in order.

        Without a checkpoint among them it begins with epoch 1 again, as of a trainable that keeps
        none.
        """
        if not any(epoch.checkpoint for epoch in epochs):
            return task
        resume_from = self._checkpoints(epochs)
        return replace(
            task,
            known=tuple(_reported_before(one) for one in epochs),
            context=replace(task.context, resume_from=resume_from),
        )

    def member(
        self,
        number: int,
        params: Mapping[str, Any],
        lineage: Lineage,
        epochs: Sequence[EpochRecord],
        *,
        keep_every: int,
    ) -> TrialTask:
        """Trial ``number`` of a population, behind all that it and its lineage have trained.

        Args:
            number: of the trial.
            params: of the trial.
            lineage: what it began with.
            epochs: its own if it has trained any, and those of its parent up to where it began.
            keep_every: after so many epochs others may go on from its checkpoint.
        """
        task = self.trial(number, params)
        if not epochs:
            return replace(task, context=replace(task.context, keep_every=keep_every))
        own_s = sum(one.seconds for one in epochs if one.trial_number == number)
        context = replace(
            task.context,
            keep_every=keep_every,
            resume_from=self._checkpoints(epochs, keep_every),
            earlier=self._segments(lineage, task.context.seed),
        )
        done = replace(_reported_before(epochs[-1]), seconds=own_s)
        return replace(task, done=done, context=context)

    def _checkpoints(
        self, epochs: Sequence[EpochRecord], keep_every: int = 1
    ) -> tuple[Checkpoint, ...]:
        """Those that lie there, the newest first: the last ones, and the last of every so many."""
        kept = {one.epoch: one for one in epochs if one.checkpoint is not None}
        apart = [epoch for epoch in kept if epoch % keep_every == 0]
        there = sorted({*[*kept][-N_KEPT:], *apart[-N_KEPT:]}, reverse=True)
        return tuple(
            checkpoint_in(self.checkpoint_home(one.trial_number), one.epoch, one.checkpoint or "")
            for one in map(kept.__getitem__, there)
        )

    def _segments(self, lineage: Lineage, seed: int) -> tuple[Segment, ...]:
        return tuple(
            Segment(
                config={**self.spec.fixed, **past.params, "seed": seed},
                until_epoch=past.until_epoch,
            )
            for past in lineage
        )

    def rerun(
        self, number: int, params: Mapping[str, Any], seed_index: int, lineage: Lineage = ()
    ) -> TrialTask:
        """Trial ``number`` once more on a fresh seed, which all finalists share.

        Like confirmations and the retraining it keeps no checkpoint: cut off, it begins again.
        """
        seed = derive_seed(self.spec.seed, seed_index, "rerun")
        folder = self.folder / "reruns" / f"{number:05d}-{seed_index}"
        return replace(self._task(number, params, seed, folder, lineage), seed_index=seed_index)

    def confirmation(
        self, number: int, params: Mapping[str, Any], seed_index: int, lineage: Lineage = ()
    ) -> TrialTask:
        """The winner once more, on a seed that had no part in choosing it."""
        seed = derive_seed(self.spec.seed, seed_index, "confirmation")
        folder = self.folder / "confirmations" / f"{number:05d}-{seed_index}"
        return replace(self._task(number, params, seed, folder, lineage), seed_index=seed_index)

    def retrain(self, number: int, params: Mapping[str, Any], lineage: Lineage = ()) -> TrialTask:
        """The winner, to be trained on everything but the test set."""
        seed = derive_seed(self.spec.seed, number, "retrain")
        task = self._task(number, params, seed, self.folder / "retrain", lineage)
        return replace(task, purpose="finish")

    def find_lr(self, config: Mapping[str, Any], folder: Path) -> TrialTask:
        """A range test, before there is a trial; what it prints or raises lies in ``folder``."""
        seed = derive_seed(self.spec.seed, 0, "find_lr")
        return replace(self._task(0, config, seed, folder), purpose="find_lr")

    def make_home(self) -> None:
        """Make the folder that every machine has to see, before there is any task.

        Raises:
            OSError: if there can be none.
        """
        if self._shared_folder is not None:
            self._shared_folder.mkdir(parents=True, exist_ok=True)

    @property
    def _shared_folder(self) -> Path | None:
        place = self.folder if self.checkpoints is None else self.checkpoints
        return place if isinstance(place, Path) else None

    def trial_folder(self, number: int) -> Path:
        """What trial ``number`` leaves behind stands here."""
        return self.folder / "trials" / f"{number:05d}"

    def checkpoint_home(self, number: int) -> Place:
        """Where the checkpoints of trial ``number`` lie."""
        folder = self.trial_folder(number)
        return self._home(folder) or folder

    def kept_checkpoints(self, numbers: Sequence[int]) -> dict[int, int]:
        """How many files are kept of these trials, of those that have any.

        Raises:
            OSError: if an object store does not answer, or refuses.
        """
        home, kept = self._home(self.folder / "trials"), dict[int, int]()
        # One look into a store instead of a thousand.
        names = set(home.folder_names()) if isinstance(home, StoredPath) else None
        for number in numbers:
            if names is not None and self.trial_folder(number).name not in names:
                continue
            place = self.checkpoint_home(number) / CHECKPOINTS
            files = place.glob("*") if isinstance(place, Path) else place.iterdir()
            if n_files := sum(1 for _ in files):
                kept[number] = n_files
        return kept

    def remove_checkpoints(self, numbers: Sequence[int]) -> None:
        """Remove those of trials that have ended."""
        home, ended = self._home(self.folder / "trials"), set(numbers)
        if home is None:
            there = ended
        else:  # one look into a store is cheaper than a thousand removals of nothing
            there = ended & {int(name) for name in folder_names(home) if name.isdecimal()}
        for number in there:
            remove_checkpoints(self.checkpoint_home(number))

    def _home(self, folder: Path) -> Place | None:
        """What stands for a folder of this experiment in the place of its checkpoints."""
        if self.checkpoints is None or not folder.is_relative_to(self.folder):
            return None
        return self.checkpoints / str(folder.relative_to(self.folder))

    def _task(
        self,
        number: int,
        params: Mapping[str, Any],
        seed: int,
        folder: Path,
        lineage: Lineage = (),
    ) -> TrialTask:
        """``lineage`` is trained first, each part of it with its own config."""
        spec = self.spec
        others = tuple(objective.metric for objective in spec.objectives[1:])
        return TrialTask(
            number=number,
            trainable=spec.trainable,
            import_paths=self.import_paths,
            config={**spec.fixed, **params, "seed": seed},
            metric=spec.objective.metric,
            other_objectives=others,
            stall_timeout_s=spec.budget.stall_timeout_s,
            home=self._shared_folder,
            context=TrialContext(
                seed=seed,
                folder=folder,
                device="cuda" if spec.resources.gpu > 0 else "cpu",
                threads=max(1, int(spec.resources.cpu)),
                max_epochs=spec.budget.max_epochs,
                data_dir=self.data_dir,
                checkpoint_home=self._home(folder),
                wanted=(spec.objective.metric, *others) if others else (),
                keeps_checkpoints=bool(lineage),  # each part goes on from the one before it
                earlier=self._segments(lineage, seed),
            ),
        )


def _reported_before(epoch: EpochRecord) -> EpochReport:
    return EpochReport(
        epoch=epoch.epoch,
        metrics=epoch.metrics,
        seconds=epoch.seconds,
        checkpoint=epoch.checkpoint,
        is_known=True,
    )
