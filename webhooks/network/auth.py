"""Credentials by the project's own code, for the hosts in the setting AUTH: OAuth 2 tokens, AWS signatures and others.

The code is any ``requests.auth.AuthBase``, or a function like one: it takes a ``requests.PreparedRequest`` and sets
headers. Each of these is a secret.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace

import requests
from django.utils.module_loading import import_string

from webhooks.conf import conf
from webhooks.errors import get_logger
from webhooks.network import headers, url_policy
from webhooks.network.error_kinds import ErrorKind
from webhooks.network.outcome import Refused
from webhooks.network.request import Request

logger = get_logger(__name__)

Auth = Callable[[requests.PreparedRequest], requests.PreparedRequest]


def has_auth(url: str) -> bool:
    """Whether the setting names code for the host of this URL."""
    return bool(conf.auth) and bool(_path_for(url, tuple(conf.auth.items())))


def load(path: str) -> Auth:
    """Raises ImportError, and TypeError if it cannot be called with a request."""
    found = import_string(path)
    if isinstance(found, type) or not callable(found):
        raise TypeError("it must be an object of a class such as requests.auth.AuthBase, or a function")
    auth: Auth = found
    return auth


def add_auth(request: Request) -> Request:
    """The request with the headers that the project's code sets for its host. Raises Refused if that fails."""
    path = _path_for(request.url, tuple(conf.auth.items()))
    if not path:
        return request
    try:
        lines = _lines_set_by(load(path), request)
        headers.parse(lines)
    except Exception as error:  # the project's code may raise any; its text may hold secrets
        logger.exception('WEBHOOKS["AUTH"]: %s failed for %s', path, url_policy.redacted(request.url))
        reason = f"{error}" if isinstance(error, _Unsupported) else f"{type(error).__name__}, see the worker's log"
        raise Refused(f"{path} failed: {reason}", ErrorKind.AUTH) from None
    names = headers.names_in(lines)
    kept = {name: value for name, value in request.headers.items() if name.lower() not in names}
    return replace(
        request,
        headers=kept | headers.parse(lines),
        hidden={*request.hidden, *headers.secrets_in(lines)},
        secret_names={*request.secret_names, *names},
    )


class _Unsupported(Exception):
    """The code does what the app cannot send. The text has no secrets."""


def _lines_set_by(auth: Auth, request: Request) -> str:
    """The headers that ``auth`` adds or changes, a line for each."""
    before = requests.Request(request.method, request.url, request.headers, data=request.body).prepare()
    after = auth(before.copy())
    if not isinstance(after, requests.PreparedRequest):
        raise _Unsupported("it must return the request")
    if (after.method, after.url, after.body) != (before.method, before.url, before.body):
        raise _Unsupported("it may only set headers, and changed the method, URL or body")
    if any(after.hooks.values()):
        raise _Unsupported("it wants to see the answer, as for Digest authentication, which is not supported")
    values: Mapping[str, str | bytes] = after.headers
    texts = {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}
    if any("\n" in f"{name}{text}" for name, text in texts.items()):
        raise _Unsupported("it sets a header with a line break in it")
    return "\n".join(f"{name}: {value}" for name, value in texts.items() if before.headers.get(name) != value)


@functools.lru_cache(maxsize=256)
def _path_for(url: str, auth: tuple[tuple[str, str], ...]) -> str:
    """The path of the code for the host of a URL; empty if there is none."""
    try:
        host = url_policy.parse(url).host
    except url_policy.BadURL:
        return ""
    return next((path for pattern, path in auth if url_policy.matching(host, [pattern])), "")
