"""What years of use leave on file, written by the database itself."""

from __future__ import annotations

from scripts.benchmark.templates import insert_attempts, insert_deliveries, insert_events
from webhooks.models import Webhook

# Of events long past nobody looks at the data here; short ones keep a million of them small.
SHORT = {"data": "'{}'", "snapshots": "'{}'", "dispatched_at": "now()"}
NEW = {"attempt_count": "0", "failures": "0", "finished_at": "NULL", "claim": "NULL", "lease_until": "NULL"}
FIRST_OF_ITS_OBJECT = "e.id IN (SELECT min(id) FROM webhooks_event WHERE id > {after} GROUP BY object_id)"


def succeeded(webhook: Webhook, count: int) -> None:
    """Deliveries of the last twenty days, each with its attempt, none old enough to be pruned."""
    after = insert_events(count, [webhook.pk], **SHORT)
    insert_deliveries(webhook.pk, after, finished_at="now() - random() * interval '20 days'")
    insert_attempts(after)


def waiting(webhook: Webhook, count: int, objects: int) -> None:
    """Deliveries that wait behind the failing heads of the lanes of so many objects, which are tried again tomorrow."""
    after = insert_events(count, [webhook.pk], **SHORT | {"object_id": f"'waiting-' || g.n %% {objects}"})
    is_head = FIRST_OF_ITS_OBJECT.format(after=after)
    columns = NEW | {
        "state": f"CASE WHEN {is_head} THEN 'pending' ELSE 'waiting' END",
        "next_attempt_at": "now() + interval '1 day'",
        "failures": f"CASE WHEN {is_head} THEN 1 ELSE 0 END",
        "head_since": f"CASE WHEN {is_head} THEN now() END",
    }
    insert_deliveries(webhook.pk, after, **columns)


def due(webhook: Webhook, count: int) -> None:
    """Deliveries that are due, each of an object of its own."""
    after = insert_events(count, [webhook.pk], **SHORT)
    insert_deliveries(
        webhook.pk, after, **NEW | {"state": "'pending'", "next_attempt_at": "now()", "head_since": "now()"}
    )
