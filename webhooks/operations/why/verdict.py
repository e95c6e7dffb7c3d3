"""A verdict: its causes, the verdict itself, and the sentences that verdicts share."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db.models import TextChoices
from django.utils.text import capfirst
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from webhooks.conf import conf
from webhooks.db import to_utc
from webhooks.models import Webhook
from webhooks.operations.why.rows import StoredChange
from webhooks.operations.wording import exact_time, was_disabled, why_disabled
from webhooks.registry import label_of

SAVE_AGAIN = _("To send the object as it is now, save it again.")
SEE_WORKERS = _("Check on the status page that a worker is running.")
ADD_TO_WEBHOOK = _("If it should be sent, add it to the webhook.")
ENABLE = _("Enable the webhook.")


class Cause(TextChoices):
    """Why a webhook sent nothing, or how its delivery goes."""

    # The change has a delivery.
    SENT = "sent", _("sent")
    SENDING = "sending", _("being sent")
    DUE = "due", _("due now")
    RETRYING = "retrying", _("tried again later")
    WAITING = "waiting", _("waiting behind another delivery")
    PAUSED = "paused", _("the webhook is paused")
    HELD = "held", _("the webhook is disabled")
    FAILED = "failed", _("failed")
    DISCARDED = "discarded", _("discarded")
    # The change has an Event.
    NOT_DISPATCHED = "not_dispatched", _("not taken by a worker yet")
    EVENT_FAILED = "event_failed", _("failed before sending")
    DELETED = "deleted", _("deleted after its retention")
    # The change is known, and the webhook did not want it.
    SKIPPED = "skipped", _("skipped")
    NOT_CHOSEN = "not_chosen", _("model or action not chosen")
    CREATED_LATER = "created_later", _("the webhook was created later")
    CHANGED_LATER = "changed_later", _("the webhook was changed later")
    UNKNOWN = "unknown", _("the reason is not stored")
    # Nothing is stored.
    NO_SIGNAL = "no_signal", _("changed without a signal")
    NO_SUBSCRIBER = "no_subscriber", _("no webhook wanted it then")
    NO_TRACE = "no_trace", _("nothing is stored")
    NOT_REGISTERED = "not_registered", _("the model is not registered")
    NOT_SAVED = "not_saved", _("not saved")
    OTHER_DATABASE = "other_database", _("in another database")
    TURNED_OFF = "turned_off", _("webhooks are turned off")


class Target(TextChoices):
    """The kind of page where a remedy begins."""

    WEBHOOK = "webhook", _("the webhook")
    DELIVERY = "delivery", _("the delivery")
    EVENT = "event", _("the event")
    STATUS = "status", _("the status page")
    CAPTURE = "capture", _("the list of captured changes in the documentation")


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

    def as_json(self, with_earlier: bool = True) -> dict[str, Any]:
        """The verdict as the REST API shows it, in types that JSON has."""
        names = ("cause", "text", "remedy", "target", "target_id", "event", "state", "rule", "error")
        earlier = (
            {"earlier": self.earlier.as_json(with_earlier=False) if self.earlier else None} if with_earlier else {}
        )
        return earlier | {
            "webhook": {"id": self.webhook.pk, "name": self.webhook.name},
            **{name: getattr(self, name) for name in names},
            "change": self.change.as_json() if self.change else None,
            "delivery": str(self.delivery) if self.delivery else None,
            "behind": str(self.behind) if self.behind else None,
            "until": to_utc(self.until).isoformat() if self.until else None,
            "detail": dict(self.detail),
            "changed": list(self.changed),
        }


def turned_off(webhook: Webhook, consequence: str) -> Verdict:
    text = gettext('Webhooks are turned off: WEBHOOKS["ENABLED"] is false in the settings.')
    remedy = gettext("Set it to True, then restart the site and the workers.")
    return Verdict(webhook, Cause.TURNED_OFF, join(text, consequence), remedy, Target.STATUS)


def models_of(webhook: Webhook) -> set[str]:
    """The labels of its models. Prefetch them."""
    return {label_of(one) for one in webhook.object_types.all()}


def disabled(webhook: Webhook) -> str:
    """A sentence about a disabled webhook."""
    return was_disabled(webhook.disabled_at, webhook.disabled_by, why_disabled(webhook))


def changed_after(webhook: Webhook, moment: datetime) -> bool:
    return to_utc(webhook.last_updated) > to_utc(moment)


def retention_days() -> float:
    """Ended rows are stored for this long or longer."""
    return min(conf.retention_days.values())


def join(*sentences: Any) -> str:
    """Whole sentences, one after the other. Leaves out empty ones."""
    return " ".join(str(one) for one in sentences if one)


def time_of(moment: datetime | None) -> str:
    return exact_time(moment) if moment else gettext("an unknown time")
