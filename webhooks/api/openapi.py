"""The payloads of webhooks in the OpenAPI document of a host that uses drf-spectacular."""

from __future__ import annotations

from typing import Any

from django.conf import settings

from webhooks import registry
from webhooks.payloads.schema import payload_schema

DESCRIPTION = "An admin defines webhooks. A change of this model is sent to their URLs."


def add_webhooks(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """Add a webhook for each registered model. Name it in ``SPECTACULAR_SETTINGS["POSTPROCESSING_HOOKS"]``.

    OpenAPI has webhooks from 3.1 on, which ``SPECTACULAR_SETTINGS["OAS_VERSION"]`` sets. A document of an older version
    stays as it is.
    """
    if result["openapi"].startswith("3.0"):
        return result
    components = generator.registry
    webhooks = {
        label: {"post": _operation(label, payload_schema(registry.registration_by_label(label), components))}
        for label in registry.registered_models()
    }
    appended = getattr(settings, "SPECTACULAR_SETTINGS", {}).get("APPEND_COMPONENTS", {})
    return {
        **result,
        "components": {**result.get("components", {}), **components.build(appended)},
        "webhooks": {**result.get("webhooks", {}), **webhooks},
    }


def _operation(label: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "operationId": f"webhook_{label.replace('.', '_')}",
        "summary": schema["title"],
        "description": DESCRIPTION,
        "tags": ["webhooks"],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {"2XX": {"description": "Received. Any other answer is a failure, and the request is repeated."}},
    }
