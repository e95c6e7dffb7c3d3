"""Pages of the admin without invisible characters.

Names and answers come from other people, and one such character can reverse a whole line.
"""

from __future__ import annotations

from typing import Any, TypeVar

from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.utils.safestring import SafeString, mark_safe

from webhooks import text as texts

Response = TypeVar("Response")


def page(request: HttpRequest, template: str, context: dict[str, Any]) -> TemplateResponse:
    """A page without invisible characters."""
    return escape_invisible(TemplateResponse(request, template, context))


def escape_invisible(response: Response) -> Response:
    """Write invisible characters of a page as escapes, such as ``\\u202e``."""

    def escape(rendered: HttpResponse) -> None:
        rendered.content = texts.escape_invisible(rendered.content.decode()).encode()

    if isinstance(response, TemplateResponse):
        response.add_post_render_callback(escape)
    return response


def part(request: HttpRequest, template: str, context: dict[str, Any]) -> SafeString:
    """A part of a page, without invisible characters. For pages with a form, which must keep such characters."""
    shown = texts.escape_invisible(render_to_string(template, context, request))
    return mark_safe(shown)  # noqa: S308 # nosec B308 B703 # the template has escaped it


class EscapeInvisibleMixin:
    """Escape invisible characters on the pages of a ModelAdmin that are not forms."""

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return escape_invisible(super().changelist_view(request, *args, **kwargs))  # type: ignore[misc]

    def history_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return escape_invisible(super().history_view(request, *args, **kwargs))  # type: ignore[misc]

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return escape_invisible(super().delete_view(request, *args, **kwargs))  # type: ignore[misc]
