"""Who makes the changes of the current request, task or ``with`` block."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from django.http import HttpRequest


@dataclass(frozen=True)
class Actor:
    """``username`` and ``request_id`` go into the payload; ``request`` is what it shows of the HTTP request."""

    username: str = ""
    request_id: str = ""
    request: dict[str, Any] | None = None


@dataclass(frozen=True)
class RequestActor:
    """The actor of an HTTP request, read when a change is recorded: REST framework knows the user only by then."""

    http: HttpRequest
    fallback_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def read(self) -> Actor:
        user = getattr(self.http, "user", None)
        username = user.get_username() if user is not None and user.is_authenticated else ""
        request_id = str(getattr(self.http, "id", "") or self.fallback_id)
        request = {
            "id": request_id,
            "method": self.http.method,
            "path": self.http.path,
            "path_info": self.http.path_info,
            "GET": self.http.GET.dict(),
            "user": username,
        }
        return Actor(username, request_id, request)


_current: ContextVar[Actor | RequestActor | None] = ContextVar("webhooks_actor", default=None)


def current_actor() -> Actor:
    """The actor in force; one without a name where nobody said."""
    actor = _current.get()
    if actor is None:
        return Actor()
    return actor.read() if isinstance(actor, RequestActor) else actor


@contextmanager
def actor(username: str = "", request_id: str = "") -> Iterator[None]:
    """Name who makes the changes in this block, for code that runs outside a request."""
    with acting(Actor(username, request_id)):
        yield


@contextmanager
def acting(who: Actor | RequestActor) -> Iterator[None]:
    """Put an actor in force for this block, in this thread or task."""
    token = _current.set(who)
    try:
        yield
    finally:
        _current.reset(token)
