"""The list of skipped changes: which webhook did not want a change, and why."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet, Value
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy

from webhooks import permissions
from webhooks.admin.display import short
from webhooks.admin.filters import SkipFilterForm
from webhooks.admin.lists import ChangeColumns, ReadOnlyAdmin
from webhooks.admin.paging import Found, read_page
from webhooks.db import index_plans
from webhooks.models import Skip
from webhooks.models.selection import Filters, select_skips, skips_in_order
from webhooks.operations.wording import skip_reason


@admin.register(Skip)
class SkipAdmin(ChangeColumns, ReadOnlyAdmin):
    list_display = ("object", "action_word", "webhook_name", "reason", "user", "time")
    list_display_links = None
    filter_form = SkipFilterForm
    noun = "skipped change"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Skip]:
        skips = permissions.visible_skips(request.user, super().get_queryset(request)).select_related("webhook")
        return skips.annotate(shows_actual=Value(permissions.may_view_payloads(request.user)))

    def find(self, request: HttpRequest, filters: Filters, before: str) -> Found:
        skips = Skip.objects.all() if permissions.may_view_skips(request.user) else Skip.objects.none()
        ordered, indexed = skips_in_order(filters, skips)
        rest = {name: value for name, value in filters.items() if name not in indexed}
        matching = None
        if rest or permissions.is_partial(request.user):
            matching = permissions.visible_skips(request.user, select_skips(rest, skips))
        with index_plans(Skip.objects.db, may_sort="object_id" in filters):
            return read_page(ordered, matching, before, self.list_per_page)

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> None:
        """The list shows all of a skip, so it has no page."""

    def prepare(self, request: HttpRequest, rows: list[Any]) -> None:
        # ``reverse`` for each row is slow.
        webhooks = reverse("admin:webhooks_webhook_changelist") if permissions.may_view_webhooks(request.user) else ""
        for row in rows:
            row.webhook_url = webhooks and f"{webhooks}{row.webhook_id}/change/"

    @admin.display(description=gettext_lazy("webhook"))
    def webhook_name(self, skip: Any) -> SafeString | str:
        name = short(skip.webhook.name, 32)
        return format_html('<a href="{}">{}</a>', skip.webhook_url, name) if skip.webhook_url else name

    @admin.display(description=gettext_lazy("why it was not sent"))
    def reason(self, skip: Any) -> SafeString:
        return format_html('<span title="{0}">{0}</span>', skip_reason(skip, skip.shows_actual))
