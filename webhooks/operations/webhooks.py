"""Test webhooks, and delete them."""

from __future__ import annotations

from django.db import transaction

from webhooks.capture import recording
from webhooks.capture.context import actor_columns, current_actor
from webhooks.db import new_id
from webhooks.delivery.maintenance import purge_webhooks
from webhooks.models import Event, Webhook
from webhooks.models.event import PING, PING_OBJECT_TYPE
from webhooks.models.webhook import WebhookQuerySet
from webhooks.text import dumps

# Rows that one request deletes at most. Under ATOMIC_REQUESTS they are locked until its end, and workers wait for them.
MAX_ROWS = 1000


def ping(webhook: Webhook) -> Event:
    """Send a test event to one webhook. If the webhook is paused, the test probes it at once."""
    # Each test has its own id and so its own lane: a test that fails does not block the next one.
    object_id = str(new_id())
    event = Event.objects.create(
        action=PING,
        object_type=PING_OBJECT_TYPE,
        object_id=object_id,
        object_repr=f"test of {webhook.name}",
        data=dumps({"id": object_id, "display": f"test of {webhook.name}"}),
        webhook_ids=[webhook.pk],
        **actor_columns(current_actor()),
    )
    Webhook.objects.filter(pk=webhook.pk).probe()
    recording.wake_on_commit()
    return event


def delete_webhooks(webhooks: WebhookQuerySet) -> None:
    """Delete webhooks with all their deliveries.

    They are hidden and disabled at once. If there are more than ``MAX_ROWS`` deliveries, the sweep deletes the rest.
    """
    using = webhooks.db
    pks = list(webhooks.values_list("pk", flat=True))
    with transaction.atomic(using):
        webhooks.filter(pk__in=pks).mark_deleted()
        purge_webhooks(Webhook.with_deleted.using(using).being_deleted().filter(pk__in=pks), MAX_ROWS)
