"""Counts of deliveries for pages and alarms, each up to a cap.

Each count reads a bounded range of an index, and stops at the cap. So no page gets slow, however long the tables are.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import BooleanField, Case, Exists, IntegerField, OuterRef, QuerySet, Subquery, UUIDField, When

from webhooks.ground.db import DatabaseNow, Statement, among_sql, fetch_all, stored_time
from webhooks.models import Delivery, State, Webhook, permissions
from webhooks.models.delivery import IS_SUPERSEDED
from webhooks.models.queue import QueuedDeliveryQuerySet

# Counts over all rows stop at the first cap; counts for one webhook or one lane stop at the second.
TOTAL_CAP, EACH_CAP = 10_000, 500


def capped(rows: QuerySet[Any], cap: int) -> QuerySet[Any]:
    """The keys of at most ``cap + 1`` rows. Count them: ``cap + 1`` means "more than the cap".

    Order the rows as only their index does: with ``index_plans``, PostgreSQL then reads no others.
    """
    return rows.values("pk")[: cap + 1]


class Capped(Subquery):
    """An aggregate of the first ``EACH_CAP + 1`` rows: their number, or another one of this column."""

    template = "(SELECT %(aggregate)s FROM (%(subquery)s) capped)"
    empty_result_set_value = 0  # if the user may view no deliveries

    def __init__(
        self, rows: QuerySet[Any], aggregate: str = "COUNT(*)", column: str = "pk", output_field: Any = None
    ) -> None:
        super().__init__(rows.values(column)[: EACH_CAP + 1], output_field or IntegerField(), aggregate=aggregate)


class FirstKey(Subquery):
    """The key of the first row as a UUID, or None. Django 6.1 reads 0 by a plain subquery if the user may view none."""

    def __init__(self, rows: QuerySet[Any]) -> None:
        super().__init__(rows.values("pk")[:1], UUIDField())


def sending_count(rows: QuerySet[Any]) -> Capped:
    """How many of the first rows are being sent. No index has the state: a claim would rewrite it."""
    return Capped(rows, "COUNT(*) FILTER (WHERE state = 'sending')", "state")


def with_counts(webhooks: QuerySet[Webhook], queue: QueuedDeliveryQuerySet) -> QuerySet[Webhook]:
    """Annotate webhooks with the counts of ``with_open_counts``, and ``failed``. Read them with ``index_plans``."""
    failed = queue.failed().filter(webhook=OuterRef("pk")).order_by("failed_at")
    return with_open_counts(webhooks, queue).annotate(failed=Capped(failed))


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
        due=Capped(own.filter(due_at__isnull=False).order_by("due_at")),
        waiting=Capped(own.in_states(State.WAITING).order_by("event_id")),
        is_retrying=Exists(pending.filter(due_at__gt=DatabaseNow())),
        due_since=Subquery(pending.values("due_at")[:1]),
        blocked=Capped(blocking),
        blocked_since=Subquery(blocking.values("failing_since")[:1]),
        blocking=FirstKey(blocking),
        last_failed=FirstKey(own.failed().order_by("-failed_at")),
    )


def open_count(webhook: Any) -> int:
    """How many deliveries of a webhook, read by ``with_open_counts``, are not finished.

    Leaves out the ones that a worker sends at once, as soon as they are created.
    """
    return int(webhook.due + webhook.waiting)


@dataclass(frozen=True)
class FailedGroup:
    """The failed deliveries of one webhook with one kind of error, counted up to ``EACH_CAP``."""

    webhook_id: int
    kind: str
    count: int
    since: datetime
    last: datetime
    is_current: bool = True
    """Whether one of the newest or of the oldest is not superseded. Otherwise there is nothing to do."""


def failed_groups_sql(user: Any) -> Statement:
    """The statement of ``failed_groups``. Its first parameter, the webhooks, is missing."""
    is_superseded = Case(When(IS_SUPERSEDED, then=True), default=False, output_field=BooleanField())
    return permissions.visible_queue(user).failed_groups_sql(EACH_CAP, is_superseded)


def failed_groups(webhooks: Collection[int], statement: Statement) -> list[FailedGroup]:
    """The failed deliveries of these webhooks by webhook and reason, the most first. Read it with ``index_plans``."""
    using = Delivery.objects.db
    _, chosen_param = among_sql(using, webhooks)
    rows = fetch_all(using, statement[0], [chosen_param, *statement[1]])
    groups = [
        FailedGroup(webhook, kind, count, stored_time(since), stored_time(last), bool(is_current))
        for webhook, kind, count, since, last, is_current in rows
        if count and since and last
    ]
    return sorted(groups, key=lambda group: -group.count)
