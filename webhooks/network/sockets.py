"""Sockets and HTTP responses that keep one total deadline and a maximum number of bytes.

The timeouts of ``requests`` are per read: a receiver that sends a byte a second never meets one. These sockets check
the time that is left before each operation. A deadline belongs to the thread that sends.
"""

from __future__ import annotations

import http.client
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from typing import Any

from webhooks.network.outcome import Refused

OVERHEAD_BYTES = 10_000_000  # read at most in addition to the wanted bytes of a body: head, chunk sizes, compression
MAX_HEAD_BYTES = 131_072  # of all lines before the body, interim responses included, and again after it
_MAX_CHUNK_LINE = 65_536
_SWITCHING_PROTOCOLS = 101

_thread = threading.local()

SocketAddress = tuple[socket.AddressFamily, Any]


@contextmanager
def deadline(seconds: float, most: int = OVERHEAD_BYTES) -> Iterator[None]:
    """Give this thread ``seconds`` for everything it does with the sockets of this module, and ``most`` bytes."""
    _thread.end = time.monotonic() + seconds
    _thread.room = most
    _thread.has_connected = False
    try:
        yield
    finally:
        del _thread.end


@contextmanager
def share_of_time(parts: int) -> Iterator[None]:
    """Within, only one of this many equal parts of the time is left, to keep the rest for the other addresses."""
    end = _thread.end
    _thread.end = time.monotonic() + seconds_left() / parts
    try:
        yield
    finally:
        _thread.end = end


def is_sending() -> bool:
    """Whether this thread has a deadline now."""
    return hasattr(_thread, "end")


def has_connected() -> bool:
    """Whether this thread opened a connection since its deadline was set. False if it used a kept one."""
    return bool(_thread.has_connected)


def seconds_left() -> float:
    """Seconds until the deadline. Raises TimeoutError when there are none."""
    seconds: float = _thread.end - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("the deadline has passed")
    return seconds


class _Timed:
    """Limits each operation of a socket to the time that is left, and all of them to the bytes that are left."""

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        if hasattr(socket, "TCP_QUICKACK"):
            # Linux delays our acknowledgement by 40 ms, and a receiver that writes its headers and its body apart
            # waits for it in between. Measured: 45 ms a request without this, 2 ms with it.
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # type: ignore[attr-defined]
        received: int = self._timed().recv_into(*args, **kwargs)
        _thread.room -= received
        if _thread.room < 0:
            raise Refused("the answer has too many bytes")
        return received

    def recv(self, *args: Any, **kwargs: Any) -> bytes:
        return self._timed().recv(*args, **kwargs)  # type: ignore[no-any-return]

    def send(self, *args: Any, **kwargs: Any) -> int:
        return self._timed().send(*args, **kwargs)  # type: ignore[no-any-return]

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        self._timed().sendall(*args, **kwargs)

    def _timed(self) -> Any:
        self.settimeout(seconds_left())  # type: ignore[attr-defined]
        return super()


class TimedSocket(_Timed, socket.socket):
    pass


class TimedTLSSocket(_Timed, ssl.SSLSocket):
    pass


def connect(addresses: list[SocketAddress]) -> TimedSocket:
    """Connect to the first address that accepts within its share of the time. Raises the OSError of the last one."""
    errors = []
    for tried, (family, address) in enumerate(addresses):
        try:
            connection = _connect_to(family, address, len(addresses) - tried)
        except OSError as error:  # also for a family that this machine does not have
            errors.append(error)
        else:
            _thread.has_connected = True
            return connection
    raise errors[-1]


def _connect_to(family: socket.AddressFamily, address: Any, left_to_try: int) -> TimedSocket:
    connection = TimedSocket(family, socket.SOCK_STREAM)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with share_of_time(left_to_try):
            connection.settimeout(seconds_left())
            connection.connect(address)
        connection.settimeout(seconds_left())  # which a TLS handshake uses
    except BaseException:
        connection.close()
        raise
    return connection


def resolve(host: str, port: int) -> list[SocketAddress]:
    """Return the addresses of a name, at least one, in the system's order.

    Raises socket.gaierror, also for a text that cannot be a name, and TimeoutError at the deadline. A thread waits
    for the system's resolver, because nothing can interrupt it.
    """
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
        answer = answers.get(timeout=seconds_left())
    except queue.Empty:
        raise TimeoutError(f"the name {host} took too long to resolve") from None
    if isinstance(answer, OSError):
        raise answer
    return answer


# RFC 9112, section 7.1. ``int`` would accept ``-1`` too, and minus one byte means "read everything".
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\n]*)?\r?\n")


class Response(http.client.HTTPResponse):
    """Reads a response more strictly than ``http.client``, so that none can flood memory or reach into the next."""

    def begin(self) -> None:
        """Read up to the headers of the final response (RFC 9110, section 15.2). ``http.client`` skips only a 100 and
        takes other interim responses for final."""
        with self._limited_lines("head"):
            super().begin()
            while self.status < 200 and self.status != _SWITCHING_PROTOCOLS:
                self.headers = self.msg = None  # type: ignore[assignment]
                super().begin()
        if self.status == _SWITCHING_PROTOCOLS:
            self.will_close = True  # the rest is not HTTP

    def _read_and_discard_trailer(self) -> None:
        with self._limited_lines("trailer"):
            super()._read_and_discard_trailer()  # type: ignore[misc]

    def _read_next_chunk_size(self) -> int:
        found = _CHUNK_SIZE.fullmatch(self.fp.readline(_MAX_CHUNK_LINE))
        if not found:
            raise http.client.HTTPException("the size of a chunk is no number")
        return int(found[1], 16)

    @contextmanager
    def _limited_lines(self, part: str) -> Iterator[None]:
        """Within, raises Refused when the lines have more than ``MAX_HEAD_BYTES``."""
        file = self.fp
        self.fp = _LimitedLines(file, part)  # type: ignore[assignment]
        try:
            yield
        finally:
            if self.fp is not None:  # None if a broken status line closed it
                self.fp = file


class _LimitedLines:
    """Lines of a file up to ``MAX_HEAD_BYTES``. ``part`` names the part of the response: "head" or "trailer".

    ``http.client`` takes the end of the file for the end of the headers, so a head that is cut off would succeed.
    """

    def __init__(self, file: BufferedIOBase, part: str) -> None:
        self._file, self._part = file, part
        self._left = MAX_HEAD_BYTES
        self._in_head = False

    def readline(self, limit: int) -> bytes:
        line = self._file.readline(min(limit, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise Refused(f"the {self._part} of the answer has more than {MAX_HEAD_BYTES // 1024} KB")
        if self._part == "head":
            if not line.endswith(b"\n") and len(line) < limit and (line or self._in_head):
                raise Refused("connection closed by the receiver before the end of its headers")
            self._in_head = bool(line.strip())
        return line

    def close(self) -> None:
        self._file.close()
