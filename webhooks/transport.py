"""One POST through requests, and what came of it: an Outcome, never an exception."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.ssl_ import create_urllib3_context, resolve_cert_reqs

from webhooks import deadlines, dialling
from webhooks.outcomes import Outcome, explain, is_disconnect, is_timeout, judge, retry_after
from webhooks.texts import clean

# What is kept of an answer's headers, as GitLab does.
HEADERS_KEPT = 50
HEADER_LENGTH = 1024


@dataclass(frozen=True)
class Request:
    """What is sent: ``timeout`` in seconds for all of it; ``verify`` is True, False, or the path of a CA file;
    ``keep`` is how many bytes of the answer's body are read."""

    url: str
    headers: dict[str, str]
    body: bytes
    timeout: float
    verify: bool | str = True
    keep: int = 8192


class Transport:
    """Sends requests over connections that it keeps open. Each sender thread has its own."""

    def __init__(self) -> None:
        self._session = requests.Session()
        # No proxy, no .netrc and no CA bundle from the environment: only the webhook says how to send.
        self._session.trust_env = False
        # One receiver's cookies are none of the next webhook's business.
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.headers.clear()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Adapter())

    def send(self, request: Request) -> Outcome:
        """POST, without following redirects. Returns within ``request.timeout`` seconds, and a moment."""
        started_at, clock = datetime.now(UTC), time.monotonic()
        try:
            with deadlines.deadline(request.timeout):
                outcome = self._post_afresh(request, started_at)
        except Exception as error:
            # Whatever a receiver or a setting provokes is a failed attempt with a reason.
            reason = explain(error, request.timeout)
            outcome = Outcome(started_at, 0, reason=reason, timed_out=is_timeout(error))
        return replace(outcome, duration_ms=round((time.monotonic() - clock) * 1000))

    def close(self) -> None:
        self._session.close()

    def _post_afresh(self, request: Request, started_at: datetime) -> Outcome:
        try:
            return self._post(request, started_at)
        except requests.ConnectionError as error:
            # A kept connection that the receiver closed while nobody used it says nothing about the receiver.
            if deadlines.has_connected() or not is_disconnect(error):
                raise
            return self._post(request, started_at)

    def _post(self, request: Request, started_at: datetime) -> Outcome:
        with self._session.post(
            request.url,
            data=request.body,
            headers=request.headers,
            timeout=request.timeout,
            verify=request.verify,
            allow_redirects=False,
            stream=True,
        ) as response:
            body = response.raw.read(request.keep, decode_content=True)
            return _outcome(response, body, started_at)


def _outcome(response: requests.Response, body: bytes, started_at: datetime) -> Outcome:
    headers = list(response.headers.items())[:HEADERS_KEPT]
    return Outcome(
        started_at,
        0,
        reason=judge(response.status_code, response.reason or "", response.headers.get("Location", "")),
        status=response.status_code,
        headers={clean(name): clean(value, HEADER_LENGTH) for name, value in headers},
        body=clean(body.decode(_encoding(response), "replace")),
        retry_after=retry_after(response.headers.get("Retry-After"), datetime.now(UTC)),
    )


def _encoding(response: requests.Response) -> str:
    try:
        "".encode(response.encoding or "utf-8")
    except LookupError:
        return "utf-8"
    return response.encoding or "utf-8"


class _Connection(HTTPConnection):
    def _new_conn(self) -> Any:
        return dialling.connect("http", self._dns_host, self.port)


class _TLSConnection(HTTPSConnection):
    def _new_conn(self) -> Any:
        return dialling.connect("https", self._dns_host, self.port)

    def connect(self) -> None:
        # A context of its own for each connection: what one webhook trusts, the next one need not.
        self.ssl_context = create_urllib3_context(cert_reqs=resolve_cert_reqs(self.cert_reqs))
        self.ssl_context.sslsocket_class = deadlines.TimedTLSSocket
        super().connect()


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TLSConnection

    def _validate_conn(self, conn: Any) -> None:
        # urllib3 warns of each request whose certificate is not verified; here an admin has said so, in the webhook.
        if conn.is_closed:
            conn.connect()


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
