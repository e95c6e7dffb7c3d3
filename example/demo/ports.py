"""Ports that nobody uses, on the loopback address only."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import ExitStack

HOST = "127.0.0.1"
ANY = 0


def choose(*wishes: Iterable[int]) -> list[int]:
    """One port for each wish: the first of its numbers that is free, and any free one when all are taken.

    Nothing holds them afterwards, so whoever uses one has to check that it got it.
    """
    with ExitStack() as held:
        return [_bind([*wish, ANY], held) for wish in wishes]


def _bind(numbers: Iterable[int], held: ExitStack) -> int:
    for number in numbers:
        listener = held.enter_context(socket.socket())
        # As the servers do it: a port that only waits for stray packets of its last user is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, number))
        except OSError:
            continue
        listener.listen()
        port: int = listener.getsockname()[1]
        return port
    raise OSError(f"no port of {HOST} is free")
