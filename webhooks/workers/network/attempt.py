"""The request of an attempt, and the kind and the reason of its failure. Pure."""

from __future__ import annotations

import errno
import hashlib
import http.client
import re
import socket
import ssl
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from webhooks.ground.error_kinds import ErrorKind, kind_of_status
from webhooks.ground.outcome import StoredRequest
from webhooks.ground.text import clean
from webhooks.ground.text.redaction import REDACTED

# Headers with credentials or signatures. Their values are never stored.
SECRET_NAMES = {"authorization", "cookie", "x-hook-signature", "webhook-signature"}

REASON_LENGTH = 500  # characters that are kept of a reason; the receiver wrote some of them

NO_HTTP = ErrorKind.INVALID_HTTP.english

# The name servers answered that there is no such name, or no address for it. Other errors are of the resolver itself.
_UNKNOWN_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
# The worker's own system has no more of something.
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
_UNREACHABLE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN}

# Errors of requests contain the URL, and a URL may be a secret.
_URL = re.compile(r"(with url: |https?://)[^\s'\"]+", re.IGNORECASE)


@dataclass(slots=True)
class Request:
    """One request to send."""

    url: str
    headers: dict[str, str] = field(repr=False)
    """Each name once, in upper or lower case. HTTP adds Host, Content-Length and Accept-Encoding."""
    body: bytes
    timeout: float
    """Seconds for the whole request, from resolving the name to the last byte."""
    verify: bool | str = True
    """Whether to verify the TLS certificate, or the path of a CA file."""
    keep: int = 8192
    """Bytes of the body of the answer that are read."""
    method: str = "POST"
    hidden: Collection[str] = field(default=(), repr=False)
    """Secrets to hide in everything that is stored of the answer."""
    secret_names: Collection[str] = ()
    """Headers whose values are never stored, in lower case."""
    body_kind: str = ""
    """What wrote the body, for the record."""
    stores_body: bool = False
    """Whether to store the body, because it cannot be created again."""
    connects: bool = False
    """Whether to resolve the name and open a connection, instead of sending over a kept one."""
    converse: Callable[[Request, Any], Any] | None = field(default=None, repr=False)
    """Set by a strategy that wants to see the answer. Send it by ``auth.exchange`` in the same thread: the strategy may
    keep something for its thread."""

    def stored(self) -> StoredRequest:
        """Its parts for the database. Takes a few microseconds for each KB."""
        secret = SECRET_NAMES.union(self.secret_names)
        headers = {name: REDACTED if name.lower() in secret else value for name, value in self.headers.items()}
        body = zlib.compress(self.body) if self.stores_body else b""
        return StoredRequest(
            self.method, self.url, headers, self.body_kind, hashlib.sha256(self.body).hexdigest(), body
        )


class Refused(Exception):
    """The app or its proxy refused to connect, to send or to read an answer. The text is for an admin."""

    def __init__(self, reason: str, kind: ErrorKind) -> None:
        super().__init__(reason)
        self.kind = kind


class TimedOut(TimeoutError):
    """A step before the request did not end in time. The text, such as "no connection", goes on with the time."""

    def __init__(self, step: str, kind: ErrorKind) -> None:
        super().__init__(step)
        self.kind = kind


def judge(status: int, phrase: str, location: str) -> tuple[ErrorKind | Literal[""], str]:
    """The kind and the reason of a failure; empty for a success, which is any 2xx."""
    if 200 <= status < 300:
        return "", ""
    if 300 <= status < 400 and location:
        return ErrorKind.REDIRECT, f"HTTP {status}: redirects to {location[:200]}, which is not followed"
    return kind_of_status(status), f"HTTP {status} {phrase}".strip()[:REASON_LENGTH]


def retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date. None without one, or for nonsense."""
    if value is None:
        return None
    if re.fullmatch(r"\s*[0-9]+\s*", value):
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds())


def explain(error: BaseException, timeout: float, in_body: bool = False) -> tuple[ErrorKind, str]:
    """The kind and the reason of a failed request, or with ``in_body`` of an answer whose body could not be read.
    ``timeout`` is the total deadline in seconds."""
    if is_timeout(error):
        early = next((cause for cause in _causes(error) if isinstance(cause, TimedOut)), None)
        step = early or ("it did not end" if in_body else "no answer")
        return early.kind if early else ErrorKind.ANSWER_TIMEOUT, f"{step} within {timeout:g} s"
    found = next(filter(None, (_known_reason(cause, in_body) for cause in _causes(error))), None)
    kind, reason = found or (ErrorKind.OTHER, _URL.sub(r"\1…", f"{type(error).__name__}: {error}"))
    return kind, clean(reason, REASON_LENGTH)


def is_timeout(error: BaseException) -> bool:
    """Whether a deadline ended the request. If a host has several addresses, the error of the last one counts."""
    return any(isinstance(cause, TimeoutError) for cause in _causes(error))


def _known_reason(cause: BaseException, in_body: bool) -> tuple[ErrorKind, str] | None:
    match cause:
        case Refused():
            return cause.kind, str(cause)
        case ssl.SSLCertVerificationError():
            return ErrorKind.TLS_CERTIFICATE, f"TLS certificate not trusted: {cause.verify_message}"
        case ssl.SSLError():
            return ErrorKind.TLS, f"TLS failed: {cause.reason or cause}"
        case socket.gaierror():
            kind = ErrorKind.NAME_UNKNOWN if cause.errno in _UNKNOWN_NAME else ErrorKind.RESOLVER
            return kind, f"the name does not resolve: {cause.strerror}"
        case ConnectionRefusedError():
            return ErrorKind.REFUSED, "connection refused"
        case ConnectionResetError() | BrokenPipeError() | http.client.IncompleteRead():
            return ErrorKind.CLOSED, f"{ErrorKind.CLOSED.english} before {'its end' if in_body else 'it answered'}"
        case http.client.HTTPException():
            return ErrorKind.INVALID_HTTP, f"{NO_HTTP}: {type(cause).__name__} {cause}".rstrip()
        case OSError(strerror=str() as text) if cause.errno in _OUT_OF_RESOURCES:
            return ErrorKind.RESOURCES, f"{ErrorKind.RESOURCES.english}: {text}"
        case OSError(strerror=str() as text):
            kind = ErrorKind.UNREACHABLE if cause.errno in _UNREACHABLE else ErrorKind.CONNECTION_FAILED
            return kind, f"connection failed: {text}"
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and the errors that caused it, the first of them last."""
    cause: BaseException | None = error
    while cause:
        yield cause
        cause = cause.__cause__ if cause.__suppress_context__ else cause.__context__
