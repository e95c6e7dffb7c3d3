"""Make webhooks, events, deliveries and attempts, and read back the events that were recorded."""

from __future__ import annotations

import itertools
import json
import uuid
from datetime import datetime, timedelta
from typing import Any

from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.utils import timezone

from webhooks.ground.db import to_db_time, to_utc
from webhooks.models import Attempt, Delivery, Event, QueuedDelivery, Skip, State, Undispatched, Webhook, Worker
from webhooks.models.ids import delivery_id
from webhooks.models.lanes import lane_of
from webhooks.models.queue import QUEUED_STATES
from webhooks.models.skip import Rule

_numbers = itertools.count(1)


def stored(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with times as the columns take them: naive ones if ``USE_TZ`` is off."""
    moments = {name: value for name, value in fields.items() if isinstance(value, datetime) and value.tzinfo}
    return fields | {name: to_db_time(value) for name, value in moments.items()}


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
        **stored(fields),
    )
    webhook.object_types.add(*ContentType.objects.get_for_models(*wanted).values())
    return webhook


def make_event(*webhooks: Webhook, object_id: str = "1", dispatched: bool = False, **fields: Any) -> Event:
    """An event of a Thing. The object need not exist."""
    defaults = {"action": "updated", "object_type": "testapp.thing", "data": json.dumps({"id": object_id})}
    fields.setdefault("webhook_ids", [webhook.pk for webhook in webhooks])
    event = Event.objects.create(object_id=object_id, **stored(defaults | fields))
    if not dispatched:
        Undispatched.objects.create(event=event)
    return event


def make_delivery(webhook: Webhook, state: State = State.PENDING, object_id: str = "1", **fields: Any) -> Delivery:
    """A delivery of ``event``, or of a new one that is dispatched. ``fields`` are columns of its row or of its row in
    the queue, or ``attempt_count`` and ``finished_at``."""
    fields = stored(fields)
    event = fields.pop("event", None) or make_event(webhook, object_id=object_id, dispatched=True)
    if state in (State.SUCCEEDED, State.FAILED, State.DISCARDED):
        fields = {"finished_at": timezone.now(), "outcome": state} | fields
    finished_at = fields.pop("finished_at", None)
    attempts = fields.pop("attempt_count", 0)
    outcome = "" if attempts else State.SUCCEEDED
    fields = {"noted_end": finished_at, "noted_attempts": attempts, "outcome": outcome} | fields
    if state == State.DISCARDED:
        fields = {"discarded_at": finished_at} | fields
    if finished_at and "id" not in fields:
        fields["id"] = delivery_id(to_utc(finished_at), event.pk, webhook.pk)
    fields = {"lane": lane_of(event.object_type, event.object_id) if webhook.ordered else None} | fields
    columns = {field.name for field in Delivery._meta.concrete_fields}
    queued = {name: fields.pop(name) for name in fields.keys() - columns}
    delivery = Delivery.objects.create(event=event, webhook=webhook, **fields)
    if state in QUEUED_STATES:
        same: dict[str, Any] = {"event": event, "webhook": webhook, "lane": delivery.lane, "state": state}
        same |= {"in_lane": webhook.ordered, "attempts": attempts, "waited": state == State.WAITING}
        if state == State.SENDING:
            lease_until = queued.pop("lease_until", timezone.now() + timedelta(seconds=15))
            worker = Worker.objects.create(token=uuid.uuid4(), name="another", lease_until=lease_until)
            queued = {"claim": worker.pk} | queued
        if state == State.PENDING:
            queued = {"due_at": timezone.now()} | queued
        if state == State.FAILED:
            queued = {"failed_at": finished_at, "error_kind": delivery.error_kind} | queued
        delivery.queued = QueuedDelivery.objects.create(delivery=delivery, **same | queued)
    return delivery


def make_site_event(key: object = 1, name: str = "AMS1", **fields: Any) -> Event:
    """An event of a site, dispatched a minute ago. The site need not exist."""
    defaults = {
        "timestamp": timezone.now() - timedelta(minutes=1),
        "object_type": "dcim.site",
        "object_repr": name,
        "data": json.dumps({"id": key, "name": name}),
        "dispatched": True,
    }
    return make_event(object_id=str(key), **defaults | fields)


def make_site_delivery(
    webhook: Webhook, state: State = State.FAILED, event: Event | None = None, **fields: Any
) -> Delivery:
    """A delivery of ``event``, or of a new one of site 1. A failed one has failed twice."""
    if state == State.FAILED:
        fields = {
            "reason": "HTTP 503 Service Unavailable", "error_kind": "http_503", "attempt_count": 2, "failures": 2,
        } | fields  # fmt: skip
    return make_delivery(webhook, state, event=event or make_site_event(), **fields)


def make_site_deliveries(webhook: Webhook, count: int, state: State = State.FAILED, **fields: Any) -> list[Delivery]:
    """As many deliveries, each of another site."""
    events = (make_site_event(key, f"site {key}") for key in range(1, count + 1))
    return [make_site_delivery(webhook, state, event, **fields) for event in events]


def make_site_skip(webhook: Webhook, key: object = 1, actual: Any = "active", **fields: Any) -> Skip:
    """A skip of a site by a condition. The site need not exist."""
    detail = {"path": "status.value", "operator": "eq", "expected": "retired", "actual": actual}
    defaults = {
        "action": "updated",
        "object_type": "dcim.site",
        "object_repr": "AMS1",
        "rule": Rule.CONDITION,
        "detail": json.dumps(detail),
    }
    return Skip.objects.create(webhook=webhook, object_id=str(key), **stored(defaults | fields))


def make_attempt(delivery: Delivery, **fields: Any) -> Attempt:
    """A failed attempt."""
    defaults = {
        "number": delivery.attempts.count() + 1,
        "started_at": timezone.now(),
        "duration_ms": 47,
        "method": delivery.webhook.http_method,
        "url": delivery.webhook.payload_url,
        "succeeded": False,
        "reason": delivery.reason,
        "error_kind": delivery.error_kind,
        "status": 503,
    }
    return Attempt.objects.create(delivery=delivery, **stored(defaults | fields))


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
