"""Replay events: capture their objects again. With the run that replays many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Exists, OuterRef, Q, TextField
from django.db.models.functions import Cast
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, gettext_noop, ngettext_lazy

from webhooks.capture import serialize, subscriptions
from webhooks.capture.matching import Budget, EventContext, FilterError, Match, match
from webhooks.capture.recorded import notify_hooks
from webhooks.delivery.runs.kinds import (
    EVENTS,
    Applied,
    EventKind,
    Look,
    Portion,
    Position,
    TimeLeft,
    events_of,
    next_events,
    user_of,
)
from webhooks.delivery.wake_up import wake_on_commit
from webhooks.ground import payloads, registry
from webhooks.ground.db import Among, DatabaseNow
from webhooks.ground.errors import reraise_job_timeout
from webhooks.ground.text import last_line
from webhooks.ground.text.json_text import dumps
from webhooks.insight import history
from webhooks.models import Action, Event, Run, permissions
from webhooks.models.delivery import Handover
from webhooks.models.event import EventQuerySet
from webhooks.models.filters import EACH, few_failed, filters_of, without_options

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


def replay(events: Iterable[Event], user: Any = None, opened: datetime | None = None) -> list[Replayed]:
    """Capture the objects of events again: create new events with the data of today.

    Deletions, custom events and events that loop protection stopped keep their data. The conditions of the webhooks
    are evaluated again. If no webhook matches, there is no new event, and a failed one is done. An event is not
    replayed if its object is gone, if the serializer or a condition raises, or if receivers know a newer state. Nor if
    it was replayed after ``opened``, the time of the page that asks: a form may come twice. A ``user`` gets entries in
    the history.
    """
    results = [replay_one(event, opened=opened) for event in events]
    if user is not None:
        sent = [one.original for one in results if one.event]
        unmatched = [one.original for one in results if one.is_unmatched]
        history.record(user, sent, history.CHANGE, "Replayed.")
        history.record(user, unmatched, history.CHANGE, "Replayed: no webhook matches.")
    wake_on_commit()
    return results


def replay_one(original: Event, webhook: int | None = None, opened: datetime | None = None) -> Replayed:
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
            if opened:
                _refuse_repeated(original, opened)
            _refuse_outdated(original)
            columns = {name: getattr(original, name) for name in KEPT_COLUMNS} | _current_columns(original)
            event = Event(replay_of=original.pk, webhook_ids=_matching_webhooks(original, columns), **columns)
            if event.webhook_ids:
                event.insert(Event.objects.db)
                notify_hooks([event], Event.objects.db)
            if original.error:
                Event.objects.filter(pk=original.pk).update(replayed_at=DatabaseNow())
    except NotReplayable as reason:
        return Replayed(original, problem=str(reason))
    except FilterError as error:
        return Replayed(original, problem=_("its conditions cannot be evaluated: %(error)s") % {"error": error})
    except Exception as error:
        reraise_job_timeout(error)
        return Replayed(original, problem=_("its payload cannot be created: %(error)s") % {"error": error})
    return Replayed(original, event) if event.webhook_ids else Replayed(original, problem=_(NO_MATCH))


def _refuse_repeated(original: Event, opened: datetime) -> None:
    """Raise NotReplayable if it was replayed after this time. Of two requests, the second waits for the first."""
    list(Event.objects.filter(pk=original.pk).select_for_update(no_key=True).values_list("pk"))
    of_object = Event.objects.filter(object_type=original.object_type, object_id=original.object_id)
    if of_object.filter(pk__gt=original.pk, replay_of=original.pk, timestamp__gte=opened).exists():
        raise NotReplayable(_("it was replayed after this page was opened"))


def _refuse_outdated(original: Event) -> None:
    """Raise NotReplayable if a replay would send receivers an old state as the latest one."""
    if original.action not in Action:
        return
    later = Event.objects.filter(object_type=original.object_type, object_id=original.object_id, pk__gt=original.pk)
    if original.is_loop_protected and later.filter(Q(replay_of=None, error="") | Q(replay_of__gt=original.pk)).exists():
        raise NotReplayable(_("a later change of the object was recorded, and has its newer state"))
    if original.action == Action.DELETED and (registration := registry.registration_by_label(original.object_type)):
        rows = registration.model._base_manager.using(Event.objects.db)
        if registration.find(rows, original.object_id) is not None:
            raise NotReplayable(_("the object exists again"))


def _current_columns(original: Event) -> dict[str, Any]:
    """The data columns of the new event. Raises NotReplayable if the object is gone."""
    if original.is_loop_protected or original.action not in (Action.CREATED, Action.UPDATED):
        if original.data or original.action != Action.DELETED:
            return {name: getattr(original, name) for name in (*payloads.SERIALIZED_COLUMNS, "serializers", "context")}
        return {"data": dumps({"id": original.object_id, "display": original.object_repr})}
    registration, instance = serialize.reread_stored(original.object_type, original.object_id)
    if instance is None:
        raise NotReplayable(_("the object is gone"))
    chosen, texts = payloads.webhooks_by_serializer(original), dict[str, dict[str, str]]()
    for name in chosen:
        prechange = payloads.stored_prechange(original, name) if original.action == Action.UPDATED else None
        texts[name] = serialize.serialize(registration, instance, name, prechange).columns()
    columns = payloads.serializer_columns(chosen, texts) | {"object_repr": registration.name_of(instance)}
    about = {name: getattr(original, name) for name in KEPT_COLUMNS}
    return columns | serialize.context_columns(about | columns, Event.objects.db)


def _matching_webhooks(original: Event, columns: dict[str, Any]) -> list[int]:
    """Which of its webhooks match the data of today. Raises FilterError if the filters of one fail."""
    if original.is_loop_protected or (original.action == Action.DELETED and not original.data):
        return list(original.webhook_ids)  # matched already, or there is no data to match
    event = Event(webhook_ids=original.webhook_ids, **columns)
    current = subscriptions.current(Event.objects.db)
    found = Match()
    for serializer, webhook_ids in payloads.webhooks_by_serializer(event).items():
        found.add(match(webhook_ids, current, EventContext.of_stored(event, serializer), Budget()))
    if found.errored:
        raise FilterError(last_line(found.error))
    return found.matched


# Runs


class Replay(EventKind):
    """Capture the objects of events again, as new events with the data of today."""

    name = "replay"
    label = gettext_lazy("replay")
    past = "Replayed"
    meaning = "Captures the objects of events again, as new events with the data of today."
    consequence = gettext_lazy("Their objects are captured as they are today, as new events.")
    summary = gettext_lazy("replay of events")
    question = short_question = ngettext_lazy("Replay %(rows)s event?", "Replay %(rows)s events?", "count")

    listed = "event"
    nouns = ("event",)
    filters = (*filters_of("events"), EACH)
    permissions = ("rq_webhooks.replay_event",)
    is_sent = False
    are_failed = False
    """Whether all of its events have failed."""

    def rows(self, run: Run) -> EventQuerySet:
        """The newest event of each object and of the same webhooks: replays of the others would have the same data."""
        found = self._all(run)
        if EACH in run.filters:
            return found
        of_object = {"object_type": OuterRef("object_type"), "object_id": OuterRef("object_id")}
        later: Any = _with_webhooks(self._all(run)).filter(pk__gt=OuterRef("pk"), pk__lte=run.last_event, **of_object)
        later = later.filter(action__in=Action.values, webhooks=OuterRef("webhooks"))
        return _with_webhooks(found).exclude(Q(action__in=Action.values) & Q(Exists(later)))

    def _takes_failed(self, run: Run) -> bool:
        return self.are_failed or bool(run.filters.get("failed"))

    def late_key(self, run: Run) -> int | None:
        """A failed event is done with its replay. Others would be replayed by both readings."""
        return EVENTS if self._takes_failed(run) else None

    def look(self, run: Run, after: Position, size: int, limit: int, time_left: TimeLeft) -> Look:
        """An index has the failed events: if there are few, it looks at all of them at once."""
        keys = few_failed() if self._takes_failed(run) else None
        begin, until = next_events(run, after, size)
        conditions = Q(pk__gt=begin, pk__lte=until)
        if keys is not None:
            until = run.last_event
            conditions = Q(Among("id", [pk for pk in keys if run.counted_event < pk <= until]))
        found = self.rows(run).filter(conditions)
        look = Look(until, Counter({EVENTS: found.count()}))
        if limit:
            look.first = [self.key_of(pk) for pk in found.order_by("pk").values_list("pk", flat=True)[:limit]]
        if EACH not in run.filters:
            look.left_out = self._all(run).filter(conditions).count() - look.counts[EVENTS]
        return look

    def _close_older(self, run: Run, newest: Event) -> None:
        """Failed events that the run left out are done with the newest one of their object."""
        older = _with_webhooks(self._all(run)).failed().filter(pk__lt=newest.pk, action__in=Action.values)
        of_object = older.filter(object_type=newest.object_type, object_id=newest.object_id)
        same = [pk for pk, ids in of_object.values_list("pk", "webhook_ids") if ids == newest.webhook_ids]
        Event.objects.filter(pk__in=same).update(replayed_at=DatabaseNow())

    def replayable(self, run: Run) -> EventQuerySet:
        """The events that match the filters and can be replayed."""
        return events_of(run, without_options(run.filters)).replayable()

    def _all(self, run: Run) -> EventQuerySet:
        found = self.replayable(run)
        if run.is_restricted:
            found = permissions.allowed(user_of(run), "replay", found)  # type: ignore[assignment]
        return found

    def apply(self, run: Run, portions: Sequence[Portion], handover: Handover, time_left: TimeLeft) -> Applied:
        [portion], applied = portions, Applied()
        rows = self.rows(run).filter(pk__in=[key.id for key in portion.keys]).order_by("pk")
        for event in self.in_time(rows, portion.keys, time_left, applied):
            webhooks = event.webhook_ids
            result = replay_one(event, run.filters.get("webhook"))
            event.webhook_ids = webhooks
            if result.event or result.is_unmatched:
                applied.done += result.event is not None
                if event.error and EACH not in run.filters:
                    self._close_older(run, event)
            else:
                applied.failed += 1
                applied.problem = f"{event.name}: {result.problem}"
        return applied


def _with_webhooks(events: EventQuerySet) -> EventQuerySet:
    """With the ids of their webhooks as text, which every database can compare."""
    return events.alias(webhooks=Cast("webhook_ids", TextField()))
