"""A receiver that hands its connections to a test."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

Serve = Callable[[socket.socket, int], None]


@contextmanager
def receiver(serve: Serve, scheme: str = "http") -> Iterator[str]:
    """The URL of a receiver that calls ``serve`` in a thread with each connection and its number."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            number = 0
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                number += 1
                threading.Thread(target=converse, args=(connection, number), daemon=True).start()

        def converse(connection: socket.socket, number: int) -> None:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection, suppress(OSError):  # the worker has closed it
                serve(connection, number)

        threading.Thread(target=accept, daemon=True).start()
        yield f"{scheme}://127.0.0.1:{server.getsockname()[1]}/"


def request_receiver(serve: Serve) -> AbstractContextManager[str]:
    """The same, but ``serve`` is called for each request, which was read."""

    def serve_requests(connection: socket.socket, number: int) -> None:
        while connection.recv(65536):
            serve(connection, number)

    return receiver(serve_requests)
