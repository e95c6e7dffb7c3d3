"""Key rotation: encrypt the stored secrets with the newest key, and find secrets that no key decrypts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from webhooks.models import Webhook
from webhooks.models.webhook import SECRET_FIELDS
from webhooks.security import encryption
from webhooks.security.encryption import Secret, Unreadable

BATCH = 200  # rows that one query loads


@dataclass
class Rotated:
    """The result of a rotation, in numbers of secrets."""

    renewed: int = 0
    current: int = 0
    """Secrets that had the newest key already."""
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """The names of webhooks, each with the name of a secret, such as "secret headers"."""


def rotate() -> Rotated:
    """Encrypt all secrets with the newest key. Can be repeated, and keeps changes that users make meanwhile.

    Raises Unreadable if the keys in the settings are invalid.
    """
    result = Rotated()
    for webhook, name, secret in _secrets():
        if encryption.is_current(secret.stored):
            result.current += 1
            continue
        try:
            renewed = encryption.encrypt(secret.reveal())
        except Unreadable:
            result.unreadable.append((webhook.name, name.replace("_", " ")))
            continue
        # Filter by the old value: a user may have entered a new secret meanwhile.
        result.renewed += Webhook.objects.filter(pk=webhook.pk, **{name: secret}).update(**{name: renewed})
    return result


def unreadable() -> list[tuple[str, str]]:
    """The secrets that no key decrypts, as in ``Rotated.unreadable``."""
    return [(webhook.name, name.replace("_", " ")) for webhook, name, secret in _secrets() if secret.problem]


def _secrets() -> Iterator[tuple[Webhook, str, Secret]]:
    """Each secret that is not empty, with its webhook and field. Loads rows in batches, in no long transaction."""
    rows = Webhook.objects.order_by("pk").only("name", *SECRET_FIELDS)
    last = 0
    while batch := list(rows.filter(pk__gt=last)[:BATCH]):
        for webhook in batch:
            yield from ((webhook, name, getattr(webhook, name)) for name in SECRET_FIELDS if getattr(webhook, name))
        last = batch[-1].pk
