"""The pages of runs: list, and one run with its progress, which refreshes itself; pause, resume and cancel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db import models, transaction
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext_lazy

from webhooks import permissions
from webhooks.admin.display import page
from webhooks.admin.filters import RunFilterForm
from webhooks.admin.lists import Act, ReadOnlyAdmin, list_url, show_result
from webhooks.admin.run_start import start_view
from webhooks.delivery.runs.kinds import ADD_RUN, kind_of
from webhooks.insight.paging import LongList, read_page
from webhooks.insight.wording import number
from webhooks.models import Run, RunState
from webhooks.models.filters import ACTOR_FILTERS
from webhooks.models.selection import without_options
from webhooks.operations import runs
from webhooks.operations.run_filters import filters_in_words
from webhooks.templatetags.webhooks_display import pill, when

# The colours of states, by the state of a delivery that has the same one.
COLOURS = {
    RunState.RUNNING: "sending",
    RunState.PAUSED: "paused",
    RunState.DONE: "succeeded",
    RunState.CANCELLED: "discarded",
    RunState.FAILED: "failed",
}


def steer(
    change: Callable[[Run, Any], bool], done: Any, why_left: Any, request: HttpRequest, chosen: QuerySet[Run]
) -> None:
    """Pause, resume or cancel the chosen runs, and show the result."""
    results = [change(run, request.user) for run in chosen]
    show_result(request, done, sum(results), len(results) - sum(results), why_left)


PAUSE = partial(
    steer,
    runs.pause,
    ngettext_lazy("%(number)s run paused.", "%(number)s runs paused.", "count"),
    gettext_lazy("only running ones can be paused"),
)
RESUME = partial(
    steer,
    runs.resume,
    ngettext_lazy("%(number)s run resumed.", "%(number)s runs resumed.", "count"),
    gettext_lazy("only paused ones can be resumed"),
)
CANCEL = partial(
    steer,
    runs.cancel,
    ngettext_lazy("%(number)s run cancelled.", "%(number)s runs cancelled.", "count"),
    gettext_lazy("they have ended"),
)


@admin.register(Run)
class RunAdmin(ReadOnlyAdmin):
    list_display = ("what", "state_pill", "progress", "requested_by", "begun", "ended")
    list_display_links = ("what",)
    filter_form = RunFilterForm
    noun = "run"
    change_form_template = "rq_webhooks/admin/run/page.html"
    actions = (
        Act("pause", gettext_lazy("Pause the selected runs"), PAUSE),
        Act("resume", gettext_lazy("Resume the selected runs"), RESUME),
        Act("cancel", gettext_lazy("Cancel the selected runs"), CANCEL),
    )

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
        return start_view(request)

    # The list

    def long_list(self, request: HttpRequest, filters: dict[str, Any]) -> LongList[Run]:
        rows = self.get_queryset(request)
        return LongList(partial(read_page, rows.filter(**filters), None), rows)

    def prepare(self, request: HttpRequest, rows: list[Run]) -> None:
        runs.name_webhooks(rows, request.user)

    @admin.display(description=gettext_lazy("state"))
    def state_pill(self, run: Run) -> SafeString:
        return run_state(run)

    @admin.display(description=gettext_lazy("run"))
    def what(self, run: Run) -> str:
        return title_of(run)

    @admin.display(description=gettext_lazy("progress"))
    def progress(self, run: Run) -> SafeString:
        return format_html("{} {}", bar(run), progress_text(run))

    @admin.display(description=gettext_lazy("begun"))
    def begun(self, run: Run) -> SafeString | str:
        return when(run.created)

    @admin.display(description=gettext_lazy("ended"))
    def ended(self, run: Run) -> SafeString | str:
        return when(run.finished_at)

    def may_act(self, request: HttpRequest, act: Act, row: models.Model | None = None) -> bool:
        return permissions.has_perm(request.user, ADD_RUN)

    # One run

    def page_context(self, request: HttpRequest, obj: Run) -> dict[str, Any]:
        runs.name_webhooks([obj], request.user)
        return self._progress(request, obj) | {
            "title": title_of(obj),
            "filters": filters_in_words(obj.filters),
            "rows_url": rows_url(obj, request.user),
        }

    def _progress(self, request: HttpRequest, run: Run) -> dict[str, Any]:
        """The context of the part that refreshes itself."""
        return {
            "run": run,
            "problem": runs.shown_problem(run, request.user),
            "state_pill": run_state(run),
            "bar": bar(run),
            "progress_text": progress_text(run),
            "left_count": max(0, (run.total or 0) - run.taken),
            "may_steer": permissions.has_perm(request.user, ADD_RUN),
        }

    def progress_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The part of the page that refreshes itself."""
        run = self.get_object(request, object_id)
        if run is None:
            raise Http404(f"There is no run {object_id}.")
        if not self.has_view_permission(request, run):
            raise PermissionDenied
        return page(request, "rq_webhooks/admin/run/progress.html", self._progress(request, run))


def title_of(run: Run) -> str:
    """Such as "Run 14: retry of deliveries of CMDB sync"."""
    return _("Run %(number)s: %(summary)s") % {"number": run.pk, "summary": runs.summary(run)}


def run_state(run: Run) -> SafeString:
    """The state of a run as a label."""
    return pill(COLOURS[RunState(run.state)], run.get_state_display())


def bar(run: Run) -> SafeString:
    """The progress as a bar. Without a value while the rows are being counted."""
    label = _("Progress of run %(number)s") % {"number": run.pk}
    value = format_html(' value="{}"', run.percent) if run.percent is not None else ""
    return format_html('<progress class="wh-progress" max="100"{} aria-label="{}"></progress>', value, label)


def progress_text(run: Run) -> str:
    """Such as "67,500 of 100,000 (67 %)"."""
    if run.total is None and run.is_open:
        return _("Counting")
    words = {"taken": number(run.taken), "total": "?" if run.total is None else number(run.total)}
    if not run.total:
        return _("%(taken)s of %(total)s") % words
    return _("%(taken)s of %(total)s (%(percent)s\N{NO-BREAK SPACE}%%)") % {**words, "percent": run.percent}


def rows_url(run: Run, user: Any) -> str:
    """The list with the rows that match the filters of a run now. Empty if no list of the user has all of the
    filters."""
    listed, filters = kind_of(run).listed, dict(without_options(run.filters))
    hides_actors = not ACTOR_FILTERS.isdisjoint(filters) and not permissions.may_view_events(user)
    if not listed or hides_actors or len(filters.get("state", ())) > 1:
        return ""
    if "name" in filters:
        filters["q"] = filters.pop("name")  # the search has names
    if "failed" in filters:
        filters["state"] = "failed" if filters.pop("failed") else "recorded"
    return list_url(listed, **filters)
