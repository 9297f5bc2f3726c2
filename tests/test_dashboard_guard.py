"""What the dashboard's guard lets through, as browsers, programs and strangers send it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import optuna_dashboard
import pytest
from optuna.artifacts import FileSystemArtifactStore, upload_artifact

from hpo.addresses import is_loopback
from hpo.dashboard_guard import Guard

TOKEN = "a-token-of-many-letters"  # noqa: S105


class Answer:
    """Of one request."""

    def __init__(self, app: Any, method: str = "GET", path: str = "/api/studies", **more: str):
        self.environ: dict[str, Any] = {"REQUEST_METHOD": method, "HTTP_HOST": "127.0.0.1:8080"}
        setup_testing_defaults(self.environ)
        path, _, query = path.partition("?")
        self.environ |= {"PATH_INFO": path, "QUERY_STRING": query, "wsgi.input": io.BytesIO()}
        self.environ |= {f"HTTP_{key.upper()}": value for key, value in more.items()}
        self.body = b"".join(app(self.environ, self._start))

    def _start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
        self.status = int(status[:3])
        self.headers = {name.lower(): value for name, value in headers}
        self.all_headers = headers


def anything(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Access-Control-Allow-Origin", "*")])
    return [environ["REQUEST_METHOD"].encode(), environ.get("HTTP_X_FORWARDED_HOST", "").encode()]


READER = Guard(app=anything)
WRITER = Guard(app=anything, is_writable=True)
OUTSIDE = Guard(app=anything, names=frozenset({"gpu-box"}), any_address=True, token=TOKEN)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_only_reading_is_allowed_unless_it_is_asked_for(method: str) -> None:
    refused = Answer(READER, method)
    assert refused.status == 405
    assert b"--writable" in refused.body
    assert Answer(WRITER, method).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_reading_is_allowed(method: str) -> None:
    assert Answer(READER, method).status == 200


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8080", "localhost:8080", "LOCALHOST", "[::1]:8080", "127.0.0.1"]
)
def test_it_answers_to_the_names_of_loopback(host: str) -> None:
    assert Answer(READER, host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:8080",  # its DNS server says 127.0.0.1
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "localhost:8080,evil.example",  # the header twice
        "192.0.2.7:8080",
        "[::1",
        "",
    ],
)
def test_it_answers_to_no_other_name(host: str) -> None:
    refused = Answer(READER, host=host)
    assert refused.status == 403
    assert b"--hostname" in refused.body


def test_beyond_loopback_it_answers_to_addresses_and_its_own_names_alone() -> None:
    key = {"authorization": f"Bearer {TOKEN}"}
    for host in ("192.0.2.7:8080", "[2001:db8::1]:8080", "gpu-box:8080", "localhost:8080"):
        assert Answer(OUTSIDE, host=host, **key).status == 200
    assert Answer(OUTSIDE, host="evil.example:8080", **key).status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "null"},
        {"sec_fetch_site": "cross-site", "sec_fetch_dest": "empty"},
        {"sec_fetch_site": "same-site", "sec_fetch_dest": "empty"},  # another port
        {"sec_fetch_site": "cross-site", "sec_fetch_dest": "document"},  # a form sent to us
    ],
)
def test_a_page_of_another_site_can_change_nothing(headers: dict[str, str]) -> None:
    assert Answer(WRITER, "POST", **headers).status == 403


def test_our_own_page_can_change_something_and_so_can_a_program() -> None:
    ours = {"origin": "http://127.0.0.1:8080", "sec_fetch_site": "same-origin"}
    assert Answer(WRITER, "POST", **ours).status == 200
    assert Answer(WRITER, "POST").status == 200


def test_a_page_of_another_site_may_link_to_us_and_load_nothing() -> None:
    linked = {"sec_fetch_site": "cross-site", "sec_fetch_dest": "document"}
    assert Answer(READER, path="/dashboard", **linked).status == 200
    for kind in ("image", "script", "iframe", "empty"):
        loaded = {"sec_fetch_site": "cross-site", "sec_fetch_dest": kind}
        assert Answer(READER, path="/csv/1", **loaded).status == 403


def test_no_answer_lets_other_sites_in_or_is_shown_in_their_frames() -> None:
    for answer in (
        Answer(READER),
        Answer(READER, "POST"),
        Answer(OUTSIDE),
        Answer(READER, host=""),
    ):
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


def test_a_name_that_a_proxy_is_said_to_have_seen_is_not_believed() -> None:
    assert Answer(READER, x_forwarded_host="evil.example").body == b"GET"


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (401, {}),
        (401, {"authorization": "Bearer "}),
        (401, {"authorization": f"Bearer {TOKEN}x"}),
        (401, {"authorization": f"Bearer {TOKEN[:-1]}"}),
        (401, {"authorization": f"Basic {TOKEN}"}),
        (401, {"authorization": "Bearer \xfc\xff"}),
        (401, {"cookie": "hpo_dashboard=wrong"}),
        (401, {"cookie": f"other={TOKEN}"}),
        (401, {"cookie": "=;;\x01"}),
        (200, {"authorization": f"Bearer {TOKEN}"}),
        (200, {"authorization": f"bearer {TOKEN}"}),
        (200, {"cookie": f"a=1; hpo_dashboard={TOKEN}"}),
    ],
)
def test_the_token_has_to_be_shown(status: int, headers: dict[str, str]) -> None:
    answer = Answer(OUTSIDE, **headers)
    assert answer.status == status
    assert TOKEN.encode() not in answer.body
    assert ("www-authenticate" in answer.headers) == (status == 401)


def test_the_token_in_an_address_is_kept_in_a_cookie_that_no_script_and_no_site_has() -> None:
    answer = Answer(OUTSIDE, path=f"/dashboard/studies/1?token={TOKEN}")
    assert answer.status == 200
    assert 'url=/dashboard/studies/1"' in answer.body.decode()
    assert TOKEN.encode() not in answer.body
    kept, *attributes = answer.headers["set-cookie"].split("; ")
    assert set(attributes) == {"Path=/", "HttpOnly", "SameSite=Strict"}
    assert Answer(OUTSIDE, cookie=kept).status == 200
    assert Answer(OUTSIDE, path="/dashboard?token=wrong").status == 401
    assert Answer(OUTSIDE, "POST", path=f"/api/studies?token={TOKEN}").status == 405


def test_the_page_that_keeps_the_token_leads_nowhere_else() -> None:
    for path in ("//evil.example/x", "/\"><script>alert('x')</script>"):
        body = Answer(OUTSIDE, path=f"{path}?token={TOKEN}").body.decode()
        assert "url=//" not in body
        assert "<script>" not in body


def test_an_artifact_is_downloaded_and_never_run_as_a_page_of_ours(tmp_path: Path) -> None:
    study, store = optuna.create_study(), FileSystemArtifactStore(str(tmp_path))
    page = tmp_path / "page.html"
    page.write_text("<script>fetch('/api/studies')</script>", encoding="utf-8")
    artifact = upload_artifact(
        artifact_store=store, file_path=str(page), study_or_trial=study, storage=study._storage
    )
    path = f"/artifacts/{study._study_id}/{artifact}"
    bare = Answer(app := optuna_dashboard.wsgi(study._storage, artifact_store=store), path=path)
    assert bare.headers["content-type"] == "text/html"  # which is why it has to be guarded
    assert "content-disposition" not in bare.headers

    guarded = Answer(Guard(app=app), path=path)
    assert guarded.status == 200
    assert guarded.body == page.read_bytes()
    assert guarded.headers["content-disposition"] == "attachment"
    assert guarded.headers["x-content-type-options"] == "nosniff"
    assert guarded.headers["content-security-policy"].endswith("sandbox")
    assert "access-control-allow-origin" not in guarded.headers


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LocalHost"]
)
def test_loopback_is_told_by_name_or_address(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["", "0.0.0.0", "::", "10.0.0.1", "head", "localhost.example", "127.0.0.1.example", "127.1"],  # noqa: S104
)
def test_whatever_might_lead_elsewhere_is_no_loopback(host: str) -> None:
    assert not is_loopback(host)
