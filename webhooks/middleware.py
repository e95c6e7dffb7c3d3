"""Middleware: records the request, the user and the webhook depth that a change came from, under WSGI and ASGI.

That includes the changes of code that writes a streaming response.

With ``BATCH_REQUESTS``, it also records the changes of each transaction of a request together at its end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, cast

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.utils.decorators import sync_and_async_middleware

from webhooks.capture.context import RequestActor, acting
from webhooks.capture.transaction import transactions_as_batches
from webhooks.ground.conf import conf
from webhooks.ground.errors import RUN_MIGRATE, names_missing_table

SAFE_METHODS = {"GET", "HEAD", "OPTIONS", "TRACE"}


@sync_and_async_middleware
def WebhooksMiddleware(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Put it after Django's ``AuthenticationMiddleware``."""
    if iscoroutinefunction(get_response):

        async def handle_async(request: HttpRequest) -> HttpResponseBase:
            with acting(actor := RequestActor(request)), transactions_as_batches(_is_batched(request)):
                response = await cast(Awaitable[HttpResponseBase], get_response(request))
            return _stream_as(actor, response)

        handle_async.process_exception = process_exception  # type: ignore[attr-defined]
        return handle_async

    def handle(request: HttpRequest) -> HttpResponseBase:
        with acting(actor := RequestActor(request)), transactions_as_batches(_is_batched(request)):
            response = cast(HttpResponseBase, get_response(request))
        return _stream_as(actor, response)

    handle.process_exception = process_exception  # type: ignore[attr-defined]
    return handle


def _is_batched(request: HttpRequest) -> bool:
    return conf.batch_requests and request.method not in SAFE_METHODS


def _stream_as(actor: RequestActor, response: HttpResponseBase) -> HttpResponseBase:
    """Let the code that writes a streaming response act as the user of its request, too: it runs after the view.

    A file is left as it is: the server may send it without Python.
    """
    if isinstance(response, StreamingHttpResponse) and getattr(response, "file_to_stream", None) is None:
        parts: Any = response.streaming_content
        response.streaming_content = _async_parts(actor, parts) if response.is_async else _parts(actor, parts)
    return response


def _parts(actor: RequestActor, parts: Iterator[bytes]) -> Iterator[bytes]:
    while True:
        with acting(actor):  # not while the server sends a part: other code runs then
            part = next(parts, None)
        if part is None:
            return
        yield part


async def _async_parts(actor: RequestActor, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    while True:
        with acting(actor):
            part = await anext(parts, None)
        if part is None:
            return
        yield part


def process_exception(request: HttpRequest, exception: Exception) -> HttpResponse | None:
    """Answer 503 with the command to run if a table of the app is not migrated."""
    if not names_missing_table(exception):
        return None
    message = f"{RUN_MIGRATE}."
    if request.resolver_match and "webhooks-api" in request.resolver_match.app_names:
        return JsonResponse({"detail": message}, status=503)
    return HttpResponse(message, status=503, content_type="text/plain")
