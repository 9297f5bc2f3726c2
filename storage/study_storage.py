"""Optuna's storage, made to wait for its database and to write once what is tried twice."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from storage.patience import Patience, patience_with

REPEATABLE = (
    "_get_best_trial_id",
    "_get_trials",
    "_set_trial_param",
    "get_all_studies",
    "get_study_directions",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_system_attrs",
    "get_study_user_attrs",
    "get_trial",
    "get_trial_id_from_study_id_trial_number",
    "get_trial_param",
    "get_trial_system_attrs",
    "get_trial_user_attrs",
    "set_study_system_attr",
    "set_study_user_attr",
    "set_trial_intermediate_value",
    "set_trial_system_attr",
    "set_trial_user_attr",
)
"""What does the same when it is done twice: each is one transaction that reads, or sets a value."""

_prepared: ContextVar[int | None] = ContextVar("_prepared", default=None)
"""The id of the new trial that is being committed."""


class PatientStorage(RDBStorage):
    """Waits for its database, see `Patience`.

    What is repeated after a commit of which nothing was heard finds what it has written, and is
    content. That rests on a study having one driver, as its lease sees to.
    """

    def __init__(self, url: str, engine_kwargs: dict[str, Any], shown_url: str) -> None:
        """``shown_url`` is the URL without its password."""
        self._shown_url = shown_url
        # Of each attempt to read it would tell that it tries something slower, which is no help.
        logging.getLogger(RDBStorage.__module__).setLevel(logging.ERROR)
        super().__init__(url, engine_kwargs=engine_kwargs)

    @property
    def _patience(self) -> Patience:
        return patience_with(self._shown_url)

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        """A new study; one of that name which stands there after a failure is this one."""
        create = super().create_new_study

        def attempt(is_repeated: bool) -> int:
            try:
                return create(directions, study_name)
            except DuplicatedStudyError:
                if not is_repeated or study_name is None:
                    raise
                return self.get_study_id_from_name(study_name)

        return self._patience(attempt)

    def delete_study(self, study_id: int) -> None:
        """Remove a study; one that is not there after a failure was removed."""
        delete = super().delete_study

        def attempt(is_repeated: bool) -> None:
            try:
                delete(study_id)
            except KeyError:
                if not is_repeated:
                    raise

        self._patience(attempt)

    def _create_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None = None
    ) -> FrozenTrial:
        create = super()._create_new_trial
        before = _prepared.set(None)
        try:
            return self._patience(lambda _: create(study_id, template_trial))
        finally:
            _prepared.reset(before)

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: Any
    ) -> models.TrialModel:
        """A row for the new trial, or the one that an earlier attempt has committed after all.

        Here, because Optuna itself tries five times to create a trial.
        """
        if (trial_id := _prepared.get()) is not None:
            committed: models.TrialModel | None = session.get(models.TrialModel, trial_id)
            if committed is not None and committed.study_id == study_id:
                return committed
        trial = super()._get_prepared_new_trial(study_id, template_trial, session)
        new_id: Any = trial.trial_id
        _prepared.set(new_id)
        return trial

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Whether it was set; a trial that stands so after a failure was set by this very call."""
        put = super().set_trial_state_values

        def attempt(is_repeated: bool) -> bool:
            try:
                is_set = put(trial_id, state, values)
            except UpdateFinishedTrialError:
                if not (is_repeated and self._stands_so(trial_id, state, values)):
                    raise
                return True
            # A trial is handed out once; one that runs after a failure was handed out to us.
            return is_set or (is_repeated and self.get_trial(trial_id).state == state)

        return self._patience(attempt)

    def _stands_so(self, trial_id: int, state: TrialState, values: Sequence[float] | None) -> bool:
        trial = self.get_trial(trial_id)
        return trial.state == state and (values is None or trial.values == list(values))


def _patient(name: str) -> Callable[..., Any]:
    method: Callable[..., Any] = getattr(RDBStorage, name)

    @functools.wraps(method)
    def patient(self: PatientStorage, *arguments: Any, **named: Any) -> Any:
        return self._patience(lambda _: method(self, *arguments, **named))

    return patient


for _name in REPEATABLE:
    setattr(PatientStorage, _name, _patient(_name))
