"""What `hpo submit` sends, to whom, and what it refuses; tests/test_real_cluster.py sends it."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import ray
from aiohttp import web
from commands import Shell, assert_no_traceback

from hpo import cluster_upload
from hpo.cluster_jobs import Jobs, Run, address_of, refuse_secrets
from hpo.cluster_upload import Upload, pack, upload_of
from hpo.errors import UsageError
from hpo.spec import ExperimentSpec

SPEC = """
name: sent
trainable: analytic
objective: {metric: loss, direction: minimize}
search_space: {x1: {type: float, low: -5, high: 10}}
fixed: {x2: 1}
budget: {n_trials: 2, max_epochs: 1}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's working directory with everything that has no business on a cluster."""
    for name in (
        *("sent.yaml", "mine.py", "package/data/code.py", "package/__init__.py", "conf/x.yaml"),
        *(".git/config", "data/images.bin", "runs/sent/report.html", ".venv/bin/python", ".env"),
        *("package/__pycache__/x.pyc", "env/pyvenv.cfg", "env/lib/torch.so", "big/table.csv"),
        *("package/.ipynb_checkpoints/x.py", "notes/secret.txt", "notes/open.txt"),
        *(".env.production", "package/.netrc", ".aws/credentials", "notes/.pgpass"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    (tmp_path / "sent.yaml").write_text(SPEC, encoding="utf-8")
    (tmp_path / ".rayignore").write_text("big/\n*.yaml\n", encoding="utf-8")
    (tmp_path / "notes" / ".gitignore").write_text("secret*\n", encoding="utf-8")
    return tmp_path


# --- what goes along ---


def test_data_results_environments_and_what_is_ignored_stay_here(folder: Path) -> None:
    """The spec goes in any case, and so does a package's folder that is called `data`."""
    upload = upload_of(folder / "sent.yaml", folder)
    assert [str(file) for file in upload.files] == [
        ".rayignore",
        "mine.py",
        "notes/.gitignore",
        "notes/open.txt",
        "package/__init__.py",
        "package/data/code.py",
        "sent.yaml",
    ]
    assert upload.n_bytes == sum((folder / file).stat().st_size for file in upload.files)


def test_a_spec_elsewhere_brings_its_own_folder(folder: Path, tmp_path_factory: Any) -> None:
    upload = upload_of(folder / "sent.yaml", tmp_path_factory.mktemp("elsewhere"))
    assert upload.root == folder


def test_what_its_repository_ignores_stays_here_unless_that_is_the_folder_itself(
    folder: Path,
) -> None:
    (folder / ".gitignore").write_text("/notes/mi*.txt\n*.csv\nattic/\n", encoding="utf-8")
    for name in ("notes/mine.txt", "notes/deep/table.csv", "attic/code.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name, encoding="utf-8")
    for place in ("notes", "attic"):
        (folder / place / "here.yaml").write_text(SPEC, encoding="utf-8")
    notes = upload_of(folder / "notes" / "here.yaml", folder / "notes")
    assert [str(file) for file in notes.files] == [".gitignore", "here.yaml", "open.txt"]
    attic = upload_of(folder / "attic" / "here.yaml", folder / "attic")
    assert [str(file) for file in attic.files] == ["code.py", "here.yaml"]


def test_links_out_of_the_folder_are_not_followed(folder: Path, tmp_path_factory: Any) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "huge.bin").write_bytes(b"0" * 1000)
    (folder / "link").symlink_to(elsewhere)
    (folder / "loop").symlink_to(folder)
    upload = upload_of(folder / "sent.yaml", folder)
    assert not [file for file in upload.files if {"link", "loop"} & set(file.parts)]


def test_too_much_is_refused_with_the_largest_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("weights.bin", 3_000_000), ("more.bin", 2_000_000), ("small.bin", 10)):
        with (folder / name).open("wb") as file:
            file.truncate(size)
    monkeypatch.setattr(cluster_upload, "LIMIT_MB", 4)
    with pytest.raises(UsageError) as refused:
        upload_of(folder / "sent.yaml", folder)
    lines = str(refused.value).splitlines()
    assert "10 files of 5 MB to upload, more than the limit of 4 MB" in lines[0]
    assert lines[1].split() == ["3.0", "MB", "weights.bin"]
    assert lines[2].split() == ["2.0", "MB", "more.bin"]
    assert ".rayignore" in lines[-1]


def test_the_same_files_are_the_same_archive(folder: Path) -> None:
    """Ray names it after its bytes, and sends to each machine what is not there yet."""
    archives = []
    for name in ("one.zip", "two.zip"):
        upload = upload_of(folder / "sent.yaml", folder)
        pack(upload, folder.parent / name)
        archives.append((folder.parent / name).read_bytes())
        os.utime(folder / "mine.py", (0, 0))
    assert archives[0] == archives[1]
    with zipfile.ZipFile(folder.parent / "one.zip") as packed:
        assert packed.read("package/data/code.py") == b"package/data/code.py"


def test_what_cannot_be_read_is_named_and_an_odd_gitignore_is_read(folder: Path) -> None:
    (folder / ".gitignore").write_bytes(b"caf\xe9\nmine*\n")
    upload = upload_of(folder / "sent.yaml", folder)
    assert Path("mine.py") not in upload.files
    (folder / "notes" / "open.txt").unlink()
    with pytest.raises(UsageError, match=r"cannot upload .*open.txt: No such file.*\.rayignore"):
        pack(upload, folder.parent / "x.zip")


# --- what it runs ---


def run_of(spec: ExperimentSpec, **options: str) -> Run:
    upload = Upload(root=Path("/home/user"), files=(), n_bytes=0)
    return Run(
        spec=spec,
        spec_file=Path("specs/my spec.yaml"),
        overrides=["seed=3", "name=$(rm)"],
        options=options,
        upload=upload,
    )


def test_the_line_of_the_job_resumes_and_quotes_what_the_user_has_typed(
    branin: Callable[..., ExperimentSpec],
) -> None:
    line = run_of(branin(), **{"--checkpoints": "s3://bucket/x"}).entry_point
    assert line.startswith('HPO_RUNS="${HPO_RUNS:-$HOME/hpo/runs}" ')
    words = shlex.split(line)[2:]
    assert words[:5] == ["python", "-m", "hpo", "run", "specs/my spec.yaml"]
    assert words[5:] == [
        *("--begin-or-resume", "-o", "seed=3", "-o", "name=$(rm)"),
        *("--checkpoints", "s3://bucket/x"),
    ]
    assert "'name=$(rm)'" in line


# --- to whom ---


@pytest.mark.parametrize(
    "address", ["http://localhost:8265", "http://127.0.0.1:8265/", "http://[::1]:8265", "https://x"]
)
def test_this_machine_and_https_are_addresses(address: str) -> None:
    assert address_of(address, insecure_http=False) == address.rstrip("/")


def test_plain_http_to_another_machine_needs_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"unencrypted.*ssh -L 8265:127.0.0.1:8265 head"):
        address_of("http://head:8265", insecure_http=False)
    assert address_of("http://head:8265", insecure_http=True) == "http://head:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://10.0.0.7:8265")
    with pytest.raises(UsageError, match="unencrypted"):
        address_of(None, insecure_http=False)


@pytest.mark.parametrize("address", ["head:8265", "ray://head:10001", "http://", "auto"])
def test_what_is_no_http_address_is_told(address: str) -> None:
    with pytest.raises(
        UsageError, match=r"must be the http address .* got " + re.escape(f"'{address}'")
    ):
        address_of(address, insecure_http=False)


def test_without_an_address_its_variables_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UsageError, match="RAY_API_SERVER_ADDRESS or RAY_ADDRESS"):
        address_of(None, insecure_http=False)


@pytest.mark.parametrize(
    "url",
    ["postgresql://me:canary@host/db", "postgresql://host/db?user=me&password=canary"],
)
def test_a_password_does_not_go_along(url: str) -> None:
    for option in ("--storage", "--tracking-uri"):
        with pytest.raises(UsageError, match=r"PGPASSFILE") as refused:
            refuse_secrets({option: url})
        assert "canary" not in str(refused.value)
    refuse_secrets({"--storage": "postgresql://me@host/db", "--checkpoints": None})


# --- what it shows ---


@contextmanager
def closing_too_early() -> Iterator[str]:
    """A way to a cluster that closes the first connection while the job runs, as a proxy does."""
    lines, statuses = iter(["one\ntwo\n", "one\ntwo\nthree\n"]), iter(["RUNNING", "SUCCEEDED"])

    async def version(_: web.Request) -> web.Response:
        return web.json_response({"ray_version": ray.__version__, "version": "4"})

    async def tail(request: web.Request) -> web.WebSocketResponse:
        await (socket := web.WebSocketResponse()).prepare(request)
        for line in next(lines).splitlines(keepends=True):
            await socket.send_str(line)
        await socket.close()
        return socket

    async def job(_: web.Request) -> web.Response:
        status = next(statuses, "SUCCEEDED")
        return web.json_response({"type": "SUBMISSION", "entrypoint": "", "status": status})

    app = web.Application()
    app.router.add_get("/api/version", version)
    app.router.add_get("/api/jobs/{id}", job)
    app.router.add_get("/api/jobs/{id}/logs/tail", tail)
    loop, runner = asyncio.new_event_loop(), web.AppRunner(app)
    loop.run_until_complete(runner.setup())
    loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(runner.cleanup())
        loop.close()


def test_a_job_is_followed_to_its_end_through_connections_that_end_before_it() -> None:
    shown: list[str] = []
    with closing_too_early() as address:
        Jobs(address).follow("hpo-sent", shown.append, "")
    assert "".join(shown) == "one\ntwo\nthree\n"


# --- nobody there ---


class Answering(BaseHTTPRequestHandler):
    """Some other server."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def no_cluster() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def silent() -> Iterator[str]:
    """Something that takes a connection and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_where_no_cluster_answers_it_is_told_within_seconds(
    folder: Path, no_cluster: str, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpo.cluster_jobs.CONNECT_PATIENCE_S", 0.2)
    shell = Shell(folder)
    for address, told in (
        ("http://127.0.0.1:1", "no answer: [Errno 111] Connection refused"),
        (no_cluster, "no dashboard of Ray"),
        (silent, "no answer: timed out"),
    ):
        done = shell.hpo("submit", "sent.yaml", "--address", address)
        assert done.returncode == 5
        assert told in done.stderr
        assert "ray start --head" in done.stderr
        assert_no_traceback(done)


def test_a_spec_that_breaks_a_rule_is_not_sent(folder: Path) -> None:
    done = Shell(folder).hpo("submit", "sent.yaml", "-o", "sampler=tpee", "--address", "https://x")
    assert done.returncode == 2
    assert "tpee" in done.stderr
    assert_no_traceback(done)
