"""``payload_context``: keys of the host in payloads, frozen when the change happens."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import pytest
from django.contrib.contenttypes.models import ContentType
from django.db import connection, transaction

from tests.support.draining import drain, finished
from tests.support.inbox import Inbox
from tests.support.makers import events, make_site_skip, make_webhook
from tests.support.modes import MODES
from tests.support.statements import statements_of
from tests.testapp.models import Thing
from users.models import User
from webhooks import actor, send
from webhooks.capture import serialize, watch
from webhooks.ground import registry
from webhooks.hooks import CapturedChange, Hooks
from webhooks.models import Event, Webhook
from webhooks.operations import replays, runs, trial

pytestmark = pytest.mark.usefixtures("database")

changes: list[CapturedChange] = []


class Named(Hooks):
    """Adds what it gets."""

    def payload_context(self, change: CapturedChange) -> dict[str, Any]:
        changes.append(change)
        return {"named": f"{change.action} {change.object_type} {change.object_name} {change.data['name']}"}


class Other(Hooks):
    def payload_context(self, change: CapturedChange) -> dict[str, Any]:
        return {"other": 1}


class Nothing(Hooks):
    def payload_context(self, change: CapturedChange) -> None:
        return None


class Raising(Hooks):
    def payload_context(self, change: CapturedChange) -> dict[str, Any]:
        raise LookupError("no such thing")


class Breaking(Hooks):
    def payload_context(self, change: CapturedChange) -> dict[str, Any]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT * FROM no_such_table")
        return {"never": 1}


class NoJSON(Hooks):
    def payload_context(self, change: CapturedChange) -> dict[str, Any]:
        return {"never": object()}


class NoMapping(Hooks):
    def payload_context(self, change: CapturedChange) -> Any:
        return "text"


class Large(Hooks):
    def payload_context(self, change: CapturedChange) -> dict[str, Any]:
        return {"never": "x" * 3000}


class clock:  # the time that code of the project takes, here
    now = 0.0


class Slow(Hooks):
    def payload_context(self, change: CapturedChange) -> dict[str, Any]:
        clock.now += 31
        return {"never": 1}


@pytest.fixture(autouse=True)
def own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (serialize, watch):
        monkeypatch.setattr(module, "monotonic", lambda: clock.now)


@pytest.fixture
def listed(webhooks_settings: Any) -> Callable[..., None]:
    changes.clear()
    return lambda *classes: webhooks_settings(HOOKS=[f"{__name__}.{one.__name__}" for one in classes])


def context() -> Any:
    """The context of the last event."""
    return json.loads(events()[-1].context or "null")


@MODES
def test_receivers_get_the_keys_of_all_hooks(mode: Any, inbox: Inbox, listed: Any) -> None:
    listed(Named, Other)
    make_webhook(Thing, url=inbox.url())
    make_webhook(
        Thing,
        url=inbox.url("ok/rendered"),
        body_template="{{ context.other }} {{ context.named }}",
        content_type="text/x",
    )
    make_webhook(Thing, url=inbox.url("ok/form"), content_type="application/x-www-form-urlencoded")
    mode(lambda: Thing.objects.create(name="one"))
    listed()  # it is frozen: a worker needs no hook
    drain()
    expected = {"named": "created testapp.thing one one", "other": 1}
    [received] = inbox.received("ok")
    assert received.json["context"] == expected
    assert inbox.received("ok/rendered")[0].body == b"1 created testapp.thing one one"
    assert json.loads(parse_qs(inbox.received("ok/form")[0].body.decode())["context"][0]) == expected


def test_without_a_value_there_is_no_key(inbox: Inbox, listed: Any) -> None:
    listed(Nothing)
    make_webhook(Thing, url=inbox.url())
    Thing.objects.create(name="one")
    drain()
    assert "context" not in inbox.received()[0].json


def test_a_later_change_in_the_transaction_replaces_the_context(listed: Any) -> None:
    listed(Named)
    make_webhook(Thing)
    with transaction.atomic():
        thing = Thing.objects.create(name="one")
        thing.name = "two"
        thing.save()
    assert [event.context for event in events()] == ['{"named":"created testapp.thing two two"}']


def test_the_hook_gets_who_changed_what(listed: Any) -> None:
    listed(Named)
    make_webhook(Thing)
    with actor("jane"):
        thing = Thing.objects.create(name="one")
    [change] = changes
    assert (change.object_id, change.username, change.data["id"]) == (str(thing.pk), "jane", thing.pk)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (Raising, "LookupError: no such thing"),
        (Breaking, "no_such_table"),
        (NoJSON, "never"),
        (NoMapping, "ValueError"),
        (Large, "PAYLOAD_BYTES allows 2,000"),
        (Slow, "it took 31 s; SERIALIZE_TIMEOUT allows 30"),
    ],
)
@MODES
def test_a_hook_that_fails_is_left_out_and_the_change_arrives(
    mode: Any,
    broken: Any,
    reason: str,
    listed: Any,
    webhooks_settings: Any,
    app_log: pytest.LogCaptureFixture,
    inbox: Inbox,
) -> None:
    webhooks_settings(PAYLOAD_BYTES=2000, SERIALIZE_TIMEOUT=30)
    listed(Other, broken) if broken is not Slow else listed(broken)
    make_webhook(Thing, url=inbox.url())
    mode(lambda: Thing.objects.create(name="one"))
    [event] = events()
    assert event.error == ""
    assert context() == (None if broken is Slow else {"other": 1})
    drain()
    assert inbox.received()[0].json["data"]["name"] == "one"
    [record] = [one for one in app_log.records if "goes without its context" in one.getMessage()]
    assert f"The hook {__name__}.{broken.__name__}.payload_context failed" in record.getMessage()
    assert reason in str(record.exc_text)


def test_the_log_names_a_hook_that_saves_wait_for(
    listed: Any, monkeypatch: pytest.MonkeyPatch, app_log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watch, "_logged", set())
    listed(Slow)
    make_webhook(Thing)
    Thing.objects.create(name="one")
    assert f"The hook {__name__}.Slow.payload_context took 31.0 s, and the save waited for it" in app_log.text


def test_custom_events_have_a_context(listed: Any, own_registrations: None) -> None:
    registry.register_event("testapp.audited", "audited")
    listed(Named)
    make_webhook(custom_events=["testapp.audited"])
    send("testapp.audited", Thing.objects.create(name="one"), {"name": "rack"})
    assert context() == {"named": "testapp.audited testapp.thing one rack"}


def test_a_replay_asks_again_and_that_of_a_deletion_keeps_the_context(listed: Any, redis: Any) -> None:
    make_webhook(Thing)
    thing = Thing.objects.create(name="one")
    assert context() is None
    listed(Named)
    replays.replay(Event.objects.all())
    assert context() == {"named": "created testapp.thing one one"}
    thing.delete()
    deleted = events()[-1]
    listed()
    replays.replay(Event.objects.filter(pk=deleted.pk))
    assert events()[-1].replay_of == deleted.pk
    assert context() == {"named": "deleted testapp.thing one one"}


def test_recovered_skips_have_a_context(listed: Any, redis: Any) -> None:
    thing = Thing.objects.create(name="one")
    webhook = make_webhook(Thing)
    make_site_skip(webhook, thing.pk, object_type="testapp.thing")
    listed(Named)
    finished(runs.start("recover_skipped", {"webhook": webhook.pk}, takes_all=True))
    assert context() == {"named": "updated testapp.thing one one"}


def test_a_trial_shows_the_context(listed: Any) -> None:
    listed(Named)
    thing, user = Thing.objects.create(name="one"), User.objects.create_superuser("root")
    webhook = Webhook(name="new", payload_url="http://127.0.0.1:1/", on_updated=True)
    sample = trial.Sample(registry.registration_by_label("testapp.thing"), thing.pk, "updated")
    tried = trial.try_out(webhook, [ContentType.objects.get_for_model(Thing)], sample, user)
    assert tried.request is not None
    assert json.loads(tried.request.body)["context"] == {"named": "updated testapp.thing one one"}


@pytest.mark.cost
@pytest.mark.postgresql
def test_a_hook_that_asks_the_database_nothing_costs_no_round_trip(listed: Any) -> None:
    make_webhook(Thing)
    counts = []
    for hooks in ([], [Named]):
        listed(*hooks)
        with transaction.atomic():
            Thing.objects.create(name="the first looks the webhooks up")
            counts.append(len(statements_of(lambda: Thing.objects.create(name="another"))))
    assert counts[0] == counts[1]
    assert context() is not None
