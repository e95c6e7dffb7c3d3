"""The list of webhooks: its table and its export. ``webhook_filters`` has its filters, and ``webhook_switches`` and
``webhook_bulk`` what users do to several webhooks."""

from __future__ import annotations

from typing import Any

import django_tables2 as tables
import yaml
from django.contrib.auth.models import AnonymousUser
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _
from netbox.object_actions import AddObject, BulkDelete, BulkEdit, BulkExport, BulkImport
from netbox.tables import NetBoxTable, columns
from netbox.views import generic
from utilities.views import register_model_view

from webhooks.contrib.netbox.pages.base import PermittedRows
from webhooks.contrib.netbox.pages.display import VisibleCharacters
from webhooks.contrib.netbox.pages.links import address
from webhooks.contrib.netbox.pages.webhook_filters import WebhookFilterForm, WebhookFilterSet
from webhooks.contrib.netbox.pages.webhook_switches import SWITCH_ACTIONS
from webhooks.ground.db.session import index_plans
from webhooks.ground.registry import label_of
from webhooks.ground.security import url_policy
from webhooks.insight.counts import EACH_CAP, open_count, with_counts
from webhooks.insight.silence import read_unregistered
from webhooks.insight.wording import number
from webhooks.models import State, Webhook, permissions
from webhooks.models.permissions.redaction import Redaction
from webhooks.models.webhook import SETTINGS, TOKEN_FIELDS
from webhooks.models.webhook_secrets import CREDENTIAL_FIELDS
from webhooks.pages.links import Link
from webhooks.templatetags.webhooks_display import EMPTY, first_names, last_result, listed_state

# Columns with counts of deliveries.
COUNTS = ("open", "failed")


def listed(user: Any) -> QuerySet[Webhook]:
    """All webhooks, with what the table and the page of a webhook show. Read them with ``index_plans``."""
    queue = permissions.visible_queue(user)
    return with_counts(Webhook.objects.order_by("name"), queue).prefetch_related("object_types")


# The table


def _computed(label: Any) -> tables.Column:
    """A column without one of the database: ``render_`` and ``value_`` of the table have its cells."""
    return tables.Column(accessor="pk", verbose_name=capfirst(label), orderable=False)


class WebhookTable(NetBoxTable):
    exclude: Any
    name = tables.Column(linkify=True, verbose_name=_("Name"))
    payload_url = tables.Column(verbose_name=_("Payload URL"), orderable=False)
    state = tables.Column(accessor="enabled", verbose_name=_("State"))
    models = _computed(_("models"))
    actions_sent = _computed(_("sends"))
    open = _computed(_("not sent yet"))
    failed = _computed(_("failed"))
    last_result = _computed(_("last result"))
    http_method = tables.Column(verbose_name=_("HTTP method"))
    content_type = tables.Column(verbose_name=_("Content type"))
    ordered = columns.BooleanColumn(verbose_name=_("Ordered"))
    ssl_verification = columns.BooleanColumn(verbose_name=_("TLS verification"))
    created = columns.DateTimeColumn(verbose_name=_("Created"))
    last_updated = columns.DateTimeColumn(verbose_name=_("Last updated"))

    class Meta(NetBoxTable.Meta):
        model = Webhook
        fields = (
            "pk", "id", "name", "payload_url", "state", "models", "actions_sent", "open", "failed", "last_result",
            "http_method", "content_type", "ordered", "ssl_verification", "created", "last_updated", "actions",
        )  # fmt: skip
        default_columns = ("pk", "name", "payload_url", "state", "models", "actions_sent", *COUNTS, "last_result")

    def configure(self, request: HttpRequest) -> None:
        if not permissions.may_view_deliveries(request.user):
            self.exclude = (*self.exclude, *COUNTS)
        super().configure(request)

    def before_render(self, request: HttpRequest) -> None:
        rows = self.page.object_list if hasattr(self, "page") else self.rows
        webhooks = [row.record for row in rows]
        silences = read_unregistered(webhooks)
        for webhook in webhooks:
            webhook.silence = silences.get(webhook.pk)

    def render_payload_url(self, value: str) -> str:
        return url_policy.redacted(value)

    def render_state(self, record: Any) -> SafeString:
        return listed_state(record)

    def value_state(self, record: Any) -> str:
        return "paused" if record.is_paused else "enabled" if record.enabled else "disabled"

    def render_models(self, record: Any) -> str:
        return first_names(_labels(record)) or EMPTY

    def value_models(self, record: Any) -> str:
        return ",".join(_labels(record))

    def render_actions_sent(self, record: Any) -> str:
        return ", ".join([*(str(action.label) for action in record.actions), *record.custom_events])

    def value_actions_sent(self, record: Any) -> str:
        return ",".join([*record.actions, *record.custom_events])

    def render_open(self, record: Any) -> SafeString | str:
        return _count_link(record, "open", open_count(record))

    def value_open(self, record: Any) -> int:
        return open_count(record)

    def render_failed(self, record: Any) -> SafeString | str:
        return _count_link(record, State.FAILED, record.failed)

    def value_failed(self, record: Any) -> int:
        return int(record.failed)

    def render_last_result(self, record: Any) -> SafeString | str:
        return last_result(record)

    def value_last_result(self, record: Any) -> str:
        return record.last_failure if record.failures_in_a_row else str(record.last_success_at or "")


def _labels(webhook: Webhook) -> list[str]:
    return sorted(map(label_of, webhook.object_types.all()))


def _count_link(webhook: Webhook, state: str, count: int) -> SafeString | str:
    if not count:
        return EMPTY
    link = Link(number(count, EACH_CAP), "delivery", filters={"webhook": webhook.pk, "state": state})
    return format_html('<a href="{}">{}</a>', address(link), link.label)


# The page


def as_yaml(webhook: Webhook, redaction: Redaction) -> str:
    """The settings of a webhook as the import reads them, without secrets, as far as a user may see them."""
    hidden = {*CREDENTIAL_FIELDS} if redaction.may_change(webhook.pk) else {*CREDENTIAL_FIELDS, *TOKEN_FIELDS}
    settings = {name: getattr(webhook, name) for name in SETTINGS if name not in hidden}
    settings |= {"object_types": _labels(webhook), "payload_url": redaction.url(webhook.pk, webhook.payload_url)}
    return str(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))


@register_model_view(Webhook, "list", path="", detail=False)
class WebhookListView(VisibleCharacters, PermittedRows, generic.ObjectListView):
    queryset = Webhook.objects.all()
    table = WebhookTable
    filterset = WebhookFilterSet
    filterset_form = WebhookFilterForm
    actions = (AddObject, BulkImport, BulkExport, BulkEdit, *SWITCH_ACTIONS, BulkDelete)
    template_name = "rq_webhooks/netbox/webhook_list.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Webhook]:
        return listed(request.user)

    def get(self, request: HttpRequest) -> HttpResponse:
        with index_plans(Webhook.objects.db):
            return super().get(request)

    def export_yaml(self) -> str:
        redaction = Redaction(self.request.user)
        return "---\n".join(as_yaml(webhook, redaction) for webhook in self.queryset)


def _to_yaml(webhook: Webhook) -> str:
    return as_yaml(webhook, Redaction(AnonymousUser()))


Webhook.to_yaml = _to_yaml  # NetBox's list exports YAML if the model has it
