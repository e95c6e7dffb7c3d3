"""Send HTTP requests over kept connections, and return their Outcomes. Never raises, never follows a redirect."""

from __future__ import annotations

import re
import ssl
import time
from collections import deque
from collections.abc import Callable, Hashable
from datetime import UTC, datetime
from functools import lru_cache, partial
from http.client import BadStatusLine
from itertools import islice
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import requests

from webhooks.ground.conf import conf
from webhooks.ground.error_kinds import ErrorKind
from webhooks.ground.outcome import Outcome
from webhooks.ground.security.url_policy import PORTS
from webhooks.ground.text import clean
from webhooks.ground.text.redaction import redact
from webhooks.workers.network import connect
from webhooks.workers.network.answer import Answer
from webhooks.workers.network.attempt import REASON_LENGTH, Refused, Request, explain, is_timeout, judge, retry_after
from webhooks.workers.network.loop import Limits, Loop, Socket, Steps, usable_descriptors

# The stored part of the headers of an answer, as in GitLab.
_HEADERS_KEPT = 50
_HEADER_LENGTH = 1024

# The other side has closed the connection.
_CLOSED = (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError, ssl.SSLZeroReturnError)

# Seconds after which a connection is not used again. The name may have other addresses by then. Or a firewall may have
# dropped the connection without notice to either end, and a request over it would wait for its timeout.
MAX_AGE = 30

# A receiver may close a kept connection just when a request is under way. That shows within a round trip. An end within
# so many seconds of the request, or twice the round trip if that is more, is taken for one. After a later end, the
# receiver may have handled the request, and it is not sent again.
SOON = 0.2

# Receivers with kept connections. Beyond this, the connections of the least recently used one are closed.
MAX_RECEIVERS = 100

# Bytes that are read in addition to the wanted ones of a body, at most: head, chunk sizes, compression.
OVERHEAD_BYTES = 1_000_000

_NOT_IN_FIRST_LINE = re.compile(r"[^\x21-\x7e]")

utc_now = partial(datetime.now, UTC)


class Transport(Loop):
    """Sends requests over kept connections, many at once, in the thread that calls it. ``now`` is the clock of
    outcomes. Call ``poll`` before ``start``: it also closes kept connections that receivers have closed."""

    def __init__(self, now: Callable[[], datetime] = utc_now) -> None:
        super().__init__()
        self._now = now
        self._kept = KeptConnections()

    def start(self, request: Request, done: Callable[[Outcome], None]) -> None:
        """Begin to send. ``done`` gets the Outcome within ``request.timeout`` seconds and a moment, if ``poll`` is
        called until then."""
        limits = limits_of(request)
        self.add(self._exchange(request, limits), limits, done)

    def close(self) -> None:
        """Abandon the requests in flight and close all connections."""
        self._kept.close()
        super().close()

    def _exchange(self, request: Request, limits: Limits) -> Steps[Outcome]:
        started_at, answer = self._now(), Answer(request.keep)
        error: Exception | None = None
        try:
            yield from ask(self._kept, request, answer, limits)
        except Exception as raised:  # a receiver or a setting can cause any: each is a failed attempt with a reason
            error = raised
        outcome = outcome_of(request, answer, error, started_at, self._now, limits)
        if answer.has_begun and (self._kept.costly or limits.is_suspect):
            self._kept.note_cost(_key(request), limits)
        return outcome


def limits_of(request: Request) -> Limits:
    return Limits(request.timeout, OVERHEAD_BYTES + request.keep)


def ask(connections: KeptConnections, request: Request, answer: Answer, limits: Limits) -> Steps[None]:
    """Send a request over a kept or a new connection, and read its answer. Raises the errors of
    ``connect.connect`` and ``Answer.read``."""
    target = _target(request.method, request.url)
    message = _message(target, request)
    key = _key(request)
    if key in connections.costly:
        limits.expect(connections.costly[key])
    for is_first in (True, False):
        kept = connections.take(key) if is_first and not request.connects else None
        connections.in_use += 1
        try:
            connection = kept or (yield from _connect(connections, target, request, limits))
            is_open, begin = False, time.monotonic()
            try:
                is_open = yield from _converse(connection, message, answer, limits)
                return
            except _CLOSED:
                is_soon = time.monotonic() - begin <= max(SOON, 2 * connection.round_trip)
                if not kept or answer.has_begun or not is_soon:
                    raise
                # The receiver had closed the kept connection meanwhile, which is no failure.
            except BadStatusLine:
                if kept:  # it may be the body of a 204, for example, which came after the request
                    connections.note_surplus(key)
                raise
            finally:
                if is_open:
                    connections.keep(key, connection)
                else:
                    connection.close()
        finally:
            connections.in_use -= 1


def _connect(connections: KeptConnections, target: _Target, request: Request, limits: Limits) -> Steps[Socket]:
    connections.make_room()
    return (yield from connect.connect(target.scheme, target.host, target.port, request.verify, limits))


def _converse(connection: Socket, message: bytes, answer: Answer, limits: Limits) -> Steps[bool]:
    """Send a request and read its answer. Returns whether the connection may be used again."""
    try:
        yield from connection.write(message, limits)
    except _CLOSED:  # it may have answered before it closed the connection, for example that the body is too large
        yield from answer.read(connection, limits)
        return False
    limits.begin_answer()
    return (yield from answer.read(connection, limits))


class _Target(NamedTuple):
    """Where a request goes, and the part that all requests to this URL share."""

    scheme: str
    host: str
    port: int
    start: str
    """The request line and the header Host."""


def _key(request: Request) -> Hashable:
    """What requests have in common that may share a connection."""
    target = _target(request.method, request.url)
    return target.scheme, target.host, target.port, conf.proxy, request.verify


@lru_cache(maxsize=256)
def _target(method: str, url: str) -> _Target:
    """Parsing the URL takes longer than the rest. Raises ValueError, and Refused."""
    prepared = requests.PreparedRequest()
    prepared.prepare(method=method, url=url)
    parts = urlsplit(prepared.url or "")
    if parts.scheme not in PORTS or not parts.hostname:
        raise Refused("nothing can be sent to such a URL", ErrorKind.INVALID_URL)
    port = parts.port or PORTS[parts.scheme]
    host = parts.hostname.removesuffix(".")
    host = f"[{host}]" if ":" in host else host
    host = host if port == PORTS[parts.scheme] else f"{host}:{port}"
    if _NOT_IN_FIRST_LINE.search(f"{method}{prepared.path_url}{host}"):
        raise Refused("the URL has a character that cannot be sent", ErrorKind.INVALID_URL)
    start = f"{method} {prepared.path_url} HTTP/1.1\r\nHost: {host}\r\n"
    return _Target(parts.scheme, parts.hostname, port, start)


def _message(target: _Target, request: Request) -> bytes:
    """The whole request in one piece, which saves a packet and a wake-up of the receiver."""
    names = set(map(str.lower, request.headers))
    fields = "".join([f"{name}: {value}\r\n" for name, value in request.headers.items()])
    if not fields.count("\r") == fields.count("\n") == len(names) or "\0" in fields:
        raise Refused("a header has a line break in it", ErrorKind.OTHER)
    coding = "" if "accept-encoding" in names else "Accept-Encoding: identity\r\n"
    head = f"{target.start}{coding}{fields}Content-Length: {len(request.body)}\r\n\r\n"
    return head.encode("latin-1") + request.body


def outcome_of(
    request: Request,
    answer: Answer,
    error: BaseException | None,
    started_at: datetime,
    now: Callable[[], datetime],
    limits: Limits,
) -> Outcome:
    """The Outcome of an attempt: an answer, an error, or both."""

    def kept(text: str, length: int) -> str:
        # Cut first, for a receiver may write far more. Clean before hiding, or NULs inside a secret protect it.
        return redact(clean(text[:length]), request.hidden)

    kind: ErrorKind | Literal[""] = ""
    reason = ""
    if answer.status is not None:
        location, phrase = kept(answer.header("location") or "", REASON_LENGTH), kept(answer.phrase, REASON_LENGTH)
        kind, reason = judge(answer.status, phrase, location)
    wait = retry_after(answer.header("retry-after"), now()) if reason else None
    if error:
        # With a status too: the receiver may not have finished, so it is a failure, as in NetBox. A 410 or 429 counts.
        in_body = answer.status is not None
        error_kind, why = explain(error, request.timeout, in_body)
        kind, why = kind or error_kind, redact(why, request.hidden)
        if in_body:
            status = reason[:200] or f"HTTP {answer.status}"
            why = f"{status}, but the body could not be read: {why}"[:REASON_LENGTH]
        reason = why
    return Outcome(
        started_at,
        duration_ms=round((time.monotonic() - limits.begin) * 1000),
        reason=reason,
        kind=kind,
        status=answer.status,
        headers={
            kept(name, _HEADER_LENGTH): kept(value, _HEADER_LENGTH)
            for name, value in islice(answer.fields.values(), _HEADERS_KEPT)
        },
        body="" if error else redact(clean(answer.body.decode(errors="replace")), request.hidden),
        timed_out=error is not None and is_timeout(error),
        retry_after=wait,
        has_connected=limits.has_connected,
        request=request.stored(),
        cost=limits.cost if answer.has_begun else 0.0,
    )


class KeptConnections:
    """Connections that no request uses, by a key for the receiver and how to reach it.

    Keeps none while all usable file descriptors are in use. A new descriptor is the lowest free one, so its number
    shows how many are in use.
    """

    def __init__(self) -> None:
        # The least recently used receiver first, and of each its least recently used connection.
        self._kept: dict[Hashable, deque[Socket]] = {}
        self.costly: dict[Hashable, bool] = {}
        """Receivers whose last answer may have cost more than its allowance, and whether it surely did. Then the next
        one has none."""
        self._surplus: dict[Hashable, None] = {}  # receivers that may send bytes after their answers
        self.in_use = 0
        """How many requests have a connection, or are about to open one."""
        self._highest = usable_descriptors()

    def take(self, key: Hashable) -> Socket | None:
        """A connection that is still open and silent, and not old. The loop that watches it may not know yet: what
        arrives before a request must not count as its answer."""
        kept = self._kept.get(key, ())
        while kept:
            connection = kept.pop()
            if connection.is_silent and not _is_old(connection):
                return connection
            connection.close()
        return None

    def keep(self, key: Hashable, connection: Socket) -> None:
        if connection.fileno() >= self._highest or _is_old(connection) or key in self._surplus:
            connection.close()
            return
        kept = self._kept.pop(key, None) or deque()
        while kept and (kept[0].fileno() < 0 or _is_old(kept[0])):
            kept.popleft().close()
        kept.append(connection)
        self._kept[key] = kept
        if len(self._kept) > MAX_RECEIVERS:
            self._close(next(iter(self._kept)))

    def make_room(self) -> None:
        """Before another connection is opened, close as many that no request uses as there are too many. The least
        recently used receiver loses them."""
        too_many = self.in_use + sum(map(len, self._kept.values())) - self._highest
        for kept in self._kept.values():
            while kept and too_many > 0:
                kept.popleft().close()
                too_many -= 1

    def note_cost(self, key: Hashable, limits: Limits) -> None:
        """Note whether the last answer of a receiver cost more than its allowance."""
        self.costly.pop(key, None)
        if limits.is_suspect:
            self.costly[key] = limits.is_exact
        if len(self.costly) > MAX_RECEIVERS:
            del self.costly[next(iter(self.costly))]

    def note_surplus(self, key: Hashable) -> None:
        """Keep no connection to a receiver any more: its bytes would spoil the next answer, too."""
        self._surplus[key] = None
        if len(self._surplus) > MAX_RECEIVERS:
            del self._surplus[next(iter(self._surplus))]

    def close(self) -> None:
        for key in list(self._kept):
            self._close(key)

    def _close(self, key: Hashable) -> None:
        for connection in self._kept.pop(key):
            connection.close()


def _is_old(connection: Socket) -> bool:
    return time.monotonic() - connection.opened >= MAX_AGE
