"""What the status page shows from the database, as far as one user may see it.

The number of queries does not depend on the number of webhooks or deliveries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from itertools import chain
from typing import Any

from django.db.models import Case, OuterRef, Prefetch, Q, QuerySet, When

from webhooks.ground import registry
from webhooks.ground.conf import conf
from webhooks.ground.db import Among, DatabaseNow, Statement, aggregate_sql, as_sql, fetch_all, is_postgresql
from webhooks.ground.db.session import index_plans
from webhooks.insight import statistics
from webhooks.insight.counts import (
    EACH_CAP,
    TOTAL_CAP,
    FailedGroup,
    FirstKey,
    capped,
    failed_groups,
    failed_groups_sql,
    sending_count,
    with_open_counts,
)
from webhooks.insight.silence import Silence, read_silences
from webhooks.insight.statistics import Hours, Recent
from webhooks.models import (
    Delivery,
    Event,
    QueuedDelivery,
    Run,
    State,
    Sweep,
    Undispatched,
    Webhook,
    partitions,
    permissions,
)
from webhooks.models.delivery import SUCCEEDED
from webhooks.models.queue import NOT_DUE, OPEN_STATES, QueuedDeliveryQuerySet
from webhooks.models.run import OPEN_RUN_STATES
from webhooks.models.webhook_states import IS_PAUSED

# No more webhooks are read for alarms and for the status page, and no more open runs are shown, than this.
MAX_WEBHOOKS, MAX_RUNS = 1000, 5

# How many of the newest failed deliveries, and of the newest failed events, are read.
MAX_NEWEST, MAX_FAILED_EVENTS = 25, 5

# The columns of an event that name its object and the action.
OF_OBJECT = ("object_repr", "object_type", "object_id", "action")


@dataclass
class Overview:
    """What the status page shows from the database."""

    counts: dict[State, int] = field(default_factory=dict)
    """The deliveries by state."""
    undispatched: int = 0
    undispatched_since: datetime | None = None
    """The time of the oldest undispatched event."""
    failed_events: int = 0
    newest_failed_events: tuple[Event, ...] = ()
    newest_failed: tuple[QueuedDelivery, ...] = ()
    being_deleted: int = 0
    """Webhooks with deliveries left to delete."""
    webhooks: tuple[Any, ...] = ()
    has_more_webhooks: bool = False
    failed_groups: tuple[FailedGroup, ...] = ()
    runs: tuple[Run, ...] = ()
    recent: Recent = field(default_factory=Recent)
    """The attempts of all webhooks."""
    recent_by_webhook: Mapping[int, Recent] = field(default_factory=dict)
    hours: Hours = field(default_factory=Hours)
    last_sweep: datetime | None = None
    """When a worker last swept: about when one was last alive."""
    silences: Mapping[int, Silence] = field(default_factory=dict)
    """By webhook."""
    labels_without_models: tuple[str, ...] = ()
    """The labels of the setting ``MODELS`` that register nothing."""
    hidden: tuple[str, ...] = ()
    """What the user may not view: "webhooks", "events"."""
    hides_some_webhooks: bool = False
    """Whether there may be webhooks that the user may not view, although they may view others."""
    backlog: float = 0
    """For how many seconds succeeded deliveries are left after their retention."""
    obstacle: str = ""
    """Why workers cannot delete whole partitions, see ``models.partitions``. Read only if there is a backlog."""

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
    overview = read_for_alarms(user)
    keys = [row.pk for row in overview.webhooks]
    if overview.has_more_webhooks:
        keys = list(permissions.visible_webhooks(user).order_by().values_list("pk", flat=True))
    overview.recent, overview.recent_by_webhook = statistics.recent(keys)
    overview.hours = statistics.by_hour(keys)
    with index_plans(Delivery.objects.db):
        overview.newest_failed = _newest_failed(permissions.visible_queue(user))
    open_runs = Run.objects.filter(state__in=OPEN_RUN_STATES)
    overview.runs = tuple(permissions.allowed(user, "view", open_runs)[:MAX_RUNS])
    return overview


def read_for_alarms(user: Any) -> Overview:
    """Read what alarms need, as far as the user may see it: no statistics, runs and newest deliveries."""
    sees = {"webhooks": permissions.may_view_webhooks(user), "events": permissions.may_view_events(user)}
    overview = Overview(hidden=tuple(what for what, may_see in sees.items() if not may_see))
    overview.hides_some_webhooks = permissions.is_restricted(user) and not permissions.may_all(user, "view", Webhook)
    overview.undispatched, overview.undispatched_since = _undispatched(user)
    with index_plans(Delivery.objects.db):
        rows = _webhooks(user)
        if len(rows) > MAX_WEBHOOKS:
            rows = tuple(_most_troubled(user))
        groups = failed_groups([row.pk for row in rows if row.last_failed], _built(failed_groups_sql, user))
        failed = Counter[int]()
        for group in groups:
            failed[group.webhook_id] += group.count
        for row in rows:
            row.failed = failed[row.pk]
        overview.counts, overview.failed_events, overview.being_deleted = _counts(user, failed.total())
        events = permissions.visible_events(user, Event.objects.failed()).order_by("-timestamp")
        overview.newest_failed_events = tuple(events.only(*OF_OBJECT, "timestamp", "error")[:MAX_FAILED_EVENTS])
    overview.webhooks, overview.has_more_webhooks = rows[:MAX_WEBHOOKS], len(rows) > MAX_WEBHOOKS
    overview.failed_groups = tuple(groups)
    overview.last_sweep, overview.backlog = Sweep.objects.values_list("swept_at", "backlog").first() or (None, 0)
    overview.obstacle = partitions.obstacle(Delivery.objects.db) if overview.backlog else ""
    overview.silences = read_silences(overview.webhooks)
    overview.labels_without_models = tuple(registry.labels_without_models(conf.models))
    return overview


def _undispatched(user: Any) -> tuple[int, datetime | None]:
    """How many events are not dispatched, and the time of the oldest one."""
    # Not as a join: with old statistics, PostgreSQL could begin with all events.
    oldest = list(Undispatched.objects.order_by("pk").values_list("pk", flat=True)[: TOTAL_CAP + 1])
    if not oldest:
        return 0, None
    events = permissions.visible_events(user, Event.objects.filter(Among("id", oldest), error="")).order_by("pk")
    times = list(events.values_list("timestamp", flat=True))
    return len(times), times[0] if times else None


def _webhooks(user: Any) -> tuple[Any, ...]:
    """The webhooks by name with their counts, one more than are read."""
    if _shares_statements(user):
        return tuple(Webhook.objects.raw(*_built(_webhooks_sql, user)))
    return tuple(_webhooks_with_counts(user))


def _newest_failed(queue: QueuedDeliveryQuerySet) -> tuple[QueuedDelivery, ...]:
    """The newest failed deliveries of webhooks that are not being deleted, with their events and reasons."""
    being_deleted = Webhook.with_deleted.being_deleted().order_by().values("pk")
    failed = queue.failed().exclude(webhook__in=being_deleted).order_by("-failed_at")
    # Not as a join: old statistics would mislead it.
    reasons, events = Delivery.objects.order_by().only("reason"), Event.objects.order_by().only(*OF_OBJECT)
    related = failed.prefetch_related(Prefetch("delivery", reasons), Prefetch("event", events))
    return tuple(related.only("webhook_id", "event_id", "error_kind", "failed_at")[:MAX_NEWEST])


# The states that are counted in one statement. The last one is left out if its number is known.
COUNTED = (State.PENDING, State.WAITING, State.SUCCEEDED, State.DISCARDED, State.FAILED)


def _counts(user: Any, known_failed: int) -> tuple[dict[State, int], int, int]:
    """The deliveries by state, the failed events, and the webhooks that are being deleted.

    ``known_failed`` deliveries are counted already.
    """
    states = COUNTED if known_failed <= TOTAL_CAP else COUNTED[:-1]
    [row] = fetch_all(Delivery.objects.db, *_built(_counts_sql, user, states))
    *counted, events, webhooks, sending = map(int, row)
    known = {State.FAILED: known_failed, State.SENDING: sending}
    return known | dict(zip(states, counted, strict=True)), events, webhooks


# Statements


def _built(build: Callable[..., Statement], user: Any, *given: Any) -> Statement:
    """The statement for this user. Users who see all share it: the ORM takes nearly as long as PostgreSQL.

    Not on SQLite: there its parameters contain the time.
    """
    if _shares_statements(user):
        return _shared(build, Delivery.objects.db, (TOTAL_CAP, EACH_CAP, MAX_WEBHOOKS), *given)
    return build(user, *given)


def _shares_statements(user: Any) -> bool:
    return is_postgresql(Delivery.objects.db) and permissions.sees_everything(user)


@cache
def _shared(build: Callable[..., Statement], using: str, limits: tuple[int, ...], *given: Any) -> Statement:
    """The statement contains ``limits``."""
    return build(permissions.Operator("webhooks_status"), *given)


def _webhooks_with_counts(user: Any) -> QuerySet[Webhook]:
    webhooks = permissions.visible_webhooks(user).order_by("name")
    return with_open_counts(webhooks, permissions.visible_queue(user))[: MAX_WEBHOOKS + 1]


def _most_troubled(user: Any) -> QuerySet[Webhook]:
    """The same, but first those that are paused, fail or were disabled, then those with deliveries in the queue."""
    queue = permissions.visible_queue(user)
    own = queue.filter(webhook=OuterRef("pk"))
    # Keys, not EXISTS: PostgreSQL might read the whole queue for that.
    first = {
        "first_pending": FirstKey(own.in_states(State.PENDING).order_by("due_at")),
        "first_waiting": FirstKey(own.in_states(State.WAITING).order_by("event_id")),
        "first_failed": FirstKey(own.failed().order_by("-failed_at")),
    }
    is_troubled = IS_PAUSED | Q(failures_in_a_row__gt=0) | ~Q(disabled_reason="")
    has_rows = ~Q(**{f"{name}__isnull": True for name in first})
    rank = Case(When(is_troubled, then=0), When(has_rows, then=1), default=2)
    webhooks = permissions.visible_webhooks(user).alias(**first).order_by(rank, "name")
    return with_open_counts(webhooks, queue)[: MAX_WEBHOOKS + 1]


def _webhooks_sql(user: Any) -> Statement:
    return as_sql(_webhooks_with_counts(user))


def _counts_sql(user: Any, states: tuple[State, ...]) -> Statement:
    """One statement with the numbers that ``_counts`` returns, each up to ``TOTAL_CAP + 1``.

    Each count reads a range of an index that has little else: oldest first, where deliveries have ended.
    """
    queue, being_deleted = permissions.visible_queue(user), Webhook.with_deleted.being_deleted().order_by()
    deliveries = permissions.visible_deliveries(user, Delivery.objects.order_by("pk"))
    failed = queue.failed().exclude(webhook__in=being_deleted.values("pk"))
    by_state: dict[State, QuerySet[Any]] = {
        State.PENDING: queue.in_states(State.PENDING).order_by("webhook_id", "due_at"),
        State.WAITING: queue.in_states(State.WAITING).order_by("webhook_id", "event_id"),
        State.SUCCEEDED: deliveries.filter(SUCCEEDED),
        State.DISCARDED: deliveries.filter(discarded_at__isnull=False),
        State.FAILED: failed.order_by("failed_at"),
    }
    failed_events = permissions.visible_events(user, Event.objects.failed()).order_by("timestamp")
    deleted = permissions.visible_webhooks(user, being_deleted)
    counted = [*(by_state[state] for state in states), failed_events, deleted]
    parts = [("COUNT(*)", capped(rows, TOTAL_CAP)) for rows in counted]
    parts.append(("COALESCE(SUM(sending), 0)", _sending(queue)))
    newest = queue.order_by("-pk").values("state", "due_at", "waited")[: EACH_CAP + 1]
    parts.append(("COUNT(CASE WHEN state = 'sending' AND due_at IS NULL AND NOT waited THEN 1 END)", newest))
    statements, parameters = zip(*(aggregate_sql(number, rows) for number, rows in parts), strict=True)
    *counts, sending, sending_new = statements
    return f"SELECT {', '.join([*counts, f'{sending} + {sending_new}'])}", [*chain.from_iterable(parameters)]


def _sending(queue: QueuedDeliveryQuerySet) -> QuerySet[Any]:
    """The number of deliveries of each webhook that are being sent. It leaves out deliveries that were claimed as
    they were created: the newest rows of the queue show these.

    Workers claim the deliveries that are due for the longest time, and new ones. So it looks at both ends: if more than
    ``EACH_CAP`` are due or waiting, it may miss some between them.
    """
    own = queue.filter(webhook=OuterRef("pk"))
    due, new = own.filter(due_at__lte=DatabaseNow()).order_by("due_at"), own.filter(NOT_DUE).order_by("-event_id")
    sending = sending_count(due) + sending_count(new)
    return Webhook.with_deleted.order_by().annotate(sending=sending).values("sending")
