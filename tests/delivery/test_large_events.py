"""Large events: a worker reads them a few megabytes at a time, and holds a few of them."""

from __future__ import annotations

import json
import random
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connection

from tests.support.draining import drain, states
from tests.support.inbox import Inbox
from tests.support.makers import make_delivery, make_event, make_webhook
from tests.support.slow_link import slow_link
from tests.support.statements import statements_of
from tests.support.waiting import PATIENCE
from tests.testapp.models import Thing
from webhooks.delivery import large_events
from webhooks.delivery.large_events import Room
from webhooks.models import Event, QueuedDelivery, State, Undispatched, Webhook
from webhooks.models.event import SMALL, size_of
from webhooks.workers.runner import DeliveryRunner

pytestmark = pytest.mark.usefixtures("database")

MEGABYTE = 2**20


@pytest.fixture
def runner() -> Iterator[DeliveryRunner]:
    runner = DeliveryRunner("test")
    yield runner
    runner.close(grace=0)


def large(webhook: Webhook, size: int, count: int, dispatched: bool = False) -> None:
    """Events with the same so many bytes of data, which hardly shrink."""
    data = json.dumps({"text": secrets.token_urlsafe(size * 3 // 4)})
    first = make_event(webhook, object_id="large", data=data, dispatched=True)
    columns = [str(one.column) for one in Event._meta.concrete_fields if not one.primary_key]
    with connection.cursor() as cursor:
        for number in range(1, count):
            names = ", ".join(columns)
            values = ", ".join(f"'large {number}'" if one == "object_id" else one for one in columns)
            statement = f"INSERT INTO rq_webhooks_event ({names}) SELECT {values} FROM rq_webhooks_event WHERE id = %s"
            cursor.execute(statement, [first.pk])
        if not dispatched:
            cursor.execute("INSERT INTO rq_webhooks_undispatched (event_id) SELECT id FROM rq_webhooks_event")


def memory(name: str) -> int:
    """Bytes of this process: ``VmRSS`` now, ``VmHWM`` at most since ``forget_peak``."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    [kilobytes] = [line.split()[1] for line in lines if line.startswith(name)]
    return int(kilobytes) * 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


@pytest.mark.parametrize("are_dispatched", [False, True], ids=["new", "due"])
def test_large_events_of_a_receiver_that_hangs_leave_memory_and_time_for_others(
    inbox: Inbox, runner: DeliveryRunner, are_dispatched: bool
) -> None:
    webhook = make_webhook(Thing, url=inbox.url("hang"), ordered=False)
    large(webhook, 5 * MEGABYTE, 60, dispatched=are_dispatched)
    if are_dispatched:
        for event in Event.objects.for_list():
            make_delivery(webhook, event=event)
    make_event(make_webhook(Thing, url=inbox.url()))
    rest = memory("VmRSS")
    forget_peak()
    end = time.monotonic() + 2 * PATIENCE
    while not inbox.received("ok") and time.monotonic() < end:
        runner.run(0.1)
    assert inbox.received("ok")
    runner.run(1)
    assert memory("VmHWM") - rest < 200 * MEGABYTE
    assert 0 < len(runner._claims.claimed) < 6


def test_all_large_events_arrive_in_order(
    inbox: Inbox, runner: DeliveryRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_events, "HELD_BYTES", MEGABYTE)
    monkeypatch.setattr(large_events, "READ_BYTES", MEGABYTE // 4)
    webhook, other = (make_webhook(Thing, url=inbox.url(f"ok/{number}")) for number in range(2))
    for number in range(40):
        size = random.choice([10, SMALL - 100, 100_000, 400_000])
        make_event(webhook, other, object_id=str(number % 3), data=json.dumps({"text": "x" * size}))
    most = 0
    end = time.monotonic() + 20 * PATIENCE
    while (Undispatched.objects.exists() or QueuedDelivery.objects.exists()) and time.monotonic() < end:
        runner.run(0.05)
        most = max(most, sum(size for _, size in runner._claims.large._held.values()))
    assert states() == [State.SUCCEEDED] * 80
    assert most <= MEGABYTE
    for number in range(2):
        sequences = [one.json["sequence"] for one in inbox.received(f"ok/{number}")]
        for place in range(3):
            of_object = [pk for pk in sequences if pk % 3 == place]
            assert of_object == sorted(of_object)
    assert {len(one.json["data"]["text"]) for one in inbox.received()} <= {10, SMALL - 100, 100_000, 400_000}
    assert not QueuedDelivery.objects.exists()


def test_an_event_larger_than_all_room_is_sent_alone(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_events, "HELD_BYTES", 50_000)
    monkeypatch.setattr(large_events, "READ_BYTES", 50_000)
    large(make_webhook(Thing, url=inbox.url()), 200_000, 5)
    drain()
    assert states() == [State.SUCCEEDED] * 5


@pytest.mark.postgresql
def test_events_arrive_over_a_link_that_takes_longer_for_a_batch_than_a_statement_may(
    inbox: Inbox, runner: DeliveryRunner, webhooks_settings: Any
) -> None:
    webhooks_settings(LEASE=6)  # so a statement may take two seconds
    large(make_webhook(Thing, url=inbox.url()), 60_000, 120)
    make_event(make_webhook(Thing, url=inbox.url("ok/tiny")))
    with slow_link(2 * MEGABYTE):
        end = time.monotonic() + 3 * PATIENCE
        while not inbox.received("ok/tiny") and time.monotonic() < end:
            runner.run(0.1)
        assert inbox.received("ok/tiny")
        end = time.monotonic() + 20 * PATIENCE
        while len(inbox.received()) < 121 and time.monotonic() < end:
            runner.run(0.5)
        runner.run(5)
    assert states() == [State.SUCCEEDED] * 121
    assert len(inbox.received()) == 121


@pytest.mark.postgresql
def test_a_dispatch_that_was_stopped_takes_fewer_events_the_next_time(
    inbox: Inbox, runner: DeliveryRunner, webhooks_settings: Any
) -> None:
    webhooks_settings(LEASE=3)
    large(make_webhook(Thing, url=inbox.url()), SMALL - 2000, 200)
    with slow_link(MEGABYTE):
        end = time.monotonic() + 20 * PATIENCE
        while Undispatched.objects.exists() and time.monotonic() < end:
            with suppress(OperationalError):
                runner.run(0.5)
        assert not Undispatched.objects.exists()


@pytest.mark.cost
def test_a_small_event_takes_no_statement_more(inbox: Inbox, runner: DeliveryRunner) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    make_event(webhook)
    runner.run(2)
    statements = []
    for size in (10, SMALL + 1):
        make_event(webhook, data=json.dumps({"text": "x" * size}))
        statements.append([one for one in statements_of(lambda: runner.run(2)) if '."data"' in one or ".data" in one])
    assert [len(one) for one in statements] == [1, 2]


def test_the_size_of_an_event_follows_its_texts() -> None:
    event = make_event(data='{"a": "é"}', context='{"more": 1}')
    assert event.size == 4 * 10 + 11
    Event.objects.filter(pk=event.pk).update(data='{"a": 1}')
    event.refresh_from_db()
    assert event.size == size_of(['{"a": 1}'])
    Event.insert_all([new := Event(action="updated", object_id="1", data="[1, 2]")], "default")
    assert Event.objects.get(pk=new.pk).size == 6


def test_a_webhook_leaves_room_for_the_large_events_of_others() -> None:
    room = Room([(1, large_events.HELD_BYTES // 2)], most=large_events.HELD_BYTES)
    assert not room.take(1, 100_000)
    assert room.take(2, large_events.HELD_BYTES // 5)
    assert not room.take(2, large_events.HELD_BYTES // 5)
    assert room.take(3, 100_000)


def test_a_worker_reads_a_few_megabytes_before_it_looks_for_other_work() -> None:
    room = Room([(1, 100)], most=1000)
    assert [room.take(2, size) for size in (2000, 1, 1)] == [True, False, False]
    room = Room([(1, 100)], most=1000)
    assert [room.take(2, size) for size in (600, 400, 1)] == [True, True, False]
