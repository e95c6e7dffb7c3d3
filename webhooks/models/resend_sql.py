"""The SQL of retries and resends: it puts finished deliveries back into their lanes.

Runs do it for many, so each statement counts.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from webhooks.db import Among, DatabaseNow, among_sql, execute, fetch_all, json_rows_sql, now_sql, to_uuid
from webhooks.models import lanes
from webhooks.models.lanes import Place
from webhooks.models.queue import ENDED_STATES, ClaimedRow, QueuedDelivery, State


class Resent(NamedTuple):
    """The number of deliveries to send again, and the ones that the worker has claimed."""

    changed: int
    claimed: list[ClaimedRow]


class Finished(NamedTuple):
    """A delivery that was finished until now."""

    id: uuid.UUID
    webhook_id: int
    lane: int | None
    event_id: int


QUEUED = ("delivery_id", "event_id", "webhook_id", "lane", "state", "claim", "in_lane", "overtaken", "requested_by")


def retry(
    using: str,
    ids: Collection[uuid.UUID],
    requested_by: str,
    free: Mapping[int, int] | None = None,
    token: uuid.UUID | None = None,
) -> Resent:
    """Put failed and discarded deliveries back, and make the next attempt of pending ones due now.

    Pending ones keep their place in the schedule. The rest as for ``resend``."""
    later = QueuedDelivery.objects.using(using).filter(Among("delivery", ids, "uuid"), due_at__gt=DatabaseNow())
    brought_forward = later.filter(state=State.PENDING).update(due_at=DatabaseNow(), requested_by=requested_by)
    resent = resend(using, ids, requested_by, free, token, (State.FAILED, State.DISCARDED))
    return Resent(brought_forward + resent.changed, resent.claimed)


def resend(
    using: str,
    ids: Collection[uuid.UUID],
    requested_by: str,
    free: Mapping[int, int] | None = None,
    token: uuid.UUID | None = None,
    outcomes: Collection[str] = ENDED_STATES,
) -> Resent:
    """Put finished deliveries back into their lanes. Each keeps its id and its attempts, and gets a new retry schedule.

    A worker claims heads with its ``token``, of each webhook up to the number in ``free``. Call it in a transaction.
    """
    lanes.lock_of(using, ids)
    finished = _take_outcomes(using, ids, outcomes)
    places = {Place(one.webhook_id, one.lane, 0) for one in finished if one.lane is not None}
    is_ordered = lanes.ordered(using, places)  # the lanes of ordered webhooks, each with whether it is busy
    queued = list[dict[str, Any]]()
    claimed = list[ClaimedRow]()
    left = Counter(free)
    busy = {lane for lane, is_busy in is_ordered.items() if is_busy}
    for one in finished:
        lane = (one.webhook_id, one.lane) if one.lane is not None else None
        in_lane = lane in is_ordered
        state, claim = State.PENDING, None
        if lane in busy:
            state = State.WAITING
        elif token and left[one.webhook_id] > 0:
            left[one.webhook_id] -= 1
            state, claim = State.SENDING, token.hex
            row = ClaimedRow(one.id, one.webhook_id, one.event_id, one.lane, in_lane, requested_by=requested_by)
            claimed.append(row)
        if in_lane and lane:
            busy.add(lane)
        values = (one.id.hex, one.event_id, one.webhook_id, one.lane, state, claim, in_lane, in_lane, requested_by)
        queued.append(dict(zip(QUEUED, values, strict=True)))
    _write_queue(using, queued)
    return Resent(len(finished), claimed)


def _take_outcomes(using: str, ids: Collection[uuid.UUID], outcomes: Collection[str]) -> list[Finished]:
    """The deliveries that had one of these outcomes, in the order of their events. Now they have none."""
    chosen, chosen_param = among_sql(using, ids, "uuid")
    placeholders = ", ".join(["%s"] * len(outcomes))
    found = fetch_all(
        using,
        f"""
        UPDATE webhooks_delivery SET outcome = '', finished_at = NULL, discarded_at = NULL
        WHERE id {chosen} AND outcome IN ({placeholders}) RETURNING id, webhook_id, lane, event_id
        """,
        [chosen_param, *outcomes],
    )
    return sorted((Finished(to_uuid(pk), *rest) for pk, *rest in found), key=lambda one: one.event_id)


def _write_queue(using: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of the queue. A failed delivery has one, which is overwritten."""
    if not rows:
        return
    columns = (*QUEUED, "due_at", "failing_since", "failed_at", "failures", "lost_leases")
    changed = ", ".join(f"{name} = excluded.{name}" for name in columns if name != "delivery_id")
    execute(
        using,
        f"""
        INSERT INTO webhooks_queue ({", ".join(columns)})
        SELECT {", ".join(QUEUED)}, CASE WHEN state = 'pending' THEN {now_sql(using)} END, NULL, NULL, 0, 0
        FROM {json_rows_sql(using, QUEUED, "webhooks_queue")} WHERE 1 = 1
        ON CONFLICT (delivery_id) DO UPDATE SET {changed}
        """,
        [json.dumps(rows)],
    )
