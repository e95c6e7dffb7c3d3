"""Who waits behind whom: the place of a delivery in its lane."""

from __future__ import annotations

from dataclasses import dataclass

from django.db.models import QuerySet

from webhooks.admin import counting
from webhooks.admin.display import number
from webhooks.models import Delivery
from webhooks.models.delivery import HEAD_STATES, State


@dataclass(frozen=True)
class Lane:
    """``head`` is the delivery that goes now, ``next`` the one that goes after ``delivery``. ``ahead`` and
    ``behind`` count the deliveries before and after ``delivery``, no further than a little beyond ``counting.EACH``."""

    delivery: Delivery
    head: Delivery | None
    next: Delivery | None
    ahead: int
    behind: int

    @property
    def place(self) -> str:
        return number(self.ahead + 1, counting.EACH)

    @property
    def followers(self) -> str:
        return number(self.behind, counting.EACH)

    @property
    def is_head(self) -> bool:
        return self.head is not None and self.head.pk == self.delivery.pk


def lane_of(delivery: Delivery, deliveries: QuerySet[Delivery]) -> Lane:
    """Its place among ``deliveries``. Three queries, through indexes, however many wait."""
    beside = deliveries.filter(webhook=delivery.webhook_id, lane=delivery.lane)
    head = beside.filter(state__in=HEAD_STATES, in_lane=True).first()
    waiting = beside.filter(state=State.WAITING).order_by("event_id")
    is_in = delivery.in_lane and delivery.state in (State.WAITING, *HEAD_STATES)
    before = waiting.filter(event_id__lt=delivery.event_id)
    after = waiting.filter(event_id__gt=delivery.event_id) if is_in else waiting.none()
    is_behind = is_in and head is not None and head.pk != delivery.pk
    ahead = counting.capped(before, counting.EACH).count() + 1 if is_behind else 0
    following, behind = after.first(), counting.capped(after, counting.EACH).count()
    # A worker may have taken the only one between the two.
    return Lane(delivery, head, following, ahead, max(behind, 1) if following else 0)
