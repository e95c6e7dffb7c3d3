"""What wakes workers where there is no rq: the setting ``WAKE_UP``. A wake-up is a hint, so none of them may raise."""

from __future__ import annotations

from collections.abc import Callable

from django.db import Error, connections

from webhooks.db import is_postgresql
from webhooks.errors import get_logger
from webhooks.models import Event

logger = get_logger(__name__)

CHANNEL = "rq_webhooks"
"""Of LISTEN and NOTIFY. The same for all, as the tables are."""

Waker = Callable[[], bool]
"""Wakes a worker after a commit. Returns whether one is woken."""


def notify() -> bool:
    """Notify the workers of ``manage.py webhooks_worker``. On SQLite they look by themselves."""
    using = Event.objects.db
    if not is_postgresql(using):
        return True
    try:
        with connections[using].cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, '')", [CHANNEL])
    except Error as error:
        logger.warning("No worker could be notified: %s. Workers look by themselves", error)
        return False
    return True
