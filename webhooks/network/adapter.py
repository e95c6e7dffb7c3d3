"""A transport adapter of requests, for code in the setting AUTH that looks at the answer, as for Digest authentication.

Such code sends its next request through the adapter. All requests of an attempt go to one URL, and share its timeout
and its limit of bytes. NTLM authenticates a connection, so the next request takes the same one, and no other attempt
does.
"""

from __future__ import annotations

import http.client
import io
import time
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from webhooks.network import headers
from webhooks.network.answer import Answer
from webhooks.network.loop import READ, Socket, is_ready, run
from webhooks.network.request import Request
from webhooks.network.transport import KeptConnections, ask, limits_of


class Unsupported(Exception):
    """The code does what the app cannot send. The text has no secrets."""


class NotAnswered(requests.ConnectionError):
    """A request got no answer. ``__cause__`` is the reason."""


def prepare(request: Request) -> requests.PreparedRequest:
    return requests.Request(request.method, request.url, request.headers, data=request.body).prepare()


def with_headers(request: Request, before: requests.PreparedRequest, after: requests.PreparedRequest) -> Request:
    """The request with the headers that code set or changed from ``before`` to ``after``. They are secrets. Raises
    Unsupported, and ValueError for a header that only the sender may set."""
    if (after.method, after.url, after.body) != (before.method, before.url, before.body):
        raise Unsupported("it may only set headers, and changed the method, URL or body")
    values: Mapping[str, str | bytes] = after.headers
    texts = {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}
    texts = {name: text for name, text in texts.items() if name.lower() != "connection"}  # NTLM asks to keep it
    if any("\n" in f"{name}{text}" for name, text in texts.items()):
        raise Unsupported("it sets a header with a line break in it")
    lines = "\n".join(f"{name}: {value}" for name, value in texts.items() if before.headers.get(name) != value)
    names = headers.names_in(lines)
    kept = {name: value for name, value in request.headers.items() if name.lower() not in names}
    return replace(
        request,
        headers=kept | headers.parse(lines),
        hidden={*request.hidden, *headers.secrets_in(lines)},
        secret_names={*request.secret_names, *names},
    )


class Adapter(HTTPAdapter):
    """Sends the requests of one attempt, in the thread that calls it."""

    def __init__(self, request: Request) -> None:
        super().__init__()
        self.sent = self._request = replace(request, connects=False)
        """The last request that it began to send."""
        self.limits = limits_of(request)
        self._before, self._kept = prepare(request), _OwnConnections()

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request for the same URL. Its own timeout and TLS settings count for nothing: the webhook has them.

        Raises Unsupported, and NotAnswered. A body that cannot be read is no exception, but cut off.
        """
        self.sent = with_headers(self._request, self._before, request)
        answer = Answer(self.sent.keep)
        error: Exception | None = None
        try:
            if time.monotonic() >= self.limits.end:
                raise TimeoutError("the deadline has passed")
            run(ask(self._kept, self.sent, answer, self.limits), self.limits)
        except Exception as raised:
            if answer.status is None:
                raise NotAnswered(request=request) from raised
            error = raised
        received: Any = Received(self.sent, answer, error)
        return self.build_response(request, received)

    def close(self) -> None:
        super().close()
        self._kept.close()


class Received(io.BytesIO):
    """An answer, in the parts of a response of urllib3 that requests and its authentication classes use."""

    def __init__(self, sent: Request, answer: Answer, error: Exception | None) -> None:
        super().__init__(answer.body)
        self.sent, self.answer, self.error = sent, answer, error
        self.status, self.reason = answer.status, answer.phrase
        self.headers = self.msg = http.client.HTTPMessage()
        for name, value in answer.fields.values():
            self.headers[name] = value
        self._original_response = self  # its ``msg`` has the cookies

    def release_conn(self) -> None:
        """Nothing to do: the connection is kept already."""


class _OwnConnections(KeptConnections):
    """Connections that no loop watches."""

    def take(self, key: Hashable) -> Socket | None:
        connection = super().take(key)
        if connection and is_ready(connection, READ, 0):  # the other side has closed it, or sends too much
            connection.close()
            return None
        return connection
