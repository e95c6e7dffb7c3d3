"""claim -> send -> record -> promote, with a real receiver, in this process."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

import pytest
import standardwebhooks
from django.db import transaction
from django.utils import timezone

from tests.support.draining import drain, states, sweep_step
from tests.support.inbox import Inbox
from tests.support.makers import make_delivery, make_event, make_webhook
from tests.support.threads import Beside
from tests.testapp.models import Label, Thing
from webhooks.delivery import dispatch as dispatching
from webhooks.delivery import outcomes as delivering
from webhooks.delivery import sweep
from webhooks.delivery.claims import ClaimedDelivery
from webhooks.ground import db
from webhooks.ground.db import atomically
from webhooks.ground.error_kinds import ErrorKind
from webhooks.ground.outcome import Outcome
from webhooks.ground.payloads import Bodies
from webhooks.models import Attempt, Delivery, Event, MediaType, QueuedDelivery, State, Webhook
from webhooks.models.queue import ClaimedRow

pytestmark = pytest.mark.usefixtures("database")

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_a_saved_object_reaches_its_url_and_every_step_is_stored(inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    thing = Thing.objects.create(name="a")
    drain()
    [received] = inbox.received()
    delivery = Delivery.objects.get()
    [attempt] = Attempt.objects.all()
    assert received.json["data"]["id"] == thing.pk
    assert received.headers["webhook-id"] == str(delivery.pk)
    assert received.headers["content-type"] == "application/json"
    assert received.headers["user-agent"] == "django-rq-webhooks"
    assert "webhook-signature" not in received.headers
    assert (delivery.state, delivery.attempt_count, delivery.reason) == (State.SUCCEEDED, 1, "")
    assert (attempt.number, attempt.succeeded, attempt.status, attempt.url) == (1, True, 200, webhook.payload_url)
    assert (attempt.response_body, attempt.worker) == ("ok", "test")
    assert attempt.response_headers["Content-Length"] == "2"


def test_a_request_is_signed_so_that_the_receivers_library_accepts_it(inbox: Inbox) -> None:
    make_webhook(Thing, url=inbox.url(), secret=SECRET)
    Thing.objects.create(name="Grüße")
    drain()
    [received] = inbox.received()
    verified = standardwebhooks.Webhook(SECRET).verify(received.body, received.headers)
    assert verified["data"]["name"] == "Grüße"
    assert len(received.headers["x-hook-signature"]) == 128


def test_a_form_is_sent_if_the_webhook_says_so(inbox: Inbox) -> None:
    make_webhook(Thing, url=inbox.url(), content_type=MediaType.FORM)
    Thing.objects.create(name="a&b=c")
    drain()
    [received] = inbox.received()
    form = parse_qs(received.body.decode(), strict_parsing=True)
    assert received.headers["content-type"] == "application/x-www-form-urlencoded"
    assert form["event"] == ["created"]
    assert json.loads(form["data"][0])["name"] == "a&b=c"


def test_one_event_reaches_every_webhook_with_a_different_id(inbox: Inbox) -> None:
    for number in range(5):
        make_webhook(Thing, url=inbox.url(f"status/20{number % 2}/{number}"))
    Thing.objects.create(name="a")
    drain()
    received = inbox.received()
    assert len(received) == len({one.headers["webhook-id"] for one in received}) == 5
    assert len({one.body for one in received}) == 1


def test_the_changes_of_one_object_arrive_in_order(inbox: Inbox) -> None:
    make_webhook(Thing, url=inbox.url())
    things = [Thing.objects.create(name="0") for _ in range(3)]
    for number in range(1, 20):
        for thing in things:
            thing.name = str(number)
            thing.save()
    drain()
    by_object = defaultdict(list)
    for one in inbox.received():
        by_object[one.json["data"]["id"]].append((one.json["data"]["name"], one.json["sequence"]))
    assert set(by_object) == {thing.pk for thing in things}
    for seen in by_object.values():
        assert [name for name, _ in seen] == [str(number) for number in range(20)]
        assert [sequence for _, sequence in seen] == sorted(sequence for _, sequence in seen)


# Failures


def test_a_failure_is_retried_by_the_schedule_with_the_same_id_and_body(inbox: Inbox, webhooks_settings: Any) -> None:
    webhooks_settings(RETRY_SCHEDULE=[0, 0, 0])
    make_webhook(Thing, url=inbox.url("fail-first/2"))
    Thing.objects.create(name="a")
    drain()
    received = inbox.received()
    assert len(received) == 3
    assert len({(one.headers["webhook-id"], one.body) for one in received}) == 1
    assert [(attempt.number, attempt.status) for attempt in Attempt.objects.all()] == [(1, 503), (2, 503), (3, 200)]
    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.attempt_count) == (State.SUCCEEDED, 3)
    assert (delivery.reason, delivery.error_kind) == ("", ""), "not those of the attempt before"
    last = Attempt.objects.get(number=3)
    assert delivery.finished_at is not None
    assert delivery.finished_at >= last.started_at


def test_a_schedule_that_ends_ends_the_delivery_as_failed(inbox: Inbox, webhooks_settings: Any) -> None:
    webhooks_settings(RETRY_SCHEDULE=[0, 0])
    make_webhook(Thing, url=inbox.url("status/500"))
    Thing.objects.create(name="a")
    drain()
    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.attempt_count, delivery.queued.failures) == (State.FAILED, 3, 3)
    assert delivery.reason == "HTTP 500 Status"
    assert delivery.finished_at is not None


def test_due_deliveries_go_before_new_ones(inbox: Inbox, webhooks_settings: Any) -> None:
    webhooks_settings(SENDERS=1)
    webhook = make_webhook(Thing, url=inbox.url())
    due = [make_delivery(webhook, object_id=str(number)) for number in range(3)]
    new = make_event(webhook, object_id="new")
    drain()
    order = [one.headers["webhook-id"] for one in inbox.received()]
    assert order == [*(str(delivery.pk) for delivery in due), str(new.deliveries.get().pk)]


def test_a_failing_head_blocks_only_its_own_lane(inbox: Inbox, webhooks_settings: Any) -> None:
    webhooks_settings(RETRY_SCHEDULE=[3600], RETRY_JITTER=0)
    webhook = make_webhook(Thing, url=inbox.url("fail-first/1"))
    make_event(webhook)
    drain()
    make_event(webhook)
    make_event(webhook, object_id="2")
    drain()
    assert states() == [State.PENDING, State.WAITING, State.SUCCEEDED]
    head = Delivery.objects.order_by("event_id")[0]
    assert head.queued.failures == 1
    assert 3500 < (head.queued.due_at - timezone.now()).total_seconds() <= 3600
    QueuedDelivery.objects.filter(pk=head.pk).update(due_at=timezone.now())
    drain()
    assert states() == [State.SUCCEEDED] * 3
    assert [one.json["data"]["id"] for one in inbox.received()] == ["1", "2", "1", "1"]


def test_a_head_that_is_given_up_lets_the_next_one_go(inbox: Inbox, webhooks_settings: Any) -> None:
    webhooks_settings(RETRY_SCHEDULE=[])
    webhook = make_webhook(Thing, url=inbox.url("fail-first/1"))
    for _ in range(2):
        make_event(webhook)
    drain()
    assert states() == [State.FAILED, State.SUCCEEDED]


def test_a_head_fails_since_its_first_failed_attempt(inbox: Inbox, webhooks_settings: Any) -> None:
    webhooks_settings(RETRY_SCHEDULE=[0, 3600])
    first = timezone.now() - timedelta(minutes=10)
    make_delivery(make_webhook(Thing, url=inbox.url("status/500")), failures=1, failing_since=first)
    drain()
    queued = QueuedDelivery.objects.get()
    assert (queued.failures, queued.failing_since) == (2, first)


@pytest.mark.parametrize(("schedule", "goes_on"), [([3600], True), ([], False)], ids=["failing", "given up"])
def test_a_lane_looks_back_only_for_deliveries_that_go_on(
    inbox: Inbox, webhooks_settings: Any, schedule: list[int], goes_on: bool
) -> None:
    webhooks_settings(RETRY_SCHEDULE=schedule)
    make_delivery(make_webhook(Thing, url=inbox.url("status/500")), overtaken=True)
    drain()
    assert QueuedDelivery.objects.get().overtaken is goes_on


def test_unordered_deliveries_do_not_wait_for_each_other(inbox: Inbox, webhooks_settings: Any) -> None:
    webhooks_settings(RETRY_SCHEDULE=[3600])
    webhook = make_webhook(Thing, url=inbox.url("fail-first/1"), ordered=False)
    for _ in range(2):
        make_event(webhook)
    drain()
    assert sorted(states()) == [State.PENDING, State.SUCCEEDED]


@pytest.mark.parametrize(
    ("behaviour", "least", "most"),
    [
        ("retry-after/503/7", 7, 7.1),
        ("retry-after/503/1000000", 10, 10.1),
        ("retry-after/429/1", 60, 60.1),
        ("status/503", 5, 5.1),
    ],
)
def test_a_receiver_may_ask_for_more_time_within_bounds(
    inbox: Inbox, webhooks_settings: Any, behaviour: str, least: float, most: float
) -> None:
    webhooks_settings(RETRY_SCHEDULE=[5], RETRY_JITTER=0)
    make_event(make_webhook(Thing, url=inbox.url(behaviour)))
    before = timezone.now()
    drain()
    due = QueuedDelivery.objects.get().due_at
    assert due >= before + timedelta(seconds=least)
    assert due <= timezone.now() + timedelta(seconds=most)


def test_an_attempt_is_made_from_the_webhook_as_it_is_and_the_event_as_it_was(
    inbox: Inbox, webhooks_settings: Any
) -> None:
    webhooks_settings(RETRY_SCHEDULE=[0])
    make_webhook(Thing, url=inbox.url("status/500/old"))
    thing = Thing.objects.create(name="as it was")
    Thing.objects.update(name="changed since")
    Webhook.objects.update(payload_url=inbox.url("status/500/new"), secret="new secret")
    drain()
    Webhook.objects.update(payload_url=inbox.url("ok"))
    thing.delete()
    Event.objects.filter(action="deleted").delete()
    Delivery.objects.failed().retry("a test")
    drain()
    received = inbox.received()
    assert [one.path.split("/", 2)[2] for one in received] == ["status/500/new", "status/500/new", "ok"]
    assert [one.json["data"]["name"] for one in received] == ["as it was"] * 3
    assert "x-hook-signature" in received[0].headers


def test_a_webhooks_own_timeout_counts(inbox: Inbox, webhooks_settings: Any) -> None:
    webhooks_settings(TIMEOUT=30, RETRY_SCHEDULE=[])
    make_event(make_webhook(Thing, url=inbox.url("hang"), timeout=1))
    started = time.monotonic()
    drain()
    assert time.monotonic() - started < 25
    attempt = Attempt.objects.get()
    assert (attempt.reason, attempt.status) == ("no answer within 1 s", None)
    assert 900 < attempt.duration_ms < 25_000


@pytest.mark.parametrize(
    "behaviour",
    ["text/utf-8", "garbage", "huge-header", "gzip-bomb", "endless", "big/100000", "half", "redirect/307/ok"],
)
def test_every_answer_is_stored_with_the_attempt(inbox: Inbox, webhooks_settings: Any, behaviour: str) -> None:
    webhooks_settings(RETRY_SCHEDULE=[])
    make_event(make_webhook(Thing, url=inbox.url(behaviour), timeout=2))
    drain()
    attempt = Attempt.objects.get()
    assert Delivery.objects.get().state == (State.SUCCEEDED if attempt.succeeded else State.FAILED)
    assert len(attempt.response_body) <= 8192
    assert len(json.dumps(attempt.response_headers)) < 100_000
    assert bool(attempt.reason) != attempt.succeeded


@pytest.mark.parametrize("url", ["http://", "nonsense", "http://127.0.0.1:99999/", "http://no-such-host.invalid/"])
def test_an_impossible_url_ends_as_failed_with_a_reason(webhooks_settings: Any, url: str) -> None:
    webhooks_settings(RETRY_SCHEDULE=[])
    make_event(make_webhook(Thing, url=url))
    drain()
    delivery = Delivery.objects.get()
    assert delivery.state == State.FAILED
    assert delivery.reason


# Webhooks that stop


def test_deliveries_of_a_disabled_webhook_wait_until_it_is_enabled(inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    for object_id in ("1", "1", "2"):
        make_event(webhook, object_id=object_id)
    Webhook.objects.update(enabled=False)
    drain()
    assert states() == [State.PENDING, State.WAITING, State.PENDING]
    assert inbox.received() == []
    Webhook.objects.update(enabled=True)
    drain()
    assert len(inbox.received()) == 3


def test_deliveries_of_a_disabled_webhook_can_be_discarded(inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    for _ in range(3):
        make_event(webhook)
    Webhook.objects.update(enabled=False)
    drain()
    assert Delivery.objects.all().discard() == 3
    Webhook.objects.update(enabled=True)
    drain()
    assert inbox.received() == []


def test_a_webhook_can_be_deleted_while_a_request_is_in_flight(inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url("held"))
    other = make_webhook(Thing, url=inbox.url())
    make_event(webhook)
    worker = Beside(drain)
    inbox.wait_for(1)
    webhook.delete()
    make_event(other)
    inbox.release()
    worker.join()
    drain()
    sweep.sweep()
    assert [delivery.webhook for delivery in Delivery.objects.all()] == [other]
    assert states() == [State.SUCCEEDED]


def test_a_delivery_in_flight_cannot_be_discarded(inbox: Inbox) -> None:
    make_event(make_webhook(Thing, url=inbox.url("held")))
    worker = Beside(drain)
    inbox.wait_for(1)
    assert Delivery.objects.all().discard() == 0
    inbox.release()
    worker.join()
    assert states() == [State.SUCCEEDED]


# Claims that are lost


def claimed(delivery: Delivery, token: uuid.UUID | None = None) -> ClaimedDelivery:
    bodies, webhook = Bodies(delivery.event), Webhook.objects.get(pk=delivery.webhook_id)
    row = ClaimedRow(delivery.pk, webhook.pk, delivery.event_id, delivery.lane, delivery.in_lane)
    return ClaimedDelivery(row, token or delivery.queued.claim, webhook, bodies, str(row.id))


def outcome(**fields: Any) -> Outcome:
    return Outcome(datetime.now(UTC), 5, **fields)


def test_a_stalled_worker_that_wakes_up_overwrites_nothing(inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    delivery = make_delivery(webhook, State.SENDING, lease_until=timezone.now() - timedelta(seconds=1))
    stalled = claimed(delivery)
    assert sweep_step(sweep.expire_leases) == 1
    drain()
    with transaction.atomic():
        assert delivering.record([(stalled, outcome(reason="HTTP 500"))], "stalled worker") == ([], set(), [], set())
    assert states() == [State.SUCCEEDED]
    assert [attempt.worker for attempt in Attempt.objects.all()] == ["test"]
    webhook.refresh_from_db()
    assert webhook.failures_in_a_row == 0


def test_a_lost_claim_does_not_affect_the_others(inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    kept = make_delivery(webhook, State.SENDING, object_id="1")
    lost = make_delivery(webhook, State.SENDING, object_id="2")
    pairs = [(claimed(kept), outcome(status=200)), (claimed(lost, uuid.uuid4()), outcome(reason="no"))]
    with transaction.atomic():
        delivering.record(pairs, "worker")
    assert states() == [State.SUCCEEDED, State.SENDING]
    assert Attempt.objects.count() == 1


@pytest.mark.parametrize("in_one_round_trip", [True, False])
def test_each_delivery_of_a_record_gets_its_own_result(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, in_one_round_trip: bool
) -> None:
    if not in_one_round_trip:
        monkeypatch.setattr(db, "sends_several", lambda using, driver: False)
    webhook = make_webhook(Thing, url=inbox.url())
    ends = {
        State.SUCCEEDED: outcome(status=200),
        State.PENDING: outcome(status=503, reason="HTTP 503", kind=ErrorKind.HTTP_5XX),
        State.FAILED: outcome(reason="no", kind=ErrorKind.VETOED),
    }
    pairs, expected = list[tuple[ClaimedDelivery, Outcome]](), dict[uuid.UUID, tuple[Any, ...]]()
    for attempts in (0, 4, 1):
        for state, end in ends.items():
            before = {"attempt_count": attempts, "reason": "HTTP 500" if attempts else ""}
            delivery = make_delivery(webhook, State.SENDING, object_id=f"{attempts} {state}", **before)
            pairs.append((claimed(delivery), end))
            expected[delivery.pk] = state, attempts + 1, end.reason, end.kind, state != State.PENDING
    atomically(lambda: delivering.record(pairs, "worker"), "default")
    found = Delivery.objects.for_detail()
    assert expected == {
        one.pk: (one.state, one.attempt_count, one.reason, one.error_kind, one.finished_at is not None) for one in found
    }


# Locks


@pytest.mark.postgresql
@pytest.mark.parametrize("ended", [{"status": 200}, {"reason": "HTTP 500"}], ids=["succeeded", "given up"])
def test_a_head_that_ends_while_its_lane_grows_releases_the_new_delivery(
    webhooks_settings: Any, monkeypatch: pytest.MonkeyPatch, ended: dict[str, Any]
) -> None:
    webhooks_settings(RETRY_SCHEDULE=[])
    webhook = make_webhook(Thing)
    head = claimed(make_delivery(webhook, State.SENDING))
    make_event(webhook)
    has_looked, may_insert = threading.Event(), threading.Event()
    insert = Delivery.objects.insert

    def insert_later(*args: Any, **options: Any) -> Any:
        has_looked.set()
        assert may_insert.wait(60)
        return insert(*args, **options)

    monkeypatch.setattr(Delivery.objects, "insert", insert_later)
    dispatched = Beside(dispatching.dispatch)
    assert has_looked.wait(60)
    outcomes = [(head, outcome(**ended))]
    kept = atomically(lambda: delivering.record(outcomes, "worker"), "default").kept
    assert kept == outcomes, "the dispatch has the lock of the lane"
    may_insert.set()
    assert dispatched.join() == 1
    assert not atomically(lambda: delivering.record(kept, "worker"), "default").kept
    assert states()[1:] == [State.PENDING], "it waits for a head that has ended"


@pytest.mark.parametrize("use_tz", [True, False])
@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_in_any_time_zone_and_without_them_everything_works_the_same(
    inbox: Inbox, settings: Any, zone: str, use_tz: bool, webhooks_settings: Any
) -> None:
    settings.USE_TZ, settings.TIME_ZONE = use_tz, zone
    webhooks_settings(RETRY_SCHEDULE=[0, 0])
    make_webhook(Thing, Label, url=inbox.url("fail-first/2"), secret=SECRET)
    Thing.objects.create(name="a")
    Label.objects.create(name="b")
    drain()
    assert states() == [State.SUCCEEDED] * 2
    received = inbox.received()
    assert len(received) == 4
    for one in received:
        assert abs(int(one.headers["webhook-timestamp"]) - time.time()) < 600
        assert abs(datetime.fromisoformat(one.json["timestamp"]).timestamp() - time.time()) < 600
        assert abs((uuid.UUID(one.headers["webhook-id"]).int >> 80) / 1000 - time.time()) < 600
        standardwebhooks.Webhook(SECRET).verify(one.body, one.headers)
    attempt = Attempt.objects.latest("pk")
    assert abs(timezone.now() - attempt.started_at) < timedelta(seconds=600)
