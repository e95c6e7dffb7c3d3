"""An object as JSON, and an Event as the body of a request."""

from webhooks.payloads.body import Bodies, form_body, json_body
from webhooks.payloads.freezing import Frozen, Unsendable, freeze, refuse_too_large, reread_all
from webhooks.payloads.variants import (
    TEXTS,
    chosen_serializers,
    sent_to,
    serializer_for,
    snapshots_json,
    texts_for,
    was_written_by,
    written_by,
)

__all__ = [
    "TEXTS", "Bodies", "Frozen", "Unsendable", "chosen_serializers", "form_body", "freeze", "json_body",
    "refuse_too_large", "reread_all", "sent_to", "serializer_for", "snapshots_json", "texts_for", "was_written_by",
    "written_by",
]  # fmt: skip
