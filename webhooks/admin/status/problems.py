"""The problems on the status page. Each cause has a box: since when, what waits, and the way out as buttons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from webhooks import permissions
from webhooks.admin.display import clock, when
from webhooks.admin.lists import list_url, page_url, row_url
from webhooks.models import Webhook
from webhooks.models.queue import State
from webhooks.operations import runs
from webhooks.operations.alarms import Alarm, Problem
from webhooks.operations.counts import EACH_CAP, TOTAL_CAP
from webhooks.operations.status import Status
from webhooks.operations.wording import number

# The alarms that get a box, and the consequences in one. The page only names further alarms.
MAX_BOXES, MAX_FOLDED = 15, 10

# A few boxes all show what to do. Of more boxes, the first ones do, and the others unfold it.
FEW, UNFOLDED = 4, 2


@dataclass(frozen=True)
class Button:
    """A link, or a button that posts."""

    label: str
    url: str
    about: str = ""
    """The name of the webhook, for screen readers: other boxes have the same labels."""
    posts: bool = False

    @property
    def html(self) -> SafeString:
        """All buttons of the page belong to one form, which has the token against forged requests."""
        about = format_html(' aria-label="{}: {}"', self.label, self.about) if self.about else ""
        if not self.posts:
            return format_html('<a class="button wh-small" href="{}"{}>{}</a> ', self.url, about, self.label)
        return format_html(
            '<button class="button wh-small" form="wh-acts" formaction="{}"{}>{}</button> ', self.url, about, self.label
        )


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
    def facts(self) -> SafeString:
        """Since when, how many wait or failed, and when the next probe is."""
        alarm, facts = self.alarm, list[SafeString | str]()
        if alarm.since:
            facts.append(format_html(_("since {time}"), time=clock(alarm.since)))
        if alarm.waiting:
            facts.append(alarm.waiting_text)
        if self.failed:
            shown = {"count": number(self.failed, EACH_CAP)}
            facts.append(ngettext("%(count)s failed", "%(count)s failed", self.failed) % shown)
        if alarm.probe_at and alarm.probe_at > timezone.now():
            facts.append(format_html(_("next probe {time}"), time=when(alarm.probe_at)))
        elif alarm.probe_at:
            facts.append(_("the next probe is due"))
        return format_html_join(" · ", "{}", ((fact,) for fact in facts))

    @property
    def buttons_html(self) -> SafeString:
        return format_html_join("", "{}", ((button.html,) for button in self.buttons))

    @property
    def folded(self) -> str:
        """How many follow from it."""
        count = len(self.consequences) + self.more
        waiting = all(one.alarm.problem == Problem.OVERDUE for one in self.consequences)
        if waiting:
            text = ngettext("%(count)s webhook waits because of this", "%(count)s webhooks wait because of this", count)
        else:
            text = ngettext("%(count)s more follows from this", "%(count)s more follow from this", count)
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
        self._may_retry = permissions.has_perm(user, "webhooks.retry_delivery")
        self._may_add = permissions.has_perm(user, "webhooks.add_webhook")
        self._changeable: set[int] | None = None
        if permissions.is_restricted(user):
            allowed = permissions.allowed(user, "change", Webhook.objects.order_by())
            self._changeable = set(allowed.values_list("pk", flat=True))
        self._may_change = permissions.may_change_webhooks(user)

    def of(self, alarm: Alarm) -> Iterator[Button]:
        """The buttons for an alarm, the most likely one first."""
        webhook = self.webhooks.get(alarm.webhook_id or 0)
        if webhook is not None:
            yield from self._of_webhook(alarm, webhook)
            return
        match alarm.problem:
            case Problem.NO_WEBHOOK if self._may_add:
                yield Button(_("Add a webhook"), reverse("admin:webhooks_webhook_add"))
            case Problem.ALL_DISABLED:
                yield Button(_("Show the webhooks"), reverse("admin:webhooks_webhook_changelist"))
            case Problem.UNDISPATCHED:
                yield Button(_("Show the newest events"), reverse("admin:webhooks_event_changelist"))
            case Problem.FAILED_DELIVERIES:
                yield Button(_("Show them"), list_url("delivery", state=State.FAILED.value))
                if self._may_retry:
                    label = _retry_label(self._failed, TOTAL_CAP)
                    yield Button(label, reverse("webhooks_backend_status_retry_all"), posts=True)
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
        may_change = self._may_change and (self._changeable is None or webhook.pk in self._changeable)
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
            case Problem.FAILED_DELIVERIES:
                url = list_url("delivery", state=State.FAILED.value, webhook=webhook.pk)
                yield Button(_("Show them"), url, webhook.name)
                if self._may_retry:
                    url = f"{reverse('webhooks_backend_status_retry_all')}?webhook={webhook.pk}"
                    yield Button(_retry_label(webhook.failed, EACH_CAP), url, webhook.name, posts=True)
        if alarm.problem in (Problem.PAUSED_BY_USER, Problem.DISABLED, Problem.UNREADABLE):
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
