"""The list of skipped changes. It shows all of a skip, so none has a page."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet, Value
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy
from netbox.tables import BaseTable
from utilities.views import register_model_view

from webhooks.contrib.netbox import PLUGIN
from webhooks.contrib.netbox.pages.long_lists import LongListView, LongTable, ShownColumn, paths_of
from webhooks.insight.paging import LongList, list_skips
from webhooks.insight.wording import skip_reason
from webhooks.models import Skip, permissions
from webhooks.models.event import label_of_action
from webhooks.pages.forms.filters import ListForm, SkipFilterForm
from webhooks.pages.links import recover_skipped
from webhooks.templatetags.webhooks_display import object_name, short, when


def _webhook(skip: Any) -> SafeString | str:
    name = short(skip.webhook.name, 32)
    return (
        format_html('<a href="{}{}/">{}</a>', skip.webhooks_url, skip.webhook_id, name) if skip.webhooks_url else name
    )


class WebhookSkipTable(LongTable):
    object = ShownColumn(object_name, gettext_lazy("object"))
    action = ShownColumn(lambda row: label_of_action(row.action), gettext_lazy("action"))
    webhook = ShownColumn(_webhook, gettext_lazy("webhook"), value=lambda row: row.webhook.name)
    reason = ShownColumn(lambda row: skip_reason(row, row.shows_actual), gettext_lazy("why it was not sent"))
    user = ShownColumn(lambda row: short(row.username, 24), gettext_lazy("user"), value=lambda row: row.username)
    time = ShownColumn(
        lambda row: when(row.timestamp), gettext_lazy("time"), value=lambda row: row.timestamp.isoformat()
    )

    class Meta(BaseTable.Meta):
        model = Skip
        fields = ("pk", "object", "action", "webhook", "reason", "user", "time")
        default_columns = ("object", "action", "webhook", "reason", "user", "time")


@register_model_view(Skip, "list", path="", detail=False)
class SkipListView(LongListView):
    queryset = Skip.objects.all()
    table = WebhookSkipTable
    filter_form = SkipFilterForm
    noun = "skipped change"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Skip]:
        skips = Skip.objects.select_related("webhook")
        return skips.annotate(shows_actual=Value(permissions.may_view_payloads(request.user)))

    def long_list(self, filters: dict[str, Any]) -> LongList[Skip]:
        return list_skips(filters, self.request.user, self.queryset)

    def prepare(self, rows: list[Any]) -> None:
        may_view = permissions.may_view_webhooks(self.request.user)
        folder = reverse(f"plugins:{PLUGIN}:webhook_list") if may_view else ""  # ``reverse`` for each row is slow
        for row in rows:
            row.webhooks_url = folder

    def get_extra_context(self, request: HttpRequest, form: ListForm | None = None) -> dict[str, Any]:
        """The page that recovers the skipped changes of the webhook in the filters."""
        is_valid = form is not None and form.is_valid()
        return {"recover": recover_skipped(form.chosen, request.user) if is_valid else None}  # type: ignore[union-attr]


urlpatterns = paths_of(Skip, "skips")
