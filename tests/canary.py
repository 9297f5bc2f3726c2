"""Look into everything where a password could have been left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import sqlalchemy as sa

# All that Ray's head knows of jobs, actors and environments, to who may ask it.
ASK_RAY = """
import sys
from ray._raylet import GcsClient
client = GcsClient(address=sys.argv[1])
print(client.get_all_job_info())
for namespace in (None, b"fun", b"job", b"cluster", b"tracing", b"session", b"dashboard"):
    for key in client.internal_kv_keys(b"", namespace):
        print(key, client.internal_kv_get(key, namespace))
"""


def command_lines() -> list[bytes]:
    """Of all processes of this machine, which every user of it may read."""
    return [
        line
        for process in psutil.process_iter()
        for line in readable(Path(f"/proc/{process.pid}/cmdline"))
    ]


def readable(path: Path) -> list[bytes]:
    """A file that may be gone by now."""
    try:
        return [path.read_bytes()]
    except (OSError, ProcessLookupError):
        return []


def ask_ray(address: str, *, token: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    return subprocess.run(
        [sys.executable, "-c", ASK_RAY, address],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def rows_of(url: str) -> list[str]:
    """All that is in a database."""
    engine, metadata = sa.create_engine(url), sa.MetaData()
    metadata.reflect(engine)
    with engine.connect() as connection:
        found = [
            f"{table.name}: {row}"
            for table in metadata.tables.values()
            for row in connection.execute(sa.select(table))
        ]
    engine.dispose()
    return found
