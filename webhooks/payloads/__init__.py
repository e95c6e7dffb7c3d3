"""An Event as the body of a request, and the snapshots of an object."""

from webhooks.payloads.body import (
    SERIALIZED_COLUMNS,
    Bodies,
    Unsendable,
    as_sent_to,
    as_serialized_by,
    form_body,
    has_serializer,
    json_body,
    refuse_too_large,
    serializer_columns,
    serializer_for,
    snapshots_json,
    webhooks_by_serializer,
)

__all__ = [
    "SERIALIZED_COLUMNS", "Bodies", "Unsendable", "as_sent_to", "as_serialized_by", "form_body",
    "has_serializer", "json_body", "refuse_too_large", "serializer_columns", "serializer_for",
    "snapshots_json", "webhooks_by_serializer",
]  # fmt: skip
