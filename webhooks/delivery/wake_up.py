"""Wake a worker. It is a hint: what is due stands in the queue, and ``workers`` say how they are woken."""

from __future__ import annotations

from django.db import transaction
from django.dispatch import Signal

from webhooks.models.event import Event

# Sent when there is something to do. ``apps`` connects what wakes a worker.
wanted = Signal()


def wake_up() -> None:
    """Wake a worker now."""
    wanted.send(None)


def wake_on_commit() -> None:
    """Wake a worker when the open transaction is committed, or at once if there is none."""
    transaction.on_commit(wake_up, using=Event.objects.db)
