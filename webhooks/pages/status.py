"""What the status page shows: the problems with their ways out, the webhooks by trouble, and the failed deliveries.

Each cause has a box: since when, what waits, and the way out as links and buttons, as far as the user may use them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from webhooks.ground.error_kinds import KINDS
from webhooks.ground.text import last_line
from webhooks.insight.alarms import Alarm, Problem
from webhooks.insight.counts import EACH_CAP, TOTAL_CAP, FailedGroup, open_count
from webhooks.insight.overview import Overview
from webhooks.insight.statistics import Recent
from webhooks.insight.status import Status, read_status
from webhooks.insight.wording import number
from webhooks.models import Event, QueuedDelivery, State, permissions
from webhooks.models.permissions.redaction import Redaction, label_of_kind
from webhooks.operations import runs
from webhooks.operations.kinds import RETRY
from webhooks.pages.links import RECOVER_SKIPPED, Link, retry_failed

# The alarms that get a box, and the consequences in one. The page only names further alarms.
MAX_BOXES, MAX_FOLDED = 15, 10

# A few boxes all show what to do. Of more boxes, the first ones do, and the others unfold it.
FEW, UNFOLDED = 4, 2

# The states in the order of the page. The page shows the last ones only if there are some.
ALWAYS = (State.PENDING, State.FAILED)
STATES = (*ALWAYS, State.WAITING, State.SENDING, State.SUCCEEDED, State.DISCARDED)

# The table of webhooks has at most so many rows, and is filled up to the fewest with healthy ones. The rest is folded.
FEWEST, MOST_ROWS = 8, 12

# The page of the webhook is the way out of these.
OPENED = (Problem.PAUSED_BY_USER, Problem.DISABLED, Problem.UNREADABLE, Problem.NOT_REGISTERED, Problem.SKIPS_ALL)


# Groups of failed deliveries that are shown, and the newest deliveries in each group.
MAX_GROUPS, NEWEST_OF_GROUP = 10, 3


class StatusPage:
    """The status as one user sees it. Counts are one more than their cap if there are more."""

    def __init__(self, user: Any) -> None:
        self.status = status = read_status(user)
        overview, acts = status.overview, _Acts(status, user)
        runs.name_webhooks(overview.runs, user)
        self.states = [(one, overview.counts[one]) for one in STATES if overview.counts[one] or one in ALWAYS]
        """How many deliveries are in a state."""
        self.oldest_seconds = (status.as_of - overview.oldest).total_seconds() if overview.oldest else 0
        """For how long the oldest delivery or change is due. 0 if there is none."""
        self.is_partial = permissions.is_partial(user)
        """Whether the user may view some objects only."""
        self.may_ask_why = permissions.may_view_webhooks(user)
        self.may_add_webhooks = acts.may_add
        self.steerable_runs = {one.pk for one in overview.runs if permissions.may(user, "add", one)}

        self.boxes = [Box(alarm, acts) for alarm in status.alarms[:MAX_BOXES]]
        """The worst alarms."""
        self.unfolded_boxes = len(self.boxes) if len(self.boxes) <= FEW else UNFOLDED
        """How many of them show at once what to do."""
        self.folded_alarms = status.alarms[MAX_BOXES:]
        """The alarms without a box."""

        troubled = _in_order_of_trouble(status)
        webhooks = sorted(
            overview.webhooks, key=lambda one: (troubled.get(one.pk, len(troubled)), not one.enabled, one.name)
        )
        rows = [WebhookRow(one, overview) for one in webhooks]
        unfolded = min(max(len(troubled), FEWEST), MOST_ROWS)
        self.webhooks, self.folded_webhooks = rows[:unfolded], rows[unfolded:]
        """The rows of the table, the worst first, and the rest."""
        self.are_folded_healthy = len(troubled) <= unfolded

        groups = [one for one in overview.failed_groups if one.webhook_id in acts.webhooks]
        newest = _newest_failed(overview.newest_failed, acts)
        self.groups = [Group(one, acts, newest) for one in groups[:MAX_GROUPS]]
        """The failed deliveries by webhook and reason."""
        self.more_groups = max(0, len(groups) - MAX_GROUPS)
        self.ungrouped = [] if groups else [*chain.from_iterable(newest.values())]
        """The newest failed deliveries, for users without permission for webhooks."""
        self.failed_events = [
            FailedRow(Link("", "event", event.pk), event, event.timestamp, last_line(event.error))
            for event in overview.newest_failed_events
        ]
        """The newest ones."""


# Problems


class Box:
    """An alarm as the page shows it."""

    def __init__(self, alarm: Alarm, acts: _Acts) -> None:
        self.alarm, self.links = alarm, list(acts.links_of(alarm))
        self.page = acts.page_of(alarm)
        """The page of its webhook, to follow the remedy, if none of the links leads there."""
        self.facts = alarm.facts(timezone.now())
        """Since when, how many wait, when the next probe is, and how many deliveries of its webhook failed."""
        folded = list[Alarm]()
        for one in alarm.consequences:
            if one.webhook_id == alarm.webhook_id and one.problem == Problem.FAILED_DELIVERIES:
                failed = acts.webhooks[one.webhook_id or 0].failed
                text = ngettext("%(count)s failed", "%(count)s failed", failed)
                self.facts.append(text % {"count": number(failed, EACH_CAP)})
                self.links += [link for link in acts.links_of(one) if link.posts]
            else:
                folded.append(one)
        self.consequences = [Box(one, acts) for one in folded[:MAX_FOLDED]]
        """The first ones of the rest that follows from it, folded."""
        self.more = max(0, len(folded) - MAX_FOLDED)
        """How many more follow from it."""

    @property
    def folded(self) -> str:
        """How many follow from it."""
        count = len(self.consequences) + self.more
        if all(one.alarm.problem == Problem.OVERDUE for one in self.consequences):
            text = ngettext("%(count)s webhook waits because of this", "%(count)s webhooks wait because of this", count)
        else:
            text = ngettext("%(count)s more problem because of this", "%(count)s more problems because of this", count)
        return text % {"count": number(count)}


class _Acts:
    """The links and buttons of alarms, as one user sees them."""

    def __init__(self, status: Status, user: Any) -> None:
        self._user, self._overview, self.redacted = user, status.overview, Redaction(user)
        self.webhooks = {webhook.pk: webhook for webhook in status.overview.webhooks}
        self.may_add = permissions.has_perm(user, "rq_webhooks.add_webhook")
        self.may_retry = not RETRY.missing_permissions(user)

    def links_of(self, alarm: Alarm) -> Iterator[Link]:
        """The most likely one first."""
        webhook = self.webhooks.get(alarm.webhook_id or 0)
        if webhook is not None:
            yield from self._links_of_webhook(alarm, webhook)
            return
        match alarm.problem:
            case Problem.NO_WEBHOOK if self.may_add:
                yield Link(_("Add a webhook"), "webhook", act="add")
            case Problem.ALL_DISABLED | Problem.NOT_REGISTERED:
                yield Link(_("Show the webhooks"), "webhook")
            case Problem.UNDISPATCHED:
                yield Link(_("Show the newest events"), "event")
            case Problem.FAILED_DELIVERIES:
                yield from self._links_of_failed(self._overview.counts.get(State.FAILED, 0), TOTAL_CAP)
            case Problem.FAILED_EVENTS:
                if newest := self._overview.newest_failed_events:
                    yield Link(_("See the error"), "event", newest[0].pk)
                yield Link(_("Show failed events to replay"), "event", filters={"state": "failed"})

    def _links_of_webhook(self, alarm: Alarm, webhook: Any) -> Iterator[Link]:
        pk, about, may_change = webhook.pk, webhook.name, self.redacted.may_change(webhook.pk)
        pending = {"state": "pending", "webhook": pk}
        seen = webhook.blocking or webhook.last_failed
        see_request = Link(_("See request"), "delivery", seen, filters={} if seen else pending, about=about)
        resume = Link(_("Resume"), "webhook", pk, "resume", about=about, posts=True)
        match alarm.problem:
            case Problem.FAILING | Problem.PAUSED:
                yield see_request
                if may_change:
                    yield Link(_("Send test"), "webhook", pk, "ping", about=about, posts=True)
                if may_change and webhook.is_paused:
                    yield resume
            case Problem.PAUSED_BY_USER if may_change:
                yield resume
            case Problem.DISABLED if may_change:
                yield Link(_("Enable"), "webhook", pk, "enable", about=about, posts=True)
            case Problem.BLOCKED_LANES:
                yield see_request
            case Problem.OVERDUE:
                yield Link(_("Show its pending deliveries"), "delivery", filters=pending, about=about)
            case Problem.SKIPS_ALL:
                if permissions.may_view_skips(self._user):
                    yield Link(_("Show skipped changes"), "skip", filters={"webhook": pk}, about=about)
                if runs.may_begin(self._user, RECOVER_SKIPPED.name):
                    yield Link(str(RECOVER_SKIPPED.link), "webhook", pk, RECOVER_SKIPPED.name, about=about)
            case Problem.FAILED_DELIVERIES:
                yield from self._links_of_failed(webhook.failed, EACH_CAP, about, webhook=pk)
        if alarm.problem in OPENED:
            yield _page(webhook)

    def _links_of_failed(self, count: int, cap: int, about: str = "", **own: Any) -> Iterator[Link]:
        """The label has "…" if a page asks first. It leaves out a number that is only a cap: that page has the true
        one."""
        yield Link(_("Show them"), "delivery", filters={"state": "failed", **own}, about=about)
        if self.may_retry:
            text = _("Retry %(count)s…") if count > runs.AT_ONCE else _("Retry %(count)s")
            label = _("Retry all…") if count > cap else text % {"count": number(count)}
            yield retry_failed(label, about, **own)

    def page_of(self, alarm: Alarm) -> Link | None:
        webhook = self.webhooks.get(alarm.webhook_id or 0)
        return _page(webhook) if webhook is not None and alarm.problem in (Problem.FAILING, Problem.PAUSED) else None


def _page(webhook: Any) -> Link:
    return Link(_("Open webhook"), "webhook", webhook.pk, about=webhook.name)


# Webhooks


class WebhookRow:
    """A webhook with its counts and its recent attempts."""

    def __init__(self, webhook: Any, overview: Overview) -> None:
        self.webhook, self.waits = webhook, open_count(webhook)
        self.recent = overview.recent_by_webhook.get(webhook.pk, Recent())
        self.hours = overview.hours.by_webhook.get(webhook.pk, ())
        """Its attempts by hour, see ``Hours``."""
        self.is_failing = bool(webhook.failures_in_a_row and webhook.last_failure_at)
        """Whether its last attempt failed."""
        self.is_bad = bool(self.recent.day.failed) and self.is_failing
        """Whether attempts of this day failed, and the last one did."""
        self.last_error = label_of_kind(webhook.error_kind) or str(webhook.last_failure)
        self.last_at = webhook.last_failure_at if self.is_failing else webhook.last_success_at
        """When its last attempt failed or succeeded."""


def _in_order_of_trouble(status: Status) -> dict[int, int]:
    """The place of each webhook with a problem. A webhook that only waits for a worker has none."""
    about = [
        one.webhook_id
        for alarm in status.problems
        for one in (alarm, *alarm.consequences)
        if one.webhook_id is not None and (one is alarm or one.problem != Problem.OVERDUE)
    ]
    return {webhook: place for place, webhook in enumerate(dict.fromkeys(about))}


# Failed deliveries and events


@dataclass(frozen=True)
class FailedRow:
    """A failed delivery or event."""

    page: Link
    event: Event
    at: datetime | None
    reason: str
    retry: Link | None = None


Newest = dict[tuple[int, str], list[FailedRow]]
"""Failed deliveries by webhook and kind of error."""


class Group:
    """The failed deliveries of a webhook with one reason."""

    def __init__(self, found: FailedGroup, acts: _Acts, newest: Newest) -> None:
        filters: dict[str, Any] = {"webhook": found.webhook_id} | ({"error_kind": found.kind} if found.kind else {})
        self.found, self.webhook = found, acts.webhooks[found.webhook_id]
        self.newest = newest.get((found.webhook_id, found.kind), [])[:NEWEST_OF_GROUP]
        self.all = Link("", "delivery", filters={"state": "failed", **filters})
        """All of them, as a list."""
        self.retry = retry_failed(_("Retry…"), **filters) if acts.may_retry and found.kind in KINDS else None


def _newest_failed(deliveries: Iterable[QueuedDelivery], acts: _Acts) -> Newest:
    found = defaultdict[tuple[int, str], list[FailedRow]](list)
    for one in deliveries:
        reason = acts.redacted.error(one.webhook_id, one.delivery.reason, one.error_kind)
        retry = Link(str(RETRY.button), "delivery", one.pk, RETRY.name, posts=True) if acts.may_retry else None
        row = FailedRow(Link("", "delivery", one.pk), one.event, one.failed_at, reason, retry)
        found[one.webhook_id, one.error_kind].append(row)
    return found
