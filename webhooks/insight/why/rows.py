"""The rows behind an answer: a stored change, its deliveries, and which rows the user may view."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import OuterRef, Q, Subquery

from webhooks.ground.conf import conf
from webhooks.ground.db import to_utc
from webhooks.ground.db.session import index_plans
from webhooks.ground.registry import label_of
from webhooks.models import Action, Delivery, Event, QueuedDelivery, Skip, State, Webhook, permissions
from webhooks.models.ids import first_id
from webhooks.models.permissions.redaction import Redaction
from webhooks.models.queue import HEAD_STATES

# The times of the rows of one change differ by less than this.
TOGETHER = timedelta(seconds=2)

# What Events and skips both know about a change.
OF_CHANGE = ("action", "object_type", "object_id", "object_repr", "timestamp", "username", "request_id")

# Skips that are searched for a request without an Event: no index has the request.
MAX_SKIPS = 100_000


@dataclass(frozen=True)
class StoredChange:
    """A recorded change of an object, or a custom event. ``events`` and ``skips`` are its rows, the newest first."""

    action: str
    object_type: str
    object_id: str
    object_repr: str
    timestamp: datetime
    username: str
    request_id: str
    events: tuple[Event, ...] = field(default=(), repr=False)
    skips: tuple[Skip, ...] = field(default=(), repr=False)

    @classmethod
    def from_rows(cls, of: Event | Skip, events: Sequence[Event], skips: Sequence[Skip]) -> StoredChange:
        """The change of these rows, described by one of them. For each webhook, its first Event and skip count."""
        values = {name: getattr(of, name) for name in OF_CHANGE}
        values["object_repr"] = next((row.object_repr for row in (of, *events, *skips) if row.object_repr), "")
        return cls(**values, events=tuple(events), skips=tuple(skips))

    def figures(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {name: getattr(self, name) for name in OF_CHANGE}


def latest(events: Sequence[Event], skips: Sequence[Skip]) -> StoredChange | None:
    """The last change in these rows of one object. None if there are no rows."""
    rows: list[Event | Skip] = [*events, *skips]
    if not rows:
        return None
    newest = max(rows, key=lambda row: row.timestamp)
    same = [event for event in events if _is_same(newest, event)]
    replayed = {event.replay_of for event in same} - {None}
    same += [event for event in events if event.pk in replayed and event not in same]
    return StoredChange.from_rows(same[0] if same else newest, same, [skip for skip in skips if _is_same(newest, skip)])


def latest_of_each(events: Sequence[Event], skips: Sequence[Skip]) -> list[StoredChange]:
    """The last change of each object in these rows, the oldest first."""
    by_object: dict[tuple[str, str], tuple[list[Event], list[Skip]]] = defaultdict(lambda: ([], []))
    for event in events:
        by_object[event.object_type, event.object_id][0].append(event)
    for skip in skips:
        by_object[skip.object_type, skip.object_id][1].append(skip)
    changes = (latest(*rows) for rows in by_object.values())
    return sorted((change for change in changes if change), key=lambda change: change.timestamp)


def with_known_data(change: StoredChange) -> Event | None:
    """The Event with the object's data as the change left it. None if a later change was skipped: a skip has no data,
    and two quick changes may look like one."""
    for event in change.events:
        if event.has_data:  # type: ignore[attr-defined]  # an annotation
            later = [skip for skip in change.skips if skip.webhook_id in event.webhook_ids]
            return None if any(skip.timestamp >= event.timestamp for skip in later) else event
    return None


def _is_same(row: Event | Skip, other: Event | Skip) -> bool:
    is_near = abs(row.timestamp - other.timestamp) < TOGETHER
    return is_near and (row.action, row.request_id) == (other.action, other.request_id)


def near(event: Event) -> Q:
    """As ``_is_same``, for a query. It also names the object."""
    return Q(
        object_type=event.object_type,
        object_id=event.object_id,
        action=event.action,
        request_id=event.request_id,
        timestamp__gt=event.timestamp - TOGETHER,
        timestamp__lt=event.timestamp + TOGETHER,
    )


def skip_ids_around(events: Sequence[Event]) -> Q:
    """The ids of skips of the same changes. A skip has its id since the first change of its transaction."""
    hour, times = timedelta(hours=1), [to_utc(event.timestamp) for event in events]
    return Q(pk__gte=first_id(min(times) - hour), pk__lt=first_id(max(times) + hour))


def newest_skips() -> Q:
    """The ``MAX_SKIPS`` newest."""
    older = Skip.objects.order_by("-pk").values_list("pk", flat=True)[MAX_SKIPS : MAX_SKIPS + 1]
    return Q(pk__gt=older[0]) if older else Q()


@dataclass(frozen=True)
class Deliveries:
    """The deliveries of some Events by Event and webhook, and the heads of the lanes where they wait."""

    by_event: Mapping[tuple[int, int], Delivery]
    heads: Mapping[tuple[int, int | None], Delivery]
    """By webhook and lane."""


def read_deliveries(webhooks: Collection[int], events: Collection[int]) -> Deliveries:
    """Read the deliveries of these events to these webhooks.

    Uses the index of events alone, without a join or an order: with old statistics, PostgreSQL plans these badly.
    """
    deliveries = Delivery.objects.order_by().prefetch_related("queued")
    with index_plans(Delivery.objects.db):
        of_events = (delivery for delivery in deliveries.filter(event__in=events) if delivery.webhook_id in webhooks)
        by_event = {(delivery.event_id, delivery.webhook_id): delivery for delivery in of_events}
        waiting = [delivery for delivery in by_event.values() if delivery.state == State.WAITING]
        if not waiting:
            return Deliveries(by_event, {})
        lanes, pks = {delivery.lane for delivery in waiting}, {delivery.webhook_id for delivery in waiting}
        queued = QueuedDelivery.objects.filter(webhook__in=pks, lane__in=lanes, state__in=HEAD_STATES, in_lane=True)
        heads = list(deliveries.filter(pk__in=list(queued.order_by().values_list("pk", flat=True))))
    return Deliveries(by_event, {(head.webhook_id, head.lane): head for head in heads})


def models_of(webhook: Webhook) -> set[str]:
    """The labels of its models. Prefetch them."""
    return {label_of(object_type) for object_type in webhook.object_types.all()}


def watched_since(webhooks: Iterable[Webhook], label: str, action: Action) -> datetime | None:
    """Since when (UTC) each such change certainly leaves an Event or a skip; None if that is not known.

    A webhook with filters leaves a skip, if skips are stored, and only as long as they are.
    """
    times, filtered = list[datetime](), dict[int, datetime]()
    for webhook in webhooks:
        if webhook.enabled and label in models_of(webhook) and action in webhook.actions:
            begun = max(to_utc(webhook.created), to_utc(webhook.last_updated))
            if webhook.has_filters:
                filtered[webhook.pk] = begun
            else:
                times.append(begun)
    if filtered and conf.keeps_skips:
        times += [max(filtered[pk], skips_since) for pk, skips_since in _skips_since(filtered)]
    return min(times, default=None)


def _skips_since(webhooks: Collection[int]) -> list[tuple[int, datetime]]:
    """Since when (UTC) all skips of each of these webhooks are stored: older ones may be too old or too many."""
    since = datetime.now(UTC) - timedelta(days=conf.skip_days)
    most = conf.skips_per_webhook
    newest = Skip.objects.filter(webhook=OuterRef("pk")).order_by("-pk").values("timestamp")
    limits = Webhook.objects.filter(pk__in=webhooks).values_list("pk", Subquery(newest[most - 1 : most]))
    return [(pk, max(since, to_utc(oldest)) if oldest else since) for pk, oldest in limits]


class Viewer:
    """A user, or code that sees everything: ``user`` None.

    ``MAY_VIEW`` decides about objects, and so which rows are found at all. A row that is found needs the permission for
    its model as well. Without it, the cause alone is shown.
    """

    def __init__(self, user: Any) -> None:
        self.user = user = user or permissions.Operator("webhooks_why")
        self._sees_all, self._redacted = permissions.sees_everything(user), Redaction(user)
        self.sees_events, self.sees_skips = permissions.may_view_events(user), permissions.may_view_skips(user)
        self.shows_actual = permissions.may_view_payloads(user)
        self._shown: dict[type[Any], set[Any]] = {}

    def look_up(self, rows: Iterable[Event | Skip | Delivery]) -> None:
        """Find out which of these rows the user may view: one query for each model."""
        if self._sees_all:
            return
        keys = defaultdict[type[Any], set[Any]](set)
        for row in rows:
            keys[type(row)].add(row.pk)
        for model, pks in keys.items():
            seen = permissions.allowed(self.user, "view", model.objects.filter(pk__in=pks))
            self._shown[model] = set(seen.values_list("pk", flat=True))

    def sees(self, row: Event | Skip | Delivery) -> bool:
        return self._sees_all or row.pk in self._shown.get(type(row), ())

    def sees_actor(self, change: StoredChange) -> bool:
        """Whether the user may know who made a change, in which request: the rows of the change say it."""
        return any(map(self.sees, change.events)) or any(map(self.sees, change.skips))

    def reason(self, delivery: Delivery) -> str:
        """Why the last attempt failed, as far as the user may see it."""
        return self._redacted.error(delivery.webhook_id, delivery.reason, delivery.error_kind)
