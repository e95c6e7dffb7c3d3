"""Two users edit one webhook: whether its settings changed since one of them read it."""

from __future__ import annotations

import json
from typing import Any

from django.utils.crypto import salted_hmac

from webhooks.models import Webhook
from webhooks.models.webhook_secrets import SECRET_FIELDS
from webhooks.security.encryption import Secret

# The columns that users change. Workers write others, and ``enabled``.
COLUMNS = [field.attname for field in Webhook._meta.concrete_fields if field.editable and not field.primary_key]
# The settings that a user can read.
SETTINGS = [*(name for name in COLUMNS if name not in SECRET_FIELDS), "object_types"]

TAG_LENGTH = 32


def settings_of(webhook: Webhook) -> dict[str, Any]:
    """The readable settings of a webhook. Its models are the sorted keys of their content types."""
    stored = {name: getattr(webhook, name) for name in SETTINGS if name != "object_types"}
    return stored | {"object_types": sorted(one.pk for one in webhook.object_types.all())}


def is_same(one: Any, other: Any) -> bool:
    """Whether two values of a setting mean the same."""
    return bool(_plain(one) == _plain(other))


def _plain(value: Any) -> Any:
    # A form changes line breaks and blanks, and every empty value means the same.
    return [line.rstrip() for line in value.strip().splitlines()] if isinstance(value, str) else value or []


def settings_tag(webhook: Webhook) -> str:
    """A short text that changes with each change of a setting, secrets included. It reveals none of them."""
    hidden = {name: _revealed(getattr(webhook, name)) for name in SECRET_FIELDS}
    values = [settings_of(webhook), hidden, str(webhook.previous_secret_until)]
    text = json.dumps(values, sort_keys=True, default=str)
    return salted_hmac("webhooks.operations.edits", text, algorithm="sha256").hexdigest()[:TAG_LENGTH]


def _revealed(secret: Secret) -> str:
    # A rotation of the keys encrypts the same text again.
    return secret.stored if secret.problem else secret.reveal()
