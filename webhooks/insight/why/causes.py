"""The causes, a verdict as a value, and the sentences that verdicts share."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db.models import TextChoices
from django.utils.text import capfirst
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from webhooks.ground.conf import conf
from webhooks.ground.db import to_utc
from webhooks.insight.why.rows import StoredChange
from webhooks.insight.wording import exact_time, was_disabled, why_disabled
from webhooks.models import Action, Webhook
from webhooks.models.event import PING

SAVE_AGAIN = _("To send the object as it is now, save it again.")
RECOVER_SKIPPED = _("To send the object as it is now, save it again, or use “Recover skipped…” of the webhook.")
SEE_WORKERS = _("Check on the status page that a worker is running without problems.")
ADD_TO_WEBHOOK = _("If it should be sent, add it to the webhook.")
ENABLE = _("Enable the webhook.")


class Target(TextChoices):
    """The kind of page where a remedy begins."""

    WEBHOOK = "webhook", _("the webhook")
    DELIVERY = "delivery", _("the delivery")
    EVENT = "event", _("the event")
    STATUS = "status", _("the status page")
    CAPTURE = "capture", _("the list of captured changes in the documentation")


class Cause(TextChoices):
    """Why a webhook sent nothing, or how its delivery goes.

    ``target`` is where the way out mostly begins. ``colour`` is a state of deliveries with the same colour.
    """

    target: Target | None
    colour: str

    def __new__(cls, value: str, target: Target | None = None, colour: str = "discarded") -> Cause:
        member = str.__new__(cls, value)
        member._value_, member.target, member.colour = value, target, colour
        return member

    # The change has a delivery.
    SENT = "sent", Target.DELIVERY, "succeeded", _("sent")
    SENDING = "sending", Target.DELIVERY, "sending", _("being sent")
    DUE = "due", Target.STATUS, "pending", _("due now")
    RETRYING = "retrying", Target.DELIVERY, "pending", _("tried again later")
    WAITING = "waiting", Target.DELIVERY, "waiting", _("waiting behind another delivery")
    PAUSED = "paused", Target.WEBHOOK, "paused", _("the webhook is paused")
    HELD = "held", Target.WEBHOOK, "paused", _("the webhook is disabled")
    FAILED = "failed", Target.DELIVERY, "failed", _("failed")
    DISCARDED = "discarded", Target.DELIVERY, _("discarded")
    # The change has an Event.
    NOT_DISPATCHED = "not_dispatched", Target.STATUS, "waiting", _("not taken by a worker yet")
    EVENT_FAILED = "event_failed", Target.EVENT, "failed", _("failed before sending")
    DELETED = "deleted", Target.EVENT, _("deleted after its retention")
    # The change is known, and the webhook did not want it.
    SKIPPED = "skipped", Target.WEBHOOK, "waiting", _("skipped")
    NOT_CHOSEN = "not_chosen", Target.WEBHOOK, _("model or action not chosen")
    CREATED_LATER = "created_later", Target.WEBHOOK, _("the webhook was created later")
    CHANGED_LATER = "changed_later", Target.WEBHOOK, _("the webhook was changed later")
    UNKNOWN = "unknown", Target.WEBHOOK, _("the reason is not stored")
    # Nothing is stored.
    NO_SIGNAL = "no_signal", Target.CAPTURE, _("changed without a signal")
    NO_SUBSCRIBER = "no_subscriber", Target.WEBHOOK, _("no webhook wanted it then")
    NO_TRACE = "no_trace", Target.WEBHOOK, _("nothing is stored")
    NOT_REGISTERED = "not_registered", Target.CAPTURE, "failed", _("the model is not registered")
    NOT_SAVED = "not_saved", None, _("not saved")
    OTHER_DATABASE = "other_database", None, _("in another database")
    TURNED_OFF = "turned_off", Target.STATUS, _("webhooks are turned off")

    def verdict(self, webhook: Webhook, text: str, remedy: Any = "", **more: Any) -> Verdict:
        """A verdict with this cause. ``more`` has its other attributes, perhaps another target."""
        return Verdict(webhook, self, text, str(remedy), **{"target": self.target} | more)


@dataclass(frozen=True)
class Verdict:
    """The answer for one webhook and one change. Attributes that do not apply are empty or None."""

    webhook: Webhook
    cause: Cause
    text: str
    """Sentences about the cause."""
    remedy: str = ""
    """Sentences about the way out."""
    target: Target | None = None
    """Where the way out begins."""
    change: StoredChange | None = None
    """None if no change is stored: then the object was judged as it is now."""
    event: int | None = None
    delivery: uuid.UUID | None = None
    state: str | None = None
    """The state of the delivery."""
    behind: uuid.UUID | None = None
    """The delivery that this one waits for."""
    until: datetime | None = None
    """When the next attempt or probe is, or the wait ends at the latest."""
    rule: str | None = None
    """The rule of a skip."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """What the rule wanted and what it found, as in ``Skip.detail``."""
    changed: tuple[str, ...] = ()
    """The fields that differ from the last Event."""
    error: str = ""
    """The last line of the error of a failed Event."""
    earlier: Verdict | None = None
    """The verdict about the last stored change, if the object changed again and nothing is stored of that."""

    @property
    def target_id(self) -> str:
        """The key of the row where the way out begins; empty if the page has no row."""
        match self.target:
            case Target.WEBHOOK:
                return str(self.webhook.pk)
            case Target.DELIVERY:
                return str(self.behind or self.delivery)
            case Target.EVENT:
                return str(self.event)
        return ""

    def hide(self, permission: str) -> Verdict:
        """The verdict for a user without this permission: only the cause and the change."""
        more = gettext("To see more, you need the permission %(permission)s.") % {"permission": permission}
        return Verdict(self.webhook, self.cause, f"{capfirst(str(self.cause.label))}. {more}", change=self.change)

    def figures(self, with_earlier: bool = True) -> dict[str, Any]:
        """As plain values for JSON, with the fields of the REST API."""
        names = ("cause", "text", "remedy", "target", "target_id", "event", "delivery", "state", "behind", "until")
        shown = {name: getattr(self, name) for name in (*names, "rule", "detail", "changed", "error")}
        shown["webhook"] = {"id": self.webhook.pk, "name": self.webhook.name}
        shown["change"] = self.change.figures() if self.change else None
        if with_earlier:
            shown["earlier"] = self.earlier.figures(with_earlier=False) if self.earlier else None
        return shown


def turned_off(webhook: Webhook, consequence: str) -> Verdict:
    text = gettext('Webhooks are turned off: WEBHOOKS["ENABLED"] is false in the settings.')
    remedy = gettext("Set it to True, then restart the site and the workers.")
    return Cause.TURNED_OFF.verdict(webhook, join(text, consequence), remedy)


def not_chosen(webhook: Webhook, action: str, label: str, labels: Collection[str]) -> str:
    """Why no action of this kind concerns the webhook; empty if it does."""
    if action == PING:
        return gettext("This event is a test of another webhook.")
    if action not in Action:
        if action in webhook.custom_events:
            return ""
        text = gettext("The webhook does not send %(event)s. Its custom events: %(wanted)s.")
        return text % {"event": action, "wanted": ", ".join(webhook.custom_events) or gettext("none")}
    if label not in labels:
        text = gettext("The webhook does not send %(model)s. Its models: %(wanted)s.")
        return text % {"model": label, "wanted": ", ".join(sorted(labels)) or gettext("none")}
    if action not in webhook.actions:
        text = gettext("The webhook does not send objects that are %(action)s. Its actions: %(wanted)s.")
        wanted = ", ".join(str(action.label) for action in webhook.actions)
        return text % {"action": Action(action).label, "wanted": wanted or gettext("none")}
    return ""


def not_recorded(models: Sequence[str]) -> str:
    """A sentence about models that are not registered."""
    text = ngettext(
        "The model %(models)s is not registered, so its changes are not recorded.",
        "The models %(models)s are not registered, so their changes are not recorded.",
        len(models),
    )
    return text % {"models": ", ".join(models)}


def disabled(webhook: Webhook) -> str:
    """A sentence about a disabled webhook."""
    return was_disabled(webhook.disabled_at, webhook.disabled_by, why_disabled(webhook))


def changed_later(webhook: Webhook, moment: datetime) -> str:
    """A sentence if the webhook was changed after this moment; empty if not."""
    if to_utc(webhook.last_updated) <= to_utc(moment):
        return ""
    return gettext("The webhook was changed later, at %(time)s.") % {"time": exact_time(webhook.last_updated)}


def later(webhook: Webhook, moment: datetime) -> tuple[Cause, str] | None:
    """Why a webhook that wants such changes now may not have wanted one of this moment; None if nothing says so."""
    if to_utc(webhook.created) > to_utc(moment):
        text = gettext("The webhook was created later, at %(time)s.") % {"time": exact_time(webhook.created)}
        return Cause.CREATED_LATER, text
    if text := changed_later(webhook, moment):
        more = gettext("Perhaps it did not want such changes before: its history shows what was changed.")
        return Cause.CHANGED_LATER, join(text, more)
    return None


def retention() -> str:
    """A sentence about how long ended rows are stored."""
    text = gettext("A delivery that ended and its event are deleted after %(days)g days or more.")
    return text % {"days": retention_days()}


def retention_days() -> float:
    """Ended rows are stored for this long or longer."""
    return min(conf.retention_days.values())


def join(*sentences: Any) -> str:
    """Whole sentences, one after the other. Leaves out empty ones."""
    return " ".join(str(sentence) for sentence in sentences if sentence)
