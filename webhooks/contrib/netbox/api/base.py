"""What the views add to those of ``webhooks.api``: NetBox's pages, choice of fields, order, and bulk operations."""

from __future__ import annotations

from typing import Any, ClassVar

from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import OpenApiParameter
from netbox.api.pagination import NetBoxPagination
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.filters import OrderingFilter
from rest_framework.request import Request
from rest_framework.utils.urls import remove_query_param, replace_query_param

from webhooks.api.base import LongListViewSet, StrictViewSet
from webhooks.api.fields import refuse_unknown
from webhooks.insight.counts import TOTAL_CAP
from webhooks.insight.paging import Found, LongList, search_filters
from webhooks.models import Event, Skip

FIELDS = ("fields", "omit", "brief")

SEARCH = OpenApiParameter(
    "q",
    description=_("An object as dcim.site:12, its id, a part of its name, or the id of a request."),
)


def chosen_fields(request: Request, brief: tuple[str, ...]) -> dict[str, Any]:
    """The fields that a reader asks for: the argument ``fields`` or ``omit`` of NetBox's serializers, or none."""
    given = request.query_params if request.method in ("GET", "HEAD") else {}
    for name in ("fields", "omit"):
        if given.get(name):
            return {name: given[name].split(",")}
    return {"fields": brief} if brief and given.get("brief") else {}


class FieldsMixin(StrictViewSet):
    """``fields``, ``omit`` and ``brief``, as NetBox has them."""

    def other_parameters(self) -> tuple[str, ...]:
        chosen = FIELDS if self.request.method in ("GET", "HEAD") else ()
        return (*super().other_parameters(), *chosen)


class RowsMixin(FieldsMixin):
    """For views whose serializers have NetBox's fields of each object."""

    def get_serializer(self, *args: Any, **kwargs: Any) -> Any:
        brief = self.get_serializer_class().Meta.brief_fields
        return super().get_serializer(*args, **chosen_fields(self.request, brief), **kwargs)


class ReportMixin(FieldsMixin):
    """For views that show no rows."""

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        if not getattr(response, "exception", True) and (chosen := chosen_fields(request, ())):
            names = chosen.get("fields") or response.data.keys() - set(chosen["omit"])
            response.data = {name: value for name, value in response.data.items() if name in names}
        return super().finalize_response(request, response, *args, **kwargs)


class KnownOrder(OrderingFilter):
    """Refuses a field by which a view cannot order."""

    def remove_invalid_fields(self, queryset: Any, fields: Any, view: Any, request: Request) -> Any:
        try:
            refuse_unknown({name.removeprefix("-") for name in fields}, view.ordering_fields, "field")
        except ValidationError as error:
            raise ValidationError({self.ordering_param: error.detail}) from None
        return fields


class ShortListMixin(RowsMixin):
    """A table with few rows, in any order."""

    pagination_class = NetBoxPagination
    filter_backends: Any = (KnownOrder,)
    ordering_fields: ClassVar[tuple[str, ...]]

    def other_parameters(self) -> tuple[str, ...]:
        listing = ("offset", "start", "ordering") if self.action == "list" else ()
        return (*super().other_parameters(), *listing)

    def filter_queryset(self, queryset: Any) -> Any:
        rows = super().filter_queryset(queryset)
        return rows if self.detail else KnownOrder().filter_queryset(self.request, rows, self)


class LongListPages(NetBoxPagination):
    """NetBox's pages of a long table, the newest row first.

    ``offset`` reaches the first 10,000 rows, and ``count`` ends there. ``next`` has a cursor instead of an offset: it
    leads through the whole table, and each of its pages takes the same time. These pages have no ``count``, as those of
    NetBox's own ``start``. If few rows match the filters, a page may have fewer rows than fit, or none, and a ``next``.
    """

    cursor_query_param = "cursor"

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any]:
        self.request, self.limit = request, self.get_limit(request) or TOTAL_CAP
        self.offset, self.count, self.older = self.get_offset(request), None, ""
        cursor, rows = request.query_params.get(self.cursor_query_param, ""), view.read_long_list()
        self.has_cursor = bool(cursor) or self.start_query_param in request.query_params
        self._refuse_two_positions()
        if self.has_cursor:
            try:
                page = rows.page(self.limit, cursor, counts=False)
            except ValueError as error:
                raise NotFound(_("Invalid cursor")) from error
        elif self.offset < TOTAL_CAP:
            page = rows.page(self.limit, offset=self.offset)
            self.count = self._count(page, rows)
        else:
            self.count = rows.count()
            return []
        self.older = page.older
        return page.rows

    def _count(self, page: Found, rows: LongList[Any]) -> int:
        if page.count is not None:
            return min(page.count, TOTAL_CAP)
        if page.is_cut and (page.keys or not self.offset):
            return self.offset + len(page.keys)  # the matches among the rows that it looked through
        return rows.count()

    def _refuse_two_positions(self) -> None:
        given = self.request.query_params
        positions = [
            name for name in (self.cursor_query_param, self.start_query_param, self.offset_query_param) if name in given
        ]
        if len(positions) > 1:
            raise ValidationError({positions[0]: _("Give one of these: cursor, start, offset.")})
        if given.get(self.start_query_param, "0") != "0":
            refusal = _("This list goes from the newest row to older ones. Give 0, and follow next.")
            raise ValidationError({self.start_query_param: refusal})

    def get_next_link(self) -> str | None:
        if not self.older:
            return None
        url = self.request.build_absolute_uri()
        for name in (self.offset_query_param, self.start_query_param):
            url = remove_query_param(url, name)
        url = replace_query_param(url, self.limit_query_param, self.limit)
        return replace_query_param(url, self.cursor_query_param, self.older)

    def get_previous_link(self) -> str | None:
        return None if self.has_cursor else super().get_previous_link()

    def get_paginated_response_schema(self, schema: Any) -> Any:
        described = super().get_paginated_response_schema(schema)
        described["properties"]["count"]["nullable"] = True
        return described

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        cursor = {
            "name": self.cursor_query_param,
            "required": False,
            "in": "query",
            "description": "The position of a page, as the next of the page before has it.",
            "schema": {"type": "string"},
        }
        return [*super().get_schema_operation_parameters(view), cursor]


class LongListMixin(RowsMixin, LongListViewSet):
    """A table that may have millions of rows, the newest first."""

    pagination_class = LongListPages
    searched: ClassVar[type[Event | Skip]] = Event
    """The rows with the objects that a search term may mean."""

    def other_parameters(self) -> tuple[str, ...]:
        listing = ("offset", "start", "q") if self.action == "list" else ()
        return (*super().other_parameters(), *listing)

    def read_long_list(self) -> LongList[Any]:
        """The rows that match the filters and the search term."""
        chosen, term = self.read_filters().chosen, self.request.query_params.get("q", "").strip()
        meant = search_filters(term, self.searched, self.request.user) if term else {}
        return self.long_list(meant | chosen)
