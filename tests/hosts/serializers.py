"""A serializer for each model, with its columns and the relations that it holds. A program draws others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from django.db import models
from rest_framework import serializers

from tests.hosts.models import KINDS, mask
from tests.hosts.programs import Guise

EXCLUDED = {"Person": ["ssn"]}
_LEFT_OUT = {"content_type", "friends", "vehicle_ptr", "pk", "ssn", "password", "pin", "card"}

Serializer = type[serializers.ModelSerializer]


def _serializer(model: type[models.Model], **more: Any) -> Serializer:
    fields = [one.name for one in (*model._meta.concrete_fields, *model._meta.many_to_many)]
    fields = [name for name in fields if name not in _LEFT_OUT]
    meta = type("Meta", (), {"model": model, "fields": [*fields, *(more.keys() - {*fields, "to_representation"})]})
    return type(f"{model.__name__}Serializer", (serializers.ModelSerializer,), {"Meta": meta, **more})


# Ways to show a secret. Each takes the column, the path to the object that has it, and the model of that object.


def _text(source: str | None = None) -> serializers.CharField:
    return serializers.CharField(source=source, read_only=True)


def _inner(model: type[models.Model] | None, **fields: Any) -> type[serializers.Serializer]:
    if model is None:
        return type("InnerSerializer", (serializers.Serializer,), fields)
    meta = type("Meta", (), {"model": model, "fields": list(fields)})
    return type("InnerSerializer", (serializers.ModelSerializer,), {"Meta": meta, **fields})


def _nested(inner: type[serializers.Serializer], path: str) -> Any:
    return inner(source=path or "*", many=path == "staff", read_only=True)


def _by_method(function: Callable[[Any], Any]) -> Any:
    class Method(serializers.SerializerMethodField):
        def to_representation(self, value: Any) -> Any:
            return function(value)

    return Method()


def _called(column: str, path: str, model: Any) -> Any:
    """The data of another serializer, which a method calls."""

    def call(one: Any) -> Any:
        for step in path.split(".") if path else ():
            one = getattr(one, step) if one is not None else None
        if one is None:
            return None
        shown = _inner(model, shown=_text(column))
        return shown(one.all(), many=True).data if path == "staff" else {"it": shown(one).data}

    return _by_method(call)


class _MaskedField(serializers.CharField):
    def to_representation(self, value: Any) -> str:
        return mask(value)


Way = Callable[[str, str, Any], Any]
WAYS: dict[str, Way] = {
    "same_name": lambda column, path, model: _nested(_inner(model, **{column: _text()}), path) if path else _text(),
    "renamed": lambda column, path, model: _text(f"{path}.{column}".strip(".")),
    "in_envelope": lambda column, path, model: _text(f"{path}.{column}".strip(".")),
    "nested": lambda column, path, model: _nested(_inner(model, name=_text(), shown=_text(column)), path),
    "nested_without_model": lambda column, path, model: _nested(_inner(None, shown=_text(column)), path),
    "nested_twice": lambda column, path, model: _nested(
        _inner(model, inner=_inner(None, shown=_text(column))(source="*", read_only=True)), path
    ),
    "by_method": _called,
    "slug": lambda column, path, model: serializers.SlugRelatedField(
        column, source=path, many=path == "staff", read_only=True
    ),
    "key": lambda column, path, model: serializers.PrimaryKeyRelatedField(
        source=path, many=path == "staff", read_only=True
    ),
    "masked_by_method": lambda column, path, model: _by_method(lambda one: one.masked_card),
    "masked_by_field": lambda column, path, model: _MaskedField(read_only=True),
    "masked_by_property": lambda column, path, model: _text("masked_card"),
    "masked_by_serializer": lambda column, path, model: _text(),
}


def _end(model: Any, path: str) -> Any:
    """The model at the end of a path of relations."""
    for step in path.split(".") if path else ():
        model = model._meta.get_field(step).related_model
    return model


def _guised(kind: str, guises: Iterable[Guise]) -> Serializer:
    model, fields, ways = KINDS[kind], dict[str, Any](), set()
    for number, guise in enumerate(guises):
        has_own_name = guise.way.startswith("masked") or (guise.way == "same_name" and not guise.path)
        name = guise.column if has_own_name else f"shown_{number}"
        ways.add(guise.way)
        fields[name] = WAYS[guise.way](guise.column, guise.path, _end(model, guise.path))

    def to_representation(self: Any, one: Any) -> Any:
        shown = serializers.ModelSerializer.to_representation(self, one)
        if "masked_by_serializer" in ways and "card" in shown:
            shown["card"] = mask(shown["card"])
        return {"properties": shown} if "in_envelope" in ways else shown

    if ways & {"masked_by_serializer", "in_envelope"}:
        fields["to_representation"] = to_representation
    return _serializer(model, **fields)


class Drawn:
    """Makes the serializer that the program draws."""

    drawn: ClassVar[Serializer]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls.drawn(*args, **kwargs)


GUISED: dict[str, type[Drawn]] = {kind: type(kind, (Drawn,), {}) for kind in ("Person", "Badge")}


def draw_on(guises: Iterable[Guise]) -> None:
    """Use these fields from now on."""
    for kind, one in GUISED.items():
        one.drawn = _guised(kind, [guise for guise in guises if guise.kind == kind])


SERIALIZERS: dict[str, type] = {kind: _serializer(model) for kind, model in KINDS.items() if not model._meta.proxy}
SERIALIZERS |= GUISED
