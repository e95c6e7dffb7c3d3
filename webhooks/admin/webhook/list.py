"""The list of webhooks, with its actions: enable, disable, pause and resume."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from webhooks import permissions
from webhooks.admin.lists import Act, ActingAdmin, list_url, show
from webhooks.db import index_plans
from webhooks.insight.counts import EACH_CAP, open_count, with_counts
from webhooks.insight.silence import read_unregistered
from webhooks.insight.wording import number
from webhooks.models import Webhook
from webhooks.models.queue import State
from webhooks.network import url_policy
from webhooks.operations import files, manifest
from webhooks.pages.switches import SWITCHES, Switch
from webhooks.registry import label_of
from webhooks.templatetags.webhooks_display import EMPTY, first_names, last_result, listed_state, short

# The address of the list may filter by these columns. With others a user could guess hidden values letter by letter.
ALLOWED_LOOKUPS = {"id__exact", "enabled__exact", "object_types__id__exact"}


def press(switch: Switch, request: HttpRequest, chosen: QuerySet[Webhook]) -> None:
    """Change the chosen webhooks that the user may change, and show the result."""
    show(request, *switch.press(chosen, request.user))


def export(request: HttpRequest, chosen: QuerySet[Webhook]) -> HttpResponse:
    """A file for webhooks_apply, of the webhooks that the user may change: others may have tokens that are hidden."""
    webhooks = permissions.allowed(request.user, "change", chosen).prefetch_related("object_types").order_by("name")
    as_json = not files.HAS_YAML
    text, name = files.dump(manifest.document(webhooks), as_json), f"webhooks.{'json' if as_json else 'yaml'}"
    kind = "application/json" if as_json else "application/yaml"
    return HttpResponse(text, kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})


class WebhookList(ChangeList):
    """The list, read by indexes, with the webhooks that are silent."""

    def get_results(self, request: HttpRequest) -> None:
        with index_plans(self.queryset.db):
            super().get_results(request)
            self.result_list: Any = list(self.result_list)
        silences = read_unregistered(self.result_list)
        for webhook in self.result_list:
            webhook.silence = silences.get(webhook.pk)


class WebhookListAdmin(ActingAdmin):
    change_list_template = "rq_webhooks/admin/webhook/list.html"
    actions = (
        *(Act(one.name, one.action_label, partial(press, one), "change", suffix="") for one in SWITCHES.values()),
        Act("export", gettext_lazy("Export the selected webhooks to a file"), export, "change", suffix=""),
    )
    sortable_by = ("name_and_url", "state")

    class Media:
        css: ClassVar = {"all": ["rq_webhooks/admin.css", "rq_webhooks/lists.css"]}

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        return lookup in ALLOWED_LOOKUPS and super().lookup_allowed(lookup, value, request)

    def get_search_fields(self, request: HttpRequest) -> tuple[str, ...]:
        return ("name", "payload_url") if permissions.may_search_urls(request.user) else ("name",)

    def get_list_display(self, request: HttpRequest) -> Any:
        counts = ("open", "failed") if permissions.may_view_deliveries(request.user) else ()
        return ("name_and_url", "state", "sends", *counts, "last_result")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Webhook]:
        webhooks: QuerySet[Webhook] = super().get_queryset(request)
        if permissions.is_restricted(request.user):
            webhooks = permissions.visible_webhooks(request.user, webhooks)
        elif not (self.has_view_permission(request) or self.has_delete_permission(request)):
            webhooks = webhooks.none()  # so that a page of a webhook is as unknown as one of none
        queue = permissions.visible_queue(request.user)
        return with_counts(webhooks, queue).prefetch_related("object_types")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[WebhookList]:
        return WebhookList

    @admin.display(description=gettext_lazy("webhook"), ordering="name")
    def name_and_url(self, webhook: Webhook) -> SafeString:
        url = short(url_policy.redacted(webhook.payload_url), 60)
        return format_html('<span class="wh-object">{}</span> <span class="wh-quiet">{}</span>', webhook.name, url)

    @admin.display(description=gettext_lazy("state"), ordering="enabled")
    def state(self, webhook: Any) -> SafeString:
        return listed_state(webhook)

    @admin.display(description=gettext_lazy("sends"))
    def sends(self, webhook: Webhook) -> SafeString:
        models = first_names(sorted(map(label_of, webhook.object_types.all()))) or EMPTY
        actions = ", ".join([*(str(action.label) for action in webhook.actions), *webhook.custom_events])
        return format_html('{} <span class="wh-quiet wh-below">{}</span>', models, actions)

    @admin.display(description=gettext_lazy("not sent yet"))
    def open(self, webhook: Any) -> SafeString | str:
        return _count_link(webhook, "open", open_count(webhook), _("not sent yet"))

    @admin.display(description=gettext_lazy("failed"))
    def failed(self, webhook: Any) -> SafeString | str:
        return _count_link(webhook, State.FAILED, webhook.failed, _("failed"))

    @admin.display(description=gettext_lazy("last result"))
    def last_result(self, webhook: Webhook) -> SafeString | str:
        return last_result(webhook)


def _count_link(webhook: Webhook, state: str, count: int, label: str) -> SafeString | str:
    """A count as a link to the list of these deliveries. ``label`` is for small screens without columns."""
    url = list_url("delivery", webhook=webhook.pk, state=state)
    text = '<a class="wh-count" data-wh-label="{}" href="{}">{}</a>'
    return format_html(text, label, url, number(count, EACH_CAP)) if count else EMPTY
