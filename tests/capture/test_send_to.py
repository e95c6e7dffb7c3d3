"""``custom_events.send_to()``: an event for one webhook that code outside this app has chosen."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import DatabaseError, transaction

import webhooks
from tests.support.makers import events, make_webhook
from tests.testapp.models import Thing
from webhooks.capture import events as recording
from webhooks.capture.custom_events import send_to
from webhooks.ground import payloads
from webhooks.models import Event, Skip, Webhook
from webhooks.models.skip import Rule

pytestmark = pytest.mark.usefixtures("database")


def made(**fields: Any) -> Event:
    about = {"action": "updated", "object_type": "testapp.thing", "object_id": "7", "object_repr": "Thing"}
    snapshots = payloads.snapshots_json('{"name":"a"}', '{"name":"b"}')
    return Event(**about | {"data": '{"id":7,"name":"b"}', "snapshots": snapshots, "changed": '["name"]'} | fields)


def chosen(**fields: Any) -> Webhook:
    return make_webhook(on="u", **fields)


def test_only_this_webhook_gets_it() -> None:
    make_webhook(Thing)
    webhook = chosen()
    with webhooks.actor("ben", "r-1"):
        send_to(webhook, made())
    [event] = events()
    assert event.webhook_ids == [webhook.pk]
    body = json.loads(payloads.json_body(event))
    assert (body["event"], body["object_type"], body["username"]) == ("updated", "testapp.thing", "ben")
    assert (body["data"], body["changed"]) == ({"id": 7, "name": "b"}, ["name"])
    assert body["snapshots"] == {"prechange": {"name": "a"}, "postchange": {"name": "b"}}


def test_it_is_never_merged_with_a_change() -> None:
    webhook = chosen()
    webhook.object_types.add(*make_webhook(Thing).object_types.all())
    with transaction.atomic():
        thing = Thing.objects.create(name="Thing")
        for _ in range(2):
            send_to(webhook, made(object_id=str(thing.pk)))
        thing.save()
    assert sorted(event.action for event in events()) == ["created", "updated", "updated"]


def test_a_rollback_takes_it_back() -> None:
    webhook = chosen()
    with transaction.atomic():
        send_to(webhook, made())
        transaction.set_rollback(True)
    assert not events()


def test_in_a_batch_it_comes_at_the_end() -> None:
    webhook = chosen()
    with webhooks.batch():
        send_to(webhook, made())
        assert not events()
    assert len(events()) == 1


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"conditions": {"attr": "name", "value": "c"}}, Rule.CONDITION),
        ({"conditions": {"attr": "name", "op": "unchanged"}}, Rule.CONDITION),
        ({"changed_fields": ["status"]}, Rule.CHANGED_FIELDS),
        ({"excluded_usernames": ["ben"]}, Rule.IGNORED_USER),
        ({"enabled": False}, Rule.DISABLED),
    ],
)
def test_the_filters_of_the_webhook_decide(fields: dict[str, Any], rule: Rule) -> None:
    with webhooks.actor("ben"):
        send_to(chosen(**fields), made())
    assert not events()
    assert [(skip.rule, skip.object_id, skip.username) for skip in Skip.objects.all()] == [(rule, "7", "ben")]


def test_without_skips_in_the_settings_none_is_stored(webhooks_settings: Any) -> None:
    webhooks_settings(SKIP_DAYS=0)
    send_to(chosen(enabled=False), made())
    assert not Skip.objects.exists()


@pytest.mark.parametrize("name", ["data", "snapshots"])
def test_too_much_data_is_a_failed_event(webhooks_settings: Any, name: str) -> None:
    webhooks_settings(PAYLOAD_BYTES=100)
    send_to(chosen(), made(**{name: json.dumps("x" * 100)}))
    [event] = events()
    assert event.error.startswith("the data of the event updated has")
    assert (event.data, event.snapshots) == ("", "")


def test_an_error_of_the_caller_is_a_failed_event() -> None:
    webhook = chosen()
    send_to(webhook, made(data="", error="Not JSON."))
    [event] = events()
    assert (event.error, event.webhook_ids) == ("Not JSON.", [webhook.pk])


def test_while_webhooks_are_off_nothing_is_recorded(webhooks_settings: Any) -> None:
    webhooks_settings(ENABLED=False)
    send_to(chosen(), made())
    assert not events()


def test_if_it_cannot_be_recorded_it_becomes_a_failed_event_of_this_webhook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_missed", type(recording._missed)())
    other, webhook = make_webhook(Thing), chosen()
    with monkeypatch.context() as broken:
        broken.setattr(Event, "insert", lambda *args: (_ for _ in ()).throw(DatabaseError("no space left")))
        send_to(webhook, made())
    assert not events()
    Thing.objects.create(name="later")
    missed, created = sorted(events(), key=lambda event: event.action, reverse=True)
    assert (missed.action, missed.webhook_ids) == ("updated", [webhook.pk])
    assert "could not be recorded when it happened" in missed.error
    assert (created.action, created.webhook_ids) == ("created", [other.pk])
