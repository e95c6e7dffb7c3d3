"""Sockets that keep to one deadline in all, and to a number of bytes, whatever the other side does.

The timeouts of ``requests`` are per read: a receiver that sends a byte a second never meets one. These sockets
look at the time that is left before each operation instead. A deadline belongs to the thread that sends.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from webhooks.network.outcome import Refused

# Bytes that are read in addition to those of a body that are asked for: of its head, chunk sizes and compression.
MOST = 10_000_000

_thread = threading.local()

SocketAddress = tuple[socket.AddressFamily, Any]


@contextmanager
def deadline(seconds: float, most: int = MOST) -> Iterator[None]:
    """Everything that this thread does with the sockets of this module must end within ``seconds``, and take in no
    more than ``most`` bytes."""
    _thread.end = time.monotonic() + seconds
    _thread.room = most
    _thread.has_connected = False
    try:
        yield
    finally:
        del _thread.end


def is_set() -> bool:
    """Whether this thread is sending."""
    return hasattr(_thread, "end")


def has_connected() -> bool:
    """Whether a new connection was made since the deadline was set, or an old one was used."""
    return bool(_thread.has_connected)


def left() -> float:
    """Seconds that are left. Raises TimeoutError when none are."""
    seconds: float = _thread.end - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("the deadline has passed")
    return seconds


@contextmanager
def share(of: int) -> Iterator[None]:
    """Within, no more is left than one of so many equal parts, so that there is something left for the others."""
    end = _thread.end
    _thread.end = time.monotonic() + left() / of
    try:
        yield
    finally:
        _thread.end = end


def _count(received: int) -> None:
    _thread.room -= received
    if _thread.room < 0:
        raise Refused("the answer has too many bytes")


class _Timed:
    """Gives each operation no more than what is left."""

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        if hasattr(socket, "TCP_QUICKACK"):
            # A receiver that writes its headers and its body apart waits for our acknowledgement between them,
            # which Linux puts off by 40 ms: measured, 45 ms a request against 2.
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # type: ignore[attr-defined]
        received: int = self._timed().recv_into(*args, **kwargs)
        _count(received)
        return received

    def recv(self, *args: Any, **kwargs: Any) -> bytes:
        return self._timed().recv(*args, **kwargs)  # type: ignore[no-any-return]

    def send(self, *args: Any, **kwargs: Any) -> int:
        return self._timed().send(*args, **kwargs)  # type: ignore[no-any-return]

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        self._timed().sendall(*args, **kwargs)

    def _timed(self) -> Any:
        self.settimeout(left())  # type: ignore[attr-defined]
        return super()


class TimedSocket(_Timed, socket.socket):
    pass


class TimedTLSSocket(_Timed, ssl.SSLSocket):
    pass


def connect(addresses: list[SocketAddress]) -> TimedSocket:
    """A connection to the first of the addresses that takes it in its share of the time. Raises the OSError of the last
    one."""
    errors = []
    for tried, (family, address) in enumerate(addresses):
        try:
            connection = _dial(family, address, len(addresses) - tried)
        except OSError as error:  # also of a family that this machine does not have
            errors.append(error)
        else:
            _thread.has_connected = True
            return connection
    raise errors[-1]


def _dial(family: socket.AddressFamily, address: Any, left_to_try: int) -> TimedSocket:
    connection = TimedSocket(family, socket.SOCK_STREAM)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with share(left_to_try):
            connection.settimeout(left())
            connection.connect(address)
        # A TLS handshake takes its time from here.
        connection.settimeout(left())
    except BaseException:
        connection.close()
        raise
    return connection


def resolve(host: str, port: int) -> list[SocketAddress]:
    """The addresses of a name, in the system's order, one at least. Raises socket.gaierror, also for what is no
    name, and TimeoutError where resolving takes longer than what is left: the system's resolver cannot be
    interrupted, so another thread waits for it."""
    answers: queue.SimpleQueue[list[SocketAddress] | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put([(family, address) for family, _, _, _, address in found])
        except OSError as error:
            answers.put(error)
        except ValueError as error:
            # A label of more than 63 characters, or a NUL: Python does not even ask.
            answers.put(socket.gaierror(socket.EAI_NONAME, str(error)))

    threading.Thread(target=ask, name="webhooks-resolver", daemon=True).start()
    try:
        answer = answers.get(timeout=left())
    except queue.Empty:
        raise TimeoutError(f"the name {host} took too long to resolve") from None
    if isinstance(answer, OSError):
        raise answer
    return answer
