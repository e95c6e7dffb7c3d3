"""Requests over real sockets and their outcomes."""

from __future__ import annotations

import base64
import gzip
import logging
import os
import random
import resource
import signal
import socket
import ssl
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from tests.support import few_descriptors
from tests.support.certificates import Certificate, make_certificate
from tests.support.inbox import Inbox, ReceiverProcess, flood, raw
from tests.support.json_process import run_module
from tests.support.sending import Transport
from tests.support.servers import free_port
from webhooks.ground import headers
from webhooks.ground.error_kinds import ErrorKind
from webhooks.ground.outcome import Outcome
from webhooks.workers.network.attempt import Request, retry_after


def request(url: str, timeout: float = 10, **fields: object) -> Request:
    headers = {"Content-Type": "application/json", "User-Agent": "tests", "webhook-id": "1"}
    return Request(url, headers, b'{"a":1}', timeout, **fields)  # type: ignore[arg-type]


def test_a_success_has_status_headers_body_and_duration(transport: Transport, inbox: Inbox) -> None:
    before = datetime.now(UTC)
    outcome = transport.send(request(inbox.url("slow/0.1")))
    assert outcome.succeeded
    assert (outcome.reason, outcome.status, outcome.body) == ("", 200, "at last")
    assert outcome.headers["Content-Length"] == "7"
    assert 100 <= outcome.duration_ms < 10_000
    assert before <= outcome.started_at <= datetime.now(UTC)
    [received] = inbox.received()
    assert (received.method, received.json) == ("POST", {"a": 1})


def test_no_unexpected_headers_are_sent(transport: Transport, inbox: Inbox) -> None:
    transport.send(request(inbox.url()))
    assert set(inbox.received()[0].headers) <= {
        "host", "content-length", "content-type", "user-agent", "webhook-id", "accept-encoding", "accept", "connection",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("status", "succeeded"),
    [(200, True), (201, True), (204, True), (400, False), (404, False), (500, False), (503, False)],
)
def test_2xx_succeeds_and_4xx_and_5xx_fail(transport: Transport, inbox: Inbox, status: int, succeeded: bool) -> None:
    outcome = transport.send(request(inbox.url(f"status/{status}")))
    assert (outcome.status, outcome.succeeded) == (status, succeeded)
    assert outcome.reason.startswith("" if succeeded else f"HTTP {status}")
    assert bool(outcome.reason) != succeeded


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
# A header, and an empty block: more of these may follow without end.
GZIP = b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + b"\0\0\0\xff\xff"
OK = b"HTTP/1.1 200 OK\r\n"
# Each block of a few bytes inflates to 60 KB.
DEFLATE = OK + b"Content-Encoding: deflate\r\n\r\n\x78\x9c"
_packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
ZEROS = _packer.compress(bytes(60_000)) + _packer.flush(zlib.Z_FULL_FLUSH)
BAD = b"HTTP/1.1 500 Oops\r\nContent-Length: 3\r\n\r\nbad"
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"


@pytest.mark.parametrize(
    "interim",
    [EARLY, EARLY * 3, b"HTTP/1.1 102 Processing\r\n\r\n", b"HTTP/1.1 199 X\r\n\r\n"],
    ids=["103", "103 103 103", "102", "199"],
)
def test_interim_answers_are_skipped(transport: Transport, inbox: Inbox, interim: bytes) -> None:
    urls = [inbox.url(raw(interim, final)) for final in (BAD, GOOD, BAD)]
    sent = [transport.send(request(url)) for url in urls]
    assert [(one.status, one.body, one.succeeded) for one in sent] == [
        (500, "bad", False), (200, "good", True), (500, "bad", False),
    ]  # fmt: skip
    assert "Link" not in sent[0].headers
    assert len({one.connection for one in inbox.received()}) == 1


def test_switching_protocols_fails_and_closes_the_connection(transport: Transport, inbox: Inbox) -> None:
    switched = transport.send(request(inbox.url(raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", BAD))))
    assert (switched.status, switched.reason) == (101, "HTTP 101 Switching Protocols")
    assert transport.send(request(inbox.url())).body == "ok"
    first, second = inbox.received()
    assert first.connection != second.connection


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(transport: Transport, inbox: Inbox, status: int) -> None:
    outcome = transport.send(request(inbox.url(f"redirect/{status}/ok")))
    assert not outcome.succeeded
    assert outcome.status == status
    assert outcome.reason == f"HTTP {status}: redirects to /{inbox.name}/ok, which is not followed"
    assert [one.path for one in inbox.received()] == [f"/{inbox.name}/redirect/{status}/ok"]


def test_a_3xx_without_location_is_no_redirect(transport: Transport, inbox: Inbox) -> None:
    outcome = transport.send(request(inbox.url(raw(b"HTTP/1.1 304 Not Modified\r\n\r\n"))))
    assert (outcome.status, outcome.reason) == (304, "HTTP 304 Not Modified")
    assert (outcome.kind, outcome.summary) == (ErrorKind.HTTP_OTHER, "HTTP 304 Not Modified")


def test_a_refused_connection_is_the_reason(transport: Transport) -> None:
    outcome = transport.send(request(f"http://127.0.0.1:{free_port()}/"))
    assert outcome.reason == "connection refused"
    assert (outcome.status, outcome.timed_out) == (None, False)


def test_an_unresolvable_name_is_the_reason(transport: Transport) -> None:
    outcome = transport.send(request("http://no-such-host.invalid/"))
    assert outcome.reason.startswith("the name does not resolve")


HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"
CUT_OFF = "connection closed by the receiver before the end of its headers"


@pytest.mark.parametrize(
    ("answer", "is_reset", "reason"),
    [
        (b"", False, "connection closed by the receiver before it answered"),
        (b"", True, "connection closed by the receiver before it answered"),
        (b"HTTP/1.1 200", False, CUT_OFF),
        (b"HTTP/1.1 200 OK\r\n", False, CUT_OFF),
        (b"HTTP/1.1 200 OK\r\nContent-Le", False, CUT_OFF),
        (EARLY + b"HTTP/1.1 200 OK\r\nDate: Mon\r\n", False, CUT_OFF),
        (EARLY, False, "connection closed by the receiver before it answered"),
        (HALF, False, "HTTP 200, but the body could not be read: connection closed by the receiver before its end"),
        (HALF, True, "HTTP 200, but the body could not be read: connection closed by the receiver before its end"),
    ],
)
def test_a_connection_closed_too_early_is_the_reason(
    transport: Transport, answer: bytes, is_reset: bool, reason: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)
                if is_reset:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        threading.Thread(target=serve, daemon=True).start()
        outcome = transport.send(request(f"http://127.0.0.1:{server.getsockname()[1]}/"))
    assert (outcome.succeeded, outcome.reason) == (False, reason)


def test_an_answer_that_is_not_http_is_the_reason(transport: Transport, inbox: Inbox) -> None:
    outcome = transport.send(request(inbox.url("garbage")))
    assert not outcome.succeeded
    assert outcome.reason.startswith("the answer is no valid HTTP: ")
    assert outcome.reason == outcome.reason.strip()


@pytest.mark.parametrize(
    "url", ["http://", "nonsense", "ftp://127.0.0.1/", "http://[::1", "http://127.0.0.1:99999/", "http://\x00/"]
)
def test_an_impossible_url_fails_without_an_exception(transport: Transport, url: str) -> None:
    outcome = transport.send(request(url, timeout=3))
    assert not outcome.succeeded
    assert outcome.reason


# Deadlines


def test_every_attempt_ends_at_its_deadline(inbox: Inbox) -> None:
    """Seven receivers at once: one hangs, some drip, one stalls the TLS handshake, one never accepts."""
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        urls = {
            **{behaviour: inbox.url(behaviour) for behaviour in ("hang", "slow/30", "drip-header", "drip-body")},
            "only an interim answer": inbox.url(raw(EARLY)),
            "TLS handshake": f"https://127.0.0.1:{silent.getsockname()[1]}/",
            "never accepted": f"http://127.0.0.1:{full.getsockname()[1]}/",
        }
        with ThreadPoolExecutor(len(urls)) as pool:
            outcomes = dict(zip(urls, pool.map(lambda url: send_once(url, timeout=3), urls.values()), strict=True))
    body = "HTTP 200, but the body could not be read: it did not end within 3 s"
    special = {
        "drip-body": body,
        "TLS handshake": "no TLS handshake within 3 s",
        "never accepted": "no connection within 3 s",
    }
    reasons = {title: special.get(title, "no answer within 3 s") for title in urls}
    special_kinds = {"never accepted": ErrorKind.CONNECT_TIMEOUT, "TLS handshake": ErrorKind.TLS_TIMEOUT}
    kinds = {title: special_kinds.get(title, ErrorKind.ANSWER_TIMEOUT) for title in urls}
    assert {title: outcome.kind for title, outcome in outcomes.items()} == kinds
    assert {title: outcome.reason for title, outcome in outcomes.items()} == reasons
    assert all(outcome.timed_out and outcome.overloaded for outcome in outcomes.values())
    assert all(2900 <= outcome.duration_ms < 20_000 for outcome in outcomes.values())


def send_once(url: str, **fields: object) -> Outcome:
    with closing(Transport()) as transport:
        return transport.send(request(url, **fields))  # type: ignore[arg-type]


@pytest.mark.cost
@pytest.mark.parametrize(
    "behaviour",
    [
        "endless",
        "huge-header",
        "gzip-bomb",
        "deflate",
        "twice",
        "big/100000000",
        flood(CHUNKED + b"-1\r\n", b"x" * 100),
    ],
    ids=["endless", "huge-header", "gzip-bomb", "deflate-bomb", "gzip in gzip", "big", "negative chunk"],
)  # fmt: skip
def test_a_flood_costs_little_time_and_memory(transport: Transport, inbox: Inbox, behaviour: str) -> None:
    if behaviour == "twice":
        twice = gzip.compress(gzip.compress(bytes(1_000_000), 1) * 100)
        behaviour = raw(OK + b"Content-Encoding: gzip, gzip\r\nContent-Length: %d\r\n\r\n" % len(twice) + twice)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    outcome = transport.send(request(inbox.url(behaviour), timeout=3))
    assert time.monotonic() - started < 20
    assert len(outcome.body) <= 8192
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 20, f"{grown:.0f} MB"


@pytest.mark.parametrize(
    ("beginning", "rest", "reason"),
    [
        (OK, b"X-Long: " + b"x" * 60_000 + b"\r\n", "the head of the answer has more than 128 KB"),
        (OK, b"X-Short: x\r\n", "the answer is no valid HTTP: HTTPException got more than 100 headers"),
        (b"", EARLY, "the head of the answer has more than 128 KB"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", "the answer has too many parts"),
        (CHUNKED + b"0\r\n", b"X-More: more\r\n", "the trailer of the answer has more than 128 KB"),
        (CHUNKED + b"0\r\n", b"X: " + b"x" * 60_000 + b"\r\n", "the trailer of the answer has more than 128 KB"),
        (CHUNKED, b"1;" + b"x" * 60_000 + b"\r\nx\r\n", "the answer has too many bytes"),
        (CHUNKED + b"4;", b"x" * 60_000, "the answer is no valid HTTP: the size of a chunk is no number"),
        (b"", b"x" * 60_000, "the head of the answer has more than 128 KB"),
        (b"<html>\n", b"<p>Hello</p>\n", "the answer is no valid HTTP: BadStatusLine <html>"),
    ],
    ids=[
        "long headers", "many headers", "103", "100", "trailers", "long trailers", "long chunk extensions",
        "chunk extension", "HTTP/0.9 without a line", "HTTP/0.9",
    ],
)  # fmt: skip
def test_an_endless_answer_is_given_up(
    transport: Transport, inbox: Inbox, beginning: bytes, rest: bytes, reason: str
) -> None:
    outcome = transport.send(request(inbox.url(flood(beginning, rest)), timeout=30))
    assert outcome.reason.removeprefix("HTTP 200, but the body could not be read: ") == reason


@pytest.mark.parametrize(("size", "succeeded"), [(128 * 1024, True), (128 * 1024 + 1, False)])
def test_a_head_may_have_128_kb(transport: Transport, inbox: Inbox, size: int, succeeded: bool) -> None:
    long, end = b"X-Long: " + b"x" * 60_000 + b"\r\n", b"\r\nContent-Length: 2\r\n\r\n"
    head = EARLY + OK + long + long + b"X-Last: "
    head += b"x" * (size - len(head + end)) + end
    outcome = transport.send(request(inbox.url(raw(head, b"ok"))))
    assert (outcome.succeeded, outcome.body) == (succeeded, "ok" if succeeded else "")


@pytest.mark.parametrize("size", [b"-1", b"+", b"4+", b"4,4", b"", b"f" * 20, b"4" + b" " * 70_000])
def test_an_invalid_chunk_size_is_refused(transport: Transport, inbox: Inbox, size: bytes) -> None:
    answer = CHUNKED + size + b"\r\ngood\r\n0\r\n\r\n"
    assert "the size of a chunk is no number" in transport.send(request(inbox.url(raw(answer)), timeout=3)).reason


@pytest.mark.parametrize(
    "length", [b"abc", b"", b"-4", b"+4", b"4_0", b"4.0", b"4, 4", b"4\r\nContent-Length: 5", b"9" * 20]
)
@pytest.mark.parametrize("end", [b"", b"Transfer-Encoding: chunked\r\n"])
def test_an_answer_with_an_invalid_length_is_no_success(
    transport: Transport, inbox: Inbox, length: bytes, end: bytes
) -> None:
    answer = OK + b"Content-Length: %b\r\n%b\r\n4\r\ngood\r\n0\r\n\r\n" % (length, end)
    outcome = transport.send(request(inbox.url(raw(answer)), timeout=3))
    assert (outcome.succeeded, outcome.timed_out) == (False, False)
    assert outcome.reason == "the answer is no valid HTTP: its Content-Length is no number"
    assert transport.send(request(inbox.url())).body == "ok"
    first, second = inbox.received()
    assert first.connection != second.connection, "the rest of the answer must not count for another request"


@pytest.mark.parametrize("length", [b"4", b"04", b" 4 ", b"4\r\nContent-Length: 4"])
def test_valid_lengths_are_read(transport: Transport, inbox: Inbox, length: bytes) -> None:
    url = inbox.url(raw(OK + b"Content-Length: %b\r\n\r\ngood" % length))
    assert [transport.send(request(url)).body for _ in range(2)] == ["good", "good"]
    assert len({one.connection for one in inbox.received()}) == 1


@pytest.mark.parametrize("size", [b"4", b"04", b"4 ", b"4;name=value", b'4 ; name="value"'])
def test_valid_chunks_are_read(transport: Transport, inbox: Inbox, size: bytes) -> None:
    url = inbox.url(raw(CHUNKED + size + b"\r\ngood\r\n0\r\nX-Trailer: 1\r\n\r\n"))
    assert [transport.send(request(url)).body for _ in range(2)] == ["good", "good"]
    assert len({one.connection for one in inbox.received()}) == 1


# The stored part of an answer


@pytest.mark.parametrize("keep", [8192, 100])
def test_only_the_first_bytes_of_a_body_are_kept(transport: Transport, inbox: Inbox, keep: int) -> None:
    outcome = transport.send(request(inbox.url("big/100000"), keep=keep))
    assert outcome.succeeded
    assert outcome.body == "y" * keep


def test_a_connection_is_reused_if_its_body_had_at_most_64_kb(transport: Transport, inbox: Inbox) -> None:
    for behaviour in ("ok", "big/20000", "big/65536", "ok", "big/65537", "ok", "ok"):
        assert transport.send(request(inbox.url(behaviour))).succeeded
    connections = [one.connection for one in inbox.received()]
    assert len(set(connections[:5])) == len(set(connections[5:])) == 1
    assert connections[4] != connections[5]


@pytest.mark.parametrize("head", [b"Content-Length: 20000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n4000\r\n"])
def test_the_rest_of_a_body_that_does_not_come_ends_no_success(
    transport: Transport, inbox: Inbox, monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    monkeypatch.setattr("webhooks.workers.network.answer.REST_SECONDS", 0.1)
    outcome = transport.send(request(inbox.url(raw(OK + head + b"x" * 9000)), timeout=60))
    assert (outcome.succeeded, len(outcome.body), outcome.timed_out) == (True, 8192, False)
    assert outcome.duration_ms < 30_000
    assert transport.send(request(inbox.url())).has_connected


def test_a_request_can_demand_a_new_connection(transport: Transport, inbox: Inbox) -> None:
    for connects in (False, False, True):
        assert transport.send(Request(inbox.url(), {}, b"{}", 5, connects=connects)).succeeded
    first, second, third = [one.connection for one in inbox.received()]
    assert first == second != third


def test_an_old_connection_is_closed(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    """A firewall may have dropped it: the other end gets nothing, and says nothing."""
    connections = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(3):
                connection, _ = server.accept()
                connections.append(connection)
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        assert transport.send(request(url)).succeeded
        monkeypatch.setattr("webhooks.workers.network.transport.MAX_AGE", 0)
        assert [transport.send(request(url)).succeeded for _ in range(2)] == [True, True]
    assert connections[0].recv(1) == connections[1].recv(1) == b"", "what is not used again is closed"
    for connection in connections:
        connection.close()


def test_a_connection_that_is_old_is_not_used_again(
    transport: Transport, inbox: Inbox, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name may have another address by now."""
    names["hooks.example"] = ["127.0.0.1"]
    url = inbox.url().replace("127.0.0.1", "hooks.example")
    assert [transport.send(request(url)).has_connected for _ in range(2)] == [True, False]
    names["hooks.example"] = ["127.9.9.9"]
    assert transport.send(request(url)).succeeded, "it is used until it is old"
    monkeypatch.setattr("webhooks.workers.network.transport.MAX_AGE", 0)
    assert transport.send(request(url)).kind == ErrorKind.REFUSED


def test_a_stale_kept_connection_is_no_failure(transport: Transport) -> None:
    process = ReceiverProcess()
    inbox = Inbox(process)
    try:
        assert transport.send(request(inbox.url("status/204"))).succeeded
        outcome = transport.send(request(inbox.url("close")))
        assert not outcome.succeeded
        assert "closed" in outcome.reason
    finally:
        process.stop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        is_closed = threading.Event()

        def serve() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                is_closed.set()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        assert transport.send(request(url)).succeeded
        assert is_closed.wait(30)
        assert transport.send(request(url)).succeeded
        thread.join(30)


def test_a_receiver_sees_the_end_of_a_connection_although_a_process_was_forked_meanwhile(transport: Transport) -> None:
    """rq forks for each job of the project, which may run for hours and has all descriptors."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        outcomes: list[Outcome] = []
        transport.start(request(f"http://127.0.0.1:{server.getsockname()[1]}/", timeout=0.5), outcomes.append)
        connection, _ = server.accept()
        child = os.fork()
        if not child:
            while True:
                signal.pause()
        try:
            while not outcomes:
                transport.poll()
            connection.settimeout(20)
            while connection.recv(65536):
                pass
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            connection.close()


def test_a_receiver_whose_204_has_a_body_spoils_one_answer_at_most(transport: Transport) -> None:
    """HTTP forbids such a body, and some handlers send it nevertheless, after the next request has begun."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    threading.Thread(target=answer, args=(connection,), daemon=True).start()

        def answer(connection: socket.socket) -> None:
            body = b""
            with connection, suppress(OSError):
                while connection.recv(65536):
                    connection.sendall(body + b"HTTP/1.1 204 No Content\r\n\r\n")
                    body = b"hello"

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        kinds = [transport.send(request(url)).kind for _ in range(8)]
    assert kinds == ["", ErrorKind.INVALID_HTTP, *[""] * 6]


def test_cookies_are_not_kept(transport: Transport, inbox: Inbox) -> None:
    transport.send(request(inbox.url("cookie")))
    transport.send(request(inbox.url("ok")))
    assert "cookie" not in inbox.received()[1].headers


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "Grüße!"), ("latin-1", "Gr��e!")])
def test_a_body_is_read_as_utf_8_and_without_nuls(
    transport: Transport, inbox: Inbox, encoding: str, shown: str
) -> None:
    assert transport.send(request(inbox.url(f"text/{encoding}"))).body == shown


def answering(headers: bytes, body: bytes = b"", status: bytes = b"200 OK") -> str:
    return raw(b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, headers, len(body), body))


SECRET = "hunter2-everywhere"


def hiding(inbox: Inbox, behaviour: str, **fields: object) -> Request:
    return request(inbox.url(behaviour), hidden=headers.secrets_in(f"X-Token: {SECRET}"), **fields)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-32"])
def test_nuls_do_not_protect_a_secret_from_hiding(transport: Transport, inbox: Inbox, encoding: str) -> None:
    body = f"you sent {SECRET}".encode(encoding)
    outcome = transport.send(hiding(inbox, answering(b"Content-Type: text/plain\r\n", body)))
    assert outcome.body.endswith("you sent ********")


@pytest.mark.parametrize("code", [b"500", b"302"])
def test_secrets_in_a_head_are_hidden(transport: Transport, inbox: Inbox, code: bytes) -> None:
    secret = "\0".join(SECRET).encode()
    headers = b"X-Echo: %b\r\nX-%b: 1\r\nLocation: /%b\r\n" % (secret, SECRET.encode(), secret)
    outcome = transport.send(hiding(inbox, answering(headers, status=code + b" " + secret)))
    assert "********" in outcome.reason
    assert outcome.headers["X-Echo"] == "********"
    assert SECRET not in str(outcome)


@pytest.mark.cost
@pytest.mark.parametrize("value", [b"-" * 1200, b"&#0" + b"0" * 1200], ids=["-", "&#0"])
def test_hiding_secrets_in_long_headers_is_quick(transport: Transport, inbox: Inbox, value: bytes) -> None:
    secrets = "\n".join(f"X-{number}: {'-' * (30 + number)}x" for number in range(5))
    long = b"".join(b"X-%d: %b\r\n" % (number, value) for number in range(95))
    url = inbox.url(answering(b"Location: %b\r\n%b" % (value, long), status=b"302 " + value))
    began = time.thread_time()
    outcome = transport.send(request(url, hidden=headers.secrets_in(secrets)))
    assert outcome.status == 302
    assert time.thread_time() - began < 3
    assert len(outcome.headers) == 50
    assert max(map(len, outcome.headers.values())) <= 1024


@pytest.mark.parametrize(
    "retry_after", [b"Mon, 01 Jan 99999999999999999999 00:00:00 GMT", b"Mon, 01 Jan 99999 00:00:00 GMT", b"\0", b"30"]
)
def test_a_broken_retry_after_does_not_fail_a_success(transport: Transport, inbox: Inbox, retry_after: bytes) -> None:
    outcome = transport.send(request(inbox.url(answering(b"Retry-After: %b\r\n" % retry_after))))
    assert (outcome.status, outcome.reason, outcome.retry_after) == (200, "", None)


@pytest.mark.parametrize("status", [b"200 OK", b"410 Gone", b"429 Too Many Requests"])
@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 100\r\nConnection: close\r\n\r\nonly this",
        b"Transfer-Encoding: chunked\r\n\r\n4\r\nonly\r\nthis\r\n",
    ],
    ids=["cut off", "bad chunk"],
)
def test_status_and_headers_count_if_the_body_is_unreadable(
    transport: Transport, inbox: Inbox, status: bytes, rest: bytes
) -> None:
    answer = b"HTTP/1.1 %b\r\nRetry-After: 30\r\n%b" % (status, rest)
    outcome = transport.send(request(inbox.url(raw(answer)), timeout=2))
    code = int(status[:3])
    assert (outcome.status, outcome.succeeded, outcome.is_gone) == (code, False, code == 410)
    assert outcome.overloaded == (code == 429 or outcome.timed_out)
    assert outcome.retry_after == (None if code == 200 else 30)
    assert outcome.headers["Retry-After"] == "30"
    assert outcome.reason.startswith(f"HTTP {code}")
    assert ", but the body could not be read: " in outcome.reason
    assert transport.send(request(inbox.url())).body == "ok"


def test_no_more_connections_are_kept_than_descriptors_allow(inbox: Inbox, secure_url: str) -> None:
    hosts = [f"receiver{number}.example.com" for number in range(20)]
    urls = [url.replace("127.0.0.1", host) for host in hosts for url in (inbox.url(), secure_url)]
    result = run_module("tests.support.few_descriptors", urls)
    assert result["reasons"] == []
    assert len(result["kept"]) > 5
    assert max(result["kept"]) < few_descriptors.LIMIT / 2
    first, *_, last = [[one.connection for one in inbox.received()][number::20] for number in range(20)]
    assert first[0] == first[1], "what fits is kept"
    assert last[0] != last[1]


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def secure_process(certificate: Certificate) -> Iterator[ReceiverProcess]:
    process = ReceiverProcess(certificate.certificate, certificate.key)
    yield process
    process.stop()


@pytest.fixture
def secure_url(secure_process: ReceiverProcess) -> str:
    return Inbox(secure_process).url()


def test_an_untrusted_certificate_is_refused(transport: Transport, secure_url: str) -> None:
    outcome = transport.send(request(secure_url))
    assert outcome.reason.startswith("TLS certificate not trusted: ")
    assert "issuer" in outcome.reason or "self-signed" in outcome.reason


def test_a_ca_file_makes_it_trusted(transport: Transport, secure_url: str, certificate: Certificate) -> None:
    assert transport.send(request(secure_url, verify=certificate.authority)).succeeded


def test_verification_can_be_off(transport: Transport, secure_url: str) -> None:
    assert transport.send(request(secure_url, verify=False)).succeeded


def test_trust_is_separate_for_each_request(transport: Transport, secure_url: str, certificate: Certificate) -> None:
    answers = [
        transport.send(request(secure_url, verify=verify)).succeeded
        for verify in (True, False, True, certificate.authority, True, False, True)
    ]
    assert answers == [False, True, False, True, False, True, False]


def test_a_receiver_cannot_demand_a_costly_key_exchange(transport: Transport, tmp_path: Path) -> None:
    """The receiver chooses the size of Diffie-Hellman over a field, and the worker does the work."""
    certificate = make_certificate(tmp_path, key_type=trustme.KeyType.RSA)
    parameters = tmp_path / "dh.pem"
    number = random.Random(1).getrandbits(8192) | 3 << 8190 | 1
    modulus = b"\x02\x82\x04\x01\x00" + number.to_bytes(1024)  # as an INTEGER of DER
    encoded = base64.encodebytes(b"\x30\x82\x04\x08" + modulus + b"\x02\x01\x05").decode()
    parameters.write_text(f"-----BEGIN DH PARAMETERS-----\n{encoded}-----END DH PARAMETERS-----\n")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_dh_params(str(parameters))
    context.set_ciphers("DHE+AES")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError), context.wrap_socket(connection, server_side=True) as secure:
                secure.recv(65536)
                secure.sendall(GOOD)

        threading.Thread(target=serve, daemon=True).start()
        began = time.thread_time()
        outcome = transport.send(request(f"https://127.0.0.1:{server.getsockname()[1]}/", verify=certificate.authority))
    assert time.thread_time() - began < 0.1, "one step of 0.2 s, or of 0.9 s with 10,000 bits"
    assert (outcome.succeeded, outcome.kind) == (False, ErrorKind.TLS), outcome


def test_a_missing_ca_file_is_the_reason(transport: Transport, secure_url: str) -> None:
    outcome = transport.send(request(secure_url, verify="/nowhere/ca.pem"))
    assert "/nowhere/ca.pem" in outcome.reason


@pytest.mark.parametrize("kind", ["pipe", "directory", "terminal", "too large", "empty"])
def test_a_ca_path_that_is_no_plain_file_does_not_block(
    kind: str, transport: Transport, secure_url: str, tmp_path: Path
) -> None:
    """OpenSSL would wait for a writer, beyond the deadline."""
    path = tmp_path / "ca.pem"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "terminal":
        path.symlink_to("/dev/zero")
    else:  # OpenSSL would trust the authorities of the system instead of none
        path.write_bytes(b"x" * 1_000_001 if kind == "too large" else b"")
    outcome = transport.send(request(secure_url, timeout=5, verify=str(path)))
    assert outcome.reason == (
        f"the CA file {path} is empty, or has more than 1,000,000 bytes" if path.is_file() else
        f"the CA file {path} is no regular file"
    )  # fmt: skip
    assert outcome.duration_ms < 5000


@pytest.mark.parametrize("value", ["a\r\nX: b", "a\nb", "a\0b"])
def test_a_header_that_receivers_could_read_as_two_is_not_sent(transport: Transport, inbox: Inbox, value: str) -> None:
    """The forms refuse it, too."""
    outcome = transport.send(Request(inbox.url(), {"X-A": value}, b"{}", 5))
    assert outcome.reason == "a header has a line break in it"
    assert not inbox.received()


def test_a_ca_file_can_have_non_ascii_comments(
    transport: Transport, secure_url: str, certificate: Certificate, tmp_path: Path
) -> None:
    commented = tmp_path / "commented.pem"
    commented.write_text(f"# Größe\n{Path(certificate.authority).read_text()}")
    assert transport.send(request(secure_url, verify=str(commented))).succeeded


@pytest.mark.parametrize(
    ("name", "problem"),
    [("empty.pem", "cadata does not contain a certificate"), ("x" * 300, "File name too long")],
    ids=["no certificate", "no file name"],
)
def test_a_ca_file_that_cannot_be_used_is_the_reason(
    transport: Transport, secure_url: str, tmp_path: Path, name: str, problem: str
) -> None:
    """Not TLS with the receiver, nor the connection to it."""
    path = tmp_path / name
    if name == "empty.pem":
        path.write_text("nothing")
    outcome = transport.send(request(secure_url, verify=str(path)))
    assert outcome.kind == ErrorKind.CA_FILE
    assert outcome.reason.startswith(f"the CA file {path} cannot be used: ")
    assert problem in outcome.reason


def test_nothing_of_a_request_is_logged(transport: Transport, inbox: Inbox, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        assert transport.send(request(inbox.url("torn") + "?token=t0ps3cret")).succeeded
    assert "t0ps3cret" not in caplog.text
    assert "no header" not in caplog.text


def test_a_receiver_without_tls_is_the_reason(transport: Transport) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        outcome = transport.send(request(f"https://127.0.0.1:{server.getsockname()[1]}/"))
        thread.join(30)
    assert outcome.reason.startswith("TLS failed"), outcome.reason


# Retry-After


NOW = datetime(2026, 11, 24, 13, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("120", 120),
        (" 7 ", 7),
        ("0", 0),
        ("-5", None),
        ("soon", None),
        ("", None),
        ("Tue, 24 Nov 2026 13:01:30 GMT", 90),
        ("Tue, 24 Nov 2026 12:00:00 GMT", 0),
        ("Tue, 24 Nov 2026 14:01:30 +0100", 90),
        ("²", None),
        ("9" * 400, None),
        ("Tue, 99 Nov 2026 13:01:30 GMT", None),
        ("Mon, 01 Jan 99999 00:00:00 GMT", None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Mon, 01 Jan 2027 00:00:00 +99999999999999999999", None),
        ("Mon, 01 Jan 0001 00:00:00 +2300", 0),
    ],
)
def test_retry_after_reads_seconds_and_dates(value: str | None, seconds: float | None) -> None:
    found = retry_after(value, NOW)
    if value and len(value) > 100:
        assert found is None or found > 1e9
    else:
        assert found == seconds


def test_retry_after_is_in_the_outcome(transport: Transport, inbox: Inbox) -> None:
    outcome = transport.send(request(inbox.url("retry-after/429/30")))
    assert (outcome.status, outcome.retry_after, outcome.overloaded) == (429, 30, True)
