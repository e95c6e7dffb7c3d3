"""What the deletion of webhooks takes along, in words."""

from __future__ import annotations

from django.db.models import Count, Q, QuerySet

from webhooks.admin.display import deliveries
from webhooks.managers import OPEN_STATES, State
from webhooks.models import Webhook


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
