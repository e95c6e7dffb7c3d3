"""The columns of the list of webhooks, and the fields of a webhook that a user may view but not change."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString

from webhooks import redaction
from webhooks.admin.counts import EACH_CAP, open_count
from webhooks.admin.display import EMPTY, number, short, webhook_state, when
from webhooks.admin.filters import deliveries_url
from webhooks.admin.forms import describe_secret
from webhooks.models import Webhook
from webhooks.models.delivery import State
from webhooks.network import url_policy
from webhooks.registry import label_of

# The list names at most this many models of a webhook.
MAX_MODELS = 3

HIDDEN = f"Set, and {redaction.WHO_SEES_ALL}."

# Fields of the form, and their replacements for users with only the permission to view.
READ_ONLY = {
    "object_types": "model_names",
    "payload_url": "redacted_url",
    "secret": "secret_state",  # nosec B105 # the name of a column
    "additional_headers": "headers_state",
    "secret_headers": "secret_headers_state",  # nosec B105
    "body_template": "body_state",
}


class WebhookColumns:
    """A mixin for the ModelAdmin."""

    @admin.display(description="state", ordering="enabled")
    def state(self, webhook: Webhook) -> SafeString:
        return webhook_state(webhook)

    @admin.display(description="webhook", ordering="name")
    def name_and_url(self, webhook: Webhook) -> SafeString:
        url = short(url_policy.redacted(webhook.payload_url), 60)
        return format_html('<span class="wh-object">{}</span> <span class="wh-quiet">{}</span>', webhook.name, url)

    @admin.display(description="sends")
    def sends(self, webhook: Webhook) -> SafeString:
        labels = sorted(map(label_of, webhook.object_types.all()))
        more = f" and {len(labels) - MAX_MODELS} more" if len(labels) > MAX_MODELS else ""
        models = f"{', '.join(labels[:MAX_MODELS])}{more}" or EMPTY
        actions = ", ".join([*(str(action.label) for action in webhook.actions), *webhook.custom_events])
        return format_html('{} <span class="wh-quiet wh-below">{}</span>', models, actions)

    @admin.display(description="not sent yet")
    def open(self, webhook: Any) -> SafeString | str:
        return self._count(webhook, "open", open_count(webhook))

    @admin.display(description="failed")
    def failed(self, webhook: Any) -> SafeString | str:
        return self._count(webhook, State.FAILED, webhook.failed)

    def _count(self, webhook: Webhook, state: str, count: int) -> SafeString | str:
        url = deliveries_url(webhook__id__exact=webhook.pk, state=state)
        return format_html('<a href="{}">{}</a>', url, number(count, EACH_CAP)) if count else EMPTY

    @admin.display(description="last result")
    def last_result(self, webhook: Webhook) -> SafeString | str:
        if webhook.failures_in_a_row and webhook.last_failure_at:
            return format_html("{} {}", short(webhook.last_failure, 40), when(webhook.last_failure_at))
        return format_html("accepted {}", when(webhook.last_success_at)) if webhook.last_success_at else EMPTY

    @admin.display(description="models")
    def model_names(self, webhook: Webhook) -> str:
        return ", ".join(sorted(map(label_of, webhook.object_types.all()))) or EMPTY

    @admin.display(description="payload URL")
    def redacted_url(self, webhook: Webhook) -> str:
        url = url_policy.redacted(webhook.payload_url)
        return url if url == webhook.payload_url else f"{url} The full URL is {redaction.WHO_SEES_ALL}."

    @admin.display(description="secret")
    def secret_state(self, webhook: Webhook) -> str:
        return describe_secret(webhook, "secret")

    @admin.display(description="secret headers")
    def secret_headers_state(self, webhook: Webhook) -> str:
        return describe_secret(webhook, "secret_headers")

    @admin.display(description="additional headers")
    def headers_state(self, webhook: Webhook) -> str:
        return HIDDEN if webhook.additional_headers else EMPTY

    @admin.display(description="body template")
    def body_state(self, webhook: Webhook) -> str:
        return HIDDEN if webhook.body_template else EMPTY
