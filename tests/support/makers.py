"""Make webhooks, events, deliveries and attempts, and read back the events that were recorded."""

from __future__ import annotations

import itertools
import json
import uuid
from datetime import timedelta
from typing import Any

from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.utils import timezone

from webhooks.models import Attempt, Delivery, Event, State, Webhook

_numbers = itertools.count(1)


def make_webhook(
    *wanted: type[models.Model], on: str = "cud", url: str = "http://127.0.0.1:1/", **fields: Any
) -> Webhook:
    """An enabled webhook for these models. ``on`` has the first letters of its actions."""
    webhook = Webhook.objects.create(
        name=fields.pop("name", f"webhook {next(_numbers)}"),
        payload_url=url,
        on_created="c" in on,
        on_updated="u" in on,
        on_deleted="d" in on,
        **fields,
    )
    webhook.object_types.set(ContentType.objects.get_for_models(*wanted).values())
    return webhook


def make_event(*webhooks: Webhook, object_id: str = "1", **fields: Any) -> Event:
    """An undispatched event of a Thing. The object need not exist."""
    defaults = {"action": "updated", "object_type": "testapp.thing", "data": json.dumps({"id": object_id})}
    fields.setdefault("webhook_ids", [webhook.pk for webhook in webhooks])
    return Event.objects.create(object_id=object_id, **defaults | fields)


def make_delivery(webhook: Webhook, state: State = State.PENDING, object_id: str = "1", **fields: Any) -> Delivery:
    """A delivery of ``event``, or of a new one that is dispatched."""
    event = fields.pop("event", None) or make_event(webhook, object_id=object_id, dispatched_at=timezone.now())
    if state == State.SENDING:
        fields = {"claim": uuid.uuid4(), "lease_until": timezone.now() + timedelta(seconds=15)} | fields
    if state in (State.SUCCEEDED, State.FAILED, State.DISCARDED):
        fields = {"finished_at": timezone.now()} | fields
    return Delivery.objects.create(event=event, webhook=webhook, state=state, **{"lane": event.lane} | fields)


def make_site_event(key: object = 1, name: str = "AMS1", **fields: Any) -> Event:
    """An event of a site, dispatched a minute ago. The site need not exist."""
    ago = timezone.now() - timedelta(minutes=1)
    defaults = {
        "timestamp": ago,
        "object_type": "dcim.site",
        "object_repr": name,
        "data": json.dumps({"id": key, "name": name}),
        "dispatched_at": ago,
    }
    return make_event(object_id=str(key), **defaults | fields)


def make_site_delivery(
    webhook: Webhook, state: State = State.FAILED, event: Event | None = None, **fields: Any
) -> Delivery:
    """A delivery of ``event``, or of a new one of site 1. A failed one has failed twice."""
    if state == State.FAILED:
        fields = {"reason": "HTTP 503 Service Unavailable", "attempt_count": 2, "failures": 2} | fields
    return make_delivery(webhook, state, event=event or make_site_event(), **fields)


def make_site_deliveries(webhook: Webhook, count: int, state: State = State.FAILED, **fields: Any) -> list[Delivery]:
    """As many deliveries, each of another site."""
    events = (make_site_event(key, f"site {key}") for key in range(1, count + 1))
    return [make_site_delivery(webhook, state, event, **fields) for event in events]


def make_attempt(delivery: Delivery, **fields: Any) -> Attempt:
    """A failed attempt."""
    defaults = {
        "number": 1,
        "started_at": timezone.now(),
        "duration_ms": 47,
        "url": delivery.webhook.payload_url,
        "succeeded": False,
        "reason": delivery.reason,
        "status": 503,
    }
    return Attempt.objects.create(delivery=delivery, **defaults | fields)


def to_view_objects() -> models.Q:
    """The permissions to view the host's models."""
    return models.Q(codename__startswith="view_") & ~models.Q(content_type__app_label="webhooks")


def events(model: type[models.Model] | None = None) -> list[Event]:
    """The recorded events in order, of one model or of all."""
    found = Event.objects.order_by("pk")
    return list(found.filter(object_type=model._meta.label_lower) if model else found)


def recorded(model: type[models.Model] | None = None) -> list[tuple[str, str, str]]:
    """The recorded events as (action, object type, object id)."""
    return [(event.action, event.object_type, event.object_id) for event in events(model)]


def actions(model: type[models.Model] | None = None) -> list[str]:
    """The actions of the recorded events."""
    return [str(event.action) for event in events(model)]


def last_data(model: type[models.Model] | None = None) -> dict[str, Any]:
    """The data of the last recorded event."""
    data: dict[str, Any] = json.loads(events(model)[-1].data)
    return data


def sides(event: Event | None = None) -> tuple[Any, Any]:
    """The snapshots of an Event, or of the last one, before and after."""
    snapshots = json.loads((event or events()[-1]).snapshots)
    return snapshots["prechange"], snapshots["postchange"]


def changed(event: Event | None = None) -> Any:
    """The changed fields of an Event, or of the last one."""
    return json.loads((event or events()[-1]).changed or "null")


def rename(thing: Any) -> None:
    thing.name = "new"
    thing.save()
