"""Code of the project for the hosts in the setting AUTH: AWS signatures and others.

The code is any ``requests.auth.AuthBase``, or a function like one: it takes a ``requests.PreparedRequest`` and sets
headers. Each of these is a secret. The code may register a hook that sees the response and sends the request again, as
for Digest authentication. The hook sends through a transport adapter of requests.
"""

from __future__ import annotations

import functools
import http.client
import io
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import requests
from django.utils.module_loading import import_string
from requests.adapters import HTTPAdapter
from requests.hooks import dispatch_hook

from webhooks.conf import conf
from webhooks.network import headers, url_policy
from webhooks.network.auth.strategy import (
    Conversation,
    Credentials,
    Reply,
    Strategy,
    Unsupported,
    refusing_failures,
    with_secrets,
)
from webhooks.network.request import Request

Auth = Callable[[requests.PreparedRequest], requests.PreparedRequest]


class ProjectCode(Strategy):
    """The code in the setting AUTH for the host of the URL."""

    name = "project_code"

    def applies(self, credentials: Credentials) -> bool:
        return bool(path_for(credentials.url))

    def add(self, request: Request, credentials: Credentials) -> Request:
        path = path_for(request.url)
        with refusing_failures(path, request.url):
            before = _prepare(request)
            after = load(path)(before.copy())
            if not isinstance(after, requests.PreparedRequest):
                raise Unsupported("it must return the request")
            converse = partial(_run_hooks, after, path) if any(after.hooks.values()) else request.converse
            return replace(_with_headers(request, before, after), converse=converse)


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


def _run_hooks(prepared: requests.PreparedRequest, path: str, request: Request, conversation: Conversation) -> Reply:
    """Let the hooks of the project's code see the response. Returns the reply that they choose."""
    with refusing_failures(path, request.url), closing(Adapter(request, conversation)) as adapter:
        response = adapter.send(prepared)
        response = dispatch_hook("response", prepared.hooks, response)  # type: ignore[no-untyped-call]
        if not isinstance(received := getattr(response, "raw", None), Received):
            raise Unsupported("its hook must return a response to the request")
        return received.reply


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
    try:
        lines = headers.changed_lines(before.headers, texts)
    except ValueError as error:
        raise Unsupported(str(error)) from None
    return with_secrets(request, lines)


class Adapter(HTTPAdapter):
    """Sends the requests of one attempt for requests."""

    def __init__(self, request: Request, conversation: Conversation) -> None:
        super().__init__()
        self._request, self._conversation, self._before = request, conversation, _prepare(request)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request for the same URL. Its own timeout and TLS settings count for nothing: the webhook has them.

        Raises Unsupported, and NotAnswered.
        """
        received: Any = Received(self._conversation.send(_with_headers(self._request, self._before, request)))
        return self.build_response(request, received)


class Received(io.BytesIO):
    """An answer, in the parts of a response of urllib3 that requests and its authentication classes use."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.answer.body)
        self.reply, answer = reply, reply.answer
        self.status, self.reason = answer.status, answer.phrase
        self.headers = self.msg = http.client.HTTPMessage()
        for name, value in answer.fields.values():
            self.headers[name] = value
        self._original_response = self  # its ``msg`` has the cookies

    def release_conn(self) -> None:
        """Nothing to do: the connection is kept already."""
