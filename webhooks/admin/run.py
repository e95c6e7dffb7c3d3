"""The pages of runs: list, and one run with its progress, which refreshes itself; pause, resume and cancel."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.translation import gettext_lazy

from webhooks.admin.base import Act, ReadOnlyAdmin, column, page, show
from webhooks.admin.run_start import START_PAGES
from webhooks.insight.paging import LongList, list_runs
from webhooks.models import Run, permissions
from webhooks.operations import runs
from webhooks.pages.acts import STEERINGS, Steering
from webhooks.pages.forms.filters import RunFilterForm
from webhooks.pages.run import RunPage, progress_text, title_of
from webhooks.templatetags.webhooks_display import run_bar, run_state, when


def steer(steering: Steering, request: HttpRequest, chosen: QuerySet[Run]) -> None:
    """Pause, resume or cancel the chosen runs, and show the result."""
    show(request, steering.perform(chosen, request.user))


@admin.register(Run)
class RunAdmin(ReadOnlyAdmin):
    list_display = ("what", "state_pill", "progress", "requested_by", "begun", "ended")
    list_display_links = ("what",)
    filter_form = RunFilterForm
    noun = "run"
    change_form_template = "rq_webhooks/admin/run/page.html"
    actions = tuple(Act(name, steering.label, partial(steer, steering), "add") for name, steering in STEERINGS.items())

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("add/", view(self.start), name="rq_webhooks_run_add"),
            path("<path:object_id>/progress/", view(self.progress_view), name="rq_webhooks_run_progress"),
            *super().get_urls(),
        ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Run]:
        return permissions.allowed(request.user, "view", super().get_queryset(request))

    # Its acts are small transactions, see ``changelist_view``.
    @transaction.non_atomic_requests
    def start(self, request: HttpRequest) -> HttpResponse:
        """Show what a run would do, and begin it."""
        return START_PAGES.of_list(request)

    # The list

    def long_list(self, request: HttpRequest, filters: dict[str, Any]) -> LongList[Run]:
        return list_runs(filters, self.get_queryset(request))

    def prepare(self, request: HttpRequest, rows: list[Run]) -> None:
        runs.name_webhooks(rows, request.user)

    state_pill = column(gettext_lazy("state"), run_state)
    what = column(gettext_lazy("run"), title_of)
    progress = column(gettext_lazy("progress"), lambda run: format_html("{} {}", run_bar(run), progress_text(run)))
    begun = column(gettext_lazy("begun"), lambda run: when(run.created))
    ended = column(gettext_lazy("ended"), lambda run: when(run.finished_at))

    # One run

    def page_context(self, request: HttpRequest, obj: Run) -> dict[str, Any]:
        shown = RunPage(obj, request.user)
        return {"title": shown.title, "shown": shown}

    def progress_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The part of the page that refreshes itself."""
        run = self.get_object(request, object_id)
        if run is None:
            raise Http404(f"There is no run {object_id}.")
        if not self.has_view_permission(request, run):
            raise PermissionDenied
        return page(request, "rq_webhooks/admin/run/progress.html", {"shown": RunPage(run, request.user)})
