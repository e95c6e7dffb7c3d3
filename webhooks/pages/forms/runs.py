"""The forms of the pages before a run: which rows of a list it takes, or since when."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from webhooks.delivery.runs.kinds import RunKind
from webhooks.ground.db import to_utc
from webhooks.insight.wording import exact_time, local_time
from webhooks.models import Webhook
from webhooks.models.filters import OPTIONS
from webhooks.models.skip import Rule
from webhooks.operations import runs
from webhooks.operations.kinds import RUN_KINDS
from webhooks.pages.forms.filters import DeliveryFilterForm, EventFilterForm, MomentField


def read_run(request: HttpRequest) -> tuple[RunKind, dict[str, Any]]:
    """The kind of a run, and its filters as the list reads them.

    Raises Http404 for a run that no list offers, and PermissionDenied if the user may not act on such rows.
    """
    kind = RUN_KINDS.get(request.GET.get("kind", ""))
    form_class = EventFilterForm if kind and kind.listed == "event" else DeliveryFilterForm
    form = form_class(request, {"kind", "count", *OPTIONS})
    if kind is None or kind.is_of_webhook or not form.is_valid():
        raise Http404(_("There is no such run."))
    options = {name: True for name in OPTIONS if name in request.GET and name in kind.filters}
    if kind.missing_permissions(request.user):
        raise PermissionDenied
    return kind, form.chosen | options


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
    since = MomentField(required=False)

    def __init__(self, data: Any = None, **options: Any) -> None:
        super().__init__(data, **{"initial": {"hours": "24"}, "label_suffix": ""} | options)
        self.fields["since"].label = _("Since (%(zone)s)") % {"zone": timezone.get_current_timezone_name()}

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        now = timezone.now().replace(microsecond=0)  # as the form of the second step has it
        if hours := cleaned.get("hours"):
            cleaned["since"] = now - timedelta(hours=hours)
        elif not self.errors and not cleaned.get("since"):
            self.add_error("since", _("Choose how far to go back, or enter a time."))
        elif not self.errors and to_utc(cleaned["since"]) > to_utc(now):
            self.add_error("since", _("This time is in the future."))
        return cleaned

    def filters(self, webhook: Webhook) -> dict[str, Any]:
        """The filters of the run of this webhook, if the form is valid."""
        rule = self.cleaned_data.get("rule")
        return runs.since_filters(webhook, self.cleaned_data["since"]) | ({"rule": rule} if rule else {})

    def shown(self) -> dict[str, str]:
        """The chosen time in words, what the button of the second step posts, and the rule; if the form is valid."""
        since: datetime = self.cleaned_data["since"]
        return {
            "since": exact_time(since),
            "rule": self.cleaned_data.get("rule", ""),
            "posted": local_time(since).isoformat(timespec="seconds"),  # with its offset: an hour of autumn comes twice
        }


class SkippedForm(SinceForm):
    """Also which rule refused the changes."""

    rule = forms.ChoiceField(
        label=gettext_lazy("Skipped because of"),
        choices=[("", gettext_lazy("any reason")), *(one for one in Rule.choices if one[0] != Rule.LOOP_PROTECTION)],
        required=False,
    )


def since_form(kind: RunKind) -> type[SinceForm]:
    """The form of a kind of run of one webhook."""
    return SkippedForm if "rule" in kind.filters else SinceForm
