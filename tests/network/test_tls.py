"""What a receiver does with TLS itself hurts only that receiver."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.support.certificates import Certificate, make_certificate
from tests.support.connection_receiver import receiver
from tests.support.sending import Transport
from webhooks.ground.error_kinds import ErrorKind
from webhooks.ground.outcome import Outcome
from webhooks.workers.network.attempt import Request

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"
EVIL = b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\nevil"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


class Peer:
    """One connection at the receiver. What TLS makes of an answer is sent as the test likes."""

    def __init__(
        self,
        connection: socket.socket,
        certificate: Certificate,
        tickets: int = 2,
        version: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
    ) -> None:
        self._connection = connection
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.certificate, certificate.key)
        context.num_tickets, context.maximum_version = tickets, version
        self._arrived, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._to_send, server_side=True)

    def shake_hands(self, then: bytes = b"") -> None:
        """``then`` is sent in the packet of its end."""
        self._until_done(self._tls.do_handshake)
        self.send(self._to_send.read() + (self.encrypted(then) if then else b""))

    def receive(self) -> bytes:
        """The next bytes of a request. Raises SSLEOFError at its end."""
        return self._until_done(lambda: self._tls.read(65536))

    def encrypted(self, data: bytes) -> bytes:
        self._tls.write(data)
        return self._to_send.read()

    def goodbye(self) -> bytes:
        """The notice that no more follows."""
        with suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        return self._to_send.read()

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def _until_done(self, act: Callable[[], Any]) -> Any:
        while True:
            try:
                return act()
            except ssl.SSLWantReadError:
                self.send(self._to_send.read())
                if arrived := self._connection.recv(65536):
                    self._arrived.write(arrived)
                else:
                    self._arrived.write_eof()


def start(transport: Transport, url: str, certificate: Certificate, timeout: float = 20) -> list[Outcome]:
    outcomes: list[Outcome] = []
    transport.start(Request(url, {}, b"{}", timeout, verify=certificate.authority), outcomes.append)
    return outcomes


def send(transport: Transport, url: str, certificate: Certificate) -> Outcome:
    return transport.send(Request(url, {}, b"{}", 20, verify=certificate.authority))


HELLO_REQUESTS = b"\x16\x03\x03\x3e\x80" + b"\0" * 16_000  # a client ignores each of them until the ServerHello


@pytest.mark.parametrize(
    ("flood", "kind", "reason"),
    [
        ("tickets", ErrorKind.ANSWER_TOO_LARGE, "the answer has too many bytes"),
        ("hello requests", ErrorKind.TLS, "the TLS handshake has too many bytes"),
    ],
)
def test_a_flood_of_tls_messages_ends_and_holds_up_nothing_else(
    transport: Transport, certificate: Certificate, flood: str, kind: ErrorKind, reason: str
) -> None:
    """OpenSSL reads session tickets, and requests for another handshake, without returning."""
    flooded = 0

    def serve(connection: socket.socket, number: int) -> None:
        nonlocal flooded
        peer = Peer(connection, certificate, tickets=100_000)
        if flood == "hello requests":
            connection.recv(65536)
            while True:
                connection.sendall(HELLO_REQUESTS)
                flooded += len(HELLO_REQUESTS)
        peer.shake_hands()

    with receiver(serve, "https") as url:
        outcomes, longest = start(transport, url, certificate, timeout=60), 0.0
        while not outcomes:
            begin = time.thread_time()
            transport.poll(1)
            longest = max(longest, time.thread_time() - begin)
    assert (outcomes[0].kind, outcomes[0].reason) == (kind, reason)
    assert longest < 0.05, "of processor time, in one turn of the loop"
    assert flooded < 20_000_000


def test_a_handshake_that_stalls_is_no_late_answer(transport: Transport, certificate: Certificate) -> None:
    with receiver(lambda connection, number: time.sleep(20), "https") as url:
        outcomes = start(transport, url, certificate, timeout=0.5)
        while not outcomes:
            transport.poll()
    assert (outcomes[0].kind, outcomes[0].reason) == (ErrorKind.TLS_TIMEOUT, "no TLS handshake within 0.5 s")
    assert outcomes[0].timed_out


def test_the_first_answer_needs_no_delayed_acknowledgement(transport: Transport, certificate: Certificate) -> None:
    """A server of TLS 1.3 sends session tickets first. Without TCP_NODELAY, its answer waits until they have arrived,
    and this machine would say so after 40 ms."""

    def serve(connection: socket.socket, number: int) -> None:
        peer = Peer(connection, certificate)
        peer.shake_hands()
        peer.receive()
        peer.send(peer.encrypted(GOOD))
        peer.receive()

    with receiver(serve, "https") as url:
        outcomes = [
            transport.send(Request(url, {}, b"{}", 20, verify=certificate.authority, connects=True)) for _ in range(10)
        ]
    assert all(outcome.succeeded for outcome in outcomes)
    assert median(outcome.duration_ms for outcome in outcomes) < 35


@pytest.mark.parametrize(
    ("rest", "is_kept"),
    [
        (lambda peer: b"", True),
        (lambda peer: peer.encrypted(EVIL), False),
        (lambda peer: peer.encrypted(EVIL)[:20], False),
        (lambda peer: peer.goodbye(), False),
    ],
    ids=["nothing", "an answer", "a part of one", "the end"],
)
@pytest.mark.parametrize("answer", [GOOD, b"HTTP/1.1 204 No Content\r\n\r\n"], ids=["200", "204"])
def test_what_follows_an_answer_in_its_packet_is_never_the_next_answer(
    transport: Transport, certificate: Certificate, rest: Callable[[Peer], bytes], is_kept: bool, answer: bytes
) -> None:
    connections = []

    def serve(connection: socket.socket, number: int) -> None:
        peer = Peer(connection, certificate)
        peer.shake_hands()
        while peer.receive():
            connections.append(number)
            peer.send(peer.encrypted(answer) + (rest(peer) if number == 1 else b""))

    with receiver(serve, "https") as url:
        outcomes = [send(transport, url, certificate) for _ in range(2)]
    assert [outcome.reason for outcome in outcomes] == [""] * 2
    assert {outcome.status for outcome in outcomes} <= {200, 204}
    assert connections == ([1, 1] if is_kept else [1, 2])


@pytest.mark.parametrize("closes", [True, False])
def test_an_answer_that_arrives_with_the_end_of_the_handshake_is_read(
    transport: Transport, certificate: Certificate, closes: bool
) -> None:
    """A load balancer that is too busy does not wait for the request."""

    def serve(connection: socket.socket, number: int) -> None:
        peer = Peer(connection, certificate, version=ssl.TLSVersion.TLSv1_2)
        peer.shake_hands(then=b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy")
        if closes:
            connection.shutdown(socket.SHUT_WR)
        time.sleep(20)

    with receiver(serve, "https") as url:
        outcome = transport.send(Request(url, {}, b"{}", 5, verify=certificate.authority))
    assert (outcome.status, outcome.body) == (503, "busy"), outcome.reason


@pytest.mark.parametrize("size", [1, 16_000, 16_384, 3_000_000])
def test_bodies_of_every_size_arrive(transport: Transport, certificate: Certificate, size: int) -> None:
    arrived = bytearray()

    def serve(connection: socket.socket, number: int) -> None:
        peer = Peer(connection, certificate)
        peer.shake_hands()
        while not arrived.endswith(b"."):
            arrived.extend(peer.receive())
        peer.send(peer.encrypted(GOOD))
        peer.receive()

    body = b"x" * (size - 1) + b"."
    with receiver(serve, "https") as url:
        outcome = transport.send(Request(url, {}, body, 60, verify=certificate.authority))
    assert (outcome.body, arrived.partition(b"\r\n\r\n")[2] == body) == ("good", True)


@pytest.mark.parametrize("size", [20, 50, 8000, 16_384])
def test_records_of_every_size_are_read(transport: Transport, certificate: Certificate, size: int) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 40000\r\n\r\n" + b"x" * 40_000

    def serve(connection: socket.socket, number: int) -> None:
        peer = Peer(connection, certificate)
        peer.shake_hands()
        while peer.receive():
            pieces = [answer[begin : begin + size] for begin in range(0, len(answer), size)]
            peer.send(b"".join(map(peer.encrypted, pieces)))

    with receiver(serve, "https") as url:
        outcomes = [send(transport, url, certificate) for _ in range(2)]
    assert [(outcome.reason, len(outcome.body)) for outcome in outcomes] == [("", 8192)] * 2
    assert [outcome.has_connected for outcome in outcomes] == [True, False]


def test_the_log_of_the_receiver_says_that_its_certificate_is_refused(
    transport: Transport, certificate: Certificate, tmp_path: Path
) -> None:
    errors = []

    def serve(connection: socket.socket, number: int) -> None:
        peer = Peer(connection, certificate)
        try:
            peer.shake_hands()
            peer.receive()
        except ssl.SSLError as error:
            errors.append(error.reason)

    other = make_certificate(tmp_path)
    with receiver(serve, "https") as url:
        assert send(transport, url, other).kind == ErrorKind.TLS_CERTIFICATE
        deadline = time.monotonic() + 20
        while not errors and time.monotonic() < deadline:
            time.sleep(0.01)
    assert errors == ["TLSV1_ALERT_UNKNOWN_CA"]
