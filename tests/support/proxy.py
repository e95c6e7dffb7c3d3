"""An HTTP proxy for tests: tunnels by CONNECT, only to loopback, and records the requests."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Answer = Callable[[socket.socket], None]


class Proxy:
    """``requests`` has the heads of all requests. With an ``answer``, it calls that instead of tunnelling. It answers
    ``opened`` when it has opened a tunnel."""

    opened = b"HTTP/1.1 200 Connection established\r\nVia: tests\r\n\r\n"

    def __init__(self, answer: Answer | None = None, port: int = 0) -> None:
        self.requests: list[str] = []
        self._answer = answer
        self._server = socket.create_server(("127.0.0.1", port))
        self.port = self._server.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def targets(self) -> list[str]:
        return [head.split(" ")[1] for head in self.requests]

    def close(self) -> None:
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._handle, args=(client,), daemon=True).start()

    def _handle(self, client: socket.socket) -> None:
        with client:
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096)
            self.requests.append(head.decode())
            try:
                if self._answer:
                    self._answer(client)
                else:
                    self._tunnel(client, head.split(b" ")[1].decode())
            except OSError:
                pass

    def _tunnel(self, client: socket.socket, target: str) -> None:
        host, _, port = target.rpartition(":")
        assert host.startswith("127.") or host == "[::1]", f"the tests send nothing to {host}"
        try:
            upstream = socket.create_connection((host.strip("[]"), int(port)), 5)
        except OSError:
            client.sendall(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            return
        client.sendall(self.opened)
        with upstream:
            back = threading.Thread(target=_copy, args=(upstream, client), daemon=True)
            back.start()
            _copy(client, upstream)
            back.join(30)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@contextmanager
def proxy(answer: Answer | None = None) -> Iterator[Proxy]:
    server = Proxy(answer)
    yield server
    server.close()
