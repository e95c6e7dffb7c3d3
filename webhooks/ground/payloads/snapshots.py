"""Snapshots: the state of an object before and after a change, limited to the fields that its payload shows.

The old row is read before the change, and a many-to-many relation before it is edited. A relation that was not edited
has not changed. So both snapshots have the same members.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

from django.core.exceptions import ValidationError
from django.db import DEFAULT_DB_ALIAS, models
from rest_framework.fields import BooleanField, IntegerField
from rest_framework.serializers import BaseSerializer

from webhooks.ground.db.django_internals import savepoint
from webhooks.ground.db.host_rows import can_lock, in_chunks
from webhooks.ground.errors import reraise_job_timeout
from webhooks.ground.registry.framework import framework
from webhooks.ground.registry.keys import source_field, with_pks
from webhooks.ground.registry.registration import Registration
from webhooks.ground.registry.sources import is_hidden, output_of, serializer_fields, source_names
from webhooks.ground.text.json_text import json_equal

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
    related: Snapshot = field(default_factory=dict)
    """What the framework read of the object from other tables."""

    def lacks(self, relation: str) -> bool:
        """Whether the old members of a relation must still be read."""
        return self.row is not None and relation not in self.known | self.edited


def read_rows(registration: Registration, pks: Collection[Any], using: str, lock: bool) -> dict[str, models.Model]:
    """Read the rows of these primary keys in one query. ``lock`` takes the locks of an UPDATE, parents first."""
    return registration.by_pk(rows_query(registration.model, pks, using, lock))


def rows_query(
    model: type[models.Model], pks: Collection[Any], using: str, lock: bool
) -> models.QuerySet[models.Model]:
    """The rows of these primary keys, as ``read_rows`` reads them."""
    # Not through a manager of the project: PostgreSQL may be unable to lock the rows that it annotates.
    rows: models.QuerySet[models.Model] = models.QuerySet(model, using=using).filter(with_pks(model, pks)).order_by()
    if lock and can_lock(using, model):
        rows = rows.order_by("pk").select_for_update(no_key=True, of=(*_parent_links(model), "self"))
    return rows


def related_snapshot(registration: Registration, row: models.Model) -> Snapshot:
    """What the framework shows of an object in its snapshots, from other tables."""
    read = framework().related_snapshot(registration.model)
    values = read(row) if read else {}
    return {name: value for name, value in values.items() if registration.sends(name, name)}


def _parent_links(model: type[models.Model], path: str = "") -> list[str]:
    """The lookups of the parent rows of a model, the farthest first."""
    names: list[str] = []
    for parent, link in model._meta.concrete_model._meta.parents.items():  # type: ignore[union-attr]
        if link is not None and link.model is model:
            lookup = f"{path}{link.name}"
            names += [*_parent_links(parent, f"{lookup}__"), lookup]
    return names


def relations_shown(registration: Registration, name: str, instance: models.Model | None = None) -> Collection[str]:
    """The many-to-many relations that a serializer shows. Raises the errors of the serializer."""
    known = registration.relations_by_serializer
    if name not in known:
        # To build a serializer takes long, and its relations hardly depend on the object.
        fields = serializer_fields(registration.build_serializer(name, instance))
        sources = {field.source for field in fields.values()}
        known[name] = sorted(sources.intersection(relation.name for relation in registration.model._meta.many_to_many))
    return known[name]


def prefetch_serialized(registration: Registration, serializer: str, objects: list[models.Model], using: str) -> None:
    """Read the many-to-many relations that a serializer shows, for many objects in one query for each relation. Raises
    the errors of the serializer."""
    relations = relations_shown(registration, serializer, objects[0])
    for chunk in in_chunks(using, objects):
        models.prefetch_related_objects(chunk, *relations)


# The fields of a snapshot


def snapshot_fields(registration: Registration, serializer: str = "") -> Fields:
    """The fields that are compared, by their names in the payload. Raises the errors of the serializer."""
    built = registration.build_serializer(serializer)
    fields = serializer_fields(built)
    if not fields:
        return _in_payload(registration, {}, _model_fields(registration.model))
    # Code of the project may write what is for requests, too.
    written = {name for name, part in fields.items() if not part.write_only or not is_stock(_class_of(built), *_OUTPUT)}
    names = {name for name in written if not is_hidden(registration, fields[name])}
    shown = _in_payload(registration, fields, names)
    return shown | _kept_columns(registration, fields, shown)


def has_json_keys(field: models.Field[Any, Any]) -> bool:
    """Whether ``field.key`` can address into this field (JSON, hstore)."""
    return field.get_internal_type() in ("JSONField", "HStoreField")


@cache
def _model_fields(model: type[models.Model]) -> Fields:
    """The columns and many-to-many relations of a model by name, without columns that change with every save."""
    columns = [column for column in model._meta.concrete_fields if not getattr(column, "auto_now", False)]
    return {field.name: field for field in (*columns, *model._meta.many_to_many)}


def _in_payload(registration: Registration, fields: Mapping[str, Any], data: Collection[str]) -> Fields:
    """The model's fields that are in the data, by their names there: ``custom_fields`` shows ``custom_field_data``."""
    of_model = _model_fields(registration.model)
    shown = {name: field for name, field in of_model.items() if name in data}
    # A field may have the name of one column and show another.
    shown |= {name: of_model[part.source] for name, part in fields.items() if name in data and part.source in of_model}
    return {name: field for name, field in shown.items() if registration.sends(name, field.name)}


def _kept_columns(registration: Registration, names: Collection[str], shown: Fields) -> Fields:
    """The columns that only snapshots show. ``names`` has the fields of the serializer, or the keys of its data."""
    sources = {field.name for field in shown.values()}
    kept = {name: _model_fields(registration.model)[name] for name in framework().snapshot_columns(registration.model)}
    return {
        name: column
        for name, column in kept.items()
        if name not in names and name not in sources and registration.sends(name, name)
    }


def _inside(registration: Registration, fields: Mapping[str, Any], data: Collection[str], shown: Fields) -> Fields:
    """The model's fields that code of the project may have written deeper into the data, by their names."""
    if not fields:
        return {} if shown else _in_payload(registration, {}, _model_fields(registration.model))
    names = {name for name, part in fields.items() if name not in data and not is_hidden(registration, part)}
    return _in_payload(registration, fields, names)


# Which stored values the data show

_EMPTY: tuple[Any, ...] = (None, "", [], {})
_OUTPUT = ("data", "to_representation")


@lru_cache(maxsize=512)  # REST framework makes a class for each nested object of a serializer with ``Meta.depth``
def is_stock(kind: Hashable, *methods: str) -> bool:
    """Whether fields or serializers of a class have these methods and properties from REST framework.

    Without names: the methods of a field that write its value."""
    methods_found = (getattr(kind, name, None) for name in methods or ("get_attribute", "to_representation"))
    modules = (getattr(getattr(method, "fget", method), "__module__", "") for method in methods_found)
    return all(module.startswith("rest_framework.") for module in modules)


def _class_of(value: Any) -> Any:
    return value.__class__


def _writes_all(field: Any, column: Any) -> bool:
    """Whether a field of a serializer always shows the whole value of a column: no part of a date, no rounded number,
    and more than whether there is a text."""
    while is_stock(_class_of(field)) and (inner := getattr(field, "child", None)) is not None:
        field, column = inner, getattr(column, "base_field", column)
    # DRF's _kwargs: a field with a format of the settings has it as an attribute, too.
    is_partial = isinstance(field, BooleanField | IntegerField | BaseSerializer) or "format" in field._kwargs
    places, stored = getattr(field, "decimal_places", None), getattr(column, "decimal_places", None)
    is_rounded = places is not None and (stored is None or places < stored)
    return is_stock(_class_of(field)) and not is_partial and not is_rounded


class _Shown:
    """The columns and relations in the data of a row, by their names there."""

    def __init__(self, registration: Registration, name: str, serializer: Any, data: Any, row: models.Model) -> None:
        self._registration, self._name = registration, name
        self._old: Mapping[str, Any] | None = None
        self._fields, self.is_stock = serializer_fields(serializer), is_stock(_class_of(serializer), *_OUTPUT)
        self._data, self._row = (data if isinstance(data, Mapping) else {}), row
        shown_fields = _in_payload(registration, self._fields, self._data)
        self.columns = {name: field for name, field in shown_fields.items() if not field.many_to_many}
        self.relations = {name: field.name for name, field in shown_fields.items() if field.many_to_many}
        self._kept = _kept_columns(registration, {*self._fields, *self._data}, shown_fields)
        self.stored = _stored_values(self.columns, row)
        self.inside = _inside(registration, self._fields, self._data, shown_fields) if not self.is_stock else {}
        """The columns and relations that the serializer may have written into an envelope, so not by their names."""
        # The columns of which the data show every value. A foreign key shows which object it is.
        self._certain = {name for name, field in self.columns.items() if field.remote_field and _is_number(field)}
        if self.is_stock:
            shown = ((name, self._fields.get(name), column) for name, column in self.columns.items())
            self._certain.update(
                name for name, field, column in shown if field is not None and _writes_all(field, column)
            )

    def kept(self, row: models.Model, related: Snapshot) -> Snapshot:
        """What only the snapshots of a row show. ``related`` is from other tables."""
        return _stored_values(self._kept, row) | related

    def changed_inside(self, old_row: models.Model, edited: Collection[str]) -> list[str]:
        """The names of the columns in an envelope that changed, and of the relations that were edited."""
        columns = {name: field for name, field in self.inside.items() if not field.many_to_many}
        old, new = _stored_values(columns, old_row), _stored_values(columns, self._row)
        changed = [name for name in columns if not json_equal(old[name], new[name])]
        return changed + [name for name, field in self.inside.items() if field.name in edited]

    def relation_field(self, name: str) -> Any:
        """The field of the serializer that shows the members of a relation. None for a method and for another source:
        they may query the new state, and leave out members."""
        field = self._fields.get(name)
        return None if field is None or source_names(field)[:1] != [self.relations[name]] else field

    def shows(self, name: str) -> bool:
        """Whether the data show the stored value of a column. A masked or a computed field does not."""
        field, column = self._fields.get(name), self.columns[name]
        if field is not None and field.source != column.name:
            return False
        if name in self._certain or _reveals(self._data[name], self.stored[name]):
            return True
        # The serializer may have replaced what its field wrote.
        is_whole = field is not None and _writes_all(field, column)
        return is_whole and bool(self._data[name] == _representation(field, self._row))

    def showed(self, name: str, old: Any, row: models.Model | None) -> bool:
        """Whether the data showed the ``old`` stored value of a column, if they show the new one. ``row`` has it."""
        if old == self.stored[name] or name in self._certain:
            return True
        field = self._fields.get(name)
        if row is not None and self.is_stock and field is not None and is_stock(_class_of(field), "get_attribute"):
            return _reveals(_representation(field, row), old)
        # The host's code writes the data, and may mask one value and show another.
        return row is not None and _reveals(self._written(row).get(name, _MISSING), old)

    def earlier_row(self, known: Snapshot) -> models.Model | None:
        """The row with the values of an earlier snapshot. None if they do not fit into its columns any more."""
        values = {column.attname: getattr(self._row, column.attname) for column in self._row._meta.concrete_fields}
        try:
            for name in self.columns.keys() & known.keys():
                values[self.columns[name].attname] = self.columns[name].to_python(known[name])
        except ValidationError:
            return None
        return type(self._row).from_db(self._row._state.db, list(values), list(values.values()))

    def _written(self, row: models.Model) -> Mapping[str, Any]:
        """What the serializer writes of the old row. Empty if it fails: the relations of the row may be gone."""
        if self._old is None:
            try:
                with savepoint(row._state.db or DEFAULT_DB_ALIAS):
                    written = self._registration.build_serializer(self._name, row).data
            except Exception as error:
                reraise_job_timeout(error)
                written = {}
            self._old = written if isinstance(written, Mapping) else {}
        return self._old

    def shows_members(self, name: str) -> bool:
        """Whether the data show the members of a relation as its field writes them. May read them again."""
        field, shown = self.relation_field(name), self._data[name]
        if self.is_stock or field is None:
            return True
        # The serializer may have replaced what its field wrote. No members do not prove that it does not.
        return bool(shown) and bool(shown == output_of(self._registration, field, _representation(field, self._row)))


@cache
def _is_number(field: models.Field[Any, Any]) -> bool:
    """Whether a foreign key refers to a number or a UUID, which say nothing about the related object."""
    return isinstance(source_field(field), models.IntegerField | models.UUIDField)


def _representation(field: Any, row: models.Model) -> Any:
    value = field.get_attribute(row)
    return None if value is None else field.to_representation(value)


def _reveals(shown: Any, stored: Any) -> bool:
    """Whether a value in the data shows the stored one: as it is, or as NetBox's ``{"value": …, "label": …}``."""
    if stored in _EMPTY or shown == stored:
        return True
    if isinstance(stored, Mapping):
        return isinstance(shown, Mapping) and all(_reveals(shown.get(key), value) for key, value in stored.items())
    if isinstance(stored, list | tuple):
        is_list = isinstance(shown, list | tuple) and len(shown) == len(stored)
        return is_list and all(map(_reveals, shown, stored))
    if isinstance(shown, Mapping):
        return any(_reveals(member, stored) for member in shown.values() if not isinstance(member, Mapping))
    if isinstance(stored, datetime.date | datetime.time) and isinstance(shown, str):
        shown = shown.replace("T", " ").replace("Z", "+00:00")
    return str(shown) == str(stored)


# Taking snapshots


@dataclass(frozen=True)
class Snapshots:
    """The state of an object after a change, and before it. ``before`` is None if it is unknown.

    ``unshown`` has the names of columns that changed, while the data do not show their stored values."""

    after: Snapshot
    before: Snapshot | None = None
    unshown: Collection[str] = ()


def snapshots_of(
    registration: Registration,
    name: str,
    serializer: Any,
    data: Any,
    row: models.Model,
    prechange: PrechangeState | None,
) -> Snapshots:
    """The snapshots of a row: columns as they are stored, and many-to-many relations as lists.

    They have the fields in ``data``, the output of the ``serializer`` of this name without excluded fields."""
    shown = _Shown(registration, name, serializer, data, row)
    after = {name: value for name, value in shown.stored.items() if shown.shows(name)}
    for name, relation in sorted(shown.relations.items()):
        has_field = shown.relation_field(name) is not None
        after[name] = _simplified(relation, data[name]) if has_field else _members(relation, row)
    kept = shown.kept(row, related_snapshot(registration, row))
    after |= kept
    if prechange is None:
        return Snapshots(after)
    if prechange.snapshot is not None:
        return _compared_with(prechange.snapshot, shown, after, kept)
    edited = {name: relation for name, relation in shown.relations.items() if relation in prechange.edited}
    if prechange.row is None or not prechange.known.issuperset(edited.values()):
        return Snapshots(after)
    old = _stored_values(shown.columns, prechange.row)
    hidden = {name for name in old if name not in after or not shown.showed(name, old[name], prechange.row)}
    unshown = [name for name in hidden if old[name] != shown.stored[name]]
    unshown += shown.changed_inside(prechange.row, prechange.edited)
    before = after | old | shown.kept(prechange.row, prechange.related)
    for name, relation in edited.items():
        # The old members, which the row has prefetched, in the same shape.
        if (field := shown.relation_field(name)) is None:
            before[name] = _members(relation, prechange.row)
            continue
        before[name] = _simplified(relation, output_of(registration, field, _representation(field, prechange.row)))
        if before[name] != after[name] and not shown.shows_members(name):
            hidden.add(name)
            unshown.append(name)
    return Snapshots(_without(after, hidden), _without(before, hidden), unshown)


def _compared_with(known: Snapshot, shown: _Shown, after: Snapshot, kept: Collection[str]) -> Snapshots:
    """The snapshots of a row that was deleted before, or is replayed. ``known`` has the fields of all serializers."""
    hidden, row = set(), shown.earlier_row(known)
    for name, old in known.items():
        if name in shown.columns:
            is_shown = name in after and shown.showed(name, old, row)
        elif name in kept:
            is_shown = True
        else:
            is_shown = name in after and (shown.is_stock or old == after[name])
        if not is_shown:
            hidden.add(name)
    unshown = [name for name in hidden if name in shown.stored and not _is_equal(known[name], shown.stored[name])]
    unshown += [name for name in hidden if name in shown.relations]
    before = {name: value for name, value in known.items() if name in after}
    return Snapshots(_without(after, hidden), _without(before, hidden), unshown)


def _is_equal(old: Any, new: Any) -> bool:
    """Whether a stored value is the same as one in an earlier snapshot, which may be text."""
    return bool(old == new) or (new not in _EMPTY and _reveals(old, new))


def _without(snapshot: Snapshot, names: Collection[str]) -> Snapshot:
    return {name: value for name, value in snapshot.items() if name not in names}


def stored_columns(registration: Registration, row: models.Model) -> Snapshot:
    """The columns of a row as they are stored, by their names, without the ones that are not sent."""
    columns = {name: field for name, field in _model_fields(registration.model).items() if not field.many_to_many}
    return _stored_values({name: column for name, column in columns.items() if registration.sends(name, name)}, row)


def _stored_values(columns: Fields, row: models.Model) -> Snapshot:
    values = {name: column.value_from_object(row) for name, column in columns.items()}
    # As in Django's serializers: fields of files, networks and the like write their values themselves.
    written = {
        name: columns[name].value_to_string(row) for name, value in values.items() if not isinstance(value, _PLAIN)
    }
    return values | written


def _members(relation: str, row: models.Model) -> list[Any]:
    """The keys of the members. The data may hide the names of some."""
    return _sorted([member.pk for member in getattr(row, relation).all()])


def _simplified(relation: str, value: Any) -> Any:
    """Members as in NetBox's snapshots: tags by name, others by primary key, sorted."""
    if not isinstance(value, list | tuple):
        return value
    key = "name" if relation == "tags" else "id"
    return _sorted([member.get(key, member) if isinstance(member, Mapping) else member for member in value])


def _sorted(members: list[Any]) -> list[Any]:
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
    without a difference, or if it is unknown. A field that is not in the snapshots has no values."""
    event, names = payload["event"], payload["changed"]
    before, after = (payload["snapshots"][side] for side in ("prechange", "postchange"))
    if names is None:
        return {"removed": before if event == "deleted" else None, "added": after if event == "created" else None}
    names = [name for name in names if name in before or name in after]
    return {"removed": {name: before.get(name) for name in names}, "added": {name: after.get(name) for name in names}}
