"""The result of a request as a value, with the reason of a failure in words for an admin. Pure."""

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

REASON_LENGTH = 500  # characters that are kept of a reason; the receiver wrote some of them

WORKER_ENDED = "the worker ended while sending this, three times"
NO_HTTP = "the answer is no valid HTTP"
UNREAD = ", but the body could not be read"

# Errors of requests and urllib3 contain the URL, and a URL may be a secret.
_URL = re.compile(r"(with url: |https?://)[^\s'\"]+", re.IGNORECASE)

_STATUS = re.compile(r"HTTP ([0-9]{3})\b")
# A template or an unknown error wrote the text after these words.
_WITH_DETAILS = re.compile(
    r"the (?:URL|headers|body) (?:could not be rendered|came out as)|the request could not be made|\w+(?=: )"
)


class Refused(Exception):
    """The app or its proxy refused to connect, to send or to read an answer. The text is for an admin."""


@dataclass(frozen=True)
class Outcome:
    """The result of one attempt."""

    started_at: datetime
    duration_ms: int
    reason: str = ""
    """Why the attempt failed; empty for a success."""
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    timed_out: bool = False
    retry_after: float | None = None
    """Seconds that the receiver asked to wait."""
    url: str = ""
    """Where the request went; empty if there was no request."""

    @property
    def succeeded(self) -> bool:
        return not self.reason

    @property
    def is_gone(self) -> bool:
        return self.status == 410

    @property
    def overloaded(self) -> bool:
        return self.timed_out or self.status == 429

    def with_unread_body(self, why: str, timed_out: bool) -> Outcome:
        """The failure of a broken body, with any status, as in NetBox: the receiver may not have finished."""
        reason = f"{self.reason[:200] or f'HTTP {self.status}'}{UNREAD}: {why}"
        return replace(self, reason=reason[:REASON_LENGTH], timed_out=timed_out)


def judge(status: int, phrase: str, location: str) -> str:
    """Why a response is a failure; empty for a success, which is any 2xx."""
    if 300 <= status < 400 and location:
        return clean(f"HTTP {status}: redirects to {location[:200]}, which is not followed")
    return "" if 200 <= status < 300 else clean(f"HTTP {status} {phrase}".strip(), REASON_LENGTH)


def error_kind(reason: str) -> str:
    """The reason in the app's own words, without text from the receiver, a template or a library."""
    if found := _STATUS.match(reason):
        status = int(found[1])
        redirects = ": redirects are not followed" if reason.startswith(f"{found[0]}: redirects to ") else ""
        unread = UNREAD if 200 <= status < 300 else ""
        return f"HTTP {status} {http.client.responses.get(status, '')}".strip() + redirects + unread
    if found := _WITH_DETAILS.match(reason):
        return f"{found[0]} …"
    return NO_HTTP if reason.startswith(NO_HTTP) else reason


def retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date. None without one, or for nonsense."""
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
    """Why a request failed, or with ``in_body`` why the body of the answer could not be read. ``timeout`` is the total
    deadline in seconds."""
    if is_timeout(error):
        return f"it did not end within {timeout:g} s" if in_body else f"no answer within {timeout:g} s"
    reason = next(filter(None, (_known_reason(cause, in_body) for cause in _causes(error))), "")
    return clean(reason or _URL.sub(r"\1…", f"{type(error).__name__}: {error}"), REASON_LENGTH)


def is_timeout(error: BaseException) -> bool:
    # The first address may time out and the second refuse. That counts as a timeout.
    return any(isinstance(cause, TimeoutError) for cause in _causes(error))


def is_disconnect(error: BaseException) -> bool:
    """Whether the other side closed the connection."""
    return any(isinstance(cause, ConnectionResetError | BrokenPipeError) for cause in _causes(error))


def _known_reason(cause: BaseException, in_body: bool) -> str:
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
    """The error and every error under it, innermost last. requests and urllib3 keep the real one in arguments."""
    seen: list[BaseException] = []
    ahead: list[object] = [error]
    while ahead:
        cause = ahead.pop(0)
        if isinstance(cause, BaseException) and not any(cause is other for other in seen):
            seen.append(cause)
            ahead += [getattr(cause, "reason", None), cause.__cause__, cause.__context__, *cause.args]
            yield cause
