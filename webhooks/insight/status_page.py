"""What the status page shows: the problems with their ways out, the webhooks by trouble, and the failed deliveries.

Each cause has a box: since when, what waits, and the way out as links and buttons, as far as the user may use them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from webhooks import permissions
from webhooks.delivery.runs.kinds import ADD_RUN
from webhooks.error_kinds import KINDS
from webhooks.insight.alarms import Alarm, Problem
from webhooks.insight.counts import EACH_CAP, TOTAL_CAP, FailedGroup, open_count
from webhooks.insight.links import Link, retry_failed
from webhooks.insight.overview import Overview
from webhooks.insight.statistics import Recent
from webhooks.insight.status import Status, read_status
from webhooks.insight.wording import number
from webhooks.models import Event, State
from webhooks.models.run import run_kinds
from webhooks.permissions.redaction import Redaction, label_of_kind
from webhooks.text import last_line

# The alarms that get a box, and the consequences in one. The page only names further alarms.
MAX_BOXES, MAX_FOLDED = 15, 10

# A few boxes all show what to do. Of more boxes, the first ones do, and the others unfold it.
FEW, UNFOLDED = 4, 2

# The page of the webhook is the way out of these.
OPENED = (
    Problem.PAUSED_BY_USER,
    Problem.DISABLED,
    Problem.UNREADABLE,
    Problem.NOT_REGISTERED,
    Problem.SKIPS_ALL,
)

# The states in the order of the page. The page shows the last ones only if there are some.
ALWAYS = (State.PENDING, State.FAILED)
STATES = (*ALWAYS, State.WAITING, State.SENDING, State.SUCCEEDED, State.DISCARDED)

# The table of webhooks has at most so many rows, and is filled up to the fewest with healthy ones. The rest is folded.
FEWEST, MOST_ROWS = 8, 12

# Groups of failed deliveries that are shown, and the newest deliveries in each group.
MAX_GROUPS, NEWEST_OF_GROUP = 10, 3


@dataclass(frozen=True)
class StatusPage:
    """The status as one user sees it. Counts are one more than their cap if there are more."""

    status: Status
    boxes: list[Box]
    """The worst alarms."""
    unfolded_boxes: int
    """How many of them show at once what to do."""
    folded_alarms: list[Alarm]
    """The alarms without a box."""
    states: list[tuple[State, int]]
    """How many deliveries are in a state."""
    webhooks: list[WebhookRow]
    """The rows of the table, the worst first."""
    folded_webhooks: list[WebhookRow]
    are_folded_healthy: bool
    groups: list[Group]
    """The failed deliveries by webhook and reason."""
    more_groups: int
    ungrouped: list[FailedRow]
    """The newest failed deliveries, for users without permission for webhooks."""
    failed_events: list[FailedRow]
    """The newest ones."""
    is_partial: bool
    """Whether the user may view some objects only."""
    may_ask_why: bool
    may_add_webhooks: bool
    may_steer_runs: bool

    @property
    def oldest_seconds(self) -> float:
        """For how long the oldest delivery or change is due. 0 if there is none."""
        oldest = self.status.overview.oldest
        return (self.status.as_of - oldest).total_seconds() if oldest else 0


def read_status_page(user: Any, asks_above: int) -> StatusPage:
    """Read the status as far as the user may see it. A retry of more than ``asks_above`` deliveries asks first."""
    status = read_status(user)
    overview, alarms = status.overview, status.alarms[:MAX_BOXES]
    may_retry = permissions.has_perm(user, "rq_webhooks.retry_delivery")
    links, troubled = _Links(status, user, asks_above), _in_order_of_trouble(status)
    rows = [
        WebhookRow(one, overview.recent_by_webhook.get(one.pk, Recent()), overview.hours.by_webhook.get(one.pk, ()))
        for one in sorted(
            overview.webhooks, key=lambda one: (troubled.get(one.pk, len(troubled)), not one.enabled, one.name)
        )
    ]
    unfolded = min(max(len(troubled), FEWEST), MOST_ROWS)
    webhooks = {webhook.pk: webhook for webhook in overview.webhooks}
    groups = [one for one in overview.failed_groups if one.webhook_id in webhooks]
    newest = _newest_failed(overview, user, {(one.webhook_id, one.kind) for one in groups[:MAX_GROUPS]}, may_retry)
    return StatusPage(
        status=status,
        boxes=[_box(alarm, links) for alarm in alarms],
        unfolded_boxes=len(alarms) if len(alarms) <= FEW else UNFOLDED,
        folded_alarms=status.alarms[MAX_BOXES:],
        states=[(one, overview.counts[one]) for one in STATES if overview.counts[one] or one in ALWAYS],
        webhooks=rows[:unfolded],
        folded_webhooks=rows[unfolded:],
        are_folded_healthy=len(troubled) <= unfolded,
        groups=[
            Group(one, webhooks[one.webhook_id], newest[one.webhook_id, one.kind][:NEWEST_OF_GROUP], may_retry)
            for one in groups[:MAX_GROUPS]
        ],
        more_groups=max(0, len(groups) - MAX_GROUPS),
        ungrouped=[] if groups else [row for rows in newest.values() for row in rows],
        failed_events=[
            FailedRow(Link("", "event", event.pk), event, event.timestamp, last_line(event.error))
            for event in overview.newest_failed_events
        ],
        is_partial=permissions.is_partial(user),
        may_ask_why=permissions.may_view_webhooks(user),
        may_add_webhooks=permissions.has_perm(user, "rq_webhooks.add_webhook"),
        may_steer_runs=permissions.has_perm(user, "rq_webhooks.add_run"),
    )


# Problems


@dataclass(frozen=True)
class Box:
    """An alarm as the page shows it."""

    alarm: Alarm
    links: list[Link]
    failed: int = 0
    """Failed deliveries of its webhook, which a fact shows."""
    consequences: list[Box] = field(default_factory=list)
    """The first ones of the rest that follows from it, folded."""
    more: int = 0
    """How many more follow from it."""
    page: Link | None = None
    """The page of its webhook, to follow the remedy, if none of the links leads there."""

    @property
    def facts(self) -> list[str]:
        """Since when, how many wait, when the next probe is, and how many failed."""
        shown = {"count": number(self.failed, EACH_CAP)}
        failed = [ngettext("%(count)s failed", "%(count)s failed", self.failed) % shown] if self.failed else []
        return [*self.alarm.facts(timezone.now()), *failed]

    @property
    def folded(self) -> str:
        """How many follow from it."""
        count = len(self.consequences) + self.more
        if all(one.alarm.problem == Problem.OVERDUE for one in self.consequences):
            text = ngettext("%(count)s webhook waits because of this", "%(count)s webhooks wait because of this", count)
        else:
            text = ngettext("%(count)s more problem because of this", "%(count)s more problems because of this", count)
        return text % {"count": number(count)}


def _box(alarm: Alarm, links: _Links) -> Box:
    own, failed, folded = list(links.of(alarm)), 0, list[Alarm]()
    for one in alarm.consequences:
        # The box shows failed deliveries of its webhook as a number.
        if one.webhook_id == alarm.webhook_id and one.problem == Problem.FAILED_DELIVERIES:
            failed = links.webhooks[one.webhook_id or 0].failed
            own += [link for link in links.of(one) if link.posts]
        else:
            folded.append(one)
    return Box(
        alarm=alarm,
        links=own,
        failed=failed,
        consequences=[_box(one, links) for one in folded[:MAX_FOLDED]],
        more=max(0, len(folded) - MAX_FOLDED),
        page=links.page_of(alarm),
    )


class _Links:
    """The links and buttons that one user sees."""

    def __init__(self, status: Status, user: Any, asks_above: int) -> None:
        overview = status.overview
        self.webhooks: Mapping[int, Any] = {webhook.pk: webhook for webhook in overview.webhooks}
        self._newest_event = next(iter(overview.newest_failed_events), None)
        self._failed, self._asks_above = overview.counts.get(State.FAILED, 0), asks_above
        self._may_retry = permissions.has_perm(user, "rq_webhooks.retry_delivery")
        self._may_add = permissions.has_perm(user, "rq_webhooks.add_webhook")
        self._may_view_skips = permissions.may_view_skips(user)
        self._may_recover = not run_kinds["recover_skipped"].missing_permissions(user, ADD_RUN)
        self._may_change: Callable[[int], bool] = Redaction(user).may_change

    def of(self, alarm: Alarm) -> Iterator[Link]:
        """The links for an alarm, the most likely one first."""
        webhook = self.webhooks.get(alarm.webhook_id or 0)
        if webhook is not None:
            yield from self._of_webhook(alarm, webhook)
            return
        match alarm.problem:
            case Problem.NO_WEBHOOK if self._may_add:
                yield Link(_("Add a webhook"), "webhook", act="add")
            case Problem.ALL_DISABLED | Problem.NOT_REGISTERED:
                yield Link(_("Show the webhooks"), "webhook")
            case Problem.UNDISPATCHED:
                yield Link(_("Show the newest events"), "event")
            case Problem.FAILED_DELIVERIES:
                yield Link(_("Show them"), "delivery", filters={"state": "failed"})
                if self._may_retry:
                    yield retry_failed(self._retry_label(self._failed, TOTAL_CAP))
            case Problem.OPEN_TRANSACTION | Problem.DEAD_ROWS:
                yield Link(_("Show the database"), "database")
            case Problem.FAILED_EVENTS:
                if self._newest_event:
                    yield Link(_("See the error"), "event", self._newest_event.pk)
                yield Link(_("Show failed events to replay"), "event", filters={"state": "failed"})

    def page_of(self, alarm: Alarm) -> Link | None:
        webhook = self.webhooks.get(alarm.webhook_id or 0)
        return _page(webhook) if webhook is not None and alarm.problem in (Problem.FAILING, Problem.PAUSED) else None

    def _of_webhook(self, alarm: Alarm, webhook: Any) -> Iterator[Link]:
        own, about, may_change = {"webhook": webhook.pk}, webhook.name, self._may_change(webhook.pk)
        seen = webhook.blocking or webhook.last_failed
        pending = {"state": "pending", **own}
        see_request = Link(_("See request"), "delivery", seen, filters={} if seen else pending, about=about)
        resume = Link(_("Resume"), "webhook", webhook.pk, "resume", about=about, posts=True)
        match alarm.problem:
            case Problem.FAILING | Problem.PAUSED:
                yield see_request
                if may_change:
                    yield Link(_("Send test"), "webhook", webhook.pk, "ping", about=about, posts=True)
                if may_change and webhook.is_paused:
                    yield resume
            case Problem.PAUSED_BY_USER if may_change:
                yield resume
            case Problem.DISABLED if may_change:
                yield Link(_("Enable"), "webhook", webhook.pk, "enable", about=about, posts=True)
            case Problem.BLOCKED_LANES:
                yield see_request
            case Problem.OVERDUE:
                yield Link(_("Show its pending deliveries"), "delivery", filters=pending, about=about)
            case Problem.SKIPS_ALL:
                if self._may_view_skips:
                    yield Link(_("Show skipped changes"), "skip", filters=own, about=about)
                if self._may_recover:
                    yield Link(_("Recover skipped…"), "webhook", webhook.pk, "recover_skipped", about=about)
            case Problem.FAILED_DELIVERIES:
                yield Link(_("Show them"), "delivery", filters={"state": "failed", **own}, about=about)
                if self._may_retry:
                    yield retry_failed(self._retry_label(webhook.failed, EACH_CAP), about, **own)
        if alarm.problem in OPENED:
            yield _page(webhook)

    def _retry_label(self, count: int, cap: int) -> str:
        """With "…" if a page asks first. A number that is only a cap is left out: that page has the true one."""
        if count > cap:
            return _("Retry all…")
        text = _("Retry %(count)s…") if count > self._asks_above else _("Retry %(count)s")
        return text % {"count": number(count)}


def _page(webhook: Any) -> Link:
    return Link(_("Open webhook"), "webhook", webhook.pk, about=webhook.name)


# Webhooks


@dataclass(frozen=True)
class WebhookRow:
    """A webhook with its counts and its recent attempts."""

    webhook: Any
    recent: Recent
    hours: Any
    """Its attempts by hour, see ``Hours``."""

    @property
    def waits(self) -> int:
        return open_count(self.webhook)

    @property
    def is_failing(self) -> bool:
        """Whether its last attempt failed."""
        return bool(self.webhook.failures_in_a_row and self.webhook.last_failure_at)

    @property
    def is_bad(self) -> bool:
        """Whether attempts of this day failed, and the last one did."""
        return bool(self.recent.day.failed) and self.is_failing

    @property
    def last_error(self) -> str:
        return label_of_kind(self.webhook.error_kind) or str(self.webhook.last_failure)

    @property
    def last_at(self) -> datetime | None:
        """When its last attempt failed or succeeded."""
        moment: datetime | None = self.webhook.last_failure_at if self.is_failing else self.webhook.last_success_at
        return moment


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


@dataclass(frozen=True)
class Group:
    """The failed deliveries of a webhook with one reason."""

    found: FailedGroup
    webhook: Any
    newest: list[FailedRow]
    may_retry: bool

    @property
    def filters(self) -> dict[str, Any]:
        return {"webhook": self.found.webhook_id} | ({"error_kind": self.found.kind} if self.found.kind else {})

    @property
    def all(self) -> Link:
        """All of them, as a list."""
        return Link("", "delivery", filters={"state": "failed", **self.filters})

    @property
    def retry(self) -> Link | None:
        return retry_failed(_("Retry…"), **self.filters) if self.may_retry and self.found.kind in KINDS else None


def _newest_failed(
    overview: Overview, user: Any, groups: set[tuple[int, str]], may_retry: bool
) -> defaultdict[tuple[int, str], list[FailedRow]]:
    """The newest failed deliveries of these groups, or of all without any, by webhook and kind of error."""
    redacted = Redaction(user)
    found = defaultdict[tuple[int, str], list[FailedRow]](list)
    for one in overview.newest_failed:
        if not groups or (one.webhook_id, one.error_kind) in groups:
            reason = redacted.error(one.webhook_id, one.delivery.reason, one.error_kind)
            shown, retry = Link("", "delivery", one.pk), Link(_("Retry"), "delivery", one.pk, "retry", posts=True)
            row = FailedRow(shown, one.event, one.failed_at, reason, retry if may_retry else None)
            found[one.webhook_id, one.error_kind].append(row)
    return found
