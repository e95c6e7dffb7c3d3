"""The pages of runs: list, and one run with its progress, which refreshes itself; pause, resume and cancel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db import transaction
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
from webhooks.admin.lists import ReadOnlyAdmin, list_url, show_result
from webhooks.admin.run_start import filters_in_words, start_view
from webhooks.delivery.runs.kinds import kind_of
from webhooks.insight.paging import LongList, read_page
from webhooks.insight.wording import exact_time, number
from webhooks.models import Run, RunState
from webhooks.models.filters import ACTOR_FILTERS
from webhooks.models.selection import without_options
from webhooks.operations import runs
from webhooks.templatetags.webhooks_display import pill, when

PAUSED = ngettext_lazy("%(number)s run paused.", "%(number)s runs paused.", "count")
RESUMED = ngettext_lazy("%(number)s run resumed.", "%(number)s runs resumed.", "count")
CANCELLED = ngettext_lazy("%(number)s run cancelled.", "%(number)s runs cancelled.", "count")

# The colours of states, by the state of a delivery that has the same one.
COLOURS = {
    RunState.RUNNING: "sending",
    RunState.PAUSED: "paused",
    RunState.DONE: "succeeded",
    RunState.CANCELLED: "discarded",
    RunState.FAILED: "failed",
}


@admin.register(Run)
class RunAdmin(ReadOnlyAdmin):
    list_display = ("what", "state_pill", "progress", "requested_by", "begun", "ended")
    list_display_links = ("what",)
    filter_form = RunFilterForm
    noun = "run"
    change_form_template = "rq_webhooks/admin/run/page.html"
    actions = ("pause_chosen", "resume_chosen", "cancel_chosen")
    buttons = ("pause", "resume", "cancel")

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
        return start_view(self, request)

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

    # Pause, resume and cancel

    def has_steer_permission(self, request: HttpRequest, obj: Run | None = None) -> bool:
        return permissions.has_perm(request.user, "rq_webhooks.add_run")

    has_pause_permission = has_resume_permission = has_cancel_permission = has_steer_permission

    @admin.action(description=gettext_lazy("Pause the selected runs"), permissions=["steer"])
    def pause_chosen(self, request: HttpRequest, chosen: QuerySet[Run]) -> None:
        _steer(request, chosen, runs.pause, PAUSED, _("only running ones can be paused"))

    @admin.action(description=gettext_lazy("Resume the selected runs"), permissions=["steer"])
    def resume_chosen(self, request: HttpRequest, chosen: QuerySet[Run]) -> None:
        _steer(request, chosen, runs.resume, RESUMED, _("only paused ones can be resumed"))

    @admin.action(description=gettext_lazy("Cancel the selected runs"), permissions=["steer"])
    def cancel_chosen(self, request: HttpRequest, chosen: QuerySet[Run]) -> None:
        _steer(request, chosen, runs.cancel, CANCELLED, _("they have ended"))

    # One run

    def page_context(self, request: HttpRequest, obj: Run) -> dict[str, Any]:
        runs.name_webhooks([obj], request.user)
        return {
            **progress_context(obj, request.user, self.has_steer_permission(request)),
            "title": title_of(obj),
            "filters": filters_in_words(obj.filters),
            "rows_url": rows_url(obj, request.user),
            "begun": exact_time(obj.created),
        }

    def progress_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The part of the page that refreshes itself."""
        run = self.get_object(request, object_id)
        if run is None:
            raise Http404(f"There is no run {object_id}.")
        if not self.has_view_permission(request, run):
            raise PermissionDenied
        context = progress_context(run, request.user, self.has_steer_permission(request))
        return page(request, "rq_webhooks/admin/run/progress.html", context)


def _steer(request: HttpRequest, chosen: QuerySet[Run], act: Callable[[Run, Any], bool], done: Any, why: str) -> None:
    """Pause, resume or cancel the chosen runs, and show the result."""
    results = [act(run, request.user) for run in chosen]
    show_result(request, done, sum(results), len(results) - sum(results), why)


def progress_context(run: Run, user: Any, may_steer: bool) -> dict[str, Any]:
    """The context of the part that refreshes itself. ``may_steer``: the user may pause, resume and cancel."""
    figures = ((_("done"), run.done), (_("failed"), run.failed), (_("no longer needed"), run.skipped))
    return {
        "run": run,
        "problem": runs.shown_problem(run, user),
        "state_pill": run_state(run),
        "bar": bar(run),
        "progress_text": progress_text(run),
        "left": runs.time_left(run),
        "ended": when(run.finished_at) if run.finished_at else "",
        "figures": [(label, number(count)) for label, count in figures],
        "may_pause": may_steer and run.state == RunState.RUNNING,
        "may_resume": may_steer and run.state == RunState.PAUSED,
        "may_cancel": may_steer and run.is_open,
        "left_count": number(max(0, (run.total or 0) - run.taken)),
    }


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
    chosen = without_options(run.filters)
    if not permissions.may_view_events(user) and not ACTOR_FILTERS.isdisjoint(chosen):
        return ""
    filters = {"q" if name == "name" else name: value for name, value in chosen.items()}  # the search has names
    listed = kind_of(run).listed
    if not listed:
        return ""
    if listed == "event":
        failed = filters.pop("failed", None)
        state = {} if failed is None else {"state": "failed" if failed else "recorded"}
        return list_url("event", **filters, **state)
    if listed == "skip":
        return list_url("skip", **filters)
    states = filters.pop("state", [])
    if len(states) > 1:
        return ""
    return list_url("delivery", **filters, **({"state": states[0]} if states else {}))
