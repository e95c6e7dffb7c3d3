"""The sweep: the time of the last one, and the SQL that finds its work. ``delivery.sweep`` does the work.

Each statement reads one range of an index for each webhook. Its cost depends on what it finds, not on the table.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from django.db import models
from django.db.models import Q

from webhooks.db import DatabaseNow, fetch_all, is_postgresql, now_sql, to_uuid
from webhooks.models import claim_sql
from webhooks.models.columns import WriteDBManager
from webhooks.models.lanes import Place

SMALLEST_LANE = -(2**63)


class Sweep(models.Model):
    """The time of the last sweep. One row: workers use it to agree on the next sweep.

    ``last_event`` is the id of the last event that was old enough to be deleted if it had no deliveries.
    """

    swept_at = models.DateTimeField()
    last_event = models.BigIntegerField(default=0, db_default=0)

    objects = WriteDBManager()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"swept at {self.swept_at}"

    @classmethod
    def begin(cls, interval: float) -> bool:
        """Whether the caller should sweep now, because the last sweep is at least ``interval`` seconds old.

        A time further ahead than the interval is ignored: the clock was set back since.
        """
        is_old, is_ahead = Q(swept_at__lt=DatabaseNow(-interval)), Q(swept_at__gt=DatabaseNow(interval))
        due = cls.objects.filter(is_old | is_ahead, pk=1)
        if claim_sql.in_transaction(cls.objects.db, lambda: due.update(swept_at=DatabaseNow())):
            return True
        return cls.objects.get_or_create(pk=1, defaults={"swept_at": DatabaseNow()})[1]


def blocking_heads(using: str, seconds: float, most: int) -> dict[uuid.UUID, Place]:
    """Up to ``most`` heads that have failed for longer than ``seconds``, while their webhooks were sent to."""
    since, params = now_sql(using, -seconds)
    condition = f"""
        item.failing_since < {since} AND item.state = 'pending' AND item.in_lane AND webhook.enabled
        AND webhook.paused_at IS NULL AND webhook.probe_at IS NULL
        AND (webhook.resumed_at IS NULL OR webhook.resumed_at <= {since})
    """
    rows = "SELECT item.delivery_id, item.webhook_id, item.lane, item.event_id FROM webhooks_queue AS item"
    if is_postgresql(using):
        # One range of an index for each webhook, against old statistics.
        of_one = f"{rows} WHERE item.webhook_id = webhook.id AND {condition} ORDER BY item.failing_since LIMIT {most:d}"
        statement = f"SELECT found.* FROM webhooks_webhook AS webhook CROSS JOIN LATERAL ({of_one}) AS found"
    else:
        statement = f"{rows} JOIN webhooks_webhook AS webhook ON webhook.id = item.webhook_id AND {condition}"
    found = fetch_all(using, f"{statement} LIMIT {most:d}", params * 2)
    return {to_uuid(pk): Place(*place) for pk, *place in found}


def headless_lanes(using: str, webhook_id: int, first: int, most: int) -> tuple[list[int], list[int]]:
    """Look at up to ``most`` lanes of a webhook, from the lane ``first`` on. Returns them, and the lanes that may
    have no head: the first delivery in order is waiting. Behind one that was retried, there may be a head."""
    following = "SELECT lane FROM webhooks_queue WHERE webhook_id = %s AND lane {} ORDER BY lane LIMIT 1"
    found = fetch_all(
        using,
        f"""
        WITH RECURSIVE lanes (lane) AS (
            SELECT ({following.format(">= %s")})
            UNION ALL SELECT ({following.format("> lanes.lane")}) FROM lanes WHERE lanes.lane IS NOT NULL
        )
        SELECT lane, (
            SELECT state FROM webhooks_queue AS queued
            WHERE webhook_id = %s AND queued.lane = lanes.lane
                AND in_lane AND state IN ('waiting', 'pending', 'sending')
            ORDER BY event_id LIMIT 1
        ) FROM lanes WHERE lane IS NOT NULL LIMIT %s
        """,
        [webhook_id, first, webhook_id, webhook_id, most],
    )
    return [lane for lane, _ in found], [lane for lane, state in found if state == "waiting"]
