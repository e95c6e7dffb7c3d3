"""The sections of the status page below the problems: figures, webhooks, failed deliveries, runs, workers, database."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from typing import Any

from django.urls import reverse
from django.utils.formats import number_format
from django.utils.translation import gettext as _

from webhooks import permissions
from webhooks.admin.display import (
    EMPTY,
    day_chart,
    duration,
    hour_of,
    percent,
    short,
    sparkline,
    webhook_state,
    when,
)
from webhooks.admin.lists import list_url, start_url
from webhooks.error_kinds import KINDS
from webhooks.insight.alarms import Problem
from webhooks.insight.counts import EACH_CAP, TOTAL_CAP, FailedGroup, open_count
from webhooks.insight.dead_rows import MAX_SHOWN, PATIENCE, VacuumState
from webhooks.insight.overview import Overview
from webhooks.insight.statistics import Recent
from webhooks.insight.status import Status
from webhooks.insight.wording import clock_time, number, span
from webhooks.models import Event, Run
from webhooks.models.event import label_of_action
from webhooks.models.queue import State
from webhooks.operations.runs import name_webhooks, summary, time_left
from webhooks.permissions.redaction import Redaction, label_of_kind
from webhooks.text import last_line
from webhooks.workers.status import Backend

# The states in the order of the page. The page shows the last ones only if there are some.
ALWAYS = (State.PENDING, State.FAILED)
STATES = (*ALWAYS, State.WAITING, State.SENDING, State.SUCCEEDED, State.DISCARDED)

# The table of webhooks has at most so many rows, and is filled up to the fewest with healthy ones. The rest is folded.
FEWEST, MOST_ROWS = 8, 12

# Groups of failed deliveries that are shown, and the newest deliveries in each group.
MAX_GROUPS, NEWEST_OF_GROUP = 10, 3


# Figures


def figures(overview: Overview, now: datetime) -> dict[str, Any]:
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
    columns = overview.hours.together
    rows = [{**hour_of(start), "succeeded": good, "failed": bad} for start, (good, bad) in columns.items()]
    totals = list(map(sum, columns.values()))
    return {
        "attempted": number(sum(totals)),
        "chart": day_chart(columns),
        "chart_highest": number(max(totals, default=0)),
        "hours": [row for row in reversed(rows) if row["succeeded"] or row["failed"]],
        "first_hour": rows[0]["hour"] if rows else "",
    }


# Webhooks


def webhooks(status: Status) -> dict[str, Any]:
    """The webhooks in the order of their alarms. The first ones are rows of a table, the rest is short and folded."""
    overview, address = status.overview, reverse("admin:rq_webhooks_webhook_changelist")
    troubled = _in_order_of_trouble(status)
    rows = sorted(overview.webhooks, key=lambda one: (troubled.get(one.pk, len(troubled)), not one.enabled, one.name))
    unfolded = min(max(len(troubled), FEWEST), MOST_ROWS)
    return {
        "webhooks": [_webhook_row(one, overview, address) for one in rows[:unfolded]],
        "folded_webhooks": [_webhook_line(one, overview, address) for one in rows[unfolded:]],
        "are_folded_healthy": len(troubled) <= unfolded,
        "has_more_webhooks": overview.has_more_webhooks,
    }


def _in_order_of_trouble(status: Status) -> dict[int, int]:
    """The place of each webhook with a problem. A webhook that only waits for a worker has none."""
    about = [
        one.webhook_id
        for alarm in status.problems
        for one in (alarm, *alarm.consequences)
        if one.webhook_id is not None and (one is alarm or one.problem != Problem.OVERDUE)
    ]
    return {webhook: place for place, webhook in enumerate(dict.fromkeys(about))}


def _webhook_line(webhook: Any, overview: Overview, address: str) -> dict[str, Any]:
    """``address`` leads to the list of webhooks. ``reverse`` for each of hundreds is slow."""
    return {
        "row": webhook,
        "name": short(webhook.name, 48),
        "url": f"{address}{webhook.pk}/change/",
        "state": webhook_state(webhook),
        "percent": percent(_recent(webhook, overview).day.success_percent),
    }


def _webhook_row(webhook: Any, overview: Overview, address: str) -> dict[str, Any]:
    recent, waits = _recent(webhook, overview), open_count(webhook)
    times = recent.day.duration
    is_failing = webhook.failures_in_a_row and webhook.last_failure_at
    return {
        **_webhook_line(webhook, overview, address),
        "is_bad": bool(recent.day.failed) and is_failing,
        "times": f"{duration(times, 0.5)} / {duration(times, 0.95)}" if times.count else EMPTY,
        "waits": number(waits, EACH_CAP) if waits else "",
        "waits_url": list_url("delivery", state="open", webhook=webhook.pk),
        "failed": number(webhook.failed, EACH_CAP) if webhook.failed else "",
        "failed_url": list_url("delivery", state=State.FAILED.value, webhook=webhook.pk),
        "last": short(label_of_kind(webhook.error_kind) or webhook.last_failure, 32) if is_failing else "",
        "last_at": when(webhook.last_failure_at if is_failing else webhook.last_success_at),
        "has_last": bool(webhook.last_failure_at if is_failing else webhook.last_success_at),
        "trend": sparkline(overview.hours.by_webhook.get(webhook.pk, ())) if recent.day.attempted else "",
    }


def _recent(webhook: Any, overview: Overview) -> Recent:
    return overview.recent_by_webhook.get(webhook.pk, Recent())


# Failed deliveries and events


def failed(overview: Overview, user: Any) -> dict[str, Any]:
    """The failed deliveries, one row for each webhook and reason, and the last failed events."""
    names = {webhook.pk: webhook.name for webhook in overview.webhooks}
    groups = [one for one in overview.failed_groups if one.webhook_id in names]
    shown = {(one.webhook_id, one.kind) for one in groups[:MAX_GROUPS]}
    newest = _newest_failed(overview, user, shown)
    # Users without permission for webhooks see the deliveries alone.
    ungrouped = [] if groups else [row for rows in newest.values() for row in rows]
    return {
        "groups": [_group(one, names[one.webhook_id], newest) for one in groups[:MAX_GROUPS]],
        "more_groups": max(0, len(groups) - MAX_GROUPS),
        "ungrouped": ungrouped,
        "failed_url": list_url("delivery", state=State.FAILED.value),
        "failed_events": [
            {
                **_of_object(event),
                "pk": event.pk,
                "at": when(event.timestamp),
                "error": short(last_line(event.error), 120),
            }
            for event in overview.newest_failed_events
        ],
    }


def _of_object(event: Event) -> dict[str, Any]:
    name = event.object_repr or event.object_id
    about = f"{event.object_type} {event.object_id}, {label_of_action(event.action)}"
    return {"label": name, "name": short(name, 60), "about": about}


def _newest_failed(
    overview: Overview, user: Any, groups: set[tuple[int, str]]
) -> dict[tuple[int, str], list[dict[str, Any]]]:
    """The newest failed deliveries of these groups, or of all without any, by webhook and kind of error."""
    redacted = Redaction(user)
    found = defaultdict[tuple[int, str], list[dict[str, Any]]](list)
    for one in overview.newest_failed:
        if groups and (one.webhook_id, one.error_kind) not in groups:
            continue
        reason = redacted.error(one.webhook_id, one.delivery.reason, one.error_kind)
        shown = {"pk": one.pk, "at": when(one.failed_at), "reason": short(reason, 90)}
        found[one.webhook_id, one.error_kind].append({**_of_object(one.event), **shown})
    return found


def _group(group: FailedGroup, name: str, newest: dict[tuple[int, str], list[dict[str, Any]]]) -> dict[str, Any]:
    filters = {"webhook": group.webhook_id} | ({"error_kind": group.kind} if group.kind else {})
    return {
        "row": group,
        "reason": label_of_kind(group.kind) or _("unknown reason"),
        "label": name,
        "webhook": short(name, 48),
        "retry_url": retry_url(**filters) if group.kind in KINDS else "",
        "count": number(group.count, EACH_CAP),
        "since": clock_time(group.since),
        "last": when(group.last),
        "url": list_url("delivery", state=State.FAILED.value, **filters),
        "newest": newest.get((group.webhook_id, group.kind), [])[:NEWEST_OF_GROUP],
    }


def retry_url(**filters: Any) -> str:
    """The address that retries the failed deliveries with these filters, if there are few, and else asks first."""
    return start_url("retry", state=State.FAILED.value, **filters)


# Runs, workers, database


def runs(overview: Overview, user: Any) -> dict[str, Any]:
    """The runs that have not ended, with their progress."""
    name_webhooks(overview.runs, user)
    return {
        "runs": [_run(run) for run in overview.runs],
        "may_steer_runs": permissions.has_perm(user, "rq_webhooks.add_run"),
    }


def _run(run: Run) -> dict[str, Any]:
    text = _("Run %(number)s by %(user)s: %(summary)s")
    return {
        "row": run,
        "text": text % {"number": run.pk, "user": run.requested_by or EMPTY, "summary": summary(run)},
        "taken": number(run.taken),
        "total": number(run.total) if run.total is not None else "",
        "failed": number(run.failed) if run.failed else "",
        "left": time_left(run),
        "begun": when(run.created),
    }


def workers(backend: Backend) -> dict[str, Any]:
    """The state of Redis, and the workers with what each does."""
    return {
        "backend": backend,
        "wake_ups": number(backend.wake_ups),
        "workers": [
            {
                "row": worker,
                "heartbeat": when(worker.last_heartbeat),
                "started_at": when(worker.started_at),
                "rate": "" if worker.per_minute is None or worker.is_silent else rate(worker.per_minute),
            }
            for worker in backend.workers
        ],
    }


def database(vacuum: VacuumState) -> dict[str, Any]:
    """PostgreSQL's dead rows, and the transactions that hold back VACUUM."""
    return {
        "vacuum": vacuum,
        "vacuum_patience": span(PATIENCE),
        "is_database_in_trouble": bool(vacuum.open) or any(table.needs_vacuum for table in vacuum.tables),
        "tables": [
            {
                "name": table.name,
                "dead": number(table.dead),
                "live": number(table.live),
                "vacuumed_at": when(table.vacuumed_at),
            }
            for table in vacuum.tables[:MAX_SHOWN]
        ],
    }
