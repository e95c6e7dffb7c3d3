"""The schema of payloads, from the serializers of registered models. drf-spectacular reads them, and is optional."""

from __future__ import annotations

import json
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder

from webhooks.registry.registration import Registration

try:
    from drf_spectacular.plumbing import ComponentRegistry, ResolvedComponent, build_mocked_view
    from drf_spectacular.settings import patched_settings
    from drf_spectacular.utils import extend_schema
except ImportError:  # optional
    ComponentRegistry = None

NEEDS_SPECTACULAR = "This needs drf-spectacular, as DEFAULT_SCHEMA_CLASS of REST framework: pip install drf-spectacular."

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
    """The schema of the payload of a model. Adds what it refers to to the ``ComponentRegistry``. Raises what the
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
    view = build_mocked_view(method="POST", path="/", extend_schema_decorator=extend_schema(), registry=components)
    component = view.schema.resolve_serializer(registration.build_serializer(""), "response")
    if not component:  # a serializer without declared fields
        return {"type": "object"}
    schema = component.schema
    left_out = {name for name in schema.get("properties", ()) if registration.is_left_out(name)}
    if not left_out:
        found: dict[str, Any] = component.ref
        return found
    properties = {name: one for name, one in schema["properties"].items() if name not in left_out}
    required = [name for name in schema.get("required", ()) if name in properties]
    return schema | {"properties": properties, "required": required}


def json_schema(registration: Registration) -> dict[str, Any]:
    """The payload of a model as JSON Schema, complete. Raises ModuleNotFoundError without drf-spectacular."""
    if ComponentRegistry is None:
        raise ModuleNotFoundError(NEEDS_SPECTACULAR)
    with patched_settings({"OAS_VERSION": OPENAPI_VERSION}):
        components = ComponentRegistry()
        schema = payload_schema(registration, components)
        parts = components.build({}).get(ResolvedComponent.SCHEMA, {})
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "$defs": parts}
    text = json.dumps(whole, cls=DjangoJSONEncoder)  # descriptions may be lazy texts
    found: dict[str, Any] = json.loads(text.replace(COMPONENTS, "#/$defs/"))
    return found
