"""Retry, resend and discard deliveries, and replay events."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from webhooks import payloads, registry
from webhooks.capture import serialize, subscriptions
from webhooks.capture.context import Actor
from webhooks.capture.matching import Budget, EventContext, FilterError, Match, match
from webhooks.db import DatabaseNow
from webhooks.models import Action, Delivery, Event, Webhook
from webhooks.models.columns import USERNAME_LENGTH
from webhooks.models.delivery import DeliveryQuerySet
from webhooks.operations import history
from webhooks.operations.wording import count_of, in_english, listed
from webhooks.payloads.snapshots import PrechangeState
from webhooks.text import clean, dumps, last_line
from webhooks.workers import jobs

# Ids that one query reads, and deliveries that one transaction changes: workers wait for these rows.
READ, CHUNK = 10_000, 500

# Up to this many deliveries get an entry each in the history. More get one summary, which names a few webhooks.
MAX_ENTRIES = 100
NAMED_WEBHOOKS = 3

# The columns that a replay copies from the original event.
KEPT_COLUMNS = ("action", "object_type", "object_id", "object_repr", "username", "request_id", "request")

NO_MATCH = gettext_noop("none of its webhooks matches the object as it is today")

# Who asked, if no user did: a command or other code.
PROGRAM = "a program"

# Seconds after which a request stops, before the web server ends it.
REQUEST_SECONDS = 20.0


@dataclass
class Result:
    """The result of retrying or discarding many deliveries."""

    changed: int = 0
    is_complete: bool = True
    """False if the time ran out before the last delivery."""
    webhooks: set[int] = field(default_factory=set)
    changed_ids: list[uuid.UUID] = field(default_factory=list)
    """The first ones. All of them, if there are at most ``MAX_ENTRIES``."""


def retry(deliveries: DeliveryQuerySet, user: Any = None, seconds: float = math.inf) -> Result:
    """Send failed and discarded deliveries again, in their lanes. Pending ones get their next attempt now.

    A paused webhook is probed at once. A ``user`` gets entries in the history. Stops after about
    ``seconds``.
    """
    result = _change(deliveries.retriable(), lambda chosen: chosen.retry(name_of(user)), seconds)
    Webhook.objects.filter(pk__in=result.webhooks).probe()
    _record(user, result, "Retried.")
    return result


def resend(deliveries: DeliveryQuerySet, user: Any = None, seconds: float = math.inf) -> Result:
    """Send finished deliveries again, including succeeded ones, in their lanes. ``user`` and ``seconds`` as for
    ``retry``."""
    result = _change(deliveries.resendable(), lambda chosen: chosen.resend(name_of(user)), seconds)
    Webhook.objects.filter(pk__in=result.webhooks).probe()
    _record(user, result, "Resent.")
    return result


def discard(deliveries: DeliveryQuerySet, user: Any = None, seconds: float = math.inf) -> Result:
    """End deliveries without sending them, unless they are being sent. ``user`` and ``seconds`` as for ``retry``."""
    result = _change(deliveries.discardable(), DeliveryQuerySet.discard, seconds)
    _record(user, result, "Discarded.")
    return result


def name_of(user: Any) -> str:
    """The name of a user for ``Attempt.requested_by``. Never empty: it marks deliveries sent again by hand."""
    if user is None:
        return PROGRAM
    return clean(user.get_username() if hasattr(user, "get_username") else str(user), USERNAME_LENGTH) or PROGRAM


def _change(deliveries: DeliveryQuerySet, change: Callable[[DeliveryQuerySet], int], seconds: float) -> Result:
    """Change deliveries in chunks, because there may be a hundred thousand."""
    result, end = Result(), time.monotonic() + seconds
    for webhook_ids in _chunks(deliveries):
        result.changed += change(Delivery.objects.filter(pk__in=list(webhook_ids)))
        result.webhooks.update(webhook_ids.values())
        if len(result.changed_ids) <= MAX_ENTRIES:
            result.changed_ids += webhook_ids
        if time.monotonic() > end:
            result.is_complete = False
            break
    jobs.wake_on_commit()
    return result


def _chunks(deliveries: DeliveryQuerySet) -> Iterator[dict[uuid.UUID, int]]:
    """The webhooks of deliveries by the delivery's id, in the order of the events: the first of a lane comes first.

    Leaves out events from now on.
    """
    newest = Event.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
    ordered = deliveries.filter(event__lte=newest).order_by("event_id", "pk").values_list("event_id", "pk", "webhook")
    rows = list(ordered[:READ])
    while rows:
        for start in range(0, len(rows), CHUNK):
            yield {pk: webhook_id for _, pk, webhook_id in rows[start : start + CHUNK]}
        event_id, last, _ = rows[-1]
        rows = list(ordered.filter(Q(event_id__gt=event_id) | Q(event_id=event_id, pk__gt=last))[:READ])


def _record(user: Any, result: Result, message: str) -> None:
    if user is None or not result.changed:
        return
    if result.changed <= MAX_ENTRIES:
        rows = list(Delivery.objects.for_list().filter(pk__in=result.changed_ids))
        history.record(user, rows, history.CHANGE, message)
        return
    names = list(Webhook.objects.filter(pk__in=result.webhooks).values_list("name", flat=True)[:NAMED_WEBHOOKS])
    with in_english():
        what = f"{count_of(result.changed, 'delivery')} of {listed(names, len(result.webhooks))}"
    history.record_summary(user, Delivery, what, history.CHANGE, message)


class NotReplayable(Exception):
    """An event is not replayed. The message says why."""


@dataclass(frozen=True)
class Replayed:
    """The result of replaying one event."""

    original: Event
    event: Event | None = None
    """The new event, or None if nothing is sent."""
    problem: str = ""
    """Why nothing is sent."""

    @property
    def is_unmatched(self) -> bool:
        """Whether nothing is sent because no webhook wants the object as it is today."""
        return self.problem == _(NO_MATCH)


def replay(events: Iterable[Event], user: Any = None) -> list[Replayed]:
    """Capture the objects of events again: create new events with the data of today.

    Deletions, custom events and events that loop protection stopped keep their data. The conditions of the webhooks
    are evaluated again. If no webhook matches, there is no new event, and a failed one is done. An event is not
    replayed if its object is gone, if the serializer or a condition raises, or if receivers know a newer state. A
    ``user`` gets entries in the history.
    """
    results = [replay_one(event) for event in events]
    if user is not None:
        sent = [one.original for one in results if one.event]
        unmatched = [one.original for one in results if one.is_unmatched]
        history.record(user, sent, history.CHANGE, "Replayed.")
        history.record(user, unmatched, history.CHANGE, "Replayed: no webhook matches.")
    jobs.wake_on_commit()
    return results


def replay_one(original: Event, webhook: int | None = None) -> Replayed:
    """As ``replay``, for one event and without an entry in the history.

    With the id of a ``webhook``, an event that was sent before goes to this one only. A failed event goes to all of
    its webhooks: none of them has it.
    """
    if webhook and not original.error:
        original.webhook_ids = [webhook]
    try:
        with transaction.atomic(Event.objects.db):
            if original.error and not Event.objects.failed().select_for_update().filter(pk=original.pk).exists():
                raise NotReplayable(_("it has been replayed already"))
            _refuse_outdated(original)
            columns = {name: getattr(original, name) for name in KEPT_COLUMNS} | _current_columns(original)
            event = Event(replay_of=original.pk, webhook_ids=_matching_webhooks(original, columns), **columns)
            if event.webhook_ids:
                event.insert(Event.objects.db)
            if original.error:
                Event.objects.filter(pk=original.pk).update(replayed_at=DatabaseNow())
    except NotReplayable as reason:
        return Replayed(original, problem=str(reason))
    except FilterError as error:
        return Replayed(original, problem=_("its conditions cannot be evaluated: %(error)s") % {"error": error})
    except Exception as error:
        return Replayed(original, problem=_("its payload cannot be created: %(error)s") % {"error": error})
    return Replayed(original, event) if event.webhook_ids else Replayed(original, problem=_(NO_MATCH))


def _refuse_outdated(original: Event) -> None:
    """Raise NotReplayable if a replay would send receivers an old state as the latest one."""
    if original.action not in Action:
        return
    later = Event.objects.filter(object_type=original.object_type, object_id=original.object_id, pk__gt=original.pk)
    if original.is_loop_protected and later.filter(Q(replay_of=None, error="") | Q(replay_of__gt=original.pk)).exists():
        raise NotReplayable(_("a later change of the object was recorded, and has its newer state"))
    if original.action == Action.DELETED and (registration := registry.registration_by_label(original.object_type)):
        rows = registration.model._base_manager.using(Event.objects.db)
        if rows.filter(pk=original.object_id).exists():
            raise NotReplayable(_("the object exists again"))


def _current_columns(original: Event) -> dict[str, Any]:
    """The data columns of the new event. Raises NotReplayable if the object is gone."""
    if original.is_loop_protected or original.action not in (Action.CREATED, Action.UPDATED):
        if original.data or original.action != Action.DELETED:
            return {name: getattr(original, name) for name in (*payloads.SERIALIZED_COLUMNS, "serializers")}
        return {"data": dumps({"id": original.object_id, "display": original.object_repr})}
    registration = registry.registration_by_label(original.object_type)
    if registration is None:
        raise LookupError(_("%(model)s is not registered any more") % {"model": original.object_type})
    instances = serialize.reread_all(registration, [original.object_id], Event.objects.db, lock=True)
    if not instances:
        raise NotReplayable(_("the object is gone"))
    instance, chosen, texts = instances[original.object_id], payloads.webhooks_by_serializer(original), {}
    for name in chosen:
        prechange = None
        if original.action == Action.UPDATED and payloads.has_serializer(original, name):
            snapshots = json.loads(payloads.as_serialized_by(original, name).snapshots or "{}")
            if snapshots.get("prechange") is not None:
                prechange = PrechangeState(snapshot=snapshots["prechange"])
        texts[name] = serialize.serialize(registration, instance, name, prechange).columns()
    return payloads.serializer_columns(chosen, texts) | {"object_repr": registration.name_of(instance)}


def _matching_webhooks(original: Event, columns: dict[str, Any]) -> list[int]:
    """Which of its webhooks match the data of today. Raises FilterError if the filters of one fail."""
    if original.is_loop_protected or (original.action == Action.DELETED and not original.data):
        return list(original.webhook_ids)  # matched already, or there is no data to match
    event = Event(webhook_ids=original.webhook_ids, **columns)
    current = subscriptions.read(Event.objects.db)
    found = Match()
    for serializer, webhook_ids in payloads.webhooks_by_serializer(event).items():
        serialized = payloads.as_serialized_by(event, serializer)
        texts = {name: getattr(serialized, name) for name in payloads.SERIALIZED_COLUMNS}
        context = EventContext(original.action, **texts, actor=Actor(original.username, original.request_id))
        found.add(match(webhook_ids, current, context, Budget()))
    if found.errored:
        raise FilterError(last_line(found.error))
    return found.matched
