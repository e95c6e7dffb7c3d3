"""Send missed changes to a webhook: stored events (backfill), or skipped changes (recover skipped). Workers do it.

After a wrong condition is corrected, nothing has the changes that it refused: a skip stores no data. So each object is
read again and sent once, if the webhook wants it now.
"""

from __future__ import annotations

import json
import uuid
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from webhooks.capture import serialize
from webhooks.capture.matching import EventContext, wants
from webhooks.capture.recorded import notify_hooks
from webhooks.capture.subscriptions import Filters
from webhooks.delivery.dispatch import IsLocked, insert_for
from webhooks.delivery.runs.kinds import (
    EVENTS,
    NEEDED_SINCE,
    SINCE_FILTERS,
    Applied,
    EventKind,
    Key,
    Look,
    Portion,
    Position,
    TimeLeft,
    events_of,
    next_events,
    user_of,
    webhook_of,
)
from webhooks.ground import payloads, registry
from webhooks.ground.conf import conf
from webhooks.ground.db import to_db_time
from webhooks.ground.errors import reraise_job_timeout
from webhooks.ground.registry import label_of
from webhooks.ground.registry.keys import with_pks
from webhooks.ground.text import last_line
from webhooks.models import Action, Delivery, Event, Run, Skip, Webhook, permissions
from webhooks.models.delivery import Handover
from webhooks.models.event import EventQuerySet
from webhooks.models.filters import select
from webhooks.models.ids import first_at, first_id, position_of
from webhooks.models.skip import Rule

NOT_INCLUDED = "the permission %s does not include it"

# How many bytes of events a step judges, by ``Event.size``: it holds their data. One event may have more.
JUDGED_BYTES = 8 * 2**20

# A skip may be stored by another machine, with a clock that is this much ahead.
CLOCKS = timedelta(seconds=10)


class ExaminedKind(EventKind):
    """A kind of run that cannot count its rows with a query alone: a preview examines each of them."""

    examined: ClassVar[int]
    """Rows that ``examine`` gets at once."""

    def late_key(self, run: Run) -> int | None:
        return self.key(run)

    def look(self, run: Run, after: Position, size: int, limit: int, time_left: TimeLeft) -> Look:
        begin, until = next_events(run, after, size * self.stride)
        found, webhook, rows = Look(until), webhook_of(run), self.rows(run)
        while keys := self._keys_of(rows, begin, until, self.examined):
            left = self.examine(webhook, rows, keys, found, time_left)
            if not left and len(keys) < self.examined:
                break
            begin = keys[-1 - left].event_id
            if time_left.is_over:
                found.until = begin
                break
        del found.first[limit:]
        return found

    @abstractmethod
    def examine(self, webhook: Webhook, rows: Any, keys: Sequence[Key], found: Look, time_left: TimeLeft) -> int:
        """Add to a look what the run would take of these rows: of one at least, and of more until the time is over.
        Returns how many are left."""


# Stored events


@dataclass
class Judged(Applied):
    """The events that the webhook wants. ``failed`` could not be judged, the last one for this ``reason``."""

    wanted: list[Event] = field(default_factory=list)
    reason: str = ""


class Backfill(ExaminedKind):
    """Send a webhook the stored events that it wants and did not get."""

    name = "backfill"
    label = gettext_lazy("backfill")
    past = "Backfilled"
    meaning = (
        "Sends a webhook the stored events, from a time on, that match its models, actions and conditions of today, "
        "and that it did not get. It may be a new webhook."
    )
    consequence = gettext_lazy(
        "Sends this webhook the stored events that match its current settings and that it never got, for example "
        "events from before it was created."
    )
    summary = gettext_lazy("backfill of events")
    summary_of = gettext_lazy("%(run)s for %(webhooks)s")
    link = gettext_lazy("Backfill…")

    listed = ""
    nouns = ("event",)
    filters = SINCE_FILTERS
    needed = NEEDED_SINCE
    permissions = ("rq_webhooks.resend_delivery",)
    examined = 50  # with their data

    def key(self, run: Run) -> int:
        return run.filters["webhook"]  # type: ignore[no-any-return]

    def rows(self, run: Run) -> EventQuerySet:
        """The events with a model and an action that the webhook wants, without a delivery to it. Not those that it
        matched when they happened: it had their deliveries, which retention may have deleted since."""
        webhook = webhook_of(run)
        models = [label_of(one) for one in webhook.object_types.all()]
        is_wanted = Q(object_type__in=models, action__in=webhook.actions) | Q(action__in=webhook.custom_events)
        has_delivery = Exists(Delivery.objects.filter(event=OuterRef("pk"), webhook=webhook.pk))
        filters = {name: value for name, value in run.filters.items() if name != "webhook"}
        found = events_of(run, filters).filter(is_wanted, ~has_delivery, error="")
        return found.not_matched_by(webhook.pk).exclude(username__in=webhook.excluded_usernames)

    def prepare(self, run: Run, portion: Portion, time_left: TimeLeft) -> Portion:
        """Judge the events before the transaction: that may take long, and others wait for the locks of a step."""
        judged = self._judge(webhook_of(run), self.rows(run), portion.keys, time_left)
        return portion.first(len(portion.keys) - judged.left)._replace(prepared=judged)

    def apply(self, run: Run, portions: Sequence[Portion], handover: Handover, time_left: TimeLeft) -> Applied:
        [portion], receiver = portions, webhook_of(run)
        judged: Judged = portion.prepared
        try:
            wanted = _permitted(run, receiver, judged.wanted)
            _choose_serializer(receiver, wanted)
            done = insert_for(receiver, wanted, handover)
        except IsLocked:
            return Applied(left=len(portion.keys))
        if refused := [event for event in judged.wanted if event not in wanted]:
            judged.failed += len(refused)
            judged.problem = f"event {refused[-1].pk} ({refused[-1]}): {NOT_INCLUDED % self.permissions[0]}"
        return Applied(done, judged.failed, judged.problem)

    def examine(self, webhook: Webhook, rows: Any, keys: Sequence[Key], found: Look, time_left: TimeLeft) -> int:
        """Unlike ``count``, judges the conditions, and so reads all data of these events."""
        judged = self._judge(webhook, rows, keys, time_left)
        found.counts[EVENTS] += len(judged.wanted)
        found.first += [self.key_of(event.pk) for event in judged.wanted]
        found.unjudged += judged.failed
        found.problem = judged.reason or found.problem
        return judged.left

    def _judge(self, webhook: Webhook, candidates: EventQuerySet, keys: Sequence[Key], time_left: TimeLeft) -> Judged:
        """Judge the conditions of the webhook for these events, as they were."""
        judged, filters, fitting = Judged(), Filters.of(webhook), _fitting(keys)
        for event in self.in_time(self._read(candidates, fitting), fitting, time_left, judged):
            is_wanted, problem = _judge_one(webhook, filters, event)
            if problem:
                judged.failed += 1
                judged.reason = last_line(problem)
                judged.problem = f"event {event.pk} ({event.object_repr or event}): {judged.reason}"
            elif is_wanted:
                judged.wanted.append(event)
        judged.left += len(keys) - len(fitting)
        return judged

    def _read(self, candidates: EventQuerySet, keys: Sequence[Key]) -> Iterator[Event]:
        """These events in their order, as far as they are still candidates."""
        for start in range(0, len(keys), self.examined):
            ids = [key.id for key in keys[start : start + self.examined]]
            yield from candidates.filter(pk__in=ids).order_by("pk")


def _fitting(keys: Sequence[Key]) -> list[Key]:
    """The first key, and more as long as their events have ``JUDGED_BYTES`` in all: a step holds their data."""
    sizes = dict(Event.objects.filter(pk__in=[key.id for key in keys]).values_list("pk", "size"))
    sums = accumulate(sizes.get(key.id, 0) for key in keys)
    return [key for key, size in zip(keys, sums, strict=True) if size <= JUDGED_BYTES or key is keys[0]]


def _permitted(run: Run, webhook: Webhook, events: Sequence[Event]) -> Sequence[Event]:
    """The events with deliveries that the user of the run may resend.

    Constraints choose among rows, so this creates the deliveries, and takes that back.
    """
    if not run.is_restricted or permissions.may_all(user := user_of(run), "resend", Delivery):
        return events
    with transaction.atomic(Delivery.objects.db):
        insert_for(webhook, events)
        new = Delivery.objects.filter(webhook=webhook, event__in=events)
        permitted = set(permissions.allowed(user, "resend", new).values_list("event", flat=True))
        transaction.set_rollback(True, Delivery.objects.db)
    return [event for event in events if event.pk in permitted]


def _judge_one(webhook: Webhook, filters: Filters, event: Event) -> tuple[bool, str]:
    """Whether the webhook wants the event, and why that cannot be judged."""
    if event.action in Action and not payloads.has_serializer(event, webhook.serializer):
        return False, f"it has no data of the serializer {webhook.serializer or '(default)'}"
    try:
        return wants(filters, EventContext.of_stored(event, webhook.serializer)), ""
    except Exception as error:
        reraise_job_timeout(error)
        return False, str(error) or type(error).__name__


def _choose_serializer(webhook: Webhook, events: Sequence[Event]) -> None:
    """Note in the events that the webhook gets the output of its serializer. Custom events have none."""
    for event in [one for one in events if webhook.serializer and one.action in Action]:
        outputs = json.loads(event.serializers)
        chosen = outputs[webhook.serializer]
        if webhook.pk not in chosen["webhooks"]:
            chosen["webhooks"].append(webhook.pk)
            event.serializers = json.dumps(outputs)
            # Retention may just have deleted it: then it gets no delivery either.
            Event.objects.filter(pk=event.pk).update(serializers=event.serializers)


# Skipped changes


class NotRecoverable(Exception):
    """The object of a skip cannot be sent. The message says why."""


class RecoverSkipped(ExaminedKind):
    """Send a webhook the objects of the changes that it skipped, each once, as they are now."""

    name = "recover_skipped"
    label = gettext_lazy("recover skipped")
    past = "Recovered"
    meaning = (
        "Sends a webhook the objects of changes that it skipped, from a time on: each object once, as it is now, if it "
        "matches the conditions of today. Use it after a wrong condition was corrected."
    )
    consequence = gettext_lazy(
        "Sends the objects of changes that this webhook skipped, for example because of a wrong condition: each object "
        "once, as it is now, if the webhook wants it now. What the webhook got later is left out."
    )
    summary = gettext_lazy("recovery of skipped changes")
    link = gettext_lazy("Recover skipped…")

    listed = "skip"
    nouns = ("object",)
    filters = (*SINCE_FILTERS, "rule")
    needed = NEEDED_SINCE
    permissions = ("rq_webhooks.replay_event",)
    is_judged_later = True
    is_sent = False
    # A position has 20 bits below the millisecond. So a query looks at three quarters of an hour at first.
    stride = 1 << 28
    examined = 200

    def key_of(self, pk: uuid.UUID) -> Key:
        return Key(position_of(pk), pk)

    def bounds(self, since: datetime | None) -> tuple[int, int]:
        last = position_of(first_id(timezone.now() + CLOCKS))
        first = Skip.objects.order_by("pk").values_list("pk", flat=True).first()
        begin = position_of(first) if first else last
        if since is not None:
            begin = max(begin, min(position_of(first_id(since)), last))
        return begin - 1, last

    def name_of(self, key: Key) -> str:
        skip = Skip.objects.filter(pk=key.id).first()
        return f"skipped change {key.id} ({skip.object_repr or skip})" if skip else f"skipped change {key.id}"

    def names(self, keys: Sequence[Key], user: Any) -> dict[Any, str]:
        if not permissions.may_view_skips(user):
            return {}
        found = Skip.objects.in_bulk([key.id for key in keys])
        return {pk: f"{skip.object_repr} ({skip})".strip() for pk, skip in found.items()}

    def between(self, rows: QuerySet[Any], after: int, until: int) -> QuerySet[Any]:
        return rows.filter(pk__gte=first_at(after + 1), pk__lt=first_at(until + 1)).order_by("pk")

    def examine(self, webhook: Webhook, rows: Any, keys: Sequence[Key], found: Look, time_left: TimeLeft) -> int:
        """Looks up the objects, and does not judge the conditions: for that, each object had to be serialized."""
        skips = Skip.objects.filter(pk__in=[key.id for key in keys]).order_by("pk")
        existing = _existing(skips)
        found.counts[EVENTS] += len(existing)
        found.unreadable += len(skips) - len(existing)
        found.first += [self.key_of(skip.pk) for skip in existing]
        return 0

    def apply(self, run: Run, portions: Sequence[Portion], handover: Handover, time_left: TimeLeft) -> Applied:
        [portion], webhook, applied = portions, webhook_of(run), Applied()
        user = user_of(run) if run.is_restricted else None
        # Two skips may have the same position. So this takes the range, and not only the rows of the portion.
        rows = self.between(self.rows(run), portion.after, portion.until)
        for skip in self.in_time(rows, portion.keys, time_left, applied):
            try:
                with transaction.atomic(Event.objects.db):
                    event = _recover(webhook, skip)
                    if event and user and not permissions.may(user, "replay", event):
                        raise NotRecoverable(NOT_INCLUDED % self.permissions[0])
                applied.done += event is not None
            except Exception as error:
                reraise_job_timeout(error)
                applied.failed += 1
                is_explained = isinstance(error, NotRecoverable | serialize.NotRegistered)
                reason = str(error) if is_explained else f"{type(error).__name__}: {error}"
                applied.problem = f"{skip.object_repr or skip}: {reason}"
        return applied

    def rows(self, run: Run) -> QuerySet[Skip]:
        """The newest skip of each object, if the webhook wants such changes now and got nothing later of the object."""
        webhook = webhook_of(run)
        chosen = self._chosen(run, webhook)
        of_object = {"object_type": OuterRef("object_type"), "object_id": OuterRef("object_id")}
        newer = chosen.filter(pk__gt=OuterRef("pk"), pk__lt=first_at(run.last_event + 1), **of_object)
        later = Event.objects.filter(
            **of_object, timestamp__gt=OuterRef("timestamp"), action__in=Action.values, error=""
        )
        sent = later.filter(_gets(webhook))
        return chosen.exclude(Exists(newer)).exclude(Exists(sent))

    def _chosen(self, run: Run, webhook: Webhook) -> QuerySet[Skip]:
        """The skips that the filters choose, of changes that the webhook wants but for its conditions."""
        models = [label_of(one) for one in webhook.object_types.all()]
        found = select("skips", run.filters, Skip.objects.filter(object_type__in=models, action__in=webhook.actions))
        still_ignored = Q(rule=Rule.IGNORED_USER, username__in=webhook.excluded_usernames)
        found = found.exclude(still_ignored).exclude(rule=Rule.LOOP_PROTECTION)
        return permissions.visible_skips(user_of(run), found) if run.is_restricted else found


def _recover(webhook: Webhook, skip: Skip) -> Event | None:
    """Store an Event of the object for this webhook. None if the webhook does not want the object as it is now.

    Raises NotRecoverable, NotRegistered, and what the serializer and the conditions raise.
    """
    registration, instance = serialize.reread_stored(skip.object_type, skip.object_id)
    if instance is None:
        raise NotRecoverable(_("the object is deleted, so it cannot be read: correct the receiver by hand"))
    action = _action(webhook, skip)
    if action is None:
        return None
    text = serialize.serialize(registration, instance, webhook.serializer).columns()
    event = Event(
        action=action,
        object_type=skip.object_type,
        object_id=skip.object_id,
        object_repr=registration.name_of(instance),
        username=skip.username,
        request_id=skip.request_id,
        webhook_ids=[webhook.pk],
        **payloads.serializer_columns({webhook.serializer: [webhook.pk]}, {webhook.serializer: text}),
    )
    if not wants(Filters.of(webhook), EventContext.of_stored(event, webhook.serializer)):
        return None
    for name, value in serialize.context_columns(vars(event), Event.objects.db).items():
        setattr(event, name, value)
    event.insert(Event.objects.db)
    notify_hooks([event], Event.objects.db)
    return event


def _action(webhook: Webhook, skip: Skip) -> Action | None:
    """ "created" if the webhook skipped that and got nothing of the object. None if it wants no such change.

    After the retention of succeeded deliveries, it may have got something that is deleted."""
    of_object = {"object_type": skip.object_type, "object_id": skip.object_id}
    got = Event.objects.filter(_gets(webhook), **of_object, action__in=Action.values, error="")
    creations = Skip.objects.filter(webhook=webhook, action=Action.CREATED, **of_object)
    known_since = timezone.now() - timedelta(days=min(conf.skip_days, conf.retention_days["succeeded"]))
    is_new = creations.filter(timestamp__gt=to_db_time(known_since)).exists() and not got.exists()
    wanted = [Action.CREATED, Action.UPDATED] if is_new else [Action.UPDATED, Action.CREATED]
    return next((action for action in wanted if action in webhook.actions), None)


def _gets(webhook: Webhook) -> Q:
    """Whether the webhook has a delivery of an event, or the dispatch creates one."""
    delivery = Delivery.objects.filter(event=OuterRef("pk"), webhook=webhook)
    undispatched = Event.objects.undispatched().matched_by(webhook.pk).filter(pk=OuterRef("pk"))
    return Q(Exists(delivery) | Exists(undispatched))


def _existing(skips: Iterable[Skip]) -> list[Skip]:
    """The skips with objects that can be read now."""
    by_model = defaultdict[str, list[Skip]](list)
    for skip in skips:
        by_model[skip.object_type].append(skip)
    found = set[tuple[str, str]]()
    for label, group in by_model.items():
        if registration := registry.registration_by_label(label):
            keys = dict[Any, str]()
            for skip in group:
                with suppress(ValidationError):  # the model has other keys since
                    keys[registration.normalize_pk(skip.object_id)] = skip.object_id
            rows = registration.model._base_manager.using(Event.objects.db)
            known = rows.filter(with_pks(registration.model, [*keys])).values_list("pk", flat=True)
            found.update((label, keys.get(pk, "")) for pk in known)
    return [skip for skip in skips if (skip.object_type, skip.object_id) in found]
