"""Counts for pages over long tables. Each count stops at a cap, so no page gets slow.

The number of queries does not depend on the number of webhooks or deliveries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.core.paginator import Paginator
from django.db.models import IntegerField, OuterRef, QuerySet, Subquery
from django.utils.functional import cached_property

from webhooks import permissions
from webhooks.db import DatabaseNow
from webhooks.models import Delivery, Event, Webhook
from webhooks.models.delivery import OPEN_STATES, State

# Counts over all rows stop at the first cap; counts for one webhook or one lane stop at the second.
TOTAL_CAP, EACH_CAP = 10_000, 1000

COUNTED_STATES = (State.PENDING, State.WAITING, State.SENDING, State.FAILED)

# The status page shows no more webhooks than this.
MAX_WEBHOOKS = 200


def capped(rows: QuerySet[Any], cap: int) -> QuerySet[Any]:
    """The keys of at most ``cap + 1`` rows. Count them: ``cap + 1`` means "more than the cap"."""
    return rows.order_by().values("pk")[: cap + 1]


class CappedPaginator(Paginator):
    """Pages through the first ``cap`` rows and counts no further."""

    cap = TOTAL_CAP

    @cached_property
    def _counted(self) -> int:
        rows: QuerySet[Any] = self.object_list  # type: ignore[assignment]
        return capped(rows, self.cap).count()

    @cached_property
    def count(self) -> int:
        return min(self._counted, self.cap)

    @property
    def is_capped(self) -> bool:
        """Whether there are more rows than it pages through."""
        return self._counted > self.cap


class CappedCount(Subquery):
    """The number of rows of a capped subquery."""

    template = "(SELECT COUNT(*) FROM (%(subquery)s) capped)"
    output_field = IntegerField()
    empty_result_set_value = 0  # if the user may view no deliveries

    def __init__(self, rows: QuerySet[Any]) -> None:
        super().__init__(capped(rows, EACH_CAP))


def with_counts(webhooks: QuerySet[Webhook], deliveries: QuerySet[Delivery]) -> QuerySet[Webhook]:
    """Annotate webhooks with capped counts of these deliveries.

    Adds ``pending``, ``waiting``, ``sending``, ``failed``, and ``retrying``: pending after a failed attempt.
    ``due_since`` is when the oldest pending delivery is due.
    """
    own = deliveries.filter(webhook=OuterRef("pk"))
    pending = own.filter(state=State.PENDING)
    return webhooks.annotate(
        **{state.value: CappedCount(own.filter(state=state)) for state in COUNTED_STATES},
        retrying=CappedCount(pending.filter(next_attempt_at__gt=DatabaseNow())),
        due_since=Subquery(pending.order_by("next_attempt_at").values("next_attempt_at")[:1]),
    )


def open_count(webhook: Any) -> int:
    """How many deliveries of a webhook, read by ``with_counts``, are not finished."""
    return sum(getattr(webhook, state) for state in OPEN_STATES)


@dataclass(frozen=True)
class Overview:
    """What the status page shows from the database.

    ``undispatched_since`` is the time of the oldest undispatched event. ``being_deleted`` counts webhooks with
    deliveries left to delete. ``hidden`` names what the user may not view: "webhooks", "events".
    """

    counts: dict[State, int] = field(default_factory=dict)
    undispatched: int = 0
    undispatched_since: datetime | None = None
    failed_events: int = 0
    being_deleted: int = 0
    webhooks: tuple[Any, ...] = ()
    has_more_webhooks: bool = False
    hidden: tuple[str, ...] = ()

    @property
    def open(self) -> int:
        return sum(self.counts.get(state, 0) for state in OPEN_STATES)


def read_overview(user: Any) -> Overview:
    """Read the overview as far as the user may see it."""

    def count(rows: QuerySet[Any]) -> int:
        return capped(rows, TOTAL_CAP).count()

    deliveries = permissions.visible_deliveries(user)
    webhooks = with_counts(permissions.visible_webhooks(user).order_by("name"), deliveries)[: MAX_WEBHOOKS + 1]
    failed = permissions.visible_deliveries(user, Delivery.objects.failed())
    by_state = {state: deliveries.filter(state=state) for state in State} | {State.FAILED: failed}
    undispatched = permissions.visible_events(user, Event.objects.undispatched())
    sees = {"webhooks": permissions.may_view_webhooks(user), "events": permissions.may_view_events(user)}
    return Overview(
        counts={state: count(rows) for state, rows in by_state.items()},
        undispatched=count(undispatched),
        undispatched_since=undispatched.order_by("pk").values_list("timestamp", flat=True).first(),
        failed_events=count(permissions.visible_events(user, Event.objects.failed())),
        being_deleted=count(permissions.visible_webhooks(user, Webhook.with_deleted.being_deleted())),
        webhooks=tuple(webhooks)[:MAX_WEBHOOKS],
        has_more_webhooks=len(webhooks) > MAX_WEBHOOKS,
        hidden=tuple(what for what, may_see in sees.items() if not may_see),
    )
