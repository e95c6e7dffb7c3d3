"""One POST through requests, and what came of it: an Outcome, which is a value and never an exception."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy

import requests
import urllib3.exceptions


@dataclass(frozen=True)
class Request:
    """What is sent: ``timeout`` in seconds; ``verify`` is True, False, or the path of a CA file."""

    url: str
    headers: dict[str, str]
    body: bytes
    timeout: float
    verify: bool | str = True
    keep: int = 8192


@dataclass(frozen=True)
class Outcome:
    """What came back: ``reason`` is empty for a success; ``retry_after`` is what the receiver asked for, in seconds."""

    started_at: datetime
    duration_ms: int
    reason: str = ""
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    timed_out: bool = False
    retry_after: float | None = None

    @property
    def succeeded(self) -> bool:
        return not self.reason

    @property
    def overloaded(self) -> bool:
        return self.timed_out or self.status == requests.codes.too_many_requests


class Transport:
    """Sends requests over connections that it keeps open. One for each sender thread."""

    def __init__(self) -> None:
        self._session = requests.Session()
        # No proxy, no .netrc and no CA bundle from the environment: only the webhook says how to send.
        self._session.trust_env = False
        # One receiver's cookies are none of the next webhook's business.
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))

    def send(self, request: Request) -> Outcome:
        """POST, without following redirects."""
        started_at, clock = datetime.now(UTC), time.monotonic()
        try:
            with self._session.post(
                request.url,
                data=request.body,
                headers=request.headers,
                timeout=request.timeout,
                verify=request.verify,
                allow_redirects=False,
                stream=True,
            ) as response:
                outcome = _answered(response, request, started_at)
        except Exception as error:
            # Whatever a receiver or a setting provokes is a failed attempt with a reason.
            outcome = Outcome(started_at, 0, reason=explain(error, request.timeout), timed_out=_is_timeout(error))
        return _timed(outcome, clock)

    def close(self) -> None:
        self._session.close()


def _timed(outcome: Outcome, since: float) -> Outcome:
    return Outcome(**{**outcome.__dict__, "duration_ms": round((time.monotonic() - since) * 1000)})


def _answered(response: requests.Response, request: Request, started_at: datetime) -> Outcome:
    body = response.raw.read(request.keep, decode_content=True)
    return Outcome(
        started_at,
        0,
        reason=_judge(response),
        status=response.status_code,
        headers={name: value.replace("\0", "") for name, value in response.headers.items()},
        body=body.decode(response.encoding or "utf-8", "replace").replace("\0", ""),
        retry_after=retry_after(response.headers.get("Retry-After"), datetime.now(UTC)),
    )


def _judge(response: requests.Response) -> str:
    if response.is_redirect or 300 <= response.status_code < 400:
        location = response.headers.get("Location", "nowhere")
        return f"HTTP {response.status_code}: redirects to {location[:200]}, which is not followed"
    if response.ok:
        return ""
    return f"HTTP {response.status_code} {response.reason or ''}".strip()


def retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for, from a number or a date; None for none, or nonsense."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def explain(error: BaseException, timeout: float) -> str:
    """Why a request failed, in words for an admin."""
    chain = list(_causes(error))
    for cause in chain:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"TLS certificate not trusted: {cause.verify_message}"
    for cause in chain:
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {cause.reason or cause}"
        if isinstance(cause, socket.gaierror):
            return f"the name does not resolve: {cause.strerror}"
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused"
        if isinstance(cause, ConnectionResetError | BrokenPipeError):
            return "connection closed by the receiver before it answered"
    if _is_timeout(error):
        return f"no answer within {timeout:g} s"
    for cause in chain:
        if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, requests.RequestException):
            return f"connection failed: {cause.strerror}"
        if isinstance(cause, urllib3.exceptions.ProtocolError) or "RemoteDisconnected" in type(cause).__name__:
            return "connection closed by the receiver before it answered"
    return f"{type(error).__name__}: {error}"


def _is_timeout(error: BaseException) -> bool:
    timeouts = (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError)
    return any(isinstance(cause, timeouts) for cause in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that lies under it: requests and urllib3 wrap the real one in arguments and reasons."""
    seen: list[BaseException] = []
    ahead: list[object] = [error]
    while ahead:
        cause = ahead.pop(0)
        if isinstance(cause, BaseException) and not any(cause is other for other in seen):
            seen.append(cause)
            ahead += [getattr(cause, "reason", None), cause.__cause__, cause.__context__, *cause.args]
            yield cause
