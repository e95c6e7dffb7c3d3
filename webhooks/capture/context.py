"""Who makes the changes of the current request, task or ``with`` block."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial, wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import SuspiciousOperation
from django.db import router, transaction
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject, empty

from webhooks.conf import conf
from webhooks.logs import get_logger, reraise_job_timeout
from webhooks.models.event import REQUEST_ID_LENGTH, USERNAME_LENGTH
from webhooks.network.headers import DEPTH
from webhooks.registry.registration import is_sensitive
from webhooks.text import clean, drop_keys, dumps, short_repr

logger = get_logger(__name__)

# Each request of a webhook has a header with the depth of its chain of changes. A request to the site may send this
# header if its user has the permission.
DEPTH_PERMISSION = "webhooks.chain_webhook"


@dataclass(frozen=True)
class Actor:
    """``username`` and ``request_id`` go into the payload. ``request`` is what the payload shows of the HTTP request.
    ``depth`` is 1 if no webhook caused the change, 2 if a webhook for a change of depth 1 did, and so on."""

    username: str = ""
    request_id: str = ""
    request: dict[str, Any] | None = None
    depth: int = 1


@dataclass
class RequestActor:
    """The actor of an HTTP request, read when a change is recorded: REST framework knows the user only by then."""

    http: HttpRequest
    fallback_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    has_warned: bool = False

    def read(self) -> Actor:
        user, username = self._user()
        request_id = str(getattr(self.http, "id", "") or self.fallback_id)
        request = {
            "id": request_id,
            "method": self.http.method,
            "path": self.http.path,
            "path_info": self.http.path_info,
            "GET": drop_keys(self._query(), is_sensitive),
            "user": username,
        }
        return Actor(username, request_id, request, self._depth_before(user, username) + 1)

    def _depth_before(self, user: Any, username: str) -> int:
        """The depth in the header, if the user may send it. Without a header this costs no query."""
        depth = parse_depth(self.http.headers.get(DEPTH, ""))
        if not depth or self._may_send_depth(user):
            return depth
        if not self.has_warned:
            self.has_warned = True
            who = username or "an unknown user"
            logger.warning(
                "X-Webhook-Depth of %s is ignored: %s lacks the permission %s", self.http.path, who, DEPTH_PERMISSION
            )
        return 0

    def _may_send_depth(self, user: Any) -> bool:
        try:
            with _user_savepoint():
                return hasattr(user, "has_perm") and bool(user.has_perm(DEPTH_PERMISSION))
        except Exception as error:
            reraise_job_timeout(error)
            logger.exception("The permissions of the user of %s cannot be read", self.http.path)
            return False

    def _query(self) -> dict[str, Any]:
        try:
            return self.http.GET.dict()
        except SuspiciousOperation as error:
            # Django parses the query only now, and may refuse it: too many parameters, for example.
            logger.warning("The query parameters of %s cannot be read: %s", self.http.path, error)
            return {}

    def _user(self) -> tuple[Any, str]:
        """The user who is logged in, and the name. None and an empty name if there is none."""
        try:
            user = getattr(self.http, "user", None)
            is_unread = isinstance(user, SimpleLazyObject) and user._wrapped is empty
            with _user_savepoint() if is_unread else nullcontext():
                if user is None or not user.is_authenticated:
                    return None, ""
                return user, user.get_username() if hasattr(user, "get_username") else str(user)
        except Exception as error:
            reraise_job_timeout(error)
            # Sessions and users are read here for the first time, and may be unavailable.
            logger.exception("The user of %s cannot be read: its changes are recorded without a user", self.http.path)
            return None, ""


def _user_savepoint() -> AbstractContextManager[None]:
    """An error of the database with the users must not abort the transaction of the change."""
    return transaction.atomic(router.db_for_read(get_user_model()))


def parse_depth(header: str) -> int:
    """The depth in a header; 0 if it is empty or invalid."""
    is_number = header.isascii() and header.isdecimal() and len(header) < 10
    return int(header) if is_number and int(header) <= conf.max_depth else 0


_current: ContextVar[Actor | RequestActor | None] = ContextVar("webhooks_actor", default=None)


def current_actor() -> Actor:
    """The current actor; one without a name outside requests and ``actor()``."""
    actor = _current.get()
    if actor is None:
        return Actor()
    return actor.read() if isinstance(actor, RequestActor) else actor


@contextmanager
def acting(actor: Actor | RequestActor) -> Iterator[None]:
    """Make this the current actor for the block, in this thread or task."""
    token = _current.set(actor)
    try:
        yield
    finally:
        _current.reset(token)


def actor_columns(actor: Actor) -> dict[str, Any]:
    """The columns of an Event about its actor."""
    return {
        "username": clean(actor.username, USERNAME_LENGTH),
        "request_id": clean(actor.request_id, REQUEST_ID_LENGTH),
        "request": dumps(actor.request) if actor.request else "",
    }


class Block(AbstractContextManager[None]):
    """A context manager that is a decorator as well.

    ``begin`` returns the context manager: for the ``with``, and for each call of a decorated function. A function that
    is async or a generator cannot be decorated, because the block would end before the function runs.
    """

    def __init__(self, name: str, begin: Callable[[], AbstractContextManager[None]]) -> None:
        self._name, self._begin, self._block = name, begin, begin()

    def __enter__(self) -> None:
        self._block.__enter__()

    def __exit__(self, *raised: Any) -> bool | None:
        return self._block.__exit__(*raised)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if iscoroutinefunction(function) or isgeneratorfunction(function) or isasyncgenfunction(function):
            raise TypeError(
                f"{self._name}() cannot decorate {function.__qualname__}, which is async or a generator and runs after "
                f"the call: write `with {self._name}(…):` in it."
            )

        @wraps(function)
        def in_block(*args: Any, **kwargs: Any) -> Any:
            with self._begin():
                return function(*args, **kwargs)

        return in_block


def actor(username: str = "", request_id: str = "", depth: int = 1) -> Block:
    """Name the actor of the changes in this block, for code outside requests.

    If the request of a webhook caused these changes, ``depth`` is one more than its depth. Raises TypeError for an
    argument of another type.
    """
    if not isinstance(username, str):
        raise TypeError(
            f"webhooks.actor() takes a username as text, not {short_repr(username)}: write actor(user.get_username()), "
            f'or, as a decorator, @webhooks.actor("nightly import").'
        )
    if not isinstance(request_id, str):
        raise TypeError(
            f"webhooks.actor() takes a request_id as text, not {short_repr(request_id)}: write str(request_id)."
        )
    if not isinstance(depth, int):
        raise TypeError(f"webhooks.actor() takes a depth as a whole number, not {short_repr(depth)}.")
    return Block("webhooks.actor", partial(acting, Actor(username, request_id, depth=depth)))
