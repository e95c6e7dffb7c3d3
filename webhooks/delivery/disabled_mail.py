"""The e-mail about a webhook that a worker disabled, as a hook."""

from __future__ import annotations

from django.core.mail import mail_admins, send_mail
from django.utils.translation import gettext as _

from webhooks.conf import conf
from webhooks.hooks import Hooks, WebhookChange
from webhooks.models.webhook_states import DisabledReason
from webhooks.permissions.redaction import explain
from webhooks.text import one_line


class DisabledMail(Hooks):
    """Send it to the addresses in ``NOTIFY``, or to Django's ``ADMINS``."""

    def webhook_disabled(self, webhook: WebhookChange) -> None:
        explanation, name = explain(webhook.error_kind, webhook.receiver), {"name": webhook.name}
        subject = one_line(_("Webhook %(name)s was disabled") % name)  # code can save a name with a line break
        reason = DisabledReason(webhook.disabled_reason).label
        paragraphs = (
            _("The webhook %(name)s was disabled: %(reason)s.") % {**name, "reason": reason},
            _("The last attempt: %(reason)s") % {"reason": webhook.last_failure},
            f"{explanation.cause}\n{explanation.remedy}",
            _(
                "Its deliveries are kept. Fix the cause, then enable the webhook in the admin to send them, or discard "
                "them there."
            ),
        )
        if conf.notify:
            send_mail(subject, "\n\n".join(paragraphs), None, list(conf.notify))
        else:
            mail_admins(subject, "\n\n".join(paragraphs))
