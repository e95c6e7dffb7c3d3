"""What the lists of deliveries and of events have in common: long, and only to be read."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth import get_permission_codename
from django.db import models, transaction
from django.http import HttpRequest, HttpResponse

from webhooks.admin import search
from webhooks.admin.display import undisguised
from webhooks.admin.pagination import CappedPaginator


class ReadOnlyAdmin(admin.ModelAdmin):
    """Nothing can be added, changed or deleted. ``detail`` gives the template what it shows of one row."""

    paginator = CappedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_max_show_all = 0
    list_per_page = 100
    ordering = ("-pk",)
    sortable_by = ()
    search_fields = ("pk",)  # shows the search box; get_search_results looks where there are indexes
    search_help_text = search.HELP

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """The filters alone: whatever else is asked of a column tells of it letter by letter."""
        return lookup in {getattr(one, "parameter_name", f"{one}__id__exact") for one in self.get_list_filter(request)}

    def has_view_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        # Django's own takes the permission to change as well, which here means nothing.
        return request.user.has_perm(f"{self.opts.app_label}.{get_permission_codename('view', self.opts)}")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    def get_fields(self, request: HttpRequest, obj: models.Model | None = None) -> Any:
        return ()  # the template shows them

    def in_full(self) -> models.QuerySet[Any]:
        """All rows, with all that ``detail`` needs of one: what it read later might be gone by then."""
        raise NotImplementedError

    def detail(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        raise NotImplementedError

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        visible = super().get_object(request, object_id, from_field)
        return self.in_full().filter(pk=visible.pk).first() if visible else None

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Any = None,
    ) -> HttpResponse:
        if obj is not None:
            context |= self.detail(request, obj)
        return undisguised(super().render_change_form(request, context, add, change, form_url, obj))

    # A few at a time are changed by its actions in one transaction, which must not be that of the request: workers, and
    # whoever saves an object, wait for the rows.
    @transaction.non_atomic_requests
    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return undisguised(super().changelist_view(request, *args, **kwargs))

    def history_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return undisguised(super().history_view(request, *args, **kwargs))
