"""The pages before a run: the true number of its rows, the oldest ones, and the button that begins it.

One page begins a run of the rows of a list. Recover, Backfill and Recover skipped begin one of a webhook, from a chosen
time on.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin import ModelAdmin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext_lazy

from webhooks import permissions
from webhooks.admin.display import page
from webhooks.admin.filters import DeliveryFilterForm, EventFilterForm, MomentField
from webhooks.admin.lists import redirect_back, row_url, show_result
from webhooks.db import to_utc
from webhooks.delivery.runs.acts import PERMISSIONS
from webhooks.error_kinds import KINDS
from webhooks.insight.wording import count_of, exact_time, local_time, number
from webhooks.models import Run, RunKind, Webhook
from webhooks.models.event import label_of_action
from webhooks.models.selection import EACH, OPTIONS, SUPERSEDED, without_options
from webhooks.models.skip import Rule
from webhooks.operations import runs
from webhooks.operations.run_filters import FILTERS, RefusedFilter
from webhooks.templatetags.webhooks_display import state_word

# The question of the page, without webhooks as long as they are not all known, and the consequence of a yes.
QUESTIONS: dict[RunKind, Any] = {
    RunKind.RETRY: ngettext_lazy(
        "Retry %(rows)s delivery of %(webhooks)s?", "Retry %(rows)s deliveries of %(webhooks)s?", "count"
    ),
    RunKind.RESEND: ngettext_lazy(
        "Resend %(rows)s delivery of %(webhooks)s?", "Resend %(rows)s deliveries of %(webhooks)s?", "count"
    ),
    RunKind.DISCARD: ngettext_lazy(
        "Discard %(rows)s delivery of %(webhooks)s?", "Discard %(rows)s deliveries of %(webhooks)s?", "count"
    ),
    RunKind.REPLAY: ngettext_lazy("Replay %(rows)s event?", "Replay %(rows)s events?", "count"),
}
SHORT_QUESTIONS: dict[RunKind, Any] = QUESTIONS | {
    RunKind.RETRY: ngettext_lazy("Retry %(rows)s delivery?", "Retry %(rows)s deliveries?", "count"),
    RunKind.RESEND: ngettext_lazy("Resend %(rows)s delivery?", "Resend %(rows)s deliveries?", "count"),
    RunKind.DISCARD: ngettext_lazy("Discard %(rows)s delivery?", "Discard %(rows)s deliveries?", "count"),
}
CONSEQUENCES = {
    RunKind.RETRY: gettext_lazy("They are sent again, in the order of their lanes, with the data they had."),
    RunKind.RESEND: gettext_lazy(
        "They are sent again, in the order of their lanes, with the data they had. Receivers get succeeded ones twice, "
        "with the same webhook-id."
    ),
    RunKind.DISCARD: gettext_lazy(
        "Their receivers do not get these changes. A discarded delivery can be retried until it is deleted."
    ),
    RunKind.REPLAY: gettext_lazy("Their objects are captured as they are today, as new events."),
    RunKind.RECOVER: gettext_lazy(
        "Sends what this webhook should have sent and did not: failed deliveries again, and events that failed before "
        "they had a delivery. What the receiver accepted is not sent again, and what a user discarded is not sent."
    ),
    RunKind.BACKFILL: gettext_lazy(
        "Sends this webhook the stored events that match its current settings and that it never got, for example "
        "events from before it was created."
    ),
    RunKind.RECOVER_SKIPPED: gettext_lazy(
        "Sends the objects of changes that this webhook skipped, for example because of a wrong condition: each object "
        "once, as it is now, if the webhook wants it now. What the webhook got later is left out."
    ),
}

# The names of the filters. The title of a run names its webhook.
NAMES = {
    "state": gettext_lazy("state"),
    "error_kind": gettext_lazy("error"),
    "status": gettext_lazy("HTTP status"),
    "object_type": gettext_lazy("model"),
    "object_id": gettext_lazy("object's id"),
    "action": gettext_lazy("action"),
    "request_id": gettext_lazy("request"),
    "user": gettext_lazy("user"),
    "name": gettext_lazy("name contains"),
    "failed": gettext_lazy("failed"),
    "rule": gettext_lazy("reason"),
    "created_after": gettext_lazy("since %(time)s"),
    "created_before": gettext_lazy("before %(time)s"),
    EACH: gettext_lazy("each event of an object"),
    SUPERSEDED: gettext_lazy("superseded ones, too"),
}

# Runs of few deliveries are done at once. The result says it.
AGAIN = ngettext_lazy("%(number)s delivery will be sent again.", "%(number)s deliveries will be sent again.", "count")
DONE = {
    RunKind.RETRY: AGAIN,
    RunKind.RESEND: AGAIN,
    RunKind.DISCARD: ngettext_lazy("%(number)s delivery discarded.", "%(number)s deliveries discarded.", "count"),
}

# A page counts for this many seconds before it answers. Then it loads itself again, and counts for longer.
COUNT_SECONDS = 0.03


# The rows of a list


def start_view(model_admin: ModelAdmin, request: HttpRequest) -> HttpResponse:
    """GET previews the run of the rows that the filters of a list choose, POST begins it.

    A button of another page posts the address to return to as ``next``. If there are many rows, ask first.
    """
    kind, filters = read_run(request)
    if not all(permissions.has_perm(request.user, one) for one in PERMISSIONS[kind]):
        raise PermissionDenied
    try:
        # Few rows are changed at once. A run needs another permission.
        is_many = kind not in DONE or not without_options(filters)
        may_run = permissions.has_perm(request.user, "rq_webhooks.add_run")
        if request.method == "POST":
            is_run = is_many or runs.few_rows(kind, filters, request.user) is None
            if is_run and "next" in request.POST:
                return redirect(request.get_full_path())
            if is_run and not may_run:
                raise PermissionDenied
            return _start(request, kind, filters)
        shown = preview_context(request, kind, filters, takes_all=True)
        is_run = is_many or shown["preview"].is_more_than(runs.AT_ONCE)
    except RefusedFilter as refused:
        messages.error(request, str(refused))
        return redirect(_list_url(kind))
    chosen = permissions.visible_webhooks(request.user).filter(pk=filters.get("webhook", 0)).first()
    context = question_context(model_admin, request, kind, shown["preview"], chosen) | {
        **shown,
        "webhook": chosen,
        "filters": filters_in_words(filters),
        "is_run": is_run,
        "may_start": may_run or not is_run,
    }
    return page(request, "rq_webhooks/admin/run/start.html", context)


def question_context(
    model_admin: ModelAdmin, request: HttpRequest, kind: RunKind, preview: runs.Preview, chosen: Webhook | None = None
) -> dict[str, Any]:
    """The context of a page that asks before it acts on the rows of a preview, of the ``chosen`` webhook or of any."""
    return model_admin.admin_site.each_context(request) | {
        "title": _question(kind, preview, chosen),
        "consequence": CONSEQUENCES[kind],
        "button": capfirst(kind.label),
        "is_dangerous": kind == RunKind.DISCARD,
        "preview": preview,
        "may_start": True,
        "list_url": _list_url(kind),
        "list_name": _("Events") if kind == RunKind.REPLAY else _("Deliveries"),
    }


def _question(kind: RunKind, preview: runs.Preview, chosen: Webhook | None) -> str:
    """Such as "Discard 49,950 deliveries of 2 webhooks?"."""
    if not preview.may_take_any:
        return _("Nothing matches")
    count, rows = shown_count(preview)
    words = {"count": count, "rows": rows}
    if chosen:
        return str(QUESTIONS[kind] % {**words, "webhooks": chosen})
    if not preview.is_complete:
        return str(SHORT_QUESTIONS[kind] % words)
    webhooks: Any = count_of(len(preview.webhooks), "webhook")
    if len(preview.webhooks) == 1:
        webhooks = Webhook.with_deleted.filter(pk__in=preview.webhooks).first() or ""
    return str(QUESTIONS[kind] % {**words, "webhooks": webhooks})


def shown_count(preview: runs.Preview) -> tuple[int, str]:
    """The number of rows, and the same in a sentence: "49,950", "at least 1,000" or "up to 10,710"."""
    if preview.is_complete:
        return preview.count, number(preview.count)
    if preview.at_most is not None:
        return preview.at_most, _("up to %(count)s") % {"count": number(preview.at_most)}
    return preview.count, _("at least %(count)s") % {"count": number(preview.count)}


def _start(request: HttpRequest, kind: RunKind, filters: dict[str, Any]) -> HttpResponse:
    result: Run | int
    key = request.POST.get("nonce", "")
    try:
        if kind in DONE and without_options(filters):
            result = runs.act(kind, filters, request.user, key)
        else:
            result = runs.start(kind, filters, request.user, takes_all=not without_options(filters), request_key=key)
    except runs.RunExists as found:
        return show_existing(request, found)
    if isinstance(result, Run):
        show_run(request, result)
        return redirect("admin:rq_webhooks_run_change", result.pk)
    show_result(request, DONE[kind], result)
    return redirect_back(request, _list_url(kind))


def _list_url(kind: RunKind) -> str:
    return reverse(f"admin:rq_webhooks_{'event' if kind == RunKind.REPLAY else 'delivery'}_changelist")


def read_run(request: HttpRequest) -> tuple[RunKind, dict[str, Any]]:
    """The kind of a run, and its filters as the list reads them. Raises Http404 for a run that no list offers."""
    kind = request.GET.get("kind")
    form_class = EventFilterForm if kind == RunKind.REPLAY else DeliveryFilterForm
    form = form_class(request, {"kind", "count", *OPTIONS})
    if kind not in QUESTIONS or not form.is_valid():
        raise Http404(_("There is no such run."))
    options = {name: True for name in OPTIONS if name in request.GET and name in FILTERS[RunKind(kind)]}
    return RunKind(kind), form.chosen | options


# Recover, Backfill and Recover skipped


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


class SkippedForm(SinceForm):
    """Also which rule refused the changes."""

    rule = forms.ChoiceField(
        label=gettext_lazy("Skipped because of"),
        choices=[("", gettext_lazy("any reason")), *(one for one in Rule.choices if one[0] != Rule.LOOP_PROTECTION)],
        required=False,
    )


def may_begin(user: Any, kind: RunKind) -> bool:
    """Whether the user may begin runs of this kind."""
    return all(permissions.has_perm(user, one) for one in (*PERMISSIONS[kind], "rq_webhooks.add_run"))


def recover_view(request: HttpRequest, webhook: Webhook, kind: RunKind, context: dict[str, Any]) -> HttpResponse:
    """The form, the dry run of a chosen time, or with POST the begun run."""
    if not may_begin(request.user, kind):
        raise PermissionDenied
    given = request.POST if request.method == "POST" else request.GET
    form_class = SkippedForm if kind == RunKind.RECOVER_SKIPPED else SinceForm
    form = form_class(given if given or request.method == "POST" else None, initial={"hours": "24"}, label_suffix="")
    form.fields["since"].label = _("Since (%(zone)s)") % {"zone": timezone.get_current_timezone_name()}
    act = capfirst(kind.label)
    context |= {
        "title": _("%(act)s %(webhook)s") % {"act": act, "webhook": webhook},
        "act": act,
        "meaning": CONSEQUENCES[kind],
        "form": form,
        "webhook": webhook,
        "is_sent_later": not webhook.enabled or webhook.is_paused,
    }
    if form.is_valid():
        since: datetime = form.cleaned_data["since"]
        rule = {"rule": form.cleaned_data["rule"]} if form.cleaned_data.get("rule") else {}
        filters = runs.since_filters(webhook, since) | rule
        if request.method == "POST":
            try:
                show_run(request, runs.start(kind, filters, request.user, request_key=request.POST.get("nonce", "")))
            except runs.RunExists as found:
                return show_existing(request, found)
            return redirect("admin:rq_webhooks_webhook_change", webhook.pk)
        context |= preview_context(request, kind, filters)
        context |= {
            "heading": _heading(context["preview"], kind),
            "since": exact_time(since),
            "rule": rule.get("rule", ""),
            "is_judged_later": kind == RunKind.RECOVER_SKIPPED,
            "posted": local_time(since).isoformat(timespec="seconds"),  # with its offset: an hour of autumn comes twice
        }
    return page(request, "rq_webhooks/admin/run/recover.html", context)


def _heading(preview: runs.Preview, kind: RunKind) -> str:
    """Such as "49,950 would be sent"."""
    if not preview.may_take_any:
        return _("Nothing to send")
    if kind == RunKind.RECOVER_SKIPPED:  # workers judge the conditions
        text = _("at most %(rows)s would be sent") if preview.is_complete else _("%(rows)s would be looked at")
        return capfirst(text % {"rows": shown_count(preview)[1]})
    return capfirst(_("%(rows)s would be sent") % {"rows": shown_count(preview)[1]})


# Both


def preview_context(
    request: HttpRequest, kind: RunKind, filters: dict[str, Any], takes_all: bool = False
) -> dict[str, Any]:
    """The rows that a run would take. If it cannot count them in ``COUNT_SECONDS``, the page loads itself again, with
    ``?count=``: then it counts for longer."""
    counts_all = "count" in request.GET
    seconds = runs.PREVIEW_SECONDS if counts_all else COUNT_SECONDS
    preview = runs.preview(kind, filters, request.user, takes_all=takes_all, seconds=seconds)
    count, shown = shown_count(preview)
    more = count - len(preview.sample)
    return {
        "preview": preview,
        "shown": shown,
        "more": number(more) if more > 0 and preview.is_complete else "",
        "counts_on": preview.is_stopped and not counts_all,
        "count_url": f"?{request.GET.urlencode()}&count=all",
        "each_url": f"?{request.GET.urlencode()}&{EACH}=1" if kind == RunKind.REPLAY else "",
        "superseded_url": f"?{request.GET.urlencode()}&{SUPERSEDED}=1" if kind in QUESTIONS else "",
        "nonce": uuid.uuid4().hex,  # the button of a page begins one run
    }


def show_run(request: HttpRequest, run: Run) -> None:
    """Say that a run has begun, and where its progress is."""
    runs.name_webhooks([run], request.user)
    url = row_url("run", run.pk)
    text = _('Run {} has begun: {}. Workers do it in the background. <a href="{}">See its progress</a>.')
    messages.success(request, format_html(text, run.pk, runs.summary(run), url))


def show_existing(request: HttpRequest, found: runs.RunExists) -> HttpResponse:
    """Lead to the run that was begun before."""
    messages.warning(request, str(found))
    return redirect("admin:rq_webhooks_run_change", found.run.pk)


def filters_in_words(filters: dict[str, Any]) -> list[str]:
    """Such as "state: failed, discarded" or "since 2026-11-26 02:11:40 UTC". The title names the webhook."""
    return [_filter_text(name, value) for name, value in filters.items() if name != "webhook"]


def _filter_text(name: str, value: Any) -> str:
    match name:
        case "each" | "superseded":
            return str(NAMES[name])
        case "created_after" | "created_before":
            return str(NAMES[name]) % {"time": exact_time(to_utc(datetime.fromisoformat(value)))}
        case "state":
            value = ", ".join(map(state_word, value))
        case "error_kind" if value in KINDS:
            value = KINDS[value].label
        case "rule":
            value = Rule(value).label
        case "action":
            value = label_of_action(value)
    return f"{NAMES.get(name, name)}: {value}"
