"""What an admin does about deliveries and events that failed: retry, discard, replay."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from django.db import transaction

from webhooks import jobs, payloads, registry
from webhooks.actors import Actor
from webhooks.capture import outbox, subscriptions
from webhooks.capture.selection import Occasion, Selection, Undecided, select
from webhooks.clock import DatabaseNow
from webhooks.jsontext import written
from webhooks.models import Action, Delivery, Event, Webhook
from webhooks.models.querysets import DeliveryQuerySet
from webhooks.payloads import Frozen
from webhooks.snapshots import Before
from webhooks.texts import clean

# Deliveries that one transaction retries or discards.
CHUNK = 1000


def retry(deliveries: DeliveryQuerySet) -> int:
    """Send failed or discarded ones among these again, in their lanes, and those that wait for their next attempt now;
    and wake a worker. Returns how many.

    Webhooks of theirs that are paused are probed at once."""
    chosen = deliveries.retriable()
    webhooks = set(chosen.order_by().values_list("webhook", flat=True).distinct())
    retried = _in_chunks(chosen, lambda some: some.hasten() + some.retry())
    Webhook.objects.filter(pk__in=webhooks).paused().update(probe_at=DatabaseNow())
    return retried


def discard(deliveries: DeliveryQuerySet) -> int:
    """End those among these that are not under way, without sending them. Returns how many."""
    return _in_chunks(deliveries.discardable(), DeliveryQuerySet.discard)


def _in_chunks(deliveries: DeliveryQuerySet, change: Callable[[DeliveryQuerySet], int]) -> int:
    """Change them a few at a time: there may be a hundred thousand, and workers wait for the rows meanwhile."""
    changed = 0
    ids = list(deliveries.order_by("pk").values_list("pk", flat=True))
    for start in range(0, len(ids), CHUNK):
        changed += change(Delivery.objects.filter(pk__in=ids[start : start + CHUNK]))
    transaction.on_commit(jobs.wake_up, using=deliveries.db, robust=True)
    return changed


@dataclass(frozen=True)
class Replayed:
    """The new Event of a failed one, or why there is none."""

    failed: Event
    event: Event | None
    problem: str = ""


def replay(events: Iterable[Event]) -> list[Replayed]:
    """Make new Events for failed ones, with the data of today, and wake a worker.

    An object that was deleted cannot be read any more: its new Event has its key and name only. One whose
    payload still cannot be made, or that is gone although it was not deleted then, stays as it is. Who wants the new
    one is judged anew; where nobody does, the failed one is done with.
    """
    replayed = [_replay(event) for event in events]
    transaction.on_commit(jobs.wake_up, using=outbox.database(), robust=True)
    return replayed


def _replay(failed: Event) -> Replayed:
    with transaction.atomic(outbox.database()):
        if not Event.objects.failed().select_for_update().filter(pk=failed.pk).exists():
            return Replayed(failed, None, "it has been replayed already")
        try:
            with transaction.atomic(outbox.database()):
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
        return Replayed(failed, event, "" if event else "no webhook of it wants the object as it is today")


def _columns_of_today(failed: Event) -> dict[str, Any] | None:
    """What a new Event of the same object tells; for those that had chosen other serializers, as these write it."""
    if failed.is_cut:
        # They could be made, and stay what they were.
        return {name: getattr(failed, name) for name in ("data", "snapshots", "changed", "variants")}
    if failed.action not in Action:
        return {"data": failed.data}  # of a custom event; what could not be told is who wants it
    if failed.action == Action.DELETED:
        if failed.data:  # the same
            return {"data": failed.data, "snapshots": failed.snapshots, "changed": "", "variants": failed.variants}
        known = {"id": failed.object_id, "display": failed.object_repr}
        return {"data": written(known), "snapshots": "", "changed": "", "variants": ""}
    registration = registry.registration_by_label(failed.object_type)
    if registration is None:
        raise LookupError(f"{failed.object_type} is not registered any more")
    instances = payloads.reread_all(registration, [failed.object_id], outbox.database())
    if not instances:
        return None
    earlier = json.loads(failed.snapshots)["prechange"] if failed.snapshots else None
    before = Before(deleted=earlier) if failed.action == Action.UPDATED and earlier is not None else None
    instance, chosen = instances[failed.object_id], payloads.chosen_serializers(failed)
    shown = {name: _shown(payloads.freeze(registration, instance, name, before)) for name in chosen}
    return payloads.texts_for(chosen, shown) | {"object_repr": clean(str(instance), 200)}


def _shown(frozen: Frozen) -> dict[str, str]:
    snapshots = payloads.snapshots(frozen.before, frozen.state)
    return {"data": frozen.data, "snapshots": snapshots, "changed": frozen.changed}


def _who_wants(failed: Event, columns: dict[str, Any]) -> list[int]:
    """Which of its webhooks want the data of today. Raises Undecided where that cannot be told of one."""
    if failed.is_cut or (failed.action == Action.DELETED and not failed.data):
        return list(failed.webhook_ids)  # it was judged already; or of the object there is nothing left to judge
    anew = Event(webhook_ids=failed.webhook_ids, action=failed.action, **columns)
    wanted = subscriptions.current(outbox.database(), enabled_only=False)
    selection = Selection(failed.action)
    for serializer, those in payloads.chosen_serializers(anew).items():
        told = payloads.written_by(anew, serializer)
        texts = {name: getattr(told, name) for name in payloads.TEXTS}
        occasion = Occasion(failed.action, **texts, actor=Actor(failed.username, failed.request_id))
        selection.add(select(those, wanted, occasion))
    if selection.undecided:
        raise Undecided(selection.error.strip().rpartition("\n")[2])
    return selection.wanting


def _copy(failed: Event, columns: dict[str, Any]) -> Event:
    same = ("action", "object_type", "object_id", "object_repr", "username", "request_id", "request")
    return Event.objects.create(replay_of=failed.pk, **{name: getattr(failed, name) for name in same} | columns)
