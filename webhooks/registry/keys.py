"""Primary keys of the host's models: their one spelling, as text and back, and in statements."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any

from django.conf import settings
from django.db import connections, models
from django.db.models.functions import Cast, Concat, Substr
from django.utils import timezone

from webhooks.db import is_postgresql, to_db_time, to_utc


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


class AmongKeys(models.Lookup):
    """Whether the primary key of a row is among these, as a condition of the ORM. It has one parameter for each column
    of the key, so there may be any number of keys."""

    prepare_rhs = False

    def __init__(self, pks: Any, lhs: Any = None) -> None:
        super().__init__(models.F("pk") if lhs is None else lhs, pks)

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        columns, parameters = compiler.compile(self.lhs)
        key = self.lhs.output_field
        fields, rows = [key], [(pk,) for pk in self.rhs]
        if isinstance(key, models.CompositePrimaryKey):
            columns, fields, rows = f"({columns})", list(key.fields), self.rhs
        values = [[field.get_db_prep_value(row[n], connection) for row in rows] for n, field in enumerate(fields)]
        if is_postgresql(connection.alias):
            arrays = ", ".join(f"%s::{field.rel_db_type(connection)}[]" for field in fields)
            condition = f"IN (SELECT * FROM unnest({arrays}))" if len(fields) > 1 else f"= ANY ({arrays})"
            return f"{columns} {condition}", (*parameters, *values)
        if all(_is_exact_in_json(value) for column in values for value in column):
            read = ", ".join(f"json_extract(value, '$[{n}]')" for n in range(len(fields)))
            given = json.dumps(list(zip(*values, strict=True)))
            return f"{columns} IN (SELECT {read} FROM json_each(%s))", (*parameters, given)
        row = f"({', '.join(['%s'] * len(fields))})"
        given_rows = [value for one in zip(*values, strict=True) for value in one]
        return f"{columns} IN (VALUES {', '.join([row] * len(rows))})", (*parameters, *given_rows)


def _is_exact_in_json(value: Any) -> bool:
    """Whether SQLite reads the same value from JSON. Of the others, it may round numbers, and JSON has no bytes."""
    return "\0" not in value if isinstance(value, str) else isinstance(value, int)


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


@contextmanager
def written_keys(
    chosen: Collection[type[models.Model]], using: str
) -> Iterator[defaultdict[type[models.Model], list[Any]]]:
    """The primary keys that the UPDATE statements of this block write into the tables of these models."""
    found: defaultdict[type[models.Model], list[Any]] = defaultdict(list)
    connection = connections[using]
    quote = connection.ops.quote_name
    starts = {f"UPDATE {quote(model._meta.db_table)} SET ": model for model in chosen}

    def add_returning(execute: Any, statement: str, parameters: Any, many: bool, context: Any) -> Any:
        model = next((model for start, model in starts.items() if statement.startswith(start)), None)
        if model is None:
            return execute(statement, parameters, many, context)
        columns = ", ".join(quote(str(field.column)) for field in model._meta.pk_fields)
        result = execute(f"{statement} RETURNING {columns}", parameters, many, context)
        rows: Any = models.QuerySet(model, using=using).values_list(*(field.attname for field in model._meta.pk_fields))
        compiler = rows.query.get_compiler(using)
        compiler.as_sql()  # it chooses the converters
        keys = compiler.results_iter([context["cursor"].fetchall()], tuple_expected=True)
        found[model] += keys if model._meta.is_composite_pk else (pk for (pk,) in keys)
        return result

    if not chosen:
        yield found
        return
    with connection.execute_wrapper(add_returning):
        yield found
