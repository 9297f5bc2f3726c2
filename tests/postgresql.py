"""A real PostgreSQL server for tests, of Debian's package: a folder of its own, a password."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

USER, PASSWORD = "hpo", "open-sesame-4711"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "50",
    "shared_buffers": "16MB",
}


class PostgreSQL:
    """A server that can be stopped and started again, with what is in it."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self._folder = Path(tempfile.mkdtemp(prefix="hpo-postgresql-", dir="/tmp"))
        if os.getuid() == 0:  # the server refuses to run as root
            shutil.chown(self._folder, "postgres", "postgres")
        (password := self._folder / "password").write_text(PASSWORD)
        password.chmod(0o644)
        self._run(
            *(
                "initdb",
                "--pgdata",
                self._data,
                "--username",
                USER,
                "--no-sync",
                "--encoding",
                "UTF8",
            ),
            *("--auth", "scram-sha-256", "--pwfile", password),
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        settings = {**SETTINGS, "port": self.port, "unix_socket_directories": self._folder}
        with (self._data / "postgresql.auto.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        self.start()

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def start(self) -> None:
        """Returns when it answers."""
        log = self._folder / "log"
        self._run("pg_ctl", "start", "--wait", "--pgdata", self._data, "--log", log)

    def stop(self) -> None:
        """As a crash does: connections break, nothing is tidied up."""
        self._run("pg_ctl", "stop", "--mode", "immediate", "--pgdata", self._data)

    def url(self, database: str) -> str:
        """Of a database of that name, as a user would write it."""
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def new(self, database: str, template: str = "template0") -> str:
        """Its URL; ``template`` is a database to copy, to which nobody is connected."""
        self.sql(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        return self.url(database)

    def sql(self, command: str, database: str = "postgres") -> str:
        """What `psql` answers, a line for each row."""
        return self._run(
            *("psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "-d", database),
            *("-v", "ON_ERROR_STOP=1", "-Atqc", command),
        )

    def remove(self) -> None:
        """Nothing is left of it."""
        self.stop()
        shutil.rmtree(self._folder)

    def _run(self, program: str, *arguments: str | Path) -> str:
        as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        done = subprocess.run(
            [*as_user, self._binaries / program, *arguments],
            env={**os.environ, "PGPASSWORD": PASSWORD, "LC_ALL": "C"},
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout.strip()


def start_postgresql() -> PostgreSQL:
    """A new server, or the test is skipped."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not versions:
        pytest.skip("needs a PostgreSQL server: apt install postgresql")
    return PostgreSQL(versions[-1].parent)
