"""Hide the parts of URLs, headers, templates and answers that may be secret, such as the URL of a chat channel.

Users with permission to change a webhook (``rq_webhooks.change_webhook``) see everything except its stored
secrets, which no user sees. Other users see

- of a URL: scheme, host and port;
- of an error: its kind, and the sentences about its cause and its remedy;
- nothing of headers, of the body template and its results, and of the receiver's answers.

Payloads need a separate permission, ``rq_webhooks.read_payload_event``: data and snapshots of Events, bodies of
requests and responses, and the values that a skip found.

Columns of long lists show every user the short forms: ``url_policy.redacted()`` and ``label_of_kind()``.
Elsewhere, create one ``Redaction`` for each request: it reads the user's permissions once, with no query for each row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext_lazy as _

from webhooks.ground.error_kinds import KINDS
from webhooks.ground.security import url_policy
from webhooks.models import Webhook, permissions

WHO_SEES_ALL = _("shown to users who may change the webhook (rq_webhooks.change_webhook)")
WHO_SEES_PAYLOADS = _("shown to users who may view payloads (rq_webhooks.read_payload_event)")


class Redaction:
    """The view of one user. An anonymous user sees the least."""

    def __init__(self, user: Any) -> None:
        self._user, self._ids = user, None
        if permissions.is_restricted(user):
            changeable = permissions.allowed(user, "change", Webhook.with_deleted.order_by())
            self._ids = set(changeable.values_list("pk", flat=True))

    def may_change(self, webhook_id: int) -> bool:
        """Whether the user may change this webhook. If so, they see all of it: headers, templates and answers, too."""
        return webhook_id in self._ids if self._ids is not None else permissions.may_change_webhooks(self._user)

    def url(self, webhook_id: int, url: str) -> str:
        """The URL, or its scheme, host and port."""
        return url if self.may_change(webhook_id) else url_policy.redacted(url)

    def error(self, webhook_id: int, reason: str, kind: str) -> str:
        """Why an attempt failed, or only the kind of the error."""
        return reason if self.may_change(webhook_id) else label_of_kind(kind)


def label_of_kind(kind: str) -> str:
    """A stored kind of error as a short text; empty without an error. A newer release may have stored other kinds."""
    return KINDS[kind].label if kind in KINDS else kind


def last_failure(webhook: Webhook) -> str:
    """Why the last attempts of a webhook failed, in the language of the reader. Every user may read it."""
    kind, stored = webhook.error_kind, webhook.last_failure
    return label_of_kind(kind) if kind in KINDS and stored == KINDS[kind].english else stored


@dataclass(frozen=True)
class Explanation:
    """Two sentences about an error that every user may read, both empty without an error."""

    cause: str = ""
    remedy: str = ""


def explain(kind: str, url: str) -> Explanation:
    """Explain a stored kind of error. The sentences name the host of the URL, unless a template renders it."""
    if kind not in KINDS:
        return Explanation()
    host = url_policy.redacted(url).removesuffix("…").removesuffix("/")
    return Explanation(KINDS[kind].cause(host), KINDS[kind].remedy(host))
