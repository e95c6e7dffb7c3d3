"""Tables with thousands of deliveries, and statistics of PostgreSQL that are old or say the opposite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from django.db import connection
from django.utils import timezone

from tests.support.makers import make_delivery
from webhooks.ground.db import execute, fetch_all
from webhooks.models import Delivery, QueuedDelivery, State, Webhook
from webhooks.models.lanes import lane_of

STATEMENT_TIMEOUT = 60  # seconds: an error then names the statement
TABLES = ("event", "undispatched", "delivery", "queue", "attempt", "statistic", "statisticdelta", "skip", "worker")


def analyze() -> None:
    for table in TABLES:
        execute("default", f"VACUUM (ANALYZE, TRUNCATE false) rq_webhooks_{table}")


def insert_deliveries(webhook: Webhook, count: int, objects: int, outcome: str = "") -> None:
    """Deliveries of so many objects. Without an outcome, each waits behind the failing head of its lane. Failed ones
    are in the queue."""
    execute(
        "default",
        """
        WITH events AS (
            INSERT INTO rq_webhooks_event (timestamp, action, object_type, object_id, webhook_ids)
            SELECT now(), 'updated', 'testapp.thing', 'old-' || mod(n, %(objects)s), '[]'
            FROM generate_series(1, %(count)s) AS n RETURNING id, object_id
        ), deliveries AS (
            INSERT INTO rq_webhooks_delivery (id, event_id, webhook_id, lane, created, outcome, noted_end)
            SELECT ('f' || substr(md5(id::text), 2))::uuid, id, %(webhook)s,
                (%(lanes)s::bigint[])[1 + substr(object_id, 5)::int], now(), %(outcome)s,
                CASE WHEN %(outcome)s <> '' THEN now() END
            FROM events RETURNING id, event_id, webhook_id, lane
        )
        INSERT INTO rq_webhooks_queue
            (delivery_id, event_id, webhook_id, lane, state, waited, due_at, failing_since, failed_at, failures)
        SELECT id, event_id, webhook_id, lane,
            CASE WHEN %(outcome)s <> '' THEN %(outcome)s WHEN is_head THEN 'pending' ELSE 'waiting' END,
            %(outcome)s = '' AND NOT is_head,
            CASE WHEN is_head THEN now() + interval '1 day' END, CASE WHEN is_head THEN now() END,
            CASE WHEN %(outcome)s <> '' THEN now() END, 0
        FROM (
            SELECT *, %(outcome)s = '' AND event_id = min(event_id) OVER (PARTITION BY lane) AS is_head FROM deliveries
        ) AS inserted
        WHERE %(outcome)s IN ('', 'failed')
        """,
        {
            "objects": objects,
            "count": count,
            "webhook": webhook.pk,
            "lanes": [lane_of("testapp.thing", f"old-{number}") for number in range(objects)],
            "outcome": outcome,
        },
    )


def delete_all() -> None:
    for table in ("queue", "attempt", "delivery", "undispatched", "event"):
        execute("default", f"DELETE FROM rq_webhooks_{table}")


def statistics_of_empty_tables(webhook: Webhook) -> None:
    """One row was in each table, and is gone. PostgreSQL then expects one row, however large a table becomes."""
    make_delivery(webhook, State.FAILED)
    delete_all()
    analyze()


def statistics_of_the_opposite(webhook: Webhook) -> None:
    """All deliveries of all objects were due, retried, failing and suspected."""
    insert_deliveries(webhook, 2000, 2000)
    now = timezone.now() - timedelta(days=1)
    QueuedDelivery.objects.update(due_at=now, failing_since=now, failed_at=now, overtaken=True, lost_leases=1)
    Delivery.objects.update(discarded_at=now, error_kind="http_503")  # no join, as statistics may not fit yet
    analyze()
    delete_all()


DESCRIPTIONS: list[Callable[[Webhook], None]] = [statistics_of_empty_tables, statistics_of_the_opposite]


def _partitions() -> list[str]:
    """The tables that have rows: a partitioned one has no storage parameters."""
    found = fetch_all(
        "default",
        "SELECT oid::regclass::text FROM pg_class LEFT JOIN pg_inherits ON inhrelid = oid "
        "WHERE relkind = 'r' AND COALESCE(inhparent, oid)::regclass::text = ANY (%s)",
        [[f"rq_webhooks_{table}" for table in TABLES]],
    )
    return [name for (name,) in found]


@contextmanager
def described_by(describe: Callable[[Webhook], None], webhook: Webhook) -> Iterator[None]:
    """Keep these statistics while a test inserts rows. Empties the tables afterwards.

    The session is new. It has no plans from earlier tests, such as a scan of few webhooks for each foreign key.
    """
    connection.close()
    execute("default", f"SET statement_timeout = '{STATEMENT_TIMEOUT}s'")
    for table in _partitions():
        execute("default", f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
    describe(webhook)
    yield
    for table in _partitions():
        execute("default", f"ALTER TABLE {table} RESET (autovacuum_enabled)")
    for table in TABLES:
        execute("default", f"TRUNCATE rq_webhooks_{table} CASCADE")
    connection.close()
