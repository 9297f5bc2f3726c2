"""A network between psycopg and PostgreSQL that breaks at commits."""

from __future__ import annotations

import socket
import threading
from typing import Literal

Loss = Literal["before", "after"]
"""Whether a commit is lost on its way to the server, or the server's word that it has happened."""


class LossyLink:
    """Listens on loopback and passes on what comes; one commit of three breaks its connection.

    The two that pass are that of a new connection, which has its settings made, and what is tried
    again. So each transaction of a client with one connection is lost once.
    """

    def __init__(self, port: int, loss: Loss) -> None:
        """``port`` is that of the server on this machine."""
        self._to, self._loss = port, loss
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.n_lost = 0
        self._n_commits = 0
        self._is_on = False
        threading.Thread(target=self._accept, daemon=True).start()

    def switch_on(self) -> None:
        """From now on the next commit is lost, the two after it are not, and so on."""
        self._is_on, self._n_commits = True, 0

    def switch_off(self) -> None:
        """From now on nothing is lost."""
        self._is_on = False

    def close(self) -> None:
        """Nobody can connect any more."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._to))
            link = (client, server)
            threading.Thread(target=self._pass_on_requests, args=link, daemon=True).start()

    def _pass_on_requests(self, client: socket.socket, server: socket.socket) -> None:
        answers = threading.Thread(target=_pass_on, args=(server, client), daemon=True)
        answers.start()
        while data := _received(client):
            if self._loses(data):
                self.n_lost += 1
                client.shutdown(socket.SHUT_RDWR)  # it hears no more
                if self._loss == "after":
                    server.sendall(data)
                server.shutdown(socket.SHUT_WR)
                answers.join()  # the server has done what it was told, and has hung up
                break
            server.sendall(data)
        server.close()
        client.close()

    def _loses(self, data: bytes) -> bool:
        if not self._is_on or b"COMMIT" not in data:
            return False
        self._n_commits += 1
        return self._n_commits % 3 == 1


def _received(source: socket.socket) -> bytes:
    try:
        return source.recv(1 << 16)
    except OSError:
        return b""


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    while data := _received(source):
        try:
            target.sendall(data)
        except OSError:  # nobody listens; the rest is read all the same
            continue
    try:
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return
