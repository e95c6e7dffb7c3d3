"""The user and request behind the changes of the current request, task or ``with`` block."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Mapping
from contextlib import _GeneratorContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any, ParamSpec, TypeVar

from django.contrib.auth import get_user_model
from django.db import router, transaction
from django.http.request import HttpHeaders
from django.utils.functional import SimpleLazyObject, empty

from webhooks.ground.conf import conf
from webhooks.ground.errors import get_logger, log_errors, reraise_job_timeout
from webhooks.ground.headers import DEPTH
from webhooks.ground.registry.framework import framework
from webhooks.ground.registry.registration import is_sensitive
from webhooks.ground.text import clean, short_repr, username_of
from webhooks.ground.text.json_text import drop_keys, dumps
from webhooks.models.columns import REQUEST_ID_LENGTH, USERNAME_LENGTH

logger = get_logger(__name__)

T = TypeVar("T")
P = ParamSpec("P")

# Each request of a webhook has a header with the depth of its chain of changes. A request to the site may send this
# header if its user has the permission.
DEPTH_PERMISSION = "rq_webhooks.chain_webhook"


@dataclass(frozen=True)
class Actor:
    """``username`` and ``request_id`` go into the payload. ``request`` is what the payload shows of the HTTP request.
    ``depth`` is 1 if no webhook caused the change. It is 2 if a webhook for a change of depth 1 did."""

    username: str = ""
    request_id: str = ""
    request: dict[str, Any] | None = None
    depth: int = 1


@dataclass
class RequestActor:
    """The actor of an HTTP request, read when a change is recorded: REST framework knows the user only by then."""

    http: Any
    """An ``HttpRequest``, or something like it, which may lack attributes."""
    fallback_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    has_warned: bool = False
    is_reading_user: bool = False

    def read(self) -> Actor:
        http, (user, username) = self.http, self._user()
        request_id = self._part("id", lambda: str(getattr(http, "id", None) or "")) or self.fallback_id
        # Django parses the query only now, and may refuse it: too many parameters, for example.
        query = self._part(
            "query parameters", lambda: {str(key): str(value) for key, value in getattr(http, "GET", {}).items()}
        )
        request = {
            "id": request_id,
            "method": self._part("method", lambda: _text(getattr(http, "method", None))),
            "path": self._path,
            "path_info": self._part("path", lambda: _text(getattr(http, "path_info", None))),
            "GET": drop_keys(query or {}, is_sensitive),
            "user": username,
        }
        return Actor(username, request_id, request, self._depth_before(user, username) + 1)

    @property
    def _path(self) -> str | None:
        return self._part("path", lambda: _text(getattr(self.http, "path", None)))

    def _part(self, name: str, read: Callable[[], T]) -> T | None:
        """A part of the request. None if it cannot be read: the host may have replaced it by anything."""
        try:
            return read()
        except Exception as error:
            reraise_job_timeout(error)
            place = "a request" if name == "path" else self._path
            logger.warning("The %s of %s cannot be read: %s", name, place, error)
            return None

    def _user(self) -> tuple[Any, str]:
        """The user who is logged in, and the name. None and an empty name if there is none."""
        user = self._part("user", lambda: getattr(self.http, "user", None))
        # Sessions and users are read here for the first time, and may be unavailable.
        # Django's _wrapped: whatever else asks a lazy object reads it.
        is_unread = isinstance(user, SimpleLazyObject) and user._wrapped is empty
        if is_unread and self.is_reading_user:
            return None, ""  # the host saves something while it reads the user
        using = router.db_for_read(get_user_model())
        message = "The user of %s cannot be read: its changes are recorded without a user"
        self.is_reading_user = is_unread
        try:
            with log_errors(using, message, self._path), transaction.atomic(using) if is_unread else nullcontext():
                if user is not None and user.is_authenticated:
                    return user, username_of(user)
        finally:
            self.is_reading_user = False
        return None, ""

    def _headers(self) -> Mapping[str, str]:
        # A copy of a request may have its META alone.
        headers = getattr(self.http, "headers", None)
        return HttpHeaders(getattr(self.http, "META", {})) if headers is None else headers

    def _depth_before(self, user: Any, username: str) -> int:
        """The depth in the header, if the user may send it. Without a header this costs no query."""
        depth = self._part("depth", lambda: parse_depth(self._headers().get(DEPTH, "")))
        if not depth:
            return 0
        using = router.db_for_read(get_user_model())
        message = "The permissions of the user of %s cannot be read"
        with log_errors(using, message, self._path), transaction.atomic(using):
            if hasattr(user, "has_perm") and user.has_perm(DEPTH_PERMISSION):
                return depth
        if not self.has_warned:
            self.has_warned = True
            who = username or "an unknown user"
            logger.warning(
                "X-Webhook-Depth of %s is ignored: %s lacks the permission %s", self._path, who, DEPTH_PERMISSION
            )
        return 0


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def parse_depth(header: str) -> int:
    """The depth in a header; 0 if it is empty or invalid."""
    is_number = header.isascii() and header.isdecimal() and len(header) < 10
    return int(header) if is_number and int(header) <= conf.max_depth else 0


class Block(_GeneratorContextManager[None]):
    """A block of code, for ``with``. It also decorates functions.

    Async functions and generators run after their call, and so after the block. They are refused with TypeError.
    """

    def __call__(self, function: Any) -> Any:
        if any(is_late(function) for is_late in (iscoroutinefunction, isgeneratorfunction, isasyncgenfunction)):
            name = function.__qualname__
            raise TypeError(f"{name}() runs after its call, so a decorator has no effect: use “with” inside of it.")
        return super().__call__(function)


def block(function: Callable[P, Generator[None]]) -> Callable[P, Block]:
    """As ``contextlib.contextmanager``, for a ``Block``."""

    @wraps(function)
    def begin(*args: P.args, **kwargs: P.kwargs) -> Block:
        return Block(function, args, kwargs)

    return begin


def set_for_block(variable: ContextVar[T], value: T) -> Generator[None]:
    """Set a variable for the block of a context manager. Call it with ``yield from``."""
    before = variable.get()
    variable.set(value)
    try:
        yield
    finally:
        variable.set(before)  # not by a token: the block of a generator may end in another context


_current: ContextVar[Actor | RequestActor | None] = ContextVar("webhooks_actor", default=None)


_is_silenced: ContextVar[bool] = ContextVar("webhooks_is_silenced", default=False)


@block
def silenced() -> Generator[None]:
    """No change in this block is recorded, and so no webhook hears of it: for imports, fixtures and repairs. In this
    thread or task. ``webhooks.send()`` still sends.

    Put whole transactions into it. An Event of an earlier change of the same transaction stays as it is.
    """
    yield from set_for_block(_is_silenced, True)


def is_silenced() -> bool:
    """Whether changes are not recorded now."""
    return _is_silenced.get()


def current_actor() -> Actor:
    """The current actor; one without a name outside requests and ``actor()``."""
    if (request := framework().request()) is not None:
        return RequestActor(request).read()
    actor = _current.get()
    if actor is None:
        return Actor()
    return actor.read() if isinstance(actor, RequestActor) else actor


@block
def acting(actor: Actor | RequestActor) -> Generator[None]:
    """Make this the current actor for the block, in this thread or task."""
    yield from set_for_block(_current, actor)


def actor_columns(actor: Actor) -> dict[str, Any]:
    """The columns of an Event about its actor."""
    return {
        "username": clean(actor.username, USERNAME_LENGTH),
        "request_id": clean(actor.request_id, REQUEST_ID_LENGTH),
        "request": dumps(actor.request) if actor.request else "",
    }


def actor(username: str = "", request_id: str = "", depth: int = 1, *, request: Any = None) -> Block:
    """Name the actor of the changes in this block, for code outside requests.

    ``request`` is an object with the ``user``, ``id``, ``method`` and ``path`` of a request, such as the copy that
    NetBox gives to a script. It may lack some of them. Then the other arguments must be left out.

    If the request of a webhook caused these changes, ``depth`` is one more than its depth. Raises TypeError for an
    argument of another type, and ValueError for a depth below 1.
    """
    if request is not None:
        if username or request_id or depth != 1:
            raise TypeError("webhooks.actor() takes a request, or a username, a request_id and a depth, not both.")
        if isinstance(request, str) or not hasattr(request, "user"):
            raise TypeError(f"webhooks.actor() takes a request with a user, not {short_repr(request)}.")
        return acting(RequestActor(request))
    for value, kind, way in (
        (username, str, 'actor(user.get_username()) or, as a decorator, @webhooks.actor("nightly import")'),
        (request_id, str, "str(request_id)"),
        (depth, int, "a whole number"),
    ):
        if not isinstance(value, kind):
            raise TypeError(f"webhooks.actor() takes {kind.__name__}, not {short_repr(value)}: write {way}.")
    if depth < 1:
        raise ValueError(f"webhooks.actor() takes a depth of 1 or more, not {depth}.")
    return acting(Actor(username, request_id, depth=depth))
