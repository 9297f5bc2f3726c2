"""Optuna's own tests of any storage, on ours: the contract that its samplers rely on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import BaseModel
from optuna.testing.pytest_storages import StorageTestCase
from postgresql import PostgreSQL

from storage import hold_lease, open_optuna_storage


@contextmanager
def opened(url: str) -> Iterator[RDBStorage]:
    """By the driver of an experiment; tests leave it empty, because to make it takes longer."""
    with hold_lease(url, "experiment 'contract'"):
        storage = open_optuna_storage(url)
        yield storage
        storage.engine.dispose()


def emptied(storage: RDBStorage) -> Iterator[RDBStorage]:
    """For one test."""
    yield storage
    storage.remove_session()
    with storage.engine.begin() as connection:
        for table in reversed(BaseModel.metadata.sorted_tables):
            if table.name != "version_info":
                connection.execute(table.delete())


class TestSQLite(StorageTestCase):
    """A file."""

    @pytest.fixture(scope="class")
    def whole(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RDBStorage]:
        folder: Path = tmp_path_factory.mktemp("contract")
        with opened(f"sqlite:///{folder / 'hpo.db'}") as storage:
            yield storage

    @pytest.fixture
    def storage(self, whole: RDBStorage) -> Iterator[RDBStorage]:
        yield from emptied(whole)


class TestPostgreSQL(StorageTestCase):
    """A server, reached with psycopg."""

    @pytest.fixture(scope="class")
    def whole(self, postgresql: PostgreSQL) -> Iterator[RDBStorage]:
        with opened(postgresql.new("contract")) as storage:
            yield storage

    @pytest.fixture
    def storage(self, whole: RDBStorage) -> Iterator[RDBStorage]:
        yield from emptied(whole)
