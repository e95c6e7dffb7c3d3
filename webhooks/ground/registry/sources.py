"""Which fields of a serializer are not sent because of their sources: a renamed field is as secret as its source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, ValuesView
from functools import cache
from typing import Any

from django.db import models
from rest_framework import relations
from rest_framework.serializers import BaseSerializer, Field
from rest_framework.utils.serializer_helpers import BindingDict

from webhooks.ground.registry.registration import Registration, sensitive_names
from webhooks.ground.text.json_text import TOO_DEEP, NotJSONSerializable

_SCALARS = (str, int, float, type(None))
_OF_MANAGERS = ("all", "first", "last")  # these lead to the objects of the relation before them
_MAX_NESTED = 6  # serializers in each other: one may nest itself
_MAX_CACHED = 4096  # rules of one registration: a host may make the classes of its fields anew for each serializer

Model = type[models.Model]


def without_hidden(registration: Registration, serializer: Any, data: Any) -> Any:
    """Copy the output of a serializer without the fields that read an excluded or a sensitive field.

    It follows the fields of the serializer and of nested serializers, and of serializers that a method called:
    their output names its serializer. Other keys are left out by their names alone. Raises NotJSONSerializable."""
    try:
        shown = _without_hidden(registration, data, serializer, registration.model)
        # If ``to_representation`` called another serializer, REST framework names that one only here.
        other = getattr(getattr(serializer, "_data", None), "serializer", None)
        return shown if other is None else _without_hidden(registration, shown, other, _model_read(other))
    except RecursionError as error:
        raise NotJSONSerializable(TOO_DEEP) from error


def output_of(registration: Registration, field: Any, value: Any) -> Any:
    """The same for what one field of the serializer wrote."""
    return _without_hidden(registration, value, field, _rule(registration, registration.model, field)[1])


def serializer_fields(serializer: Any) -> Mapping[str, Any]:
    """The fields that REST framework knows of a serializer; empty for one that writes its data freely."""
    fields = getattr(serializer, "fields", None)
    if isinstance(fields, BindingDict):
        return fields
    is_mapping = isinstance(fields, Mapping) and all(isinstance(field, Field) for field in fields.values())
    return fields if is_mapping else {}  # type: ignore[return-value]


def source_names(field: Any) -> list[str]:
    """The names that a field of a serializer reads, one after the other: ``profile`` and ``ssn`` for "profile.ssn".

    Empty for a field that gets the whole object."""
    source = getattr(field, "source", None)
    return [] if source is None or source == "*" else str(source).split(".")


def _without_hidden(registration: Registration, value: Any, field: Any, model: Model | None) -> Any:
    """``field`` wrote the value from objects of the model. Both are None if that is not known."""
    writer = getattr(value, "serializer", None)
    if writer is not None and writer is not field:
        field, model = writer, _model_read(writer)
    inner = getattr(field, "child", field)
    if isinstance(value, Mapping):
        fields = serializer_fields(field)
        if fields:
            model = _model_named(field) or model
        shown = {}
        for key, item in value.items():
            # A key that is no field may hold the fields: a serializer may write an envelope.
            known_field = fields.get(key)
            is_hidden, related = (False, model) if known_field is None else _rule(registration, model, known_field)
            if not is_hidden:
                is_plain, nested = isinstance(item, _SCALARS), inner if known_field is None else known_field
                shown[key] = item if is_plain else _without_hidden(registration, item, nested, related)
        return shown
    if isinstance(value, list | tuple | Iterator | ValuesView):
        return [_without_hidden(registration, item, inner, model) for item in value]
    return value


def _model_named(serializer: Any) -> Model | None:
    """The model that a serializer names as its own."""
    named = getattr(getattr(serializer, "Meta", None), "model", None)
    return named if isinstance(named, type) and issubclass(named, models.Model) else None


def _model_read(serializer: Any) -> Model | None:
    """The model of the objects that a method gave to a serializer."""
    given = getattr(serializer, "instance", None)
    if isinstance(given, models.QuerySet | models.Manager):
        return given.model
    if isinstance(given, list | tuple) and given:
        given = given[0]
    return type(given) if isinstance(given, models.Model) else None


def sent_fields(
    registration: Registration, serializer: Any, model: Model | None
) -> dict[str, tuple[Any, Model | None]]:
    """The fields of a serializer for objects of the model that are sent, each with the model of its output."""
    model = _model_named(serializer) or model
    rules = {name: (field, _rule(registration, model, field)) for name, field in serializer_fields(serializer).items()}
    return {name: (field, related) for name, (field, (is_hidden, related)) in rules.items() if not is_hidden}


def written_fields(
    registration: Registration, serializer: Any, model: Model | None, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], bool, Any]]:
    """Each field that a serializer writes of objects of the model, and those of nested serializers: its path, whether
    it is not sent, and the column that it reads. The column is None if it is not known, or another model has it."""
    model = _model_named(serializer) or model
    is_left_out = registration.is_sensitive if path else registration.is_left_out
    for name, field in serializer_fields(serializer).items():
        if field.write_only:
            continue
        is_hidden, related = _rule(registration, model, field)
        is_hidden = is_hidden or is_left_out(name)
        own, names = (*path, name), source_names(field)
        yield own, is_hidden, attributes(model).get(names[0]) if model and len(names) == 1 else None
        if not is_hidden and len(own) < _MAX_NESTED:
            yield from written_fields(registration, getattr(field, "child", field), related, own)


def is_hidden(registration: Registration, field: Any) -> bool:
    """Whether a field of the serializer of a registered model is not sent."""
    return _rule(registration, registration.model, field)[0]


def _rule(registration: Registration, model: Model | None, field: Any) -> tuple[bool, Model | None]:
    """Whether a field is not sent, and the model of the objects that it writes."""
    inner = field
    while (child := getattr(inner, "child", None) or getattr(inner, "child_relation", None)) is not None:
        inner = child
    looked_up = getattr(inner, "slug_field", None), getattr(inner, "lookup_field", None)
    kind = BaseSerializer if isinstance(inner, BaseSerializer) else type(inner)
    key = (model, field.field_name, getattr(field, "source", None), kind, *looked_up)
    rules = registration.rules_by_field
    if key not in rules:
        rule = _find_rule(registration, model, field, inner)
        if len(rules) >= _MAX_CACHED:
            return rule
        rules[key] = rule
    return rules[key]


def _find_rule(registration: Registration, model: Model | None, field: Any, inner: Any) -> tuple[bool, Model | None]:
    name = str(field.field_name)
    is_own, is_allowed = registration.is_own(model), name in registration.include_sensitive
    is_hidden = (is_own and name in registration.exclude) or (
        not is_allowed and model is not None and name in sensitive_names(model)
    )
    steps, related = _steps(model, source_names(field))
    shown, _ = _steps(related, _names_shown(inner, is_related=bool(steps) and related is not None))
    path = [*steps, *shown]
    # REST framework writes the stored value of a relation as the key, without reading the related object.
    read = {len(path) - 1, len(steps) - 1} if [step for _, step in shown] == ["pk"] else {len(path) - 1}
    for number, (owner, step) in enumerate(path):
        column = attributes(owner).get(step) if owner else None
        if step != "pk" and (is_own or registration.is_own(owner)):
            is_hidden |= not registration.exclude.isdisjoint(_spellings(step, column))
        if not is_allowed:
            is_hidden |= _is_secret(registration, owner, step, column, number in read)
    return is_hidden, related


def _names_shown(field: Any, is_related: bool) -> list[str]:
    """The names that a field of a relation reads of the related object."""
    if isinstance(field, relations.StringRelatedField):
        return ["__str__"]
    if isinstance(field, relations.SlugRelatedField):
        return field.slug_field.split("__")
    if isinstance(field, relations.HyperlinkedRelatedField):
        return field.lookup_field.split("__")
    if isinstance(field, relations.PrimaryKeyRelatedField):
        return ["pk"]
    # A field for plain values writes the name of the object. Nested serializers, and relations of the host, do not.
    return ["__str__"] if is_related and not isinstance(field, relations.RelatedField | BaseSerializer) else []


def _steps(model: Model | None, names: list[str]) -> tuple[list[tuple[Model | None, str]], Model | None]:
    """Each name with the model that has it, and the model that the last one leads to. None if it is not known."""
    steps = []
    for name in names:
        steps.append((model, name))
        if name not in _OF_MANAGERS:
            column = attributes(model).get(name) if model else None
            model = column.related_model if column is not None and isinstance(column.related_model, type) else None
    return steps, model


def _is_secret(registration: Registration, owner: Model | None, name: str, column: Any, is_read: bool) -> bool:
    """Whether this name of an object of the model ``owner`` leads to a secret. A relation to a model with a secret key
    does so only if the value of the relation ``is_read``: other fields of the related object are no secret."""
    spellings = _spellings(name, column)
    if not registration.include_sensitive.isdisjoint(spellings):
        return False
    if any(map(registration.is_sensitive, spellings)):
        return True
    if owner is None:
        return False
    if name == "__str__":
        return registration.has_secret_name(owner)
    is_named = not sensitive_names(owner).isdisjoint(spellings)
    return is_named or (is_read and column is not None and registration.is_secret(column))


def _spellings(name: str, column: Any) -> set[str]:
    """A name, and the names of the field that it reads: ``tenant`` and ``tenant_id``."""
    return {name} if column is None else {name, column.name, getattr(column, "attname", name)}


@cache
def attributes(model: Model) -> dict[str, Any]:
    """The fields and relations of a model by every attribute that reads them."""
    readers: dict[str, Any] = {}
    field: Any
    for field in model._meta.get_fields():
        if field.auto_created and not field.concrete:
            readers[field.get_accessor_name() or field.name] = field
        else:
            names = (field.name, getattr(field, "attname", field.name), f"get_{field.name}_display")
            readers |= dict.fromkeys(names, field)
    return readers | {"pk": model._meta.pk}
