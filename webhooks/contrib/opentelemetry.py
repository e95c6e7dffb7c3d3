"""Traces by OpenTelemetry: ``WEBHOOKS["HOOKS"]`` lists ``webhooks.contrib.opentelemetry.Tracing``.

The trace of the request that made a change is stored with its event. The first attempt of each delivery is a child
span, later ones are linked to it. The receiver gets ``traceparent`` only if the webhook says so, and never the baggage.

The spans follow the conventions for messaging: https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import webhooks
from webhooks.hooks import CapturedChange, FinishedAttempt, Hooks, PreparedRequest

HEADER = "traceparent"

# Spans of attempts that are under way in one process. A worker that hands a delivery back never ends its span.
MOST_OPEN = 10_000

_propagator = TraceContextTextMapPropagator()


class Tracing(Hooks):
    def __init__(self) -> None:
        self._tracer = trace.get_tracer("webhooks", webhooks.__version__)
        self._open: dict[tuple[str, int], tuple[Span, int]] = {}
        """The spans of attempts that are under way, and when they began, the oldest first. By the ids of their
        deliveries and the numbers of the attempts: the end of an attempt may be announced after the next one began."""
        self._lock = threading.Lock()

    def trace_context(self, change: CapturedChange) -> str | None:
        return _traceparent(None)

    def request_prepared(self, request: PreparedRequest) -> None:
        if request.is_test:
            return  # no attempt is recorded
        stored = _propagator.extract({HEADER: request.trace}, Context())
        cause, began = trace.get_current_span(stored).get_span_context(), time.time_ns()
        span = self._tracer.start_span(
            f"send {request.webhook_name}",
            stored if request.is_first else Context(),
            SpanKind.PRODUCER,
            _attributes(request),
            [] if request.is_first or not cause.is_valid else [Link(cause)],
            began,
        )
        if request.sends_trace and (header := _traceparent(trace.set_span_in_context(span, Context()))):
            request.headers[HEADER] = header
        key = request.message_id, request.number
        with self._lock:
            self._open.pop(key, None)
            self._open[key] = span, began
            if len(self._open) > MOST_OPEN:
                del self._open[next(iter(self._open))]

    def attempt_finished(self, attempt: FinishedAttempt) -> None:
        with self._lock:
            span, began = self._open.pop((attempt.delivery_id, attempt.number), (None, 0))
        if span is None:
            return  # no request was made, or another process has it
        span.set_attribute("webhooks.attempt", attempt.number)
        if attempt.status is not None:
            span.set_attribute("http.response.status_code", attempt.status)
        if attempt.error_kind:
            span.set_attribute("error.type", attempt.error_kind)
            span.set_status(StatusCode.ERROR, attempt.error_kind)
        # The clock of this machine, as for its other spans. The times of attempts are by the database's.
        span.end(began + attempt.duration_ms * 1_000_000)

    def job_ends(self, seconds: float) -> None:
        flush = getattr(trace.get_tracer_provider(), "force_flush", None)  # the API without the SDK has none
        if flush:
            flush(int(seconds * 1000))


def _traceparent(context: Context | None) -> str | None:
    """The header of a context, or of the current one. Neither baggage nor ``tracestate``."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, context)
    return carrier.get(HEADER)


def _attributes(request: PreparedRequest) -> Mapping[str, str | int]:
    """No URL: its path and query may hold a secret."""
    attributes: dict[str, str | int] = {
        "messaging.system": "webhooks",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": request.webhook_name,
        "messaging.message.id": request.message_id,
        "messaging.message.body.size": len(request.body),
        "http.request.method": request.method,
        "server.address": urlsplit(request.url).hostname or "",
    }
    return attributes | ({"server.port": port} if (port := urlsplit(request.url).port) else {})
