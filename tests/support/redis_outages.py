"""Three kinds of outages of Redis, and how long a client waits for one."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from redis import Connection

from tests.support.servers import free_port


@contextmanager
def refused() -> Iterator[str]:
    """Nothing listens."""
    yield f"redis://127.0.0.1:{free_port()}/0"


@contextmanager
def silent() -> Iterator[str]:
    """Connections are accepted but never answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


@contextmanager
def blackholed() -> Iterator[str]:
    """Connections are not even accepted: the backlog of the listener is full, so the kernel drops new ones."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


Dials = list[tuple[float, float]]


def note_dials(monkeypatch: pytest.MonkeyPatch) -> Dials:
    """A list that gets the time limits (seconds) of each connection to Redis that begins from now on: to connect, and
    for each answer. They are the time that an outage costs."""
    dials: Dials = []
    connect = Connection._connect

    def note(self: Connection) -> Any:
        dials.append((self.socket_connect_timeout, self.socket_timeout))
        return connect(self)

    monkeypatch.setattr(Connection, "_connect", note)
    return dials


OUTAGES = {"refused": refused, "silent": silent, "blackholed": blackholed}
