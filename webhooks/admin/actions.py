"""Actions on many rows: retry, discard, enable, disable, resume, and the preview of a deletion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.contrib.auth import get_permission_codename
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest

from webhooks import permissions
from webhooks.admin.display import count_of, deliveries
from webhooks.capture import recording
from webhooks.models import Delivery, Webhook
from webhooks.models.delivery import OPEN_STATES, DeliveryQuerySet, State
from webhooks.operations import history, retries
from webhooks.operations.retries import Result


@dataclass(frozen=True)
class DeliveryAction:
    """Retry or discard. ``applies`` selects the deliveries that it can change; ``skipped`` says why it skips others."""

    name: str
    applies: Callable[[DeliveryQuerySet], DeliveryQuerySet]
    operation: Callable[[QuerySet[Delivery], Any, float], Result]
    done: str
    skipped: str

    def has_permission(self, user: Any, delivery: Delivery | None = None) -> bool:
        """Whether the user may do it to this delivery, or to some deliveries."""
        has_perm = bool(user.has_perm(f"webhooks.{get_permission_codename(self.name, Delivery._meta)}"))
        return has_perm and (delivery is None or permissions.may(user, self.name, delivery))

    def is_offered(self, user: Any, delivery: Delivery) -> bool:
        """Whether the user may do it to this delivery, and it would change something."""
        return self.has_permission(user, delivery) and self.applies(Delivery.objects.filter(pk=delivery.pk)).exists()

    def perform(self, request: HttpRequest, chosen: QuerySet[Delivery]) -> None:
        """Do it to the chosen deliveries that the user may change, oldest first, and show the result."""
        chosen = permissions.allowed(request.user, self.name, chosen)
        done = self.operation(chosen, request.user, retries.REQUEST_SECONDS)
        show_result(
            request, done.changed, self.done.format(deliveries(done.changed)), done.seen - done.changed, self.skipped
        )
        if not done.is_complete:
            messages.warning(request, "There were too many for one request. Repeat the action for the rest.")


RETRY = DeliveryAction(
    "retry",
    DeliveryQuerySet.retriable,
    retries.retry,
    done="{} will be sent again.",
    skipped="only failed, discarded or pending deliveries can be retried, and none of a deleted webhook",
)
DISCARD = DeliveryAction(
    "discard",
    DeliveryQuerySet.discardable,
    retries.discard,
    done="{} discarded.",
    skipped="finished deliveries, and deliveries that a worker is sending, cannot be discarded",
)


def show_result(request: HttpRequest, changed: int, done: str, skipped: int, why: str) -> None:
    """Show the result of an action: changed rows, skipped rows, and why it skipped them."""
    texts = [done] if changed or not skipped else []
    if skipped:
        texts.append(f"Skipped {skipped:,}: {why}.")
    messages.add_message(request, messages.SUCCESS if changed else messages.WARNING, " ".join(texts))


def set_enabled(request: HttpRequest, chosen: QuerySet[Webhook], enabled: bool) -> None:
    """Enable or disable webhooks. Stored deliveries of enabled webhooks are sent."""
    # Count before: the list may be filtered by this column.
    unchanged = chosen.filter(enabled=enabled).count()
    changed = []
    for webhook in chosen.filter(enabled=not enabled):
        webhook.enabled = enabled
        try:
            webhook.save_settings(["enabled"])
        except Webhook.DoesNotExist:
            continue  # deleted in the meantime
        changed.append(webhook)
    if enabled and changed:
        recording.wake_on_commit()
    word = "enabled" if enabled else "disabled"
    history.record(request.user, changed, history.CHANGE, f"{word.capitalize()}.")
    show_result(request, len(changed), f"{count_of(len(changed), 'webhook')} {word}.", unchanged, f"already {word}")


def resume(request: HttpRequest, chosen: QuerySet[Webhook]) -> None:
    """Send to paused webhooks at once, without waiting for the next probe."""
    count = chosen.count()
    paused = list(Webhook.objects.filter(pk__in=chosen.values("pk")).paused())
    Webhook.objects.filter(pk__in=[webhook.pk for webhook in paused]).resume()
    if paused:
        recording.wake_on_commit()
    history.record(request.user, paused, history.CHANGE, "Resumed.")
    show_result(request, len(paused), f"{count_of(len(paused), 'webhook')} resumed.", count - len(paused), "not paused")


def delete_preview(webhooks: QuerySet[Webhook], user: Any) -> tuple[list[str | list[str]], dict[str, int]]:
    """A preview of a deletion: lines for each webhook, and totals.

    Deliveries that the user may not view are not counted.
    """
    is_partial = permissions.is_partial(user) or not permissions.may_view_deliveries(user)
    visible = Q(deliveries__in=permissions.visible_deliveries(user)) if is_partial else Q()
    counted = webhooks.order_by("name").annotate(
        total=Count("deliveries", filter=visible),
        unsent=Count("deliveries", filter=visible & Q(deliveries__state__in=OPEN_STATES)),
        failed=Count("deliveries", filter=visible & Q(deliveries__state=State.FAILED)),
    )
    lines: list[str | list[str]] = []
    totals = {"webhooks": 0, "deliveries": 0}
    for name, total, unsent, failed in counted.values_list("name", "total", "unsent", "failed"):
        details = f" ({unsent:,} not sent yet, {failed:,} failed)" if unsent or failed else ""
        hidden = " Deliveries of objects that you may not view are deleted, too." if is_partial else ""
        lines += [f"Webhook: {name}", [f"{deliveries(total)}{details} with all attempts.{hidden}"]]
        totals["webhooks"] += 1
        totals["deliveries"] += total
    return lines, totals
