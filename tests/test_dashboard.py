"""optuna-dashboard on the ledger: served on loopback, and shown by a real browser."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Shell, assert_no_traceback
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import text_to_be_present_in_element
from selenium.webdriver.support.wait import WebDriverWait

from hpo.search import ask
from hpo.spec import parse_spec
from storage import create_study, open_optuna_storage

SPACE = parse_spec(
    "{name: seen, trainable: analytic, objective: {metric: loss, direction: minimize}, "
    "search_space: {x1: {type: int, low: 0, high: 9}}, budget: {n_trials: 3}}",
    "inline",
).search_space


@pytest.fixture
def shell_with_study(tmp_path: Path) -> Shell:
    """A folder whose ledger holds a study called "seen" with three trials."""
    shell = Shell(tmp_path)
    (tmp_path / "runs").mkdir()
    storage = open_optuna_storage(shell.storage_url)
    study = create_study(storage, "seen", direction="minimize", metric="loss")
    for value in (3.0, 1.0, 2.0):
        study.tell(ask(study, SPACE), value)
    return shell


@pytest.fixture
def address(shell_with_study: Shell) -> Iterator[str]:
    """The address that `hpo dashboard seen` prints."""
    process = shell_with_study.start("dashboard", "seen", "--port", "0")
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130


def test_it_serves_the_studies_on_loopback(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")
    root = address.split("/dashboard", maxsplit=1)[0]
    with urllib.request.urlopen(f"{root}/api/studies") as answer:  # noqa: S310
        studies = json.load(answer)["study_summaries"]
    assert [study["study_name"] for study in studies] == ["seen"]
    port = root.rpartition(":")[2]
    listening = subprocess.run(["ss", "-ltn"], capture_output=True, text=True, check=False).stdout
    if listening:
        assert f"127.0.0.1:{port}" in listening
        assert f"0.0.0.0:{port}" not in listening


def test_a_browser_shows_the_study_at_the_printed_address(address: str, browser: Chrome) -> None:
    browser.get(address)
    body = (By.TAG_NAME, "body")
    WebDriverWait(browser, 30).until(text_to_be_present_in_element(body, "seen"))
    WebDriverWait(browser, 30).until(text_to_be_present_in_element(body, "History"))


def test_an_unknown_study_is_named_with_the_known_ones(shell_with_study: Shell) -> None:
    done = shell_with_study.hpo("dashboard", "sene")
    assert done.returncode == 2
    assert "seen" in done.stderr
    assert_no_traceback(done)


def test_where_nothing_was_run_there_is_nothing_to_show_and_nothing_is_made(tmp_path: Path) -> None:
    for command in (("dashboard",), ("dashboard", "cnn"), ("sync", "cnn")):
        done = Shell(tmp_path).hpo(*command)
        assert done.returncode == 2
        assert "hpo.db" in done.stderr
        assert_no_traceback(done)
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_an_error_with_a_way_out(
    shell_with_study: Shell, address: str
) -> None:
    port = address.split(":")[2].split("/", maxsplit=1)[0]
    done = shell_with_study.hpo("dashboard", "--port", port)
    assert done.returncode == 5
    assert "--port 0" in done.stderr
    assert_no_traceback(done)
