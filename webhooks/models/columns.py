"""Options of columns, the manager of all models, and rows as JSON for one INSERT of many."""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, TypeVar

from django.apps import apps
from django.db import connections, models, router

M = TypeVar("M", bound=models.Model)
F = TypeVar("F", bound=Callable[..., Any])

USERNAME_LENGTH = 150  # as in Django's own user model
REQUEST_ID_LENGTH = 200
TRACE_LENGTH = 100

# Limits for one INSERT of many rows. PostgreSQL closes the connection if a statement reaches a gigabyte.
MAX_ROWS = 1000
MAX_BYTES = 16 * 2**20


def default(value: Any) -> Any:
    """Options of a column with a default. With ``db_default``, code of an older release can still insert rows."""
    return {"default": value, "db_default": value}


# Options of an optional text column, and of one with a JSON list.
EMPTY: Any = {"blank": True, **default("")}
EMPTY_LIST: Any = {"blank": True, "default": list, "db_default": []}


def alters_data(method: F) -> F:
    """Mark a method that writes. Templates of a host do not call it: Django's, and those in Jinja's sandbox."""
    method.alters_data = True  # type: ignore[attr-defined]
    return method


def webhook_model() -> Any:
    """The model ``Webhook``, by its label: what orders and records deliveries loads no code that validates or sends a
    webhook."""
    return apps.get_model("rq_webhooks", "Webhook")


def secret_fields(model: type[models.Model]) -> list[str]:
    """The columns with secrets. A list of rows does not load these."""
    return [field.name for field in model._meta.concrete_fields if getattr(field, "is_secret", False)]


class WriteDBManager(models.Manager[M]):
    """Reads from the database that the app writes to. A replica may lag behind, and cannot lock rows."""

    @property
    def db(self) -> str:
        # Django's _db: the alias of db_manager(), which ``using()`` of a queryset has no name for.
        return self._db or router.db_for_write(self.model)

    def get_queryset(self) -> models.QuerySet[M]:
        return super().get_queryset().using(self.db)


class HexField(models.CharField):
    """Text of hexadecimal digits. On PostgreSQL it takes half of the space, as bytes."""

    def db_type(self, connection: Any) -> str | None:
        return "bytea" if connection.vendor == "postgresql" else super().db_type(connection)

    def from_db_value(self, value: Any, _expression: Any, _connection: Any) -> Any:
        return value if value is None or isinstance(value, str) else bytes(value).hex()

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        value = super().get_db_prep_value(value, connection, prepared)
        return bytes.fromhex(value) if isinstance(value, str) and connection.vendor == "postgresql" else value


# The beginning of a packed text. No JSON text begins with it.
_PACKED = b"\1"

# What the JSON of serializers repeats, the most frequent last. With it, the data of real changes in NetBox shrink to
# 27 %, without it to 43 %. It is a part of the stored rows: another one needs another beginning.
_DICTIONARY = (
    b'"vlan":,"vrf":,"interface_count":,"ipaddress_count":,"device_count":,"prefix_count":,"cable":null,"parent":null,'
    b'"group":null,"region":null,"location":null,"facility":"","latitude":null,"longitude":null,"time_zone":null,'
    b'"manufacturer":,"model":"","cluster":null,"virtual_chassis":null,"vc_position":null,"config_template":null,'
    b'"local_context_data":null,"position":null,"face":{"value":"front","label":"Front"},"airflow":null,"rack":null,'
    b'"platform":null,"device_type":,"site":,"family":{"value":4,"label":"IPv4"},"address":"","dns_name":"",'
    b'"assigned_object_type":"dcim.interface","assigned_object_id":,"nat_inside":null,"primary_ip":{"id":,'
    b'"primary_ip4":null,"primary_ip6":null,"oob_ip":null,"type":null,"color":"","enabled":true,"owner":null,'
    b'"tenant":null,"serial":"","asset_tag":null,"role":{"value":"","label":"","status":{"value":"active",'
    b'"label":"Active"},"url":"/api/tenancy/tenants/","url":"/api/ipam/ip-addresses/","url":"/api/dcim/devices/",'
    b'"url":"/api/dcim/sites/","url":"/api/extras/tags/","display_url":"/dcim/devices/","display":"","name":"","slug":"",'
    b'"comments":"","tags":[],"custom_fields":{},"created":"2026-","last_updated":"2026-","tags":[{"id":,'
    b'"description":""},"description":"","name":"{"prechange":null,"postchange":{"id":,"created":"2026-{"id":,'
    b'"url":"/api/'
)
_SHORT = 60  # bytes that are not worth it


class PackedTextField(models.TextField):
    """JSON text. On PostgreSQL it is stored compressed, as bytes: half of the space that PostgreSQL's own compression
    needs, which leaves rows up to 2 kB as they are. A short text is stored as it is."""

    def db_type(self, connection: Any) -> str | None:
        return "bytea" if connection.vendor == "postgresql" else super().db_type(connection)

    def from_db_value(self, value: Any, _expression: Any, _connection: Any) -> Any:
        if value is None or isinstance(value, str):
            return value
        if not value:
            return ""  # most columns of most rows
        stored = bytes(value)
        if stored[0] == _PACKED[0]:
            stored = zlib.decompressobj(-12, _DICTIONARY).decompress(stored[1:])
        return stored.decode()

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        value = super().get_db_prep_value(value, connection, prepared)
        if not isinstance(value, str) or connection.vendor != "postgresql":
            return value
        plain = value.encode()
        if len(plain) < _SHORT and not plain.startswith(_PACKED):
            return plain
        # A small window: to prepare a large one takes longer than to compress a few kB.
        work = zlib.compressobj(6, zlib.DEFLATED, -12, 5, zlib.Z_DEFAULT_STRATEGY, _DICTIONARY)
        return _PACKED + work.compress(plain) + work.flush()


def hex_as_json(using: str, value: str) -> str:
    """A value of a ``HexField`` in the JSON of ``insert_rows_sql``."""
    return rf"\x{value}" if connections[using].vendor == "postgresql" else value


def json_parts(rows: Iterable[models.Model], using: str) -> Iterator[str]:
    """Rows as JSON lists for ``insert_rows_sql``, each within ``MAX_ROWS`` and ``MAX_BYTES``."""
    part: list[str] = []
    size = 0
    for row in rows:
        text = _row_as_json(row, using)
        if part and (len(part) == MAX_ROWS or size + len(text) > MAX_BYTES):
            yield f"[{','.join(part)}]"
            part, size = [], 0
        part.append(text)
        size += len(text)
    if part:
        yield f"[{','.join(part)}]"


def _row_as_json(row: models.Model, using: str) -> str:
    values = {str(column.column): getattr(row, column.attname) for column in row._meta.local_concrete_fields}
    adapt = connections[using].ops.adapt_datetimefield_value
    for name, value in values.items():
        if isinstance(value, datetime):
            values[name] = str(adapt(value))
        elif isinstance(value, uuid.UUID):
            values[name] = value.hex
    if connections[using].vendor == "postgresql":
        for column in row._meta.local_concrete_fields:
            if isinstance(column, PackedTextField):
                stored = column.get_db_prep_value(values[str(column.column)], connections[using])
                values[str(column.column)] = hex_as_json(using, stored.hex())
    return json.dumps(values)
