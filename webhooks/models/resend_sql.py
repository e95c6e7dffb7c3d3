"""The SQL of retries and resends: it puts finished deliveries back into their lanes.

Runs do it for many, so each statement counts.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from webhooks.db import Among, DatabaseNow, among_sql, execute, fetch_all, json_rows_sql, now_sql, to_uuid
from webhooks.models import lanes
from webhooks.models.lanes import Lane, Place
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
    is_locked: bool = False,
) -> Resent:
    """Put failed and discarded deliveries back, and make the next attempt of pending ones due now.

    Pending ones keep their place in the schedule. The rest as for ``resend``."""
    if not is_locked:
        lanes.lock_of(using, ids)
    later = QueuedDelivery.objects.using(using).filter(Among("delivery", ids, "uuid"), due_at__gt=DatabaseNow())
    forward = list(later.filter(state=State.PENDING).select_for_update(no_key=True).values_list(*FORWARD, named=True))
    if forward:
        _bring_forward(using, forward, requested_by)
    resent = resend(using, ids, requested_by, free, token, (State.FAILED, State.DISCARDED), is_locked=True)
    return Resent(len(forward) + resent.changed, resent.claimed)


FORWARD = ("delivery_id", "webhook_id", "lane", "event_id", "in_lane")


def _bring_forward(using: str, pending: Sequence[Any], requested_by: str) -> None:
    """Make the next attempts of pending deliveries due now. One that has left its lane returns to it."""
    queue = QueuedDelivery.objects.using(using)
    every = queue.filter(Among("delivery", [one.delivery_id for one in pending], "uuid"))
    every.update(due_at=DatabaseNow(), requested_by=requested_by, requested_at=DatabaseNow())
    headless = lanes.step_back(using, _firsts(pending))
    beside = [one for one in pending if one.lane is not None and not one.in_lane]
    is_ordered = lanes.ordered(using, {Place(one.webhook_id, one.lane, 0) for one in beside})
    back = [one for one in beside if (one.webhook_id, one.lane) in is_ordered]
    if back:
        chosen = queue.filter(Among("delivery", [one.delivery_id for one in back], "uuid"))
        chosen.update(state=State.WAITING, in_lane=True, overtaken=True, due_at=None)
    lanes.repair(using, {*headless, *(Place(one.webhook_id, one.lane, 0) for one in back)})


def resend(
    using: str,
    ids: Collection[uuid.UUID],
    requested_by: str,
    free: Mapping[int, int] | None = None,
    token: uuid.UUID | None = None,
    outcomes: Collection[str] = ENDED_STATES,
    is_locked: bool = False,
) -> Resent:
    """Put finished deliveries back into their lanes. Each keeps its id and its attempts, and gets a new retry schedule.

    They go before later ones of their lanes that were not accepted yet, unless a worker holds one.

    A worker claims heads with its ``token``, of each webhook up to the number in ``free``. Call it in a transaction.
    With ``is_locked``, it has the locks of their lanes.
    """
    if not is_locked:
        lanes.lock_of(using, ids)
    finished = _take_outcomes(using, ids, outcomes)
    places = {Place(one.webhook_id, one.lane, 0) for one in finished if one.lane is not None}
    headless = lanes.step_back(using, _firsts(finished))
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
    lanes.repair(using, headless)
    return Resent(len(finished), claimed)


def _take_outcomes(using: str, ids: Collection[uuid.UUID], outcomes: Collection[str]) -> list[Finished]:
    """The deliveries that had one of these outcomes, in the order of their events. Now they have none."""
    chosen, chosen_param = among_sql(using, ids, "uuid")
    placeholders = ", ".join(["%s"] * len(outcomes))
    found = fetch_all(
        using,
        f"""
        UPDATE rq_webhooks_delivery SET outcome = '', finished_at = NULL, discarded_at = NULL
        WHERE id {chosen} AND outcome IN ({placeholders}) RETURNING id, webhook_id, lane, event_id
        """,
        [chosen_param, *outcomes],
    )
    return sorted((Finished(to_uuid(pk), *rest) for pk, *rest in found), key=lambda one: one.event_id)


def _firsts(deliveries: Iterable[Any]) -> list[Place]:
    """The first delivery of each lane."""
    firsts: dict[Lane, Place] = {}
    for one in sorted(deliveries, key=lambda one: one.event_id):
        if one.lane is not None:
            firsts.setdefault((one.webhook_id, one.lane), Place(one.webhook_id, one.lane, one.event_id))
    return list(firsts.values())


def _write_queue(using: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of the queue. A failed delivery has one, which is overwritten."""
    if not rows:
        return
    columns = (*QUEUED, "due_at", "requested_at", "failing_since", "failed_at", "failures", "lost_leases")
    changed = ", ".join(f"{name} = excluded.{name}" for name in columns if name != "delivery_id")
    now = now_sql(using)
    execute(
        using,
        f"""
        INSERT INTO rq_webhooks_queue ({", ".join(columns)})
        SELECT {", ".join(QUEUED)}, CASE WHEN state = 'pending' THEN {now} END, {now}, NULL, NULL, 0, 0
        FROM {json_rows_sql(using, QUEUED, "rq_webhooks_queue")} WHERE 1 = 1
        ON CONFLICT (delivery_id) DO UPDATE SET {changed}
        """,
        [json.dumps(rows)],
    )
