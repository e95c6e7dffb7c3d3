"""Credentials by the project's own code, for the hosts in the setting AUTH: OAuth 2 tokens, AWS signatures and others.

The code is any ``requests.auth.AuthBase``, or a function like one: it takes a ``requests.PreparedRequest`` and sets
headers. Each of these is a secret. It may register a hook that sees the response, and sends the request again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime

import requests
from django.utils.module_loading import import_string
from requests.hooks import dispatch_hook

from webhooks.conf import conf
from webhooks.error_kinds import ErrorKind
from webhooks.errors import get_logger
from webhooks.network import url_policy
from webhooks.network.adapter import Adapter, NotAnswered, Received, Unsupported, prepare, with_headers
from webhooks.network.answer import Answer
from webhooks.network.outcome import Outcome, Refused
from webhooks.network.request import Request
from webhooks.network.transport import outcome_of, utc_now

logger = get_logger(__name__)

Auth = Callable[[requests.PreparedRequest], requests.PreparedRequest]


def has_auth(url: str) -> bool:
    """Whether the setting names code for the host of this URL."""
    return bool(_path_for(url))


def load(path: str) -> Auth:
    """Raises ImportError, and TypeError if it cannot be called with a request."""
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
    if not (path := _path_for(request.url)):
        return request
    with _refusing_failures(request.url):
        before = prepare(request)
        after = load(path)(before.copy())
        if not isinstance(after, requests.PreparedRequest):
            raise Unsupported("it must return the request")
        return replace(with_headers(request, before, after), prepared=after if any(after.hooks.values()) else None)


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
    prepared = request.prepared or prepare(request)
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
        path = _path_for(url)
        logger.exception('WEBHOOKS["AUTH"]: %s failed for %s', path, url_policy.redacted(url))
        reason = f"{error}" if isinstance(error, Unsupported) else f"{type(error).__name__}, see the worker's log"
        raise Refused(f"{path} failed: {reason}", ErrorKind.AUTH) from None


def _path_for(url: str) -> str:
    """The path of the code for the host of a URL; empty if there is none."""
    return _path_in(tuple(conf.auth.items()), url) if conf.auth else ""


@functools.lru_cache(maxsize=256)
def _path_in(auth: tuple[tuple[str, str], ...], url: str) -> str:
    try:
        host = url_policy.parse(url).host
    except url_policy.BadURL:
        return ""
    return next((path for pattern, path in auth if url_policy.matching(host, [pattern])), "")
