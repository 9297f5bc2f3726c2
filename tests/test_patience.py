"""A database that is locked, full or gone is waited for; nothing is lost, nothing doubled."""

from __future__ import annotations

import contextlib
import inspect
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from lossy_link import Loss, LossyLink
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from postgresql import PASSWORD, PostgreSQL
from records import EXPERIMENT, NOON, SPACE

from storage import (
    ComparisonLedger,
    ComparisonRecord,
    DatabaseError,
    EpochRecord,
    ExportRecord,
    Ledger,
    LrRangeRecord,
    RerunRecord,
    TestReading,
    create_study,
    enqueue_with_past,
    open_engine,
    open_optuna_storage,
    put_intermediate_value,
    requeue_running,
)
from storage import database as database_module
from storage import patience as patience_module
from storage.patience import outage
from storage.study_storage import REPEATABLE, PatientStorage

COMPARISON = ComparisonRecord(
    id="c" * 32,
    name="branin",
    spec="name: branin\n",
    samplers=["random", "tpe"],
    n_seeds=1,
    created_at=NOON,
    versions={},
    git_commit=None,
)

LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


def epoch(number: int, of_epoch: int) -> EpochRecord:
    return EpochRecord(
        trial_number=number,
        epoch=of_epoch,
        metrics={"loss": 0.1},
        seconds=0.5,
        reported_at=NOON,
        checkpoint="f" * 64,
    )


def rerun(seed_index: int) -> RerunRecord:
    return RerunRecord(
        trial_number=0,
        seed_index=seed_index,
        seed=7,
        value=None if seed_index else 0.1,
        fail_reason="no" if seed_index else None,
        seconds=1.5,
        finished_at=NOON,
        others={"size": 2.0},
    )


class Watchman(logging.Handler):
    """Hears what the user is told; mends the outage as soon as the user would know of it."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []
        self.mend: Callable[[], object] = lambda: None

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(record.getMessage())
        if "does not answer" in self.told[-1]:
            self.mend()


@pytest.fixture
def watchman(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watchman]:
    """Nothing waits longer than it has to; what the user is told, is told at once."""
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_S", 0)
    monkeypatch.setattr(patience_module, "QUIET_S", 0.0)
    monkeypatch.setattr(patience_module, "FIRST_WAIT_S", 0.001)
    watchman = Watchman()
    logger = logging.getLogger("hpo.storage")
    logger.addHandler(watchman)
    logger.propagate = False
    yield watchman
    logger.propagate = True
    logger.removeHandler(watchman)


class Search:
    """A study and a ledger, and everything that a search writes into them."""

    def __init__(self, url: str) -> None:
        self.ledger, self.comparisons = Ledger(open_engine(url)), ComparisonLedger(open_engine(url))
        self.storage = open_optuna_storage(url)

    def everything(self) -> None:
        """Each way in which study and ledgers are written, in the order of a run."""
        ledger, experiment = self.ledger, EXPERIMENT.id
        ledger.put(EXPERIMENT)
        study = create_study(self.storage, "branin", direction="minimize", metric="loss")
        study.sampler = optuna.samplers.RandomSampler(seed=1)
        study.enqueue_trial({"x": 0.25})
        enqueue_with_past(study, {"x": 0.5}, attributes={"parent": 0}, intermediate_values={1: 2.0})
        trial = study.ask(SPACE)
        trial.set_user_attr("seed", 7)
        for number in (1, 2):
            ledger.put_epoch(experiment, epoch(trial.number, number))
            put_intermediate_value(trial, number, 1.0 / number)
        study.tell(trial, 0.5)
        study.tell(study.ask(SPACE), state=TrialState.PRUNED)
        study.tell(study.ask(SPACE), state=TrialState.FAIL)
        study.ask(SPACE)
        requeue_running(study)
        study.tell(study.ask(SPACE), 0.75)
        study.set_user_attr("finalists", [0, 3])
        ledger.put_lr_range(
            experiment,
            LrRangeRecord(suggested=0.1, low=0.01, high=1.0, seconds=1.0, found_at=NOON),
        )
        for seed_index in (0, 1):
            ledger.add_rerun(experiment, rerun(seed_index))
        ledger.add_confirmation(experiment, rerun(0))
        ledger.put_test_reading(
            experiment,
            TestReading(
                trial_number=0,
                metric="loss",
                value=0.5,
                n_correct=None,
                n_test=9,
                seconds=0.1,
                read_at=NOON,
            ),
        )
        ledger.put_export(
            experiment,
            ExportRecord(
                path="/model.pt",
                trial_number=0,
                sha256="0" * 64,
                max_difference=0.0,
                n_compared=1,
                exported_at=NOON,
            ),
        )
        self.comparisons.put(COMPARISON)
        self.comparisons.put_trial(COMPARISON.id, ("tpe", 0), 0, 0.5, [epoch(0, 1)])
        self.comparisons.add_rerun(COMPARISON.id, ("tpe", 0), rerun(0))
        doomed = create_study(self.storage, "doomed", direction="minimize", metric="loss")
        doomed.add_trial(optuna.trial.create_trial(value=1.0))
        optuna.delete_study(study_name="doomed", storage=self.storage)

    def contents(self) -> list[Any]:
        """All that it has come to, but when."""
        study = optuna.load_study(study_name="branin", storage=self.storage)
        trials = [
            (
                trial.number,
                trial.state,
                trial.params,
                trial.values,
                trial.intermediate_values,
                trial.user_attrs,
                trial.system_attrs,
            )
            for trial in study.trials
        ]
        ledger, comparisons = self.ledger, self.comparisons
        return [
            trials,
            study.user_attrs,
            optuna.get_all_study_names(self.storage),
            *(read(EXPERIMENT.id) for read in (ledger.epochs, ledger.lr_range, ledger.reruns)),
            *(read(EXPERIMENT.id) for read in (ledger.confirmations, ledger.test_readings)),
            ledger.exports(EXPERIMENT.id),
            comparisons.names(),
            *(read(COMPARISON.id) for read in (comparisons.epochs, comparisons.reruns)),
        ]

    def close(self) -> None:
        self.storage.remove_session()
        for engine in (self.storage.engine, self.ledger._engine, self.comparisons._engine):
            engine.dispose()


@pytest.fixture
def search(watchman: Watchman, tmp_path: Path) -> Iterator[Search]:
    search = Search(f"sqlite:///{tmp_path / 'hpo.db'}")
    yield search
    search.close()


# --- locked ---


@contextlib.contextmanager
def locked(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process has the file to itself until its stdin is closed."""
    command = [sys.executable, "-c", LOCK, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.communicate()


def test_a_file_that_another_process_has_locked_is_waited_for(
    search: Search, watchman: Watchman, tmp_path: Path
) -> None:
    """One message when it begins, one when it is over; everything is there once."""
    study = create_study(search.storage, "branin", direction="minimize", metric="loss")
    search.ledger.put(EXPERIMENT)
    writes: list[Callable[[], object]] = [
        lambda: study.ask(SPACE),
        lambda: search.ledger.put_epoch(EXPERIMENT.id, epoch(0, 1)),
        lambda: study.tell(0, 1.0),
    ]
    for write in writes:
        watchman.told.clear()
        with locked(tmp_path / "hpo.db") as holder:
            watchman.mend = holder.communicate
            write()
        waiting, over = watchman.told
        assert f"sqlite:///{tmp_path / 'hpo.db'}" in waiting
        assert "(database is locked): waiting up to 90 s" in waiting
        assert over == "the database answers again"
    (trial,) = study.trials
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 1.0)
    assert search.ledger.epochs(EXPERIMENT.id) == {0: [epoch(0, 1)]}


def test_patience_has_an_end_which_says_how_to_go_on_and_is_the_last(
    search: Search, watchman: Watchman, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a process still tries on its way out is not waited for again."""
    study = create_study(search.storage, "branin", direction="minimize", metric="loss")
    search.ledger.put(EXPERIMENT)
    trial = study.ask(SPACE)
    with locked(tmp_path / "hpo.db"):
        monkeypatch.setattr(patience_module, "PATIENCE_S", 0.0)
        with pytest.raises(DatabaseError, match="go on with --resume"):
            search.ledger.put_epoch(EXPERIMENT.id, epoch(0, 1))
        monkeypatch.undo()
        with pytest.raises(DatabaseError, match="database is locked"):
            requeue_running(study)
    assert watchman.told == []
    study.tell(trial, 1.0)  # it has come back
    assert study.trials[0].value == 1.0


@pytest.mark.parametrize(
    ("sql", "is_passing"),
    [("SELECT * FROM nowhere", False), ("SELEC", False), ("INSERT INTO t VALUES (1)", False)],
)
def test_what_time_does_not_heal_is_not_waited_for(
    sql: str, is_passing: bool, tmp_path: Path
) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'hpo.db'}")
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE t (x INTEGER PRIMARY KEY)"))
        connection.execute(sa.text("INSERT INTO t VALUES (1)"))
    with pytest.raises(sa.exc.DBAPIError) as caught, engine.begin() as connection:
        connection.execute(sa.text(sql))
    assert (outage(caught.value) is not None) == is_passing
    engine.dispose()


def test_every_transaction_of_optunas_storage_is_waited_for() -> None:
    """Read from its source: a release that adds one fails here."""
    transactions = {
        name
        for name, method in vars(RDBStorage).items()
        if inspect.isfunction(method) and "_create_scoped_session(" in inspect.getsource(method)
    }
    heartbeat = {"record_heartbeat", "_get_stale_trial_ids"}  # nobody asks for it
    own = {name for name in vars(PatientStorage) if name not in REPEATABLE}
    assert transactions - heartbeat == set(REPEATABLE) | (own & transactions)


# --- full ---


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    (disk := tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"needs to mount a small file system: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_is_waited_for_and_nothing_acknowledged_is_lost(
    small_disk: Path, watchman: Watchman
) -> None:
    search = Search(f"sqlite:///{small_disk / 'hpo.db'}")
    study = create_study(search.storage, "branin", direction="minimize", metric="loss")
    search.ledger.put(EXPERIMENT)
    study.tell(study.ask(SPACE), 0.5)
    ballast = small_disk / "ballast"
    watchman.mend = ballast.unlink
    n_acknowledged = 0
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    while not watchman.told:
        search.ledger.put_epoch(EXPERIMENT.id, epoch(1, n_acknowledged + 1))
        n_acknowledged += 1
    assert "disk is full" in watchman.told[0]
    study.tell(study.ask(SPACE), 0.25)
    search.close()
    again = Search(f"sqlite:///{small_disk / 'hpo.db'}")
    assert len(again.ledger.epochs(EXPERIMENT.id)[1]) == n_acknowledged
    trials = optuna.load_study(study_name="branin", storage=again.storage).trials
    assert [trial.value for trial in trials] == [0.5, 0.25]
    again.close()


# --- gone ---


def test_a_server_that_is_restarted_is_waited_for_at_every_write(
    postgresql: PostgreSQL, watchman: Watchman
) -> None:
    """It crashes again and again; what the search writes is what it would have been."""
    url = postgresql.new("restarted")
    whole, search = Search(postgresql.new("whole")), Search(url)
    whole.everything()
    watchman.mend = postgresql.start
    n_statements = 0

    def crash(*_: object) -> None:
        nonlocal n_statements
        n_statements += 1
        if n_statements % 50 == 0:
            postgresql.stop()

    for engine in (search.storage.engine, search.ledger._engine, search.comparisons._engine):
        sa.event.listen(engine, "before_cursor_execute", crash)
    search.everything()
    for engine in (search.storage.engine, search.ledger._engine, search.comparisons._engine):
        sa.event.remove(engine, "before_cursor_execute", crash)
    assert len(watchman.told) >= 4
    assert not any(PASSWORD in line for line in watchman.told)
    assert search.contents() == whole.contents()
    search.close()
    whole.close()


@pytest.mark.parametrize("loss", ["before", "after"])
def test_a_connection_that_breaks_at_a_commit_loses_nothing_and_doubles_nothing(
    loss: Loss, postgresql: PostgreSQL, watchman: Watchman, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every commit is lost once, with the server knowing of it or not."""
    monkeypatch.setattr("optuna.storages._rdb.storage.time.sleep", lambda _: None)
    link = LossyLink(postgresql.port, loss)
    url = postgresql.new(f"lossy-{loss}")
    search = Search(url.replace(str(postgresql.port), str(link.port)))
    whole = Search(postgresql.new(f"whole-{loss}"))
    whole.everything()
    link.switch_on()
    search.everything()
    link.switch_off()
    assert link.n_lost > 50
    assert search.contents() == whole.contents()
    search.close()
    whole.close()
    link.close()
