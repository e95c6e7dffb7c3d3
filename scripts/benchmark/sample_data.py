"""Devices, and millions of events and deliveries, inserted by SQL.

``create_templates`` saves devices and delivers their events. It keeps the rows in the schema ``bench``, which copies of
the database have too. The other functions copy these rows and override some columns. A new column therefore needs no
change here.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import connection, models, transaction

from core.demo import load
from dcim.models import Device, Interface
from ipam.models import IPAddress
from tests.support.tables import KEPT, used_tables
from webhooks import testing
from webhooks.models import Attempt, Delivery, Event, Webhook

if TYPE_CHECKING:
    from scripts.benchmark.receiver import Request
    from scripts.benchmark.servers import Bench

M = TypeVar("M", bound=models.Model)

TEMPLATE_COUNT = 100
TEMPLATE_MODELS: Sequence[type[models.Model]] = (Event, Delivery, Attempt)

# Old events need no data. Empty data keeps a million of them small.
SMALL = {"data": "'{}'", "snapshots": "'{}'"}
LANE = "hashtextextended(e.object_type || ':' || e.object_id, 0)"
FIRST_OF_OBJECT = "e.id IN (SELECT min(id) FROM rq_webhooks_event WHERE id > {after} GROUP BY object_id)"


def make_devices(count: int) -> list[Device]:
    """Create devices with all their relations, in an empty database, without signals."""
    _insert_demo()
    pattern = Device.objects.exclude(primary_ip4=None).exclude(rack=None).order_by("pk")[0]
    address = IPAddress.objects.all()[0]
    addresses = IPAddress.objects.bulk_create(_address(address, number) for number in range(count))
    devices = Device.objects.bulk_create(_device(pattern, *numbered) for numbered in enumerate(addresses))
    through, tags = Device.tags.through, list(pattern.tags.all())
    through.objects.bulk_create(through(device=device, tag=tag) for device in devices for tag in tags)
    return devices


def _address(pattern: IPAddress, number: int) -> IPAddress:
    address = _unsaved_copy(pattern)
    address.assigned_object_id = address.assigned_object_type = None
    address.address = f"10.200.{number // 250}.{number % 250 + 1}/16"
    return address


def _device(pattern: Device, number: int, address: IPAddress) -> Device:
    device = _unsaved_copy(pattern)
    device.name, device.asset_tag, device.serial = f"bench-{number:05}", f"B{number:06}", f"SN-{number:08X}"
    device.position, device.primary_ip4 = None, address
    return device


def _unsaved_copy(pattern: M) -> M:
    duplicate = copy.copy(pattern)
    duplicate.pk = None
    duplicate._state.adding = True
    return duplicate


def make_interfaces(device: Device, count: int) -> None:
    """Create interfaces of a device, without signals. Deleting the device deletes them too."""
    names = (f"bench{number}" for number in range(count))
    Interface.objects.bulk_create(Interface(device=device, name=name, type="1000base-t") for name in names)


def create_templates(bench: Bench) -> list[Request]:
    """Save a hundred devices, deliver their events, and keep the rows as templates. Returns the sent requests."""
    bench.clear()
    _keep_demo()
    bench.clear()
    inbox = bench.inbox("keep")
    devices = make_devices(TEMPLATE_COUNT)
    bench.webhook(inbox.url, Device)
    with transaction.atomic():
        for device in devices:
            device.save()
    testing.deliver()
    execute("CREATE SCHEMA bench")
    for model in TEMPLATE_MODELS:
        table, keys = model._meta.db_table, ", ".join(str(field.column) for field in model._meta.pk_fields)
        execute(f"CREATE TABLE bench.{table} AS SELECT *, row_number() OVER (ORDER BY {keys}) - 1 AS n FROM {table}")
    bench.clear()
    return inbox.kept()


def _keep_demo() -> None:
    """Load the demo, and keep its rows in the schema ``demo``: inserting them from there is much faster."""
    load()
    execute("CREATE SCHEMA demo")
    with connection.cursor() as cursor:
        names = used_tables(cursor)
    for name in set(names) - KEPT:
        execute(f"CREATE TABLE demo.{name} AS TABLE {name}")


def _insert_demo() -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'demo'")
        for (name,) in cursor.fetchall():
            execute(f"INSERT INTO {name} TABLE demo.{name}")


def _data(count: int, highest: int) -> list[bytes]:
    """The data of the templates with the ids of their own objects, as they are stored."""
    field: Any = Event._meta.get_field("data")
    with connection.cursor() as cursor:
        cursor.execute("SELECT data FROM bench.rq_webhooks_event ORDER BY n")
        templates = [field.from_db_value(data, None, connection) for (data,) in cursor.fetchall()]
    texts = (re.sub('"id":[0-9]+', f'"id":{highest + n}', templates[n % TEMPLATE_COUNT], count=1) for n in range(count))
    return [field.get_db_prep_value(text, connection) for text in texts]


def insert_events(count: int, webhooks: Sequence[int], are_dispatched: bool = False, **overrides: str) -> int:
    """Insert Events for webhooks with these ids, each of a different object, in one statement.

    ``overrides`` are SQL expressions by column. In them, ``g.n`` counts from 0, ``t`` is the template, and ``ids`` the
    webhooks. Returns the highest id of an Event before.
    """
    highest = highest_event_id()
    columns = {
        "object_id": f"({highest} + g.n)::text",
        "data": "given_data.data",
        "webhook_ids": "ids",
        "timestamp": "clock_timestamp()",
        **overrides,
    }
    numbers = f"generate_series(0, {count - 1}) AS g (n)"
    templates = f"JOIN bench.rq_webhooks_event AS t ON t.n = g.n %% {TEMPLATE_COUNT}"
    data = [] if "data" in overrides else _data(count, highest)
    given = "LEFT JOIN unnest(%s::bytea[]) WITH ORDINALITY AS given_data (data, n) ON given_data.n = g.n + 1"
    source = f"{numbers} {templates} CROSS JOIN (SELECT %s::jsonb) AS given (ids) {given} ORDER BY g.n"
    _insert(Event, columns, source, [json.dumps(list(webhooks)), data])
    if not are_dispatched:
        execute(f"INSERT INTO rq_webhooks_undispatched SELECT id FROM rq_webhooks_event WHERE id > {highest}")
    return highest


def insert_deliveries(webhook_id: int, after: int, **overrides: str) -> None:
    """Insert a Delivery for each Event with an id above ``after``. In ``overrides``, ``e`` is its Event."""
    columns = {
        "id": "uuidv7()",
        "event_id": "e.id",
        "webhook_id": str(webhook_id),
        "lane": LANE,
        **overrides,
    }
    _insert(
        Delivery,
        columns,
        f"rq_webhooks_event AS e JOIN bench.rq_webhooks_delivery AS t ON t.n = 0 WHERE e.id > {after}",
    )


def insert_succeeded(webhook: Webhook, count: int, age: str = "0 days") -> None:
    """Insert deliveries with their attempts. They ended in the twenty days before this age."""
    old = f"now() - interval '{age}'"
    after = insert_events(count, [webhook.pk], are_dispatched=True, **SMALL, timestamp=old)
    ended = f"{old} - random() * interval '20 days'"
    insert_deliveries(webhook.pk, after, id=f"uuidv7(interval '-{age}')", created=old, noted_end=ended)
    source = f"rq_webhooks_delivery AS d JOIN bench.rq_webhooks_attempt AS t ON t.n = 0 WHERE d.event_id > {after}"
    _insert(Attempt, {"delivery_id": "d.id"}, f"{source} AND d.noted_end IS NOT NULL")


@contextmanager
def without_indexes() -> Iterator[None]:
    """Drop the indexes of events, deliveries and attempts meanwhile, except unique ones. To make them for millions of
    rows takes less time afterwards."""
    tables = [model._meta.db_table for model in TEMPLATE_MODELS]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index "
            "WHERE indrelid = ANY (%s::regclass[]) AND NOT indisunique",
            [tables],
        )
        found = cursor.fetchall()
    for name, _ in found:
        execute(f"DROP INDEX {name}")
    yield
    for _, definition in found:
        execute(definition.replace(" ON ONLY ", " ON "))  # of a partitioned table: also of its partitions


def insert_waiting(webhook: Webhook, count: int, objects: int) -> None:
    """Insert deliveries in as many lanes as ``objects``. They wait behind failing heads that retry tomorrow."""
    objects_sql = {"object_id": f"'waiting-' || g.n %% {objects}"}
    after = insert_events(count, [webhook.pk], are_dispatched=True, **SMALL | objects_sql)
    is_head = FIRST_OF_OBJECT.format(after=after)
    insert_deliveries(webhook.pk, after)
    _queue(
        after,
        state=f"CASE WHEN {is_head} THEN 'pending' ELSE 'waiting' END",
        waited=f"NOT ({is_head})",
        due_at=f"CASE WHEN {is_head} THEN now() + interval '1 day' END",
        failures=f"CASE WHEN {is_head} THEN 1 ELSE 0 END",
        failing_since=f"CASE WHEN {is_head} THEN now() END",
    )


def insert_due(webhook: Webhook, count: int) -> None:
    """Insert due deliveries, each of a different object."""
    after = insert_events(count, [webhook.pk], are_dispatched=True, **SMALL)
    insert_deliveries(webhook.pk, after)
    _queue(after, state="'pending'", due_at="now()")


def insert_failed(webhook: Webhook, count: int, error_kind: str) -> None:
    """Insert failed deliveries of the last hour, each of a different object."""
    after = insert_events(count, [webhook.pk], are_dispatched=True, **SMALL)
    failed = {"outcome": "'failed'", "noted_end": "now() - random() * interval '1 hour'"}
    insert_deliveries(webhook.pk, after, **failed, error_kind=f"'{error_kind}'", reason=f"'{error_kind}'")
    _queue(after, state="'failed'", failed_at="d.noted_end", error_kind="d.error_kind", failures="9")


def _queue(after: int, **columns: str) -> None:
    """Queue the deliveries of the Events with an id above ``after``, ``e`` in the columns."""
    names, values = ", ".join(columns), ", ".join(columns.values())
    execute(
        f"INSERT INTO rq_webhooks_queue (delivery_id, event_id, webhook_id, lane, {names}) "
        f"SELECT d.id, d.event_id, d.webhook_id, d.lane, {values} "
        f"FROM rq_webhooks_delivery AS d JOIN rq_webhooks_event AS e ON e.id = d.event_id WHERE e.id > {after}"
    )


def delete_events(after: int) -> None:
    """Delete the Events with an id above ``after``, with their Deliveries and Attempts."""
    deliveries = f"SELECT id FROM rq_webhooks_delivery WHERE event_id > {after}"
    execute(f"DELETE FROM rq_webhooks_attempt WHERE delivery_id IN ({deliveries})")
    for table in ("queue", "undispatched", "delivery"):
        execute(f"DELETE FROM rq_webhooks_{table} WHERE event_id > {after}")
    execute(f"DELETE FROM rq_webhooks_event WHERE id > {after}")


def highest_event_id() -> int:
    """The highest id of an Event, or 0."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT coalesce(max(id), 0) FROM rq_webhooks_event")
        return int(cursor.fetchone()[0])


def _insert(model: type[models.Model], overrides: Mapping[str, str], source: str, params: Sequence[Any] = ()) -> None:
    columns = {str(field.column): f"t.{field.column}" for field in model._meta.concrete_fields}
    if (key := str(model._meta.pk.column)) not in overrides:
        columns.pop(key, None)  # the database assigns it, unless the key is of several columns
    columns |= overrides
    names, values = ", ".join(columns), ", ".join(columns.values())
    execute(f"INSERT INTO {model._meta.db_table} ({names}) SELECT {values} FROM {source}", params)


def vacuum() -> None:
    """Update the planner's statistics, and finish the database's background work before a measurement."""
    execute("VACUUM (ANALYZE)")
    execute("CHECKPOINT")


def execute(statement: str, params: Sequence[Any] = ()) -> None:
    with connection.cursor() as cursor:
        # A doubled %% becomes one % only in statements with parameters.
        cursor.execute(statement, params or None)
