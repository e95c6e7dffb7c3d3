"""Answers that are cut, torn, or made to be taken for two: over one kept connection, byte by byte."""

from __future__ import annotations

import itertools
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace

import pytest

from tests.support.connection_receiver import request_receiver
from tests.support.inbox import Inbox
from tests.support.sending import Transport
from tests.support.waiting import until
from webhooks.ground.error_kinds import ErrorKind
from webhooks.ground.outcome import Outcome
from webhooks.workers.network import loop
from webhooks.workers.network import transport as transport_module
from webhooks.workers.network.attempt import Request
from webhooks.workers.network.loop import ALLOWANCE, SUSPECT, Limits

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"
EVIL = b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\nevil"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\nX-Trailer: 1\r\n\r\n"


def send(transport: Transport, url: str, body: bytes = b"{}", timeout: float = 10) -> Outcome:
    return transport.send(Request(url, {}, body, timeout))


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize("answer", [GOOD, CHUNKED], ids=["length", "chunks"])
@pytest.mark.parametrize("end", [socket.socket.close, reset], ids=["closed", "reset"])
def test_an_answer_that_ends_at_any_byte_is_a_failure(
    transport: Transport, answer: bytes, end: Callable[[socket.socket], None]
) -> None:
    sent = 0

    def serve(connection: socket.socket, number: int) -> None:
        connection.sendall(answer[:sent])
        time.sleep(0.002 if end is reset else 0)  # a reset can overtake what was sent
        end(connection)

    # Some servers leave out the line breaks after the last chunk. A trailer may be cut off.
    whole = answer.index(b"\n0\r\n") + 2 if answer is CHUNKED else len(answer)
    with request_receiver(serve) as url:
        for sent in range(whole):  # serve reads it
            outcome = send(transport, url)
            assert (outcome.succeeded, outcome.kind) == (False, ErrorKind.CLOSED), (sent, outcome)


@pytest.mark.parametrize(
    ("count", "timeout", "reason"), [(100, 1, "no answer within 1 s"), (101, 60, "got more than 100 headers")]
)
def test_too_many_headers_are_refused_although_no_more_follows(
    transport: Transport, count: int, timeout: float, reason: str
) -> None:
    with request_receiver(lambda connection, number: connection.sendall(GOOD[:17] + b"X: y\r\n" * count)) as url:
        assert reason in send(transport, url, timeout=timeout).reason


@pytest.mark.parametrize("answer", [GOOD, CHUNKED], ids=["length", "chunks"])
def test_an_answer_that_comes_byte_by_byte_is_read(transport: Transport, answer: bytes) -> None:
    def serve(connection: socket.socket, number: int) -> None:
        for byte in answer:
            connection.sendall(bytes([byte]))

    with request_receiver(serve) as url:
        assert [send(transport, url).body for _ in range(2)] == ["good"] * 2


@pytest.mark.parametrize(
    ("first", "status"),
    [
        (GOOD + EVIL, 200),
        (b"HTTP/1.1 204 No Content\r\n\r\n" + EVIL, 204),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: %d\r\n\r\n" % len(EVIL) + EVIL, 204),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n" + EVIL, 304),
        (CHUNKED + EVIL, 200),
        # What follows is no HTTP.
        (b"HTTP/1.1 101 Switching Protocols\r\nContent-Length: 0\r\n\r\n", 101),
        # Both a length and chunks: which one counts?
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n" + CHUNKED[17:], 200),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 4\r\n\r\ngood", 200),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + CHUNKED[17:], 200),
        # A header that others may read, or read otherwise.
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length : 40\r\n\r\ngood", 200),
        (b"HTTP/1.1 200 OK\r\nX: y\rContent-Length: 40\r\nContent-Length: 4\r\n\r\ngood", 200),
        (b"HTTP/1.1 200 OK\r\nX: y\0\r\nContent-Length: 4\r\n\r\ngood", 200),
        (b"HTTP/1.1 200 OK\r\n Content-Length: 40\r\n\r\n", 200),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ngood", 200),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\ngood", 200),
        # A body that others may read, and an interim answer that others may take for the final one.
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 41\r\n\r\n", 204),
        (b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", 204),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 41\r\n\r\n", 304),
        (b"HTTP/1.1 103 Early Hints\r\nContent-Length: 40\r\n\r\n" + GOOD, 200),
        (b"HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n" + GOOD, 200),
        (b"HTTP/1.1 100 Continue\r\nX: y\rz\r\n\r\n" + GOOD, 200),
        # Lines that others may not end there.
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: y\n\n", 200),
        (b"HTTP/1.1 200 OK\nContent-Length: 4\n\ngood", 200),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX: y\r\n Content-Length: 40\r\n\r\ngood", 200),
        (CHUNKED.replace(b"\n4\r\n", b"\n4;x\n"), 200),
        (CHUNKED.replace(b"\n4\r\n", b"\n4;x\ry\r\n"), 200),
        (CHUNKED.replace(b"\n0\r\n", b"\n0\n"), 200),
        (CHUNKED.replace(b": 1\r\n", b": 1\n"), 200),
        (CHUNKED[:-2] + b"\n", 200),
    ],
    ids=[
        "bytes after a length", "204", "204 with a length", "304", "bytes after chunks", "101", "length and chunks",
        "identity", "chunks of HTTP/1.0", "space before a colon", "lone CR", "NUL", "folded first line", "close",
        "HTTP/1.0", "204 with a length alone", "204 with chunks", "304 with a length", "interim with a length",
        "interim with chunks", "interim with a lone CR", "head that ends with LF LF", "LF in a head", "folded line",
        "LF after a size", "lone CR after a size", "LF after the last size", "LF in a trailer", "LF after a trailer",
    ],
)  # fmt: skip
def test_a_connection_whose_answer_could_end_elsewhere_is_not_used_again(
    transport: Transport, first: bytes, status: int
) -> None:
    def serve(connection: socket.socket, number: int) -> None:
        connection.sendall(first if number == 1 else GOOD)
        if b"folded" in first or first.endswith(b"40\r\n\r\n"):
            connection.close()

    with request_receiver(serve) as url:
        assert send(transport, url).status == status
        second = send(transport, url)
    assert (second.status, second.body, second.has_connected) == (200, "good", True)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"Content-Length: 4\r\n\t5\r\n\r\n", "its Content-Length is no number"),
        (b"Transfer-Encoding: chunked\r\n\r\n4\r\ngoodXX0\r\n\r\n", "a chunk does not end after its size"),
        (b"Transfer-Encoding: chunked\r\n\r\n4\r\ngood\n0\r\n\r\n", "a chunk does not end after its size"),
    ],
)
def test_an_ambiguous_answer_is_refused(transport: Transport, answer: bytes, reason: str) -> None:
    with request_receiver(lambda connection, number: connection.sendall(b"HTTP/1.1 200 OK\r\n" + answer)) as url:
        outcome = send(transport, url)
    assert not outcome.succeeded
    assert outcome.reason.endswith(reason)


def test_bytes_that_come_while_a_connection_is_kept_close_it(transport: Transport) -> None:
    came = threading.Event()

    def serve(connection: socket.socket, number: int) -> None:
        connection.sendall(GOOD)
        if number == 1:
            time.sleep(0.05)
            connection.sendall(EVIL)
            came.set()

    with request_receiver(serve) as url:
        assert send(transport, url).succeeded
        assert came.wait(20)
        second = send(transport, url)
    assert (second.status, second.body, second.has_connected) == (200, "good", True)


NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        NO_CONTENT,
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 204 No Content\r\nConnection: keep-alive\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + NO_CONTENT,
    ],
    ids=["204", "204 with a length", "HTTP/1.0", "304", "after interim answers"],
)
def test_an_answer_without_a_body_keeps_its_connection(transport: Transport, answer: bytes) -> None:
    connections = []

    def serve(connection: socket.socket, number: int) -> None:
        connections.append(number)
        connection.sendall(answer)

    with request_receiver(serve) as url:
        statuses = {send(transport, url).status for _ in range(3)}
    assert (len(statuses), connections) == (1, [1] * 3)


@pytest.mark.parametrize("polls", [True, False], ids=["the loop has seen them", "not yet"])
@pytest.mark.parametrize("late", [EVIL, b"\r\n", b"x"], ids=["an answer", "an empty line", "a byte"])
def test_late_bytes_after_an_answer_without_a_body_close_its_connection(
    transport: Transport, late: bytes, polls: bool
) -> None:
    came = threading.Event()

    def serve(connection: socket.socket, number: int) -> None:
        connection.sendall(NO_CONTENT if number == 1 else GOOD)
        if number == 1:
            time.sleep(0.05)
            connection.sendall(late)
            came.set()

    outcomes: list[Outcome] = []
    with request_receiver(serve) as url:
        assert send(transport, url).status == 204
        assert came.wait(20)
        if polls:
            transport.poll(0)
        transport.start(Request(url, {}, b"{}", 10), outcomes.append)
        while not outcomes:
            transport.poll()
    assert (outcomes[0].body, outcomes[0].has_connected) == ("good", True)


@pytest.mark.parametrize("part", [b"", b"H", b"HTTP/1.1 100 Continue\r\n\r\n"], ids=["nothing", "a byte", "an interim"])
def test_a_kept_connection_that_ends_is_tried_again_only_if_nothing_has_come(
    transport: Transport, monkeypatch: pytest.MonkeyPatch, part: bytes
) -> None:
    monkeypatch.setattr("webhooks.workers.network.transport.SOON", 600)  # the thread of the receiver may have to wait
    requests = 0

    def serve(connection: socket.socket, number: int) -> None:
        nonlocal requests
        requests += 1
        if requests == 2:
            connection.sendall(part)
            connection.close()
        else:
            connection.sendall(GOOD)

    with request_receiver(serve) as url:
        assert send(transport, url).succeeded
        second = send(transport, url)
    assert (second.succeeded, requests) == (not part, 2 if part else 3)


def test_a_request_is_not_sent_again_if_a_kept_connection_ends_later(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receiver may have handled it."""
    requests = 0

    def serve(connection: socket.socket, number: int) -> None:
        nonlocal requests
        requests += 1
        if requests == 2:
            clock.now += 600
            connection.close()
        else:
            connection.sendall(GOOD)

    clock = SimpleNamespace(now=time.monotonic())
    with request_receiver(serve) as url:
        assert send(transport, url).succeeded
        # Its own time: however long the round trip took, the end comes later.
        monkeypatch.setattr(transport_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
        second = send(transport, url)
    assert (second.kind, second.has_connected, requests) == (ErrorKind.CLOSED, False, 2)


def test_an_answer_before_the_end_of_a_large_body_counts(transport: Transport) -> None:
    def serve(connection: socket.socket, number: int) -> None:
        connection.sendall(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    with request_receiver(serve) as url:
        outcome = send(transport, url, body=bytes(5_000_000))
    assert (outcome.status, outcome.kind) == (413, ErrorKind.HTTP_413)


def test_chunks_that_are_cut_behind_the_wanted_bytes_do_not_matter(transport: Transport) -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2000\r\n" + b"x" * 8192

    def serve(connection: socket.socket, number: int) -> None:
        connection.sendall(answer)
        connection.close()

    with request_receiver(serve) as url:
        assert send(transport, url).body == "x" * 8192


DRIPS = {
    "status line": (b"HTTP/1.1 200 ", b"x"),
    "headers": (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body with a length": (b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n", b"x"),
    "body to the end": (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "chunk size": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;", b"x"),
    "trailer": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
}


def test_an_answer_that_drips_anywhere_ends_at_its_deadline(transport: Transport) -> None:
    ends: dict[str, Outcome] = {}
    with ExitStack() as stack:
        for title, (beginning, drop) in DRIPS.items():

            def drip(connection: socket.socket, _: int, beginning: bytes = beginning, drop: bytes = drop) -> None:
                connection.sendall(beginning)
                while True:
                    connection.sendall(drop)
                    time.sleep(0.05)

            url = stack.enter_context(request_receiver(drip))
            transport.start(Request(url, {}, b"{}", 2), partial(ends.__setitem__, title))
        while len(ends) < len(DRIPS):
            transport.poll()
    assert {title: outcome.kind for title, outcome in ends.items()} == dict.fromkeys(DRIPS, ErrorKind.ANSWER_TIMEOUT)
    assert all(outcome.duration_ms >= 1900 for outcome in ends.values())
    assert {title for title, outcome in ends.items() if outcome.status is None} == {
        "status line", "headers", "interim answers",
    }  # fmt: skip


# What answers cost


def test_an_answer_in_chunks_of_one_byte_is_given_up(transport: Transport, inbox: Inbox) -> None:
    outcome = transport.send(Request(inbox.url("tiny-chunks"), {}, b"{}", 60))
    assert outcome.reason == "HTTP 200, but the body could not be read: the answer has too many parts"
    assert 0 < outcome.cost < 1, "it took 5 seconds"


@pytest.mark.cost
def test_a_status_line_in_packets_of_one_byte_costs_little(transport: Transport) -> None:
    def serve(connection: socket.socket, number: int) -> None:
        for byte in b"HTTP/1.1 200 " + b"x" * 60_000 + GOOD[15:]:
            connection.send(bytes([byte]))

    with request_receiver(serve) as url:
        outcome = send(transport, url, timeout=60)
    assert (outcome.succeeded, outcome.body) == (True, "good"), outcome.reason
    assert outcome.cost < 1, "it took 3.5 seconds"


def test_costly_answers_share_a_small_part_of_the_thread(transport: Transport, inbox: Inbox) -> None:
    """The answers of 20 such receivers take turns, and the healthy one goes on in between."""
    stopped: list[Outcome] = []
    for number in range(20):
        transport.start(Request(inbox.url(f"tiny-chunks?{number}"), {}, b"{}", 3), stopped.append)
    while sum(limits.is_costly for limits in limits_in(transport)) + len(stopped) < 20:  # a slow machine gives some up
        transport.poll(1)
    cpu, begin, healthy = time.thread_time(), time.monotonic(), list[Outcome]()
    while time.monotonic() - begin < 1:
        transport.poll(0.1)
    costly = (time.thread_time() - cpu) / (time.monotonic() - begin)
    assert costly < 0.2, "of the time of the thread"
    for _ in range(100):
        transport.start(Request(inbox.url(), {}, b"{}", 60), healthy.append)
        while not healthy or not healthy[-1]:
            transport.poll()
    assert all(outcome.succeeded for outcome in healthy)
    while len(stopped) < 20:
        transport.poll()
    assert {outcome.kind for outcome in stopped} <= {ErrorKind.ANSWER_TIMEOUT, ErrorKind.ANSWER_TOO_LARGE}


def limits_in(transport: Transport) -> list[Limits]:
    return [task.limits for task in transport._tasks]


def test_after_a_costly_answer_the_next_one_of_its_receiver_has_no_allowance(
    transport: Transport, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(step: float) -> Callable[[], float]:
        return itertools.count(step=step).__next__

    seen, answers = [], list[Outcome]()
    for step in (SUSPECT + ALLOWANCE, 0, 0):  # what each look at a clock adds to it
        clock = SimpleNamespace(monotonic=time.monotonic, perf_counter=seconds(step), thread_time=seconds(step))
        monkeypatch.setattr(loop, "time", clock)
        transport.start(Request(inbox.url(), {}, b"{}", 60), answers.append)
        seen.append([limits.is_costly for limits in limits_in(transport)])
        begun = len(seen)
        until(lambda: transport.poll(0.1) or len(answers) == begun, 60, "the answer")  # noqa: B023 # called at once
    assert all(answer.succeeded for answer in answers)
    assert seen[1:] == [[True], [False]], "a cheap answer gives it back"


def test_many_requests_at_once_share_one_thread_and_end_at_their_own_deadlines(transport: Transport) -> None:
    def say_nothing(connection: socket.socket, number: int) -> None:
        pass

    def answer(connection: socket.socket, number: int) -> None:
        time.sleep(0.1)
        connection.sendall(GOOD)

    outcomes: list[Outcome] = []
    with request_receiver(say_nothing) as silent, request_receiver(answer) as good:
        for _ in range(20):
            transport.start(Request(silent, {}, b"{}", 1), outcomes.append)
            transport.start(Request(good, {}, b"{}", 60), outcomes.append)
        started = time.monotonic()
        while len(outcomes) < 40:
            transport.poll()
    assert time.monotonic() - started < 15, "one after the other would take 20 s"
    assert sorted(outcome.succeeded for outcome in outcomes) == [False] * 20 + [True] * 20
    assert {outcome.kind for outcome in outcomes} == {"", ErrorKind.ANSWER_TIMEOUT}
