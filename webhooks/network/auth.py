"""How a webhook authenticates at its receiver: one strategy after the other in ``STRATEGIES``.

A strategy is shaped like ``auth_flow`` of httpx. It yields the request with its credentials. If it goes on after that,
it gets the answer, and may yield the request again, once. A new strategy is a module with a subclass of ``Strategy``,
and a row in ``STRATEGIES``.

``ProjectCode`` runs code of the project for the hosts in the setting AUTH: AWS signatures and others. The code is any
``requests.auth.AuthBase``, or a function like one: it takes a ``requests.PreparedRequest`` and sets headers. Each of
these is a secret. The code may register a hook that sees the response and sends the request again, as for Digest
authentication. The hook sends through a transport adapter of requests.

All requests of an attempt go to one URL, and share its timeout and its limit of bytes. NTLM authenticates a connection,
so the next request takes the same one, and no other attempt does.
"""

from __future__ import annotations

import functools
import http.client
import io
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

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


@dataclass(frozen=True)
class Credentials:
    """What strategies know of a webhook."""

    url: str
    reveal: Callable[[], str]
    """Returns its secret headers, as lines."""


class Strategy:
    """One way to authenticate."""

    name = ""
    waits = True
    """Whether it may wait for something. Then a thread beside the one that sends calls it."""

    def applies(self, credentials: Credentials) -> bool:
        """Whether a webhook uses it."""
        raise NotImplementedError

    def auth_flow(self, request: Request, credentials: Credentials) -> Generator[Request, Answer, None]:
        """Yield the request with credentials. What it does after the answer may yield the request once more."""
        raise NotImplementedError

    def add(self, request: Request, credentials: Credentials) -> Request:
        """The request with credentials. Raises Refused if that fails."""
        with _refusing_failures(self.name, request.url):
            flow = self.auth_flow(request, credentials)
            return replace(next(flow), converse=partial(self._follow, flow))

    def _follow(self, flow: Generator[Request, Answer, None], request: Request, conversation: Conversation) -> Reply:
        reply = conversation.send(request)
        with closing(flow), _refusing_failures(self.name, request.url):
            try:
                again = flow.send(reply.answer)
            except StopIteration:
                return reply
        return conversation.send(again)


def with_secrets(request: Request, lines: str) -> Request:
    """The request with these headers, which are secrets. Raises ValueError for one that only the sender may set."""
    return replace(
        request,
        headers=headers.merged(request.headers, lines),
        hidden={*request.hidden, *headers.secrets_in(lines)},
        secret_names={*request.secret_names, *headers.names_in(lines)},
    )


class SecretHeaders(Strategy):
    """The secret headers of the webhook."""

    name, waits = "secret_headers", False

    def applies(self, credentials: Credentials) -> bool:
        return bool(credentials.reveal())

    def add(self, request: Request, credentials: Credentials) -> Request:
        return with_secrets(request, credentials.reveal())


class ProjectCode(Strategy):
    """The code in the setting AUTH for the host of the URL."""

    name = "project_code"

    def applies(self, credentials: Credentials) -> bool:
        return bool(path_for(credentials.url))

    def add(self, request: Request, credentials: Credentials) -> Request:
        path = path_for(request.url)
        with _refusing_failures(path, request.url):
            before = _prepare(request)
            after = load(path)(before.copy())
            if not isinstance(after, requests.PreparedRequest):
                raise Unsupported("it must return the request")
            converse = partial(_run_hooks, after, path) if any(after.hooks.values()) else request.converse
            return replace(_with_headers(request, before, after), converse=converse)


STRATEGIES: dict[str, Strategy] = {one.name: one for one in (SecretHeaders(), ProjectCode())}
"""By their names, in the order in which they add to a request. The last one that wants to see the answer sees it."""


def waits(credentials: Credentials) -> bool:
    """Whether a strategy of the webhook may wait for something."""
    return any(one.waits and one.applies(credentials) for one in STRATEGIES.values())


def authenticate(request: Request, credentials: Credentials) -> Request:
    """The request with the credentials of all strategies that the webhook uses. Raises Refused if one fails, and what
    ``reveal`` raises."""
    for strategy in STRATEGIES.values():
        if strategy.applies(credentials):
            request = strategy.add(request, credentials)
    return request


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


def exchange(request: Request, now: Callable[[], datetime] = utc_now) -> Outcome:
    """Send a request, and let the strategy that wants to see the answer send it again. The Outcome has the request of
    the answer that counts."""
    started_at = now()
    with closing(Conversation(request)) as conversation:
        try:
            converse = request.converse or (lambda request, conversation: conversation.send(request))
            sent, answer, error = converse(conversation.sent, conversation)
        except (NotAnswered, Refused) as raised:
            sent, answer, error = conversation.sent, Answer(0), raised
    return outcome_of(sent, answer, error, started_at, now(), conversation.limits)


def _run_hooks(prepared: requests.PreparedRequest, path: str, request: Request, conversation: Conversation) -> Reply:
    """Let the hooks of the project's code see the response. Returns the reply that they choose."""
    with _refusing_failures(path, request.url), closing(Adapter(request, conversation)) as adapter:
        response = adapter.send(prepared)
        response = dispatch_hook("response", prepared.hooks, response)  # type: ignore[no-untyped-call]
        if not isinstance(received := getattr(response, "raw", None), Received):
            raise Unsupported("its hook must return a response to the request")
        return received.reply


@contextmanager
def _refusing_failures(path: str, url: str) -> Iterator[None]:
    """``path`` names the code, or the strategy."""
    try:
        yield
    except NotAnswered:
        raise
    except Exception as error:  # the project's code may raise any; its text may hold secrets
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
    try:
        lines = headers.changed_lines(before.headers, texts)
    except ValueError as error:
        raise Unsupported(str(error)) from None
    return with_secrets(request, lines)


class Reply(NamedTuple):
    """An answer to one request of an attempt."""

    sent: Request
    answer: Answer
    error: Exception | None
    """Why the answer was cut off, if it was."""


class Conversation:
    """The requests of one attempt. The thread that calls it waits for each answer."""

    def __init__(self, request: Request) -> None:
        self.sent = replace(request, connects=False)
        """The last request that it began to send."""
        self.limits, self._kept = limits_of(request), KeptConnections()

    def send(self, request: Request) -> Reply:
        """Send a request for the same URL. Raises NotAnswered. A body that cannot be read is no exception, but cut
        off."""
        self.sent, answer, error = request, Answer(request.keep), None
        try:
            if time.monotonic() >= self.limits.end:
                raise TimeoutError("the deadline has passed")
            run(ask(self._kept, request, answer, self.limits), self.limits)
        except Exception as raised:
            if answer.status is None:
                raise NotAnswered from raised
            error = raised
        return Reply(request, answer, error)

    def close(self) -> None:
        self._kept.close()


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
