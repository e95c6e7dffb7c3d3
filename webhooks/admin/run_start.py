"""The pages before a run in the admin. ``pages.run_start`` has what they show and begin.

One page begins a run of the rows of a list. Recover, Backfill and Recover skipped begin one of a webhook, from a chosen
time on.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.text import capfirst
from django.utils.translation import gettext as _

from webhooks.admin.base import list_url, page, redirect_back, row_url, show
from webhooks.delivery.runs.kinds import RunKind
from webhooks.models import Run, Webhook
from webhooks.operations import runs
from webhooks.operations.run_filters import RefusedFilter
from webhooks.pages import run_start
from webhooks.pages.forms.runs import read_run, since_form
from webhooks.templatetags.webhooks_display import run_begun

# The rows of a list


def start_view(request: HttpRequest) -> HttpResponse:
    """GET previews the run of the rows that the filters of a list choose, POST begins it.

    A button of another page posts the address to return to as ``next``. If there are many rows, ask first.
    """
    kind, filters = read_run(request)
    try:
        if request.method == "POST":
            return _start(request, kind, filters)
        return question_page(request, kind, run_start.ask_about_list(kind, filters, request.user, request.GET))
    except RefusedFilter as refused:
        messages.error(request, str(refused))
        return redirect(list_url(kind.listed))


def question_page(request: HttpRequest, kind: RunKind, context: dict[str, Any]) -> HttpResponse:
    """The page that asks before it acts on rows of a list."""
    frame = admin.site.each_context(request) | {"title": context["question"].title, "list_url": list_url(kind.listed)}
    return page(request, "rq_webhooks/admin/run/start.html", frame | context)


def _start(request: HttpRequest, kind: RunKind, filters: dict[str, Any]) -> HttpResponse:
    try:
        result = run_start.begin(kind, filters, request.user, request.POST, is_elsewhere="next" in request.POST)
    except runs.RunExists as existing:
        return _show_existing(request, existing)
    if result is None:
        return redirect(request.get_full_path())
    if isinstance(result, Run):
        _show_run(request, result)
        return redirect("admin:rq_webhooks_run_change", result.pk)
    show(request, result)
    return redirect_back(request, list_url(kind.listed))


# Recover, Backfill and Recover skipped


def recover_view(request: HttpRequest, webhook: Webhook, kind: RunKind) -> HttpResponse:
    """The form, the dry run of a chosen time, or with POST the begun run."""
    if not runs.may_begin(request.user, kind.name):
        raise PermissionDenied
    given = request.POST if request.method == "POST" else request.GET
    form = since_form(kind)(given if given or request.method == "POST" else None)
    act = capfirst(kind.label)
    context: dict[str, Any] = {"form": form}
    if form.is_valid():
        filters = form.filters(webhook)
        if request.method == "POST":
            return _begin(request, webhook, kind, filters)
        context |= run_start.ask_about_webhook(kind, filters, request.user, request.GET) | form.shown()
    context |= admin.site.each_context(request) | {
        "title": _("%(act)s %(webhook)s") % {"act": act, "webhook": webhook},
        "act": act,
        "kind": kind,
        "webhook": webhook,
    }
    return page(request, "rq_webhooks/admin/run/recover.html", context)


def _begin(request: HttpRequest, webhook: Webhook, kind: RunKind, filters: dict[str, Any]) -> HttpResponse:
    try:
        run = run_start.begin_of_webhook(kind, filters, request.user, request.POST)
    except runs.RunExists as existing:
        return _show_existing(request, existing)
    _show_run(request, run)
    return redirect("admin:rq_webhooks_webhook_change", webhook.pk)


# Both


def _show_run(request: HttpRequest, run: Run) -> None:
    """Say that a run has begun, and where its progress is."""
    runs.name_webhooks([run], request.user)
    messages.success(request, run_begun(run, row_url("run", run.pk)))


def _show_existing(request: HttpRequest, existing: runs.RunExists) -> HttpResponse:
    """Lead to the run that was begun before."""
    messages.warning(request, str(existing))
    return redirect("admin:rq_webhooks_run_change", existing.run.pk)
