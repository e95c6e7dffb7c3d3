"""Makes what most tests need, and reads back what was recorded."""

from __future__ import annotations

import json
import uuid
from datetime import timedelta
from typing import Any

from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.utils import timezone

from webhooks.models import Delivery, Event, State, Webhook

_count = 0


def make_webhook(
    *wanted: type[models.Model], on: str = "cud", url: str = "http://127.0.0.1:1/", **fields: Any
) -> Webhook:
    """An enabled webhook for these models; ``on`` has the first letters of its actions."""
    global _count
    _count += 1
    webhook = Webhook.objects.create(
        name=fields.pop("name", f"webhook {_count}"),
        payload_url=url,
        on_created="c" in on,
        on_updated="u" in on,
        on_deleted="d" in on,
        **fields,
    )
    webhook.object_types.set(ContentType.objects.get_for_models(*wanted).values())
    return webhook


def to_view_objects() -> models.Q:
    """The permissions to view whatever is not of the app itself."""
    return models.Q(codename__startswith="view_") & ~models.Q(content_type__app_label="webhooks")


def events(model: type[models.Model] | None = None) -> list[Event]:
    """What was recorded, in order; of one model, or all of it."""
    found = Event.objects.order_by("pk")
    return list(found.filter(object_type=model._meta.label_lower) if model else found)


def recorded(model: type[models.Model] | None = None) -> list[tuple[str, str, str]]:
    """The same as (action, object type, object id)."""
    return [(event.action, event.object_type, event.object_id) for event in events(model)]


def actions(model: type[models.Model] | None = None) -> list[str]:
    return [str(event.action) for event in events(model)]


def last_data(model: type[models.Model] | None = None) -> dict[str, Any]:
    """The data of the last Event."""
    data: dict[str, Any] = json.loads(events(model)[-1].data)
    return data


def make_event(*webhooks: Webhook, object_id: str = "1", **fields: Any) -> Event:
    """An Event that was not dispatched yet, of an object that needs not exist."""
    defaults = {"action": "updated", "object_type": "testapp.thing", "data": json.dumps({"id": object_id})}
    ids = [webhook.pk for webhook in webhooks]
    return Event.objects.create(object_id=object_id, webhook_ids=ids, **defaults | fields)


def make_delivery(webhook: Webhook, state: State = State.PENDING, object_id: str = "1", **fields: Any) -> Delivery:
    """A delivery in a state of its lane, of an event that is dispatched."""
    event = fields.pop("event", None) or make_event(webhook, object_id=object_id, dispatched_at=timezone.now())
    if state == State.SENDING:
        fields = {"claim": uuid.uuid4(), "lease_until": timezone.now() + timedelta(seconds=15)} | fields
    if state in (State.SUCCEEDED, State.FAILED, State.DISCARDED):
        fields = {"finished_at": timezone.now()} | fields
    return Delivery.objects.create(event=event, webhook=webhook, lane=event.lane, state=state, **fields)
