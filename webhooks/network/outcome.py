"""What came of a request: a value, with the reason of a failure in words for an admin."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from webhooks.text import clean

TOO_MANY_REQUESTS = 429
GONE = 410

# Characters that are kept of a reason, some of which the receiver wrote.
REASON_LENGTH = 500

WORKER_ENDED = "the worker ended while sending this, three times"
NO_HTTP = "the answer is no valid HTTP"
UNREAD = ", but the body could not be read"

# What requests and urllib3 put into the words of their errors: a URL may be a secret.
_URL = re.compile(r"(with url: |https?://)[^\s'\"]+", re.IGNORECASE)

_OF_STATUS = re.compile(r"HTTP ([0-9]{3})\b")
# What follows these words comes from a template, or from an error that nobody foresaw.
_SPECIFIC = re.compile(
    r"the (?:URL|headers|body) (?:could not be rendered|came out as)|the request could not be made|\w+(?=: )"
)


class Refused(Exception):
    """A request or a connection that was not made, or an answer that was not read, with the reason for an admin: it is
    the app that refuses, or the proxy."""


@dataclass(frozen=True)
class Outcome:
    """``reason`` is empty for a success; ``retry_after`` is what the receiver asked for, in seconds; ``url`` is where
    the request went, empty where none could be made."""

    started_at: datetime
    duration_ms: int
    reason: str = ""
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    timed_out: bool = False
    retry_after: float | None = None
    url: str = ""

    @property
    def succeeded(self) -> bool:
        return not self.reason

    def without_answer(self, why: str) -> Outcome:
        """The same, but for what the receiver wrote, and with a word about that where it failed."""
        reason = f"{self.reason[:200]}{why}" if self.reason else ""
        return replace(self, headers={}, body="", reason=reason)

    def without_body(self, why: str, timed_out: bool) -> Outcome:
        """The same where the body could not be read. No success, whatever the status: the receiver, or something
        before it, broke off or speaks nonsense, so it may not have come to its end; and so NetBox has it, too."""
        reason = f"{self.reason[:200] or f'HTTP {self.status}'}{UNREAD}: {why}"
        return replace(self, reason=reason[:REASON_LENGTH], timed_out=timed_out)

    @property
    def is_gone(self) -> bool:
        return self.status == GONE

    @property
    def overloaded(self) -> bool:
        return self.timed_out or self.status == TOO_MANY_REQUESTS


def judge(status: int, phrase: str, location: str) -> str:
    """Why an answer is no success, or nothing: 2xx is one."""
    if 300 <= status < 400 and location:
        return clean(f"HTTP {status}: redirects to {location[:200]}, which is not followed")
    return "" if 200 <= status < 300 else clean(f"HTTP {status} {phrase}".strip(), REASON_LENGTH)


def in_general(reason: str) -> str:
    """Why an attempt failed, in the app's own words: without what the receiver, a template or a library has put into
    them."""
    if found := _OF_STATUS.match(reason):
        status = int(found[1])
        redirects = ": redirects are not followed" if reason.startswith(f"{found[0]}: redirects to ") else ""
        unread = UNREAD if 200 <= status < 300 else ""
        return f"HTTP {status} {http.client.responses.get(status, '')}".strip() + redirects + unread
    if found := _SPECIFIC.match(reason):
        return f"{found[0]} …"
    return NO_HTTP if reason.startswith(NO_HTTP) else reason


def retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for, from a number or a date; None for none, or nonsense."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def explain(error: BaseException, timeout: float, in_body: bool = False) -> str:
    """Why a request failed, or with ``in_body`` why the body of the answer could not be read. ``timeout`` is what the
    request had in all, in seconds."""
    if is_timeout(error):
        return f"it did not end within {timeout:g} s" if in_body else f"no answer within {timeout:g} s"
    reason = next(filter(None, (_known(cause, in_body) for cause in _causes(error))), "")
    return clean(reason or _URL.sub(r"\1…", f"{type(error).__name__}: {error}"), REASON_LENGTH)


def is_timeout(error: BaseException) -> bool:
    # A refused second address may follow a timeout on the first: only then is it no timeout.
    return any(isinstance(cause, TimeoutError) for cause in _causes(error))


def is_disconnect(error: BaseException) -> bool:
    """Whether the other side closed the connection."""
    return any(isinstance(cause, ConnectionResetError | BrokenPipeError) for cause in _causes(error))


def _known(cause: BaseException, in_body: bool) -> str:
    match cause:
        case Refused():
            return str(cause)
        case ssl.SSLCertVerificationError():
            return f"TLS certificate not trusted: {cause.verify_message}"
        case ssl.SSLError():
            return f"TLS failed: {cause.reason or cause}"
        case socket.gaierror():
            return f"the name does not resolve: {cause.strerror}"
        case ConnectionRefusedError():
            return "connection refused"
        case ConnectionResetError() | BrokenPipeError() | http.client.IncompleteRead():
            return f"connection closed by the receiver before {'its end' if in_body else 'it answered'}"
        case zlib.error():
            return "it is not compressed as it says"
        case http.client.HTTPException():
            return f"{NO_HTTP}: {type(cause).__name__} {cause}".rstrip()
        case OSError(strerror=str() as text):
            return f"connection failed: {text}"
    return ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that lies under it, innermost last: requests and urllib3 keep the real one in their
    arguments and reasons."""
    seen: list[BaseException] = []
    ahead: list[object] = [error]
    while ahead:
        cause = ahead.pop(0)
        if isinstance(cause, BaseException) and not any(cause is other for other in seen):
            seen.append(cause)
            ahead += [getattr(cause, "reason", None), cause.__cause__, cause.__context__, *cause.args]
            yield cause
