"""Credentials by the project's own code, for the hosts in the setting AUTH: OAuth 2 tokens, AWS signatures and others.

The code is any ``requests.auth.AuthBase``, or a function like one: it takes a ``requests.PreparedRequest`` and sets
headers. Each of these is a secret.

The code may register a hook that sees the response and sends the request again, as for Digest authentication. The hook
sends through a transport adapter of requests. All requests of an attempt go to one URL, and share its timeout and its
limit of bytes. NTLM authenticates a connection, so the next request takes the same one, and no other attempt does.
"""

from __future__ import annotations

import functools
import http.client
import io
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

import requests
from django.utils.module_loading import import_string
from requests.adapters import HTTPAdapter
from requests.hooks import dispatch_hook

from webhooks.conf import conf
from webhooks.error_kinds import ErrorKind
from webhooks.errors import get_logger
from webhooks.network import headers, url_policy
from webhooks.network.answer import Answer
from webhooks.network.loop import run
from webhooks.network.outcome import Outcome, Refused
from webhooks.network.request import Request
from webhooks.network.transport import KeptConnections, ask, limits_of, outcome_of, utc_now

logger = get_logger(__name__)

Auth = Callable[[requests.PreparedRequest], requests.PreparedRequest]


def path_for(url: str) -> str:
    """The path of the code for the host of a URL; empty if there is none."""
    return _path_in(tuple(conf.auth.items()), url) if conf.auth else ""


@functools.lru_cache(maxsize=256)
def _path_in(auth: tuple[tuple[str, str], ...], url: str) -> str:
    paths = dict(auth)
    try:
        return paths.get(url_policy.matching(url_policy.parse(url).host, paths), "")
    except url_policy.BadURL:
        return ""


def load(path: str) -> Auth:
    """Raises what the import raises, and TypeError if it cannot be called with a request."""
    found = import_string(path)
    if isinstance(found, type) or not callable(found):
        raise TypeError("it must be an object of a class such as requests.auth.AuthBase, or a function")
    auth: Auth = found
    return auth


def add_auth(request: Request) -> Request:
    """The request with the headers that the project's code sets for its host. Raises Refused if that fails.

    If the code wants to see the answer, the request is ``prepared``. Then call ``exchange`` in the same thread: the
    code may keep something for its thread.
    """
    if not (path := path_for(request.url)):
        return request
    with _refusing_failures(request.url):
        before = _prepare(request)
        after = load(path)(before.copy())
        if not isinstance(after, requests.PreparedRequest):
            raise Unsupported("it must return the request")
        return replace(_with_headers(request, before, after), prepared=after if any(after.hooks.values()) else None)


def exchange(request: Request, now: Callable[[], datetime] = utc_now) -> Outcome:
    """Send a prepared request, and let its hooks see the response. They may send it again with other headers, and
    return the final response. The Outcome has its request."""
    started_at = now()
    with closing(Adapter(request)) as adapter:
        try:
            with _refusing_failures(request.url):
                received = _received(request, adapter)
            sent, answer, error = received.sent, received.answer, received.error
        except (NotAnswered, Refused) as raised:
            sent, answer, error = adapter.sent, Answer(0), raised
    return outcome_of(sent, answer, error, started_at, now(), adapter.limits)


def _received(request: Request, adapter: Adapter) -> Received:
    """The answer that the hooks choose."""
    prepared = request.prepared or _prepare(request)
    response = adapter.send(prepared)
    response = dispatch_hook("response", prepared.hooks, response)  # type: ignore[no-untyped-call]
    if not isinstance(received := getattr(response, "raw", None), Received):
        raise Unsupported("its hook must return a response to the request")
    return received


@contextmanager
def _refusing_failures(url: str) -> Iterator[None]:
    try:
        yield
    except NotAnswered:
        raise
    except Exception as error:  # the project's code may raise any; its text may hold secrets
        path = path_for(url)
        logger.exception('WEBHOOKS["AUTH"]: %s failed for %s', path, url_policy.redacted(url))
        reason = f"{error}" if isinstance(error, Unsupported) else f"{type(error).__name__}, see the worker's log"
        raise Refused(f"{path} failed: {reason}", ErrorKind.AUTH) from None


class Unsupported(Exception):
    """The code does what the app cannot send. The text has no secrets."""


class NotAnswered(requests.ConnectionError):
    """A request got no answer. ``__cause__`` is the reason."""


def _prepare(request: Request) -> requests.PreparedRequest:
    return requests.Request(request.method, request.url, request.headers, data=request.body).prepare()


def _with_headers(request: Request, before: requests.PreparedRequest, after: requests.PreparedRequest) -> Request:
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
        self._before, self._kept = _prepare(request), KeptConnections()

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request for the same URL. Its own timeout and TLS settings count for nothing: the webhook has them.

        Raises Unsupported, and NotAnswered. A body that cannot be read is no exception, but cut off.
        """
        self.sent = _with_headers(self._request, self._before, request)
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
