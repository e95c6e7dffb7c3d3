"""Rates, percentages and times of the last 24 hours, with their chart, and the number of deliveries in each state."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from webhooks.admin.charts import Column, sparkline, stacked_bars
from webhooks.admin.display import EMPTY, duration, percent, when
from webhooks.admin.lists import deliveries_url
from webhooks.models.queue import State
from webhooks.operations.counts import TOTAL_CAP
from webhooks.operations.overview import Overview
from webhooks.operations.wording import number, span

# The order in which the states of deliveries are shown. The last ones only if there are some.
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
                "url": deliveries_url(state=state.value),
            }
            for state in STATES
            if overview.counts[state] or state in ALWAYS
        ],
        **_chart(overview),
    }


def rate(count: float) -> str:
    """Attempts a minute, with a decimal if there are few."""
    return f"{count:,.{1 if 0 < count < 10 else 0}f}"


def _chart(overview: Overview) -> dict[str, Any]:
    """The chart of 24 hours, and the same as rows of a table."""
    starts = overview.hours.starts
    clock = [_hour(moment) for moment in (*starts, *(one + timedelta(hours=1) for one in starts[-1:]))]
    rows = [
        {"hour": hour, "until": until, "succeeded": succeeded, "failed": failed}
        for hour, until, (succeeded, failed) in zip(clock, clock[1:], overview.hours.together, strict=False)
    ]
    title = _("%(hour)s to %(until)s: %(succeeded)s succeeded, %(failed)s failed")
    columns = [
        Column(row["succeeded"], row["failed"], title % row) for row in rows  # type: ignore[arg-type]
    ]  # fmt: skip
    label = _("Attempts of the last 24 hours, by hour: %(succeeded)s succeeded, %(failed)s failed.") % {
        "succeeded": number(sum(column.succeeded for column in columns)),
        "failed": number(sum(column.failed for column in columns)),
    }
    return {
        "attempted": number(sum(column.total for column in columns)),
        "chart": stacked_bars(columns, label, width=960, height=56),
        "chart_highest": number(max((column.total for column in columns), default=0)),
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


def _hour(moment: datetime) -> str:
    """The hour in the site's time zone. Statistics are in UTC."""
    return f"{timezone.localtime(moment):%H:%M}"
