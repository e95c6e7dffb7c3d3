"""What a worker makes of an answer depends on its bytes alone, and not on the packets in which they come."""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from webhooks.ground.error_kinds import ErrorKind
from webhooks.ground.outcome import Outcome
from webhooks.workers.network.answer import MAX_BODY_BYTES, MAX_HEAD_BYTES, PARTS_AT_ONCE, Answer
from webhooks.workers.network.attempt import Request
from webhooks.workers.network.loop import MOST_AT_ONCE, PAUSE, READ, Limits, Socket, Steps
from webhooks.workers.network.transport import limits_of, outcome_of

NOW = datetime(2026, 11, 24, tzinfo=UTC)
SENT = Request("http://hooks.example/", {}, b"{}", 60)

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = OK + b"Content-Length: 4\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


class Packets:
    """A connection on which these packets arrive, and then its end."""

    def __init__(self, packets: Sequence[bytes]) -> None:
        self._packets = [packet for packet in packets if packet]

    def read(self, limits: Limits) -> Steps[bytes]:
        yield cast(Socket, self), READ
        packet = self._packets.pop(0) if self._packets else b""
        if len(packet) > MOST_AT_ONCE:
            self._packets.insert(0, packet[MOST_AT_ONCE:])
        limits.charge(len(packet[:MOST_AT_ONCE]))
        return packet[:MOST_AT_ONCE]

    def acknowledge(self) -> None:
        """The reader acknowledges packets."""


def read(packets: Sequence[bytes]) -> tuple[Outcome, bool]:
    """The Outcome, and whether the connection is used again."""
    answer, limits, is_kept = Answer(SENT.keep), limits_of(SENT), False
    steps = answer.read(cast(Socket, Packets(packets)), limits)
    error: Exception | None = None
    try:
        while True:
            next(steps)
    except StopIteration as end:
        is_kept = end.value
    except Exception as raised:
        error = raised
    outcome = outcome_of(SENT, answer, error, NOW, lambda: NOW, limits)
    outcome.duration_ms, outcome.cost = 0, 0.0
    return outcome, is_kept


def cut(answer: bytes, cuts: Sequence[int]) -> list[bytes]:
    ends = sorted({min(place, len(answer)) for place in cuts} | {len(answer)})
    return [answer[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


BODIES = st.binary(max_size=50) | st.integers(8000, 9000).map(lambda size: b"0123456789" * (size // 10))
LINES = st.sampled_from(
    [
        *(b"X-Sound: 1\r\n", b"X-A(b): 1\r\n", b"no header\r\n", b"X: y\rz\r\n", b" folded\r\n", b": empty\r\n"),
        *(b"Content-Length: 4\r\n", b"Content-Length : 9\r\n", b"Connection: close\r\n", b"X-LF: 1\n"),
        *(b"Content-Encoding: gzip\r\n", b"Content-Encoding: deflate\r\n", b"Content-Encoding: gzip, gzip\r\n"),
        *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding: odd\r\n"),
        b"X: y\r\n" * 99,
    ]
)
SIZES = st.sampled_from([b"%x", b"%x", b"%x;", b"+%x", b" %x ", b"0x%x", b"%x;a=b", b"-%x", b"g%x"])


@st.composite
def answers(draw: Any) -> bytes:
    """Answers that are nearly valid."""
    interim = draw(st.sampled_from([b"", b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 \r\nLink: a\r\n\r\n"]))
    status = draw(
        st.sampled_from([OK, OK, OK, b"HTTP/1.1 204 No Content\n", b"HTTP/1.0 500 Oops\r\n", b"HTTP/2 200\r\n"])
    )
    body = draw(BODIES)
    body = draw(st.sampled_from([body, body, gzip.compress(body, mtime=0), zlib.compress(body, wbits=-15)]))
    if draw(st.booleans()):
        size = max(1, len(body) // draw(st.integers(1, 4)))
        parts = [body[begin : begin + size] for begin in range(0, len(body), size)]
        body = b"".join(draw(SIZES) % len(part) + b"\r\n" + part + b"\r\n" for part in parts)
        body += draw(st.sampled_from([b"0\r\n\r\n", b"0\r\n", b"0", b"0\r\nX: 1\r\n\r\n", b"0\r\nX", b"00\n\n"]))
    lines = draw(st.lists(LINES, max_size=4))
    if draw(st.booleans()):
        lines.append(b"Content-Length: %d\r\n" % len(body))
    return cast(bytes, interim + status + b"".join(lines) + b"\r\n" + body + draw(st.sampled_from([b"", b"", b"XX"])))


HUGE = OK + b"X: y\r\n" * 99 + b"X: " + b"y" * MAX_HEAD_BYTES + b"\r\n" + b"X: y\r\n" * 9 + b"\r\n"


@settings(max_examples=500, deadline=None)
@given(answers(), st.lists(st.integers(0, 9500), max_size=8))
@example(b"no HTTP" + HUGE, [7])
@example(HUGE, [MAX_HEAD_BYTES])
@example(OK + b"X: y\r\n" * 105 + b"\r\n", [200, 620])
@example(CHUNKED + b"2000\r\n" + b"x" * 8192 + b"no end", [len(CHUNKED) + 6 + 8192])
@example(CHUNKED + b"4\r\ngoo", [len(CHUNKED) + 5])
@example(OK + b"\r\n" + b"x" * (MAX_BODY_BYTES + 10), [len(OK) + 2 + MAX_BODY_BYTES])
def test_every_split_of_an_answer_gives_the_same_outcome(answer: bytes, cuts: list[int]) -> None:
    whole = read([answer])
    assert read(cut(answer, cuts))[0] == whole[0]
    assert read(in_bytes(answer))[0] == whole[0]


# What requests accepts, if the status is whole


TWICE = gzip.compress(gzip.compress(b"good", mtime=0), mtime=0)


@pytest.mark.parametrize(
    ("answer", "body", "is_kept"),
    [
        (LENGTH + b"\r\ngood", "good", True),
        (OK + b"X-A(b): 1\r\nContent-Length: 4\r\n\r\ngood", "good", False),
        (OK + b"no header\r\n folded\r\nContent-Length: 4\r\n\r\ngood", "good", False),
        (OK + b": empty\r\nContent-Length: 4\r\n\r\ngood", "good", False),
        (OK + "X-Größe: 1\r\n".encode() + b"Content-Length: 4\r\n\r\ngood", "good", False),
        (LENGTH + b"Content-Encoding: gzip\r\n\r\nnone", "", True),
        (LENGTH + b"Content-Encoding: deflate\r\n\r\nnone", "", True),
        (LENGTH + b"Content-Encoding: br\r\n\r\nnone", "none", True),
        (LENGTH + b"Content-Encoding: gzip, gzip\r\n\r\nnone", "", True),
        (LENGTH + b"Content-Encoding: " + b"gzip, " * 99 + b"gzip\r\n\r\nnone", "none", True),
        (OK + b"Content-Encoding: deflate\r\n\r\n" + zlib.compress(b"good", wbits=-15), "good", False),
        (OK + b"Content-Encoding: gzip, gzip\r\n\r\n" + TWICE, "good", False),
        (CHUNKED + b"4\r\ngood\r\n0\r\n\r\n", "good", True),
        (CHUNKED + b"4\r\ngood\r\n0\r\n", "good", False),
        (CHUNKED + b"4\r\ngood\r\n0", "good", False),
        (CHUNKED + b"4\r\ngood\r\n0\r\nX-Cut", "good", False),
        (CHUNKED + b"4;\r\ngood\r\n0\r\n\r\n", "good", True),
        (CHUNKED + b"4 ; ;\r\ngood\r\n0;\r\n\r\n", "good", True),
        (CHUNKED + b"+4\r\ngood\r\n0\r\n\r\n", "good", False),
        (CHUNKED + b" 4\r\ngood\r\n+0\r\n\r\n", "good", False),
        (CHUNKED + b"0x4\r\ngood\r\n0\r\n\r\n", "good", False),
        (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n", "good", False),
        (OK + b"Transfer-Encoding: chunked\r\n" + CHUNKED[17:] + b"4\r\ngood\r\n0\r\n\r\n", "good", False),
        (LENGTH + b"Transfer-Encoding: odd\r\n\r\ngood", "good", False),
        (OK + b"Transfer-Encoding: odd\r\n\r\n", "", False),
    ],
)  # fmt: skip
def test_an_odd_answer_with_a_whole_status_is_a_success(answer: bytes, body: str, is_kept: bool) -> None:
    outcome, kept = read([answer])
    assert (outcome.succeeded, outcome.body, kept) == (True, body, is_kept), outcome.reason


def test_headers_after_an_odd_line_count() -> None:
    outcome, _ = read([b"HTTP/1.1 429 Slow\r\nX-A(b): 1\r\n folded\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n"])
    assert outcome.headers == {"Retry-After": "30", "Content-Length": "0"}
    assert outcome.retry_after == 30


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (LENGTH + b"\r\ngoo", ErrorKind.CLOSED),
        (CHUNKED + b"4\r\ngood", ErrorKind.CLOSED),
        (CHUNKED + b"4\r\ngood\r\n", ErrorKind.CLOSED),
        (CHUNKED + b"4\r\ngood\r\n1", ErrorKind.CLOSED),
        (CHUNKED + b"4\r\ngood\r\nx\r\n", ErrorKind.INVALID_HTTP),
        (LENGTH + b"Content-Encoding: gzip\r\n\r\nnon", ErrorKind.CLOSED),
        (LENGTH + b"X-A(b): 1\r\nContent-Length: 5\r\n\r\ngood", ErrorKind.INVALID_HTTP),
    ],
)
def test_an_answer_that_is_cut_off_is_still_a_failure(answer: bytes, kind: ErrorKind) -> None:
    outcome, is_kept = read([answer])
    assert (outcome.succeeded, outcome.kind, is_kept) == (False, kind, False)


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (OK + b"Content-Encoding: gzip\r\n" + CHUNKED[17:], b"1\r\n\0\r\n"),
        (CHUNKED + b"0\r\n", b"x\n"),
        (b"", b"HTTP/1.1 100\n\n"),
    ],
    ids=["chunks", "lines of a trailer", "interim answers"],
)
def test_an_answer_may_have_10_000_parts(head: bytes, piece: bytes) -> None:
    outcome, _ = read([head + piece * 30_000])
    assert outcome.reason.removeprefix("HTTP 200, but the body could not be read: ") == "the answer has too many parts"
    assert outcome.kind == ErrorKind.ANSWER_TOO_LARGE


@pytest.mark.parametrize("piece", [b"1\r\n\0\r\n", b"1;\r\n\0\r\n"], ids=["plain", "with extensions"])
def test_the_last_part_that_an_answer_may_have_does_not_depend_on_packets(piece: bytes) -> None:
    reasons = []
    for count in range(4995, 5001):  # of two parts, and there are four lines of the head and two of the end
        answer = CHUNKED + count * piece + b"0\r\n\r\n"
        found = {read(packets)[0].reason for packets in ([answer], [answer[:-7], answer[-7:]], in_bytes(answer))}
        assert len(found) == 1, (count, found)
        reasons += found
    assert [bool(reason) for reason in reasons] == [False] * 3 + [True] * 3


def in_bytes(answer: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in answer]


def test_an_answer_pauses_after_a_fixed_number_of_parts() -> None:
    """The loop gives others a turn meanwhile."""
    answer, limits = Answer(SENT.keep), limits_of(SENT)
    steps, left = answer.read(cast(Socket, Packets([CHUNKED + 4000 * b"1\r\n\0\r\n" + b"0\r\n\r\n"])), limits), []
    with pytest.raises(StopIteration):
        while True:
            if next(steps)[1] == PAUSE:
                left.append(limits.parts)
    assert len(left) >= 8000 // PARTS_AT_ONCE
    assert {before - after for before, after in itertools.pairwise(left)} == {PARTS_AT_ONCE}
