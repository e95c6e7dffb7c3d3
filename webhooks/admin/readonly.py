"""What the pages of deliveries and events share: long lists of read-only rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.auth import get_permission_codename
from django.core.exceptions import PermissionDenied
from django.db import models, transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import URLPattern, path
from django.views.decorators.http import require_POST

from webhooks.admin.counts import CappedPaginator
from webhooks.admin.display import EscapeInvisibleMixin, escape_invisible
from webhooks.admin.filters import SEARCH_HELP


class ReadOnlyAdmin(EscapeInvisibleMixin, admin.ModelAdmin):
    """Rows cannot be added, changed or deleted. A template shows one row from ``page_context()``."""

    paginator = CappedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_max_show_all = 0
    list_per_page = 100
    ordering = ("-pk",)
    sortable_by = ()
    search_fields = ("pk",)  # shows the search box; get_search_results() does the search
    search_help_text = SEARCH_HELP
    buttons: ClassVar[Sequence[str]] = ()
    """Names of actions with a button on the page of one row: "retry" runs ``retry_chosen()``."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(require_POST(self.button_view))
        prefix = f"webhooks_{self.opts.model_name}"
        buttons = [
            path(f"<path:object_id>/{name}/", view, {"name": name}, name=f"{prefix}_{name}") for name in self.buttons
        ]
        return [*buttons, *super().get_urls()]

    def button_view(self, request: HttpRequest, object_id: str, name: str) -> HttpResponse:
        """Run an action for one row."""
        has_permission = getattr(self, f"has_{name}_permission")
        if not has_permission(request) or not self.has_view_permission(request):
            raise PermissionDenied
        row = self.get_object(request, object_id)
        if row is None:
            raise Http404(f"There is no {self.opts.verbose_name} {object_id}.")
        if not has_permission(request, row):
            raise PermissionDenied
        getattr(self, f"{name}_chosen")(request, self.model.objects.filter(pk=row.pk))
        return redirect(f"admin:webhooks_{self.opts.model_name}_change", row.pk)

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """Allow the filters only. With other lookups a user could guess a hidden column letter by letter."""
        return lookup in {getattr(one, "parameter_name", f"{one}__id__exact") for one in self.get_list_filter(request)}

    def has_view_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        # Django also accepts the change permission, which has no meaning here.
        return request.user.has_perm(f"{self.opts.app_label}.{get_permission_codename('view', self.opts)}")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    def get_fields(self, request: HttpRequest, obj: models.Model | None = None) -> Any:
        return ()  # the template shows them

    def full_queryset(self) -> models.QuerySet[Any]:
        """All rows, with all columns that ``page_context()`` needs. A row may be deleted while the page is built."""
        raise NotImplementedError

    def page_context(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        """The context of the template that shows one row."""
        raise NotImplementedError

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        visible = super().get_object(request, object_id, from_field)
        return self.full_queryset().filter(pk=visible.pk).first() if visible else None

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("obj") is not None:
            context |= self.page_context(request, kwargs["obj"])
        return escape_invisible(super().render_change_form(request, context, *args, **kwargs))

    # Actions change a few rows in each transaction. One transaction for the whole request would block workers.
    @transaction.non_atomic_requests
    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return super().changelist_view(request, *args, **kwargs)
