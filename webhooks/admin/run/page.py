"""The page of one run: its progress, which refreshes itself, and its filters."""

from __future__ import annotations

from typing import Any

from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from webhooks.admin.display import pill, when
from webhooks.admin.lists import list_url
from webhooks.admin.run.start import filters_in_words
from webhooks.models import Run, RunKind, RunState
from webhooks.operations import runs
from webhooks.operations.wording import exact_time, number

# The colours of states, by the state of a delivery that has the same one.
COLOURS = {
    RunState.RUNNING: "sending",
    RunState.PAUSED: "paused",
    RunState.DONE: "succeeded",
    RunState.CANCELLED: "discarded",
    RunState.FAILED: "failed",
}


def run_context(run: Run, may_steer: bool) -> dict[str, Any]:
    """The context of the template. ``may_steer``: the user may pause, resume and cancel."""
    return {
        **progress_context(run, may_steer),
        "title": title_of(run),
        "filters": filters_in_words(run.filters),
        "rows_url": rows_url(run),
        "begun": exact_time(run.created),
    }


def progress_context(run: Run, may_steer: bool) -> dict[str, Any]:
    """The context of the part that refreshes itself."""
    figures = ((_("done"), run.done), (_("failed"), run.failed), (_("needed nothing"), run.skipped))
    return {
        "run": run,
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


def rows_url(run: Run) -> str:
    """The list with the rows that match the filters of a run now. Empty if no list has all of the filters."""
    filters = dict(run.filters)
    if run.kind in (RunKind.REPLAY, RunKind.BACKFILL):
        failed = filters.pop("failed", None)
        state = {} if failed is None else {"state": "failed" if failed else "recorded"}
        return list_url("event", **filters, **state) if "webhook" not in filters else ""
    states = filters.pop("state", [])
    if len(states) > 1:
        return ""
    return list_url("delivery", **filters, **({"state": states[0]} if states else {}))
