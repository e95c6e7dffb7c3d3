"""Deleting webhooks with all their deliveries, of which there may be a hundred thousand."""

from __future__ import annotations

from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet

from webhooks.models import Attempt, Delivery, Event, Webhook


def delete(webhooks: QuerySet[Webhook]) -> None:
    """Delete them and what goes with them, in one transaction and without loading it."""
    using = webhooks.db
    with transaction.atomic(using):
        # A delivery that a worker adds meanwhile waits for this lock, and then finds no webhook.
        pks = list(webhooks.order_by("pk").select_for_update(of=("self",)).values_list("pk", flat=True))
        theirs = Delivery.objects.using(using).filter(webhook__in=pks)
        others = Delivery.objects.using(using).exclude(webhook__in=pks).filter(event=OuterRef("pk"))
        orphans = list(
            Event.objects.using(using)
            .filter(~Exists(others), pk__in=theirs.values("event"))
            .values_list("pk", flat=True)
        )
        Attempt.objects.using(using).filter(delivery__webhook__in=pks)._raw_delete(using)
        theirs._raw_delete(using)
        for start in range(0, len(orphans), 1000):
            Event.objects.using(using).filter(pk__in=orphans[start : start + 1000])._raw_delete(using)
        Webhook.objects.using(using).filter(pk__in=pks).delete()
