"""A very fast HTTP receiver in its own process, and the inboxes that show its requests.

The receiver has one thread and an epoll, and parses as little as possible. It answers at::

    http://127.0.0.1:PORT/INBOX/BEHAVIOUR
    https://127.0.0.1:TLS_PORT/INBOX/BEHAVIOUR

BEHAVIOUR is ``ok``, ``slow`` (answers after 50 ms), ``slow-200`` (after 200 ms, or any other number), ``one-by-one``
(handles one request after another, 50 ms each), ``limited`` (accepts 20 a second, and answers 429 to others, which do
not count), ``hang`` (never answers), ``hang-after-1000`` (answers so many requests, and no more), ``fail`` (answers
503), ``keep`` (like ok, and keeps the requests), or one of the other usual answers: ``no-content`` (204), ``chunked``
(an empty 200 in chunks) or ``http-1.0`` (which ends the connection).
``GET /__summary/INBOX``, ``/__times/INBOX`` and ``/__kept/INBOX`` return the requests of an inbox.
``python -m scripts.benchmark.receiver TOKEN CERTIFICATE KEY`` starts one and prints its port.
"""

from __future__ import annotations

import base64
import heapq
import json
import secrets
import select
import socket
import ssl
import sys
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field

from scripts.benchmark.targets import NotMeasured
from tests.support.certificates import Certificate
from tests.support.inbox import ReceiverProcess
from tests.support.waiting import until

SLOW = "slow"
SLOW_MILLISECONDS = 50
ONE_BY_ONE = "one-by-one"
LIMITED, LIMIT = "limited", 20
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ANSWERS = {
    "no-content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "http-1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
}
TOO_MANY = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
FAILED = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"

# Each client sets these headers itself.
CLIENT_HEADERS = {"host", "content-length", "accept", "accept-encoding", "connection"}


@dataclass(frozen=True)
class Received:
    """How many requests arrived, and the times of the first and the last (monotonic)."""

    count: int
    first: float
    last: float

    @property
    def rate(self) -> float:
        """Requests a second, from the first to the last."""
        if self.count < 2:
            raise NotMeasured(f"{self.count} requests arrived: a rate needs two")
        return (self.count - 1) / (self.last - self.first)


@dataclass(frozen=True)
class Request:
    """The headers and the body of one delivery, without the headers that each client sets."""

    headers: dict[str, str]
    body: bytes


class FastReceiver(ReceiverProcess):
    """The process of a receiver."""

    module = "scripts.benchmark.receiver"

    def __init__(self, certificate: Certificate) -> None:
        super().__init__(certificate.certificate, certificate.key)
        self.authority = certificate.authority
        """The path of the CA file that makes its certificate trusted."""
        self.tls_port = int(self.get("__tls"))


class Inbox:
    """The requests of one measurement. ``behaviour``: ok, slow, slow-200, one-by-one, limited, hang, hang-after-1000,
    fail, keep, or a key of ``ANSWERS``."""

    def __init__(self, receiver: FastReceiver, behaviour: str = "ok", tls: bool = False) -> None:
        self._receiver = receiver
        self.name = secrets.token_hex(4)
        self.authority = receiver.authority if tls else ""
        """The path of the CA file for ``url``."""
        origin = f"https://127.0.0.1:{receiver.tls_port}" if tls else f"http://127.0.0.1:{receiver.port}"
        self.url = f"{origin}/{self.name}/{behaviour}"

    def received(self) -> Received:
        return Received(**json.loads(self._receiver.get(f"__summary/{self.name}")))

    def wait_for(self, count: int, seconds: float) -> Received:
        """Wait for this many requests. Raises NotMeasured after ``seconds``."""
        try:
            until(lambda: self.received().count >= count, seconds, f"{count} requests", every=0.1)
        except AssertionError as error:
            raise NotMeasured(f"{error}; {self.received().count} arrived") from None
        return self.received()

    def times(self) -> list[tuple[str, float]]:
        """The webhook-id and the time (monotonic) of each request, in order of arrival."""
        return [(webhook_id, at) for webhook_id, at in json.loads(self._receiver.get(f"__times/{self.name}"))]

    def kept(self) -> list[Request]:
        """The requests of an inbox that keeps them."""
        raw: list[tuple[str, str]] = json.loads(self._receiver.get(f"__kept/{self.name}"))
        return [Request(_headers(head), base64.b64decode(body)) for head, body in raw]


def _headers(head: str) -> dict[str, str]:
    pairs = (line.partition(": ") for line in head.split("\r\n")[1:] if line)
    return {name: value for name, _, value in pairs if name.lower() not in CLIENT_HEADERS}


@dataclass
class _Log:
    """The webhook-id and the time (monotonic) of each request, and the kept requests. ``busy_until`` is when an inbox
    that handles one after another has done so, or when a limited one accepts as many at once as in a second."""

    received: list[tuple[str, float]] = field(default_factory=list)
    kept: list[tuple[bytes, bytes]] = field(default_factory=list)
    busy_until: float = 0.0


class Receiver:
    """The server in the receiver's process."""

    def __init__(self, token: str, certificate: str, key: str) -> None:
        self._token = token
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._logs: dict[str, _Log] = defaultdict(_Log)
        self._clients: dict[int, socket.socket] = {}
        self._partial: dict[int, bytes] = {}
        self._delayed: list[tuple[float, int, socket.socket]] = []
        self._epoll = select.epoll()
        self._listener, self._tls_listener = (socket.create_server(("127.0.0.1", 0), backlog=1024) for _ in range(2))
        for listener in (self._listener, self._tls_listener):
            listener.setblocking(False)
            self._epoll.register(listener, select.EPOLLIN)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def serve(self) -> None:
        """Serve until the process is stopped."""
        listeners = {listener.fileno(): listener for listener in (self._listener, self._tls_listener)}
        while True:
            for number, _event in self._epoll.poll(self._timeout()):
                if listener := listeners.get(number):
                    self._accept(listener)
                else:
                    self._receive(number)
            self._send_delayed()

    def _timeout(self) -> float | None:
        return max(0.0, self._delayed[0][0] - time.monotonic()) if self._delayed else None

    def _accept(self, listener: socket.socket) -> None:
        client, _ = listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if listener is self._tls_listener:
            # The client goes on at once, so this may wait for it.
            client.setblocking(True)
            try:
                client = self._context.wrap_socket(client, server_side=True, suppress_ragged_eofs=True)
            except OSError:  # a worker that ends closes it
                return
        self._clients[client.fileno()] = client
        self._epoll.register(client, select.EPOLLIN)

    def _receive(self, number: int) -> None:
        client = self._clients[number]
        try:
            data = client.recv(262144)
        except ConnectionError:
            data = b""
        if not data:
            self._close(number)
            return
        data = self._partial.pop(number, b"") + data
        if (start := body_start(data)) is None:
            self._partial[number] = data
        else:
            self._handle(client, data[:start], data[start:])

    def _close(self, number: int) -> None:
        self._partial.pop(number, None)
        self._epoll.unregister(number)
        self._clients.pop(number).close()

    def _handle(self, client: socket.socket, head: bytes, body: bytes) -> None:
        now = time.monotonic()
        path = head[: head.index(b"\r\n")].split(b" ")[1].decode()
        name, _, behaviour = path[1:].partition("/")
        if name.startswith("__"):
            answer = self._query(name, behaviour).encode()
            _send(client, f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\n\r\n".encode() + answer)
            return
        log = self._logs[name]
        if behaviour == LIMITED:
            if log.busy_until > now + 1:
                _send(client, TOO_MANY)
                return
            log.busy_until = max(now, log.busy_until) + 1 / LIMIT
        log.received.append((header_value(head, b"webhook-id"), now))
        if behaviour.startswith(SLOW):
            seconds = int(behaviour.partition("-")[2] or SLOW_MILLISECONDS) / 1000
            heapq.heappush(self._delayed, (now + seconds, client.fileno(), client))
        elif behaviour == ONE_BY_ONE:
            log.busy_until = max(now, log.busy_until) + SLOW_MILLISECONDS / 1000
            heapq.heappush(self._delayed, (log.busy_until, client.fileno(), client))
        elif not _hangs(behaviour, len(log.received)):
            if behaviour == "keep":
                log.kept.append((head, body))
            _send(client, FAILED if behaviour == "fail" else ANSWERS.get(behaviour, OK))
            if behaviour == "http-1.0":
                self._close(client.fileno())

    def _send_delayed(self) -> None:
        while self._delayed and self._delayed[0][0] <= time.monotonic():
            _send(heapq.heappop(self._delayed)[2], OK)

    def _query(self, command: str, name: str) -> str:
        """The answer to a query about an inbox: the token or JSON."""
        if command == "__id":
            return self._token
        if command == "__tls":
            return str(self._tls_listener.getsockname()[1])
        log = self._logs[name]
        if command == "__times":
            return json.dumps(log.received)
        if command == "__kept":
            return json.dumps([[head.decode("latin-1"), base64.b64encode(body).decode()] for head, body in log.kept])
        first, last = (log.received[0][1], log.received[-1][1]) if log.received else (0.0, 0.0)
        return json.dumps({"count": len(log.received), "first": first, "last": last})


def body_start(data: bytes) -> int | None:
    """The index of the body, or None until the request is complete."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    length = int(header_value(data[:end], b"content-length") or 0)
    return end + 4 if len(data) >= end + 4 + length else None


def header_value(head: bytes, name: bytes) -> str:
    """The value of a header, or an empty string. ``name`` is in lower case."""
    start = head.lower().find(b"\r\n" + name + b":")
    if start < 0:
        return ""
    end = head.find(b"\r\n", start + 2)
    return head[start + len(name) + 3 : end if end > 0 else None].strip().decode("latin-1")


def _hangs(behaviour: str, count: int) -> bool:
    """Whether it gives no answer to the last of so many requests."""
    name, _, first = behaviour.partition("-after-")
    return name == "hang" and count > int(first or 0)


def _send(client: socket.socket, answer: bytes) -> None:
    # If the client has given up, the next read finds that and closes the socket.
    with suppress(OSError):
        client.sendall(answer)


def main(token: str, certificate: str, key: str) -> None:
    receiver = Receiver(token, certificate, key)
    print(receiver.port, flush=True)
    receiver.serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
