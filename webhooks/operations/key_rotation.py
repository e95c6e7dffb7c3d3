"""What is encrypted with an older key, encrypted anew with the newest; and what no key decrypts any more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from webhooks.models import Webhook
from webhooks.models.webhook import SECRET_FIELDS
from webhooks.security import encryption
from webhooks.security.encryption import Secret, Unreadable

# Rows that are read at once.
BATCH = 200


@dataclass
class Tally:
    """How many texts are encrypted anew, were so already, and which ones cannot be read: webhook and what of it."""

    renewed: int = 0
    current: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)


def renew() -> Tally:
    """Encrypt everything with the newest key. May be run again, and beside everything else: what is changed meanwhile
    keeps its change. Raises Unreadable where the keys cannot be used."""
    tally = Tally()
    for webhook in _with_secrets():
        for name in SECRET_FIELDS:
            if getattr(webhook, name):
                _renew(webhook, name, tally)
    return tally


def unreadable() -> list[tuple[str, str]]:
    """The names of webhooks, each with what no key decrypts, in words."""
    return [
        (webhook.name, _in_words(name))
        for webhook in _with_secrets()
        for name in SECRET_FIELDS
        if getattr(webhook, name).problem
    ]


def _renew(webhook: Webhook, name: str, tally: Tally) -> None:
    secret: Secret = getattr(webhook, name)
    if encryption.is_current(secret.stored):
        tally.current += 1
        return
    try:
        renewed = encryption.encrypt(secret.reveal())
    except Unreadable:
        tally.unreadable.append((webhook.name, _in_words(name)))
        return
    # Only where it is still what was read: an admin may have entered another one.
    same = Webhook.objects.filter(pk=webhook.pk, **{name: secret})
    tally.renewed += same.update(**{name: renewed})


def _in_words(name: str) -> str:
    return name.replace("_", " ")


def _with_secrets() -> Iterator[Webhook]:
    """All webhooks, in batches, without a transaction that lasts."""
    rows = Webhook.objects.order_by("pk").only("name", *SECRET_FIELDS)
    last = 0
    while batch := list(rows.filter(pk__gt=last)[:BATCH]):
        yield from batch
        last = batch[-1].pk
