"""Deleting webhooks with all their deliveries, of which there may be a hundred thousand."""

from __future__ import annotations

from django.db import transaction
from django.db.models import Count, Q, QuerySet

from webhooks.admin.display import deliveries
from webhooks.managers import OPEN_STATES, State
from webhooks.models import Attempt, Delivery, Webhook


def delete(webhooks: QuerySet[Webhook]) -> None:
    """Delete them and what goes with them, in one transaction and without loading it."""
    using = webhooks.db
    with transaction.atomic(using):
        # A delivery that a worker adds meanwhile waits for this lock, and then finds no webhook.
        pks = list(webhooks.order_by("pk").select_for_update(of=("self",)).values_list("pk", flat=True))
        Attempt.objects.using(using).filter(delivery__webhook__in=pks)._raw_delete(using)
        Delivery.objects.using(using).filter(webhook__in=pks)._raw_delete(using)
        Webhook.objects.using(using).filter(pk__in=pks).delete()


def in_words(webhooks: QuerySet[Webhook]) -> tuple[list[str | list[str]], dict[str, int]]:
    """What would be deleted: lines for each webhook, and how many of what in all."""
    counted = webhooks.order_by("name").annotate(
        total=Count("deliveries"),
        unsent=Count("deliveries", filter=Q(deliveries__state__in=OPEN_STATES)),
        given_up=Count("deliveries", filter=Q(deliveries__state=State.FAILED)),
    )
    lines: list[str | list[str]] = []
    totals = {"webhooks": 0, "deliveries": 0}
    for name, total, unsent, given_up in counted.values_list("name", "total", "unsent", "given_up"):
        lines += [f"Webhook: {name}", [_line(total, unsent, given_up)]]
        totals["webhooks"] += 1
        totals["deliveries"] += total
    return lines, totals


def _line(total: int, unsent: int, given_up: int) -> str:
    if not total:
        return "No deliveries go with it."
    verb = "goes" if total == 1 else "go"
    details = [f"{unsent:,} not sent yet"] * bool(unsent) + [f"{given_up:,} failed"] * bool(given_up)
    inside = f" ({', '.join(details)})" if details else ""
    return f"{deliveries(total)} {verb} with it{inside}, and every attempt to send them."
