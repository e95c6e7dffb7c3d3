"""Retry and discard deliveries, and replay failed events."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet

from webhooks import payloads, registry
from webhooks.capture import recording, serialize, subscriptions
from webhooks.capture.context import Actor
from webhooks.capture.matching import Budget, EventContext, FilterError, Match, match
from webhooks.db import DatabaseNow
from webhooks.models import Action, Delivery, Event, Webhook
from webhooks.models.delivery import DeliveryQuerySet
from webhooks.operations import history
from webhooks.payloads.snapshots import PreviousState
from webhooks.text import dumps, last_line

# Ids that one query reads, and deliveries that one transaction changes: workers wait for these rows.
READ, CHUNK = 10_000, 500

# Up to this many deliveries get an entry each in the history. More get one summary, which names a few webhooks.
MAX_ENTRIES = 100
NAMED_WEBHOOKS = 3

# Seconds after which a request stops, before the web server ends it.
REQUEST_SECONDS = 20.0


@dataclass
class Result:
    """The result of retrying or discarding many deliveries."""

    seen: int = 0
    changed: int = 0
    is_complete: bool = True
    """False if the time ran out before the last delivery."""
    webhooks: set[int] = field(default_factory=set)
    changed_ids: list[uuid.UUID] = field(default_factory=list)
    """The first ones. All of them, if there are at most ``MAX_ENTRIES``."""


def retry(deliveries: QuerySet[Delivery], user: Any = None, seconds: float = math.inf) -> Result:
    """Send failed and discarded deliveries again, in their lanes. Pending ones get their next attempt now.

    A paused webhook is probed at once. A ``user`` gets entries in the history. Stops after about
    ``seconds``.
    """
    result = _change(deliveries, DeliveryQuerySet.retriable, DeliveryQuerySet.retry, seconds)
    Webhook.objects.filter(pk__in=result.webhooks).probe()
    _record(user, result, "Retried.")
    return result


def discard(deliveries: QuerySet[Delivery], user: Any = None, seconds: float = math.inf) -> Result:
    """End deliveries without sending them, unless they are being sent. ``user`` and ``seconds`` as for ``retry``."""
    result = _change(deliveries, DeliveryQuerySet.discardable, DeliveryQuerySet.discard, seconds)
    _record(user, result, "Discarded.")
    return result


def _change(
    deliveries: QuerySet[Delivery],
    select: Callable[[DeliveryQuerySet], DeliveryQuerySet],
    change: Callable[[DeliveryQuerySet], int],
    seconds: float,
) -> Result:
    """Change the selected deliveries in chunks, because there may be a hundred thousand."""
    result, end = Result(), time.monotonic() + seconds
    for ids in _chunks_of_ids(deliveries):
        selected = dict(
            select(Delivery.objects.filter(pk__in=ids)).order_by("event_id", "pk").values_list("pk", "webhook")
        )
        result.webhooks.update(selected.values())
        if len(result.changed_ids) <= MAX_ENTRIES:
            result.changed_ids += selected
        result.changed += change(Delivery.objects.filter(pk__in=list(selected)))
        result.seen += len(ids)
        if time.monotonic() > end:
            result.is_complete = False
            break
    recording.wake_on_commit()
    return result


def _chunks_of_ids(deliveries: QuerySet[Delivery]) -> Iterator[list[uuid.UUID]]:
    """In the order of the events, so that the first of a lane comes first. Events from now on are left out."""
    newest = Event.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
    ordered = deliveries.filter(event__lte=newest).order_by("event_id", "pk").values_list("event_id", "pk")
    rows = list(ordered[:READ])
    while rows:
        for start in range(0, len(rows), CHUNK):
            yield [pk for _, pk in rows[start : start + CHUNK]]
        event_id, last = rows[-1]
        rows = list(ordered.filter(Q(event_id__gt=event_id) | Q(event_id=event_id, pk__gt=last))[:READ])


def _record(user: Any, result: Result, message: str) -> None:
    if user is None or not result.changed:
        return
    if result.changed <= MAX_ENTRIES:
        rows = list(Delivery.objects.filter(pk__in=result.changed_ids))
        history.record(user, rows, history.CHANGE, message)
        return
    names = list(Webhook.objects.filter(pk__in=result.webhooks).values_list("name", flat=True)[:NAMED_WEBHOOKS])
    more = len(result.webhooks) - len(names)
    webhooks = ", ".join(names) + (f" and {more} more" if more else "")
    history.record_summary(user, Delivery, f"{result.changed:,} deliveries of {webhooks}", history.CHANGE, message)


@dataclass(frozen=True)
class Replayed:
    """The result of replaying one failed event."""

    failed: Event
    event: Event | None
    """The new event, or None if nothing is sent."""
    problem: str = ""
    """Why nothing is sent."""
    is_done: bool = False
    """Whether ``failed`` no longer counts as failed."""


def replay(events: Iterable[Event], user: Any = None) -> list[Replayed]:
    """Create new events for failed ones, with the data of today.

    Deletions, custom events and events that loop protection stopped keep their data. The conditions of the webhooks
    are evaluated again, and if no webhook matches, the failed event is done without a new one. An event stays failed
    if its object is gone, if the serializer or a condition still raises, or if receivers know a newer state. A
    ``user`` gets entries in the history.
    """
    results = [_replay(event) for event in events]
    if user is not None:
        sent = [one.failed for one in results if one.event]
        unmatched = [one.failed for one in results if one.is_done and not one.event]
        history.record(user, sent, history.CHANGE, "Replayed.")
        history.record(user, unmatched, history.CHANGE, "Replayed: no webhook matches.")
    recording.wake_on_commit()
    return results


def _replay(failed: Event) -> Replayed:
    with transaction.atomic(recording.database()):
        if not Event.objects.failed().select_for_update().filter(pk=failed.pk).exists():
            return Replayed(failed, None, "it has been replayed already")
        if reason := _outdated(failed):
            return Replayed(failed, None, reason)
        try:
            with transaction.atomic(recording.database()):
                columns = _current_columns(failed)
                webhook_ids = _matching_webhooks(failed, columns) if columns else []
        except FilterError as error:
            return Replayed(failed, None, f"its conditions still cannot be evaluated: {error}")
        except Exception as error:
            return Replayed(failed, None, f"its payload still cannot be created: {error}")
        if columns is None:
            return Replayed(failed, None, "the object is gone")
        event = _insert_copy(failed, columns | {"webhook_ids": webhook_ids}) if webhook_ids else None
        Event.objects.filter(pk=failed.pk).update(dispatched_at=DatabaseNow())
        problem = "" if event else "none of its webhooks matches the object as it is today"
        return Replayed(failed, event, problem, is_done=True)


def _outdated(failed: Event) -> str:
    """Why a replay would send receivers an old state as the latest one. Empty if it would not."""
    if failed.action not in Action:
        return ""
    later = Event.objects.filter(object_type=failed.object_type, object_id=failed.object_id, pk__gt=failed.pk)
    if failed.is_cut and later.filter(Q(replay_of=None, error="") | Q(replay_of__gt=failed.pk)).exists():
        return "a later change of the object was recorded, and has its newer state"
    if failed.action == Action.DELETED and (registration := registry.registration_by_label(failed.object_type)):
        rows = registration.model._base_manager.using(recording.database())
        return "the object exists again" if rows.filter(pk=failed.object_id).exists() else ""
    return ""


def _current_columns(failed: Event) -> dict[str, Any] | None:
    """The data columns of the new event, or None if the object is gone."""
    if failed.is_cut or failed.action not in (Action.CREATED, Action.UPDATED):
        if failed.data or failed.action != Action.DELETED:
            return {name: getattr(failed, name) for name in (*payloads.SERIALIZED_COLUMNS, "serializers")}
        display = {"id": failed.object_id, "display": failed.object_repr}
        return {"data": dumps(display), "snapshots": "", "changed": "", "serializers": ""}
    registration = registry.registration_by_label(failed.object_type)
    if registration is None:
        raise LookupError(f"{failed.object_type} is not registered any more")
    instances = serialize.reread_all(registration, [failed.object_id], recording.database(), lock=True)
    if not instances:
        return None
    instance, chosen = instances[failed.object_id], payloads.webhooks_by_serializer(failed)
    made = {
        name: serialize.serialize(registration, instance, name, _previous_state(failed, name)).columns()
        for name in chosen
    }
    return payloads.serializer_columns(chosen, made) | {"object_repr": registration.name_of(instance)}


def _previous_state(failed: Event, serializer: str) -> PreviousState | None:
    """The state before the update, if this serializer wrote one at that time."""
    if failed.action != Action.UPDATED or not payloads.has_serializer(failed, serializer):
        return None
    snapshots = payloads.as_serialized_by(failed, serializer).snapshots
    prechange = json.loads(snapshots)["prechange"] if snapshots else None
    return None if prechange is None else PreviousState(snapshot=prechange)


def _matching_webhooks(failed: Event, columns: dict[str, Any]) -> list[int]:
    """Which of its webhooks match the data of today. Raises FilterError if the filters of one fail."""
    if failed.is_cut or (failed.action == Action.DELETED and not failed.data):
        return list(failed.webhook_ids)  # matched already, or there is no data to match
    event = Event(webhook_ids=failed.webhook_ids, action=failed.action, **columns)
    current = subscriptions.current(recording.database(), enabled_only=False)
    found = Match()
    for serializer, webhook_ids in payloads.webhooks_by_serializer(event).items():
        serialized = payloads.as_serialized_by(event, serializer)
        texts = {name: getattr(serialized, name) for name in payloads.SERIALIZED_COLUMNS}
        context = EventContext(failed.action, **texts, actor=Actor(failed.username, failed.request_id))
        found.add(match(webhook_ids, current, context, Budget()))
    if found.errored:
        raise FilterError(last_line(found.error))
    return found.matched


def _insert_copy(failed: Event, columns: dict[str, Any]) -> Event:
    same = ("action", "object_type", "object_id", "object_repr", "username", "request_id", "request")
    event = Event(replay_of=failed.pk, **{name: getattr(failed, name) for name in same} | columns)
    event.insert(recording.database())
    return event
