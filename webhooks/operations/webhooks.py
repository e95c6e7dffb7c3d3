"""Test, enable, pause, resume and delete webhooks, and rotate the keys that encrypt their secrets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction

from webhooks.capture.context import actor_columns, current_actor
from webhooks.delivery.maintenance import purge_webhooks
from webhooks.models import Event, Webhook
from webhooks.models.event import PING, PING_OBJECT_TYPE
from webhooks.models.ids import new_id
from webhooks.models.webhook import SECRET_FIELDS
from webhooks.models.webhook_states import WebhookQuerySet
from webhooks.operations import history
from webhooks.security import encryption
from webhooks.security.encryption import Secret, Unreadable
from webhooks.text import dumps
from webhooks.workers import jobs

# Rows that one request deletes at most. Under ATOMIC_REQUESTS they are locked until its end, and workers wait for them.
MAX_ROWS = 1000

BATCH = 200  # webhooks that one query of a key rotation loads


def ping(webhook: Webhook, user: Any = None) -> Event:
    """Send a test event to one webhook. A ``user`` gets an entry in the history.

    If the webhook is paused for its failures, the test probes it at once. If a user paused it, the test waits.
    """
    event = new_ping(webhook, webhook_ids=[webhook.pk])
    event.insert(Event.objects.db)
    Webhook.objects.filter(pk=webhook.pk).probe()
    jobs.wake_on_commit()
    if user is not None:
        history.record(user, [webhook], history.CHANGE, "Sent a test.")
    return event


def new_ping(webhook: Webhook, **fields: Any) -> Event:
    """A test event of this webhook, not saved. Its id is its own and so its lane: a test that fails blocks no other."""
    object_id, title = str(new_id()), f"test of {webhook.name}".strip()
    data = dumps({"id": object_id, "display": title})
    about = {"action": PING, "object_type": PING_OBJECT_TYPE, "object_id": object_id, "object_repr": title}
    return Event(data=data, **about, **actor_columns(current_actor()), **fields)


def set_enabled(webhooks: WebhookQuerySet, user: Any, enabled: bool) -> list[Webhook]:
    """Enable or disable webhooks. Deliveries that waited for it are sent. Returns the webhooks that it changed."""
    changed = []
    for webhook in webhooks.filter(enabled=not enabled):
        webhook.enabled = enabled
        try:
            webhook.save_settings(["enabled"], user)
        except Webhook.DoesNotExist:
            continue  # deleted in the meantime
        changed.append(webhook)
    if enabled and changed:
        jobs.wake_on_commit()
    history.record(user, changed, history.CHANGE, "Enabled." if enabled else "Disabled.")
    return changed


def pause(webhooks: WebhookQuerySet, user: Any) -> list[Webhook]:
    """Stop sending to enabled webhooks until ``resume``. Changes are still captured, and their deliveries wait.

    Returns the webhooks that it paused. A worker ends its open requests, and hands the rest back in some seconds.
    """
    with transaction.atomic(webhooks.db):
        paused = list(webhooks.pausable().select_for_update(no_key=True, of=("self",)))
        Webhook.objects.filter(pk__in=[webhook.pk for webhook in paused]).pause(user)
        history.record(user, paused, history.CHANGE, "Paused.")
    return paused


def resume(webhooks: WebhookQuerySet, user: Any) -> list[Webhook]:
    """Send to paused webhooks at once, without waiting for a probe. Returns the webhooks that it resumed."""
    with transaction.atomic(webhooks.db):
        resumed = list(webhooks.paused().select_for_update(no_key=True, of=("self",)))
        Webhook.objects.filter(pk__in=[webhook.pk for webhook in resumed]).resume()
        history.record(user, resumed, history.CHANGE, "Resumed.")
        if resumed:
            jobs.wake_on_commit()
    return resumed


def delete_webhooks(webhooks: WebhookQuerySet) -> None:
    """Delete webhooks with all their deliveries.

    They are hidden and disabled at once. If there are more than ``MAX_ROWS`` deliveries, the sweep deletes the rest.
    """
    using = webhooks.db
    pks = list(webhooks.values_list("pk", flat=True))
    with transaction.atomic(using):
        webhooks.filter(pk__in=pks).mark_deleted()
        purge_webhooks(Webhook.with_deleted.using(using).being_deleted().filter(pk__in=pks), MAX_ROWS)


@dataclass
class Rotated:
    """The result of a rotation, in numbers of secrets."""

    renewed: int = 0
    current: int = 0
    """Secrets that had the newest key already."""
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """The names of webhooks, each with the name of a secret, such as "secret headers"."""


def rotate_keys() -> Rotated:
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


def unreadable_secrets() -> list[tuple[str, str]]:
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
