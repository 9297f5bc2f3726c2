"""The ledger: what is written is read back, what is wrong names the database, what was cut off."""

from __future__ import annotations

import datetime as dt
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from storage import (
    ComparisonLedger,
    ComparisonRecord,
    DatabaseError,
    EpochRecord,
    ExperimentRecord,
    ExportRecord,
    Ledger,
    RerunRecord,
    SearchEnd,
    TestReading,
    count_states,
    create_study,
    open_engine,
    open_optuna_storage,
    put_intermediate_value,
    put_search_end,
    requeue_running,
    search_end,
    study_exists,
)

NOON = dt.datetime(2026, 1, 31, 12, 0, 0, 123456)
LATER = NOON + dt.timedelta(seconds=1)

EXPERIMENT = ExperimentRecord(
    id="a" * 32,
    name="branin",
    spec="name: branin\n# é\n",
    created_at=NOON,
    versions={"optuna": "5.0.0"},
    git_commit=None,
    data_fingerprint="f" * 64,
)
EPOCH = EpochRecord(
    trial_number=3, epoch=1, metrics={"loss": 0.1 + 0.2}, seconds=0.5, reported_at=NOON
)
RERUN = RerunRecord(
    trial_number=3,
    seed_index=0,
    seed=2**32 - 1,
    value=0.5,
    fail_reason=None,
    seconds=1.5,
    finished_at=NOON,
)
READING = TestReading(
    trial_number=3,
    metric="accuracy",
    value=350 / 360,
    n_correct=350,
    n_test=360,
    seconds=0.1,
    read_at=NOON,
)
EXPORT = ExportRecord(
    path="/runs/branin/model.pt",
    trial_number=3,
    sha256="0" * 64,
    max_difference=1e-7,
    n_compared=256,
    exported_at=NOON,
)

SPACE = {"x": FloatDistribution(0, 1), "n": IntDistribution(1, 9)}

Open = Callable[[str], Any]
both_doors = pytest.mark.parametrize(
    "open_database", [open_engine, open_optuna_storage], ids=["ours", "optuna's"]
)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'hpo.db'}"


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    engine = open_engine(url)
    ledger = Ledger(engine)
    ledger.put(EXPERIMENT)
    yield ledger
    engine.dispose()


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with Optuna's tables, which take half a second to make; tests copy it."""
    path = tmp_path_factory.mktemp("empty") / "hpo.db"
    open_optuna_storage(f"sqlite:///{path}").engine.dispose()
    return path


@pytest.fixture
def storage(url: str, tmp_path: Path, empty_database: Path) -> Iterator[RDBStorage]:
    shutil.copy(empty_database, tmp_path / "hpo.db")
    storage = open_optuna_storage(url)
    yield storage
    storage.remove_session()
    storage.engine.dispose()


@pytest.fixture
def study(storage: RDBStorage) -> optuna.Study:
    return create_study(storage, "branin", direction="minimize", metric="loss")


def test_an_experiment_reads_back_equal(ledger: Ledger) -> None:
    assert ledger.find("branin") == EXPERIMENT
    assert ledger.find("brani") is None


def test_an_experiment_put_again_is_replaced(ledger: Ledger) -> None:
    finished = replace(EXPERIMENT, finished_at=LATER, git_commit="c0ffee")
    ledger.put(finished)
    assert ledger.find("branin") == finished
    assert ledger.names() == ["branin"]


def test_names_stand_from_the_newest_to_the_oldest(ledger: Ledger) -> None:
    for seconds, name in [(-1, "older"), (1, "newer")]:
        created_at = NOON + dt.timedelta(seconds=seconds)
        ledger.put(replace(EXPERIMENT, id=name, name=name, created_at=created_at))
    assert ledger.names() == ["newer", "branin", "older"]


def test_two_experiments_cannot_share_a_name(ledger: Ledger) -> None:
    with pytest.raises(sa.exc.IntegrityError):
        ledger.put(replace(EXPERIMENT, id="b" * 32))


def test_epochs_read_back_in_order_and_by_trial(ledger: Ledger) -> None:
    second, other, first, last = records = [
        replace(EPOCH, trial_number=number, epoch=epoch)
        for number, epoch in [(3, 2), (0, 1), (3, 1), (3, 10)]
    ]
    for record in records:
        ledger.put_epoch(EXPERIMENT.id, record)
    assert ledger.epochs(EXPERIMENT.id) == {0: [other], 3: [first, second, last]}
    assert ledger.epochs(EXPERIMENT.id, 3) == {3: [first, second, last]}
    assert ledger.epochs(EXPERIMENT.id, 4) == {}
    assert ledger.epochs("another") == {}


def test_an_epoch_reported_again_replaces_the_first(ledger: Ledger) -> None:
    again = replace(EPOCH, metrics={"loss": 0.1}, reported_at=LATER)
    for record in (EPOCH, again):
        ledger.put_epoch(EXPERIMENT.id, record)
    assert ledger.epochs(EXPERIMENT.id) == {3: [again]}


def test_a_metric_that_is_no_finite_number_reads_back(ledger: Ledger) -> None:
    """The objective must be finite, what is yielded beside it need not."""
    ledger.put_epoch(EXPERIMENT.id, replace(EPOCH, metrics={"a": math.inf, "b": math.nan}))
    ((record,),) = ledger.epochs(EXPERIMENT.id).values()
    assert record.metrics["a"] == math.inf
    assert math.isnan(record.metrics["b"])


def test_reruns_read_back_by_trial_and_seed(ledger: Ledger) -> None:
    failed = replace(RERUN, seed_index=1, value=None, fail_reason="ValueError: no")
    earlier = replace(RERUN, trial_number=1)
    for record in (failed, RERUN, earlier):
        ledger.add_rerun(EXPERIMENT.id, record)
    assert ledger.reruns(EXPERIMENT.id) == [earlier, RERUN, failed]


def test_a_rerun_counts_once(ledger: Ledger) -> None:
    ledger.add_rerun(EXPERIMENT.id, RERUN)
    with pytest.raises(sa.exc.IntegrityError):
        ledger.add_rerun(EXPERIMENT.id, replace(RERUN, value=0.9))
    assert ledger.reruns(EXPERIMENT.id) == [RERUN]


def test_a_winner_that_reads_the_test_set_again_replaces_its_own_reading(ledger: Ledger) -> None:
    again = replace(READING, n_correct=351, read_at=LATER)
    for reading in (READING, again):
        ledger.put_test_reading(EXPERIMENT.id, reading)
    assert ledger.test_readings(EXPERIMENT.id) == [again]


def test_readings_of_two_winners_are_both_told_the_oldest_first(ledger: Ledger) -> None:
    other = replace(READING, trial_number=1, read_at=LATER)
    for reading in (other, READING):
        ledger.put_test_reading(EXPERIMENT.id, reading)
    assert ledger.test_readings(EXPERIMENT.id) == [READING, other]


def test_exports_read_back_and_one_at_the_same_path_is_replaced(ledger: Ledger) -> None:
    again = replace(EXPORT, sha256="1" * 64, exported_at=LATER)
    onnx = replace(EXPORT, path="/runs/branin/model.onnx")
    for record in (EXPORT, onnx, again):
        ledger.put_export(EXPERIMENT.id, record)
    assert ledger.exports(EXPERIMENT.id) == [onnx, again]


@pytest.mark.parametrize(
    "put",
    [
        lambda ledger: ledger.put_epoch("nobody", EPOCH),
        lambda ledger: ledger.add_rerun("nobody", RERUN),
        lambda ledger: ledger.put_test_reading("nobody", READING),
        lambda ledger: ledger.put_export("nobody", EXPORT),
    ],
    ids=["epoch", "rerun", "test reading", "export"],
)
def test_nothing_is_recorded_of_an_experiment_that_is_not_there(
    put: Callable[[Ledger], None], ledger: Ledger
) -> None:
    with pytest.raises(sa.exc.IntegrityError, match="FOREIGN KEY"):
        put(ledger)


def test_what_a_call_acknowledged_is_there_for_the_next_process(ledger: Ledger, url: str) -> None:
    ledger.put_epoch(EXPERIMENT.id, EPOCH)
    assert Ledger(open_engine(url)).epochs(EXPERIMENT.id) == {3: [EPOCH]}


@both_doors
def test_sqlite_lets_readers_read_and_keeps_what_is_committed(
    open_database: Open, url: str
) -> None:
    engine = getattr(opened := open_database(url), "engine", opened)
    for _ in range(2):  # pooled connections and new ones alike
        with engine.connect() as connection:
            found = {
                name: connection.execute(sa.text(f"PRAGMA {name}")).scalar()
                for name in ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
            }
        assert found == {
            "journal_mode": "wal",
            "foreign_keys": 1,
            "synchronous": 2,  # FULL
            "busy_timeout": 5_000,  # ms
        }
        engine.dispose()


def test_the_folder_of_a_new_database_is_made(tmp_path: Path) -> None:
    open_engine(f"sqlite:///{tmp_path / 'runs' / 'of' / 'mine' / 'hpo.db'}").dispose()
    assert (tmp_path / "runs" / "of" / "mine" / "hpo.db").parent.is_dir()


@both_doors
@pytest.mark.parametrize(
    ("bad_url", "shown", "words"),
    [
        ("nonsense", "nonsense", "parse"),
        ("", "''", "parse"),
        ("oracel://me:secret@host/db", "oracel://me:***@host/db", "oracel"),
        ("mysql://me:secret@host/db", "mysql://me:***@host/db", "MySQLdb"),
        ("postgresql://me:secret@host:port/db", "host:port/db", "port"),
        ("postgresql//me:secret@host/db", "host/db", "parse"),
        ("sqlite:///{tmp}/a-file/hpo.db", "a-file/hpo.db", ""),
        ("sqlite:///{tmp}/a-file", "a-file", "not a database"),
        ("sqlite:///{tmp}", "sqlite:///", "unable to open"),
    ],
    ids=["no URL", "empty", "dialect", "driver", "port", "no colon", "in a file", "text", "folder"],
)
def test_a_database_that_cannot_be_opened_is_named_without_its_password(
    open_database: Open, bad_url: str, shown: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "a-file").write_text("SQLite files do not begin so. " * 40)
    with pytest.raises(DatabaseError, match=r"^cannot open database") as caught:
        open_database(bad_url.replace("{tmp}", str(tmp_path)))
    assert shown in str(caught.value)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_study_knows_its_name_direction_and_metric(
    study: optuna.Study, storage: RDBStorage
) -> None:
    assert study_exists(storage, "branin")
    assert not study_exists(storage, "brani")
    assert study.direction == optuna.study.StudyDirection.MINIMIZE
    assert study.metric_names == ["loss"]
    with pytest.raises(optuna.exceptions.DuplicatedStudyError):
        create_study(storage, "branin", direction="minimize", metric="loss")


def test_a_requeued_trial_is_handed_out_again_under_its_number(
    study: optuna.Study, storage: RDBStorage
) -> None:
    """Same number, same parameters: the budget stays exact, and nothing stays RUNNING."""
    study.tell(study.ask(SPACE), 1.0)
    cut_off = [study.ask(SPACE) for _ in range(2)]
    reopened = optuna.load_study(study_name="branin", storage=storage)
    assert requeue_running(reopened) == [1, 2]
    assert count_states(reopened) == {"COMPLETE": 1, "WAITING": 2}
    again = [reopened.ask(SPACE) for _ in range(3)]
    assert [trial.number for trial in again] == [1, 2, 3]
    assert [trial.params for trial in again[:2]] == [trial.params for trial in cut_off]


def test_one_trial_can_be_requeued_alone(study: optuna.Study) -> None:
    for _ in range(3):
        study.ask(SPACE)
    assert requeue_running(study, only=1) == [1]
    assert [trial.state.name for trial in study.trials] == ["RUNNING", "WAITING", "RUNNING"]
    assert study.ask(SPACE).number == 1


def test_a_trial_that_has_ended_is_not_requeued(study: optuna.Study) -> None:
    for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL):
        study.tell(study.ask(SPACE), 1.0 if state == TrialState.COMPLETE else None, state)
    assert requeue_running(study) == []
    assert count_states(study) == {"COMPLETE": 1, "PRUNED": 1, "FAIL": 1}


def test_the_end_of_a_search_reads_back_until_it_is_struck(study: optuna.Study) -> None:
    assert search_end(study) is None
    end = SearchEnd(by="patience_trials", limit=4, reason="no improvement", n_trials=9)
    put_search_end(study, end)
    assert search_end(study) == end
    put_search_end(study, None)
    assert search_end(study) is None


def test_a_value_of_an_epoch_that_is_trained_again_replaces_the_first(study: optuna.Study) -> None:
    trial = study.ask(SPACE)
    for epoch, value in [(1, 9.0), (2, 8.0)]:
        put_intermediate_value(trial, epoch, value)
    requeue_running(study)
    put_intermediate_value(study.ask(SPACE), 1, 7.0)
    assert study.trials[0].intermediate_values == {1: 7.0, 2: 8.0}


def test_what_is_recorded_of_a_comparison_is_read_back_by_study(tmp_path: Path) -> None:
    """A trial that is run again replaces its own epochs, and nobody else's."""
    ledger = ComparisonLedger(open_engine(f"sqlite:///{tmp_path / 'hpo.db'}"))
    record = ComparisonRecord(
        id="c" * 32,
        name="branin",
        spec="name: branin\n",
        samplers=["random", "tpe"],
        n_seeds=2,
        created_at=NOON,
        versions={"optuna": "5.0.0"},
        git_commit=None,
    )
    ledger.put(record)
    longer = [EPOCH, replace(EPOCH, epoch=2)]
    ledger.put_trial(record.id, ("tpe", 0), 3, 0.5, longer)
    ledger.put_trial(record.id, ("tpe", 1), 3, 0.25, [EPOCH])
    ledger.put_trial(record.id, ("tpe", 0), 3, 0.75, [EPOCH])
    ledger.put_trial(record.id, ("random", 0), 0, 0.0, [])
    ledger.add_rerun(record.id, ("tpe", 1), RERUN)
    ledger.put(replace(record, finished_at=LATER))
    assert ledger.find("branin") == replace(record, finished_at=LATER)
    assert ledger.names() == ["branin"]
    assert ledger.epochs(record.id) == {("tpe", 0): {3: [EPOCH]}, ("tpe", 1): {3: [EPOCH]}}
    assert ledger.proposals(record.id) == {
        ("random", 0): {0: 0.0},
        ("tpe", 0): {3: 0.75},
        ("tpe", 1): {3: 0.25},
    }
    assert ledger.reruns(record.id) == {("tpe", 1): [RERUN]}
