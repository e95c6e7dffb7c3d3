"""What the deletion of webhooks takes along, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db.models import Count, Q, QuerySet

from webhooks import permissions
from webhooks.admin.display import deliveries
from webhooks.models import Webhook
from webhooks.models.delivery import OPEN_STATES, State


def in_words(webhooks: QuerySet[Webhook], user: Any) -> tuple[list[str | list[str]], dict[str, int]]:
    """What would be deleted: lines for each webhook, and how many of what in all. Deliveries that the user may not see
    are not counted."""
    if not permissions.may_view_deliveries(user):
        return _unseen(list(webhooks.order_by("name")))
    is_partial = permissions.is_partial(user)
    seen = Q(deliveries__in=permissions.visible_deliveries(user)) if is_partial else Q()
    counted = webhooks.order_by("name").annotate(
        total=Count("deliveries", filter=seen),
        unsent=Count("deliveries", filter=seen & Q(deliveries__state__in=OPEN_STATES)),
        given_up=Count("deliveries", filter=seen & Q(deliveries__state=State.FAILED)),
    )
    lines: list[str | list[str]] = []
    totals = {"webhooks": 0, "deliveries": 0}
    for name, total, unsent, given_up in counted.values_list("name", "total", "unsent", "given_up"):
        unseen = " So do those of objects that you may not view, if there are any." if is_partial else ""
        lines += [f"Webhook: {name}", [_line(total, unsent, given_up) + unseen]]
        totals["webhooks"] += 1
        totals["deliveries"] += total
    return lines, totals


def _unseen(webhooks: Sequence[Webhook]) -> tuple[list[str | list[str]], dict[str, int]]:
    lines: list[str | list[str]] = []
    for webhook in webhooks:
        lines += [f"Webhook: {webhook}", ["Its deliveries, which you may not view, go with it, if there are any."]]
    return lines, {"webhooks": len(webhooks)}


def _line(total: int, unsent: int, given_up: int) -> str:
    if not total:
        return "No deliveries go with it."
    verb = "goes" if total == 1 else "go"
    details = [f"{unsent:,} not sent yet"] * bool(unsent) + [f"{given_up:,} failed"] * bool(given_up)
    inside = f" ({', '.join(details)})" if details else ""
    return f"{deliveries(total)} {verb} with it{inside}, and every attempt to send them."
