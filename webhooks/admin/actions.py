"""Actions on many rows: retry, resend, discard, enable, disable, pause, resume, and the preview of a deletion."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext, ngettext_lazy

from webhooks import permissions
from webhooks.models import Delivery, Run, Webhook
from webhooks.models.queue import OPEN_STATES, State
from webhooks.operations import history, retries, runs, webhooks
from webhooks.operations.wording import count_of, number
from webhooks.workers import jobs

AGAIN = ngettext_lazy("%(number)s delivery will be sent again.", "%(number)s deliveries will be sent again.", "count")
DISCARDED = ngettext_lazy("%(number)s delivery discarded.", "%(number)s deliveries discarded.", "count")


# What each action does, and why it skips some deliveries.
OPERATIONS = {"retry": retries.retry, "resend": retries.resend, "discard": retries.discard}
WHY_SKIPPED = {
    "retry": gettext_lazy("only failed, discarded or pending deliveries can be retried, and none of a deleted webhook"),
    "resend": gettext_lazy("only finished deliveries can be resent, and none of a deleted webhook"),
    "discard": gettext_lazy("finished deliveries, and deliveries that a worker is sending, cannot be discarded"),
}


def act(request: HttpRequest, name: str, chosen: QuerySet[Delivery]) -> None:
    """Retry, resend or discard the chosen deliveries that the user may change, oldest first, and show the result."""
    permitted: Any = permissions.allowed(request.user, name, chosen)
    count = permitted.count()
    changed = OPERATIONS[name](permitted, request.user)
    done = DISCARDED if name == "discard" else AGAIN
    text = done % {"count": changed, "number": number(changed)}
    show_result(request, changed, text, count - changed, str(WHY_SKIPPED[name]))


def show_run(request: HttpRequest, run: Run) -> None:
    """Say that a run has begun, and where its progress is."""
    url = reverse("admin:webhooks_run_change", args=[run.pk])
    text = _('Run {} has begun: {}. Workers do it in the background. <a href="{}">See its progress</a>.')
    messages.success(request, format_html(text, run.pk, runs.summary(run), url))


def show_result(request: HttpRequest, changed: int, done: str, skipped: int, why: str) -> None:
    """Show the result of an action: changed rows, skipped rows, and why it skipped them."""
    texts = [done] if changed or not skipped else []
    if skipped:
        texts.append(_("Skipped %(number)s: %(why)s.") % {"number": number(skipped), "why": why})
    messages.add_message(request, messages.SUCCESS if changed else messages.WARNING, " ".join(texts))


def set_enabled(request: HttpRequest, chosen: QuerySet[Webhook], enabled: bool) -> None:
    """Enable or disable webhooks. Stored deliveries of enabled webhooks are sent."""
    # Count before: the list may be filtered by this column.
    unchanged = chosen.filter(enabled=enabled).count()
    changed = []
    for webhook in chosen.filter(enabled=not enabled):
        webhook.enabled = enabled
        try:
            webhook.save_settings(["enabled"], request.user)
        except Webhook.DoesNotExist:
            continue  # deleted in the meantime
        changed.append(webhook)
    if enabled and changed:
        jobs.wake_on_commit()
    history.record(request.user, changed, history.CHANGE, "Enabled." if enabled else "Disabled.")
    count = len(changed)
    if enabled:
        done, why = ngettext("%(number)s webhook enabled.", "%(number)s webhooks enabled.", count), _("already enabled")
    else:
        done = ngettext("%(number)s webhook disabled.", "%(number)s webhooks disabled.", count)
        why = _("already disabled")
    show_result(request, count, done % {"number": number(count)}, unchanged, why)


def enable(request: HttpRequest, chosen: QuerySet[Webhook]) -> None:
    """Enable webhooks, and show the result."""
    set_enabled(request, chosen, enabled=True)


def pause(request: HttpRequest, chosen: QuerySet[Webhook]) -> None:
    """Stop sending to webhooks until a user resumes them, and show the result."""
    count = chosen.count()
    paused = len(webhooks.pause(Webhook.objects.filter(pk__in=chosen.values("pk")), request.user))
    done = ngettext(
        "%(number)s webhook paused. Changes are still stored, and sent after you resume.",
        "%(number)s webhooks paused. Changes are still stored, and sent after you resume.",
        paused,
    ) % {"number": number(paused)}
    show_result(request, paused, done, count - paused, _("disabled, or paused by a user already"))


def resume(request: HttpRequest, chosen: QuerySet[Webhook]) -> None:
    """Send to paused webhooks at once, and show the result."""
    count = chosen.count()
    resumed = len(webhooks.resume(Webhook.objects.filter(pk__in=chosen.values("pk")), request.user))
    done = ngettext("%(number)s webhook resumed.", "%(number)s webhooks resumed.", resumed)
    show_result(request, resumed, done % {"number": number(resumed)}, count - resumed, _("not paused"))


def delete_preview(webhooks: QuerySet[Webhook], user: Any) -> tuple[list[str | list[str]], dict[str, int]]:
    """A preview of a deletion: lines for each webhook, and totals.

    Deliveries that the user may not view are not counted.
    """
    is_partial = permissions.is_partial(user) or not permissions.may_view_deliveries(user)
    visible = Q(deliveries__in=permissions.visible_deliveries(user)) if is_partial else Q()
    counted = webhooks.order_by("name").annotate(
        total=Count("deliveries", filter=visible),
        unsent=Count("deliveries", filter=visible & Q(deliveries__queued__state__in=OPEN_STATES)),
        failed=Count("deliveries", filter=visible & Q(deliveries__queued__state=State.FAILED)),
    )
    lines: list[str | list[str]] = []
    webhook_count = delivery_count = 0
    for name, total, unsent, failed in counted.values_list("name", "total", "unsent", "failed"):
        text = _("%(deliveries)s with all attempts.")
        if unsent or failed:
            text = _("%(deliveries)s (%(unsent)s not sent yet, %(failed)s failed) with all attempts.")
        text %= {"deliveries": count_of(total, "delivery"), "unsent": number(unsent), "failed": number(failed)}
        hidden = _("Deliveries of objects that you may not view are deleted, too.") if is_partial else ""
        lines += [_("Webhook: %(name)s") % {"name": name}, [f"{text} {hidden}".strip()]]
        webhook_count += 1
        delivery_count += total
    return lines, {_("webhooks"): webhook_count, _("deliveries"): delivery_count}
