"""Serve optuna-dashboard on the ledger: on loopback, or elsewhere to who has the token."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from hpo.addresses import is_loopback
from hpo.dashboard_guard import Guard
from hpo.environment import DASHBOARD_TOKEN
from hpo.errors import UnfitEnvironmentError, UsageError
from hpo.places import Places
from hpo.storage_errors import storage_errors
from storage import database_exists, open_engine, open_optuna_storage, shown_url

LOOPBACK = "127.0.0.1"
ANY = ("0.0.0.0", "::")  # noqa: S104  never without a token
TOKEN_PATTERN = re.compile(r"[A-Za-z0-9._~-]{16,}")  # as it is in an address and in a cookie
IDLE_S = 60
"""A connection that sends nothing for so long is closed."""


def serve_dashboard(
    places: Places,
    name: str | None,
    port: int,
    *,
    host: str = LOOPBACK,
    hostnames: Sequence[str] = (),
    is_writable: bool = False,
) -> None:
    """Serve until Ctrl-C; prints the address first.

    Args:
        places: where the ledger is.
        name: of the study to show first; None shows the list of all.
        port: 0 takes a free one.
        host: address to listen on; beyond loopback everybody has to show a token.
        hostnames: by which browsers call this server, beside those that this machine knows.
        is_writable: whether studies may be changed.

    Raises:
        UsageError: if there is no study called ``name``, or no database, or the token is no good.
        UnfitEnvironmentError: if nothing can listen there.
        StorageError: if the database cannot be opened.
    """
    token, is_generated = _token(host, os.environ)
    app, ids = _dashboard_of(places)
    if name is not None and name not in ids:
        raise UsageError(f"no study {name!r}; known: {', '.join(sorted(ids)) or 'none'}")
    try:
        server = make_server(host, port, app, _server_class(host), _Quiet)
    except OSError as error:
        raise UnfitEnvironmentError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another: --port 0"
            + ("" if host == LOOPBACK else ", or an address of this machine: --host")
        ) from None
    server.set_app(
        Guard(
            app=app,
            names=frozenset(name.lower() for name in (host, *hostnames, *_own_names())),
            any_address=not is_loopback(host),
            token=token,
            cookie=f"hpo_dashboard_{server.server_port}",  # browsers tell hosts apart, not ports
            is_writable=is_writable,
        )
    )
    path = "/dashboard" if name is None else f"/dashboard/studies/{ids[name]}"
    asked = f"?token={token}" if is_generated else ""
    print(f"http://{_shown_host(host)}:{server.server_port}{path}{asked}", flush=True)
    print(_notes(host, token, is_generated, is_writable), file=sys.stderr)
    # A process that was started in the background ignores SIGINT until it asks for it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with server:
        server.serve_forever()


def _token(host: str, environment: Mapping[str, str]) -> tuple[str | None, bool]:
    """What everybody has to show, and whether it was made up here; None on loopback."""
    if given := environment.get(DASHBOARD_TOKEN):
        if not TOKEN_PATTERN.fullmatch(given):
            raise UsageError(
                f"{DASHBOARD_TOKEN} must be at least 16 letters, digits or `.`, `_`, `~`, `-`; "
                "unset it to have one made up, or: openssl rand -hex 32"
            )
        return given, False
    return (None, False) if is_loopback(host) else (secrets.token_urlsafe(32), True)


def _dashboard_of(places: Places) -> tuple[Any, dict[str, int]]:
    """optuna-dashboard's WSGI application, and the ids of the studies by name."""
    import optuna_dashboard

    if not database_exists(places.storage_url):
        raise UsageError(
            f"there is no database {shown_url(places.storage_url)} to show; `hpo run` makes it, "
            "--storage and HPO_STORAGE_URL name another"
        )
    with storage_errors():
        open_engine(places.storage_url).dispose()
        storage = open_optuna_storage(places.storage_url)
        ids = {study.study_name: study._study_id for study in storage.get_all_studies()}
    return optuna_dashboard.wsgi(storage), ids


def _own_names() -> set[str]:
    return {socket.gethostname(), socket.getfqdn()}


def _shown_host(host: str) -> str:
    if host in ANY:
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _notes(host: str, token: str | None, is_generated: bool, is_writable: bool) -> str:
    notes = [f"it asks for the token in {DASHBOARD_TOKEN}"] if token and not is_generated else []
    if not is_loopback(host):
        notes.append(
            "token and studies travel as plain text: use it in a network that you trust, or "
            f"leave --host out and let ssh carry it: ssh -L 8080:{LOOPBACK}:8080 this-machine"
        )
    if is_writable:
        notes.append("whoever opens it may change and delete studies")
    return "\n".join([*notes, "Ctrl-C ends it"])


def _server_class(host: str) -> type[WSGIServer]:
    class Server(_Threaded):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    return Server


class _Threaded(ThreadingMixIn, WSGIServer):
    """One thread per request: a slow one, a plot of many trials, keeps nobody else waiting."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away or fell silent."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Quiet(WSGIRequestHandler):
    """Says nothing about each request."""

    timeout = IDLE_S

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing."""
