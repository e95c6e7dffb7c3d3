"""The schema of payloads, from the serializers of registered models. drf-spectacular reads them, and is optional."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.serializers.json import DjangoJSONEncoder
from rest_framework.serializers import BaseSerializer, Serializer, SerializerMethodField
from rest_framework.views import APIView

from webhooks.ground.registry.registration import Registration
from webhooks.ground.registry.sources import sent_fields, serializer_fields

try:
    from drf_spectacular.drainage import has_override
    from drf_spectacular.extensions import OpenApiSerializerExtension, OpenApiSerializerFieldExtension
    from drf_spectacular.openapi import AutoSchema
    from drf_spectacular.plumbing import ComponentRegistry, ResolvedComponent, build_mocked_view
    from drf_spectacular.settings import patched_settings
    from drf_spectacular.utils import extend_schema
    from jsonschema import Draft202012Validator  # which drf-spectacular demands
except ImportError:  # optional
    ComponentRegistry = None  # type: ignore[assignment,misc]

NEEDS_SPECTACULAR = (
    "This needs drf-spectacular, as DEFAULT_SCHEMA_CLASS of REST framework: pip install drf-spectacular."
)

OPENAPI_VERSION = "3.1.1"
"""The first versions with webhooks, whose schemas are JSON Schema."""

COMPONENTS = "#/components/schemas/"

OBJECT_OR_NULL = {"type": ["object", "null"]}
TEXT_OR_NULL = {"type": ["string", "null"]}

# What each payload has around its data. ``docs/payload.md`` describes it for people.
ENVELOPE: dict[str, Any] = {
    "event": {"enum": ["created", "updated", "deleted"]},
    "timestamp": {"type": "string", "format": "date-time"},
    "object_type": {"type": "string"},
    "model": {"type": "string"},
    "username": {"type": "string", "description": "Empty without a user."},
    "request_id": {"type": "string"},
    "sequence": {"type": "integer", "description": "Grows with each event: an older one has an older state."},
    "replay_of": {"type": "integer"},
    "request": {
        **OBJECT_OR_NULL,
        "properties": {
            "id": {"type": "string"},
            **dict.fromkeys(("method", "path", "path_info"), TEXT_OR_NULL),
            "GET": OBJECT_OR_NULL,
            "user": {"type": "string"},
        },
    },
    "snapshots": {"type": "object", "properties": {"prechange": OBJECT_OR_NULL, "postchange": OBJECT_OR_NULL}},
    "changed": {"type": ["array", "null"], "items": {"type": "string"}, "description": "Null if it is not known."},
    "context": {"type": "object", "description": "What hooks of the site add."},
}
OPTIONAL = {"replay_of", "context"}


def payload_schema(registration: Registration, components: Any) -> dict[str, Any]:
    """The schema of the payload of a model. Adds its references to the ``ComponentRegistry``. Raises what the
    serializer raises, and ImproperlyConfigured if there is none."""
    properties = ENVELOPE | {
        "object_type": {"const": registration.label},
        "model": {"const": registration.label.partition(".")[2]},
        "data": _data_schema(registration, components),
    }
    return {
        "type": "object",
        "title": f"A change of {registration.label}",
        "properties": properties,
        "required": [name for name in properties if name not in OPTIONAL],
    }


def _data_schema(registration: Registration, components: Any) -> dict[str, Any]:
    """The schema of the serializer's output, without the fields that are never sent."""
    serializer = registration.build_serializer("")
    if not isinstance(serializer, Serializer) and OpenApiSerializerExtension.get_match(serializer) is None:
        return {}  # it writes its data freely
    view = build_mocked_view(method="POST", path="/", extend_schema_decorator=extend_schema(), registry=components)
    return _sent_schema(registration, view.schema, serializer, registration.model)


def _sent_schema(registration: Registration, inspector: Any, serializer: Any, model: Any) -> dict[str, Any]:
    """The schema of what a serializer writes of objects of the model. A reference, if all fields are sent."""
    component = inspector.resolve_serializer(serializer, "response")
    if not component:  # a serializer without declared fields
        return {"type": "object"}
    is_left_out = registration.is_left_out if model is registration.model else registration.is_sensitive
    known, sent = serializer_fields(serializer), sent_fields(registration, serializer, model)
    written, shown = component.schema.get("properties", {}), {}
    for name, schema in written.items():
        if is_left_out(name) or getattr(known.get(name), "write_only", False):
            continue  # without COMPONENT_SPLIT_REQUEST, a response has the fields of requests, too
        if name in sent or name not in known:
            shown[name] = _sent_part(registration, inspector, schema, *sent.get(name, (None, None)))
    if shown == written:
        referred: dict[str, Any] = component.ref
        return referred
    required = [name for name in component.schema.get("required", ()) if name in shown]
    return {**component.schema, "properties": shown, "required": required}


def _sent_part(registration: Registration, inspector: Any, schema: Any, field: Any, model: Any) -> Any:
    """The schema of a field, without what nested serializers never send. Empty if its code may write anything."""
    if field is not None and not _is_described(field):
        return {}
    inner = getattr(field, "child", field)
    component = inspector.resolve_serializer(inner, "response") if isinstance(inner, Serializer) else None
    if not component:
        return schema
    return _replaced(schema, component.ref["$ref"], _sent_schema(registration, inspector, inner, model))


def _is_described(field: Any) -> bool:
    """Whether drf-spectacular knows what a field writes. For code of the project it needs a hint, or takes a guess."""
    if has_override(field, "field") or OpenApiSerializerFieldExtension.get_match(field):
        return True
    if isinstance(field, SerializerMethodField):
        method = getattr(field.parent, field.method_name, None)
        return has_override(method, "field") or "return" in getattr(method, "__annotations__", {})
    inner = getattr(field, "child", None) or getattr(field, "child_relation", None)
    if inner is not None and not _is_described(inner):
        return False
    return isinstance(field, BaseSerializer) or type(field).to_representation.__module__.startswith("rest_framework.")


def _replaced(schema: Any, reference: str, new: dict[str, Any]) -> Any:
    """The schema with another one in the place of each reference."""
    if isinstance(schema, list):
        return [_replaced(item, reference, new) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("$ref") == reference:
        return {**new, **{name: item for name, item in schema.items() if name != "$ref"}}
    return {name: _replaced(item, reference, new) for name, item in schema.items()}


class _Encoder(DjangoJSONEncoder):
    """Descriptions may be lazy texts, and limits decimals."""

    def default(self, o: Any) -> Any:
        return float(o) if isinstance(o, Decimal) else super().default(o)


def json_schema(registration: Registration) -> dict[str, Any]:
    """The payload of a model as JSON Schema, complete. Raises ImproperlyConfigured without drf-spectacular."""
    if ComponentRegistry is None or not isinstance(APIView().schema, AutoSchema):
        raise ImproperlyConfigured(NEEDS_SPECTACULAR)
    with patched_settings({"OAS_VERSION": OPENAPI_VERSION}):
        components = ComponentRegistry()
        schema = payload_schema(registration, components)
        parts = components.build({}).get(ResolvedComponent.SCHEMA, {})
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "$defs": parts}
    text = json.dumps(whole, cls=_Encoder)
    # drf-spectacular adds null where it is already: null would be both, and so neither.
    text = text.replace(COMPONENTS, "#/$defs/").replace('"oneOf": [', '"anyOf": [')
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def misfits(payload: Any, schema: dict[str, Any]) -> list[str]:
    """Where a payload does not fit its schema, such as "data.count: 7 is not of type 'string'"."""
    errors = Draft202012Validator(schema).iter_errors(payload)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]
