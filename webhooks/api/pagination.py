"""Pages over tables too long to be counted or skipped through."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from rest_framework import exceptions, serializers
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request


class NewestFirst(CursorPagination):
    """By key, which is in the order of time. ``?limit=`` sets the length of a page."""

    ordering = "-pk"
    page_size = 50
    page_size_query_param = "limit"
    page_size_query_description = "Number of results to return per page, 1 to 500."
    max_page_size = 500
    parameters = (CursorPagination.cursor_query_param, page_size_query_param)

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any] | None:
        try:
            return super().paginate_queryset(queryset, request, view)
        except (ValidationError, ValueError) as error:  # a cursor that holds no key, made up or of another list
            raise exceptions.NotFound(self.invalid_cursor_message) from error

    def get_page_size(self, request: Request) -> int:
        given = request.query_params.get(self.page_size_query_param)
        if given is None:
            return self.page_size
        try:
            return int(serializers.IntegerField(min_value=1, max_value=self.max_page_size).run_validation(given))
        except exceptions.ValidationError:
            refusal = f"Must be a whole number from 1 to {self.max_page_size}."
            raise exceptions.ValidationError({self.page_size_query_param: [refusal]}) from None

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        parameters: list[dict[str, Any]] = super().get_schema_operation_parameters(view)
        for one in parameters:
            if one["name"] == self.page_size_query_param:
                one["schema"] |= {"minimum": 1, "maximum": self.max_page_size}
        return parameters
