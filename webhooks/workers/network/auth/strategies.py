"""Strategies to authenticate, and the requests of one attempt.

The project's code in the setting AUTH is any ``requests.auth.AuthBase``, or a function like one: it takes a
``requests.PreparedRequest`` and sets headers. Each of these is a secret. The code may register a hook that sees the
response and sends the request again, as for Digest authentication. The hook sends through a transport adapter of
requests.
"""

from __future__ import annotations

import http.client
import io
import time
from asyncio import CancelledError
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import requests
from django.utils.module_loading import import_string
from requests.adapters import HTTPAdapter
from requests.hooks import dispatch_hook

from webhooks.ground import headers
from webhooks.ground.conf import conf
from webhooks.ground.error_kinds import ErrorKind
from webhooks.ground.errors import about, get_logger
from webhooks.ground.security import url_policy
from webhooks.workers.network.answer import Answer
from webhooks.workers.network.attempt import Refused, Request
from webhooks.workers.network.auth.receivers import key_for
from webhooks.workers.network.loop import run
from webhooks.workers.network.transport import KeptConnections, ask, limits_of

logger = get_logger(__name__)

Auth = Callable[[requests.PreparedRequest], requests.PreparedRequest]


@dataclass(frozen=True)
class Credentials:
    """What strategies know of a webhook."""

    url: str
    reveal: Callable[[], str]
    """Returns its secret headers, as lines."""
    is_verified: bool
    """Whether the request verifies TLS."""


class Strategy:
    """One way to authenticate."""

    name = ""
    waits = True
    """Whether it may wait for something. Then a thread beside the one that sends calls it."""

    def applies(self, credentials: Credentials) -> bool:
        """Whether a webhook uses it."""
        raise NotImplementedError

    def auth_flow(self, request: Request, credentials: Credentials) -> Generator[Request, Answer, None]:
        """Yield the request with credentials. After that it gets the answer, and may yield it once more."""
        raise NotImplementedError

    def add(self, request: Request, credentials: Credentials) -> Request:
        """The request with credentials. Raises Refused if that fails."""
        with refusing_failures(self.name, request.url):
            flow = self.auth_flow(request, credentials)
            return replace(next(flow), converse=partial(self._follow, flow))

    def _follow(self, flow: Generator[Request, Answer, None], request: Request, conversation: Conversation) -> Reply:
        reply = conversation.send(request)
        with closing(flow), refusing_failures(self.name, request.url):
            try:
                again = flow.send(reply.answer)
            except StopIteration:
                return reply
        return conversation.send(again)


class SecretHeaders(Strategy):
    """The secret headers of the webhook."""

    name, waits = "secret_headers", False

    def applies(self, credentials: Credentials) -> bool:
        return bool(credentials.reveal())

    def add(self, request: Request, credentials: Credentials) -> Request:
        return with_secrets(request, credentials.reveal())


class ProjectCode(Strategy):
    """The code in the setting AUTH for the receiver."""

    name = "project_code"

    def applies(self, credentials: Credentials) -> bool:
        return bool(path_for(credentials))

    def add(self, request: Request, credentials: Credentials) -> Request:
        path = path_for(credentials)
        with refusing_failures(path, request.url):
            before = _prepare(request)
            after = load(path)(before.copy())
            if not isinstance(after, requests.PreparedRequest):
                raise Unsupported("it must return the request")
            converse = partial(_run_hooks, after, path) if any(after.hooks.values()) else request.converse
            return replace(_with_headers(request, before, after), converse=converse)


def path_for(credentials: Credentials) -> str:
    """The path of the code for the receiver of a request; empty if there is none."""
    if not (auth := conf.auth):
        return ""
    return auth.get(key_for(tuple(auth), credentials.url, credentials.is_verified), "")


def load(path: str) -> Auth:
    """Raises what the import raises, and TypeError if it cannot be called with a request."""
    found: Auth = import_string(path)
    if isinstance(found, type) or not callable(found):
        raise TypeError("it must be an object of a class such as requests.auth.AuthBase, or a function")
    return found


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


def with_secrets(request: Request, lines: str) -> Request:
    """The request with these headers, which are secrets. Raises ValueError for one that only the sender may set."""
    return replace(
        request,
        headers=headers.merged(request.headers, lines),
        hidden={*request.hidden, *headers.secrets_in(lines)},
        secret_names={*request.secret_names, *headers.names_in(lines)},
    )


@contextmanager
def refusing_failures(path: str, url: str) -> Iterator[None]:
    """``path`` names the code, or the strategy."""
    try:
        yield
    except (NotAnswered, Refused):
        raise
    # The project's code may raise any, and its text may hold secrets. The last two would end a thread of the sender.
    except (Exception, SystemExit, CancelledError) as error:
        receiver, extra = url_policy.redacted(url), about(kind=ErrorKind.AUTH)
        logger.exception("The authentication by %s failed for %s", path, receiver, extra=extra)
        reason = f"{error}" if isinstance(error, Unsupported) else f"{type(error).__name__}, see the worker's log"
        raise Refused(f"{path} failed: {reason}", ErrorKind.AUTH) from None


class Unsupported(Exception):
    """The code does what the app cannot send. The text has no secrets."""


class NotAnswered(requests.ConnectionError):
    """A request got no answer. ``__cause__`` is the reason."""


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
