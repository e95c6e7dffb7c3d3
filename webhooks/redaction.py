"""What a user sees of secrets in URLs, headers, templates and answers: the URL of a chat channel is one.

One rule. Users with permission to change a webhook (``webhooks.change_webhook``) see everything except its stored
secrets, which no user sees. Other users see

- of a URL: scheme, host and port;
- of an error: its kind, in the app's own words;
- of additional headers, the body template and the receiver's answers: nothing.

Columns of long lists show every user the short forms: ``url_policy.redacted()`` and ``outcome.error_kind()``.
Elsewhere, create one ``Redaction`` for each request: it reads the user's permissions once, with no query for each row.
"""

from __future__ import annotations

from typing import Any

from webhooks import permissions
from webhooks.models import Webhook
from webhooks.network import url_policy
from webhooks.network.outcome import error_kind

WHO_SEES_ALL = "shown to users who may change the webhook (webhooks.change_webhook)"


class Redaction:
    """What one user sees. An anonymous user sees the least."""

    def __init__(self, user: Any) -> None:
        self._user, self._ids = user, None
        if permissions.is_restricted(user):
            changeable = permissions.allowed(user, "change", Webhook.with_deleted.order_by())
            self._ids = set(changeable.values_list("pk", flat=True))

    def sees_all(self, webhook_id: int) -> bool:
        """Whether the user sees headers, templates and answers of this webhook, and the rest in full."""
        return webhook_id in self._ids if self._ids is not None else permissions.may_change_webhooks(self._user)

    def url(self, webhook_id: int, url: str) -> str:
        """The URL, or its scheme, host and port."""
        return url if self.sees_all(webhook_id) else url_policy.redacted(url)

    def error(self, webhook_id: int, reason: str) -> str:
        """Why an attempt failed, or only the kind of the error."""
        return reason if self.sees_all(webhook_id) else error_kind(reason)
