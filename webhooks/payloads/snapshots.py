"""The state of an object before and after a change: its columns and relations, where its payload shows them.

The old row is read before the change, and a relation to many before it is edited. A relation that was not edited has
not changed, so the snapshot of the state before takes it from the one of the state after.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from django.db import models

from webhooks.db import in_chunks
from webhooks.registry.registration import Registration
from webhooks.registry.serializer_context import serializer_context
from webhooks.text import json_equal

Snapshot = dict[str, Any]
Fields = dict[str, "models.Field[Any, Any]"]

# What JSON text is made of without asking the field.
_PLAIN = (
    *(type(None), str, int, float, list, dict, tuple, decimal.Decimal, uuid.UUID),
    *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta),
)

_MISSING = object()


@dataclass
class PreviousState:
    """An object before the first change of a transaction.

    ``row`` is None if there was none or it is not known. ``known`` names the relations that the row has prefetched,
    ``edited`` those that were edited since. ``deleted`` is the whole snapshot of an object that was deleted meanwhile.
    """

    row: models.Model | None = None
    known: set[str] = field(default_factory=set)
    edited: set[str] = field(default_factory=set)
    deleted: Snapshot | None = None

    def lacks(self, relation: str) -> bool:
        """Whether it is still to be read what a relation held."""
        return self.row is not None and relation not in self.known | self.edited


def read(registration: Registration, pks: Collection[Any], using: str, lock: bool) -> dict[str, models.Model]:
    """The rows of these keys, in one query, by their keys as text. ``lock`` takes the lock that an UPDATE of them
    takes, and rows before those that inherit them, as that does."""
    model = registration.model
    # Not by a manager of the project's: what that adds to its rows, PostgreSQL may be unable to lock.
    found: models.QuerySet[models.Model] = models.QuerySet(model, using=using).filter(pk__in=pks).order_by()
    if lock:
        found = found.order_by("pk").select_for_update(no_key=True, of=(*_parents(model), "self"))
    return registration.by_pk(found)


def _parents(model: type[models.Model], path: str = "") -> list[str]:
    """The ways to the rows that a model inherits, the farthest first."""
    found: list[str] = []
    for parent, link in model._meta.concrete_model._meta.parents.items():  # type: ignore[union-attr]
        if link is not None and link.model is model:
            way = f"{path}{link.name}"
            found += [*_parents(parent, f"{way}__"), way]
    return found


def shown(registration: Registration, serializer: str = "") -> Fields:
    """What snapshots of a model have: columns and relations to many that its payload shows, by the names that it has
    for them. Raises what the serializer raises."""
    columns, many = _of_model(registration.model)
    fields = _declared(registration, serializer)
    found = _named(columns, fields, fields) | _named(many, fields, fields) if fields else columns | many
    return {name: one for name, one in found.items() if not registration.is_left_out(name)}


def prefetch_shown(registration: Registration, serializer: str, objects: list[models.Model], using: str) -> None:
    """Read the relations to many that a serializer has fields for, of many objects in one query for each relation.
    Raises what the serializer raises."""
    writer = registration.serializer_class(serializer)(objects[0], context=serializer_context())
    sources = {one.source for one in _fields(writer).values()}
    shown = sorted(sources.intersection(_of_model(registration.model)[1]))
    for some in in_chunks(using, objects):
        models.prefetch_related_objects(some, *shown)


def _declared(registration: Registration, serializer: str) -> Mapping[str, Any]:
    """The fields of a serializer that has no object."""
    return _fields(registration.serializer_class(serializer)(context=serializer_context()))


def holds_names(field: models.Field[Any, Any]) -> bool:
    """Whether there are names to go on with in what a snapshot has of a field."""
    return field.get_internal_type() in ("JSONField", "HStoreField")


@cache
def _of_model(model: type[models.Model]) -> tuple[Fields, Fields]:
    """The columns and the relations to many that snapshots may have, by their names."""
    columns = {one.name: one for one in model._meta.concrete_fields if not getattr(one, "auto_now", False)}
    return columns, {one.name: one for one in model._meta.many_to_many}


def _fields(serializer: Any) -> Mapping[str, Any]:
    """What REST framework knows of each field; nothing of a serializer that writes as it likes."""
    fields = getattr(serializer, "fields", None)
    return fields if isinstance(fields, Mapping) else {}


def _named(of_model: Fields, serialized: Mapping[str, Any], data: Collection[str]) -> Fields:
    """Those of a model's fields that are in the data, by their names there: custom_fields shows custom_field_data."""
    found = {name: one for name, one in of_model.items() if name in data}
    sources = {name: one.source for name, one in serialized.items() if name in data and name not in of_model}
    return found | {name: of_model[source] for name, source in sources.items() if source in of_model}


def changed(prechange: Mapping[str, Any] | None, postchange: Mapping[str, Any] | None) -> list[str]:
    """The names of the fields that differ between two snapshots, sorted.

    A field that only one of them has differs; no snapshot (a creation, a deletion) has no fields.
    """
    before, after = prechange or {}, postchange or {}
    names = before.keys() | after.keys()
    return sorted(name for name in names if not json_equal(before.get(name, _MISSING), after.get(name, _MISSING)))


def differences(payload: Mapping[str, Any]) -> dict[str, Snapshot | None]:
    """What Nautobot has beside the two snapshots of a payload: the fields that an update changed, as they were
    ("removed") and as they are ("added"); all of what was created or deleted; None where there is nothing to tell, or
    it is not known."""
    event, names = payload["event"], payload["changed"]
    before, after = (payload["snapshots"][side] for side in ("prechange", "postchange"))
    if names is not None:
        return {"removed": _of(before, names), "added": _of(after, names)}
    return {"removed": before if event == "deleted" else None, "added": after if event == "created" else None}


def _of(snapshot: Snapshot, names: Collection[str]) -> Snapshot:
    return {name: snapshot.get(name) for name in names}


def taken(serializer: Any, data: Any, row: models.Model) -> Snapshot:
    """What ``data``, the serializer's output, shows of the row: columns as they are stored, under the names that the
    payload has for them, and relations to many as lists."""
    relations = _relations(serializer, data, row)
    held = {
        name: _many(relation, data[name]) if _says(serializer, name) else _keys(relation, row)
        for name, relation in sorted(relations.items())
    }
    return _columns(serializer, data, row) | held


def earlier(serializer: Any, data: Any, after: Snapshot, state: PreviousState) -> Snapshot | None:
    """The snapshot of the state before, from the one after; None where it is not known."""
    if state.deleted is not None:
        # It has what any serializer showed.
        return {name: value for name, value in state.deleted.items() if name in after}
    if state.row is None:
        return None
    relations = _relations(serializer, data, state.row)
    edited = {name: relation for name, relation in relations.items() if relation in state.edited}
    if not state.known.issuperset(edited.values()):
        return None
    held = {name: _held(serializer, name, relation, state.row) for name, relation in edited.items()}
    return after | _columns(serializer, data, state.row) | held


def _columns(serializer: Any, data: Any, row: models.Model) -> Snapshot:
    if not isinstance(data, Mapping):
        return {}
    columns = _named(_of_model(type(row))[0], _fields(serializer), data)
    return {name: _stored(column, row) for name, column in columns.items()}


def _relations(serializer: Any, data: Any, row: models.Model) -> dict[str, str]:
    """The relations to many that the data show, by their names there."""
    if not isinstance(data, Mapping):
        return {}
    relations = _named(_of_model(type(row))[1], _fields(serializer), data)
    return {name: one.name for name, one in relations.items()}


def _says(serializer: Any, name: str) -> bool:
    """Whether a field of the serializer tells of the relation itself. What a method makes of it, or code that adds it
    to the data, may ask the database, where only the state after is."""
    one = _fields(serializer).get(name)
    return one is not None and one.source != "*"


def _stored(column: models.Field[Any, Any], row: models.Model) -> Any:
    value = column.value_from_object(row)
    # As Django's own serializers do it: files, networks and the like say themselves how they are written.
    return value if isinstance(value, _PLAIN) else column.value_to_string(row)


def _held(serializer: Any, name: str, relation: str, row: models.Model) -> Any:
    """What a relation held, in the shape that the snapshot after has it in; the row has it prefetched."""
    if not _says(serializer, name):
        return _keys(relation, row)
    one = serializer.fields[name]
    return _many(relation, one.to_representation(one.get_attribute(row)))


def _keys(relation: str, row: models.Model) -> Any:
    members = getattr(row, relation).all()
    return _many(relation, [getattr(one, "name", one.pk) if relation == "tags" else one.pk for one in members])


def _many(relation: str, value: Any) -> Any:
    """A relation to many as NetBox's snapshots have it: tags by name, others by key, sorted."""
    if not isinstance(value, list | tuple):
        return value
    key = "name" if relation == "tags" else "id"
    members = [one.get(key, one) if isinstance(one, Mapping) else one for one in value]
    try:
        return sorted(members)
    except TypeError:
        return members
