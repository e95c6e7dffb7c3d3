"""A receiver in the process of the test, which changes its answer, stops it, and starts it on the same port."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.servers import free_port


class Server(ThreadingHTTPServer):
    request_queue_size = 512  # with the default of 5, connections of a burst time out


class FickleReceiver:
    """It keeps the ids of the deliveries that it accepted."""

    def __init__(self) -> None:
        self.status = 200
        self.accepted: list[str] = []
        self.port = free_port()
        self.start()

    def start(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                if receiver.status == 200:
                    receiver.accepted.append(self.headers["webhook-id"])
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Without lines on standard error."""

        self._server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
