"""The rows of one change: its Events and its skips have no common key, but the same action, request and time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q

from webhooks.db import to_utc
from webhooks.models import Event, Skip
from webhooks.models.ids import first_id

# The times of the rows of one change differ by less than this.
TOGETHER = timedelta(seconds=2)

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

    def as_json(self) -> dict[str, Any]:
        names = ("action", "object_type", "object_id", "object_repr", "username", "request_id")
        return {name: getattr(self, name) for name in names} | {"timestamp": to_utc(self.timestamp).isoformat()}

    def without_actor(self) -> StoredChange:
        return replace(self, username="", request_id="")


def latest(events: Sequence[Event], skips: Sequence[Skip]) -> StoredChange | None:
    """The last change in these rows of one object. None if there are no rows."""
    rows: list[Event | Skip] = [*events, *skips]
    if not rows:
        return None
    newest = max(rows, key=lambda one: one.timestamp)
    same = [one for one in events if _is_same(newest, one)]
    replayed = {one.replay_of for one in same} - {None}
    same += [one for one in events if one.pk in replayed and one not in same]
    return make(same[0] if same else newest, same, [one for one in skips if _is_same(newest, one)])


def latest_of_each(events: Sequence[Event], skips: Sequence[Skip]) -> list[StoredChange]:
    """The last change of each object in these rows, the oldest first."""
    by_object: dict[tuple[str, str], tuple[list[Event], list[Skip]]] = defaultdict(lambda: ([], []))
    for event in events:
        by_object[event.object_type, event.object_id][0].append(event)
    for skip in skips:
        by_object[skip.object_type, skip.object_id][1].append(skip)
    found = (latest(*rows) for rows in by_object.values())
    return sorted((change for change in found if change), key=lambda one: one.timestamp)


def with_known_data(change: StoredChange) -> Event | None:
    """The Event with the object's data as the change left it. None if a later change was skipped: a skip has no data,
    and two quick changes may look like one."""
    for event in change.events:
        if event.has_data:  # type: ignore[attr-defined]  # an annotation
            later = [one for one in change.skips if one.webhook_id in event.webhook_ids]
            return None if any(one.timestamp >= event.timestamp for one in later) else event
    return None


def _is_same(one: Event | Skip, other: Event | Skip) -> bool:
    is_near = abs(one.timestamp - other.timestamp) < TOGETHER
    return is_near and (one.action, one.request_id) == (other.action, other.request_id)


def near(event: Event) -> Q:
    """As ``_is_same``, for a query."""
    return Q(
        action=event.action,
        request_id=event.request_id,
        timestamp__gt=event.timestamp - TOGETHER,
        timestamp__lt=event.timestamp + TOGETHER,
    )


def skip_ids_around(events: Sequence[Event]) -> Q:
    """The ids of skips of the same changes. A skip has its id since the first change of its transaction."""
    hour, times = timedelta(hours=1), [to_utc(one.timestamp) for one in events]
    return Q(pk__gte=first_id(min(times) - hour), pk__lt=first_id(max(times) + hour))


def newest_skips() -> Q:
    """The ``MAX_SKIPS`` newest."""
    older = Skip.objects.order_by("-pk").values_list("pk", flat=True)[MAX_SKIPS : MAX_SKIPS + 1]
    return Q(pk__gt=older[0]) if older else Q()


def make(of: Event | Skip, events: Sequence[Event], skips: Sequence[Skip]) -> StoredChange:
    """The change of these rows. For each webhook, the first of its Events and of its skips counts."""
    name = next((one.object_repr for one in (of, *events, *skips) if one.object_repr), "")
    return StoredChange(
        action=of.action,
        object_type=of.object_type,
        object_id=of.object_id,
        object_repr=name,
        timestamp=of.timestamp,
        username=of.username,
        request_id=of.request_id,
        events=tuple(events),
        skips=tuple(skips),
    )
