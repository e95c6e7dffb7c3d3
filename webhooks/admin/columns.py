"""Webhooks as they are read and not edited: the columns of the list, and what stands in the place of fields."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString

from webhooks import redaction
from webhooks.admin import counting
from webhooks.admin.display import EMPTY, number, short, webhook_state, when
from webhooks.admin.filters import deliveries_url
from webhooks.admin.forms import in_words
from webhooks.models import Webhook
from webhooks.models.delivery import OPEN_STATES, State
from webhooks.network import url_policy
from webhooks.registry import label_of

# So many models are named in the list.
SHORT = 3

# In the place of what is shown to those alone who may change it.
HIDDEN = f"Set, and {redaction.WHO_SEES_ALL}."
IN_WORDS: dict[str, Any] = {
    "models": "models_in_full",
    "url": "url_in_words",
    "secret": ("secret_in_words",),
    "headers": "headers_in_words",
    "secret_headers": ("secret_headers_in_words",),
    "body": "body_in_words",
}


class DescribedWebhook:
    """Its methods are columns of the list, and fields that are only read."""

    @admin.display(description="state", ordering="enabled")
    def state(self, webhook: Webhook) -> SafeString:
        return webhook_state(webhook)

    @admin.display(description="webhook", ordering="name")
    def called(self, webhook: Webhook) -> SafeString:
        shown = short(url_policy.redacted(webhook.payload_url), 60)
        return format_html('<span class="wh-object">{}</span> <span class="wh-quiet">{}</span>', webhook.name, shown)

    @admin.display(description="sends")
    def sends(self, webhook: Webhook) -> SafeString:
        labels = self._labels(webhook)
        actions = ", ".join([*(str(action.label) for action in webhook.actions), *webhook.custom_events])
        more = f" and {len(labels) - SHORT} more" if len(labels) > SHORT else ""
        models = f"{', '.join(labels[:SHORT])}{more}" or EMPTY
        return format_html('{} <span class="wh-quiet wh-below">{}</span>', models, actions)

    @admin.display(description="models")
    def models_in_full(self, webhook: Webhook) -> str:
        by_app = groupby(self._labels(webhook), key=lambda label: label.partition(".")[0])
        return "; ".join(", ".join(labels) for _, labels in by_app) or EMPTY

    def _labels(self, webhook: Webhook) -> list[str]:
        return sorted(map(label_of, webhook.object_types.all()))

    @admin.display(description="not sent yet")
    def open(self, webhook: Any) -> SafeString | str:
        count = sum(getattr(webhook, state) for state in OPEN_STATES)
        return self._count(webhook, "open", count)

    @admin.display(description="failed")
    def failed(self, webhook: Any) -> SafeString | str:
        return self._count(webhook, State.FAILED, webhook.failed)

    def _count(self, webhook: Webhook, state: str, count: int) -> SafeString | str:
        if not count:
            return EMPTY
        address = deliveries_url(webhook__id__exact=webhook.pk, state=state)
        return format_html('<a href="{}">{}</a>', address, number(count, counting.EACH))

    @admin.display(description="last result")
    def last_result(self, webhook: Webhook) -> SafeString | str:
        if webhook.failures_in_a_row and webhook.last_failure_at:
            return format_html("{} {}", short(webhook.last_failure, 40), when(webhook.last_failure_at))
        if webhook.last_success_at:
            return format_html("accepted {}", when(webhook.last_success_at))
        return EMPTY

    # In the place of fields

    @admin.display(description="secret")
    def secret_in_words(self, webhook: Webhook) -> str:
        return in_words(webhook, "secret")

    @admin.display(description="secret headers")
    def secret_headers_in_words(self, webhook: Webhook) -> str:
        return in_words(webhook, "secret_headers")

    @admin.display(description="additional headers")
    def headers_in_words(self, webhook: Webhook) -> str:
        # There may be tokens among them.
        return HIDDEN if webhook.additional_headers else EMPTY

    @admin.display(description="body template")
    def body_in_words(self, webhook: Webhook) -> str:
        return HIDDEN if webhook.body_template else EMPTY

    @admin.display(description="payload URL")
    def url_in_words(self, webhook: Webhook) -> str:
        shown = url_policy.redacted(webhook.payload_url)
        return shown if shown == webhook.payload_url else f"{shown} In full it is {redaction.WHO_SEES_ALL}."
