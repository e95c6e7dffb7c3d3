"""A slow network between a worker and PostgreSQL."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from django.db import connection

PIECE = 65_536


class SlowLink:
    """Passes on what PostgreSQL sends, so many bytes a second. What it gets comes at once."""

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._server = _address_of_server()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # it was closed
            while True:
                client, _ = self._listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                server = socket.socket(socket.AF_UNIX if isinstance(self._server, str) else socket.AF_INET)
                server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)  # else its buffers hide the link
                server.connect(self._server)
                for source, target, rate in ((server, client, self._rate), (client, server, 0.0)):
                    threading.Thread(target=_pass_on, args=(source, target, rate), daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _pass_on(source: socket.socket, target: socket.socket, rate: float) -> None:
    with suppress(OSError):
        while piece := source.recv(PIECE):
            target.sendall(piece)
            if rate:
                time.sleep(len(piece) / rate)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)  # so its own thread ends, too
    source.close()


def _address_of_server() -> Any:
    current = connection.settings_dict
    host, port = current["HOST"] or current["OPTIONS"].get("host", ""), int(current["PORT"] or 5432)
    return str(Path(host, f".s.PGSQL.{port}")) if host.startswith("/") else (host, port)


@contextmanager
def slow_link(bytes_per_second: float) -> Iterator[None]:
    """Let this thread use the database over such a link."""
    link, settings = SlowLink(bytes_per_second), connection.settings_dict
    before = dict(settings)
    connection.close()
    options = {name: value for name, value in settings["OPTIONS"].items() if name != "host"}
    settings.update(HOST="127.0.0.1", PORT=str(link.port), OPTIONS=options)
    try:
        yield
    finally:
        connection.close()
        settings.update(before)
        link.close()
