"""The SQL that finds and claims due deliveries.

A claim writes the token of the worker to each row of the queue. A worker may only record rows that still have its
token. The lease of all its claims is in its row of ``rq_webhooks_worker``.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from django.db import transaction

from webhooks.db import among_sql, fetch_all, is_postgresql, now_sql, stored_time, to_uuid, uuid_sql
from webhooks.models.queue import CLAIMED, ClaimedRow, claimed_rows
from webhooks.models.worker import begin_transaction


class DueWebhook(NamedTuple):
    """A webhook with deliveries to send now. A paused webhook gets one delivery, as a probe, even if none is due: its
    only deliveries may be between two attempts that are a day apart.

    ``has`` says whether there are some that have lost no lease, one lease, or two. ``since`` is when the first one that
    has lost none was due, or is, in the database's own format, or None.
    """

    id: int
    is_probe: bool
    since: Any
    has: tuple[bool, bool, bool]
    is_early: bool = False
    """Whether it gets a probe before anything is due."""


def due_webhooks(
    using: str, floors: Mapping[int, Any] | None = None, note: Callable[[int, Any], None] | None = None
) -> list[DueWebhook]:
    """The enabled webhooks with deliveries to send now. Paused webhooks only if their probe is due.

    The scan of a webhook begins at its floor, a time, if it has one. ``note`` gets the id of each webhook, and the time
    from which on this look has found something. If it has found nothing, that is the time of the look. SQLite keeps no
    dead entries, and needs no floors.
    """
    now = now_sql(using)
    last = _last_due_sql(using, "probe_at IS NOT NULL")
    is_due = f"webhook_id = rq_webhooks_webhook.id AND due_at <= {last} AND state = 'pending' AND lost_leases"
    floor, parameters = "''", list[Any]()
    if is_postgresql(using):
        known = floors or {}
        floor = """COALESCE((
            SELECT floor FROM unnest(%s::bigint[], %s::timestamptz[]) AS floors (id, floor)
            WHERE floors.id = rq_webhooks_webhook.id
        ), '-infinity')"""
        parameters = [list(known), list(known.values())]
    statement = f"""
        SELECT id, probe_at IS NOT NULL,
            (SELECT due_at FROM rq_webhooks_queue WHERE {is_due} = 0 AND due_at >= {floor} ORDER BY due_at LIMIT 1),
            (SELECT true FROM rq_webhooks_queue WHERE {is_due} = 1 ORDER BY due_at LIMIT 1),
            (SELECT true FROM rq_webhooks_queue WHERE {is_due} = 2 ORDER BY due_at LIMIT 1),
            {now}
        FROM rq_webhooks_webhook WHERE enabled AND paused_at IS NULL AND (probe_at IS NULL OR probe_at <= {now})
    """
    with _reading(using):
        found = fetch_all(using, statement, parameters)
    due = list[DueWebhook]()
    for pk, is_probe, since, once, twice, at in found:
        if note and is_postgresql(using):
            note(pk, at if since is None else min(since, at))
        has = (since is not None, bool(once), bool(twice))
        if any(has):
            is_early = bool(is_probe) and since is not None and stored_time(since) > stored_time(at)
            due.append(DueWebhook(pk, bool(is_probe), since, has, is_early))
    return due


def _last_due_sql(using: str, is_probe: str) -> str:
    """A delivery can be sent if it is due at this time at the latest. One bound of an index, with and without probe."""
    ever = "'infinity'::timestamptz" if is_postgresql(using) else "'9999-12-31'"
    return f"CASE WHEN {is_probe} THEN {ever} ELSE {now_sql(using)} END"


@contextmanager
def _reading(using: str) -> Iterator[None]:
    """On PostgreSQL, read in a transaction of a worker: with old statistics, it would otherwise read all that is due.
    On SQLite, a transaction would wait for writers."""
    if not is_postgresql(using):
        yield
        return
    with transaction.atomic(using):
        begin_transaction(using)
        yield


def claim(using: str, capacity: Mapping[DueWebhook, int], token: uuid.UUID, lost_leases: int = 0) -> list[ClaimedRow]:
    """Claim up to ``capacity`` due deliveries of each webhook that have lost so many leases, the longest due first. A
    probe may be claimed before it is due.

    Rows that another worker is claiming are skipped. Call it in a transaction of this worker.
    """
    due = (_lock_due if is_postgresql(using) else _find_due)(using, capacity, lost_leases)
    if not due:
        return []
    chosen, chosen_param = among_sql(using, due, "uuid")
    found = fetch_all(
        using,
        f"""
        UPDATE rq_webhooks_queue SET state = 'sending', claim = {uuid_sql(using)}
        WHERE delivery_id {chosen} AND state = 'pending' RETURNING {CLAIMED}, due_at > {now_sql(using)}
        """,
        [token.hex, chosen_param],
    )
    return claimed_rows(found)


def _lock_due(using: str, capacity: Mapping[DueWebhook, int], lost_leases: int) -> list[uuid.UUID]:
    """For PostgreSQL. Reads one range of an index for each webhook, so the backlog of one costs the others nothing."""
    since = [webhook.since if lost_leases == 0 else None for webhook in capacity]
    found = fetch_all(
        using,
        f"""
        SELECT due.delivery_id FROM unnest(%s::bigint[], %s::int[], %s::timestamptz[], %s::boolean[])
            AS capacity (webhook_id, free, since, is_probe)
        CROSS JOIN LATERAL (
            SELECT delivery_id FROM rq_webhooks_queue
            WHERE webhook_id = capacity.webhook_id AND due_at <= {_last_due_sql(using, "capacity.is_probe")}
                AND due_at >= COALESCE(capacity.since, '-infinity')
                AND state = 'pending' AND lost_leases = {lost_leases:d}
            ORDER BY due_at LIMIT capacity.free FOR UPDATE SKIP LOCKED
        ) AS due
        """,
        [[one.id for one in capacity], list(capacity.values()), since, [one.is_probe for one in capacity]],
    )
    return [row[0] for row in found]


def _find_due(using: str, capacity: Mapping[DueWebhook, int], lost_leases: int) -> list[uuid.UUID]:
    """For SQLite, which has neither LATERAL nor row locks."""
    last = _last_due_sql(using, "%s")
    statement = f"""
        SELECT delivery_id FROM rq_webhooks_queue
        WHERE webhook_id = %s AND due_at <= {last} AND state = 'pending' AND lost_leases = {lost_leases:d}
        ORDER BY due_at LIMIT %s
    """
    given = ([webhook.id, webhook.is_probe, free] for webhook, free in capacity.items())
    found = (fetch_all(using, statement, one) for one in given)
    return [to_uuid(row[0]) for part in found for row in part]
