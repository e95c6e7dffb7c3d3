"""The list of skipped changes: which webhook did not want a change, and why."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet, Value
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy

from webhooks import permissions, registry
from webhooks.admin.display import short
from webhooks.admin.filters import SkipFilterForm
from webhooks.admin.lists import ChangeColumns, ReadOnlyAdmin
from webhooks.admin.paging import Found, read_page
from webhooks.db import index_plans
from webhooks.models import Skip
from webhooks.models.ids import first_id
from webhooks.models.selection import EVENT_COLUMNS, TIMES, Filters
from webhooks.operations.wording import skip_reason

# The column, or the lookup, for each filter.
COLUMNS = EVENT_COLUMNS | {"webhook": "webhook", "rule": "rule"}


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
        ordered: Any = Skip.objects.all() if permissions.may_view_skips(request.user) else Skip.objects.none()
        ordered, indexed = ordered.order_by("-pk"), {name for name in TIMES if name in filters}
        if "object_id" in filters:
            chosen = [filters["object_type"]] if "object_type" in filters else [*registry.registered_models()]
            ordered = ordered.filter(object_type__in=chosen, object_id=filters["object_id"])
            indexed |= {"object_type", "object_id"}
        elif "webhook" in filters:
            ordered, indexed = ordered.filter(webhook=filters["webhook"]), indexed | {"webhook"}
        for name, lookup in (("created_after", "pk__gte"), ("created_before", "pk__lt")):
            if name in filters:
                ordered = ordered.filter(**{lookup: first_id(datetime.fromisoformat(filters[name]))})
        matching = None
        if filters.keys() - indexed or permissions.is_partial(request.user):
            columns = {COLUMNS[name]: value for name, value in filters.items() if name not in indexed}
            matching = permissions.visible_skips(request.user, ordered.filter(**columns))
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
