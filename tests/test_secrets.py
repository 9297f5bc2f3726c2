"""Passwords in URLs: refused where others can see them, hidden wherever a URL is shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from commands import Shell, assert_no_traceback

from hpo.environment import (
    SECRETS,
    STORAGE_URL,
    TRACKING_URI,
    environment_of_children,
    without_secrets,
)
from hpo.places import Places
from storage import DatabaseError, has_password, open_engine, shown_url, without_passwords

CANARY = "canary-4711"
WITH_PASSWORD = [
    f"postgresql://me:{CANARY}@host/db",
    f"postgresql://me:{CANARY}@host:5432/db?sslmode=require",
    f"postgresql://:{CANARY}@host/db",
    f"postgresql://me:x/{CANARY}?y#z@host/db",
    f"postgresql://me:x {CANARY}@host/db",
    f"postgresql://me:x@{CANARY}@host/db",  # an @ that was not quoted
    f"postgresql://host/db?user=me&password={CANARY}",
    f"postgresql://host/db?PASSWORD={CANARY}&sslmode=require",
    f"postgresql://host/db?sslpassword={CANARY}",
    f"mysql://host/db?passwd={CANARY}",
    f"mssql://host/db?odbc_connect=DRIVER%3D1%3BPWD%3D{CANARY}",
    f"sqlite:////folder/hpo.db?token={CANARY}",
    f"https://me:{CANARY}@mlflow.example:5000",
    f"postgresql//me:{CANARY}@host/db",  # no colon
    f"postgresql://me@server:{CANARY}@host/db",
    f"postgresql://me:it's-{CANARY}@host/db",
    f"postgresql://host/db?password=it's-{CANARY}",
]
WITHOUT = [
    "postgresql://me@host:5432/db",
    "http://127.0.0.1:5000/#/experiments/1",
    "postgresql://host/db?passfile=/home/me/.pgpass",
    "sqlite:////folder/a@b/hpo.db",
    "http://127.0.0.1:5000",
    "/folder/mlruns",
]


@pytest.mark.parametrize("url", WITH_PASSWORD)
def test_a_password_in_a_url_is_found_and_hidden(url: str) -> None:
    assert has_password(url)
    assert CANARY not in shown_url(url)
    assert "***" in shown_url(url)
    told = without_passwords(f"API request to {url} failed; ask admin@example.org")
    assert " " in url or CANARY not in told
    assert told.endswith("failed; ask admin@example.org")


@pytest.mark.parametrize("url", WITHOUT)
def test_a_url_without_a_password_is_shown_as_it_is(url: str) -> None:
    assert not has_password(url)
    assert without_passwords(f"see {url}, or me@example.org") == f"see {url}, or me@example.org"


@pytest.mark.parametrize("url", WITH_PASSWORD)
def test_a_database_that_cannot_be_opened_tells_no_password(url: str) -> None:
    if not url.startswith(("https", "sqlite")):
        with pytest.raises(DatabaseError) as caught:
            open_engine(url.replace("@host", "@127.0.0.1:1").replace("//host", "//127.0.0.1:1"))
        assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "way_out"),
    [
        (f"postgresql://me:x@{CANARY}@host/db", "written %40"),
        (f"postgresql://me:{CANARY}/db", "its port is no number"),
    ],
)
def test_what_is_wrong_with_a_url_is_told_without_its_parts(url: str, way_out: str) -> None:
    with pytest.raises(DatabaseError, match=way_out) as caught:
        open_engine(url)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "variable"),
    [
        (("run", "branin.yaml", "--storage", f"postgresql://me:{CANARY}@h/db"), "HPO_STORAGE_URL"),
        (("compare", "branin.yaml", "--storage", f"sqlite:////x.db?pwd={CANARY}"), "HPO_STORAGE"),
        (("sync", "x", "--tracking-uri", f"http://me:{CANARY}@h:1"), "TRACKING_PASSWORD"),
        (("dashboard", "--storage", f"postgresql://h/db?password={CANARY}"), "PGPASSFILE"),
    ],
)
def test_a_password_on_the_command_line_is_refused_with_a_way_out(
    tmp_path: Path, arguments: tuple[str, ...], variable: str
) -> None:
    done = Shell(tmp_path).hpo(*arguments)
    assert done.returncode == 2
    assert variable in done.stderr
    assert CANARY not in done.stderr + done.stdout
    assert_no_traceback(done)


def test_places_do_not_show_a_password(tmp_path: Path) -> None:
    url = f"postgresql://me:{CANARY}@h/db"
    assert CANARY not in repr(Places.of(tmp_path, storage_url=url, tracking_uri=url))


def test_the_end_of_the_line_of_a_secret_file_is_no_part_of_a_url(tmp_path: Path) -> None:
    """As a cluster hands it out: `kubectl create secret --from-file`, say."""
    url = f"postgresql://me:{CANARY}@h/db"
    given = {STORAGE_URL: f"{url}\n", TRACKING_URI: " http://h:5000\r\n"}
    places = Places.of(tmp_path, given)
    assert (places.storage_url, places.tracking_uri) == (url, "http://h:5000")
    assert Places.of(tmp_path, {STORAGE_URL: "\n"}).storage_url.startswith("sqlite:///")


def test_processes_that_are_started_inherit_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, CANARY)
    with without_secrets():
        assert CANARY not in os.environ.values()
    assert all(os.environ[name] == CANARY for name in SECRETS)
    assert CANARY not in environment_of_children().values()
    assert environment_of_children()["PATH"] == os.environ["PATH"]
