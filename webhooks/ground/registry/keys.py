"""Primary keys of the host's models: their one spelling, as text and back, and in statements."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any

from django.conf import settings
from django.db import connections, models
from django.db.models.functions import Cast, Concat, Substr
from django.utils import timezone

from webhooks.ground.db import to_db_time, to_utc
from webhooks.ground.db.host_rows import AmongKeys


def normalize_pk(field: models.Field[Any, Any], value: Any) -> Any:
    """Return a primary key as the database has it. Times become UTC, or naive if ``USE_TZ`` is off.

    An instance has the key that the host assigned: a UUID in capitals, a decimal without its zeros, a time of another
    zone. A composite key is a tuple of such parts. Also reads what ``key_text`` wrote. Raises ValidationError,
    TypeError, ValueError or ArithmeticError for an impossible key.
    """
    if isinstance(field, models.CompositePrimaryKey):
        parts = json.loads(value) if isinstance(value, str) else value
        if not isinstance(parts, list | tuple) or None in parts:
            raise ValueError("A composite key is a list with a value for each of its fields.")
        return tuple(normalize_pk(part, given) for part, given in zip(field.fields, parts, strict=True))  # type: ignore[arg-type]
    field = source_field(field)
    key = field.to_python(value)
    if isinstance(key, Enum):  # of texts, for example: ``str()`` of a member is its name
        key = field.to_python(key.value)
    if isinstance(key, Decimal):
        places = getattr(field, "decimal_places", None)
        return key if places is None else key.quantize(Decimal(1).scaleb(-places), context=field.context)  # type: ignore[attr-defined]
    if isinstance(key, datetime) and (settings.USE_TZ or timezone.is_aware(key)):
        return to_db_time(to_utc(key))
    return key


def key_text(pk: Any) -> str:
    """A normalized primary key as text, as Events have it in ``object_id``. ``normalize_pk`` reads it back.

    A composite key is a JSON list of its parts as texts, such as '["7", "de"]'. Django writes it in the same way.
    """
    return json.dumps(list(map(str, pk)), ensure_ascii=False) if isinstance(pk, tuple) else str(pk)


def has_key(pk: Any) -> bool:
    """Whether an instance with this primary key may have a row. A composite key needs all of its parts."""
    return None not in pk if isinstance(pk, tuple) else pk is not None


def is_inserted(instance: models.Model, pk: models.Field[Any, Any]) -> bool:
    """Whether Django inserts this instance without looking for its row: it is new, and its key ``pk`` has a default."""
    return instance._state.adding and (pk.has_default() or pk.has_db_default())


def is_same_pk(field: models.Field[Any, Any], other: models.Field[Any, Any]) -> bool:
    """Whether two models share their primary keys: a child mostly has its parent's, but may have another."""
    return source_field(field) is source_field(other)


def source_field(field: models.Field[Any, Any]) -> models.Field[Any, Any]:
    """The field that has the values of a primary key that is a foreign key, as the link to a parent is."""
    while field.remote_field:
        field = field.target_field  # type: ignore[attr-defined]
    return field


# In statements


def with_pks(model: type[models.Model], pks: Collection[Any]) -> Any:
    """A condition of the ORM for the rows with these keys. On SQLite, Django compares composite keys one by one, and
    fails for a thousand of them."""
    return AmongKeys(pks) if isinstance(model._meta.pk, models.CompositePrimaryKey) else models.Q(pk__in=pks)


def key_text_sql(model: type[models.Model], using: str) -> Any:
    """``key_text`` of the primary key of a row, as an expression of the ORM."""
    key = model._meta.pk
    if not isinstance(key, models.CompositePrimaryKey):
        return _text_sql("pk", key, using)
    parts = [_JSONText(_text_sql(field.name, field, using)) for field in key.fields]  # type: ignore[arg-type]
    separated = [piece for part in parts[1:] for piece in (models.Value(", "), part)]
    return Concat(models.Value("["), parts[0], *separated, models.Value("]"), output_field=models.TextField())


def _text_sql(name: str, field: models.Field[Any, Any], using: str) -> Any:
    text: Any = Cast(name, models.TextField())
    if isinstance(source_field(field), models.UUIDField) and not connections[using].features.has_native_uuid_field:
        parts = [Substr(text, start, length) for start, length in ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))]
        text = Concat(parts[0], *(piece for part in parts[1:] for piece in (models.Value("-"), part)))
    return text


class _JSONText(models.Func):
    """A text as JSON."""

    template = "json_quote(%(expressions)s)"
    output_field = models.TextField()

    def as_postgresql(self, compiler: Any, connection: Any) -> Any:
        return self.as_sql(compiler, connection, template="to_json(%(expressions)s)::text")
