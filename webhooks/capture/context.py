"""Who makes the changes of the current request, task or ``with`` block."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import SuspiciousOperation
from django.db import router, transaction
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject, empty

from webhooks.capture.blocks import Block
from webhooks.conf import conf
from webhooks.logs import get_logger, reraise_job_timeout
from webhooks.models.event import REQUEST_ID_LENGTH, USERNAME_LENGTH
from webhooks.network.headers import DEPTH
from webhooks.registry.registration import is_sensitive
from webhooks.text import clean, drop_keys, dumps, short_repr

logger = get_logger(__name__)

# Each request of a webhook says with it how long the chain of changes is that it belongs to. A request to the site may
# say it if its user has the permission.
MAY_SAY_DEPTH = "webhooks.chain_webhook"


@dataclass(frozen=True)
class Actor:
    """``username`` and ``request_id`` go into the payload; ``request`` is what it shows of the HTTP request. ``depth``
    is 1 where no webhook caused what is done, 2 where one did that told of such a change, and so on."""

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
        """The depth that the header says, if the user may say it. Without a header this costs no query."""
        depth = caused_by(self.http.headers.get(DEPTH, ""))
        if not depth or self._may_say_depth(user):
            return depth
        if not self.has_warned:
            self.has_warned = True
            logger.warning(
                "X-Webhook-Depth of %s is ignored: %s lacks the permission %s",
                self.http.path,
                username or "an unknown user",
                MAY_SAY_DEPTH,
            )
        return 0

    def _may_say_depth(self, user: Any) -> bool:
        try:
            with _savepoint():
                return hasattr(user, "has_perm") and bool(user.has_perm(MAY_SAY_DEPTH))
        except Exception as error:
            reraise_job_timeout(error)
            logger.exception("The permissions of the user of %s cannot be read", self.http.path)
            return False

    def _query(self) -> dict[str, Any]:
        try:
            return self.http.GET.dict()
        except SuspiciousOperation as error:
            # Django takes it apart only now, and refuses it: too many parameters, for one.
            logger.warning("The parameters of %s cannot be told: %s", self.http.path, error)
            return {}

    def _user(self) -> tuple[Any, str]:
        """The user who is logged in, and the name; None and an empty name if there is none."""
        try:
            user = getattr(self.http, "user", None)
            with _savepoint() if _is_unread(user) else nullcontext():
                if user is None or not user.is_authenticated:
                    return None, ""
                return user, user.get_username() if hasattr(user, "get_username") else str(user)
        except Exception as error:
            reraise_job_timeout(error)
            # It is looked up only here: where sessions or users are may be away.
            logger.exception("The user of %s cannot be read: its changes are told without one", self.http.path)
            return None, ""


def _is_unread(user: Any) -> bool:
    return isinstance(user, SimpleLazyObject) and user._wrapped is empty


def _savepoint() -> AbstractContextManager[None]:
    """What goes wrong where users are must not end the transaction of the change."""
    return transaction.atomic(router.db_for_read(get_user_model()))


def caused_by(header: str) -> int:
    """The depth of the change that a request comes from, by its header; 0 for none, and for what cannot be one."""
    is_number = header.isascii() and header.isdecimal() and len(header) < 10
    return int(header) if is_number and int(header) <= conf.max_depth else 0


_current: ContextVar[Actor | RequestActor | None] = ContextVar("webhooks_actor", default=None)


def current_actor() -> Actor:
    """The actor in force; one without a name where nobody said."""
    actor = _current.get()
    if actor is None:
        return Actor()
    return actor.read() if isinstance(actor, RequestActor) else actor


def actor(username: str = "", request_id: str = "", depth: int = 1) -> Block:
    """Name who makes the changes in this block, for code that runs outside a request. ``depth`` is one more than that
    of the webhook's request that caused them, where one did. Raises TypeError if an argument is of another type."""
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


@contextmanager
def acting(who: Actor | RequestActor) -> Iterator[None]:
    """Put an actor in force for this block, in this thread or task."""
    token = _current.set(who)
    try:
        yield
    finally:
        _current.reset(token)


def made_by(actor: Actor) -> dict[str, Any]:
    """The columns that tell who made a change."""
    return {
        "username": clean(actor.username, USERNAME_LENGTH),
        "request_id": clean(actor.request_id, REQUEST_ID_LENGTH),
        "request": dumps(actor.request) if actor.request else "",
    }
