"""The pages before a run: the true number of its rows, the oldest ones, and the button that begins it.

One page begins a run of the rows of a list. Recover, Backfill and Recover skipped begin one of a webhook, from a chosen
time on.
"""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.text import capfirst
from django.utils.translation import gettext as _

from webhooks.admin.display import page
from webhooks.admin.lists import redirect_back, row_url, show
from webhooks.delivery.runs.kinds import RunKind
from webhooks.forms.runs import read_run, since_form
from webhooks.models import Run, Webhook
from webhooks.models.filters import EACH, SUPERSEDED
from webhooks.models.selection import without_options
from webhooks.operations import runs
from webhooks.operations.before_run import Question, ask, may_begin
from webhooks.operations.kinds import OF_DELIVERIES
from webhooks.operations.run_filters import RefusedFilter, filters_in_words
from webhooks.pages.acts import changed
from webhooks.templatetags.webhooks_display import run_begun

# A page counts for this many seconds before it answers. Then it loads itself again, and counts for longer.
COUNT_SECONDS = 0.03


# The rows of a list


def start_view(request: HttpRequest) -> HttpResponse:
    """GET previews the run of the rows that the filters of a list choose, POST begins it.

    A button of another page posts the address to return to as ``next``. If there are many rows, ask first.
    """
    kind, filters = read_run(request)
    if kind.missing_permissions(request.user):
        raise PermissionDenied
    try:
        if request.method == "POST":
            return _start(request, kind, filters)
        question = ask(kind, filters, request.user, takes_all=True, seconds=_seconds(request))
    except RefusedFilter as refused:
        messages.error(request, str(refused))
        return redirect(_list_url(kind))
    context = question_context(request, question) | {"filters": filters_in_words(filters)}
    return page(request, "rq_webhooks/admin/run/start.html", context)


def question_context(request: HttpRequest, question: Question) -> dict[str, Any]:
    """The context of a page that asks before it acts on rows of a list."""
    kind = question.kind
    return _preview_context(request, question) | {
        "title": question.title,
        "button": capfirst(kind.label),
        "list_url": _list_url(kind),
        "list_name": _("Events") if kind.listed == "event" else _("Deliveries"),
        "each_url": f"?{request.GET.urlencode()}&{EACH}=1" if EACH in kind.filters else "",
        "superseded_url": f"?{request.GET.urlencode()}&{SUPERSEDED}=1" if SUPERSEDED in kind.filters else "",
    }


def _preview_context(request: HttpRequest, question: Question) -> dict[str, Any]:
    """If the page cannot count the rows in ``COUNT_SECONDS``, it loads itself again, with ``?count=``: then it counts
    for longer."""
    return admin.site.each_context(request) | {
        "question": question,
        "counts_on": question.preview.is_stopped and "count" not in request.GET,
        "count_url": f"?{request.GET.urlencode()}&count=all",
        "nonce": uuid.uuid4().hex,  # the button of a page begins one run
    }


def _seconds(request: HttpRequest) -> float:
    return runs.PREVIEW_SECONDS if "count" in request.GET else COUNT_SECONDS


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
    show(request, changed(OF_DELIVERIES[kind.name].done, result))
    return redirect_back(request, _list_url(kind))


def _list_url(kind: RunKind) -> str:
    return reverse(f"admin:rq_webhooks_{kind.listed}_changelist")


# Recover, Backfill and Recover skipped


def recover_view(request: HttpRequest, webhook: Webhook, kind: RunKind) -> HttpResponse:
    """The form, the dry run of a chosen time, or with POST the begun run."""
    if not may_begin(request.user, kind.name):
        raise PermissionDenied
    given = request.POST if request.method == "POST" else request.GET
    form = since_form(kind)(given if given or request.method == "POST" else None)
    act = capfirst(kind.label)
    context: dict[str, Any] = {"form": form}
    if form.is_valid():
        filters = form.filters(webhook)
        if request.method == "POST":
            return _begin(request, webhook, kind, filters)
        context |= _preview_context(request, ask(kind, filters, request.user, seconds=_seconds(request)))
        context |= form.shown()
    context |= admin.site.each_context(request) | {
        "title": _("%(act)s %(webhook)s") % {"act": act, "webhook": webhook},
        "act": act,
        "kind": kind,
        "webhook": webhook,
    }
    return page(request, "rq_webhooks/admin/run/recover.html", context)


def _begin(request: HttpRequest, webhook: Webhook, kind: RunKind, filters: dict[str, Any]) -> HttpResponse:
    try:
        run = runs.start(kind.name, filters, request.user, request_key=request.POST.get("nonce", ""))
    except runs.RunExists as found:
        return show_existing(request, found)
    show_run(request, run)
    return redirect("admin:rq_webhooks_webhook_change", webhook.pk)


# Both


def show_run(request: HttpRequest, run: Run) -> None:
    """Say that a run has begun, and where its progress is."""
    runs.name_webhooks([run], request.user)
    messages.success(request, run_begun(run, row_url("run", run.pk)))


def show_existing(request: HttpRequest, found: runs.RunExists) -> HttpResponse:
    """Lead to the run that was begun before."""
    messages.warning(request, str(found))
    return redirect("admin:rq_webhooks_run_change", found.run.pk)
