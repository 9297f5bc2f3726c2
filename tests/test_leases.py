"""One driver at a time: a second one is refused, a dead one followed, a late one cannot write."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from postgresql import PostgreSQL
from records import EXPERIMENT, NOON, SPACE

from storage import (
    EpochRecord,
    Lease,
    LeaseHeldError,
    Ledger,
    LostLeaseError,
    create_study,
    hold_lease,
    open_engine,
    open_optuna_storage,
    put_intermediate_value,
    requeue_running,
)
from storage import leases as leases_module
from storage.fencing import fenced
from storage.leases import leases, take_lease

NAME = "experiment 'branin'"
EPOCH = EpochRecord(trial_number=0, epoch=1, metrics={"loss": 0.1}, seconds=0.5, reported_at=NOON)

HOLD = """
import sys
from storage import hold_lease
with hold_lease(sys.argv[1], sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'hpo.db'}"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.new(tmp_path.name)


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    """Of somebody who drives nothing."""
    engine = open_engine(url)
    Ledger(engine)
    yield engine
    engine.dispose()


@contextmanager
def holder(url: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that drives it until its stdin is closed."""
    command = [sys.executable, "-c", HOLD, url, NAME]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def rows(engine: sa.Engine) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(leases)))


def change(engine: sa.Engine, **values: Any) -> None:
    with engine.begin() as connection:
        connection.execute(leases.update().values(**values))


def test_what_another_process_drives_is_refused_until_it_is_done(
    url: str, engine: sa.Engine
) -> None:
    with holder(url) as process:
        with pytest.raises(LeaseHeldError) as caught, hold_lease(url, NAME):
            pass
        assert f"{NAME} is being run by process {process.pid} on {os.uname().nodename}" in str(
            caught.value
        )
        with hold_lease(url, "comparison 'branin'"):  # is another thing
            pass
        process.communicate()
    assert rows(engine) == []
    with hold_lease(url, NAME):
        assert [(row.name, row.pid) for row in rows(engine)] == [(NAME, os.getpid())]
    assert rows(engine) == []


def test_a_killed_process_of_this_machine_is_followed_at_once(url: str, engine: sa.Engine) -> None:
    """Even while nobody has asked yet how it ended; and what it held is held again."""
    with holder(url) as process:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
        with hold_lease(url, NAME):
            assert rows(engine)[0].pid == os.getpid()
            with pytest.raises(LeaseHeldError), hold_lease(url, NAME):
                pass
    with hold_lease(url, NAME):
        pass


@pytest.mark.parametrize(
    ("process", "meaning"),
    [
        ("another-boot pid:[1] 17", "another machine, or this one before it was started again"),
        ("", "no Linux"),
    ],
)
def test_a_process_of_another_machine_is_followed_when_it_was_silent_for_long_enough(
    process: str, meaning: str, tmp_path: Path
) -> None:
    """Whether there is a process of its number here says nothing."""
    engine = open_engine(url := f"sqlite:///{tmp_path / 'hpo.db'}")
    Ledger(engine)
    take_lease(engine, NAME)
    now = rows(engine)[0].renewed_at
    change(engine, host="elsewhere", process=process, pid=999_999_999)
    with pytest.raises(LeaseHeldError, match="999999999 on elsewhere"), hold_lease(url, NAME):
        pass
    change(engine, renewed_at=now - dt.timedelta(seconds=61))
    with hold_lease(url, NAME):
        assert rows(engine)[0].pid == os.getpid(), meaning
    engine.dispose()


def test_a_number_that_another_process_has_by_now_is_not_its_owner(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'hpo.db'}")
    Ledger(engine)
    take_lease(engine, NAME)
    process = rows(engine)[0].process
    change(engine, process=f"{process}0")  # it has started at another time
    assert take_lease(engine, NAME).name == NAME
    engine.dispose()


def test_of_two_that_begin_at_once_one_drives(url: str, engine: sa.Engine) -> None:
    start, ends = threading.Barrier(4), []

    def begin() -> None:
        start.wait()
        try:
            take_lease(engine, NAME)
            ends.append("drives")
        except LeaseHeldError:
            ends.append("refused")

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ends) == ["drives", "refused", "refused", "refused"]


def test_those_who_begin_at_once_on_an_empty_database_all_find_their_tables(url: str) -> None:
    start, ends = threading.Barrier(4), []

    def begin(number: int) -> None:
        start.wait()
        Ledger(open_engine(url)).names()
        storage = open_optuna_storage(url)
        with hold_lease(url, f"experiment {number}"):
            ends.append(number)
        storage.engine.dispose()

    threads = [threading.Thread(target=begin, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ends) == [0, 1, 2, 3]


def test_an_owner_renews_its_lease(
    url: str, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases_module, "RENEW_S", 0.01)
    with hold_lease(url, NAME):
        begun = rows(engine)[0]
        while rows(engine)[0].renewed_at == begun.renewed_at:
            pass
        assert rows(engine)[0].acquired_at == begun.acquired_at


def test_an_owner_learns_of_a_takeover_by_itself(
    url: str, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver whose epochs take hours ends before the next one."""
    monkeypatch.setattr(leases_module, "RENEW_S", 0.01)
    with hold_lease(url, NAME) as lease:
        assert not lease.is_lost
        change(engine_of_another(url), token="b" * 32)
        assert lease.lost.wait(30)
    assert rows(engine)[0].token == "b" * 32  # which is not ours to remove


def engine_of_another(url: str) -> sa.Engine:
    """Behind no fence of this process, as that of another one would be."""
    return sa.create_engine(url)


class Owner:
    """A driver with its study and ledger, which does what it does as the owner of its lease."""

    def __init__(self, url: str) -> None:
        self.ledger = Ledger(open_engine(url))
        self.ledger.put(EXPERIMENT)
        storage = open_optuna_storage(url)
        self.study = create_study(storage, "branin", direction="minimize", metric="loss")
        self.study.enqueue_trial({"x": 0.5})
        self.trial = self.study.ask(SPACE)
        self.lease: Lease = take_lease(engine_of_another(url), NAME)

    def does(self, write: Callable[[Owner], object]) -> None:
        with fenced(sa.make_url(self.lease.engine.url), self.lease.check):
            write(self)


WRITES: dict[str, Callable[[Owner], object]] = {
    "an epoch": lambda one: one.ledger.put_epoch(EXPERIMENT.id, EPOCH),
    "a record": lambda one: one.ledger.put(replace(EXPERIMENT, spec="")),
    "a new trial": lambda one: one.study.ask(SPACE),
    "a trial from the queue": lambda one: one.study.enqueue_trial({"x": 0.25}),
    "a value": lambda one: put_intermediate_value(one.trial, 1, 0.5),
    "an attribute": lambda one: one.trial.set_user_attr("seed", 7),
    "the end of a trial": lambda one: one.study.tell(one.trial, 0.5),
    "a trial back into the queue": lambda one: requeue_running(one.study),
    "an attribute of the study": lambda one: one.study.set_user_attr("finalists", [0]),
    "no study any more": lambda one: optuna.delete_study(
        study_name="branin", storage=one.study._storage
    ),
}


def contents(url: str) -> list[Any]:
    """All rows of all tables but the leases."""
    engine = engine_of_another(url)
    metadata = sa.MetaData()
    metadata.reflect(engine)
    with engine.connect() as connection:
        found = [
            (table.name, sorted(map(str, connection.execute(sa.select(table)))))
            for table in metadata.sorted_tables
            if table.name != "hpo_leases"
        ]
    engine.dispose()
    return found


def test_after_a_takeover_the_former_owner_reads_and_writes_nothing(url: str) -> None:
    """Whatever it would write, and even if the new owner is done by then."""
    owner = Owner(url)
    another = engine_of_another(url)
    owner.does(WRITES["an epoch"])  # as long as it owns it
    before = contents(url)
    successor = take_lease(another, NAME, lease_s=0.0)
    for _ in range(2):
        for write in WRITES.values():
            with pytest.raises(LostLeaseError, match=f"has taken over {NAME}"):
                owner.does(write)
            owner.does(lambda one: (one.study.trials, one.ledger.epochs(EXPERIMENT.id)))
        assert contents(url) == before
        assert owner.lease.is_lost
        successor.release()
    for engine in (another, owner.lease.engine, owner.study._storage._backend.engine):
        engine.dispose()
    owner.ledger._engine.dispose()


def test_a_fence_is_that_of_its_database(tmp_path: Path) -> None:
    here, elsewhere = (f"sqlite:///{tmp_path / name}.db" for name in ("here", "elsewhere"))
    owner, other = Owner(here), Ledger(open_engine(elsewhere))
    take_lease(engine_of_another(here), NAME, lease_s=0.0)
    owner.does(lambda _: other.put(EXPERIMENT))
    assert other.names() == ["branin"]


def test_a_takeover_waits_for_a_commit_that_has_passed_the_fence(
    postgresql: PostgreSQL, tmp_path: Path
) -> None:
    """On a server; in SQLite nobody else writes as long as it lasts."""
    engine = engine_of_another(postgresql.new(tmp_path.name))
    Ledger(engine)
    lease = take_lease(engine, NAME)
    with engine.begin() as commits, engine.connect() as takes_over:
        lease.check(commits)
        takes_over.execute(sa.text("SET lock_timeout = '1ms'"))
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
            takes_over.execute(leases.update().values(token="b" * 32))
    engine.dispose()
