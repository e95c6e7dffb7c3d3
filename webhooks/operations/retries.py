"""Retry and discard deliveries, and replay failed events."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
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

    A paused webhook is probed at once. If ``user`` is given, the history records what they did. Stops after about
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
    """The new Event of a failed one, or why there is none; and whether the failed one is done with."""

    failed: Event
    event: Event | None
    problem: str = ""
    is_done: bool = False


def replay(events: Iterable[Event], user: Any = None) -> list[Replayed]:
    """Make new Events for failed ones, with the data of today, and wake a worker. The history tells that ``user`` did
    it, if one is given.

    An object that was deleted cannot be read any more: its new Event has its key and name only. One whose
    payload still cannot be made, or that is gone although it was not deleted then, stays as it is. Who wants the new
    one is judged anew; where nobody does, the failed one is done with. What receivers know better by now is not told
    again.
    """
    replayed = [_replay(event) for event in events]
    if user is not None:
        _note_replayed(user, [one for one in replayed if one.is_done])
    recording.wake_on_commit()
    return replayed


def _note_replayed(user: Any, done: Sequence[Replayed]) -> None:
    history.record(user, [one.failed for one in done if one.event], history.CHANGE, "Replayed.")
    unwanted = [one.failed for one in done if not one.event]
    history.record(user, unwanted, history.CHANGE, "Replayed: nobody wants it.")


def _replay(failed: Event) -> Replayed:
    with transaction.atomic(recording.database()):
        if not Event.objects.failed().select_for_update().filter(pk=failed.pk).exists():
            return Replayed(failed, None, "it has been replayed already")
        if objection := _objection(failed):
            return Replayed(failed, None, objection)
        try:
            with transaction.atomic(recording.database()):
                columns = _columns_of_today(failed)
                webhook_ids = _who_wants(failed, columns) if columns else []
        except FilterError as error:
            return Replayed(failed, None, f"it still cannot be told who wants it: {error}")
        except Exception as error:
            return Replayed(failed, None, f"its payload still cannot be made: {error}")
        if columns is None:
            return Replayed(failed, None, "the object is gone")
        event = _copy(failed, columns | {"webhook_ids": webhook_ids}) if webhook_ids else None
        Event.objects.filter(pk=failed.pk).update(dispatched_at=DatabaseNow())
        problem = "" if event else "no webhook of it wants the object as it is today"
        return Replayed(failed, event, problem, is_done=True)


def _objection(failed: Event) -> str:
    """Why a new Event, the latest of all then, would tell receivers what is not so any more."""
    if failed.action not in Action:
        return ""
    of_the_object = Event.objects.filter(object_type=failed.object_type, object_id=failed.object_id, pk__gt=failed.pk)
    if failed.is_cut and of_the_object.filter(Q(replay_of=None, error="") | Q(replay_of__gt=failed.pk)).exists():
        return "a later change of the object is on file, which tells what it is now"
    if failed.action == Action.DELETED and _is_there(failed):
        return "the object is there again"
    return ""


def _is_there(failed: Event) -> bool:
    registration = registry.registration_by_label(failed.object_type)
    model = registration.model if registration else None
    return bool(model and model._base_manager.using(recording.database()).filter(pk=failed.object_id).exists())


def _columns_of_today(failed: Event) -> dict[str, Any] | None:
    """What a new Event of the same object tells; for those that had chosen other serializers, as these write it."""
    if failed.is_cut:
        # They could be made, and stay what they were.
        return {name: getattr(failed, name) for name in ("data", "snapshots", "changed", "serializers")}
    if failed.action not in Action:
        return {"data": failed.data}  # of a custom event; what could not be told is who wants it
    if failed.action == Action.DELETED:
        if failed.data:  # the same
            return {
                "data": failed.data,
                "snapshots": failed.snapshots,
                "changed": "",
                "serializers": failed.serializers,
            }
        known = {"id": failed.object_id, "display": failed.object_repr}
        return {"data": dumps(known), "snapshots": "", "changed": "", "serializers": ""}
    registration = registry.registration_by_label(failed.object_type)
    if registration is None:
        raise LookupError(f"{failed.object_type} is not registered any more")
    instances = serialize.reread_all(registration, [failed.object_id], recording.database(), lock=True)
    if not instances:
        return None
    instance, chosen = instances[failed.object_id], payloads.webhooks_by_serializer(failed)
    made = {name: serialize.serialize(registration, instance, name, _before(failed, name)) for name in chosen}
    columns = payloads.serializer_columns(chosen, {name: payload.columns() for name, payload in made.items()})
    return columns | {"object_repr": registration.name_of(instance)}


def _before(failed: Event, serializer: str) -> PreviousState | None:
    """The state before an update as this serializer had shown it, where it had."""
    if failed.action != Action.UPDATED or not payloads.has_serializer(failed, serializer):
        return None
    snapshots = payloads.as_serialized_by(failed, serializer).snapshots
    earlier = json.loads(snapshots)["prechange"] if snapshots else None
    return None if earlier is None else PreviousState(deleted=earlier)


def _who_wants(failed: Event, columns: dict[str, Any]) -> list[int]:
    """Which of its webhooks want the data of today. Raises FilterError if the filters of one fail."""
    if failed.is_cut or (failed.action == Action.DELETED and not failed.data):
        return list(failed.webhook_ids)  # it was judged already; or of the object there is nothing left to judge
    anew = Event(webhook_ids=failed.webhook_ids, action=failed.action, **columns)
    wanted = subscriptions.current(recording.database(), enabled_only=False)
    found = Match()
    for serializer, those in payloads.webhooks_by_serializer(anew).items():
        told = payloads.as_serialized_by(anew, serializer)
        texts = {name: getattr(told, name) for name in payloads.SERIALIZED_COLUMNS}
        context = EventContext(failed.action, **texts, actor=Actor(failed.username, failed.request_id))
        found.add(match(those, wanted, context, Budget()))
    if found.errored:
        raise FilterError(last_line(found.error))
    return found.matched


def _copy(failed: Event, columns: dict[str, Any]) -> Event:
    same = ("action", "object_type", "object_id", "object_repr", "username", "request_id", "request")
    event = Event(replay_of=failed.pk, **{name: getattr(failed, name) for name in same} | columns)
    event.insert(recording.database())
    return event
