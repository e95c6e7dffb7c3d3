"""What objects contain can break neither a save nor a database: it arrives, or the Event says why not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.host.test_text import ARRIVES, REFUSED
from tests.support.draining import drain
from tests.support.inbox import Inbox
from tests.support.makers import events, make_webhook
from tests.testapp.api.serializers import FragileSerializer
from tests.testapp.models import Fragile
from webhooks.models import Attempt, Delivery, Event, State
from webhooks.operations import retries

pytestmark = pytest.mark.usefixtures("database")


def test_each_value_arrives_or_its_event_says_why_not(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    make_webhook(Fragile, url=inbox.url("ok"))
    values = {name: value for name, (value, _) in (ARRIVES | REFUSED).items()}
    for name, value in values.items():
        monkeypatch.setattr(FragileSerializer, "more", {"value": value})
        Fragile.objects.create(name=name)
    assert Fragile.objects.count() == len(values)

    told = {event.object_id: event.error for event in events() if event.error}
    failed = {fragile.name: told[str(fragile.pk)] for fragile in Fragile.objects.all() if str(fragile.pk) in told}
    assert set(failed) == set(REFUSED) | {"as deep as may be"}
    for name, (_, words) in REFUSED.items():
        [line] = failed[name].splitlines()
        assert line.startswith("the payload of testapp.fragile ")
        assert f"cannot be written as JSON: {words}" in line

    drain()
    came = {one.json["data"]["name"]: one.json["data"]["value"] for one in inbox.received("ok")}
    assert came == {name: arrives for name, (_, arrives) in ARRIVES.items() if name != "as deep as may be"}


SIZE = 20_000


def test_a_payload_that_is_too_large_stands_as_failed_in_words(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, webhooks_settings: Any
) -> None:
    webhooks_settings(PAYLOAD_BYTES=SIZE)
    make_webhook(Fragile, url=inbox.url("ok"))
    monkeypatch.setattr(FragileSerializer, "more", {"value": "x" * SIZE})
    fragile = Fragile.objects.create(name="big")
    [event] = events()
    size = len(json.dumps({"id": fragile.pk, "name": "big", "behaviour": "fine"}, separators=(",", ":")))
    size = 2 * size + SIZE + len(',"value":""')
    said = f"the payload of testapp.fragile {fragile.pk} has {size:,} bytes; PAYLOAD_BYTES allows {SIZE:,}"
    assert (event.error, event.data, event.object_repr) == (f"{said}.", "", str(fragile))
    drain()
    assert not Delivery.objects.exists()

    # Today's data are judged likewise, until the setting allows them.
    [replayed] = retries.replay(Event.objects.failed())
    assert replayed.problem == f"its payload still cannot be made: {said}"
    webhooks_settings(PAYLOAD_BYTES=size)
    assert retries.replay(Event.objects.failed())[0].event
    drain()
    assert len(inbox.received("ok")[0].json["data"]["value"]) == SIZE


@pytest.mark.parametrize(
    "fields",
    [
        {"body_template": "{% for _ in range(300) %}{{ data.name * 100 }}{% endfor %}"},
        {"content_type": "application/x-www-form-urlencoded"},
    ],
    ids=["template", "form"],
)
def test_a_body_that_is_too_large_is_a_failed_attempt_in_words(
    inbox: Inbox, webhooks_settings: Any, fields: dict[str, str]
) -> None:
    webhooks_settings(PAYLOAD_BYTES=SIZE, RETRY_SCHEDULE=[])
    webhook = make_webhook(Fragile, url=inbox.url("ok"), **fields)
    Fragile.objects.create(name="ü")
    if not webhook.body_template:
        Event.objects.update(data=json.dumps({"name": '"' * SIZE}))
    drain()
    [attempt] = Attempt.objects.all()
    told = "would have more than the 20,000 bytes" if webhook.body_template else " bytes; PAYLOAD_BYTES allows 20,000"
    assert told in attempt.reason
    assert Delivery.objects.get().state == State.FAILED
    assert not inbox.received("ok")
