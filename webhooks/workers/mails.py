"""E-mails to the operators."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from django.core.mail import mail_admins, send_mail
from django.db import connections
from django.utils.translation import gettext as _

from webhooks import hooks
from webhooks.ground.conf import conf
from webhooks.ground.text import escape_invisible, one_line
from webhooks.models.permissions.redaction import explain
from webhooks.models.webhook_states import DisabledReason
from webhooks.workers.network.attempt import Refused
from webhooks.workers.network.loop import call_in_thread

# Seconds that a mail server may take for an e-mail.
MAIL_SECONDS = 30


def mail_disabled(webhook: hooks.WebhookChange) -> None:
    """Send an e-mail about a webhook that a worker has disabled, unless a hook of the project reports it."""
    if not webhook.disabled_reason or hooks.mails_problems():
        return  # a user has disabled it
    explanation, name = explain(webhook.error_kind, webhook.receiver), {"name": webhook.name}
    subject = _("Webhook %(name)s was disabled") % name
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
    mail_operators(subject, paragraphs)


def mail_operators(subject: str, paragraphs: Iterable[str]) -> None:
    """Send an e-mail to the addresses in ``NOTIFY``, or to Django's ``ADMINS``.

    Raises TimeoutError after ``MAIL_SECONDS``: without ``EMAIL_TIMEOUT``, Django waits for a mail server for ever.
    """
    # Code can save a name with a line break.
    send = partial(_mail, one_line(subject), escape_invisible("\n\n".join(paragraphs)))
    try:
        call_in_thread(send, MAIL_SECONDS)
    except Refused:  # a process that ends starts no thread
        send()


def _mail(subject: str, text: str) -> None:
    try:
        if conf.notify:
            send_mail(subject, text, None, list(conf.notify))
        else:
            mail_admins(subject, text)
    finally:
        connections.close_all()  # of this thread: a backend of the project may store e-mails
