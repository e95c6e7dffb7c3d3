"""The lanes: the deliveries of one object to one webhook go one after the other. Their locks, and the SQL that finds
the next one.

A delivery that is pending or sending in its lane is the head. A lane has at most one. A transaction that changes the
head of a lane, or adds to the lane, holds the lock of its object.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from webhooks.ground.db import (
    Statement,
    among_sql,
    fetch_all,
    fetch_each,
    is_postgresql,
    json_rows_sql,
    now_sql,
    to_uuid,
    uuid_sql,
)
from webhooks.models.ids import id_at
from webhooks.models.queue import CLAIMED, ClaimedRow, claimed_rows
from webhooks.models.worker import Mark

Lane = tuple[int, int]
"""The id of a webhook, and the number of an object, see ``lane_of``."""


class Place(NamedTuple):
    """The place of a delivery in its lane."""

    webhook_id: int
    lane: int
    event_id: int


def places(deliveries: Iterable[Any]) -> list[Place]:
    """The places of those that have a lane."""
    return [
        Place(delivery.webhook_id, delivery.lane, delivery.event_id)
        for delivery in deliveries
        if delivery.lane is not None
    ]


def firsts(deliveries: Iterable[Any]) -> dict[Lane, Place]:
    """The first place in each lane."""
    heads: dict[Lane, Place] = {}
    for place in sorted(places(deliveries), key=lambda place: place.event_id):
        heads.setdefault((place.webhook_id, place.lane), place)
    return heads


def lane_of(object_type: str, object_id: str) -> int:
    """The number of an object's lane in each webhook. Two objects with one number would share their lanes."""
    digest = hashlib.blake2b(f"{object_type}:{object_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def lock(using: str, lanes: Iterable[int | None]) -> None:
    """Wait for the locks of objects, until the end of the transaction. In one order, so that workers cannot deadlock.

    The webhooks of an object share its lock: a transaction takes one lock for each object, and PostgreSQL has a limit.
    """
    if numbers := sorted({lane for lane in lanes if lane is not None} if is_postgresql(using) else ()):
        among = "unnest(string_to_array(%s, ',')::bigint[]) AS lane"
        fetch_all(using, f"SELECT pg_advisory_xact_lock(lane) FROM {among}", [",".join(map(str, numbers))])


def try_lock(using: str, lanes: Iterable[int | None]) -> set[int]:
    """The same without waiting. Returns the ones whose locks this transaction has now.

    A transaction of the host that has sent a delivery again may stay open for long.
    """
    numbers = {lane for lane in lanes if lane is not None}
    if not numbers or not is_postgresql(using):
        return numbers
    return {lane for (lane,) in fetch_all(using, *_try_lock_sql(numbers))}


def _try_lock_sql(numbers: Collection[int]) -> Statement:
    among = "unnest(string_to_array(%s, ',')::bigint[]) AS lane"
    given = ",".join(map(str, sorted(numbers)))
    return f"SELECT lane FROM {among} WHERE pg_try_advisory_xact_lock(lane)", [given]


def lock_of(using: str, deliveries: Collection[uuid.UUID]) -> None:
    """The same for the objects of deliveries with these ids."""
    if not is_postgresql(using) or not deliveries:
        return
    chosen, chosen_param = among_sql(using, deliveries, "uuid")
    objects = f"SELECT DISTINCT lane FROM rq_webhooks_delivery WHERE id {chosen} AND lane IS NOT NULL ORDER BY lane"
    fetch_all(using, f"SELECT pg_advisory_xact_lock(lane) FROM ({objects}) AS locked", [chosen_param])


def try_lock_of(using: str, deliveries: Collection[uuid.UUID]) -> bool:
    """The same without waiting. Returns whether this transaction has all locks now."""
    if not is_postgresql(using) or not deliveries:
        return True
    chosen, chosen_param = among_sql(using, deliveries, "uuid")
    objects = f"SELECT DISTINCT lane FROM rq_webhooks_delivery WHERE id {chosen} AND lane IS NOT NULL"
    statement = f"SELECT COALESCE(BOOL_AND(pg_try_advisory_xact_lock(lane)), true) FROM ({objects}) AS objects"
    return bool(fetch_all(using, statement, [chosen_param])[0][0])


SMALLEST, LARGEST = -(2**63), 2**63 - 1

# The last delivery in the lane of ``given``, as a subquery. It compares and sorts by whole places. With a condition for
# each column and old statistics, PostgreSQL may take the index of the events, and read all deliveries of other lanes.
_LAST = f"""(
    SELECT CASE WHEN found.webhook_id = given.webhook_id AND found.lane = given.lane THEN found.id END
    FROM rq_webhooks_delivery AS found
    WHERE found.lane IS NOT NULL {{within}}
        AND (found.webhook_id, found.lane, found.event_id) <= (given.webhook_id, given.lane, {LARGEST})
    ORDER BY found.webhook_id DESC, found.lane DESC, found.event_id DESC LIMIT 1
)"""

# The first delivery that waits in the lane of ``given``, after its event.
_FIRST_WAITING = """(
    SELECT queued.delivery_id FROM rq_webhooks_queue AS queued
    WHERE queued.webhook_id = given.webhook_id AND queued.lane = given.lane AND queued.event_id > given.event_id
        AND queued.in_lane AND queued.state = 'waiting'
    ORDER BY queued.event_id LIMIT 1
)"""


def _has(condition: str) -> str:
    """Whether the lane of ``given`` has a delivery in the queue that meets the condition."""
    return f"""EXISTS (
        SELECT 1 FROM rq_webhooks_queue AS queued
        WHERE queued.webhook_id = given.webhook_id AND queued.lane = given.lane AND {condition}
    )"""


def _has_one(condition: str) -> str:
    """The same for many lanes. For EXISTS, old statistics let PostgreSQL read the rows of all other lanes, too."""
    return f"""(
        SELECT 1 FROM rq_webhooks_queue AS queued
        WHERE queued.webhook_id = given.webhook_id AND queued.lane = given.lane AND {condition} LIMIT 1
    ) IS NOT NULL"""


_OPEN = "queued.in_lane AND queued.state IN ('waiting', 'pending', 'sending')"
_ORDERED = "(SELECT ordered FROM rq_webhooks_webhook AS webhook WHERE webhook.id = given.webhook_id)"


def _given(using: str, places: Collection[Place]) -> tuple[str, str]:
    # They are integers: to write each as a dictionary takes four times as long.
    rows = [f'{{"webhook_id":{webhook},"lane":{lane},"event_id":{event}}}' for webhook, lane, event in places]
    return json_rows_sql(using, Place._fields, "rq_webhooks_queue"), f"[{','.join(rows)}]"


class Window(NamedTuple):
    """The deliveries among which a dispatch looks for the last one of a lane, so that it reads few partitions.

    All deliveries of events from ``event_id`` on are in it, or are ``overtaken``: then the queue decides.
    """

    event_id: int
    begin: uuid.UUID
    end: uuid.UUID
    first_event: int
    """Where to look for an event that is ahead. Such a look goes along an index, and must not pass over all the entries
    of a partition that are before its window: so this is the begin of a partition."""


class Marks(NamedTuple):
    """The marks in the history. SQLite has none."""

    known: Sequence[Mark] = ()
    end: uuid.UUID = id_at(0)
    """The end of all windows. It never falls: what was created before it is in them, whatever the clock says."""

    @staticmethod
    def statements(using: str) -> list[Statement]:
        """What to read for ``read``."""
        statement = "SELECT (SELECT marks::text FROM rq_webhooks_sweep WHERE id = 1)"
        return [(statement, [])] if is_postgresql(using) else []

    @classmethod
    def read(cls, *rows: Sequence[Any]) -> Marks:
        [[text]] = rows[0] if rows else [(None,)]
        known = [Mark(*mark) for mark in json.loads(text or "[]")]
        return cls(known, id_at(max((mark.end for mark in known), default=0)))

    def window(self, first: int) -> Window | None:
        """The deliveries among which those may be that are ahead of the ones of events from ``first`` on. None: all,
        before the history has partitions, and for events that have waited for long."""
        mark = self._mark(first)
        return Window(mark.event_id, id_at(mark.milliseconds), self.end, mark.partition) if mark else None

    def are_kept_by(self, delivery: Any) -> bool:
        """Whether a new delivery is in all windows that begin before its event. Most are."""
        mark = self._mark(delivery.event_id)
        return mark is None or id_at(mark.milliseconds) <= delivery.id < self.end

    def _mark(self, event_id: int) -> Mark | None:
        return max((mark for mark in self.known if mark.event_id <= event_id), default=None)


class Ahead(NamedTuple):
    """Whether a delivery that is added to a lane must wait, and whether a later Event was there first."""

    is_busy: bool
    is_late: bool


def look_ahead(using: str, places: Collection[Place], window: Window | None = None) -> dict[Lane, Ahead]:
    """The deliveries that are in lanes already, by webhook and lane, for the first delivery that is added to each.

    Mostly the last delivery of the lane answers that. All of them do not: a lane may have a million, all succeeded.
    """
    return _ahead(using, fetch_all(using, *_look_ahead_sql(using, places, window))) if places else {}


def try_look_ahead(using: str, places: Collection[Place], window: Window | None) -> dict[Lane, Ahead]:
    """As ``lock`` and ``look_ahead``, but without waiting. Leaves out the lanes with locks that are not free."""
    if not places or not is_postgresql(using):
        return look_ahead(using, places)  # SQLite has one writer
    try_lock_all = _try_lock_sql({place.lane for place in places})
    locked, rows = fetch_each(using, try_lock_all, _look_ahead_sql(using, places, window))
    free = {lane for (lane,) in locked}
    return _ahead(using, [row for row in rows if row[1] in free])


def _look_ahead_sql(using: str, places: Collection[Place], window: Window | None) -> Statement:
    given, given_param = _given(using, places)
    within, is_behind = "", "false" if is_postgresql(using) else "0"
    if window:
        # Constants: PostgreSQL then plans for few partitions. Older deliveries count only if they are in the queue.
        within = f"AND {{}} >= '{window.begin}' AND {{}} < '{window.end}'"
        is_behind = _has_one(f"queued.event_id < {window.event_id:d} AND {_OPEN}")
    last, of_last = _LAST.replace("{within}", within.format("found.id", "found.id")), within.format("id", "id")
    return (
        f"""
        WITH last AS MATERIALIZED (
            SELECT webhook_id, lane, event_id, {_has_one("queued.overtaken")} AS has_overtaken,
                {is_behind} AS is_behind, {last} AS id FROM {given}
        )
        SELECT webhook_id, lane, has_overtaken,
            is_behind OR (
                SELECT 1 FROM rq_webhooks_queue AS queued WHERE queued.delivery_id = last.id AND {_OPEN}
            ) IS NOT NULL,
            (SELECT outcome = 'discarded' FROM rq_webhooks_delivery WHERE id = last.id {of_last}),
            (SELECT event_id > last.event_id FROM rq_webhooks_delivery WHERE id = last.id {of_last})
        FROM last
        """,
        [given_param],
    )


def _ahead(using: str, rows: Collection[tuple[Any, ...]]) -> dict[Lane, Ahead]:
    unclear = [
        Place(webhook_id, lane, 0)
        for webhook_id, lane, has_overtaken, is_busy, is_discarded, is_late in rows
        if not is_busy and (has_overtaken or is_discarded or is_late)
    ]
    busy = {lane for lane, is_open in ordered(using, unclear, "true").items() if is_open}
    return {
        (webhook_id, lane): Ahead(bool(is_busy) or (webhook_id, lane) in busy, bool(is_late))
        for webhook_id, lane, _, is_busy, _, is_late in rows
    }


def ordered(using: str, places: Collection[Place], is_ordered: str = _ORDERED) -> dict[Lane, bool]:
    """Find the lanes of webhooks that are ordered now, and whether each has an unfinished delivery."""
    if not places:
        return {}
    given, given_param = _given(using, places)
    statement = f"SELECT given.webhook_id, given.lane, {_has(_OPEN)} FROM {given} WHERE {is_ordered}"
    rows = fetch_all(using, statement, [given_param])
    return {(webhook_id, lane): bool(is_open) for webhook_id, lane, is_open in rows}


def step_back(using: str, places: Collection[Place]) -> list[Place]:
    """Let deliveries that are between their attempts wait in their lanes, if their events are later than these. So
    what is sent again goes before them. Returns the places whose lanes may have lost their head: call ``repair``.

    Those that have left their lanes return. What a worker holds stays: it cannot be called back. Call it with the locks
    of the lanes.
    """
    if not places:
        return []
    given, given_param = _given(using, places)
    rows = fetch_all(
        using,
        f"""
        UPDATE rq_webhooks_queue SET
            state = 'waiting',
            waited = {"true" if is_postgresql(using) else "1"},
            due_at = NULL,
            failing_since = NULL,
            overtaken = overtaken OR NOT in_lane,
            in_lane = {"true" if is_postgresql(using) else "1"}
        WHERE delivery_id IN (
            SELECT queued.delivery_id FROM {given} JOIN rq_webhooks_queue AS queued
                ON queued.webhook_id = given.webhook_id AND queued.lane = given.lane
                AND queued.event_id > given.event_id AND queued.state = 'pending'
            WHERE {_ORDERED}
        ) AND state = 'pending' RETURNING webhook_id, lane
        """,
        [given_param],
    )
    return [Place(webhook_id, lane, 0) for webhook_id, lane in {*rows}]


def give_way(using: str, places: Collection[Place]) -> None:
    """Let deliveries that will be attempted again wait behind earlier ones that were sent again meanwhile. Call it with
    the locks of their lanes."""
    if not places:
        return
    given, given_param = _given(using, places)
    is_behind = _has("queued.overtaken AND queued.state = 'waiting' AND queued.event_id < given.event_id")
    rows = fetch_all(using, f"SELECT webhook_id, lane, event_id FROM {given} WHERE {is_behind}", [given_param])
    behind = [Place(webhook_id, lane, event_id - 1) for webhook_id, lane, event_id in rows]
    repair(using, step_back(using, behind))


def promote(using: str, ended: Collection[Place], token: uuid.UUID | None = None) -> list[ClaimedRow]:
    """Make the next delivery the head of each lane that has lost its head. Call it once, with the locks of the lanes,
    in the transaction that ends the head.

    With a ``token``, new heads of webhooks that are enabled and not paused are claimed at once, and returned.
    """
    if not ended:
        return []
    given, given_param = _given(using, ended)
    # The next one may be an earlier one: a user may have retried it, or its event was committed late.
    rows = fetch_all(
        using,
        f"""
        WITH ended AS MATERIALIZED (
            SELECT webhook_id, lane, CASE WHEN {_has("queued.overtaken")} THEN 0 ELSE event_id END AS event_id
            FROM {given}
        )
        SELECT {_FIRST_WAITING}, webhook_id,
            (SELECT enabled AND probe_at IS NULL AND paused_at IS NULL FROM rq_webhooks_webhook AS webhook
                WHERE webhook.id = webhook_id)
        FROM ended AS given
        """,
        [given_param],
    )
    heads = [pk for pk, *_ in rows if pk is not None]
    claimable = {webhook_id for _, webhook_id, is_sent in rows if is_sent} if token else set()
    return _make_heads(using, heads, claimable, token)


def repair(using: str, places: Collection[Place]) -> int:
    """Make the first waiting delivery the head of each of these lanes that has no head. Returns how many it made.

    A lane has a head unless code deleted its row. Call it with the locks of the lanes.
    """
    if not places:
        return 0
    given, given_param = _given(using, places)
    has_head = _has("queued.in_lane AND queued.state IN ('pending', 'sending')")
    rows = fetch_all(using, f"SELECT {_FIRST_WAITING} FROM {given} WHERE NOT {has_head}", [given_param])
    heads = [pk for (pk,) in rows if pk is not None]
    _make_heads(using, heads, (), None)
    return len(heads)


def _make_heads(
    using: str, heads: Collection[uuid.UUID], claimable: Collection[int], token: uuid.UUID | None
) -> list[ClaimedRow]:
    if not heads:
        return []
    chosen, chosen_param = among_sql(using, [to_uuid(pk) for pk in heads], "uuid")
    is_claimed, claimable_param = among_sql(using, claimable)
    is_claimed = f"webhook_id {is_claimed}"
    # Claimed ones get no due time: its index then stays as it is, and PostgreSQL can reuse the space of the row.
    rows = fetch_all(
        using,
        f"""
        UPDATE rq_webhooks_queue SET
            state = CASE WHEN {is_claimed} THEN 'sending' ELSE 'pending' END,
            claim = CASE WHEN {is_claimed} THEN {uuid_sql(using)} END,
            due_at = CASE WHEN {is_claimed} THEN due_at ELSE {now_sql(using)} END
        WHERE delivery_id {chosen} AND state = 'waiting' RETURNING {CLAIMED}, state
        """,
        [claimable_param, claimable_param, token.hex if token else None, claimable_param, chosen_param],
    )
    return claimed_rows(row[:-1] for row in rows if row[-1] == "sending")


# For the sweep


def blocking_heads(using: str, seconds: float, most: int) -> dict[uuid.UUID, Place]:
    """Up to ``most`` heads that have failed for longer than ``seconds``, while their webhooks were sent to."""
    since = now_sql(using, -seconds)
    condition = f"""
        item.failing_since < {since} AND item.state = 'pending' AND item.in_lane AND webhook.enabled
        AND webhook.paused_at IS NULL AND webhook.probe_at IS NULL
        AND (webhook.resumed_at IS NULL OR webhook.resumed_at <= {since})
    """
    rows = "SELECT item.delivery_id, item.webhook_id, item.lane, item.event_id FROM rq_webhooks_queue AS item"
    if is_postgresql(using):
        # One range of an index for each webhook, against old statistics.
        of_one = f"{rows} WHERE item.webhook_id = webhook.id AND {condition} ORDER BY item.failing_since LIMIT {most:d}"
        statement = f"SELECT found.* FROM rq_webhooks_webhook AS webhook CROSS JOIN LATERAL ({of_one}) AS found"
    else:
        statement = f"{rows} JOIN rq_webhooks_webhook AS webhook ON webhook.id = item.webhook_id AND {condition}"
    stuck = fetch_all(using, f"{statement} LIMIT {most:d}")
    return {to_uuid(pk): Place(*place) for pk, *place in stuck}


def headless_lanes(using: str, webhook_id: int, first: int, most: int) -> tuple[list[int], list[int]]:
    """Look at up to ``most`` lanes of a webhook, from the lane ``first`` on. Returns them, and the lanes that may
    have no head: the first delivery in order is waiting. Behind one that was retried, there may be a head."""
    following = "SELECT lane FROM rq_webhooks_queue WHERE webhook_id = %s AND lane {} ORDER BY lane LIMIT 1"
    rows = fetch_all(
        using,
        f"""
        WITH RECURSIVE lanes (lane) AS (
            SELECT ({following.format(">= %s")})
            UNION ALL SELECT ({following.format("> lanes.lane")}) FROM lanes WHERE lanes.lane IS NOT NULL
        )
        SELECT lane, (
            SELECT state FROM rq_webhooks_queue AS queued
            WHERE webhook_id = %s AND queued.lane = lanes.lane
                AND in_lane AND state IN ('waiting', 'pending', 'sending')
            ORDER BY event_id LIMIT 1
        ) FROM lanes WHERE lane IS NOT NULL LIMIT %s
        """,
        [webhook_id, first, webhook_id, webhook_id, most],
    )
    return [lane for lane, _ in rows], [lane for lane, state in rows if state == "waiting"]
