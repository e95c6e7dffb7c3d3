"""Rows of the project's models: chosen by any number of keys, locked, and known after an UPDATE."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from django.db import connections
from django.db.models import CompositePrimaryKey, F, Lookup, Model, QuerySet

from webhooks.ground.db import compiler_of, fetch_all, is_postgresql

# The most keys in one statement. SQLite takes 32,766 parameters by default, PostgreSQL 65,535 if the server binds them.
MAX_KEYS = 10_000


def in_chunks(using: str, keys: Collection[Any]) -> Iterator[list[Any]]:
    """Split keys into lists that fit into one statement. Without a limit it is one list: then locks have one order."""
    known = list(keys)
    has_limit = not is_postgresql(using) or getattr(connections[using].features, "uses_server_side_binding", False)
    size = MAX_KEYS if has_limit else len(known)
    for start in range(0, len(known), size or 1):
        yield known[start : start + size]


def can_lock(using: str, model: type[Model]) -> bool:
    """Whether rows of a model can be locked. PostgreSQL refuses that for a database view with DISTINCT or groups, and
    an unmanaged model may have such a view. An unmanaged table can be locked. Takes one query for each such table and
    process."""
    concrete: Any = model._meta.concrete_model
    unmanaged = [ancestor for ancestor in (concrete, *concrete._meta.all_parents) if not ancestor._meta.managed]
    return not any(_is_view(using, ancestor._meta.db_table) for ancestor in unmanaged)


@cache
def _is_view(using: str, table: str) -> bool:
    if not is_postgresql(using):
        return False
    name = connections[using].ops.quote_name(table)
    kinds = fetch_all(using, "SELECT relkind FROM pg_class WHERE oid = to_regclass(%s)", [name])
    return kinds in ([("v",)], [("m",)])  # a view, a materialized view


class AmongKeys(Lookup):
    """Whether the primary key of a row is among these, as a condition of the ORM. It has one parameter for each column
    of the key, so there may be any number of keys."""

    prepare_rhs = False

    def __init__(self, pks: Any, lhs: Any = None) -> None:
        super().__init__(F("pk") if lhs is None else lhs, pks)

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        columns, parameters = compiler.compile(self.lhs)
        key = self.lhs.output_field
        fields, rows = [key], [(pk,) for pk in self.rhs]
        if isinstance(key, CompositePrimaryKey):
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
        given_rows = [value for row_values in zip(*values, strict=True) for value in row_values]
        return f"{columns} IN (VALUES {', '.join([row] * len(rows))})", (*parameters, *given_rows)


def _is_exact_in_json(value: Any) -> bool:
    """Whether SQLite reads the same value from JSON. Of the others, it may round numbers, and JSON has no bytes."""
    return "\0" not in value if isinstance(value, str) else isinstance(value, int)


@contextmanager
def written_keys(chosen: Collection[type[Model]], using: str) -> Iterator[defaultdict[type[Model], list[Any]]]:
    """The primary keys that the UPDATE statements of this block write into the tables of these models."""
    written: defaultdict[type[Model], list[Any]] = defaultdict(list)
    connection = connections[using]
    quote = connection.ops.quote_name
    starts = {f"UPDATE {quote(model._meta.db_table)} SET ": model for model in chosen}

    def add_returning(execute: Any, statement: str, parameters: Any, many: bool, context: Any) -> Any:
        model = next((model for start, model in starts.items() if statement.startswith(start)), None)
        if model is None:
            return execute(statement, parameters, many, context)
        columns = ", ".join(quote(str(field.column)) for field in model._meta.pk_fields)
        result = execute(f"{statement} RETURNING {columns}", parameters, many, context)
        rows: Any = QuerySet(model, using=using).values_list(*(field.attname for field in model._meta.pk_fields))
        compiler = compiler_of(rows)
        compiler.as_sql()  # it chooses the converters
        # Django's results_iter converts values of a statement that the compiler has not run.
        keys = compiler.results_iter([context["cursor"].fetchall()], tuple_expected=True)
        written[model] += keys if model._meta.is_composite_pk else (pk for (pk,) in keys)
        return result

    if not chosen:
        yield written
        return
    with connection.execute_wrapper(add_returning):
        yield written
