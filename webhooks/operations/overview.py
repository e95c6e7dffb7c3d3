"""What pages show of long tables, as far as one user may see it: capped counts, and the overview of the status page.

Each count reads a bounded range of an index, and stops at a cap. So no page gets slow, however long the tables are. The
number of queries does not depend on the number of webhooks or deliveries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db.models import Exists, IntegerField, OuterRef, Prefetch, QuerySet, Subquery
from django.db.models.expressions import RawSQL

from webhooks import permissions
from webhooks.db import Among, DatabaseNow, Statement, among_sql, fetch_all, index_plans, is_postgresql, stored_time
from webhooks.models import Delivery, Event, QueuedDelivery, Run, State, Sweep, Undispatched, Webhook
from webhooks.models.queue import NOT_DUE, OPEN_STATES, QueuedDeliveryQuerySet
from webhooks.models.run import OPEN_RUN_STATES
from webhooks.operations import statistics
from webhooks.operations.statistics import Hours, Recent
from webhooks.operations.vacuum import VacuumState, read_vacuum_state

# Counts over all rows stop at the first cap; counts for one webhook or one lane stop at the second.
TOTAL_CAP, EACH_CAP = 10_000, 500


def capped(rows: QuerySet[Any], cap: int) -> QuerySet[Any]:
    """The keys of at most ``cap + 1`` rows. Count them: ``cap + 1`` means "more than the cap".

    Order the rows as only their index does: with ``index_plans``, PostgreSQL then reads no others.
    """
    return rows.values("pk")[: cap + 1]


def counts_sql(each: Sequence[QuerySet[Any]], cap: int, sent_by: QuerySet[Any]) -> Statement:
    """A statement that counts the rows of each of these, up to ``cap + 1``. The last number is the sum of ``sending``
    of the webhooks ``sent_by``."""
    statements, parameters = list[str](), list[Any]()
    parts = [("COUNT(*)", capped(rows, cap)) for rows in each]
    for number, rows in [*parts, ("COALESCE(SUM(sending), 0)", sent_by.values("sending"))]:
        statement, its_parameters = as_sql(rows)
        statements.append(f"(SELECT {number} FROM ({statement}) AS counted)")
        parameters += its_parameters
    return f"SELECT {', '.join(statements)}", parameters


def as_sql(rows: QuerySet[Any]) -> Statement:
    """The statement of a queryset, as a part of a larger one, and its parameters."""
    try:
        statement, parameters = rows.query.get_compiler(rows.db).as_sql()
    except EmptyResultSet:  # the user may view none
        return "SELECT NULL WHERE 1 = 0", ()
    return statement, parameters


class CappedCount(Subquery):
    """The number of rows of a capped subquery."""

    template = "(SELECT COUNT(*) FROM (%(subquery)s) capped)"
    output_field = IntegerField()
    empty_result_set_value = 0  # if the user may view no deliveries

    def __init__(self, rows: QuerySet[Any]) -> None:
        super().__init__(capped(rows, EACH_CAP))


class SendingCount(CappedCount):
    """How many of the rows of a capped subquery are being sent. No index has the state: each claim would rewrite it."""

    template = "(SELECT COUNT(*) FROM (%(subquery)s) capped WHERE state = 'sending')"

    def __init__(self, rows: QuerySet[Any]) -> None:
        Subquery.__init__(self, rows.values("state")[: EACH_CAP + 1])


def with_counts(webhooks: QuerySet[Webhook], queue: QueuedDeliveryQuerySet) -> QuerySet[Webhook]:
    """Annotate webhooks with the counts of ``with_open_counts``, and ``failed``. Read them with ``index_plans``."""
    failed = queue.failed().filter(webhook=OuterRef("pk")).order_by("failed_at")
    return with_open_counts(webhooks, queue).annotate(failed=CappedCount(failed))


def with_open_counts(webhooks: QuerySet[Webhook], queue: QueuedDeliveryQuerySet) -> QuerySet[Webhook]:
    """Annotate webhooks with capped counts of these rows of the queue. Read them with ``index_plans``.

    Adds ``waiting``, and ``due``: pending, or sent when they were due. ``is_retrying`` says whether one is pending
    after a failed attempt. ``due_since`` is when the oldest pending delivery is due. ``blocked`` counts heads of lanes
    that fail, the first since ``blocked_since``: that is the delivery ``blocking``. ``last_failed`` is the newest
    failed delivery.
    """
    own = queue.filter(webhook=OuterRef("pk"))
    pending = own.in_states(State.PENDING).order_by("due_at")
    blocking = own.filter(failing_since__isnull=False).order_by("failing_since")
    return webhooks.annotate(
        due=CappedCount(own.filter(due_at__isnull=False).order_by("due_at")),
        waiting=CappedCount(own.in_states(State.WAITING).order_by("event_id")),
        is_retrying=Exists(pending.filter(due_at__gt=DatabaseNow())),
        due_since=Subquery(pending.values("due_at")[:1]),
        blocked=CappedCount(blocking),
        blocked_since=Subquery(blocking.values("failing_since")[:1]),
        blocking=Subquery(blocking.values("pk")[:1]),
        last_failed=Subquery(own.failed().order_by("-failed_at").values("pk")[:1]),
    )


def sending_count(own: QueuedDeliveryQuerySet) -> Any:
    """Workers claim what is due for the longest time, and new deliveries. So it looks at both ends: if more than
    ``EACH_CAP`` are due or waiting, it may miss some between them."""
    due = own.filter(due_at__lte=DatabaseNow()).order_by("due_at")
    return SendingCount(due) + SendingCount(own.filter(NOT_DUE).order_by("-event_id"))


@dataclass(frozen=True)
class FailedGroup:
    """The failed deliveries of one webhook with one kind of error, counted up to ``EACH_CAP``."""

    webhook_id: int
    kind: str
    count: int
    since: datetime
    last: datetime


def failed_groups_sql(queue: QueuedDeliveryQuerySet) -> Statement:
    """The statement of ``failed_groups``. Its first parameter, the webhooks, is missing.

    Goes through an index from one reason of a webhook to the next.
    """
    chosen, _ = among_sql(queue.db, ())
    kind = "SELECT MIN(error_kind) FROM webhooks_queue WHERE failed_at IS NOT NULL AND webhook_id"
    own = queue.failed().filter(webhook=RawSQL("reason.webhook_id", ()), error_kind=RawSQL("reason.kind", ()))
    count, count_params = as_sql(capped(own.order_by("failed_at"), EACH_CAP))
    first, first_params = as_sql(own.order_by("failed_at").values("failed_at")[:1])
    last, last_params = as_sql(own.order_by("-failed_at").values("failed_at")[:1])
    statement = f"""
        WITH RECURSIVE reason AS (
            SELECT id AS webhook_id, ({kind} = webhooks_webhook.id) AS kind FROM webhooks_webhook WHERE id {chosen}
            UNION ALL
            SELECT webhook_id, ({kind} = reason.webhook_id AND error_kind > reason.kind) FROM reason
            WHERE kind IS NOT NULL
        )
        SELECT webhook_id, kind, (SELECT COUNT(*) FROM ({count}) AS counted), ({first}), ({last})
        FROM reason WHERE kind IS NOT NULL
    """
    return statement, [*count_params, *first_params, *last_params]


def failed_groups(webhooks: Collection[int], statement: Statement) -> list[FailedGroup]:
    """The failed deliveries of these webhooks by webhook and reason, the most first. Read it with ``index_plans``."""
    using = Delivery.objects.db
    _, chosen_param = among_sql(using, webhooks)
    found = fetch_all(using, statement[0], [chosen_param, *statement[1]])
    groups = [
        FailedGroup(webhook, kind, count, stored_time(since), stored_time(last))
        for webhook, kind, count, since, last in found
        if count and since and last
    ]
    return sorted(groups, key=lambda group: -group.count)


def open_count(webhook: Any) -> int:
    """How many deliveries of a webhook, read by ``with_open_counts``, are not finished.

    Leaves out the ones that a worker sends at once, as soon as they are created.
    """
    return int(webhook.due + webhook.waiting)


# The overview

# The status page shows no more webhooks, and no more open runs, than this.
MAX_WEBHOOKS, MAX_RUNS = 200, 5

# How many of the newest failed deliveries, and of the newest failed events, are read.
MAX_NEWEST, MAX_FAILED_EVENTS = 25, 5

# The columns of an event that name its object and the action.
OF_OBJECT = ("object_repr", "object_type", "object_id", "action")


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
    newest_failed_events: tuple[Event, ...] = ()
    newest_failed: tuple[QueuedDelivery, ...] = ()
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
    queue = permissions.visible_queue(user)
    sees = {"webhooks": permissions.may_view_webhooks(user), "events": permissions.may_view_events(user)}
    undispatched, undispatched_since = _undispatched(user)
    with index_plans(Delivery.objects.db):
        rows = _webhooks(user)
        groups = failed_groups([row.pk for row in rows if row.last_failed], _built(_groups_sql, user))
        failed = Counter[int]()
        for group in groups:
            failed[group.webhook_id] += group.count
        for row in rows:
            row.failed = failed[row.pk]
        counts, failed_events, being_deleted = _counts(user, failed.total())
        newest_failed, newest_failed_events = _newest_failed(queue), _newest_failed_events(user)
    has_more = len(rows) > MAX_WEBHOOKS
    keys = [row.pk for row in rows]
    if has_more:
        keys = list(permissions.visible_webhooks(user).order_by().values_list("pk", flat=True))
    recent, by_webhook = statistics.recent(keys)
    return Overview(
        counts=counts,
        undispatched=undispatched,
        undispatched_since=undispatched_since,
        failed_events=failed_events,
        newest_failed_events=newest_failed_events,
        newest_failed=newest_failed,
        being_deleted=being_deleted,
        webhooks=rows[:MAX_WEBHOOKS],
        has_more_webhooks=has_more,
        failed_groups=tuple(groups),
        runs=tuple(permissions.allowed(user, "view", Run.objects.filter(state__in=OPEN_RUN_STATES))[:MAX_RUNS]),
        recent=recent,
        recent_by_webhook=by_webhook,
        hours=statistics.by_hour(keys),
        last_sweep=Sweep.objects.values_list("swept_at", flat=True).first(),
        hidden=tuple(what for what, may_see in sees.items() if not may_see),
        vacuum=read_vacuum_state(),
    )


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
    """The webhooks with their counts, one more than the page shows."""
    if _shares_statements(user):
        return tuple(Webhook.objects.raw(*_built(_webhooks_sql, user)))
    return tuple(_webhooks_with_counts(user))


def _newest_failed_events(user: Any) -> tuple[Event, ...]:
    failed = permissions.visible_events(user, Event.objects.failed()).order_by("-timestamp")
    return tuple(failed.only(*OF_OBJECT, "timestamp", "error")[:MAX_FAILED_EVENTS])


def _newest_failed(queue: QueuedDeliveryQuerySet) -> tuple[QueuedDelivery, ...]:
    """The newest failed deliveries of webhooks that are not being deleted, with their events and reasons."""
    being_deleted = Webhook.with_deleted.being_deleted().order_by().values("pk")
    failed = queue.failed().exclude(webhook__in=being_deleted).order_by("-failed_at")
    # Not as a join: old statistics would mislead it.
    reasons, events = Delivery.without_state.order_by().only("reason"), Event.objects.order_by().only(*OF_OBJECT)
    related = failed.prefetch_related(Prefetch("delivery", reasons), Prefetch("event", events))
    return tuple(related.only("webhook_id", "event_id", "error_kind", "failed_at")[:MAX_NEWEST])


# The states that are counted in one statement. The last one is left out if its number is known.
COUNTED = (State.PENDING, State.WAITING, State.SUCCEEDED, State.DISCARDED, State.FAILED)


def _counts(user: Any, known_failed: int) -> tuple[dict[State, int], int, int]:
    """The deliveries by state, the failed events, and the webhooks that are being deleted.

    ``known_failed`` deliveries are counted already.
    """
    states = COUNTED if known_failed <= TOTAL_CAP else COUNTED[:-1]
    [found] = fetch_all(Delivery.objects.db, *_built(_counts_sql, user, states))
    *counted, events, webhooks, sending = map(int, found)
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


def _webhooks_sql(user: Any) -> Statement:
    return as_sql(_webhooks_with_counts(user))


def _groups_sql(user: Any) -> Statement:
    return failed_groups_sql(permissions.visible_queue(user))


def _counts_sql(user: Any, states: tuple[State, ...]) -> Statement:
    """Each count reads a range of an index that has little else: oldest first, where deliveries have ended."""
    queue, being_deleted = permissions.visible_queue(user), Webhook.with_deleted.being_deleted().order_by()
    deliveries = permissions.visible_deliveries(user, Delivery.without_state.order_by("pk"))
    failed = queue.failed().exclude(webhook__in=being_deleted.values("pk"))
    by_state: dict[State, QuerySet[Any]] = {
        State.PENDING: queue.in_states(State.PENDING).order_by("webhook_id", "due_at"),
        State.WAITING: queue.in_states(State.WAITING).order_by("webhook_id", "event_id"),
        State.SUCCEEDED: deliveries.filter(outcome=State.SUCCEEDED),
        State.DISCARDED: deliveries.filter(discarded_at__isnull=False),
        State.FAILED: failed.order_by("failed_at"),
    }
    failed_events = permissions.visible_events(user, Event.objects.failed()).order_by("timestamp")
    deleted = permissions.visible_webhooks(user, being_deleted)
    sent_by = Webhook.with_deleted.order_by().annotate(sending=sending_count(queue.filter(webhook=OuterRef("pk"))))
    return counts_sql([*(by_state[state] for state in states), failed_events, deleted], TOTAL_CAP, sent_by)
