"""What strategies are made of: the base class, and the requests of one attempt."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import requests

from webhooks.error_kinds import ErrorKind
from webhooks.errors import get_logger
from webhooks.network import headers, url_policy
from webhooks.network.answer import Answer
from webhooks.network.loop import run
from webhooks.network.outcome import Refused
from webhooks.network.request import Request
from webhooks.network.transport import KeptConnections, ask, limits_of

logger = get_logger(__name__)


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
    except (Exception, SystemExit) as error:  # the project's code may raise any; its text may hold secrets
        logger.exception("The authentication by %s failed for %s", path, url_policy.redacted(url))
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
