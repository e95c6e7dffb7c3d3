"""The state of an object before and after a change: its columns and relations, where its payload shows them.

The old row is read before the change, and what a relation to many held before it is changed. Whatever was not read
has not changed, so the snapshot of the state before takes it from the one of the state after.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.db import models

from webhooks.registry import Registration

Snapshot = dict[str, Any]

# What JSON text is made of without asking the field.
_PLAIN = (
    *(type(None), str, int, float, list, dict, tuple, decimal.Decimal, uuid.UUID),
    *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta),
)


@dataclass
class Before:
    """An object before the first change of a transaction: its row, None where there was none; the relations that were
    read, which the row has prefetched; and the whole snapshot, where the object was deleted meanwhile.

    It is an on_commit callback that does nothing: a savepoint that is rolled back gives the lock of the row back, and
    Django then drops what was read under it.
    """

    row: models.Model | None = None
    relations: set[str] = field(default_factory=set)
    deleted: Snapshot | None = None

    def __call__(self) -> None:
        pass


def read(registration: Registration, pks: Collection[Any], using: str, lock: bool) -> dict[str, models.Model]:
    """The rows of these keys, in one query, by their keys as text. ``lock`` takes the lock that their UPDATE takes
    next, and its own rows before those that inherit them, as that does."""
    model = registration.model
    rows = model._base_manager.using(using).filter(pk__in=pks).order_by()
    if lock:
        rows = rows.order_by("pk").select_for_update(no_key=True, of=(*_parents(model), "self"))
    return {str(row.pk): row for row in rows}


def _parents(model: type[models.Model], path: str = "") -> list[str]:
    """The ways to the rows that a model inherits, the farthest first."""
    found: list[str] = []
    for parent, link in model._meta.concrete_model._meta.parents.items():  # type: ignore[union-attr]
        if link is not None and link.model is model:
            way = f"{path}{link.name}"
            found += [*_parents(parent, f"{way}__"), way]
    return found


def names(registration: Registration, serializer: str = "") -> set[str]:
    """The names that snapshots of a model have: of columns and relations to many that its payload shows."""
    model = registration.model
    columns = {one.name for one in model._meta.concrete_fields if not getattr(one, "auto_now", False)}
    many = {one.name for one in model._meta.many_to_many}
    fields = getattr(registration.serializer_class(serializer)(), "fields", None)
    if fields is None:
        shown = columns | many
    else:
        shown = {name for name, one in fields.items() if name in columns | many or one.source in columns}
    return {name for name in shown if not registration.is_left_out(name)}


def differences(payload: Mapping[str, Any]) -> dict[str, Snapshot | None]:
    """What Nautobot has beside the two snapshots of a payload: the fields that an update changed, as they were
    ("removed") and as they are ("added"); all of what was created or deleted; None where there is nothing to tell, or
    it is not known."""
    event, changed = payload["event"], payload["changed"]
    before, after = (payload["snapshots"][side] for side in ("prechange", "postchange"))
    if changed is not None:
        return {"removed": _of(before, changed), "added": _of(after, changed)}
    return {"removed": before if event == "deleted" else None, "added": after if event == "created" else None}


def _of(snapshot: Snapshot, names: Collection[str]) -> Snapshot:
    return {name: snapshot.get(name) for name in names}


def taken(serializer: Any, data: Any, row: models.Model) -> Snapshot:
    """What ``data``, the serializer's output, shows of the row: columns as they are stored, under the names that the
    payload has for them, and relations to many as lists."""
    shown = _columns(serializer, data, row)
    many = {one.name for one in row._meta.many_to_many} & data.keys() if isinstance(data, Mapping) else set()
    return shown | {name: _many(name, data[name]) for name in sorted(many)}


def earlier(serializer: Any, data: Any, after: Snapshot, before: Before) -> Snapshot | None:
    """The snapshot of the state before, from the one after; None where it is not known."""
    if before.deleted is not None:
        # It has what any serializer showed.
        return {name: value for name, value in before.deleted.items() if name in after}
    if before.row is None:
        return None
    shown = after | _columns(serializer, data, before.row)
    return shown | {name: _held(serializer, name, before.row) for name in before.relations & after.keys()}


def _columns(serializer: Any, data: Any, row: models.Model) -> Snapshot:
    if not isinstance(data, Mapping):
        return {}
    columns = {one.name: one for one in row._meta.concrete_fields if not getattr(one, "auto_now", False)}
    # A column may have another name in the payload: custom_fields shows custom_field_data.
    sources = {name: one.source for name, one in getattr(serializer, "fields", {}).items() if name in data}
    shown = {name: name for name in columns if name in data}
    shown |= {name: source for name, source in sources.items() if source in columns and name not in columns}
    return {name: _stored(columns[source], row) for name, source in shown.items()}


def _stored(column: models.Field[Any, Any], row: models.Model) -> Any:
    value = column.value_from_object(row)
    # As Django's own serializers do it: files, networks and the like say themselves how they are written.
    return value if isinstance(value, _PLAIN) else column.value_to_string(row)


def _held(serializer: Any, name: str, row: models.Model) -> Any:
    """What a relation held, in the shape that the payload shows it in; the row has it prefetched."""
    shown = getattr(serializer, "fields", {}).get(name)
    if shown is None:
        return _many(name, [one.pk for one in getattr(row, name).all()])
    return _many(name, shown.to_representation(shown.get_attribute(row)))


def _many(name: str, value: Any) -> Any:
    """A relation to many as NetBox's snapshots have it: tags by name, others by key, sorted."""
    if not isinstance(value, list | tuple):
        return value
    key = "name" if name == "tags" else "id"
    members = [one.get(key, one) if isinstance(one, Mapping) else one for one in value]
    try:
        return sorted(members)
    except TypeError:
        return members
