"""How many deliveries each webhook has in which state, for many webhooks at once.

Counted no further than a cap, through indexes: so neither a webhook with a million deliveries nor a
thousand webhooks make a page slow, and the number of queries never grows.
"""

from __future__ import annotations

from typing import Any

from django.db.models import IntegerField, OuterRef, QuerySet, Subquery

from webhooks.admin import counting
from webhooks.db import DatabaseNow
from webhooks.models import Delivery, Webhook
from webhooks.models.delivery import State

TALLIED = (State.PENDING, State.WAITING, State.SENDING, State.FAILED)


class CappedCount(Subquery):
    """The number of rows of a subquery, which is sliced so that it ends."""

    template = "(SELECT COUNT(*) FROM (%(subquery)s) capped)"
    output_field = IntegerField()
    empty_result_set_value = 0  # of those who may see no deliveries


def _capped(rows: QuerySet[Any]) -> CappedCount:
    return CappedCount(counting.capped(rows, counting.EACH))


def with_tallies(webhooks: QuerySet[Webhook], deliveries: QuerySet[Delivery]) -> QuerySet[Webhook]:
    """Webhooks with how many of these deliveries each has: ``pending``, ``waiting``, ``sending``, ``failed`` and
    ``retrying``; and the time since when the oldest pending one is or will be due, as ``due_since``."""
    mine = deliveries.filter(webhook=OuterRef("pk"))
    pending = mine.filter(state=State.PENDING)
    return webhooks.annotate(
        **{state.value: _capped(mine.filter(state=state)) for state in TALLIED},
        # Whatever is pending for a time to come has failed before.
        retrying=_capped(pending.filter(next_attempt_at__gt=DatabaseNow())),
        due_since=Subquery(pending.order_by("next_attempt_at").values("next_attempt_at")[:1]),
    )
