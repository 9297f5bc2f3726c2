"""Drivers that are killed, suspended, overtaken and resumed: the ledger keeps what it acknowledged.

Hypothesis invents the order of what happens; after each step a reader who knows nothing looks at
the database.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import optuna
import sqlalchemy as sa
from conftest import BRANIN
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from optuna.trial import TrialState
from records import EXPERIMENT

from hpo.search import StudySource
from hpo.spec import ExperimentSpec, parse_spec
from hpo.task_factory import TaskFactory
from hpo.tasks import EpochReport, TrialTask
from storage import (
    Lease,
    Ledger,
    LostLeaseError,
    create_study,
    open_engine,
    open_optuna_storage,
    requeue_running,
)
from storage.fencing import fenced
from storage.leases import take_lease

NAME, STUDY = "experiment 'branin'", "branin"
MAX_EPOCHS = 4
BEGUN = replace(EXPERIMENT, name=STUDY, spec=BRANIN)
losses = st.floats(0, 1000, allow_subnormal=False)


@dataclass
class Driver:
    """A process that drives the search, with the trials that it has handed out."""

    lease: Lease
    source: StudySource
    study: optuna.Study
    running: dict[int, TrialTask] = field(default_factory=dict)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """What it writes now, it writes as the owner of its lease."""
        with fenced(self.lease.engine.url, self.lease.check):
            yield


class LedgerMachine(RuleBasedStateMachine):
    """What the drivers have been told is what the database must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="hpo-machine-"))
        url = f"sqlite:///{self.folder / 'hpo.db'}"
        self.storage = open_optuna_storage(url)
        self.ledger = Ledger(open_engine(url))
        self.outside = sa.create_engine(url)  # behind no fence, as another machine would be
        self.driver: Driver | None = None
        self.suspended: list[Driver] = []
        self.budget = 3
        self.epochs: dict[tuple[int, int], float] = {}
        self.ends: dict[int, tuple[TrialState, float | None]] = {}
        self.is_orderly, self.is_begun = True, False

    @initialize()
    def begin(self) -> None:
        self.ledger.put(BEGUN)
        create_study(self.storage, STUDY, direction="minimize", metric="loss")
        self.is_begun = True

    def teardown(self) -> None:
        self.storage.remove_session()
        for engine in (self.storage.engine, self.ledger._engine, self.outside):
            engine.dispose()
        shutil.rmtree(self.folder)

    # --- drivers come and go ---

    @precondition(lambda self: self.driver is None)
    @rule()
    def a_driver_resumes(self) -> None:
        """The former one, if there is one, has not been heard of for long enough."""
        lease = take_lease(self.outside, NAME, lease_s=0.0)
        study = optuna.load_study(study_name=STUDY, storage=self.storage)
        with fenced(lease.engine.url, lease.check):
            self.driver = Driver(lease, self._source(study), study)
        self.is_orderly = False

    def _source(self, study: optuna.Study) -> StudySource:
        spec = self._spec()
        tasks = TaskFactory(spec=spec, import_paths=(), folder=self.folder, data_dir=self.folder)
        return StudySource(
            study,
            spec,
            tasks,
            record_epoch=partial(self.ledger.put_epoch, BEGUN.id),
            recorded_epochs=lambda n: self.ledger.epochs(BEGUN.id, n).get(n, []),
        )

    def _spec(self) -> ExperimentSpec:
        return parse_spec(BRANIN, "branin.yaml", [f"budget.n_trials={self.budget}"])

    @precondition(lambda self: self.driver is not None)
    @rule()
    def the_driver_is_killed(self) -> None:
        """Nothing is closed, nothing is said."""
        self.driver = None

    @precondition(lambda self: self.driver is not None)
    @rule()
    def the_driver_is_suspended(self) -> None:
        """It will wake up and go on as if nothing had happened."""
        assert self.driver is not None
        self.suspended.append(self.driver)
        self.driver = None

    @precondition(lambda self: self.driver is not None)
    @rule()
    def the_driver_ends_in_order(self) -> None:
        assert self.driver is not None
        with self.driver.at_work():
            requeue_running(self.driver.study)
        self.driver.lease.release()
        self.driver = None
        self.is_orderly = True

    @precondition(lambda self: self.driver is None)
    @rule(more=st.integers(1, 2))
    def the_budget_is_raised(self, more: int) -> None:
        self.budget += more

    # --- trials ---

    @precondition(lambda self: self.driver is not None)
    @rule()
    def a_trial_is_asked_for(self) -> None:
        """One that was cut off goes on behind all epochs that were acknowledged."""
        assert self.driver is not None
        with self.driver.at_work():
            task = self.driver.source.next_task()
            if task is None:
                assert len(self.ends) + len(self.driver.running) == self.budget
                return
            assert task.number not in self.ends
            assert task.number not in self.driver.running
            acknowledged = [epoch for number, epoch in self.epochs if number == task.number]
            assert [one.epoch for one in task.known] == sorted(acknowledged)
            self.driver.running[task.number] = task

    @precondition(lambda self: self.driver is not None and self.driver.running)
    @rule(data=st.data(), loss=losses)
    def an_epoch_is_reported(self, data: st.DataObject, loss: float) -> None:
        task = self._one_of(self.driver, data)
        assert self.driver is not None
        if (epoch := self._next_epoch(task)) == MAX_EPOCHS:
            return
        with self.driver.at_work():
            self.driver.source.reported(task, _report(epoch, loss))
        self.epochs[task.number, epoch] = loss

    @precondition(lambda self: self.driver is not None and self.driver.running)
    @rule(data=st.data(), loss=losses, how=st.sampled_from(["complete", "pruned", "failed"]))
    def a_trial_ends(self, data: st.DataObject, loss: float, how: str) -> None:
        task = self._one_of(self.driver, data)
        assert self.driver is not None
        report = self._last_report(task, loss, how)
        with self.driver.at_work():
            self.driver.source.ended(task, report)
        del self.driver.running[task.number]
        if how == "failed":
            self.ends[task.number] = (TrialState.FAIL, None)
        else:
            self.epochs[task.number, report.epoch] = loss
            state = TrialState.COMPLETE if how == "complete" else TrialState.PRUNED
            self.ends[task.number] = (state, loss)

    # --- those that were overtaken ---

    @precondition(lambda self: self.suspended and self._is_overtaken(self.suspended[0]))
    @rule(data=st.data(), how=st.sampled_from(["ask", "report", "complete", "requeue"]))
    def a_former_driver_wakes_up(self, data: st.DataObject, how: str) -> None:
        """Whatever it would do next, it is told that it is over; its next try is no better."""
        driver = data.draw(st.sampled_from([d for d in self.suspended if self._is_overtaken(d)]))
        with contextlib.suppress(LostLeaseError), driver.at_work():
            if how == "ask" or not driver.running:
                has_written = driver.source.next_task() is not None
            elif how == "requeue":
                has_written = bool(requeue_running(driver.study))
            else:
                task, has_written = self._one_of(driver, data), True
                if how == "report":
                    driver.source.reported(task, _report(self._next_epoch(task), 0.5))
                else:
                    driver.source.ended(task, self._last_report(task, 0.5, how))
            assert not has_written

    def _is_overtaken(self, driver: Driver) -> bool:
        return self.driver is not None or self.is_orderly

    # --- what must be so ---

    @invariant()
    def what_was_acknowledged_is_there_and_nothing_else(self) -> None:
        """Epochs in order and once, ends as they were told, within the budget.

        The study knows what the ledger knows, and after an orderly end nothing runs.
        """
        if not self.is_begun:
            return
        trials = optuna.load_study(study_name=STUDY, storage=self.storage).trials
        assert [trial.number for trial in trials] == list(range(len(trials)))
        assert len(trials) <= self.budget
        assert not self.is_orderly or TrialState.RUNNING not in [t.state for t in trials]
        found = self.ledger.epochs(BEGUN.id)
        told = [(n, one.epoch, one.metrics["loss"]) for n, of in found.items() for one in of]
        assert told == sorted((n, epoch, loss) for (n, epoch), loss in self.epochs.items())
        for n, records in found.items():
            assert [one.epoch for one in records] == list(range(1, len(records) + 1)), n
        for trial in trials:
            of_trial = {e: loss for (n, e), loss in self.epochs.items() if n == trial.number}
            assert trial.intermediate_values == of_trial
        ends = {t.number: (t.state, t.value) for t in trials if t.state.is_finished()}
        assert ends == self.ends

    @staticmethod
    def _one_of(driver: Driver | None, data: st.DataObject) -> TrialTask:
        assert driver is not None
        return driver.running[data.draw(st.sampled_from(sorted(driver.running)))]

    def _next_epoch(self, task: TrialTask) -> int:
        return 1 + max((epoch for n, epoch in self.epochs if n == task.number), default=0)

    def _last_report(self, task: TrialTask, loss: float, how: str) -> EpochReport:
        epoch = self._next_epoch(task)
        if how == "failed":
            return EpochReport(
                epoch=epoch - 1,
                metrics={},
                seconds=0.1,
                ending="failed",
                fail_reason="no",
                fail_place=f"line {task.number}",
            )
        return _report(epoch, loss, ending="complete" if how == "complete" else None)


def _report(epoch: int, loss: float, ending: str | None = None) -> EpochReport:
    return EpochReport(
        epoch=epoch,
        metrics={"loss": loss},
        seconds=0.1,
        ending=ending,  # type: ignore[arg-type]
        checkpoint="f" * 64,
    )


def test_whatever_happens_to_its_drivers_the_ledger_keeps_what_it_acknowledged() -> None:
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(max_examples=10, stateful_step_count=25, deadline=None),
    )
