"""Changes that could not be recorded: they stand as failed Events as soon as the tables can be written again.

They wait in the memory of the process, and are lost with it: each is in the log, too.
"""

from __future__ import annotations

import threading
from collections import deque
from functools import partial
from typing import NamedTuple

from django.db import transaction

from webhooks.capture.context import current_actor, made_by
from webhooks.capture.subscriptions import Subscriptions
from webhooks.logs import get_logger, reraise_job_timeout
from webhooks.models import Action, Event
from webhooks.text import clean, last_line

logger = get_logger(__name__)

# How many changes wait at most: the first ones are dropped then.
MOST = 10_000

WHY = "It could not be recorded when it happened, so nothing of it was sent. Replay it to send it.\n{}"

_waiting: deque[Event] = deque(maxlen=MOST)
_taking = threading.Lock()


class Missed(NamedTuple):
    """A change or a custom event that could not be recorded; only the latter has ``data``."""

    object_type: str
    object_id: str
    action: str
    data: str = ""


def missed_event(event: Event) -> Missed:
    """A custom event that may not be recorded."""
    return Missed(event.object_type, event.object_id, event.action, event.data)


def keep(using: str, missed: Missed, error: Exception) -> None:
    """Keep what could not be recorded, if its transaction is committed. Never raises."""
    try:
        why = clean(WHY.format(last_line(str(error)) or type(error).__name__))
        event = Event(**missed._asdict(), **made_by(current_actor()), error=why)
        transaction.on_commit(partial(_waiting.append, event), using=using, robust=True)
    except Exception as problem:
        reraise_job_timeout(problem)
        logger.exception("%s cannot be kept either", missed)


def write_on_commit(wanted: Subscriptions, using: str) -> None:
    """Record what was kept for the webhooks that want it, once the open transaction is committed."""
    if _waiting:
        transaction.on_commit(partial(_write, wanted, using), using=using, robust=True)


def _write(wanted: Subscriptions, using: str) -> None:
    with _taking:
        taken = list(_waiting)
        _waiting.clear()
    for event in taken:
        if event.action in Action:
            event.webhook_ids = wanted.matching(event.object_type, Action(event.action), event.username)
        else:
            event.webhook_ids = wanted.listening(event.action, event.username)
    try:
        with transaction.atomic(using):
            Event.insert_all([event for event in taken if event.webhook_ids], using)
    except Exception as error:
        reraise_job_timeout(error)
        _waiting.extend(taken)
        logger.warning("%d changes still cannot be recorded: %s", len(taken), error)
