"""A receiver in its own process that costs next to nothing: one thread, an epoll, no parsing beyond what is needed.

    http://127.0.0.1:PORT/INBOX/BEHAVIOUR

BEHAVIOUR is ``ok``, ``slow`` (answers after 50 ms), ``hang`` (never answers) or ``keep`` (as ok, and keeps the
requests). ``GET /__inbox/INBOX`` and ``GET /__kept/INBOX`` tell what came. ``python -m scripts.benchmark.receiver
TOKEN`` prints its port.
"""

from __future__ import annotations

import base64
import heapq
import json
import select
import socket
import sys
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field

SLOW_SECONDS = 0.05
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Inbox:
    """The webhook-id and the time (monotonic) of each request that came."""

    received: list[tuple[str, float]] = field(default_factory=list)
    kept: list[tuple[bytes, bytes]] = field(default_factory=list)


class Receiver:
    def __init__(self, token: str) -> None:
        self._token = token
        self._inboxes: dict[str, Inbox] = defaultdict(Inbox)
        self._clients: dict[int, socket.socket] = {}
        self._partial: dict[int, bytes] = {}
        self._later: list[tuple[float, int, socket.socket]] = []
        self._epoll = select.epoll()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        self._epoll.register(self._listener, select.EPOLLIN)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def serve(self) -> None:
        """For ever."""
        listener = self._listener.fileno()
        while True:
            for number, _event in self._epoll.poll(self._pause()):
                if number == listener:
                    self._accept()
                else:
                    self._receive(number)
            self._answer_late_ones()

    def _pause(self) -> float | None:
        return max(0.0, self._later[0][0] - time.monotonic()) if self._later else None

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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
        if (split := whole(data)) is None:
            self._partial[number] = data
        else:
            self._handle(client, data[:split], data[split:])

    def _close(self, number: int) -> None:
        self._partial.pop(number, None)
        self._epoll.unregister(number)
        self._clients.pop(number).close()

    def _handle(self, client: socket.socket, head: bytes, body: bytes) -> None:
        now = time.monotonic()
        path = head[: head.index(b"\r\n")].split(b" ")[1].decode()
        name, _, behaviour = path[1:].partition("/")
        if name.startswith("__"):
            self._tell(client, name, behaviour)
            return
        inbox = self._inboxes[name]
        inbox.received.append((header(head, b"webhook-id"), now))
        if behaviour == "slow":
            heapq.heappush(self._later, (now + SLOW_SECONDS, client.fileno(), client))
        elif behaviour != "hang":
            if behaviour == "keep":
                inbox.kept.append((head, body))
            send(client, OK)

    def _answer_late_ones(self) -> None:
        while self._later and self._later[0][0] <= time.monotonic():
            send(heapq.heappop(self._later)[2], OK)

    def _tell(self, client: socket.socket, command: str, name: str) -> None:
        told = {"__id": self._identity, "__inbox": self._summary, "__times": self._times, "__kept": self._kept}
        answer = "".join(told[command](name)).encode()
        send(client, f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\n\r\n".encode() + answer)

    def _identity(self, _name: str) -> str:
        return self._token

    def _summary(self, name: str) -> str:
        received = self._inboxes[name].received
        first, last = (received[0][1], received[-1][1]) if received else (0.0, 0.0)
        return json.dumps({"count": len(received), "first": first, "last": last})

    def _times(self, name: str) -> str:
        return json.dumps(self._inboxes[name].received)

    def _kept(self, name: str) -> str:
        kept = self._inboxes[name].kept
        return json.dumps([[head.decode("latin-1"), base64.b64encode(body).decode()] for head, body in kept])


def whole(data: bytes) -> int | None:
    """Where the body begins, if all of the request is there."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    length = int(header(data[:end], b"content-length") or 0)
    return end + 4 if len(data) >= end + 4 + length else None


def header(head: bytes, name: bytes) -> str:
    """The value of a header, or nothing."""
    start = head.lower().find(b"\r\n" + name + b":")
    if start < 0:
        return ""
    end = head.find(b"\r\n", start + 2)
    return head[start + len(name) + 3 : end if end > 0 else None].strip().decode("latin-1")


def send(client: socket.socket, answer: bytes) -> None:
    # One that has given up meanwhile is closed when its end is read.
    with suppress(OSError):
        client.sendall(answer)


def main(token: str) -> None:
    receiver = Receiver(token)
    print(receiver.port, flush=True)
    receiver.serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
