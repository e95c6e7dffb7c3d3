"""Rates, percentages and times of the last 24 hours, with their chart, and the number of deliveries in each state."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.utils.formats import number_format
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from webhooks.admin.charts import Column, day_chart, hour_of, sparkline
from webhooks.admin.display import EMPTY, duration, percent, when
from webhooks.admin.lists import list_url
from webhooks.models.queue import State
from webhooks.operations.counts import TOTAL_CAP
from webhooks.operations.overview import Overview
from webhooks.operations.wording import number, span

# The states in the order of the page. The page shows the last ones only if there are some.
ALWAYS = (State.PENDING, State.FAILED)
STATES = (*ALWAYS, State.WAITING, State.SENDING, State.SUCCEEDED, State.DISCARDED)


def context(overview: Overview, now: datetime) -> dict[str, Any]:
    """The figures of the whole site."""
    recent, oldest = overview.recent, overview.oldest
    seconds = (now - oldest).total_seconds() if oldest else 0
    return {
        "rate": rate(recent.per_minute),
        "percent": percent(recent.day.success_percent),
        "p50": duration(recent.day.duration, 0.5),
        "p95": duration(recent.day.duration, 0.95),
        "delay": duration(recent.day.delay, 0.95),
        "skipped": number(recent.day.skipped),
        "oldest": span(seconds) if seconds >= 1 else EMPTY,
        "undispatched": number(overview.undispatched, TOTAL_CAP) if overview.undispatched else "",
        "undispatched_since": when(overview.undispatched_since),
        "states": [
            {
                "state": state,
                "number": number(overview.counts[state], TOTAL_CAP) if overview.counts[state] else EMPTY,
                "url": list_url("delivery", state=state.value),
            }
            for state in STATES
            if overview.counts[state] or state in ALWAYS
        ],
        **_chart(overview),
    }


def rate(count: float) -> str:
    """Attempts a minute, with a decimal if there are few."""
    decimals = 1 if 0 < count < 10 else 0
    return number_format(round(count, decimals), decimals, force_grouping=True)


def _chart(overview: Overview) -> dict[str, Any]:
    """The chart of 24 hours, and the same as rows of a table."""
    counts = zip(overview.hours.starts, overview.hours.together, strict=False)
    columns = {start: Column(succeeded, failed) for start, (succeeded, failed) in counts}
    rows = [{**hour_of(start), "succeeded": one.succeeded, "failed": one.failed} for start, one in columns.items()]
    totals = [column.total for column in columns.values()]
    return {
        "attempted": number(sum(totals)),
        "chart": day_chart(columns),
        "chart_highest": number(max(totals, default=0)),
        "hours": [row for row in reversed(rows) if row["succeeded"] or row["failed"]],
        "first_hour": rows[0]["hour"] if rows else "",
    }


def trend(hours: Sequence[tuple[int, int]]) -> SafeString:
    """The attempts of one webhook in the last 24 hours, as a sparkline."""
    columns = [Column(succeeded, failed) for succeeded, failed in hours]
    label = _("24 hours: %(succeeded)s succeeded, %(failed)s failed") % {
        "succeeded": number(sum(column.succeeded for column in columns)),
        "failed": number(sum(column.failed for column in columns)),
    }
    return sparkline(columns, label)
