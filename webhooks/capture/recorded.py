"""Tell the hooks ``event_recorded`` of Events, once their transaction is committed."""

from __future__ import annotations

from collections.abc import Iterable

from webhooks import hooks
from webhooks.ground.db import to_utc
from webhooks.models.event import Event


def as_recorded(event: Event) -> hooks.RecordedEvent:
    """The Event as hooks see it."""
    change = event.action, event.object_type, event.object_id, event.object_repr, event.username, event.request_id
    return hooks.RecordedEvent(event.pk, *change, to_utc(event.timestamp), tuple(event.webhook_ids), event.error)


def notify_hooks(events: Iterable[Event], using: str) -> None:
    """Call them for inserted Events."""
    hooks.announce("event_recorded", using, lambda: map(as_recorded, events))
