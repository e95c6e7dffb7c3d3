"""``webhooks.testing``: helpers for the tests of host projects."""

from __future__ import annotations

import contextlib
import unittest
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.test import TestCase
from django.test.utils import CaptureQueriesContext

import webhooks
from tests.support.inbox import Inbox
from tests.support.makers import events as recorded_events
from tests.support.makers import make_webhook
from tests.testapp.models import Country, Fragile, Label, Part, Thing
from webhooks.models import Delivery, Event, State
from webhooks.testing import CapturedEvent, ReceivedRequest, capture_webhooks, deliver, deliver_to
from webhooks.workers import jobs


def actions(events: Sequence[CapturedEvent]) -> list[str]:
    return [event.action for event in events]


class InsideATestCase(TestCase):
    """Run by test_inside_a_test_case on each database: pytest alone runs the tests of a TestCase only once."""

    __test__ = False

    thing: Thing

    @classmethod
    def setUpTestData(cls) -> None:
        make_webhook(Thing, name="ledger")
        cls.thing = Thing.objects.create(name="made before")

    def test_saving_an_object_of_setUpTestData_is_an_update(self) -> None:
        assert [event.action for event in recorded_events()] == ["created"]
        self.thing.name = "renamed"
        with capture_webhooks() as events:
            self.thing.save()
        [event] = events
        assert (event.action, event.object_type) == ("updated", "testapp.thing")
        assert (event.object_id, event.data["name"]) == (str(self.thing.pk), "renamed")

    def test_without_capture_it_would_be_a_creation(self) -> None:
        self.thing.save()
        assert [event.action for event in recorded_events()] == ["created"]

    def test_deleting_an_object_of_setUpTestData_is_a_deletion(self) -> None:
        with capture_webhooks() as events:
            self.thing.delete()
        assert actions(events) == ["deleted"]

    def test_two_blocks_are_two_transactions(self) -> None:
        with capture_webhooks() as first:
            thing = Thing.objects.create(name="new")
        with capture_webhooks() as second:
            thing.save()
        assert actions(first) == ["created"]
        assert actions(second) == ["updated"]

    def test_an_event_lists_the_webhooks_that_want_it(self) -> None:
        make_webhook(Thing, name="deletions only", on="d")
        with capture_webhooks() as events:
            self.thing.save()
            Label.objects.create(name="red")
        assert [(event.object_type, event.webhooks) for event in events] == [
            ("testapp.thing", ["ledger"]),
            ("testapp.label", []),
        ]

    def test_a_webhook_created_in_the_block_counts(self) -> None:
        with capture_webhooks(["testapp.label"]) as events:
            make_webhook(Country, name="atlas")
            Country.objects.create(code="is", name="Iceland")
            Label.objects.create(name="red")
        assert [(event.object_type, event.webhooks) for event in events] == [
            ("testapp.country", ["atlas"]),
            ("testapp.label", []),
        ]

    def test_a_change_after_the_block_is_not_captured(self) -> None:
        with capture_webhooks() as events:
            pass
        Thing.objects.create(name="later")
        assert events == []

    def test_the_block_leaves_no_callbacks(self) -> None:
        before = list(connection.run_on_commit)
        with capture_webhooks():
            self.thing.save()
        assert connection.run_on_commit == before

    def test_a_rolled_back_change_is_not_captured(self) -> None:
        with capture_webhooks() as events, contextlib.suppress(ZeroDivisionError), transaction.atomic():
            self.thing.save()
            _ = 1 / 0
        assert events == []

    def test_an_error_in_the_block_is_raised_unchanged(self) -> None:
        with pytest.raises(ZeroDivisionError), capture_webhooks():
            _ = 1 / 0


@pytest.mark.parametrize("name", unittest.defaultTestLoader.getTestCaseNames(InsideATestCase))
def test_inside_a_test_case(name: str, database: Any) -> None:
    result = unittest.TestResult()
    unittest.TestSuite([InsideATestCase(name)]).run(result)
    assert result.testsRun == 1
    assert result.wasSuccessful(), "".join(text for _, text in result.failures + result.errors)


@pytest.fixture(params=["with real commits", "in a transaction"])
def either(request: pytest.FixtureRequest, database: str) -> Iterator[None]:
    """Run a test with real commits, and again in a transaction that is rolled back, as in a TestCase."""
    if request.param == "with real commits":
        yield
        return
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


def test_changes_of_every_registered_model_are_captured_without_a_webhook(either: Any) -> None:
    with capture_webhooks() as events:
        thing = Thing.objects.create(name="a")
        Part.objects.create(thing=thing, name="b")
    assert [(event.action, event.object_type) for event in events] == [
        ("created", "testapp.thing"),
        ("created", "testapp.part"),
    ]


def test_subscribe_limits_the_capture_to_some_models(either: Any) -> None:
    with capture_webhooks(subscribe=["testapp.Label"]) as events:
        Thing.objects.create(name="a")
        Label.objects.create(name="b")
    assert [event.object_type for event in events] == ["testapp.label"]


def test_an_empty_subscribe_captures_only_events_for_webhooks(either: Any) -> None:
    make_webhook(Label, on="c", name="labels")
    with capture_webhooks(subscribe=[]) as events:
        Thing.objects.create(name="a")
        Label.objects.create(name="b").delete()
    assert {event.object_type for event in events} <= {"testapp.label"}
    with capture_webhooks(subscribe=[]) as events:
        Label.objects.create(name="c")
    assert [(event.object_type, event.webhooks) for event in events] == [("testapp.label", ["labels"])]


def test_changes_before_the_block_are_not_captured(either: Any) -> None:
    make_webhook(Label)
    Label.objects.create(name="before")
    with capture_webhooks() as events:
        pass
    assert events == []


def test_an_event_has_the_user_of_the_change(either: Any) -> None:
    with capture_webhooks() as events, webhooks.actor(username="ada", request_id="42"):
        Label.objects.create(name="red")
    assert [(event.username, event.request_id) for event in events] == [("ada", "42")]


def test_an_event_has_the_traceback_of_its_serializer(either: Any) -> None:
    with capture_webhooks() as events:
        Fragile.objects.create(name="a", behaviour="raises")
    [event] = events
    assert event.data is None
    assert "this serializer is broken" in event.error


def test_a_label_that_is_not_registered_is_an_error(either: Any) -> None:
    with pytest.raises(LookupError, match=r"testapp.unregistered\..* These are: .*testapp.thing"):
        capture_webhooks(["testapp.unregistered"]).__enter__()


def test_the_helpers_refuse_to_run_while_webhooks_are_off(either: Any, webhooks_settings: Any) -> None:
    webhooks_settings(ENABLED=False)
    with pytest.raises(ImproperlyConfigured, match='WEBHOOKS\\["ENABLED"\\] = True'), capture_webhooks():
        pass
    with pytest.raises(ImproperlyConfigured, match="off"):
        deliver()


def test_capture_does_not_use_redis(database: Any, redis: Any) -> None:
    with capture_webhooks():
        Label.objects.create(name="red")
    assert redis.dbsize() == 0
    jobs.wake_up()
    assert redis.dbsize() > 0


def test_captured_events_without_a_webhook_are_not_delivered(either: Any) -> None:
    with capture_webhooks():
        Label.objects.create(name="red")
    assert deliver() == []
    assert not Event.objects.undispatched().exists()
    assert not Delivery.objects.exists()


def test_deliver_sends_captured_events_over_real_http(either: Any, inbox: Inbox) -> None:
    make_webhook(Label, url=inbox.url())
    with capture_webhooks() as events:
        label = Label.objects.create(name="red")
    [attempt] = deliver()
    [received] = inbox.received()
    assert (attempt.succeeded, attempt.status, attempt.delivery.state) == (True, 200, State.SUCCEEDED)
    assert received.json["data"] == events[0].data == {"id": label.pk, "name": "red"}
    assert received.headers["webhook-id"] == str(attempt.delivery.pk)
    assert deliver() == []


def test_deliver_sends_the_changes_of_one_object_in_order(either: Any, inbox: Inbox) -> None:
    make_webhook(Label, url=inbox.url())
    label = Label(name="red")
    for name in ("red", "green", "blue"):
        label.name = name
        with capture_webhooks():
            label.save()
    assert [attempt.delivery.event.action for attempt in deliver()] == ["created", "updated", "updated"]
    assert [one.json["data"]["name"] for one in inbox.received()] == ["red", "green", "blue"]


def test_deliver_makes_one_attempt_if_the_receiver_fails(either: Any, inbox: Inbox) -> None:
    make_webhook(Label, url=inbox.url("status/500"))
    with capture_webhooks():
        Label.objects.create(name="red")
    [attempt] = deliver()
    assert (attempt.succeeded, attempt.status, attempt.delivery.state) == (False, 500, State.PENDING)
    assert deliver() == []


def test_deliver_raises_if_deliveries_are_left_after_its_time(either: Any, inbox: Inbox) -> None:
    make_webhook(Label, url=inbox.url())
    with capture_webhooks():
        Label.objects.create(name="red")
    with pytest.raises(TimeoutError, match="after 0 seconds"):
        deliver(seconds=0)


def test_prechange_adds_the_previous_state_and_the_changed_fields(either: Any) -> None:
    thing = Thing.objects.create(name="old")

    def rename(name: str) -> None:
        thing.name = name
        thing.save()

    with CaptureQueriesContext(connection) as plainly, capture_webhooks() as events:
        rename("new")
    assert (events[0].changed, events[0].snapshots["prechange"]) == (None, None)
    assert events[0].snapshots["postchange"]["name"] == "new"
    with CaptureQueriesContext(connection) as asked, capture_webhooks(prechange=True) as events:
        rename("newest")
    assert (events[0].changed, events[0].snapshots["prechange"]["name"]) == (["name"], "new")
    # In a transaction on PostgreSQL, it rides with the UPDATE.
    rides = connection.vendor == "postgresql" and connection.in_atomic_block
    assert len(asked) == len(plainly) + (0 if rides else 1)


def test_events_can_be_read_inside_of_the_block_and_stay_after_it(either: Any) -> None:
    with capture_webhooks() as events:
        assert not events
        Label.objects.create(name="red")
        assert actions(events) == ["created"]
        Label.objects.create(name="blue")
        assert len(events) == 2
    Event.objects.all().delete()
    assert [event.data["name"] for event in events] == ["red", "blue"]


def test_a_failed_assertion_shows_one_line_for_each_event(either: Any) -> None:
    thing = Thing.objects.create(name="old")
    with capture_webhooks(prechange=True) as events:
        thing.name = "new"
        thing.save()
        Label.objects.create(name="red")
    assert events[0].differences == {"name": ("old", "new")}
    created = f"created testapp.label {events[1].object_id}"
    assert repr(events) == f"[\n  updated testapp.thing {thing.pk}: name 'old' → 'new'\n  {created}\n]"


def test_deliver_to_sends_to_a_function_whatever_the_urls_are(either: Any) -> None:
    webhook = make_webhook(Label, url="https://nowhere.invalid/hooks/{{ data.id }}?a=b", secret="s3cret")
    Label.objects.create(name="red")
    received: list[ReceivedRequest] = []
    [attempt] = deliver_to(received.append)
    [request] = received
    assert (attempt.succeeded, attempt.status) == (True, 204)
    assert (request.method, request.path) == ("POST", f"/hooks/{Label.objects.get().pk}?a=b")
    assert webhooks.verify(request.body, request.headers, "s3cret") == str(attempt.delivery_id)
    webhook.refresh_from_db()
    assert webhook.payload_url == "https://nowhere.invalid/hooks/{{ data.id }}?a=b"


def test_deliver_to_takes_the_status_of_the_answer_and_raises_what_the_function_raises(either: Any) -> None:
    make_webhook(Label, url="https://nowhere.invalid/")
    Label.objects.create(name="red")
    [attempt] = deliver_to(lambda request: 503)
    assert (attempt.succeeded, attempt.status) == (False, 503)
    Label.objects.create(name="blue")
    with pytest.raises(ZeroDivisionError):
        deliver_to(lambda request: 1 // 0)


@pytest.mark.parametrize(
    "forbidding",
    [
        {"ALLOW_PORTS": [443]},
        {"DENY_PORTS": ["1024-65535"]},
        {"ALLOW_SCHEMES": ["https"]},
        {"ALLOW_HOSTS": ["*.example.com"]},
        {"DENY_HOSTS": ["127.0.0.1"]},
        {"DENY_NETWORKS": ["127.0.0.0/8"]},
        {"DENY_PRIVATE": True},
        {"PROXY": "http://127.0.0.1:1"},
    ],
)
@pytest.mark.one_database
def test_deliver_to_needs_no_allowed_destination(
    database: str, webhooks_settings: Any, forbidding: dict[str, Any]
) -> None:
    webhooks_settings(**forbidding)
    make_webhook(Label, url="https://hooks.example.com/")
    Label.objects.create(name="red")
    [attempt] = deliver_to(lambda request: 200)
    assert attempt.succeeded, attempt.reason
    assert forbidding.items() <= settings.WEBHOOKS.items()


@pytest.mark.one_database
def test_deliver_to_raises_the_failure_of_a_test(database: str) -> None:
    make_webhook(Label, url="https://hooks.example.com/")
    Label.objects.create(name="red")
    with pytest.raises(pytest.fail.Exception, match="no such label"):
        deliver_to(lambda request: pytest.fail("no such label"))


@pytest.mark.parametrize("status", [True, "204", 100, 999, object()])
@pytest.mark.one_database
def test_deliver_to_refuses_what_is_no_status(database: str, status: Any) -> None:
    make_webhook(Label, url="https://hooks.example.com/")
    Label.objects.create(name="red")
    with pytest.raises(TypeError, match="returns a status from 200 to 599, or None, not "):
        deliver_to(lambda request: status)


@pytest.mark.one_database
def test_an_update_whose_state_before_is_unknown_has_no_differences(database: str) -> None:
    label = Label.objects.create(name="red")
    with capture_webhooks() as events:
        label.save()
    assert [str(event) for event in events] == [f"updated testapp.label {label.pk}"]


@pytest.mark.one_database
def test_the_fixture_of_the_plugin_has_the_events_of_a_test(webhook_events: Any) -> None:
    label = Label.objects.create(name="red")
    assert [str(event) for event in webhook_events] == [f"created testapp.label {label.pk}"]
