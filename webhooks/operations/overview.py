"""What the status page shows from the database, as far as one user may see it. A fixed number of queries.

Each reads a bounded range of an index, however long the tables are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db.models import OuterRef, QuerySet

from webhooks import permissions
from webhooks.db import index_plans
from webhooks.models import Delivery, Event, Run, State, Sweep, Undispatched, Webhook
from webhooks.models.queue import OPEN_STATES
from webhooks.models.run import OPEN_RUN_STATES
from webhooks.operations import statistics
from webhooks.operations.counts import (
    TOTAL_CAP,
    FailedGroup,
    capped,
    failed_groups,
    sending_count,
    with_open_counts,
)
from webhooks.operations.statistics import Hours, Recent
from webhooks.operations.vacuum import VacuumState, read_vacuum_state
from webhooks.text import last_line

# The status page shows no more webhooks, and no more open runs, than this.
MAX_WEBHOOKS, MAX_RUNS = 200, 5


@dataclass(frozen=True)
class FailedEvent:
    """An event that was not sent, and the last line of its error."""

    pk: int
    name: str
    error: str
    at: datetime


@dataclass(frozen=True)
class Overview:
    """What the status page shows from the database.

    ``undispatched_since`` is the time of the oldest undispatched event. ``being_deleted`` counts webhooks with
    deliveries left to delete. ``recent`` has the attempts of all webhooks, ``recent_by_webhook`` of each one, and
    ``hours`` those of the last 24 hours. ``last_sweep`` is when a worker last swept: about when one was last alive.
    ``hidden`` names what the user may not view: "webhooks", "events". ``vacuum`` is the same for every user.
    """

    counts: dict[State, int] = field(default_factory=dict)
    undispatched: int = 0
    undispatched_since: datetime | None = None
    failed_events: int = 0
    newest_failed_event: FailedEvent | None = None
    being_deleted: int = 0
    webhooks: tuple[Any, ...] = ()
    has_more_webhooks: bool = False
    failed_groups: tuple[FailedGroup, ...] = ()
    runs: tuple[Run, ...] = ()
    recent: Recent = field(default_factory=Recent)
    recent_by_webhook: Mapping[int, Recent] = field(default_factory=dict)
    hours: Hours = field(default_factory=Hours)
    last_sweep: datetime | None = None
    hidden: tuple[str, ...] = ()
    vacuum: VacuumState = field(default_factory=VacuumState)

    @property
    def open(self) -> int:
        return sum(self.counts.get(state, 0) for state in OPEN_STATES)

    @property
    def oldest(self) -> datetime | None:
        """Since when the oldest delivery or change is due."""
        due = [webhook.due_since for webhook in self.webhooks if webhook.due_since]
        return min([*due, *filter(None, [self.undispatched_since])], default=None)


def read_overview(user: Any) -> Overview:
    """Read the overview as far as the user may see it."""
    webhooks = permissions.visible_webhooks(user).order_by("name")
    queue = permissions.visible_queue(user)
    # Not as a join: with old statistics, PostgreSQL could begin with all events.
    oldest = list(Undispatched.objects.order_by("pk").values_list("pk", flat=True)[: TOTAL_CAP + 1])
    undispatched = permissions.visible_events(user, Event.objects.filter(pk__in=oldest, error="")).order_by("pk")
    sees = {"webhooks": permissions.may_view_webhooks(user), "events": permissions.may_view_events(user)}
    keys = list(webhooks.values_list("pk", flat=True))
    recent, by_webhook = statistics.recent(keys)
    waiting_events = _count(undispatched)
    waiting_since = undispatched.values_list("timestamp", flat=True).first()
    failed_events = permissions.visible_events(user, Event.objects.failed())
    with index_plans(Delivery.objects.db):
        rows: tuple[Any, ...] = tuple(with_open_counts(webhooks, queue)[: MAX_WEBHOOKS + 1])
        groups = failed_groups(webhooks.filter(pk__in=[row.pk for row in rows if row.last_failed]), queue)
        failed = Counter[int]()
        for group in groups:
            failed[group.webhook_id] += group.count
        for row in rows:
            row.failed = failed[row.pk]
        return Overview(
            counts=_count_by_state(user, failed.total()),
            undispatched=waiting_events,
            undispatched_since=waiting_since,
            failed_events=_count(failed_events.order_by("timestamp")),
            newest_failed_event=_newest(failed_events),
            being_deleted=_count(permissions.visible_webhooks(user, Webhook.with_deleted.being_deleted())),
            webhooks=rows[:MAX_WEBHOOKS],
            has_more_webhooks=len(rows) > MAX_WEBHOOKS,
            failed_groups=tuple(groups),
            runs=tuple(permissions.allowed(user, "view", Run.objects.filter(state__in=OPEN_RUN_STATES))[:MAX_RUNS]),
            recent=recent,
            recent_by_webhook=by_webhook,
            hours=statistics.by_hour(keys),
            last_sweep=Sweep.objects.values_list("swept_at", flat=True).first(),
            hidden=tuple(what for what, may_see in sees.items() if not may_see),
            vacuum=read_vacuum_state(),
        )


def _newest(failed: QuerySet[Event]) -> FailedEvent | None:
    columns = ("pk", "object_repr", "object_type", "object_id", "error", "timestamp")
    found = failed.order_by("-timestamp").values_list(*columns).first()
    if found is None:
        return None
    pk, name, label, key, error, at = found
    return FailedEvent(pk, name or f"{label} {key}", last_line(error), at)


def _count_by_state(user: Any, known_failed: int) -> dict[State, int]:
    """Each count reads a range of an index that has little else: oldest first, where deliveries have ended.

    ``known_failed`` deliveries are counted already.
    """
    queue, deliveries = permissions.visible_queue(user), Delivery.without_state.all()
    webhooks = Webhook.with_deleted.order_by().annotate(counted=sending_count(queue.filter(webhook=OuterRef("pk"))))
    being_deleted = Webhook.with_deleted.being_deleted().order_by().values("pk")
    failed = queue.failed().exclude(webhook__in=being_deleted).order_by("failed_at")
    succeeded = deliveries.filter(outcome=State.SUCCEEDED).order_by("pk")
    discarded = deliveries.filter(discarded_at__isnull=False).order_by("pk")
    return {
        State.PENDING: _count(queue.in_states(State.PENDING).order_by("webhook_id", "due_at")),
        State.WAITING: _count(queue.in_states(State.WAITING).order_by("webhook_id", "event_id")),
        State.SENDING: sum(webhooks.values_list("counted", flat=True)),
        State.FAILED: known_failed if known_failed > TOTAL_CAP else _count(failed),
        State.SUCCEEDED: _count(permissions.visible_deliveries(user, succeeded)),
        State.DISCARDED: _count(permissions.visible_deliveries(user, discarded)),
    }


def _count(rows: QuerySet[Any]) -> int:
    return capped(rows, TOTAL_CAP).count()
