"""Snapshots: the state of an object before and after a change, limited to the fields that its payload shows.

The old row is read before the change, and a many-to-many relation before it is edited. A relation that was not edited
has not changed. So both snapshots have the same members.
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
from webhooks.registry.keys import with_pks
from webhooks.registry.registration import Registration
from webhooks.text import json_equal

Snapshot = dict[str, Any]
Fields = dict[str, "models.Field[Any, Any]"]

# Values that become JSON without asking the field.
_PLAIN = (
    *(type(None), str, int, float, list, dict, tuple, decimal.Decimal, uuid.UUID),
    *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta),
)

_MISSING = object()


@dataclass
class PrechangeState:
    """An object before the first change of a transaction."""

    row: models.Model | None = None
    """None if there was no row, or it is unknown."""
    known: set[str] = field(default_factory=set)
    """The relations that the row has prefetched."""
    edited: set[str] = field(default_factory=set)
    """The relations that were edited since."""
    snapshot: Snapshot | None = None
    """The whole snapshot, if the row cannot be read any more: the object was deleted, or an Event is replayed."""

    def lacks(self, relation: str) -> bool:
        """Whether the old members of a relation must still be read."""
        return self.row is not None and relation not in self.known | self.edited


def read_rows(registration: Registration, pks: Collection[Any], using: str, lock: bool) -> dict[str, models.Model]:
    """Read the rows of these primary keys in one query. ``lock`` takes the locks of an UPDATE, parents first."""
    model = registration.model
    # Not through a manager of the project: PostgreSQL may be unable to lock the rows that it annotates.
    found: models.QuerySet[models.Model] = models.QuerySet(model, using=using).filter(with_pks(model, pks)).order_by()
    if lock:
        found = found.order_by("pk").select_for_update(no_key=True, of=(*_parent_links(model), "self"))
    return registration.by_pk(found)


def _parent_links(model: type[models.Model], path: str = "") -> list[str]:
    """The lookups of the parent rows of a model, the farthest first."""
    found: list[str] = []
    for parent, link in model._meta.concrete_model._meta.parents.items():  # type: ignore[union-attr]
        if link is not None and link.model is model:
            lookup = f"{path}{link.name}"
            found += [*_parent_links(parent, f"{lookup}__"), lookup]
    return found


def prefetch_serialized(registration: Registration, serializer: str, objects: list[models.Model], using: str) -> None:
    """Read the many-to-many relations that a serializer shows, for many objects in one query for each relation. Raises
    the errors of the serializer."""
    fields = _serializer_fields(registration.build_serializer(serializer, objects[0]))
    sources = {one.source for one in fields.values()}
    relations = sorted(sources.intersection(one.name for one in registration.model._meta.many_to_many))
    for chunk in in_chunks(using, objects):
        models.prefetch_related_objects(chunk, *relations)


# The fields of a snapshot


def snapshot_fields(registration: Registration, serializer: str = "") -> Fields:
    """The fields in snapshots of a model, by their names in the payload. Raises the errors of the serializer."""
    found = _model_fields(registration.model)
    fields = _serializer_fields(registration.build_serializer(serializer))
    if fields:
        found = _in_payload(found, fields, fields)
    return {name: one for name, one in found.items() if not registration.is_left_out(name)}


def has_json_keys(field: models.Field[Any, Any]) -> bool:
    """Whether ``field.key`` can address into this field (JSON, hstore)."""
    return field.get_internal_type() in ("JSONField", "HStoreField")


@cache
def _model_fields(model: type[models.Model]) -> Fields:
    """The columns and many-to-many relations of a model by name, without columns that change with every save."""
    found = [one for one in model._meta.concrete_fields if not getattr(one, "auto_now", False)]
    return {one.name: one for one in (*found, *model._meta.many_to_many)}


def _serializer_fields(serializer: Any) -> Mapping[str, Any]:
    """The fields that REST framework knows of a serializer; empty for one that writes its data freely."""
    fields = getattr(serializer, "fields", None)
    return fields if isinstance(fields, Mapping) else {}


def _in_payload(of_model: Fields, fields: Mapping[str, Any], data: Collection[str]) -> Fields:
    """The model's fields that are in the data, by their names there: ``custom_fields`` shows ``custom_field_data``."""
    found = {name: one for name, one in of_model.items() if name in data}
    sources = {name: one.source for name, one in fields.items() if name in data and name not in of_model}
    return found | {name: of_model[source] for name, source in sources.items() if source in of_model}


# Taking a snapshot


def snapshot_of(serializer: Any, data: Any, row: models.Model) -> Snapshot:
    """The snapshot of a row: columns as they are stored, and many-to-many relations as lists.

    It has the fields in ``data``, the serializer's output."""
    columns, relations = _shown_fields(serializer, data, row)
    snapshot = _stored_values(columns, row)
    for name, relation in sorted(relations.items()):
        shown = _shows_relation(serializer, name)
        snapshot[name] = _simplified(relation, data[name]) if shown else _members(relation, row)
    return snapshot


def prechange_snapshot(serializer: Any, data: Any, after: Snapshot, state: PrechangeState) -> Snapshot | None:
    """The snapshot of the prechange state, based on the one after; None if it is unknown."""
    if state.snapshot is not None:  # which has the fields of all serializers
        return {name: value for name, value in state.snapshot.items() if name in after}
    if state.row is None:
        return None
    columns, relations = _shown_fields(serializer, data, state.row)
    edited = {name: relation for name, relation in relations.items() if relation in state.edited}
    if not state.known.issuperset(edited.values()):
        return None
    snapshot = after | _stored_values(columns, state.row)
    for name, relation in edited.items():
        if _shows_relation(serializer, name):  # the old members, which the row has prefetched, in the same shape
            one = serializer.fields[name]
            snapshot[name] = _simplified(relation, one.to_representation(one.get_attribute(state.row)))
        else:
            snapshot[name] = _members(relation, state.row)
    return snapshot


def _shown_fields(serializer: Any, data: Any, row: models.Model) -> tuple[Fields, dict[str, str]]:
    """The columns and the names of the many-to-many relations in the data, by their names there."""
    if not isinstance(data, Mapping):
        return {}, {}
    shown = _in_payload(_model_fields(type(row)), _serializer_fields(serializer), data)
    columns = {name: one for name, one in shown.items() if not one.many_to_many}
    return columns, {name: one.name for name, one in shown.items() if one.many_to_many}


def _stored_values(columns: Fields, row: models.Model) -> Snapshot:
    values = {name: column.value_from_object(row) for name, column in columns.items()}
    # As in Django's serializers: fields of files, networks and the like write their values themselves.
    written = {name: columns[name].value_to_string(row) for name, one in values.items() if not isinstance(one, _PLAIN)}
    return values | written


def _shows_relation(serializer: Any, name: str) -> bool:
    """Whether a field of the serializer shows the relation. A method field may query the new state instead."""
    one = _serializer_fields(serializer).get(name)
    return one is not None and one.source != "*"


def _members(relation: str, row: models.Model) -> Any:
    members = getattr(row, relation).all()
    return _simplified(relation, [getattr(one, "name", one.pk) if relation == "tags" else one.pk for one in members])


def _simplified(relation: str, value: Any) -> Any:
    """Members as in NetBox's snapshots: tags by name, others by primary key, sorted."""
    if not isinstance(value, list | tuple):
        return value
    key = "name" if relation == "tags" else "id"
    members = [one.get(key, one) if isinstance(one, Mapping) else one for one in value]
    try:
        return sorted(members)
    except TypeError:
        return members


# Comparing snapshots


def changed_fields(prechange: Mapping[str, Any] | None, postchange: Mapping[str, Any] | None) -> list[str]:
    """The names of the fields that differ between two snapshots, sorted. A missing snapshot has no fields."""
    before, after = prechange or {}, postchange or {}
    names = before.keys() | after.keys()
    return sorted(name for name in names if not json_equal(before.get(name, _MISSING), after.get(name, _MISSING)))


def differences(payload: Mapping[str, Any]) -> dict[str, Snapshot | None]:
    """Nautobot's ``differences`` of a payload: the changed fields with their old and new values.

    "removed" has the old values, "added" the new ones. A created or deleted object has its whole snapshot. None
    without a difference, or if it is unknown."""
    event, names = payload["event"], payload["changed"]
    before, after = (payload["snapshots"][side] for side in ("prechange", "postchange"))
    if names is None:
        return {"removed": before if event == "deleted" else None, "added": after if event == "created" else None}
    return {"removed": {name: before.get(name) for name in names}, "added": {name: after.get(name) for name in names}}
