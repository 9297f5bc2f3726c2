"""Population-based training in generations: a search whose trials go on from one another."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hpo.errors import UsageError
from hpo.failpoints import failpoint
from hpo.lineage import (
    LINEAGE,
    PARENT,
    PARENT_EPOCH,
    REPLACES,
    ancestors,
    born_at,
    lineage_of,
)
from hpo.search.ending import n_spent
from hpo.search.population import (
    Generation,
    failed_members,
    is_founder,
    judged,
    perturbed,
)
from hpo.search.source import StudySource
from hpo.search.space import ask
from hpo.spec import ExperimentSpec, PbtSpec
from hpo.task_factory import TaskFactory
from hpo.tasks import EpochReport, TrialTask
from storage import EpochRecord, enqueue_with_past, put_intermediate_value
from trainables import N_KEPT

GENERATION = "pbt_generation_"
"""Attribute of the study, with the index of a generation: what followed from it."""


class PopulationSource(StudySource):
    """The trials of scheduler ``pbt``.

    All are asked for before the first is trained, so that none of them knows another. Each trains
    to the end of its generation and is held there, RUNNING in the study, or WAITING after an
    interruption. When nobody is on the way any more, the generation is judged: what follows is
    recorded in the study first, and then done, so that a driver that dies in between leaves
    nothing half done. Checkpoints of trials that have ended stay until then: one of them may be
    the parent of a trial that waits for a worker.
    """

    drops_checkpoints_at_once = False

    def __init__(self, *args: Any, **keys: Any) -> None:
        """As `StudySource`; the spec's scheduler is ``pbt``."""
        super().__init__(*args, **keys)
        assert isinstance(self._spec.scheduler, PbtSpec), "which has a population"
        assert self._spec.budget.max_epochs is not None, "a checked spec with pbt has it"
        self._pbt, self._max_epochs = self._spec.scheduler, self._spec.budget.max_epochs
        self._ready: dict[int, optuna.Trial] = {}
        self._arrived: dict[int, optuna.Trial] = {}
        self._losers: set[int] = set()
        self._warned: set[int] = set()
        """Trials something is wrong with, a full disk say: not what their trainable does."""
        self._n_generations = 0
        while (recorded := self._study.user_attrs.get(self._key)) is not None:
            self._n_generations += 1
            generation = Generation(**recorded)
            self._losers |= {loser for loser, _ in generation.replaced}
            self._bear_children(generation)

    @property
    def _key(self) -> str:
        return f"{GENERATION}{self._n_generations}"

    @property
    def _goal(self) -> int:
        """The epoch at which the present generation is judged, or ends for good."""
        return min((self._n_generations + 1) * self._pbt.interval_epochs, self._max_epochs)

    def next_task(self) -> TrialTask | None:
        """A trial of the present generation; None while it waits for those that run, or is over."""
        self._stop_if_all_fail_alike()
        self._judge_end(n_spent(self._trials(), self._spec))
        while not self.is_over_time:
            self._gather()
            if self._ready:
                return self._started(self._ready.pop(min(self._ready)))
            if self._running:
                return None
            self._drop_checkpoints()
            if not self._arrived:
                return None
            self._next_generation()
        return None

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _gather(self) -> None:
        """Take up all trials that there are, and ask for those that the population lacks."""
        while True:
            trials = self._trials()
            is_short = sum(map(is_founder, trials)) < self._n_trials and self._end is None
            if not is_short and not any(one.state == TrialState.WAITING for one in trials):
                return
            trial = ask(self._study, self._space)
            self._tell_started(trial)
            if trial.number in self._losers:  # a driver died before it could say so
                self._tell(trial, state=TrialState.PRUNED)
                continue
            trial.set_user_attr("seed", self._tasks.trial(trial.number, trial.params).context.seed)
            failpoint("seed of a member recorded")
            own = self._recorded_epochs(trial.number)
            if own and own[-1].epoch == self._goal < self._max_epochs:
                value = own[-1].metrics[self._metrics[0]]
                put_intermediate_value(trial, self._goal, value)
                self._arrive(trial)
            else:
                self._ready[trial.number] = trial

    def _started(self, trial: optuna.Trial) -> TrialTask:
        trials, number = self._trials(), trial.number
        task = self._tasks.member(
            number,
            trial.params,
            lineage_of(trials, trials[number]),
            [*self._inherited(trials[number]), *self._recorded_epochs(number)],
            keep_every=self._pbt.interval_epochs,
        )
        self._running[number] = trial
        return self._with_fingerprint(task)

    def _inherited(self, trial: FrozenTrial) -> list[EpochRecord]:
        """The last epochs of a trial's parent before the trial began."""
        if (parent := trial.user_attrs.get(PARENT)) is None:
            return []
        epochs = self._recorded_epochs(parent)
        return [one for one in epochs if one.epoch <= born_at(trial)][-N_KEPT:]

    def _takes_back(self, trial: optuna.Trial, report: EpochReport) -> bool:
        """Whether a trial that was stopped has come to the end of its generation.

        Raises:
            UsageError: if nobody can go on from it, since its trainable keeps no checkpoints.
        """
        if report.epoch < self._goal:
            return False
        number = trial.number
        if number not in self._warned and not self._checkpoints_of(number):
            raise UsageError(
                f"scheduler pbt: trainable {self._spec.trainable!r} kept no checkpoint of epoch "
                f"{report.epoch}, from which others could go on. Let it call "
                "trial.checkpoints.save(epoch, state) before each yield, and "
                "trial.checkpoints.load() before its first epoch; or take another scheduler, and "
                f"begin another experiment: -o scheduler=asha -o name={self._spec.name}-2"
            )
        self._arrive(trial)
        return True

    def _checkpoints_of(self, number: int) -> list[EpochRecord]:
        return [one for one in self._recorded_epochs(number) if one.checkpoint is not None]

    def _warn(self, task: TrialTask, report: EpochReport) -> None:
        self._warned |= {task.number} if report.complaints else set()
        super()._warn(task, report)

    def _arrive(self, trial: optuna.Trial) -> None:
        self._arrived[trial.number] = trial
        for observer in self._observers:
            observer.trial_held_back(trial.number)

    def _next_generation(self) -> None:
        """Judge those that have arrived; the rest of them, and the new ones, train on."""
        trials, epoch = self._trials(), self._goal
        generation = judged(
            {number: trials[number].intermediate_values[epoch] for number in self._arrived},
            failed_members(trials),
            epoch=epoch,
            first_child=len(trials),
            sign=self._spec.objective.sign,
            quantile=self._pbt.quantile,
            seed=self._spec.seed,
        )
        self._study.set_user_attr(self._key, asdict(generation))
        failpoint("generation judged")
        self._n_generations += 1
        self._bear_children(generation)
        for loser, _ in generation.replaced:
            if loser in self._arrived:
                self._tell(self._arrived.pop(loser), state=TrialState.PRUNED)
        for number in sorted(self._arrived):
            self._ready[number] = self._arrived.pop(number)
            self._tell_started(self._ready[number])

    def _bear_children(self, generation: Generation) -> None:
        """Put the new trials into the queue, but those that are there already."""
        trials = self._trials()
        for number, (loser, parent) in enumerate(generation.replaced, generation.first_child):
            if number < len(trials):
                continue
            known, seed = trials[parent], self._spec.seed
            values = known.intermediate_values.items()
            enqueue_with_past(
                self._study,
                perturbed(known.params, self._space, self._pbt, seed, number),
                attributes={
                    PARENT: parent,
                    PARENT_EPOCH: generation.epoch,
                    REPLACES: loser,
                    LINEAGE: [*ancestors(known), (parent, generation.epoch)],
                },
                intermediate_values={e: value for e, value in values if e <= generation.epoch},
            )
            failpoint("child born")

    def _drop_checkpoints(self) -> None:
        """Nobody is on the way: what has ended is nobody's parent any more."""
        ended = [trial.number for trial in self._trials() if trial.state.is_finished()]
        self._tasks.remove_checkpoints(ended)


def search_source(
    study: Study, spec: ExperimentSpec, tasks: TaskFactory, **keys: Any
) -> StudySource:
    """The search as a source of tasks, of whatever kind the spec's scheduler needs.

    Arguments are those of `StudySource`.
    """
    kind = PopulationSource if isinstance(spec.scheduler, PbtSpec) else StudySource
    return kind(study, spec, tasks, **keys)
