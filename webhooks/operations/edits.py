"""Two users edit one webhook: whether its settings changed since one of them read it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from django.db.models import QuerySet
from django.utils.crypto import salted_hmac

from webhooks.ground.security.encryption import Secret
from webhooks.ground.text.json_text import json_equal
from webhooks.models import Webhook
from webhooks.models.webhook import SETTINGS
from webhooks.models.webhook_secrets import CREDENTIAL_FIELDS, SECRET_FIELDS

# The settings that a user can read. Workers write other columns, and ``enabled``.
READABLE_SETTINGS = [name for name in SETTINGS if name not in CREDENTIAL_FIELDS]

TAG_LENGTH = 32


def settings_of(webhook: Webhook) -> dict[str, Any]:
    """The readable settings of a webhook. Its models are the sorted keys of their content types."""
    return {name: as_setting(getattr(webhook, name)) for name in READABLE_SETTINGS}


def as_setting(value: Any) -> Any:
    """A value of a field as a plain setting. A relation or its rows become sorted keys."""
    rows = value.all() if hasattr(value, "all") else value
    return sorted(one.pk for one in rows) if isinstance(rows, QuerySet) else rows


def changed_since(read: str, stored: Mapping[str, Any]) -> dict[str, Any]:
    """The earlier values of the settings that differ from the ``stored`` ones.

    ``read`` has the settings as JSON that a user has read; nothing is compared if it is none. Leaves out ``enabled``: a
    worker may disable a webhook, and the page of the form says so.
    """
    earlier = _parse(read)
    names = [name for name in READABLE_SETTINGS if name in earlier and name in stored and name != "enabled"]
    return {name: earlier[name] for name in names if not is_same(earlier[name], stored[name])}


def changed_secrets(read: str, stored: Mapping[str, str]) -> set[str]:
    """The secrets that differ from the ``stored`` ones, by their tags. ``read`` is as for ``changed_since``."""
    earlier = _parse(read)
    return {name for name, tag in stored.items() if name in earlier and earlier[name] != tag}


def _parse(read: str) -> dict[str, Any]:
    try:
        earlier = json.loads(read)
    except (ValueError, RecursionError):
        return {}
    return earlier if isinstance(earlier, dict) else {}


def is_same(one: Any, other: Any) -> bool:
    """Whether two values of a setting mean the same."""
    return json_equal(_plain(one), _plain(other))


def _plain(value: Any) -> Any:
    # A form changes line breaks and blanks, and every empty value means the same.
    return [line.rstrip() for line in value.strip().splitlines()] if isinstance(value, str) else value or []


def is_posted_back(value: Any, stored: Any) -> bool:
    """Whether a form posts a stored text as it is. It rewrites the line breaks, and strips the blanks around."""
    if not (isinstance(value, str) and isinstance(stored, str)):
        return False
    return value.strip().splitlines() == stored.strip().splitlines()


def settings_tag(webhook: Webhook) -> str:
    """A short text that changes with each change of a setting, secrets included. It reveals none of them."""
    hidden = {name: _revealed(getattr(webhook, name)) for name in SECRET_FIELDS}
    values = [settings_of(webhook), hidden, str(webhook.previous_secret_until)]
    return _tag(json.dumps(values, sort_keys=True, default=str))


def secret_tags(webhook: Webhook) -> dict[str, str]:
    """For each secret that users enter, a short text that changes with it. It does not reveal it."""
    return {name: _tag(json.dumps([webhook.pk, name, _revealed(getattr(webhook, name))])) for name in CREDENTIAL_FIELDS}


def _tag(text: str) -> str:
    return salted_hmac("webhooks.operations.edits", text, algorithm="sha256").hexdigest()[:TAG_LENGTH]


def _revealed(secret: Secret) -> str:
    # A rotation of the keys encrypts the same text again.
    return secret.stored if secret.problem else secret.reveal()
