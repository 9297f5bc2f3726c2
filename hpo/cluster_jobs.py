"""`hpo run` as a job of a Ray cluster: submit it, follow it, list jobs, stop one.

A job is called like its experiment, so that submitting twice attaches instead of running twice.
Neither this machine's environment nor a password travels: what the cluster needs to reach its
database stands in the cluster's own environment.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import logging
import os
import shlex
import signal
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from ray.dashboard.modules.job.pydantic_models import JobDetails
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from hpo.addresses import is_loopback
from hpo.cluster_upload import Upload, pack
from hpo.errors import JobFailedError, RunInterruptedError, UnfitEnvironmentError, UsageError
from hpo.spec import ExperimentSpec, spec_to_yaml
from storage import has_password

ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Ray reads them, too, and lets them win over an address that is given."""
CONNECT_PATIENCE_S = 5
REQUEST_PATIENCE_S = 60
READY_PATIENCE_S = 60
RECONNECT_S = 1
STOP_PATIENCE_S = 30
"""Ray would kill a driver 3 s after it asked it to end; ours takes up to 10."""

PACKAGE = "hpo-platform"
EXPERIMENT, SPEC_SHA256 = "hpo_experiment", "hpo_spec_sha256"
"""Keys of a job's metadata."""

HOME = "$HOME/hpo"
"""On the head: what a job leaves stays there, while its working directory goes with it."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a job shall do: one `hpo run`.

    Attributes:
        spec: checked here; the cluster checks it again.
        spec_file: relative to the root of the upload.
        overrides: of the spec, ``path=value``.
        options: of `hpo run`, those that were given, by name.
        upload: the files that go along.
    """

    spec: ExperimentSpec
    spec_file: Path
    overrides: Sequence[str]
    options: Mapping[str, str | None]
    upload: Upload

    @property
    def entry_point(self) -> str:
        """The line that a shell on the head runs."""
        words = ["python", "-m", "hpo", "run", self.spec_file.as_posix(), "--begin-or-resume"]
        for override in self.overrides:
            words += ["-o", override]
        for option, value in self.options.items():
            words += [option, value] if value else []
        places = f'HPO_RUNS="${{HPO_RUNS:-{HOME}/runs}}" HPO_DATA="${{HPO_DATA:-{HOME}/data}}"'
        return f"{places} {shlex.join(words)}"

    @property
    def metadata(self) -> dict[str, str]:
        """What is kept of it beside the job."""
        sha256 = hashlib.sha256(spec_to_yaml(self.spec).encode()).hexdigest()
        return {EXPERIMENT: self.spec.name, SPEC_SHA256: sha256, "hpo_version": version(PACKAGE)}


class Jobs:
    """The jobs of one cluster."""

    def __init__(self, address: str) -> None:
        """``address`` of the head's dashboard, as `address_of` returns it.

        Raises:
            UnfitEnvironmentError: if nobody answers there, or not without a token.
        """
        self.address = address
        _must_answer(address)
        with self._explained(), _without(ADDRESS_VARIABLES):
            self._client = _Client(address)

    def submit(self, run: Run, say: Callable[[str], None]) -> str:
        """Begin ``run`` as a job, unless one of that experiment runs already; returns its id.

        Raises:
            UnfitEnvironmentError: if the cluster refuses it.
        """
        jobs = self._all()
        if (running := _running(jobs, run.spec.name)) is not None:
            say(f"{_id(running)} runs already, since {_time(running.start_time)}: attached to it")
            if (running.metadata or {}).get(SPEC_SHA256) != run.metadata[SPEC_SHA256]:
                say("warning: it was submitted with another spec, which stays as it was")
            return _id(running)
        taken = self._all_ids()
        job_id = next(one for one in _ids(run.spec.name) if one not in taken)
        upload = run.upload
        size = f"{len(upload.files):,} files, {upload.n_bytes / 1e6:.1f} MB"
        say(f"uploading {size}, of {upload.root}")
        with tempfile.TemporaryDirectory(prefix="hpo-upload-") as folder:
            archive = Path(folder) / "working_dir.zip"
            pack(upload, archive)
            try:
                with self._explained():
                    self._submit_when_ready(run, job_id, archive, say)
            except _IdTakenError:  # by another `hpo submit`, in this very moment
                return self.submit(run, say)
        say(f"submitted as {job_id}")
        return job_id

    def _submit_when_ready(
        self, run: Run, job_id: str, archive: Path, say: Callable[[str], None]
    ) -> None:
        """Just after `ray start` the head's dashboard is there, but not yet what starts jobs."""
        deadline, is_told = time.monotonic() + READY_PATIENCE_S, False
        while True:
            try:
                self._client.submit_job(
                    entrypoint=run.entry_point,
                    submission_id=job_id,
                    runtime_env={
                        "working_dir": str(archive),
                        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_PATIENCE_S)},
                    },
                    metadata=run.metadata,
                )
            except RuntimeError as error:
                if "already exists" in str(error):
                    raise _IdTakenError from None
                if "No available agent" not in str(error):
                    raise
                if time.monotonic() > deadline:
                    raise UnfitEnvironmentError(
                        f"the cluster at {self.address} starts no jobs: its head's agent is not "
                        "there. Another Ray on that machine may have the agent's port: start the "
                        "head with --dashboard-agent-listen-port 52366"
                    ) from None
            else:
                return
            if not is_told:
                say(f"the cluster is not ready for jobs yet: waiting up to {READY_PATIENCE_S} s")
            is_told = True
            time.sleep(1)

    def follow(self, job_id: str, show: Callable[[str], None], next_lines: str) -> None:
        """Show what a job writes until it ends.

        Args:
            job_id: of the job.
            show: gets pieces of its output.
            next_lines: what to type to follow it again, and to stop it.

        Raises:
            JobFailedError: with its exit code, if it failed or was stopped.
            RunInterruptedError: after Ctrl-C; the job goes on.
        """
        try:
            with self._explained():
                asyncio.run(self._tail(job_id, show))
        except KeyboardInterrupt:
            raise RunInterruptedError(
                signal.SIGINT, f"detached; {job_id} goes on.\n{next_lines}"
            ) from None
        with self._explained():
            job = self._client.get_job_info(job_id)
        if job.status != JobStatus.SUCCEEDED:
            raise JobFailedError(*_end_of(job))

    async def _tail(self, job_id: str, show: Callable[[str], None]) -> None:
        """Again if the connection ends before the job does; Ray then begins from the first line."""
        n_shown = 0
        while True:
            n_seen = 0
            async for text in self._client.tail_job_logs(job_id):
                n_seen += len(text)
                if n_seen > n_shown:
                    show(text[n_shown - n_seen :])
                    n_shown = n_seen
            if self._client.get_job_status(job_id).is_terminal():
                return
            await asyncio.sleep(RECONNECT_S)

    def logs(self, job_id: str) -> str:
        """All that a job has written so far."""
        with self._explained():
            return str(self._client.get_job_logs(job_id))

    def stop(self, job_id: str) -> bool:
        """Ask a job to end; returns whether it ran."""
        with self._explained():
            return bool(self._client.stop_job(job_id))

    def find(self, name: str) -> str:
        """The id of the newest job of an experiment, or of the job that is called so itself.

        Raises:
            UsageError: if there is none.
        """
        jobs = self._all()
        if any(_id(job) == name for job in jobs):
            return name
        own = [job for job in jobs if _experiment(job) == name]
        if not own:
            known = ", ".join(_id(job) for job in jobs) or "none"
            raise UsageError(f"no job {name!r} at {self.address}; known: {known}")
        return _id(max(own, key=lambda job: job.start_time or 0))

    def rows(self) -> list[dict[str, Any]]:
        """What there is to say of each job of ours, the newest first."""
        own = sorted(self._all(), key=lambda job: -(job.start_time or 0))
        return [
            {
                "id": _id(job),
                "experiment": _experiment(job),
                "status": job.status.value,
                "started": _time(job.start_time),
                "ended": _time(job.end_time),
                "exit_code": job.driver_exit_code,
            }
            for job in own
        ]

    def _all_ids(self) -> set[str]:
        """Those that others have made, too."""
        with self._explained():
            return {_id(job) for job in self._client.list_jobs()}

    def _all(self) -> list[JobDetails]:
        """The jobs that `hpo submit` has made."""
        with self._explained():
            return [job for job in self._client.list_jobs() if _experiment(job)]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Whatever goes wrong between here and the cluster, in words and with a way out."""
        try:
            yield
        except AuthenticationError:
            raise UnfitEnvironmentError(
                f"{self.address} asks for a token, and refused "
                + ("yours" if os.environ.get("RAY_AUTH_MODE") == "token" else "you without one")
                + ": set RAY_AUTH_MODE=token, and the cluster's token as RAY_AUTH_TOKEN or in "
                "~/.ray/auth_token"
            ) from None
        except (RuntimeError, OSError, ValueError, aiohttp.ClientError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UnfitEnvironmentError(
                f"the cluster at {self.address} has failed: {reason}. If it still answers, "
                "`hpo jobs list` shows what runs there; `hpo submit` goes on where it was"
            ) from None


for _sdk in ("dashboard_sdk", "job.sdk"):  # which would log between our lines
    logging.getLogger(f"ray.dashboard.modules.{_sdk}").setLevel(logging.WARNING)


class _IdTakenError(Exception):
    """Another job is called so."""


class _Client(JobSubmissionClient):
    """Ray's own waits for an answer for ever."""

    def _do_request(self, *arguments: Any, **keys: Any) -> Any:
        return super()._do_request(*arguments, **{"timeout": REQUEST_PATIENCE_S, **keys})


def address_of(given: str | None, *, insecure_http: bool) -> str:
    """The address of a cluster's dashboard: ``given``, or that of the environment.

    Raises:
        UsageError: if there is none, it is no http address, or it would send everything in clear
            over a network.
    """
    address = given or next(filter(None, map(os.environ.get, ADDRESS_VARIABLES)), "")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            "--address must be the http address of the head's dashboard, e.g. "
            f"http://127.0.0.1:8265, got {address!r}"
            + ("" if given else f" from {' or '.join(ADDRESS_VARIABLES)}")
        )
    if "@" in parts.netloc:
        raise UsageError("--address must hold no password; the token is RAY_AUTH_TOKEN")
    if parts.scheme == "http" and not (insecure_http or is_loopback(parts.hostname)):
        raise UsageError(
            f"{address} would send your token and files unencrypted over the network. Use https, "
            f"or a tunnel (ssh -L 8265:127.0.0.1:8265 {parts.hostname}) and --address "
            "http://127.0.0.1:8265; in a network that you trust: --insecure-http"
        )
    return address.rstrip("/")


def refuse_secrets(options: Mapping[str, str | None]) -> None:
    """Of what would stand in the job's line, which everybody on the cluster can read.

    Raises:
        UsageError: if a value is a URL with a password.
    """
    for option, value in options.items():
        if value and has_password(value):
            raise UsageError(
                f"{option} holds a password, and a job's options can be read by everybody on the "
                "cluster. Leave it out: set it in the environment that the cluster's head is "
                "started with (HPO_STORAGE_URL, MLFLOW_TRACKING_URI), or give the URL without a "
                "password, which libpq takes from PGPASSFILE there"
            )


def _must_answer(address: str) -> None:
    """In seconds: Ray's own client would wait for minutes.

    Raises:
        UnfitEnvironmentError: if nobody does, or not as a Ray cluster does.
    """
    try:
        page = f"{address}/api/version"  # http or https, see `address_of`
        with urllib.request.urlopen(page, timeout=CONNECT_PATIENCE_S) as answer:  # noqa: S310
            if b"ray_version" in answer.read(10_000):
                return
        problem = "what answers there is no dashboard of Ray"
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return  # it wants a token, which Ray's client sends
        problem = f"what answers there is no dashboard of Ray (HTTP {error.code})"
    except (OSError, ValueError) as error:
        problem = f"no answer: {getattr(error, 'reason', error)}"
    raise UnfitEnvironmentError(
        f"cannot reach a Ray cluster at {address}: {problem}. Start one with `ray start --head` "
        "(docs/cluster.md), or give --address of one that runs"
    )


@contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    """Variables of the environment that are not there for a while."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _ids(name: str) -> Iterator[str]:
    """hpo-NAME, then hpo-NAME-2, ...: Ray never takes an id twice."""
    yield f"hpo-{name}"
    start = 2
    while True:
        yield f"hpo-{name}-{start}"
        start += 1


def _running(jobs: Sequence[JobDetails], name: str) -> JobDetails | None:
    return next((j for j in jobs if _experiment(j) == name and not j.status.is_terminal()), None)


def _end_of(job: JobDetails) -> tuple[str, int]:
    """How a job ended that did not succeed: in words, and its exit code."""
    if job.status == JobStatus.STOPPED:
        return f"{_id(job)} was stopped; `hpo submit` again goes on with it", 128 + signal.SIGTERM
    if job.driver_exit_code is None:
        reason = (job.message or "").strip().splitlines() or ["Ray does not say why"]
        return f"{_id(job)} did not run: {reason[0]}", UnfitEnvironmentError.exit_code
    code, message = job.driver_exit_code, job.message or ""
    if code == 127 or "No module named hpo" in message:
        return (
            f"{_id(job)} found no hpo on the cluster's head: install it there, and run `ray start` "
            "where `python -m hpo --help` works"
        ), UnfitEnvironmentError.exit_code
    # A shell tells a signal as 128 + its number, Python as its negative.
    return f"{_id(job)} ended with exit code {code}", 128 - code if code < 0 else code


def _experiment(job: JobDetails) -> str:
    return (job.metadata or {}).get(EXPERIMENT, "")


def _id(job: JobDetails) -> str:
    return job.submission_id or ""


def _time(milliseconds: int | None) -> str:
    """A time of Ray's as UTC; empty if there is none."""
    if not milliseconds:
        return ""
    return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
