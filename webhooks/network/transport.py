"""One request through requests, and what came of it: an Outcome, never an exception."""

from __future__ import annotations

import functools
import math
import resource
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH, extract_zipped_paths
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.ssl_ import create_urllib3_context, resolve_cert_reqs

from webhooks import logs
from webhooks.network import ca_bundle, connect, http_response, sockets
from webhooks.network.outcome import Outcome, explain, is_disconnect, is_timeout
from webhooks.network.response import outcome_of
from webhooks.text import hide

# Receivers to which connections are kept; beyond that, those that were not used for longest are closed. Each may have
# as many as there are senders: how many there may be in all, ``_Sparing`` tells.
RECEIVERS = 100


@dataclass(frozen=True)
class Request:
    """What is sent: ``timeout`` in seconds for all of it; ``verify`` is True, False, or the path of a CA file;
    ``keep`` is how many bytes of the answer's body are read; ``hidden`` is what nothing kept of it may have in it."""

    url: str
    headers: dict[str, str] = field(repr=False)
    body: bytes
    timeout: float
    verify: bool | str = True
    keep: int = 8192
    method: str = "POST"
    hidden: Collection[str] = field(default=(), repr=False)


# urllib3 logs URLs, and header lines that are broken, with whatever secret stands in them.
for _name in ("urllib3.connection", "urllib3.connectionpool"):
    logs.silence(_name, sockets.is_set)


class Transport:
    """Sends requests over connections that it keeps open, up to ``most`` to each receiver. Threads may share it."""

    def __init__(self, most: int = 1) -> None:
        # The adapter alone, without a session: no cookies, no proxy, no .netrc and no CA bundle from the environment,
        # no redirects, and none of the time that a session takes to look for them.
        self._adapter = _Adapter(pool_connections=RECEIVERS, pool_maxsize=most)

    def send(self, request: Request) -> Outcome:
        """Send it, without following redirects. Returns within ``request.timeout`` seconds, and a moment."""
        started_at, clock = datetime.now(UTC), time.monotonic()
        try:
            with sockets.deadline(request.timeout, sockets.MOST + request.keep):
                outcome = self._send_afresh(request, started_at)
        except Exception as error:
            # Whatever a receiver or a setting provokes is a failed attempt with a reason.
            reason = hide(explain(error, request.timeout), request.hidden)
            outcome = Outcome(started_at, 0, reason=reason, timed_out=is_timeout(error))
        return replace(outcome, url=request.url, duration_ms=round((time.monotonic() - clock) * 1000))

    def close(self) -> None:
        self._adapter.close()

    def _send_afresh(self, request: Request, started_at: datetime) -> Outcome:
        try:
            return self._send(request, started_at)
        except requests.ConnectionError as error:
            # A kept connection that the receiver closed while nobody used it says nothing about the receiver.
            if sockets.has_connected() or not is_disconnect(error):
                raise
            return self._send(request, started_at)

    def _send(self, request: Request, started_at: datetime) -> Outcome:
        response = self._adapter.send(_prepared(request), stream=True, timeout=request.timeout, verify=request.verify)
        with response.raw as raw:
            try:
                body = raw.read(request.keep, decode_content=True)
            except Exception as error:
                # The status has been said: 410 and 429 are to have their effect.
                outcome = outcome_of(raw, b"", started_at, request.hidden)
                why = hide(explain(error, request.timeout, in_body=True), request.hidden)
                return outcome.without_body(why, is_timeout(error))
            return outcome_of(raw, body, started_at, request.hidden)


def _prepared(request: Request) -> requests.PreparedRequest:
    prepared = _prepared_for(request.method, request.url).copy()
    prepared.headers.update(request.headers)
    prepared.headers["Content-Length"] = str(len(request.body))
    prepared.body = request.body
    return prepared


@functools.lru_cache(maxsize=256)
def _prepared_for(method: str, url: str) -> requests.PreparedRequest:
    """What is the same in every such request to this URL: parsing it takes longer than all the rest."""
    prepared = requests.PreparedRequest()
    prepared.prepare(method=method, url=url)
    return prepared


class _Whole:
    """Sends the head and the body of a request in one piece: a packet, and a wake-up of the receiver, less."""

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


class _Connection(_Whole, HTTPConnection):
    response_class = http_response.Answer

    def _new_conn(self) -> Any:
        return connect.connect("http", self._dns_host, self.port)


class _TLSConnection(_Whole, HTTPSConnection):
    response_class = http_response.Answer

    def _new_conn(self) -> Any:
        return connect.connect("https", self._dns_host, self.port)

    def connect(self) -> None:
        # A context of its own for each connection: what one webhook trusts, the next one need not.
        self.ssl_context = create_urllib3_context(cert_reqs=resolve_cert_reqs(self.cert_reqs))
        self.ssl_context.sslsocket_class = sockets.TimedTLSSocket
        self._read_authorities()
        super().connect()

    def _read_authorities(self) -> None:
        """OpenSSL would wait for ever for what an admin's path may lead to."""
        path = self.ca_certs or self.ca_cert_dir
        if path and path != extract_zipped_paths(DEFAULT_CA_BUNDLE_PATH):  # type: ignore[no-untyped-call]
            self.ca_cert_data, self.ca_certs, self.ca_cert_dir = ca_bundle.read(path), None, None


class _Sparing:
    """Keeps no connection while half of the descriptors that this process may have are in use: threads, the database,
    Redis and other receivers need theirs. A new one is the lowest that is free, so its number tells how many are."""

    def _put_conn(self, conn: Any) -> None:
        if conn is not None and conn.sock is not None and conn.sock.fileno() >= _most_descriptors():
            conn.close()
        super()._put_conn(conn)  # type: ignore[misc]


def _most_descriptors() -> float:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if soft == resource.RLIM_INFINITY else soft / 2


class _Pool(_Sparing, urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(_Sparing, urllib3.HTTPSConnectionPool):
    ConnectionCls = _TLSConnection

    def _validate_conn(self, conn: Any) -> None:
        # urllib3 warns of each request whose certificate is not verified; here an admin has said so, in the webhook.
        if conn.is_closed:
            conn.connect()


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}

    def build_response(self, req: Any, resp: Any) -> requests.Response:
        # Only what is used here: no cookies are looked for, and no headers copied.
        response = requests.Response()
        response.raw = resp
        return response
