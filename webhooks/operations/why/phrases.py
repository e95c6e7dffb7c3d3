"""Sentences and parts of sentences that several verdicts share."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from webhooks.models import Webhook
from webhooks.operations.skip_reasons import was_disabled
from webhooks.operations.why.verdicts import Cause, Target, Verdict
from webhooks.operations.wording import exact_time

SAVE_AGAIN = gettext_lazy("To send the object as it is now, save it again.")
SEE_WORKERS = gettext_lazy("Check on the status page that a worker is running.")
ADD_TO_WEBHOOK = gettext_lazy("If it should be sent, add it to the webhook.")
ENABLE = gettext_lazy("Enable the webhook.")


def turned_off(webhook: Webhook, consequence: str) -> Verdict:
    text = _('Webhooks are turned off: WEBHOOKS["ENABLED"] is false in the settings.')
    remedy = _("Set it to True, then restart the site and the workers.")
    return Verdict(webhook, Cause.TURNED_OFF, join(text, consequence), remedy, Target.STATUS)


def disabled(webhook: Webhook) -> str:
    """A sentence about a disabled webhook."""
    return was_disabled(webhook.disabled_at, webhook.disabled_by, webhook.disabled_reason)


def join(*sentences: Any) -> str:
    """Whole sentences, one after the other. Leaves out empty ones."""
    return " ".join(str(one) for one in sentences if one)


def time_of(moment: datetime | None) -> str:
    return exact_time(moment) if moment else _("an unknown time")
