"""When a search is over: its budget is spent, or there is a reason to end it early."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hpo.errors import NoSuccessfulTrialError, UsageError
from hpo.search.opening import n_off_grid
from hpo.search.population import is_founder
from hpo.search.space import n_grid_cells
from hpo.search.terminator import Terminator
from hpo.spec import ExperimentSpec, GridSpec, PbtSpec
from storage import SearchEnd, is_infeasible, put_search_end, search_end, was_refused

MAX_GRID_CELLS = 1_000_000
N_ALIKE = 20
"""So many first configs that the trainable refuses for one cause end a search.

It looks like a mistake in what is fixed. A limit of ``constraints`` may be as narrow as it likes.
"""
BY_LIMIT = "infeasible: constraints."
"""How the cause of a refusal by a limit of the spec begins."""
PATIENCE_FROM = "patience_from"
"""Attribute of a study that was ended and then given more trials: patience begins anew there."""


def n_trials_of(spec: ExperimentSpec) -> int:
    """Trials of the whole search: the budget, or the cells of the grid if these are fewer.

    First trials that are no cells of the grid come on top of it.

    Raises:
        UsageError: if the grid is too large to be listed.
    """
    if not isinstance(spec.sampler, GridSpec):
        return spec.budget.n_trials
    n_cells = n_grid_cells(spec.search_space) or 0
    if n_cells > MAX_GRID_CELLS:
        raise UsageError(
            f"the grid of {spec.name!r} has {n_cells:,} cells, more than {MAX_GRID_CELLS:,}; give "
            "wider steps, or another sampler: -o sampler=random"
        )
    if n_cells >= spec.budget.n_trials:
        return spec.budget.n_trials
    return min(spec.budget.n_trials, n_cells + n_off_grid(spec))


def is_spent_on(trial: FrozenTrial, spec: ExperimentSpec) -> bool:
    """Whether a trial has used up a part of the budget.

    A config that was refused before any training has not. In a grid it has: its cell is done. Of a
    population it is the lineages that count: one is over with a trial that is COMPLETE.
    """
    if isinstance(spec.scheduler, PbtSpec):
        return trial.state == TrialState.COMPLETE
    is_free = was_refused(trial) and not isinstance(spec.sampler, GridSpec)
    return trial.state.is_finished() and not is_free


def n_spent(trials: Sequence[FrozenTrial], spec: ExperimentSpec) -> int:
    """How many trials of the budget are spent.

    Of a population whose trials have all ended, all: a lineage in which the last one failed is
    over, too.
    """
    if isinstance(spec.scheduler, PbtSpec) and all(trial.state.is_finished() for trial in trials):
        return sum(is_founder(trial) for trial in trials)
    return sum(is_spent_on(trial, spec) for trial in trials)


def is_over(study: Study, spec: ExperimentSpec) -> bool:
    """Whether there is nothing left to search: the budget is spent, or was not needed."""
    end = search_end(study)
    if end is not None and stands(end, spec):
        return True
    return n_spent(study.get_trials(deepcopy=False), spec) >= n_trials_of(spec)


def stands(end: SearchEnd, spec: ExperimentSpec) -> bool:
    """Whether a recorded end still holds: more trials, or a changed condition, lift it.

    A time limit counts from each start, so that it never holds.
    """
    limit = getattr(spec.budget, end.by, None)
    is_raised = spec.budget.n_trials > end.n_trials
    return not is_raised and end.by != "time_limit_s" and limit == end.limit


def take_up(study: Study, spec: ExperimentSpec) -> SearchEnd | None:
    """The recorded end if it holds; one that does not is struck from the record."""
    end = search_end(study)
    if end is None or stands(end, spec):
        return end
    if spec.budget.n_trials > end.n_trials:
        study.set_user_attr(PATIENCE_FROM, len(study.get_trials(deepcopy=False)))
    put_search_end(study, None)
    return None


class EarlyEnd:
    """Judges a study after each trial that ends."""

    def __init__(self, study: Study, spec: ExperimentSpec) -> None:
        self._study, self._spec = study, spec
        self._patience_from = study.user_attrs.get(PATIENCE_FROM, 0)
        self._terminator = Terminator(spec.seed, study.directions[0])
        # What refused them may have been mended since.
        self._ended_before = {
            trial.number for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()
        }
        self._n_judged = 0

    def judge(self, n_ended: int) -> SearchEnd | None:
        """The end that the trials call for, of which ``n_ended`` have ended; None if there is none.

        Raises:
            NoSuccessfulTrialError: if configs are infeasible time and again, and no trial is
                COMPLETE.
        """
        if n_ended == self._n_judged:
            return None  # nothing new: Ray asks many times
        self._n_judged = n_ended
        trials = self._study.get_trials(deepcopy=False)
        for by, judgement in (
            ("target_value", self._target),
            ("patience_trials", self._patience),
            ("terminator", self._terminated),
            ("infeasible", self._exhausted),
        ):
            if reason := judgement(trials):
                return self.end_by(by, reason)
        return None

    def end_by(self, by: str, reason: str) -> SearchEnd:
        """An end of the present budget."""
        budget = self._spec.budget
        limit = getattr(budget, by, None)
        return SearchEnd(by=by, limit=limit, reason=reason, n_trials=budget.n_trials)

    def _target(self, trials: Sequence[FrozenTrial]) -> str:
        target = self._spec.budget.target_value
        best = None if target is None else self._incumbent(trials)
        if target is None or best is None or self._cost(best.value) > self._cost(target):
            return ""
        return f"trial {best.number} reached target_value={target:g}"

    def _patience(self, trials: Sequence[FrozenTrial]) -> str:
        patience = self._spec.budget.patience_trials
        best = None if patience is None else self._incumbent(trials)
        if patience is None or best is None:
            return ""
        later = trials[max(best.number + 1, self._patience_from) :]
        if n_spent(later, self._spec) < patience:
            return ""
        return f"no improvement on trial {best.number} for patience_trials={patience}"

    def _terminated(self, trials: Sequence[FrozenTrial]) -> str:
        if not self._spec.budget.terminator or not self._terminator.says_stop(
            found := _feasible(trials)
        ):
            return ""
        return f"the terminator expects no gain worth having after {len(found)} COMPLETE trials"

    def _exhausted(self, trials: Sequence[FrozenTrial]) -> str:
        if not (refused := self._endless_infeasible(trials)):
            return ""
        reason = f"{len(refused)} configs in a row were infeasible, {_commonest(refused)}"
        if not any(trial.state == TrialState.COMPLETE for trial in trials):
            raise NoSuccessfulTrialError(
                f"the search has stopped: {reason}. No config seems to be feasible: change "
                f"{'`constraints`, ' if self._spec.constraints else ''}`fixed` or `search_space`, "
                f"and begin another experiment: -o name={self._spec.name}-2"
            )
        return reason

    def _endless_infeasible(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """The latest configs that were refused one after the other, if they are too many."""
        if isinstance(self._spec.sampler, GridSpec):
            return []  # which comes to its end anyway
        in_a_row: list[FrozenTrial] = []
        for trial in reversed(trials):
            if trial.state.is_finished() and trial.number not in self._ended_before:
                if not was_refused(trial):
                    break
                in_a_row.insert(0, trial)
        enough = N_ALIKE if _are_alike(in_a_row, trials) else self._n_in_a_row
        return in_a_row if len(in_a_row) >= enough else []

    @property
    def _n_in_a_row(self) -> int:
        return max(100, 10 * self._spec.budget.n_trials)

    def _incumbent(self, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
        return min(_feasible(trials), key=lambda trial: self._cost(trial.value), default=None)

    def _cost(self, value: float | None) -> float:
        assert value is not None, "a COMPLETE trial has a value"
        return self._spec.objective.sign * value


def _are_alike(refused: Sequence[FrozenTrial], trials: Sequence[FrozenTrial]) -> bool:
    """Whether all there is are configs that the trainable refused, for one cause."""
    if len(refused) < N_ALIKE or not all(was_refused(t) for t in trials if t.state.is_finished()):
        return False
    causes = {str(trial.user_attrs.get("fail_place")) for trial in refused}
    return len(causes) == 1 and not causes.pop().startswith(BY_LIMIT)


def _feasible(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [t for t in trials if t.state == TrialState.COMPLETE and not is_infeasible(t)]


def _commonest(refused: Sequence[FrozenTrial]) -> str:
    """Of the causes of some refusals the one that stands there most often."""
    causes = Counter(str(trial.user_attrs.get("fail_place")) for trial in refused)
    ((cause, n),) = causes.most_common(1)
    return f"{n} of them by: {cause.removeprefix('infeasible: ')}"
