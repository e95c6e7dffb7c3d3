"""Pages without invisible characters, and messages: names and answers come from other people."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.messages.constants import DEFAULT_LEVELS
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from utilities.htmx import htmx_partial

from webhooks.contrib.netbox.pages.links import address
from webhooks.ground.text import escape_invisible
from webhooks.pages.acts import Message


def page(request: HttpRequest, template: str, context: dict[str, Any]) -> HttpResponse:
    """A page with the addresses of NetBox, and with escapes such as ``\\u202e`` for invisible characters."""
    response = render(request, template, {"address_of": address} | context)
    response.content = escape_invisible(response.content.decode()).encode()
    return response


def show(request: HttpRequest, *results: Message) -> None:
    """Show the results of an act."""
    for result in results:
        messages.add_message(request, DEFAULT_LEVELS[result.level.upper()], result.text)


def refreshing_page(request: HttpRequest, template: str, context: dict[str, Any], *, goes_on: bool) -> HttpResponse:
    """A page with a part that refreshes itself while ``goes_on``. At the end, the browser loads the whole page: its
    buttons change, too."""
    response = page(request, template, context)
    if htmx_partial(request) and not goes_on:
        response.headers["HX-Refresh"] = "true"
    return response


class VisibleCharacters:
    """Pages that are no form show invisible characters as escapes, such as ``\\u202e``: names and answers come from
    other people."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        response: HttpResponse = super().dispatch(request, *args, **kwargs)
        if not response.streaming and response.headers.get("Content-Type", "").startswith("text/html"):
            response.content = escape_invisible(response.content.decode()).encode()
        return response
