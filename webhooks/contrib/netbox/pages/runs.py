"""The pages of runs: the list, one run with its progress, and the pages that ask before a run begins."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import path, reverse
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy
from django.views.generic import View
from netbox.tables import BaseTable
from netbox.views import generic
from utilities.views import ConditionalLoginRequiredMixin, register_model_view

from webhooks.contrib.netbox import PLUGIN
from webhooks.contrib.netbox.pages.base import PermittedRows
from webhooks.contrib.netbox.pages.display import page, refreshing_page, show
from webhooks.contrib.netbox.pages.links import address
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
from webhooks.delivery.runs.kinds import ADD_RUN
from webhooks.insight.paging import LongList, list_runs
from webhooks.models import Run, permissions
from webhooks.operations import runs
from webhooks.operations.kinds import OF_WEBHOOK, RUN_KINDS
from webhooks.operations.runs import may_begin
from webhooks.pages.acts import STEERINGS, Message
from webhooks.pages.forms.filters import RunFilterForm
from webhooks.pages.run import RunPage, progress_text, title_of
from webhooks.pages.run_start import StartPages
from webhooks.templatetags.webhooks_display import run_bar, run_state, when

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


# The pages before a run


def _page(request: HttpRequest, name: str, context: dict[str, Any]) -> HttpResponse:
    return page(request, f"rq_webhooks/netbox/run/{name}.html", context)


START_PAGES = StartPages(_page, show, address, redirect_back, "return_url")


@method_decorator(transaction.non_atomic_requests, name="dispatch")
@register_model_view(Run, "add", detail=False)
class RunAddView(ConditionalLoginRequiredMixin, View):
    def get(self, request: HttpRequest) -> HttpResponse:
        return START_PAGES.of_list(request)

    post = get


@method_decorator(transaction.non_atomic_requests, name="dispatch")
class WebhookRunView(ConditionalLoginRequiredMixin, View):
    def get(self, request: HttpRequest, pk: int, kind: str) -> HttpResponse:
        if not may_begin(request.user, kind):
            raise PermissionDenied
        webhook = get_object_or_404(permissions.visible_webhooks(request.user), pk=pk)
        return START_PAGES.of_webhook(request, webhook, RUN_KINDS[kind])

    post = get


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
