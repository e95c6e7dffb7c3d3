"""The status page, /admin/webhook-backend-status/: its parts, which a script refreshes, and the boxes of the problems.

Each cause has a box: since when, what waits, and the way out as buttons. These are the buttons of the pages of
deliveries, webhooks and runs, and return to this page. ``status_sections`` has the figures and tables below the boxes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.apps import apps
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_safe

from webhooks import permissions
from webhooks.admin import status_sections as sections
from webhooks.admin.display import page
from webhooks.admin.lists import list_url, page_url, row_url
from webhooks.admin.run_start import may_begin
from webhooks.insight.alarms import Alarm, Problem
from webhooks.insight.counts import EACH_CAP, TOTAL_CAP
from webhooks.insight.status import Status, read_status
from webhooks.insight.wording import exact_time, number
from webhooks.models.queue import State
from webhooks.operations import runs
from webhooks.permissions.redaction import Redaction

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

# Seconds between two refreshes of the parts.
REFRESH_EVERY = 5


@require_safe
def show(request: HttpRequest) -> HttpResponse:
    """The whole page."""
    context = {
        **admin.site.each_context(request),
        **_parts(request),
        "title": _("Webhooks"),
        "has_title_bar": apps.is_installed("unfold"),
        "refresh_every": REFRESH_EVERY,
    }
    return page(request, "rq_webhooks/admin/status/page.html", context)


@require_safe
def parts(request: HttpRequest) -> HttpResponse:
    """The parts that change. htmx puts each into the place of the one with the same id."""
    response = page(request, "rq_webhooks/admin/status/parts.html", _parts(request))
    response["Cache-Control"] = "no-store"
    return response


def _parts(request: HttpRequest) -> dict[str, Any]:
    user = request.user
    if not permissions.may_view_deliveries(user):
        raise PermissionDenied
    status = read_status(user)
    overview, hidden = status.overview, status.overview.hidden
    return {
        "as_of": exact_time(status.as_of),
        "is_partial": permissions.is_partial(user),
        "hides_webhooks": "webhooks" in hidden,
        "hides_events": "events" in hidden,
        "may_ask_why": permissions.may_view_webhooks(user),
        "may_retry": permissions.has_perm(user, "rq_webhooks.retry_delivery"),
        "may_add_webhooks": permissions.has_perm(user, "rq_webhooks.add_webhook"),
        "alarms": status.alarms,
        "problem_count": len(status.problems),
        "worst": status.level.value,
        **boxes(status, user),
        **sections.figures(overview, status.as_of),
        **sections.webhooks(status),
        **sections.failed(overview, user),
        **sections.runs(overview, user),
        **sections.workers(status.backend),
        **sections.database(overview.vacuum),
    }


# Problems


@dataclass(frozen=True)
class Button:
    """A link, or a button that posts: all belong to one form, which has the token against forged requests."""

    label: str
    url: str
    about: str = ""
    """The name of the webhook, for screen readers: other boxes have the same labels."""
    posts: bool = False


@dataclass(frozen=True)
class Box:
    """An alarm as the page shows it."""

    alarm: Alarm
    buttons: list[Button]
    failed: int = 0
    """Failed deliveries of its webhook, which a fact shows."""
    consequences: list[Box] = field(default_factory=list)
    """The first ones of the rest that follows from it, folded."""
    more: int = 0
    """How many more follow from it."""
    page: Button | None = None
    """The page of its webhook, to follow the remedy, if none of the buttons leads there."""

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


def boxes(status: Status, user: Any) -> dict[str, Any]:
    """The boxes of the worst alarms, with the buttons of this user, and the other alarms."""
    buttons, alarms = _Buttons(status, user), status.alarms[:MAX_BOXES]
    return {
        "boxes": [_box(alarm, buttons) for alarm in alarms],
        "unfolded_boxes": len(alarms) if len(alarms) <= FEW else UNFOLDED,
        "folded_alarms": status.alarms[MAX_BOXES:],
    }


def _box(alarm: Alarm, buttons: _Buttons) -> Box:
    own, failed, folded = list(buttons.of(alarm)), 0, list[Alarm]()
    for one in alarm.consequences:
        # The box shows failed deliveries of its webhook as a number.
        if one.webhook_id == alarm.webhook_id and one.problem == Problem.FAILED_DELIVERIES:
            failed = buttons.webhooks[one.webhook_id or 0].failed
            own += [button for button in buttons.of(one) if button.posts]
        else:
            folded.append(one)
    return Box(
        alarm=alarm,
        buttons=own,
        failed=failed,
        consequences=[_box(one, buttons) for one in folded[:MAX_FOLDED]],
        more=max(0, len(folded) - MAX_FOLDED),
        page=buttons.page_of(alarm),
    )


class _Buttons:
    """The buttons that one user sees."""

    def __init__(self, status: Status, user: Any) -> None:
        overview = status.overview
        self.webhooks: Mapping[int, Any] = {webhook.pk: webhook for webhook in overview.webhooks}
        self._newest_event = next(iter(overview.newest_failed_events), None)
        self._failed = overview.counts.get(State.FAILED, 0)
        self._may_retry = permissions.has_perm(user, "rq_webhooks.retry_delivery")
        self._may_add = permissions.has_perm(user, "rq_webhooks.add_webhook")
        self._may_view_skips = permissions.may_view_skips(user)
        self._may_recover = may_begin(user, "recover_skipped")
        self._may_change = Redaction(user).may_change

    def of(self, alarm: Alarm) -> Iterator[Button]:
        """The buttons for an alarm, the most likely one first."""
        webhook = self.webhooks.get(alarm.webhook_id or 0)
        if webhook is not None:
            yield from self._of_webhook(alarm, webhook)
            return
        match alarm.problem:
            case Problem.NO_WEBHOOK if self._may_add:
                yield Button(_("Add a webhook"), reverse("admin:rq_webhooks_webhook_add"))
            case Problem.ALL_DISABLED | Problem.NOT_REGISTERED:
                yield Button(_("Show the webhooks"), reverse("admin:rq_webhooks_webhook_changelist"))
            case Problem.UNDISPATCHED:
                yield Button(_("Show the newest events"), reverse("admin:rq_webhooks_event_changelist"))
            case Problem.FAILED_DELIVERIES:
                yield Button(_("Show them"), list_url("delivery", state=State.FAILED.value))
                if self._may_retry:
                    yield Button(_retry_label(self._failed, TOTAL_CAP), sections.retry_url(), posts=True)
            case Problem.OPEN_TRANSACTION | Problem.DEAD_ROWS:
                yield Button(_("Show the database"), "#wh-database")
            case Problem.FAILED_EVENTS:
                if self._newest_event:
                    yield Button(_("See the error"), row_url("event", self._newest_event.pk))
                yield Button(_("Show failed events to replay"), list_url("event", state="failed"))

    def page_of(self, alarm: Alarm) -> Button | None:
        webhook = self.webhooks.get(alarm.webhook_id or 0)
        return _page(webhook) if webhook is not None and alarm.problem in (Problem.FAILING, Problem.PAUSED) else None

    def _of_webhook(self, alarm: Alarm, webhook: Any) -> Iterator[Button]:
        may_change = self._may_change(webhook.pk)
        match alarm.problem:
            case Problem.FAILING | Problem.PAUSED:
                yield self._see_request(webhook)
                if may_change:
                    yield self._post(_("Send test"), "ping", webhook)
                if may_change and webhook.is_paused:
                    yield self._post(_("Resume"), "resume", webhook)
            case Problem.PAUSED_BY_USER if may_change:
                yield self._post(_("Resume"), "resume", webhook)
            case Problem.DISABLED if may_change:
                yield self._post(_("Enable"), "enable", webhook)
            case Problem.BLOCKED_LANES:
                yield self._see_request(webhook)
            case Problem.OVERDUE:
                url = list_url("delivery", state=State.PENDING.value, webhook=webhook.pk)
                yield Button(_("Show its pending deliveries"), url, webhook.name)
            case Problem.SKIPS_ALL:
                if self._may_view_skips:
                    yield Button(_("Show skipped changes"), list_url("skip", webhook=webhook.pk), webhook.name)
                if self._may_recover:
                    yield Button(_("Recover skipped…"), page_url("recover_skipped", webhook), webhook.name)
            case Problem.FAILED_DELIVERIES:
                url = list_url("delivery", state=State.FAILED.value, webhook=webhook.pk)
                yield Button(_("Show them"), url, webhook.name)
                if self._may_retry:
                    label = _retry_label(webhook.failed, EACH_CAP)
                    yield Button(label, sections.retry_url(webhook=webhook.pk), webhook.name, posts=True)
        if alarm.problem in OPENED:
            yield _page(webhook)

    def _see_request(self, webhook: Any) -> Button:
        delivery = webhook.blocking or webhook.last_failed
        if delivery:
            url = row_url("delivery", delivery)
        else:
            url = list_url("delivery", state=State.PENDING.value, webhook=webhook.pk)
        return Button(_("See request"), url, webhook.name)

    def _post(self, label: str, act: str, webhook: Any) -> Button:
        return Button(label, page_url(act, webhook), webhook.name, posts=True)


def _retry_label(count: int, cap: int) -> str:
    """With "…" if a page asks first. A number that is only a cap is left out: that page has the true one."""
    if count > cap:
        return _("Retry all…")
    text = _("Retry %(count)s…") if count > runs.AT_ONCE else _("Retry %(count)s")
    return text % {"count": number(count)}


def _page(webhook: Any) -> Button:
    return Button(_("Open webhook"), row_url("webhook", webhook.pk), webhook.name)
