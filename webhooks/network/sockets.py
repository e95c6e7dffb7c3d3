"""Connect, send and receive without blocking, as steps of a loop, and look up names in threads."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar, cast

from webhooks.error_kinds import ErrorKind
from webhooks.network.loop import READ, WRITE, Limits, Socket, Steps, run
from webhooks.network.outcome import Refused, TimedOut

T = TypeVar("T")

OVERHEAD_BYTES = 1_000_000  # read at most in addition to the wanted bytes of a body: head, chunk sizes, compression
_MOST_AT_ONCE = 16_384  # bytes; a record of TLS has no more, so none is left behind where no loop sees it

# TLS may have to read before it writes, and the other way round.
_TLS_EVENTS: dict[type[OSError], int] = {ssl.SSLWantReadError: READ, ssl.SSLWantWriteError: WRITE}
_NOT_READY: tuple[type[OSError], ...] = (BlockingIOError, *_TLS_EVENTS)

SocketAddress = tuple[socket.AddressFamily, Any]

# Seconds for which an address that did not accept a connection in its time is tried last.
DEAD_SECONDS = 60

# Addresses that are remembered. Beyond this, the first ones are forgotten.
_MAX_DEAD = 1000

# The addresses that did not accept, and until when they are tried last (monotonic). For all threads.
_dead: dict[SocketAddress, float] = {}


class TLSSocket(ssl.SSLSocket, Socket):
    pass


def connect_to_first(
    addresses: list[SocketAddress], connect: Callable[[SocketAddress, Limits], Steps[Socket]], limits: Limits
) -> Steps[Socket]:
    """Connect to the first address that accepts within its share of the time. Raises the error of the last one.

    An address that let its time pass is tried last for a while, so that not every attempt waits for it.
    """
    errors: list[OSError | Refused] = []
    end = limits.end
    for tried, address in enumerate(sorted(addresses, key=_is_dead)):
        now = time.monotonic()
        limits.end = now + (end - now) / (len(addresses) - tried)
        try:
            connection = yield from connect(address, limits)
            _dead.pop(address, None)
            return connection
        except (OSError, Refused) as error:
            errors.append(error)
            if isinstance(error, TimeoutError) and getattr(error, "kind", "") != ErrorKind.PROXY:
                _remember_dead(address)
        finally:
            limits.end = end
    raise errors[-1]


def _is_dead(address: SocketAddress) -> bool:
    return time.monotonic() < _dead.get(address, 0)


def _remember_dead(address: SocketAddress) -> None:
    _dead.pop(address, None)
    _dead[address] = time.monotonic() + DEAD_SECONDS
    while len(_dead) > _MAX_DEAD:
        _dead.pop(next(iter(_dead)), None)


def connect(address: SocketAddress, limits: Limits) -> Steps[Socket]:
    """Raises OSError, also for a family that this machine does not have."""
    connection = Socket(address[0], socket.SOCK_STREAM)
    begin = time.monotonic()
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        try:
            connection.connect(address[1])
        except BlockingIOError:
            yield connection, WRITE
            if number := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(number, os.strerror(number)) from None
            connection.unwatch()  # it stays writable, which is no news
    except BaseException:
        connection.close()
        raise
    limits.has_connected = True
    connection.opened = time.monotonic()
    connection.round_trip = connection.opened - begin
    return connection


def start_tls(plain: Socket, context: ssl.SSLContext, name: str) -> Steps[TLSSocket]:
    """Raises OSError, and ssl.SSLError if the certificate is not for ``name``. The plain socket is used up."""
    plain.unwatch()
    try:
        connection = cast(TLSSocket, context.wrap_socket(plain, server_hostname=name, do_handshake_on_connect=False))
    except BaseException:
        plain.close()
        raise
    connection.opened, connection.round_trip = plain.opened, plain.round_trip
    try:
        while True:
            try:
                connection.do_handshake()
                return connection
            except _NOT_READY as error:
                yield connection, _TLS_EVENTS.get(type(error), READ)
    except BaseException:
        connection.close()
        raise


def send(connection: Socket, data: bytes) -> Steps[None]:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[connection.send(rest) :]
        except _NOT_READY as error:
            yield connection, _TLS_EVENTS.get(type(error), WRITE)


def receive(connection: Socket, limits: Limits) -> Steps[bytes]:
    """The next bytes, or none if the other side has closed the connection. Raises Refused after too many bytes."""
    event = READ
    while True:
        yield connection, event
        try:
            data = connection.recv(_MOST_AT_ONCE)
            break
        except _NOT_READY as error:
            event = _TLS_EVENTS.get(type(error), READ)
    limits.room -= len(data)
    if limits.room < 0:
        raise Refused("the answer has too many bytes", ErrorKind.ANSWER_TOO_LARGE)
    return data


def acknowledge(connection: Socket) -> None:
    """Acknowledge what has arrived. Linux waits 40 ms before it does, and a receiver that writes its headers and its
    body apart waits for it in between. Measured: 45 ms a request without this, 2 ms with it."""
    if hasattr(socket, "TCP_QUICKACK"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def resolve(host: str, port: int) -> Steps[list[SocketAddress]]:
    """Return the addresses of a name, at least one, in the system's order.

    Raises socket.gaierror, also for a text that cannot be a name, and TimedOut at the deadline.
    """
    try:
        found = yield from in_thread(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except ValueError as error:  # a label of more than 63 characters, or a NUL: Python does not even ask
        raise socket.gaierror(socket.EAI_NONAME, str(error)) from None
    except TimeoutError as error:
        raise TimedOut("the name did not resolve", ErrorKind.RESOLVER) from error
    return [(family, address) for family, _, _, _, address in found]


def in_thread(work: Callable[[], T]) -> Steps[T]:
    """Return the result of ``work``, or raise its error. For what nothing can interrupt: after the deadline, the thread
    goes on. Raises Refused if the system does not start a thread."""
    ours, theirs = socket.socketpair()
    result, waits = Future[T](), Socket(fileno=ours.detach())

    def call() -> None:
        with theirs:  # its end makes ours readable
            try:
                result.set_result(work())
            except BaseException as error:
                result.set_exception(error)

    try:
        try:
            threading.Thread(target=call, name="webhooks-lookup", daemon=True).start()
        except RuntimeError as error:
            theirs.close()
            raise Refused(f"the worker's system does not start another thread: {error}", ErrorKind.RESOURCES) from None
        yield waits, READ
    finally:
        waits.close()
    return result.result()


def call_in_thread(work: Callable[[], T], seconds: float) -> T:
    """Return the result of ``work``, or raise its error. Raises TimeoutError after ``seconds``; the thread goes on."""
    return run(in_thread(work), Limits(seconds))
