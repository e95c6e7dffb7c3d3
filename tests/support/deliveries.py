"""Makes deliveries as workers leave them behind, without sending anything."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from django.utils import timezone

from webhooks.models import Attempt, Delivery, Event, State, Webhook

ENDED = (State.SUCCEEDED, State.FAILED, State.DISCARDED)


def make_event(key: object = 1, name: str = "AMS1", **fields: Any) -> Event:
    """An event of site ``key``, dispatched a minute ago."""
    ago = timezone.now() - timedelta(minutes=1)
    values: dict[str, Any] = {
        "timestamp": ago,
        "action": "updated",
        "object_type": "dcim.site",
        "object_repr": name,
        "data": json.dumps({"id": key, "name": name}),
        "dispatched_at": ago,
    }
    return Event.objects.create(object_id=str(key), **values | fields)


def make_delivery(webhook: Webhook, state: State = State.FAILED, event: Event | None = None, **fields: Any) -> Delivery:
    """A delivery of ``event``, or of a new one of site 1, in this state."""
    event = event or make_event()
    fields.setdefault("lane", event.lane)
    if state in ENDED:
        fields.setdefault("finished_at", timezone.now())
    if state == State.FAILED:
        fields = {"reason": "HTTP 503 Service Unavailable", "attempt_count": 2, "failures": 2} | fields
    return Delivery.objects.create(webhook=webhook, event=event, state=state, **fields)


def make_deliveries(webhook: Webhook, count: int, state: State = State.FAILED, **fields: Any) -> list[Delivery]:
    """As many, each of a site of its own."""
    return [make_delivery(webhook, state, make_event(key, f"site {key}"), **fields) for key in range(1, count + 1)]


def make_attempt(delivery: Delivery, **fields: Any) -> Attempt:
    values: dict[str, Any] = {
        "number": 1,
        "started_at": timezone.now(),
        "duration_ms": 47,
        "url": delivery.webhook.payload_url,
        "succeeded": False,
        "reason": delivery.reason,
        "status": 503,
    }
    return Attempt.objects.create(delivery=delivery, **values | fields)
