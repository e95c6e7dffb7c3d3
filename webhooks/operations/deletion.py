"""Deleting webhooks with all their deliveries, of which there may be a hundred thousand."""

from __future__ import annotations

from django.db import transaction

from webhooks.delivery import purge
from webhooks.models import Webhook
from webhooks.models.webhook import WebhookQuerySet

# Rows that go at once. Nothing that locks more belongs into a request: under ATOMIC_REQUESTS it is one transaction, and
# each worker that meets one of the rows waits until it ends.
AT_ONCE = 1000


def delete(webhooks: WebhookQuerySet) -> None:
    """Take them out of use, so that nobody sees or serves them any more, and delete what few rows there are. Sweeps
    delete the rest."""
    using = webhooks.db
    pks = list(webhooks.values_list("pk", flat=True))
    with transaction.atomic(using):
        webhooks.filter(pk__in=pks).mark_deleted()
        purge.remove_webhooks(Webhook.with_deleted.using(using).being_deleted().filter(pk__in=pks), AT_ONCE)
