"""The pages Recover and Backfill of a webhook: choose a time, see a count, and begin the run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from django import forms
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.text import capfirst
from django.utils.timezone import get_current_timezone_name, localtime
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from webhooks import permissions
from webhooks.admin.display import page
from webhooks.admin.filters import MOMENT
from webhooks.admin.run_start import preview_context, show_run
from webhooks.models import RunKind, Webhook
from webhooks.operations import runs
from webhooks.operations.wording import exact_time

# A dry run counts for this many seconds, then shows its counts so far.
DRY_RUN_SECONDS = 2.0

MEANINGS = {
    RunKind.RECOVER: gettext_lazy(
        "Sends what this webhook should have sent and did not: failed deliveries again, and events that failed before "
        "they had a delivery. What the receiver accepted is not sent again, and what a user discarded is not sent."
    ),
    RunKind.BACKFILL: gettext_lazy(
        "Sends stored events that the webhook wants as it is now and never had a delivery of, for example events from "
        "before it was created."
    ),
}


class SinceForm(forms.Form):
    """Since when: some hours before now, or a time."""

    hours = forms.TypedChoiceField(
        label=gettext_lazy("Go back"),
        choices=[
            ("1", gettext_lazy("the last hour")),
            ("6", gettext_lazy("the last 6 hours")),
            ("24", gettext_lazy("the last 24 hours")),
            ("168", gettext_lazy("the last 7 days")),
            ("", gettext_lazy("another time")),
        ],
        coerce=int,
        empty_value=None,
        required=False,
    )
    since = forms.DateTimeField(required=False, widget=MOMENT)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        now = datetime.now(UTC).replace(microsecond=0)  # as the form of the second step has it
        if hours := cleaned.get("hours"):
            cleaned["since"] = now - timedelta(hours=hours)
        elif not self.errors and not cleaned.get("since"):
            self.add_error("since", _("Choose how far to go back, or enter a time."))
        elif not self.errors and cleaned["since"] > now:
            self.add_error("since", _("This time is in the future."))
        return cleaned


def may_begin(user: Any, kind: RunKind) -> bool:
    """Whether the user may begin runs of this kind."""
    return all(permissions.has_perm(user, one) for one in (*runs.PERMISSIONS[kind], "webhooks.add_run"))


def recover_view(request: HttpRequest, webhook: Webhook, kind: RunKind, context: dict[str, Any]) -> HttpResponse:
    """The form, the dry run of a chosen time, or with POST the begun run."""
    if not may_begin(request.user, kind):
        raise PermissionDenied
    given = request.POST if request.method == "POST" else request.GET
    form = SinceForm(given if given or request.method == "POST" else None, initial={"hours": "24"}, label_suffix="")
    form.fields["since"].label = _("Since (%(zone)s)") % {"zone": get_current_timezone_name()}
    act = capfirst(kind.label)
    context |= {
        "title": _("%(act)s %(webhook)s") % {"act": act, "webhook": webhook},
        "act": act,
        "meaning": MEANINGS[kind],
        "form": form,
        "webhook": webhook,
        "is_sent_later": not webhook.enabled or webhook.is_paused,
    }
    if form.is_valid():
        since: datetime = form.cleaned_data["since"]
        filters = runs.since_filters(webhook, since)
        if request.method == "POST":
            show_run(request, runs.start(kind, filters, request.user))
            return redirect("admin:webhooks_webhook_change", webhook.pk)
        context |= {
            **preview_context(request, kind, filters, DRY_RUN_SECONDS),
            "since": exact_time(since),
            "posted": localtime(since).strftime("%Y-%m-%dT%H:%M:%S"),
        }
    return page(request, "webhooks/admin/webhook/recover.html", context)
