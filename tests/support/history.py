"""The partitions of the history on PostgreSQL, and thousands of rows in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

from webhooks.ground.db import execute, fetch_all
from webhooks.models import Sweep, Webhook, partitions

TABLES = (partitions.EVENT, *partitions.BY_TIME)


@contextmanager
def clock(moment: datetime) -> Iterator[None]:
    """Let the partitions be made and dropped as at this moment."""
    with patch.object(partitions, "_now", lambda using: int(moment.timestamp() * 1000)):
        yield


def undivide() -> None:
    """Drop all partitions but the default ones, with their rows."""
    for table in TABLES:
        for one in partitions.read_partitions("default", table):
            execute("default", f"DROP TABLE {table}_p{one.stamp}")


def divide(begin: datetime, least: int = 1) -> None:
    """Make partitions from this moment on, at least so many."""
    while len(known := partitions.read_partitions("default", partitions.DELIVERY)) < least:
        end = datetime.fromtimestamp(known[-1].end / 1000, UTC) if known else begin
        with clock(end - timedelta(seconds=1)):
            partitions.make_ahead()
    Sweep.objects.update(marks=[])  # some are in the future
    # The next event is in a partition.
    begin_id = partitions.read_partitions("default", partitions.EVENT)[0].begin
    if begin_id > partitions._last_event("default"):
        fetch_all("default", f"SELECT setval('{partitions.EVENT}_id_seq', {begin_id})")


def insert_history(
    webhook: Webhook, count: int, begin: datetime, span: timedelta, outcome: str = "succeeded", objects: int = 1000
) -> None:
    """Deliveries of that time, each with an event and an attempt: they succeeded at once, or failed a minute later."""
    execute(
        "default",
        """
        WITH events AS (
            INSERT INTO rq_webhooks_event (timestamp, action, object_type, object_id, webhook_ids, data)
            SELECT %(begin)s + %(span)s * (n::float8 / %(count)s), 'updated', 'testapp.thing', mod(n, %(objects)s),
                '[]', '{"id": 1, "name": "a thing", "tags": []}'
            FROM generate_series(0, %(count)s - 1) AS n RETURNING id, timestamp
        ), deliveries AS (
            INSERT INTO rq_webhooks_delivery
                (id, event_id, webhook_id, lane, created, outcome, noted_attempts, noted_end, error_kind)
            SELECT (lpad(to_hex((extract(epoch from timestamp) * 1000)::bigint), 12, '0') || '7'
                || substr(md5(id::text), 1, 19))::uuid,
                id, %(webhook)s, mod(id, 1000), timestamp, %(outcome)s,
                CASE WHEN %(failed)s THEN 1 ELSE 0 END,
                CASE WHEN %(failed)s THEN timestamp + interval '1 minute' END,
                CASE WHEN %(failed)s THEN 'status' ELSE '' END
            FROM events RETURNING id, event_id, created
        )
        INSERT INTO rq_webhooks_attempt
            (delivery_id, number, started_at, duration_ms, succeeded)
        SELECT id, 1, created, 5, NOT %(failed)s FROM deliveries
        """,
        {
            "begin": begin,
            "span": span,
            "count": count,
            "objects": objects,
            "webhook": webhook.pk,
            "outcome": outcome,
            "failed": outcome == "failed",
        },
    )


def partition_of(table: str, column: str, value: object) -> str:
    """The partition that has this row."""
    [[name]] = fetch_all("default", f"SELECT tableoid::regclass::text FROM {table} WHERE {column} = %s", [value])
    return str(name)
