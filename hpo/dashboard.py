"""Serve optuna-dashboard on the ledger, on loopback alone."""

from __future__ import annotations

import signal
import sys
from wsgiref.simple_server import WSGIRequestHandler, make_server

from hpo.errors import UnfitEnvironmentError, UsageError
from hpo.places import Places
from hpo.workspace import storage_errors
from storage import database_exists, open_engine, open_optuna_storage, shown_url

HOST = "127.0.0.1"


def serve_dashboard(places: Places, name: str | None, port: int) -> None:
    """Serve until Ctrl-C; prints the address first.

    Raises:
        UsageError: if there is no study called ``name``, or no database.
        UnfitEnvironmentError: if the port is taken.
        StorageError: if the database cannot be opened.
    """
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
    if name is not None and name not in ids:
        raise UsageError(f"no study {name!r}; known: {', '.join(sorted(ids)) or 'none'}")
    try:
        server = make_server(HOST, port, optuna_dashboard.wsgi(storage), handler_class=_Quiet)
    except OSError as error:
        raise UnfitEnvironmentError(
            f"cannot listen on {HOST}:{port}: {error.strerror}; choose another: --port 0"
        ) from None
    path = "/dashboard" if name is None else f"/dashboard/studies/{ids[name]}"
    print(f"http://{HOST}:{server.server_port}{path}", flush=True)
    print("Ctrl-C ends it", file=sys.stderr)
    # A process that was started in the background ignores SIGINT until it asks for it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with server:
        server.serve_forever()


class _Quiet(WSGIRequestHandler):
    """Says nothing about each request."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing."""
