"""The payloads of webhooks in the OpenAPI document of a host that uses drf-spectacular."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from drf_spectacular.drainage import warn

from webhooks.ground import registry
from webhooks.ground.payloads.schema import payload_schema

DESCRIPTION = "An admin defines webhooks. A change of this model is sent to their URLs."


def add_webhooks(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """Add a webhook for each registered model. Name it in ``SPECTACULAR_SETTINGS["POSTPROCESSING_HOOKS"]``.

    OpenAPI has webhooks from 3.1 on, which ``SPECTACULAR_SETTINGS["OAS_VERSION"]`` sets. A document of an older version
    stays as it is.
    """
    if result["openapi"].startswith("3.0"):
        return result
    webhooks = dict(_webhooks(generator.registry))
    appended = getattr(settings, "SPECTACULAR_SETTINGS", {}).get("APPEND_COMPONENTS", {})
    components = {**result.get("components", {})}
    for kind, schemas in generator.registry.build(appended).items():
        # None: its serializer failed.
        described = {name: schema for name, schema in schemas.items() if schema is not None}
        components[kind] = {**described, **components.get(kind, {})}  # another hook may have changed them
    return {**result, "components": components, "webhooks": {**result.get("webhooks", {}), **webhooks}}


def _webhooks(components: Any) -> Iterator[tuple[str, Any]]:
    for registration in registry.registrations():
        try:
            schema = payload_schema(registration, components)
        except Exception as error:  # the host's serializer may raise anything, and its document is worth more
            warn(f"{registration.label} has no webhook in the document: {type(error).__name__}: {error}")
        else:
            yield registration.label, {"post": _operation(registration.label, schema)}


def _operation(label: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "operationId": f"webhook_{label.replace('.', '_')}",
        "summary": schema["title"],
        "description": DESCRIPTION,
        "tags": ["webhooks"],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {"2XX": {"description": "Received. Any other answer is a failure, and the request is repeated."}},
    }
