"""Log webhook errors instead of letting them break the host's save, and record the missed changes later.

A missed change waits in the memory of the process until the tables can be written again. It then becomes a failed
Event. If the process ends before, only the log has it.
"""

from __future__ import annotations

import threading
from collections import deque
from functools import partial
from types import TracebackType
from typing import Any

from django.db import transaction

from webhooks import db
from webhooks.capture.context import actor_columns, current_actor
from webhooks.capture.subscriptions import Subscriptions
from webhooks.db import is_aborted
from webhooks.logs import get_logger, reraise_job_timeout
from webhooks.models import Action, Event
from webhooks.text import clean, last_line

logger = get_logger(__name__)

# If more changes than this wait, the oldest are dropped.
MAX_MISSED = 10_000

MISSED = "It could not be recorded when it happened, so nothing was sent. Replay it to send it.\n{}"

_missed: deque[Event] = deque(maxlen=MAX_MISSED)
_lock = threading.Lock()


class log_errors:  # reads as a function
    """In a ``with``: log an error under a message, and go on.

    Raises what aborted the transaction: a caller that went on would lose its changes without notice. ``missed`` is the
    Event to record as failed later, without the columns of the actor.
    """

    def __init__(self, using: str, message: str, *args: Any, missed: dict[str, Any] | None = None) -> None:
        self._using, self._message, self._args, self._missed = using, message, args, missed

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        reraise_job_timeout(error)
        if db.is_missing_table(error):
            error.add_note(f"{db.RUN_MIGRATE}.")
        logger.error(self._message, *self._args, exc_info=error)
        if is_aborted(self._using):
            return False
        if self._missed:
            _keep(self._using, self._missed, error)
        return True


def _keep(using: str, columns: dict[str, Any], error: Exception) -> None:
    """Keep what could not be recorded, if its transaction is committed. Never raises."""
    try:
        reason = clean(MISSED.format(last_line(str(error)) or type(error).__name__))
        event = Event(**columns, **actor_columns(current_actor()), error=reason)
        transaction.on_commit(partial(_missed.append, event), using=using, robust=True)
    except Exception as problem:
        reraise_job_timeout(problem)
        logger.exception("The missed change cannot be kept either: %s", columns)


def record_missed_on_commit(subscriptions: Subscriptions, using: str) -> None:
    """Record the missed changes as failed Events once the open transaction is committed."""
    if _missed:
        transaction.on_commit(partial(_record_missed, subscriptions, using), using=using, robust=True)


def _record_missed(subscriptions: Subscriptions, using: str) -> None:
    with _lock:
        events = list(_missed)
        _missed.clear()
    for event in events:
        if event.action in Action:
            event.webhook_ids = subscriptions.matching(event.object_type, Action(event.action), event.username)
        else:
            event.webhook_ids = subscriptions.for_custom_event(event.action, event.username)
    try:
        with transaction.atomic(using):
            Event.insert_all([event for event in events if event.webhook_ids], using)
    except Exception as error:
        reraise_job_timeout(error)
        _missed.extend(events)
        logger.warning("%d missed changes still cannot be recorded: %s", len(events), error)
