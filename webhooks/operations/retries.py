"""What an admin does about deliveries and events that failed: retry, discard, replay."""

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
from webhooks.capture import recording, subscriptions
from webhooks.capture.context import Actor
from webhooks.capture.matching import Budget, Occasion, Selection, Undecided, select
from webhooks.db import DatabaseNow
from webhooks.models import Action, Delivery, Event, Webhook
from webhooks.models.delivery import DeliveryQuerySet
from webhooks.operations import admin_log
from webhooks.payloads import Frozen
from webhooks.payloads.snapshots import PreviousState
from webhooks.text import dumps, last_line

# How many ids are read at once, and how many deliveries change in one transaction: workers wait for the rows meanwhile.
READ, CHUNK = 10_000, 500

# Up to this many, each has an entry of its own in the history; beyond, one tells of all.
NOTED_EACH = 100

# So many webhooks are named by that one.
MOST_NAMED = 3

# Seconds that a request may take for this: it stops before a web server's patience ends.
REQUEST_SECONDS = 20.0


@dataclass
class Done:
    """How many deliveries were looked at, how many changed, and whether time ran out before the last."""

    seen: int = 0
    changed: int = 0
    is_cut_short: bool = False
    webhooks: set[int] = field(default_factory=set)
    first: list[uuid.UUID] = field(default_factory=list)  # one more than are noted each, at the least, where there are


def retry(deliveries: QuerySet[Delivery], user: Any = None, seconds: float = math.inf) -> Done:
    """Send failed or discarded ones among these again, in their lanes, and those that wait for their next attempt now;
    and wake a worker. Webhooks of theirs that are paused are probed at once.

    The history tells that ``user`` did it, if one is given. Stops after about so many ``seconds``."""
    done = _in_chunks(deliveries, DeliveryQuerySet.retriable, DeliveryQuerySet.retry, seconds)
    Webhook.objects.filter(pk__in=done.webhooks).probe()
    _note(user, done, "Retried.")
    return done


def discard(deliveries: QuerySet[Delivery], user: Any = None, seconds: float = math.inf) -> Done:
    """End those among these that are not under way, without sending them; ``user`` and ``seconds`` as for ``retry``."""
    done = _in_chunks(deliveries, DeliveryQuerySet.discardable, DeliveryQuerySet.discard, seconds)
    _note(user, done, "Discarded.")
    return done


def _in_chunks(
    deliveries: QuerySet[Delivery],
    applies: Callable[[DeliveryQuerySet], DeliveryQuerySet],
    change: Callable[[DeliveryQuerySet], int],
    seconds: float,
) -> Done:
    """Change those that it applies to, a few at a time: there may be a hundred thousand."""
    done, end = Done(), time.monotonic() + seconds
    for ids in _ids(deliveries):
        some = Delivery.objects.filter(pk__in=ids)
        applicable = dict(applies(some).order_by("event_id", "pk").values_list("pk", "webhook"))
        done.webhooks.update(applicable.values())
        if len(done.first) <= NOTED_EACH:
            done.first += applicable
        done.changed += change(Delivery.objects.filter(pk__in=list(applicable)))
        done.seen += len(ids)
        if time.monotonic() > end:
            done.is_cut_short = True
            break
    recording.wake_on_commit()
    return done


def _ids(deliveries: QuerySet[Delivery]) -> Iterator[list[uuid.UUID]]:
    """In the order of the events: in a lane the first must come first. None of an event from now on."""
    newest = Event.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
    made = deliveries.filter(event__lte=newest)
    ordered = made.order_by("event_id", "pk").values_list("event_id", "pk")
    rows = list(ordered[:READ])
    while rows:
        for start in range(0, len(rows), CHUNK):
            yield [pk for _, pk in rows[start : start + CHUNK]]
        event_id, last = rows[-1]
        rows = list(ordered.filter(Q(event_id__gt=event_id) | Q(event_id=event_id, pk__gt=last))[:READ])


def _note(user: Any, done: Done, message: str) -> None:
    if user is None or not done.changed:
        return
    if done.changed <= NOTED_EACH:
        admin_log.note_each(user, list(Delivery.objects.filter(pk__in=done.first)), admin_log.CHANGE, message)
        return
    names = list(Webhook.objects.filter(pk__in=done.webhooks).values_list("name", flat=True)[:MOST_NAMED])
    more = len(done.webhooks) - len(names)
    of = ", ".join(names) + (f" and {more} more" if more else "")
    admin_log.note_of_many(user, Delivery, f"{done.changed:,} deliveries of {of}", admin_log.CHANGE, message)


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
    admin_log.note_each(user, [one.failed for one in done if one.event], admin_log.CHANGE, "Replayed.")
    unwanted = [one.failed for one in done if not one.event]
    admin_log.note_each(user, unwanted, admin_log.CHANGE, "Replayed: nobody wants it.")


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
        except Undecided as error:
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
    instances = payloads.reread_all(registration, [failed.object_id], recording.database(), lock=True)
    if not instances:
        return None
    instance, chosen = instances[failed.object_id], payloads.webhooks_by_serializer(failed)
    shown = {name: _shown(payloads.freeze(registration, instance, name, _before(failed, name))) for name in chosen}
    return payloads.serializer_columns(chosen, shown) | {"object_repr": registration.name_of(instance)}


def _before(failed: Event, serializer: str) -> PreviousState | None:
    """The state before an update as this serializer had shown it, where it had."""
    if failed.action != Action.UPDATED or not payloads.has_serializer(failed, serializer):
        return None
    snapshots = payloads.as_serialized_by(failed, serializer).snapshots
    earlier = json.loads(snapshots)["prechange"] if snapshots else None
    return None if earlier is None else PreviousState(deleted=earlier)


def _shown(frozen: Frozen) -> dict[str, str]:
    snapshots = payloads.snapshots_json(frozen.before, frozen.state)
    return {"data": frozen.data, "snapshots": snapshots, "changed": frozen.changed}


def _who_wants(failed: Event, columns: dict[str, Any]) -> list[int]:
    """Which of its webhooks want the data of today. Raises Undecided where that cannot be told of one."""
    if failed.is_cut or (failed.action == Action.DELETED and not failed.data):
        return list(failed.webhook_ids)  # it was judged already; or of the object there is nothing left to judge
    anew = Event(webhook_ids=failed.webhook_ids, action=failed.action, **columns)
    wanted = subscriptions.current(recording.database(), enabled_only=False)
    selection = Selection(failed.action)
    for serializer, those in payloads.webhooks_by_serializer(anew).items():
        told = payloads.as_serialized_by(anew, serializer)
        texts = {name: getattr(told, name) for name in payloads.SERIALIZED_COLUMNS}
        occasion = Occasion(failed.action, **texts, actor=Actor(failed.username, failed.request_id))
        selection.add(select(those, wanted, occasion, Budget()))
    if selection.undecided:
        raise Undecided(last_line(selection.error))
    return selection.wanting


def _copy(failed: Event, columns: dict[str, Any]) -> Event:
    same = ("action", "object_type", "object_id", "object_repr", "username", "request_id", "request")
    event = Event(replay_of=failed.pk, **{name: getattr(failed, name) for name in same} | columns)
    event.insert(recording.database())
    return event
