"""Records which request and which user a change came from, and how deep in a chain of webhooks it is; works under
WSGI and ASGI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

from webhooks.actors import RequestActor, acting


@sync_and_async_middleware
def WebhooksMiddleware(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Put it after Django's ``AuthenticationMiddleware``."""
    if iscoroutinefunction(get_response):

        async def handle_async(request: HttpRequest) -> HttpResponseBase:
            with acting(RequestActor(request)):
                return await cast(Awaitable[HttpResponseBase], get_response(request))

        return handle_async

    def handle(request: HttpRequest) -> HttpResponseBase:
        with acting(RequestActor(request)):
            return cast(HttpResponseBase, get_response(request))

    return handle
