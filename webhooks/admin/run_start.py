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
from django.utils.translation import gettext_lazy

from webhooks import permissions
from webhooks.admin.display import page
from webhooks.admin.filters import DeliveryFilterForm, EventFilterForm, MomentField
from webhooks.admin.lists import redirect_back, row_url, show_result
from webhooks.db import to_utc
from webhooks.delivery.runs.kinds import ADD_RUN, RunKind
from webhooks.insight.wording import count_of, exact_time, local_time, number
from webhooks.models import Run, Webhook
from webhooks.models.filters import EACH, FILTERS, OPTIONS, SUPERSEDED, Filter
from webhooks.models.selection import without_options
from webhooks.models.skip import Rule
from webhooks.operations import runs
from webhooks.operations.kinds import OF_DELIVERIES, RUN_KINDS
from webhooks.operations.run_filters import RefusedFilter

# A page counts for this many seconds before it answers. Then it loads itself again, and counts for longer.
COUNT_SECONDS = 0.03


# The rows of a list


def start_view(model_admin: ModelAdmin, request: HttpRequest) -> HttpResponse:
    """GET previews the run of the rows that the filters of a list choose, POST begins it.

    A button of another page posts the address to return to as ``next``. If there are many rows, ask first.
    """
    kind, filters = read_run(request)
    if kind.missing_permissions(request.user):
        raise PermissionDenied
    try:
        if request.method == "POST":
            return _start(request, kind, filters)
        shown = preview_context(request, kind, filters, takes_all=True)
    except RefusedFilter as refused:
        messages.error(request, str(refused))
        return redirect(_list_url(kind))
    # Few deliveries are changed at once. A run needs another permission.
    may_be_few = kind.name in OF_DELIVERIES and without_options(filters)
    is_run = not may_be_few or shown["preview"].is_more_than(runs.AT_ONCE)
    chosen = permissions.visible_webhooks(request.user).filter(pk=filters.get("webhook", 0)).first()
    context = question_context(model_admin, request, kind, shown["preview"], chosen) | {
        **shown,
        "webhook": chosen,
        "filters": filters_in_words(filters),
        "is_run": is_run,
        "may_start": not is_run or permissions.has_perm(request.user, ADD_RUN),
    }
    return page(request, "rq_webhooks/admin/run/start.html", context)


def question_context(
    model_admin: ModelAdmin, request: HttpRequest, kind: RunKind, preview: runs.Preview, chosen: Webhook | None = None
) -> dict[str, Any]:
    """The context of a page that asks before it acts on the rows of a preview, of the ``chosen`` webhook or of any."""
    return model_admin.admin_site.each_context(request) | {
        "title": _question(kind, preview, chosen),
        "consequence": kind.consequence,
        "button": capfirst(kind.label),
        "is_dangerous": kind.is_dangerous,
        "preview": preview,
        "may_start": True,
        "list_url": _list_url(kind),
        "list_name": _("Events") if kind.listed == "event" else _("Deliveries"),
    }


def _question(kind: RunKind, preview: runs.Preview, chosen: Webhook | None) -> str:
    """Such as "Discard 49,950 deliveries of 2 webhooks?"."""
    if not preview.may_take_any:
        return _("Nothing matches")
    count, rows = shown_count(preview)
    words = {"count": count, "rows": rows}
    if chosen:
        return str(kind.question % {**words, "webhooks": chosen})
    if not preview.is_complete:
        return str(kind.short_question % words)
    webhooks: Any = count_of(len(preview.webhooks), "webhook")
    if len(preview.webhooks) == 1:
        webhooks = Webhook.with_deleted.filter(pk__in=preview.webhooks).first() or ""
    return str(kind.question % {**words, "webhooks": webhooks})


def shown_count(preview: runs.Preview) -> tuple[int, str]:
    """The number of rows, and the same in a sentence: "49,950", "at least 1,000" or "up to 10,710"."""
    if preview.is_complete:
        return preview.count, number(preview.count)
    if preview.at_most is not None:
        return preview.at_most, _("up to %(count)s") % {"count": number(preview.at_most)}
    return preview.count, _("at least %(count)s") % {"count": number(preview.count)}


def _start(request: HttpRequest, kind: RunKind, filters: dict[str, Any]) -> HttpResponse:
    if "next" in request.POST and runs.few_rows(kind.name, filters, request.user) is None:
        return redirect(request.get_full_path())
    takes_all = not without_options(filters)
    try:
        result = runs.act(kind.name, filters, request.user, request.POST.get("nonce", ""), takes_all)
    except runs.RunExists as found:
        return show_existing(request, found)
    if isinstance(result, Run):
        show_run(request, result)
        return redirect("admin:rq_webhooks_run_change", result.pk)
    show_result(request, OF_DELIVERIES[kind.name].done, result)
    return redirect_back(request, _list_url(kind))


def _list_url(kind: RunKind) -> str:
    return reverse(f"admin:rq_webhooks_{kind.listed}_changelist")


def read_run(request: HttpRequest) -> tuple[RunKind, dict[str, Any]]:
    """The kind of a run, and its filters as the list reads them. Raises Http404 for a run that no list offers."""
    kind = RUN_KINDS.get(request.GET.get("kind", ""))
    form_class = EventFilterForm if kind and kind.listed == "event" else DeliveryFilterForm
    form = form_class(request, {"kind", "count", *OPTIONS})
    if kind is None or kind.is_of_webhook or not form.is_valid():
        raise Http404(_("There is no such run."))
    options = {name: True for name in OPTIONS if name in request.GET and name in kind.filters}
    return kind, form.chosen | options


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


def may_begin(user: Any, kind: str) -> bool:
    """Whether the user may begin runs of this kind."""
    return not RUN_KINDS[kind].missing_permissions(user, ADD_RUN)


def recover_view(request: HttpRequest, webhook: Webhook, kind: RunKind, context: dict[str, Any]) -> HttpResponse:
    """The form, the dry run of a chosen time, or with POST the begun run."""
    if not may_begin(request.user, kind.name):
        raise PermissionDenied
    given = request.POST if request.method == "POST" else request.GET
    form_class = SkippedForm if "rule" in kind.filters else SinceForm
    form = form_class(given if given or request.method == "POST" else None, initial={"hours": "24"}, label_suffix="")
    form.fields["since"].label = _("Since (%(zone)s)") % {"zone": timezone.get_current_timezone_name()}
    act = capfirst(kind.label)
    context |= {
        "title": _("%(act)s %(webhook)s") % {"act": act, "webhook": webhook},
        "act": act,
        "meaning": kind.consequence,
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
                key = request.POST.get("nonce", "")
                show_run(request, runs.start(kind.name, filters, request.user, request_key=key))
            except runs.RunExists as found:
                return show_existing(request, found)
            return redirect("admin:rq_webhooks_webhook_change", webhook.pk)
        context |= preview_context(request, kind, filters)
        context |= {
            "heading": _heading(context["preview"], kind),
            "since": exact_time(since),
            "rule": rule.get("rule", ""),
            "is_judged_later": kind.is_judged_later,
            "posted": local_time(since).isoformat(timespec="seconds"),  # with its offset: an hour of autumn comes twice
        }
    return page(request, "rq_webhooks/admin/run/recover.html", context)


def _heading(preview: runs.Preview, kind: RunKind) -> str:
    """Such as "49,950 would be sent"."""
    if not preview.may_take_any:
        return _("Nothing to send")
    if kind.is_judged_later:
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
    preview = runs.preview(kind.name, filters, request.user, takes_all=takes_all, seconds=seconds)
    count, shown = shown_count(preview)
    more = count - len(preview.sample)
    options = () if kind.is_of_webhook else kind.filters
    return {
        "preview": preview,
        "shown": shown,
        "more": number(more) if more > 0 and preview.is_complete else "",
        "counts_on": preview.is_stopped and not counts_all,
        "count_url": f"?{request.GET.urlencode()}&count=all",
        "each_url": f"?{request.GET.urlencode()}&{EACH}=1" if EACH in options else "",
        "superseded_url": f"?{request.GET.urlencode()}&{SUPERSEDED}=1" if SUPERSEDED in options else "",
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
    return [_in_words(one, filters[name]) for name, one in FILTERS.items() if name in filters and name != "webhook"]


def _in_words(one: Filter, value: Any) -> str:
    labels = dict(one.choices())
    match one.type:
        case "moment":
            value = exact_time(to_utc(datetime.fromisoformat(value)))
        case "choices":
            value = ", ".join(str(labels.get(chosen, chosen)) for chosen in value)
        case _:
            value = labels.get(value, value)
    return str(one.words) % {"label": one.label, "value": value}
