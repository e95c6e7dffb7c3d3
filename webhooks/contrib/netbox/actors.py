"""Who changes something in NetBox: in its pages and REST API, in jobs, and in scripts.

NetBox runs the code of a request, and most code of a job, within its request processors. The request of a job is a copy
of the one that started it, or a request of REST framework.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from core.signals import job_end, job_start
from django.http import HttpRequest
from netbox.context import current_request
from netbox.registry import registry

from webhooks.capture.context import Actor, RequestActor, acting
from webhooks.capture.transaction import transactions_as_batches
from webhooks.ground.conf import conf
from webhooks.ground.text import username_of

# The request that the app was given. NetBox and its plugins may act for others meanwhile.
_known: ContextVar[Any] = ContextVar("webhooks_netbox_request", default=None)

_running: dict[int, AbstractContextManager[None]] = {}
"""The actors of the jobs that run in this process, by the keys of the jobs."""


def connect() -> None:
    """Register with NetBox. Call it once."""
    # The first processor, so that its actor also acts while NetBox flushes its own events.
    registry["request_processors"].insert(0, act)
    registry["request_processors"].append(record_together)
    job_start.connect(on_job_started, dispatch_uid="webhooks.on_job_started")
    job_end.connect(on_job_ended, dispatch_uid="webhooks.on_job_ended")


@contextmanager
def act(request: Any) -> Iterator[None]:
    """Name the user and the request behind the changes of this block. A script may have no request."""
    token = _known.set(request)
    try:
        with nullcontext() if request is None else acting(RequestActor(request)):
            yield
    finally:
        _known.reset(token)


def other_request() -> Any | None:
    """The request that NetBox records changes for, if it is another one than the processors got: a merge of a branch
    repeats each change as the request that it was made by."""
    http_request = current_request.get()
    return None if http_request is _known.get() else http_request


@contextmanager
def record_together(request: Any) -> Iterator[None]:
    """With ``BATCH_REQUESTS``, record the changes of each transaction of a job or a script together at its end.

    The middleware does that for requests.
    """
    is_of_job = not isinstance(request, HttpRequest)
    with transactions_as_batches() if conf.batch_requests and is_of_job else nullcontext():
        yield


def on_job_started(sender: Any, **kwargs: Any) -> None:
    """Name the user of a job that has no request. The id of the job takes the place of the request's."""
    if sender.user_id:
        actor = acting(Actor(username_of(sender.user), str(sender.job_id)))
        actor.__enter__()
        _running[sender.pk] = actor


def on_job_ended(sender: Any, **kwargs: Any) -> None:
    if actor := _running.pop(sender.pk, None):
        actor.__exit__(None, None, None)
