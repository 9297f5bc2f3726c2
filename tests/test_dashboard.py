"""optuna-dashboard on the ledger: guarded, served on loopback, and shown by a real browser."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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


MADE = {"study_name": "made here", "directions": ["minimize"]}
JSON = {"Content_Type": "application/json"}
OWN_TOKEN = "one-of-my-own-4711"  # noqa: S105
ALL_ADDRESSES = "0.0.0.0"  # noqa: S104


@pytest.fixture(scope="module")
def shell_with_study(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A folder whose ledger holds a study called "seen" with three trials."""
    shell = Shell(tmp_path_factory.mktemp("work"))
    (shell.folder / "runs").mkdir()
    storage = open_optuna_storage(shell.storage_url)
    study = create_study(storage, "seen", direction="minimize", metric="loss")
    for value in (3.0, 1.0, 2.0):
        study.tell(ask(study, SPACE), value)
    return shell


@contextmanager
def dashboard(shell: Shell, *options: str) -> Iterator[str]:
    """The address that `hpo dashboard seen` prints."""
    process = shell.start("dashboard", "seen", "--port", "0", *options)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr


@pytest.fixture(scope="module")
def address(shell_with_study: Shell) -> Iterator[str]:
    """Where it is shown, to be read."""
    with dashboard(shell_with_study) as found:
        yield found


@pytest.fixture(scope="module")
def writable(shell_with_study: Shell) -> Iterator[str]:
    """Where it may be changed by who has the token."""
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HPO_DASHBOARD_TOKEN", OWN_TOKEN)
            found = stack.enter_context(dashboard(shell_with_study, "--writable"))
        yield found


def status(url: str, method: str = "GET", data: object = None, **headers: str) -> int:
    """Of the answer to a request."""
    body = None if data is None else json.dumps(data).encode()
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, body, headers, method=method)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return int(error.code)


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


def test_browsing_every_page_asks_for_nothing_that_is_refused(
    address: str, browser: Chrome
) -> None:
    """The page's own code: what it wrote into the console, which has what failed to load."""
    browser.get_log("browser")
    root = address.split("/studies", maxsplit=1)[0]
    for page, word in {
        root: "seen",
        address: "Timeline",
        f"{address}/analytics": "Empirical Distribution",
        f"{address}/trials": "Started At",
        f"{address}/note": "Note",
    }.items():
        browser.get(page)
        WebDriverWait(browser, 60).until(
            text_to_be_present_in_element((By.TAG_NAME, "body"), word), page
        )
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []


def test_it_only_shows(address: str) -> None:
    root = address.split("/dashboard", maxsplit=1)[0]
    assert status(f"{root}/api/studies", "POST", MADE, **JSON) == 405
    assert status(f"{root}/api/studies/1", "DELETE") == 405


def test_where_writing_is_asked_for_no_other_site_can_write(writable: str) -> None:
    root = writable.split("/dashboard", maxsplit=1)[0]
    with_token = {**JSON, "Authorization": f"Bearer {OWN_TOKEN}"}
    evil = {**with_token, "Origin": "http://evil.example"}
    assert status(f"{root}/api/studies", "POST", MADE, **evil) == 403
    assert status(f"{root}/api/studies", "POST", MADE, **with_token, Origin=root) == 201


def test_another_name_for_this_machine_is_refused(address: str) -> None:
    assert status(address, Host="evil.example") == 403


def test_a_client_that_says_nothing_keeps_nobody_waiting(address: str) -> None:
    port = int(address.split(":")[2].split("/", maxsplit=1)[0])
    with socket.create_connection(("127.0.0.1", port)):
        assert status(address) == 200


def test_beyond_loopback_it_is_shown_to_who_has_the_printed_token(
    shell_with_study: Shell, browser: Chrome
) -> None:
    options = ("--host", ALL_ADDRESSES, "--hostname", "Studies.example")
    with dashboard(shell_with_study, *options) as printed:
        found = re.fullmatch(r"http://[^/]+:(\d+)/dashboard/studies/1\?token=(\S{40,})", printed)
        assert found, printed
        port, token = found.groups()
        root = f"http://127.0.0.1:{port}"
        for path in ("/dashboard", "/api/studies", "/static/bundle.js", "/csv/1", "/nothing"):
            assert status(f"{root}{path}") == 401
            assert status(f"{root}{path}", Authorization="Bearer wrong") == 401
        key = {"Authorization": f"Bearer {token}"}
        assert status(f"{root}/api/studies", **key) == 200
        assert status(f"{root}/api/studies", Host="studies.example", **key) == 200
        assert status(f"{root}/api/studies", Host="evil.example", **key) == 403
        browser.get(f"{root}/dashboard/studies/1?token={token}")
        body = (By.TAG_NAME, "body")
        WebDriverWait(browser, 30).until(text_to_be_present_in_element(body, "History"))
        assert browser.current_url == f"{root}/dashboard/studies/1"


def test_a_token_of_ones_own_is_asked_for_on_loopback_too_and_never_printed(writable: str) -> None:
    assert writable.startswith("http://127.0.0.1:")
    assert OWN_TOKEN not in writable
    assert status(writable) == 401
    assert status(writable, Authorization=f"Bearer {OWN_TOKEN}") == 200


def test_a_token_that_is_guessed_soon_is_refused(shell_with_study: Shell) -> None:
    done = shell_with_study.hpo("dashboard", HPO_DASHBOARD_TOKEN="guess; me")  # noqa: S106
    assert done.returncode == 2
    assert "HPO_DASHBOARD_TOKEN must be at least 16" in done.stderr
    assert "guess" not in done.stderr


def test_a_host_that_is_not_here_is_an_error_with_a_way_out(shell_with_study: Shell) -> None:
    done = shell_with_study.hpo("dashboard", "--host", "192.0.2.123", "--port", "0")
    assert done.returncode == 5
    assert "--host" in done.stderr
    assert_no_traceback(done)


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
