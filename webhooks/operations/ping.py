"""A test of a webhook: an Event of no object, sent as every other."""

from __future__ import annotations

from webhooks.capture import recording
from webhooks.capture.context import current_actor, made_by
from webhooks.db import new_id
from webhooks.models import Event, Webhook
from webhooks.models.event import PING, PING_OBJECT_TYPE
from webhooks.text import dumps


def ping(webhook: Webhook) -> Event:
    """Record a test of one webhook, and wake a worker. A paused one is probed at once."""
    key = str(new_id())
    event = Event.objects.create(
        action=PING,
        object_type=PING_OBJECT_TYPE,
        # A key of its own: a test that fails keeps no later one waiting in its lane.
        object_id=key,
        object_repr=f"test of {webhook.name}",
        data=dumps({"id": key, "display": f"test of {webhook.name}"}),
        webhook_ids=[webhook.pk],
        **made_by(current_actor()),
    )
    Webhook.objects.filter(pk=webhook.pk).probe()
    recording.wake_on_commit()
    return event
