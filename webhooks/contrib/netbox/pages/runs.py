"""The pages of runs: the list, one run with its progress, and the pages that ask before a run begins."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import path, reverse
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy
from django.views.generic import View
from netbox.tables import BaseTable
from netbox.views import generic
from utilities.views import ConditionalLoginRequiredMixin, register_model_view

from webhooks.contrib.netbox import PLUGIN
from webhooks.contrib.netbox.pages.base import PermittedRows
from webhooks.contrib.netbox.pages.display import page, refreshing_page, show
from webhooks.contrib.netbox.pages.links import page_url
from webhooks.contrib.netbox.pages.long_lists import (
    Act,
    ActView,
    LongListView,
    LongTable,
    ShownColumn,
    paths_of,
    redirect_back,
    register_acts,
)
from webhooks.delivery.runs.kinds import ADD_RUN, RunKind
from webhooks.insight.paging import LongList, list_runs
from webhooks.models import Run, Webhook, permissions
from webhooks.operations import runs
from webhooks.operations.kinds import OF_WEBHOOK, RUN_KINDS
from webhooks.operations.run_filters import RefusedFilter
from webhooks.operations.runs import may_begin
from webhooks.pages import run_start
from webhooks.pages.acts import STEERINGS, Message
from webhooks.pages.forms.filters import RunFilterForm
from webhooks.pages.forms.runs import read_run, since_form
from webhooks.pages.run import RunPage, progress_text, title_of
from webhooks.templatetags.webhooks_display import run_bar, run_begun, run_state, when

ACTS = {name: Act(name, steering.label, ADD_RUN) for name, steering in STEERINGS.items()}


# The list


def _title(run: Any) -> SafeString:
    return format_html('<a href="{}">{}</a>', run.page_url, title_of(run))


class WebhookRunTable(LongTable):
    run = ShownColumn(_title, gettext_lazy("run"))
    state = ShownColumn(run_state, gettext_lazy("state"))
    progress = ShownColumn(
        lambda row: format_html("{} {}", run_bar(row), progress_text(row)),
        gettext_lazy("progress"),
        value=progress_text,
    )
    requested_by = ShownColumn(lambda row: row.requested_by, gettext_lazy("requested by"))
    begun = ShownColumn(lambda row: when(row.created), gettext_lazy("begun"), value=lambda row: row.created.isoformat())
    ended = ShownColumn(
        lambda row: when(row.finished_at),
        gettext_lazy("ended"),
        value=lambda row: row.finished_at.isoformat() if row.finished_at else "",
    )

    class Meta(BaseTable.Meta):
        model = Run
        fields = ("pk", "run", "state", "progress", "requested_by", "begun", "ended")
        default_columns = ("run", "state", "progress", "requested_by", "begun", "ended")


@register_model_view(Run, "list", path="", detail=False)
class RunListView(LongListView):
    queryset = Run.objects.all()
    table = WebhookRunTable
    filter_form = RunFilterForm
    acts = tuple(ACTS.values())
    noun = "run"

    def long_list(self, filters: dict[str, Any]) -> LongList[Run]:
        return list_runs(filters, self.queryset)

    def prepare(self, rows: list[Any]) -> None:
        runs.name_webhooks(rows, self.request.user)
        folder = reverse(f"plugins:{PLUGIN}:run_list")  # ``reverse`` for each row is slow
        for row in rows:
            row.page_url = f"{folder}{row.pk}/"


# One run


@register_acts
class RunActView(ActView):
    """Pause, resume or cancel runs."""

    queryset = Run.objects.all()
    acts = ACTS
    filter_form = RunFilterForm

    def perform(self, act: Act, rows: QuerySet[Run], is_of_list: bool) -> list[Message]:
        return [STEERINGS[act.name].perform(rows, self.request.user)]


@register_model_view(Run)
class RunView(PermittedRows, generic.ObjectView):
    queryset = Run.objects.all()

    def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        run = self.get_object(**kwargs)
        shown = RunPage(run, request.user)
        context = {"object": run, "shown": shown}
        return refreshing_page(request, "rq_webhooks/netbox/run/page.html", context, goes_on=run.is_open)


# The page before a run of the rows of a list


@method_decorator(transaction.non_atomic_requests, name="dispatch")
@register_model_view(Run, "add", detail=False)
class RunAddView(ConditionalLoginRequiredMixin, View):
    """GET previews the run of the rows that the filters of a list choose, POST begins it.

    A button of another page posts the address to return to. If there are many rows, ask first.
    """

    def get(self, request: HttpRequest) -> HttpResponse:
        kind, filters = read_run(request)
        try:
            context = run_start.ask_about_list(kind, filters, request.user, request.GET)
        except RefusedFilter as refused:
            return _refuse(request, kind, refused)
        return page(request, "rq_webhooks/netbox/run/start.html", context | {"list_url": _list_url(kind)})

    def post(self, request: HttpRequest) -> HttpResponse:
        kind, filters = read_run(request)
        is_elsewhere = "return_url" in request.POST
        try:
            result = run_start.begin(kind, filters, request.user, request.POST, is_elsewhere=is_elsewhere)
        except RefusedFilter as refused:
            return _refuse(request, kind, refused)
        except runs.RunExists as existing:
            return _show_existing(request, existing)
        if result is None:
            return redirect(request.get_full_path())
        if isinstance(result, Run):
            _show_run(request, result)
            return redirect(page_url("run", result.pk))
        show(request, result)
        return redirect_back(request, _list_url(kind))


def _refuse(request: HttpRequest, kind: RunKind, refused: RefusedFilter) -> HttpResponse:
    messages.error(request, str(refused))
    return redirect(_list_url(kind))


def _list_url(kind: RunKind) -> str:
    return page_url(f"{kind.listed}_list")


# Recover, Backfill and Recover skipped: runs of one webhook


@method_decorator(transaction.non_atomic_requests, name="dispatch")
class WebhookRunView(ConditionalLoginRequiredMixin, View):
    """The form, the dry run of a chosen time, or with POST the begun run."""

    def get(self, request: HttpRequest, pk: int, kind: str) -> HttpResponse:
        webhook, run_kind = _of_webhook(request, pk, kind)
        form = since_form(run_kind)(request.GET or None)
        context: dict[str, Any] = {"form": form, "kind": run_kind, "webhook": webhook, "act": capfirst(run_kind.label)}
        if form.is_valid():
            filters = form.filters(webhook)
            context |= run_start.ask_about_webhook(run_kind, filters, request.user, request.GET) | form.shown()
        return page(request, "rq_webhooks/netbox/run/recover.html", context)

    def post(self, request: HttpRequest, pk: int, kind: str) -> HttpResponse:
        webhook, run_kind = _of_webhook(request, pk, kind)
        form = since_form(run_kind)(request.POST)
        if not form.is_valid():
            context = {"form": form, "kind": run_kind, "webhook": webhook, "act": capfirst(run_kind.label)}
            return page(request, "rq_webhooks/netbox/run/recover.html", context)
        try:
            run = run_start.begin_of_webhook(run_kind, form.filters(webhook), request.user, request.POST)
        except runs.RunExists as existing:
            return _show_existing(request, existing)
        _show_run(request, run)
        return redirect(page_url("webhook", webhook.pk))


def _of_webhook(request: HttpRequest, pk: int, kind: str) -> tuple[Webhook, RunKind]:
    if not may_begin(request.user, kind):
        raise PermissionDenied
    return get_object_or_404(permissions.visible_webhooks(request.user), pk=pk), RUN_KINDS[kind]


# Both


def _show_run(request: HttpRequest, run: Run) -> None:
    """Say that a run has begun, and where its progress is."""
    runs.name_webhooks([run], request.user)
    messages.success(request, run_begun(run, page_url("run", run.pk)))


def _show_existing(request: HttpRequest, existing: runs.RunExists) -> HttpResponse:
    """Lead to the run that was begun before."""
    messages.warning(request, str(existing))
    return redirect(page_url("run", existing.run.pk))


urlpatterns = [
    *paths_of(Run, "runs", "int"),
    *(
        path(
            f"webhooks/<int:pk>/{name.replace('_', '-')}/",
            WebhookRunView.as_view(),
            {"kind": name},
            name=f"webhook_{name}",
        )
        for name in OF_WEBHOOK
    ),
]
