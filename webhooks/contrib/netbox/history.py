"""The history of this app in NetBox's changelog: the callable for the setting HISTORY.

A row of the changelog has a number as the key of its object. A delivery has a UUID, so its entries are entries of its
webhook. An entry about many rows has the key 0, which no row has.
"""

from __future__ import annotations

import uuid
from typing import Any

from core.choices import ObjectChangeActionChoices
from django.contrib.auth import get_user_model
from django.contrib.contenttypes.models import ContentType
from django.db import models
from netbox.context import current_request

from core.models import ObjectChange
from webhooks.capture.context import current_actor
from webhooks.ground.text import as_uuid
from webhooks.insight.history import HistoryEntry
from webhooks.models import Webhook

ACTIONS = {
    "added": ObjectChangeActionChoices.ACTION_CREATE,
    "changed": ObjectChangeActionChoices.ACTION_UPDATE,
    "deleted": ObjectChangeActionChoices.ACTION_DELETE,
}
LENGTH, USERNAME_LENGTH = 200, 150
"""Characters of a name and of a message, and of the name of a user, as in NetBox's columns."""


def record(entry: HistoryEntry) -> None:
    """Add an entry to NetBox's changelog."""
    model, key = _object_of(entry)
    ObjectChange.objects.create(
        user=entry.user if isinstance(entry.user, get_user_model()) else None,
        user_name=entry.username[:USERNAME_LENGTH] or "-",
        request_id=_request_id(),
        action=ACTIONS[entry.verb],
        changed_object_type=ContentType.objects.get_for_model(model),
        changed_object_id=key,
        object_repr=entry.name[:LENGTH],
        message=entry.message[:LENGTH],
        prechange_data=entry.before,
        postchange_data=entry.after,
    )


def _object_of(entry: HistoryEntry) -> tuple[type[models.Model], int]:
    if isinstance(entry.pk, int):
        return entry.model, entry.pk
    return (Webhook, entry.webhook_id) if entry.webhook_id else (entry.model, 0)


def _request_id() -> uuid.UUID:
    """The id of NetBox's request, so that its page lists the entry among the other changes of the request."""
    request: Any = current_request.get()
    known = getattr(request, "id", None) or as_uuid(current_actor().request_id)
    return known if isinstance(known, uuid.UUID) else uuid.uuid4()
