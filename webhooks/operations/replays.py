"""Send events again: replay them, and the runs that read events: replay, recover and backfill.

Importing this adds these runs to ``delivery.runs.acts``.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.db.models import Exists, OuterRef, Q
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from webhooks import payloads, permissions, registry
from webhooks.capture import serialize, subscriptions
from webhooks.capture.matching import Budget, EventContext, FilterError, Match, match, wants
from webhooks.db import DatabaseNow
from webhooks.delivery.dispatch import insert_for
from webhooks.delivery.runs.acts import EVENTS, Act, Applied, DeliveryAct, Key, Portion, RunRefused, acts, user_of
from webhooks.models import Action, Delivery, Event, Run, RunKind, Webhook
from webhooks.models.event import LOOP_PROTECTION, EventQuerySet
from webhooks.models.selection import Filters, select_events
from webhooks.operations import history
from webhooks.registry import label_of
from webhooks.text import dumps, last_line
from webhooks.workers import jobs

# The columns that a replay copies from the original event.
KEPT_COLUMNS = ("action", "object_type", "object_id", "object_repr", "username", "request_id", "request")

NO_MATCH = gettext_noop("none of its webhooks matches the object as it is today")


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
        prechange = payloads.stored_prechange(original, name) if original.action == Action.UPDATED else None
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
        found.add(match(webhook_ids, current, EventContext.of_stored(event, serializer), Budget()))
    if found.errored:
        raise FilterError(last_line(found.error))
    return found.matched


# Runs

# Events that a step replays: each locks its object until the end of the step.
REPLAYED_AT_ONCE = 20

READ = 500  # events that one query reads to judge their conditions


class ReplayAct(Act):
    """Capture the objects of events again, as new events with the data of today."""

    is_sent = False

    def most(self, webhook: int) -> int:
        return REPLAYED_AT_ONCE

    def count(self, run: Run, after: int, until: int) -> dict[int, int]:
        return {EVENTS: _within(_replayable(run), after, until).count()}

    def keys(self, run: Run, webhook: int, after: int, until: int, limit: int) -> list[Key]:
        return _keys(_within(_replayable(run), after, until), limit)

    def apply(self, run: Run, portions: Sequence[Portion], token: uuid.UUID | None) -> Applied:
        ids = [key.id for portion in portions for key in portion.keys]
        found = Event.objects.replayable().filter(pk__in=ids).order_by("pk")
        results = [replay_one(event, run.filters.get("webhook")) for event in found]
        problems = [one for one in results if one.problem and not one.is_unmatched]
        last = f"{problems[-1].original.name}: {problems[-1].problem}" if problems else ""
        return Applied(sum(one.event is not None for one in results), len(problems), last)


def _replayable(run: Run) -> EventQuerySet:
    found: EventQuerySet = _chosen(run, run.filters).replayable()
    if run.kind == RunKind.RECOVER:  # a replay of a chain that was stopped would begin it again
        found = found.failed().exclude(error__startswith=LOOP_PROTECTION)
    if run.is_restricted:
        found = permissions.allowed(user_of(run), "replay", found)  # type: ignore[assignment]
    return found


def _chosen(run: Run, filters: Filters) -> Any:
    """Few of them: see ``_within``."""
    events = select_events(filters, finds_times=False)
    return permissions.visible_events(user_of(run), events) if run.is_restricted else events


def _within(events: EventQuerySet, after: int, until: int) -> EventQuerySet:
    return events.filter(pk__gt=after, pk__lte=until)


def _keys(events: EventQuerySet, limit: int) -> list[Key]:
    return [Key(pk, pk) for pk in events.order_by("pk").values_list("pk", flat=True)[:limit]]


class RecoverAct(Act):
    """Send everything of a webhook that failed: retry deliveries, and replay events that failed before they had any."""

    is_sent = True

    def __init__(self) -> None:
        self._deliveries, self._events = DeliveryAct(RunKind.RETRY), ReplayAct()

    def most(self, webhook: int) -> int:
        return self._act(webhook).most(webhook)

    def count(self, run: Run, after: int, until: int) -> dict[int, int]:
        return self._deliveries.count(run, after, until) | self._events.count(run, after, until)

    def keys(self, run: Run, webhook: int, after: int, until: int, limit: int) -> list[Key]:
        return self._act(webhook).keys(run, webhook, after, until, limit)

    def apply(self, run: Run, portions: Sequence[Portion], token: uuid.UUID | None) -> Applied:
        applied = Applied()
        for portion in portions:
            applied.add(self._act(portion.webhook).apply(run, [portion], token))
        return applied

    def _act(self, webhook: int) -> Act:
        return self._events if webhook == EVENTS else self._deliveries


class BackfillAct(Act):
    """Send a webhook the stored events that it wants and did not get."""

    is_sent = True

    def most(self, webhook: int) -> int:
        return READ

    def count(self, run: Run, after: int, until: int) -> dict[int, int]:
        return {run.filters["webhook"]: _within(_candidates(run, _webhook(run)), after, until).count()}

    def keys(self, run: Run, webhook: int, after: int, until: int, limit: int) -> list[Key]:
        return _keys(_within(_candidates(run, _webhook(run)), after, until), limit)

    def apply(self, run: Run, portions: Sequence[Portion], token: uuid.UUID | None) -> Applied:
        applied, receiver, wanted = Applied(), _webhook(run), []
        [portion] = portions
        for event, problem in _wanted(receiver, portion.keys):
            if problem:
                applied.failed += 1
                applied.problem = f"event {event.pk} ({event.object_repr or event}): {last_line(problem)}"
            else:
                wanted.append(event)
        _choose_serializer(receiver, wanted)
        applied.done, applied.claimed = insert_for(receiver, wanted, portion.free, token)
        return applied

    def look(self, run: Run, after: int, until: int, limit: int) -> tuple[dict[int, int], list[Key]]:
        """Unlike ``count``, judges the conditions, and so reads all data of these events."""
        webhook, count, first = _webhook(run), 0, list[Key]()
        candidates = _candidates(run, webhook)
        while keys := _keys(_within(candidates, after, until), READ):
            wanted = [Key(event.pk, event.pk) for event, problem in _wanted(webhook, keys) if not problem]
            count += len(wanted)
            first += wanted[: limit - len(first)]
            after = keys[-1].event_id
        return {EVENTS: count}, first


def _candidates(run: Run, webhook: Webhook) -> EventQuerySet:
    """The events with a model and an action that the webhook wants, without a delivery to it."""
    models = [label_of(one) for one in webhook.object_types.all()]
    is_wanted = Q(object_type__in=models, action__in=webhook.actions) | Q(action__in=webhook.custom_events)
    has_delivery = Exists(Delivery.without_state.filter(event=OuterRef("pk"), webhook=webhook.pk))
    filters = {name: value for name, value in run.filters.items() if name != "webhook"}
    events = _chosen(run, filters).filter(is_wanted, ~has_delivery, error="")
    return events.exclude(username__in=webhook.excluded_usernames)  # type: ignore[no-any-return]


def _webhook(run: Run) -> Webhook:
    """Raises RunRefused if it was deleted."""
    webhook = Webhook.objects.filter(pk=run.filters["webhook"]).first()
    if webhook is None:
        raise RunRefused("the webhook was deleted")
    return webhook


def _wanted(webhook: Webhook, keys: Sequence[Key]) -> Iterator[tuple[Event, str]]:
    """The events that match the conditions of the webhook, as they were. With a reason if that cannot be judged."""
    filters = subscriptions.current(Event.objects.db).filters.get(webhook.pk)
    for event in Event.objects.filter(pk__in=[key.id for key in keys]).order_by("pk"):
        is_wanted, problem = True, ""
        is_custom = event.action not in webhook.actions  # and so has no conditions
        if not is_custom and not payloads.has_serializer(event, webhook.serializer):
            problem = f"it has no data of the serializer {webhook.serializer or '(default)'}"
        elif not is_custom and filters:
            try:
                is_wanted = wants(filters, EventContext.of_stored(event, webhook.serializer))
            except Exception as error:
                problem = str(error) or type(error).__name__
        if is_wanted:
            yield event, problem


def _choose_serializer(webhook: Webhook, events: Sequence[Event]) -> None:
    """Note in the events that the webhook gets the output of its serializer."""
    for event in events if webhook.serializer else ():
        outputs = json.loads(event.serializers)
        chosen = outputs[webhook.serializer]
        if webhook.pk not in chosen["webhooks"]:
            chosen["webhooks"].append(webhook.pk)
            event.serializers = json.dumps(outputs)
            event.save(update_fields=["serializers"])


acts |= {RunKind.REPLAY: ReplayAct(), RunKind.RECOVER: RecoverAct(), RunKind.BACKFILL: BackfillAct()}
