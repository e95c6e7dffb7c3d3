"""Records which request and which user a change came from, and how deep in a chain of webhooks it is; works under
WSGI and ASGI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.utils.decorators import sync_and_async_middleware

from webhooks import tables
from webhooks.actors import RequestActor, acting


def process_exception(request: HttpRequest, exception: Exception) -> HttpResponse | None:
    """Say what to do on a page or in an answer of the API that needs tables which are not migrated."""
    if not tables.are_missing(exception) or "webhooks_" not in str(exception):
        return None  # "webhooks_" begins the name of each table of the app: others are the host's
    said = f"{tables.RUN_MIGRATE}."
    if request.resolver_match and "webhooks-api" in request.resolver_match.app_names:
        return JsonResponse({"detail": said}, status=503)
    return HttpResponse(said, status=503, content_type="text/plain")


@sync_and_async_middleware
def WebhooksMiddleware(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Put it after Django's ``AuthenticationMiddleware``."""
    if iscoroutinefunction(get_response):

        async def handle_async(request: HttpRequest) -> HttpResponseBase:
            with acting(RequestActor(request)):
                return await cast(Awaitable[HttpResponseBase], get_response(request))

        handle_async.process_exception = process_exception  # type: ignore[attr-defined]
        return handle_async

    def handle(request: HttpRequest) -> HttpResponseBase:
        with acting(RequestActor(request)):
            return cast(HttpResponseBase, get_response(request))

    handle.process_exception = process_exception  # type: ignore[attr-defined]
    return handle
