"""Options of columns, the manager of all models, and rows as JSON for one INSERT of many."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, TypeVar

from django.db import connections, models, router

M = TypeVar("M", bound=models.Model)

USERNAME_LENGTH = 150  # as in Django's own user model
REQUEST_ID_LENGTH = 200

# Limits for one INSERT of many rows. PostgreSQL closes the connection if a statement reaches a gigabyte.
MAX_ROWS = 1000
MAX_BYTES = 16 * 2**20


def default(value: Any) -> Any:
    """Options of a column with a default. With ``db_default``, code of an older release can still insert rows."""
    return {"default": value, "db_default": value}


# Options of an optional text column, and of one with a JSON list.
EMPTY: Any = {"blank": True, **default("")}
EMPTY_LIST: Any = {"blank": True, "default": list, "db_default": []}


class WriteDBManager(models.Manager[M]):
    """Reads from the database that the app writes to. A replica may lag behind, and cannot lock rows."""

    @property
    def db(self) -> str:
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
    return json.dumps(values)
