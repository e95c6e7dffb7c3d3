"""Spans of attempts, by the SDK of OpenTelemetry."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, TraceFlags

from tests.support.draining import drain
from tests.support.inbox import Inbox
from tests.support.makers import make_webhook
from tests.testapp.models import Thing
from webhooks import hooks
from webhooks.contrib import opentelemetry
from webhooks.models import Delivery, Event, QueuedDelivery, Webhook
from webhooks.workers import jobs

pytestmark = pytest.mark.usefixtures("database")

PATH = "webhooks.contrib.opentelemetry.Tracing"


@pytest.fixture
def spans(webhooks_settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """The spans that have ended, from a provider for this test alone."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    webhooks_settings(HOOKS=[PATH])
    hooks._loaded.clear()
    yield exporter
    hooks._loaded.clear()


def change_in_request(name: str = "a") -> SpanContext:
    """Save an object within a span, as of a request, with baggage. Returns the context of the span."""
    token = context.attach(baggage.set_baggage("customer", "secret"))
    try:
        with trace.get_tracer("site").start_as_current_span("POST /things/") as span:
            Thing.objects.create(name=name)
    finally:
        context.detach(token)
    return span.get_span_context()


def header(context: SpanContext) -> str:
    """The ``traceparent`` of a span."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def of_attempts(spans: InMemorySpanExporter) -> list[ReadableSpan]:
    """The spans of attempts, in the order in which they ended."""
    drain()
    assert hooks.flush(20)
    return [span for span in spans.get_finished_spans() if span.name.startswith("send ")]


def test_the_first_attempt_is_a_child_of_the_request(spans: InMemorySpanExporter, inbox: Inbox) -> None:
    make_webhook(Thing, url=inbox.url("slow/0.05"), name="CMDB")
    request = change_in_request()
    [span] = of_attempts(spans)
    assert (span.name, span.kind) == ("send CMDB", SpanKind.PRODUCER)
    assert span.context is not None
    assert span.context.trace_id == request.trace_id
    assert span.parent is not None
    assert span.parent.span_id == request.span_id
    assert span.status.status_code == StatusCode.UNSET
    delivery = Delivery.objects.get()
    assert span.attributes == {
        "messaging.system": "webhooks",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "CMDB",
        "messaging.message.id": str(delivery.pk),
        "messaging.message.body.size": len(inbox.received()[0].body),
        "http.request.method": "POST",
        "server.address": "127.0.0.1",
        "server.port": int(inbox.url().split(":")[2].split("/")[0]),
        "http.response.status_code": 200,
        "webhooks.attempt": 1,
    }
    assert 50e6 <= (span.end_time or 0) - (span.start_time or 0) < 60e9


def test_a_later_attempt_is_linked(
    spans: InMemorySpanExporter, inbox: Inbox, webhooks_settings: Callable[..., None]
) -> None:
    webhooks_settings(RETRY_SCHEDULE=[3600])
    make_webhook(Thing, url=inbox.url("status/500"), name="CMDB")
    request = change_in_request()
    [first] = of_attempts(spans)  # its hook has been called, before the next request is prepared
    QueuedDelivery.objects.update(due_at=timezone.now())
    _, second = of_attempts(spans)
    assert first.parent is not None
    assert not first.links
    assert first.status.status_code == StatusCode.ERROR
    assert dict(first.attributes or {})["error.type"] == "http_500"
    assert second.parent is None
    assert second.context is not None
    assert second.context.trace_id != request.trace_id
    assert [link.context.span_id for link in second.links] == [request.span_id]
    assert dict(second.attributes or {})["webhooks.attempt"] == 2


class Slow(hooks.Hooks):
    """Holds up the notifications of other hooks."""

    released = threading.Event()

    def attempt_finished(self, attempt: hooks.FinishedAttempt) -> None:
        self.released.wait(60)


def test_notifications_that_come_after_the_next_attempt_end_the_right_spans(
    spans: InMemorySpanExporter, inbox: Inbox, webhooks_settings: Callable[..., None]
) -> None:
    webhooks_settings(RETRY_SCHEDULE=[3600], HOOKS=[f"{__name__}.Slow", PATH])
    webhook = make_webhook(Thing, url=inbox.url("status/503"), name="CMDB")
    change_in_request()
    drain()
    Webhook.objects.filter(pk=webhook.pk).update(payload_url=inbox.url())
    QueuedDelivery.objects.update(due_at=timezone.now())
    drain()
    Slow.released.set()
    found = [dict(span.attributes or {}) for span in of_attempts(spans)]
    assert [(one["webhooks.attempt"], one["http.response.status_code"]) for one in found] == [(1, 503), (2, 200)]


def test_the_receiver_gets_the_trace_if_the_webhook_says_so(spans: InMemorySpanExporter, inbox: Inbox) -> None:
    make_webhook(Thing, url=inbox.url("ok/1"), name="without")
    make_webhook(Thing, url=inbox.url("ok/2"), name="with", send_trace=True)
    change_in_request()
    [span] = [one for one in of_attempts(spans) if one.name == "send with"]
    [without], [with_trace] = inbox.received("ok/1"), inbox.received("ok/2")
    assert span.context is not None
    assert with_trace.headers["traceparent"] == header(span.context)
    assert "traceparent" not in without.headers
    for one in (without, with_trace):
        assert not {"baggage", "tracestate"} & one.headers.keys()
        assert "secret" not in str(one.headers)


def test_a_change_outside_of_a_trace_begins_one(spans: InMemorySpanExporter, inbox: Inbox) -> None:
    make_webhook(Thing, url=inbox.url(), name="CMDB")
    Thing.objects.create(name="a")
    assert Event.objects.get().trace is None
    [span] = of_attempts(spans)
    assert span.parent is None
    assert not span.links


def test_what_is_not_sampled_stays_so(
    spans: InMemorySpanExporter, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace._TRACER_PROVIDER, "sampler", ParentBased(ALWAYS_OFF))
    make_webhook(Thing, url=inbox.url(), name="CMDB", send_trace=True)
    request = change_in_request()
    assert of_attempts(spans) == []
    [received] = inbox.received()
    version, trace_id, _, flags = received.headers["traceparent"].split("-")
    assert (version, trace_id) == ("00", f"{request.trace_id:032x}")
    assert not int(flags, 16) & TraceFlags.SAMPLED


def test_the_trace_is_no_part_of_the_payload(spans: InMemorySpanExporter, inbox: Inbox) -> None:
    make_webhook(Thing, url=inbox.url())
    request = change_in_request()
    assert Event.objects.get().trace == header(request)
    drain()
    assert f"{request.trace_id:032x}" not in inbox.received()[0].body.decode()


def test_a_request_that_is_never_recorded_keeps_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opentelemetry, "MOST_OPEN", 2)
    tracing = opentelemetry.Tracing()
    for number in range(5):
        tracing.request_prepared(
            hooks.PreparedRequest(1, "CMDB", str(number), "POST", "http://127.0.0.1/", {}, b"", is_test=False)
        )
    assert list(tracing._open) == [("3", 1), ("4", 1)]


@pytest.mark.parametrize("minutes", [-60, 60])
def test_the_clock_of_the_database_moves_no_span(minutes: int, spans: InMemorySpanExporter) -> None:
    tracing, started_at = opentelemetry.Tracing(), timezone.now() + timedelta(minutes=minutes)
    tracing.request_prepared(hooks.PreparedRequest(1, "CMDB", "1", "POST", "http://127.0.0.1/", {}, b"", is_test=False))
    tracing.attempt_finished(hooks.FinishedAttempt("1", 1, 1, "CMDB", 1, started_at, 250, 200, "", "", "w"))
    [span] = spans.get_finished_spans()
    assert (span.end_time or 0) - (span.start_time or 0) == 250_000_000


def test_the_end_of_a_job_exports_what_waits(spans: InMemorySpanExporter, inbox: Inbox, redis: Any) -> None:
    waiting: Any = InMemorySpanExporter()
    processor = BatchSpanProcessor(waiting, schedule_delay_millis=3_600_000)
    provider: Any = trace.get_tracer_provider()
    provider.add_span_processor(processor)
    make_webhook(Thing, url=inbox.url(), name="CMDB")
    Thing.objects.create(name="a")
    jobs.drain()  # as a stock worker does, whose process then ends without exit handlers
    assert [span.name for span in waiting.get_finished_spans()] == ["send CMDB"]
    processor.shutdown()


class BrokenSampler(Sampler):
    def should_sample(self, *args: Any, **kwargs: Any) -> Any:
        raise LookupError("no such rule")

    def get_description(self) -> str:
        return "broken"


def test_a_broken_sampler_stops_no_delivery_and_is_one_line(
    spans: InMemorySpanExporter, inbox: Inbox, monkeypatch: pytest.MonkeyPatch, app_log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trace._TRACER_PROVIDER, "sampler", BrokenSampler())
    make_webhook(Thing, url=inbox.url(), name="CMDB", send_trace=True)
    for name in "abc":
        Thing.objects.create(name=name)
    assert of_attempts(spans) == []
    assert [one.headers.get("traceparent") for one in inbox.received()] == [None] * 3
    [record] = [one for one in app_log.records if one.levelname == "ERROR"]
    assert record.getMessage() == f"The hook {PATH}.request_prepared failed"
    assert vars(record)["webhook"] == "CMDB"


def test_without_the_hook_nothing_is_stored_and_nothing_sent(inbox: Inbox) -> None:
    make_webhook(Thing, url=inbox.url(), send_trace=True)
    change_in_request()
    assert Event.objects.get().trace is None
    drain()
    assert "traceparent" not in inbox.received()[0].headers
