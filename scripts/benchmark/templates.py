"""Rows by the thousand, copied within the database from those that real saves and a real delivery made.

The templates are in a schema of their own, where nobody looks for tables of the project and copies of the database
have them too. What a copy does not override stays as it was, so that new columns need no change here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from django.db import connection, models, transaction

from dcim.models import Device
from scripts.benchmark.inventory import make_devices
from webhooks import testing
from webhooks.models import Attempt, Delivery, Event

if TYPE_CHECKING:
    from scripts.benchmark.lab import Lab
    from scripts.benchmark.mailbox import Request

COUNT = 100
SOURCES: Sequence[type[models.Model]] = (Event, Delivery, Attempt)


def take(lab: Lab) -> list[Request]:
    """Save a hundred devices, deliver that, keep the rows as templates, and return the requests."""
    lab.empty()
    mailbox = lab.mailbox("keep")
    devices = make_devices(COUNT)
    lab.webhook(mailbox.url, Device)
    with transaction.atomic():
        for device in devices:
            device.save()
    testing.deliver()
    execute("CREATE SCHEMA bench")
    for model in SOURCES:
        table = model._meta.db_table
        execute(f"CREATE TABLE bench.{table} AS SELECT *, row_number() OVER (ORDER BY id) - 1 AS n FROM {table}")
    lab.empty()
    return mailbox.kept()


def insert_events(count: int, webhook_ids: Sequence[int], **overrides: str) -> int:
    """Insert so many Events, each of an object of its own, that nobody has dispatched, in one statement. ``overrides``
    are SQL by column, where ``g.n`` counts from 0 and ``t`` is the template. Returns the highest id before."""
    before = highest_event()
    columns = {
        "object_id": f"({before} + g.n)::text",
        "data": f"""regexp_replace(t.data, '"id":[0-9]+', '"id":' || ({before} + g.n))""",
        "webhook_ids": "%s::jsonb",
        "timestamp": "clock_timestamp()",
        "dispatched_at": "NULL",
        **overrides,
    }
    source = f"generate_series(0, {count - 1}) AS g (n) JOIN bench.webhooks_event AS t ON t.n = g.n %% {COUNT}"
    _insert(Event, columns, f"{source} ORDER BY g.n", [json.dumps(list(webhook_ids))])
    return before


def insert_deliveries(webhook_id: int, after: int, **overrides: str) -> None:
    """Insert a Delivery for each Event with an id above ``after``. In the SQL of ``overrides``, ``e`` is its Event."""
    columns = {
        "id": "uuidv7()",
        "event_id": "e.id",
        "webhook_id": str(webhook_id),
        "lane": "e.object_type || ':' || e.object_id",
        **overrides,
    }
    _insert(Delivery, columns, f"webhooks_event AS e JOIN bench.webhooks_delivery AS t ON t.n = 0 WHERE e.id > {after}")


def insert_attempts(after: int) -> None:
    """Insert an Attempt for each ended Delivery of an Event with an id above ``after``."""
    source = f"webhooks_delivery AS d JOIN bench.webhooks_attempt AS t ON t.n = 0 WHERE d.event_id > {after}"
    _insert(Attempt, {"delivery_id": "d.id"}, f"{source} AND d.finished_at IS NOT NULL")


def remove(after: int) -> None:
    """Delete the Events with an id above ``after``, and what came of them."""
    deliveries = f"SELECT id FROM webhooks_delivery WHERE event_id > {after}"
    execute(f"DELETE FROM webhooks_attempt WHERE delivery_id IN ({deliveries})")
    execute(f"DELETE FROM webhooks_delivery WHERE event_id > {after}")
    execute(f"DELETE FROM webhooks_event WHERE id > {after}")


def highest_event() -> int:
    """The highest id of an Event so far, or 0."""
    return int(one_value("SELECT coalesce(max(id), 0) FROM webhooks_event"))


def _insert(model: type[models.Model], overrides: Mapping[str, str], source: str, params: Sequence[Any] = ()) -> None:
    columns = {str(field.column): f"t.{field.column}" for field in model._meta.concrete_fields}
    if (key := str(model._meta.pk.column)) not in overrides:
        del columns[key]  # the database gives the next one
    columns |= overrides
    names, values = ", ".join(columns), ", ".join(columns.values())
    execute(f"INSERT INTO {model._meta.db_table} ({names}) SELECT {values} FROM {source}", params)


def settle() -> None:
    """Let the planner know what is there, and leave no work of a fill to do beside a measurement."""
    execute("VACUUM (ANALYZE)")
    execute("CHECKPOINT")


def execute(statement: str, params: Sequence[Any] = ()) -> None:
    with connection.cursor() as cursor:
        # Without parameters, a %% would stay as it is.
        cursor.execute(statement, params or None)


def one_value(statement: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]
