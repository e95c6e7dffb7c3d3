"""A receiver in this process: for the tests of hosts, ``webhooks_listen`` and the round trip of ``webhooks_doctor``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class ReceivedRequest:
    """A request as a receiver gets it."""

    method: str
    path: str
    """With the query."""
    headers: Any
    """By name, in any case."""
    body: bytes


Receive = Callable[[ReceivedRequest], int | None]
"""Takes a request, and returns the status of the answer; None is 204. Several threads may call it at once."""


@contextmanager
def serving(receive: Receive, host: str = LOOPBACK, port: int = 0) -> Iterator[str]:
    """A receiver on a port of this machine, for the block; 0 is a free port. Yields its origin, "http://127.0.0.1:4711".

    Raises OSError if it cannot listen there. If ``receive`` raises, the answer is 500, and the exception goes on.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status = 500
            try:
                status = receive(ReceivedRequest(self.command, self.path, self.headers, body)) or 204
            finally:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

        def log_message(self, *args: Any) -> None:
            """Nothing: ``receive`` sees each request."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False  # a request may hang on purpose

        def server_bind(self) -> None:
            """Without the lookup of the host's name, which may wait for a name server."""
            TCPServer.server_bind(self)
            self.server_name, self.server_port = host, self.socket.getsockname()[1]

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Nothing: the sender may close a connection when it likes, and ``receive`` reports its own errors."""

    with Server((host, port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://{host}:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
