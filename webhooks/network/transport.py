"""Send one HTTP request and return its Outcome. Never raises, never follows a redirect."""

from __future__ import annotations

import encodings
import functools
import math
import os
import re
import resource
import stat
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from encodings.aliases import aliases
from itertools import islice
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH, extract_zipped_paths
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.ssl_ import create_urllib3_context, resolve_cert_reqs

from webhooks import logs
from webhooks.network import connect, sockets
from webhooks.network.outcome import (
    REASON_LENGTH,
    Outcome,
    Refused,
    explain,
    is_disconnect,
    is_timeout,
    judge,
    retry_after,
)
from webhooks.text import clean, redact

# Receivers with kept connections. Beyond this, urllib3 closes the least recently used ones.
_MAX_RECEIVERS = 100

# The stored part of the headers of an answer, as in GitLab.
_HEADERS_KEPT = 50
_HEADER_LENGTH = 1024

_MAX_CA_FILE = 1_000_000  # bytes; the file of all public authorities has a quarter of that

# urllib3 logs URLs and broken header lines, and both may have secrets.
for _name in ("urllib3.connection", "urllib3.connectionpool"):
    logs.mute(_name, sockets.is_sending)


@dataclass(frozen=True)
class Request:
    """One request to send."""

    url: str
    headers: dict[str, str] = field(repr=False)
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


class Transport:
    """Sends requests over kept connections, up to ``most`` to each receiver. Threads may share it."""

    def __init__(self, most: int = 1) -> None:
        # The adapter without a session: a session looks for cookies, proxies, .netrc and CA bundles in the
        # environment, follows redirects, and takes time for each of these.
        self._adapter = _Adapter(pool_connections=_MAX_RECEIVERS, pool_maxsize=most)

    def send(self, request: Request) -> Outcome:
        """Send the request. Returns within ``request.timeout`` seconds and a moment."""
        started_at, clock = datetime.now(UTC), time.monotonic()
        try:
            with sockets.deadline(request.timeout, sockets.OVERHEAD_BYTES + request.keep):
                outcome = self._send_again_if_stale(request, started_at)
        except Exception as error:  # a receiver or a setting can cause any: each is a failed attempt with a reason
            reason = redact(explain(error, request.timeout), request.hidden)
            outcome = Outcome(started_at, 0, reason=reason, timed_out=is_timeout(error))
        return replace(outcome, url=request.url, duration_ms=round((time.monotonic() - clock) * 1000))

    def close(self) -> None:
        self._adapter.close()

    def _send_again_if_stale(self, request: Request, started_at: datetime) -> Outcome:
        """Send once more if the receiver had closed the kept connection meanwhile, which is no failure."""
        try:
            return self._send(request, started_at)
        except requests.ConnectionError as error:
            if sockets.has_connected() or not is_disconnect(error):
                raise
            return self._send(request, started_at)

    def _send(self, request: Request, started_at: datetime) -> Outcome:
        response = self._adapter.send(_prepared(request), stream=True, timeout=request.timeout, verify=request.verify)
        with response.raw as raw:
            try:
                body = raw.read(request.keep, decode_content=True)
            except Exception as error:
                # The status arrived, and a 410 or 429 still counts.
                outcome = _outcome(raw, b"", started_at, request.hidden)
                why = redact(explain(error, request.timeout, in_body=True), request.hidden)
                return outcome.with_unread_body(why, is_timeout(error))
            return _outcome(raw, body, started_at, request.hidden)


def _prepared(request: Request) -> requests.PreparedRequest:
    prepared = _prepared_for(request.method, request.url).copy()
    prepared.headers.update(request.headers)
    prepared.headers["Content-Length"] = str(len(request.body))
    prepared.body = request.body
    return prepared


@functools.lru_cache(maxsize=256)
def _prepared_for(method: str, url: str) -> requests.PreparedRequest:
    """The part that every request to this URL shares. Parsing the URL takes longer than the rest."""
    prepared = requests.PreparedRequest()
    prepared.prepare(method=method, url=url)
    return prepared


def _outcome(response: urllib3.BaseHTTPResponse, body: bytes, started_at: datetime, hidden: Collection[str]) -> Outcome:
    def kept(text: str, length: int) -> str:
        # Cut first, for a receiver may write far more. Clean before hiding, or NULs inside a secret protect it.
        return redact(clean(text[:length]), hidden)

    location, phrase = response.headers.get("Location", ""), response.reason or ""
    reason = judge(response.status, kept(phrase, REASON_LENGTH), kept(location, REASON_LENGTH))
    return Outcome(
        started_at,
        0,
        reason=reason,
        status=response.status,
        headers={
            kept(name, _HEADER_LENGTH): kept(value, _HEADER_LENGTH)
            for name, value in islice(response.headers.items(), _HEADERS_KEPT)
        },
        body=redact(clean(_decoded(body, response.headers.get("Content-Type", "")[:_HEADER_LENGTH])), hidden),
        retry_after=retry_after(response.headers.get("Retry-After"), datetime.now(UTC)) if reason else None,
    )


_CHARSET = re.compile(r";\s*charset\s*=\s*[\"']?([a-z0-9_.:-]{1,40})(?![a-z0-9_.:-])", re.IGNORECASE | re.ASCII)
# Python caches every charset name that it looks up, for ever, so only known names are looked up.
_KNOWN_CHARSETS = frozenset({*aliases, *aliases.values(), "koi8_u", "utf_8_sig"})


def _decoded(body: bytes, content_type: str) -> str:
    charset = "latin-1" if "text" in content_type else "utf-8"  # as requests does without a charset
    if found := _CHARSET.search(content_type):
        name = encodings.normalize_encoding(found[1]).lower()
        charset = name if name in _KNOWN_CHARSETS else "utf-8"
    try:
        return body.decode(charset, "replace")
    except (LookupError, UnicodeError):  # not a charset of text, or one that replaces nothing
        return body.decode("utf-8", "replace")


class _OneWrite:
    """Sends the head and the body of a request in one piece. That saves a packet and a wake-up of the receiver."""

    _parts: list[bytes] | None = None

    def request(self, *args: Any, **kwargs: Any) -> None:
        self._parts = []
        try:
            super().request(*args, **kwargs)  # type: ignore[misc]
        finally:
            parts, self._parts = self._parts, None
        super().send(b"".join(parts))  # type: ignore[misc]

    def send(self, data: Any) -> None:
        if self._parts is None:
            super().send(data)  # type: ignore[misc]
        else:
            self._parts.append(data)


class _Connection(_OneWrite, HTTPConnection):
    response_class = sockets.Response

    def _new_conn(self) -> Any:
        return connect.connect("http", self._dns_host, self.port)


class _TLSConnection(_OneWrite, HTTPSConnection):
    response_class = sockets.Response

    def _new_conn(self) -> Any:
        return connect.connect("https", self._dns_host, self.port)

    def connect(self) -> None:
        # Each connection has its own context: webhooks may trust different authorities.
        self.ssl_context = create_urllib3_context(cert_reqs=resolve_cert_reqs(self.cert_reqs))
        self.ssl_context.sslsocket_class = sockets.TimedTLSSocket
        path = self.ca_certs or self.ca_cert_dir
        if path and path != extract_zipped_paths(DEFAULT_CA_BUNDLE_PATH):  # type: ignore[no-untyped-call]
            self.ca_cert_data, self.ca_certs, self.ca_cert_dir = _read_ca_file(path), None, None
        super().connect()


def _read_ca_file(path: str) -> str:
    """Return the text of a CA file, without non-ASCII characters of its comments. Raises OSError, and Refused for
    anything but a regular file: OpenSSL would wait for ever for a pipe or a terminal."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise Refused(f"the CA file {path} is no regular file")
        with open(handle, "rb", closefd=False) as file:
            content = file.read(_MAX_CA_FILE + 1)
    finally:
        os.close(handle)
    if len(content) > _MAX_CA_FILE:
        raise Refused(f"the CA file {path} has more than {_MAX_CA_FILE:,} bytes")
    return content.decode("ascii", "ignore")


class _LimitedPool:
    """Closes connections instead of keeping them while half of the process's file descriptors are in use: threads,
    the database and Redis need theirs. A new descriptor is the lowest free one, so its number shows how many are
    in use."""

    def _put_conn(self, conn: Any) -> None:
        if conn is not None and conn.sock is not None and conn.sock.fileno() >= _max_descriptor():
            conn.close()
        super()._put_conn(conn)  # type: ignore[misc]


def _max_descriptor() -> float:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if soft == resource.RLIM_INFINITY else soft / 2


class _Pool(_LimitedPool, urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(_LimitedPool, urllib3.HTTPSConnectionPool):
    ConnectionCls = _TLSConnection

    def _validate_conn(self, conn: Any) -> None:
        # urllib3 would warn for each unverified certificate; here an admin chose that in the webhook.
        if conn.is_closed:
            conn.connect()


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}

    def build_response(self, req: Any, resp: Any) -> requests.Response:
        # Without the cookies and the copy of the headers that requests would make.
        response = requests.Response()
        response.raw = resp
        return response
