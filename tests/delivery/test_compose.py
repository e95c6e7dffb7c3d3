"""Method, URL, headers and body of requests, from the settings of a webhook, over real sockets."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks
from django.utils import timezone

from tests.support.draining import drain, states
from tests.support.inbox import Inbox
from tests.support.json_values import ARRIVES, REFUSED
from tests.support.makers import events, make_event, make_webhook
from tests.testapp.api.serializers import FragileSerializer
from tests.testapp.models import Fragile, Thing
from webhooks.ground.db import to_utc
from webhooks.ground.error_kinds import ErrorKind
from webhooks.ground.payloads import Bodies, templates
from webhooks.ground.payloads.templates import Renderer
from webhooks.models import Attempt, Delivery, Event, Method, State, Webhook
from webhooks.operations import replays
from webhooks.workers import compose
from webhooks.workers.network.attempt import Refused

pytestmark = pytest.mark.usefixtures("database")

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
DATA = json.dumps({"id": 7, "name": "Plain name", "evil": "x\r\nX-Injected: 1", "half": "\ud800", "rack": None})


def send(webhook: Webhook, **event: Any) -> None:
    make_event(webhook, **{"data": DATA, "username": "admin", "request_id": "r-1"} | event)
    drain()


@pytest.fixture(autouse=True)
def no_retries(webhooks_settings: Any) -> None:
    webhooks_settings(RETRY_SCHEDULE=[])


@pytest.mark.parametrize("method", Method.values)
def test_every_method_sends_the_body(inbox: Inbox, method: str) -> None:
    send(make_webhook(Thing, url=inbox.url(), http_method=method))
    [received] = inbox.received()
    assert received.method == method
    assert received.json["data"]["name"] == "Plain name"
    assert received.headers["content-length"] == str(len(received.body))


def test_url_headers_and_body_are_rendered_with_the_names_of_netbox(inbox: Inbox) -> None:
    send(
        make_webhook(
            Thing,
            url=inbox.url("ok/{{ model }}/{{ data.id }}?n={{ data.name | urlencode }}"),
            http_method="PUT",
            additional_headers="X-Event: {{ event }}\r\nX-Type: {{ object_type }}\r\nX-Request-ID: {{ request_id }}",
            body_template='{"by": "{{ username }}", "name": {{ data.name | tojson }}, "was": {{ snapshots.prechange | '
            'tojson }}, "at": "{{ timestamp }}"}',
        )
    )
    [received] = inbox.received()
    assert received.path.endswith("/ok/thing/7?n=Plain%20name")
    assert (received.headers["x-event"], received.headers["x-type"]) == ("updated", "testapp.thing")
    assert received.headers["x-request-id"] == "r-1"
    assert received.json == {
        "by": "admin", "name": "Plain name", "was": None, "at": to_utc(Event.objects.get().timestamp).isoformat(),
    }  # fmt: skip


def nautobot(number: str) -> Any:
    answer = json.loads((Path(__file__).parents[1] / "captured" / "nautobot_webhooks.json").read_text())
    [found] = [one for one in answer["results"] if one["name"].startswith(number)]
    return found


def test_snapshots_have_the_differences_of_nautobot(inbox: Inbox) -> None:
    make_webhook(Thing, url=inbox.url(), body_template=nautobot("02 ")["body_template"])
    make_webhook(Thing, url=inbox.url(), body_template='{"removed": {{ snapshots.differences.removed | tojson }}}')
    thing = Thing.objects.create(name="old")
    thing.name = "new"
    thing.save()
    thing.save()
    drain()
    key = thing.pk
    thing.delete()
    drain()
    created = {"id": key, "name": "old", "status": "active", "friends": [], "groups": [], "heroes": [], "labels": []}
    deleted = created | {"name": "new"}
    told = [received.json for received in inbox.received()]
    assert [one["changed"] for one in told if "changed" in one] == [created, {"name": "new"}, {}, None]
    assert [one["removed"] for one in told if "removed" in one] == [None, {"name": "old"}, {}, deleted]


def test_differences_that_are_not_known_are_none(inbox: Inbox) -> None:
    template = "{{ snapshots | tojson }}"
    snapshots = '{"prechange":null,"postchange":{"id":7}}'
    send(make_webhook(Thing, url=inbox.url(), body_template=template), action="updated", snapshots=snapshots)
    send(make_webhook(Thing, url=inbox.url(), body_template=template), action="testapp.checked", snapshots="")
    none = {"removed": None, "added": None}
    assert [received.json for received in inbox.received()] == [
        {"prechange": None, "postchange": {"id": 7}, "differences": none},
        {"prechange": None, "postchange": None, "differences": none},
    ]


def test_the_signature_is_of_the_body_that_is_sent(inbox: Inbox) -> None:
    send(make_webhook(Thing, url=inbox.url(), secret=SECRET, body_template='{"é": {{ data.id }}}'))
    [received] = inbox.received()
    assert received.body == '{"é": 7}'.encode()
    assert standardwebhooks.Webhook(SECRET).verify(received.body, received.headers) == {"é": 7}
    assert received.headers["x-hook-signature"] == hmac.digest(SECRET.encode(), received.body, hashlib.sha512).hex()


def test_a_body_may_come_out_empty(inbox: Inbox) -> None:
    send(make_webhook(Thing, url=inbox.url(), secret=SECRET, body_template="{% if event == 'created' %}x{% endif %}"))
    [received] = inbox.received()
    assert (received.body, received.headers["content-length"]) == (b"", "0")


@pytest.mark.parametrize(
    ("content_type", "begin"),
    [
        ("application/vnd.example+json", b'{"event"'),
        ("text/plain; charset=utf-8", b'{"event"'),
        ("Application/X-WWW-Form-Urlencoded; charset=utf-8", b"event="),
    ],
)
def test_any_content_type_is_sent_and_only_a_form_is_written_as_one(
    inbox: Inbox, content_type: str, begin: bytes
) -> None:
    send(make_webhook(Thing, url=inbox.url(), content_type=content_type))
    [received] = inbox.received()
    assert received.headers["content-type"] == content_type
    assert received.body.startswith(begin)


def test_headers_may_take_the_place_of_content_type_and_user_agent(inbox: Inbox) -> None:
    send(
        make_webhook(Thing, url=inbox.url(), additional_headers="content-type: text/x\nUSER-AGENT: me\nX-A: 1\nx-a: 2")
    )
    [received] = inbox.received()
    assert (received.headers["content-type"], received.headers["user-agent"]) == ("text/x", "me")
    assert received.headers["x-a"] == "2"


def test_half_a_character_is_sent_as_a_question_mark(inbox: Inbox) -> None:
    send(make_webhook(Thing, url=inbox.url(), body_template="{{ data.half }}"))
    assert inbox.received()[0].body == b"?"


def test_spaces_in_a_rendered_url_are_encoded(inbox: Inbox) -> None:
    send(make_webhook(Thing, url=f"{{% if true %}} {inbox.url('ok')}/{{{{ data.name }}}} {{% endif %}}"))
    assert inbox.received()[0].path.endswith("/ok/Plain%20name")


def test_an_attempt_records_the_url_that_it_went_to(inbox: Inbox) -> None:
    long = "{{ 'x' * 1500 }}"
    send(make_webhook(Thing, url=inbox.url("status/500/{{ data.id }}/" + long)))
    assert Attempt.objects.get().url == inbox.url("status/500/7/" + "x" * 1500)


def test_a_url_that_is_too_long_to_be_recorded_does_not_keep_the_attempt_from_it(inbox: Inbox) -> None:
    send(make_webhook(Thing, url=inbox.url("ok/{{ 'a ' * 900 }}.")))
    assert len(inbox.received()[0].path) > 2000
    assert len(Attempt.objects.get().url) == 2000
    assert states() == [State.SUCCEEDED]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (
            {"body_template": "{\n{{ data.nope.deeper }}"},
            "the body could not be rendered: line 2: UndefinedError: 'dict object' has no attribute 'nope'",
        ),
        (
            {"additional_headers": "X-A: 1\nX-B: {{ data.evil }}"},
            "the headers could not be rendered: line 2: ValueError: a value has a line break",
        ),
        (
            {"additional_headers": "{{ 'Host' }}: internal.example"},
            "the headers could not be rendered: Host is not for a template to set",
        ),
        (
            {"payload_url": "http://h.example/{{ data.evil }}"},
            "the URL could not be rendered: the URL has a line break",
        ),
        ({"payload_url": "{{ 'file' }}:///etc/passwd"}, "the URL came out as 'file:///etc/passwd': Enter an http://"),
        ({"payload_url": "http://u:{{ 1 }}@h.example/"}, "a user name or a password in it"),
        ({"payload_url": "http://{{ 2130706433 }}/"}, "an odd way to write 127.0.0.1"),
        ({"payload_url": "http://{{ data.rack }}.example\\@h.example/"}, "a backslash"),
        ({"payload_url": "{{ data.nope }}"}, "the URL came out as '': Enter an http://"),
        ({"payload_url": "http://169.254.169.{{ 254 }}/"}, "169.254.169.254 is a cloud metadata address"),
    ],
)
def test_a_template_error_is_a_failed_attempt_with_the_reason(fields: dict[str, str], reason: str) -> None:
    webhook = make_webhook(Thing)
    Webhook.objects.filter(pk=webhook.pk).update(**fields)
    send(webhook)
    delivery, attempt = Delivery.objects.get(), Attempt.objects.get()
    assert delivery.state == State.FAILED
    assert reason in attempt.reason
    assert attempt.reason == delivery.reason
    # Only users who can read the template see the text that it writes.
    kind = ErrorKind.BLOCKED if "metadata" in reason else ErrorKind.TEMPLATE
    assert attempt.error_kind == delivery.error_kind == Webhook.objects.get().error_kind == kind
    # If a template fails, there is no request. The transport refuses a request to the metadata address.
    sent = ("POST", fields["payload_url"].replace("{{ 254 }}", "254")) if kind == ErrorKind.BLOCKED else ("", "")
    assert (attempt.method, attempt.url) == sent


def test_the_next_attempt_uses_a_corrected_template(inbox: Inbox, webhooks_settings: Any) -> None:
    webhook = make_webhook(Thing, url=inbox.url(), body_template="{{ data.nope.deeper }}")
    send(webhook)
    assert states() == [State.FAILED]
    Webhook.objects.update(body_template="{{ data.id }}")
    Delivery.objects.failed().retry("a test")
    drain()
    assert states() == [State.SUCCEEDED]
    assert inbox.received()[0].body == b"7"


def test_one_broken_template_does_not_hold_up_other_webhooks(inbox: Inbox) -> None:
    broken = make_webhook(Thing, url=inbox.url(), body_template="{% for i in range(100000) %}{{ 9**999 }}{% endfor %}")
    make_event(broken, make_webhook(Thing, url=inbox.url()))
    drain()
    assert sorted(states()) == [State.FAILED, State.SUCCEEDED]
    assert len(inbox.received()) == 1


def test_a_webhook_without_templates_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "_started", None)
    webhook = make_webhook(Thing, url="http://h.example/{x}", additional_headers="X-A: 1")
    event = Bodies(make_event(webhook, data=DATA))
    composed = compose.compose(webhook, event, "1", Renderer(), timezone.now)
    assert (composed.url, composed.headers["X-A"]) == ("http://h.example/{x}", "1")
    assert "context" not in vars(event)


def test_templates_of_one_event_share_its_context() -> None:
    webhook = make_webhook(Thing, url="http://h.example/{{ data.id }}", body_template="{{ data.id }}")
    event = Bodies(make_event(webhook, data=DATA))
    with Renderer() as renderer:
        compose.compose(webhook, event, "1", renderer, timezone.now)
        seen = event.context
        compose.compose(webhook, event, "2", renderer, timezone.now)
    assert event.context is seen


def test_a_url_that_is_not_spelt_plainly_is_never_sent_to() -> None:
    webhook = make_webhook(Thing, url="http://h.example{{ ':0' }}/")
    with pytest.raises(Refused, match="The port of the URL"), Renderer() as renderer:
        compose.url_of(webhook, Bodies(make_event(webhook, data=DATA)), renderer)


def test_a_secret_header_replaces_an_additional_one_of_its_name_in_upper_or_lower_case(inbox: Inbox) -> None:
    lines = {"additional_headers": "authorization: shown\nX-More: {{ event }}", "secret_headers": "Authorization: hush"}
    send(make_webhook(Thing, url=inbox.url(), secret=SECRET, **lines))
    [received] = inbox.received()
    assert (received.headers["authorization"], received.headers["x-more"]) == ("hush", "updated")
    assert standardwebhooks.Webhook(SECRET).verify(received.body, received.headers)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {"secret": "whsec_planted-secret"},
            "the secret of webhook “CMDB” cannot be used: a secret that begins with whsec_",
        ),
        (
            {"secret_headers": "Proxy-Authorization: planted-secret"},
            "the secret headers of webhook “CMDB” cannot be used: ",
        ),
        ({"secret_headers": "planted-secret"}, "the secret headers of webhook “CMDB” cannot be used: Line 1: write"),
    ],
)
def test_an_invalid_secret_is_a_failed_attempt_that_does_not_show_it(
    inbox: Inbox, app_log: pytest.LogCaptureFixture, fields: dict[str, str], told: str
) -> None:
    send(make_webhook(Thing, url=inbox.url(), name="CMDB", **fields))
    reason = Attempt.objects.get().reason
    assert reason.startswith(told)
    assert "planted" not in reason
    assert not app_log.records


# Values and sizes


def test_each_value_arrives_or_its_event_says_why_not(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    make_webhook(Fragile, url=inbox.url("ok"))
    values = {name: value for name, (value, _) in (ARRIVES | REFUSED).items()}
    for name, value in values.items():
        monkeypatch.setattr(FragileSerializer, "more", {"value": value})
        Fragile.objects.create(name=name)
    assert Fragile.objects.count() == len(values)

    errors = {event.object_id: event.error for event in events() if event.error}
    failed = {fragile.name: errors[str(fragile.pk)] for fragile in Fragile.objects.all() if str(fragile.pk) in errors}
    assert set(failed) == set(REFUSED) | {"as deep as may be"}
    for name, (_, words) in REFUSED.items():
        [line] = failed[name].splitlines()
        assert line.startswith("the payload of testapp.fragile ")
        assert f"cannot be written as JSON: {words}" in line

    drain()
    came = {one.json["data"]["name"]: one.json["data"]["value"] for one in inbox.received("ok")}
    assert came == {name: arrives for name, (_, arrives) in ARRIVES.items() if name != "as deep as may be"}


SIZE = 20_000


def test_a_payload_that_is_too_large_fails_its_event(
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

    # A replay has the same limit.
    [replayed] = replays.replay(Event.objects.failed())
    assert replayed.problem == f"its payload cannot be created: {said}"
    webhooks_settings(PAYLOAD_BYTES=size)
    assert replays.replay(Event.objects.failed())[0].event
    drain()
    assert len(inbox.received("ok")[0].json["data"]["value"]) == SIZE


def test_the_state_before_an_update_counts_in_the_size_of_a_payload(webhooks_settings: Any) -> None:
    make_webhook(Fragile, on="u", prechange=True)
    fragile = Fragile.objects.create(name="a long name")
    Fragile.objects.get(pk=fragile.pk).save()
    [fits] = events()
    before = json.dumps(json.loads(fits.snapshots)["prechange"], separators=(",", ":"))
    size = len(fits.data) + 2 * len(before)  # nothing has changed
    for allowed, is_refused in ((size, False), (size - 1, True)):
        webhooks_settings(PAYLOAD_BYTES=allowed)
        Fragile.objects.get(pk=fragile.pk).save()
        assert bool(events()[-1].error) == is_refused


@pytest.mark.parametrize(
    "fields",
    [
        {"body_template": "{% for _ in range(300) %}{{ data.name * 100 }}{% endfor %}"},
        {"content_type": "application/x-www-form-urlencoded"},
    ],
    ids=["template", "form"],
)
def test_a_body_that_is_too_large_is_a_failed_attempt(
    inbox: Inbox, webhooks_settings: Any, fields: dict[str, str]
) -> None:
    webhooks_settings(PAYLOAD_BYTES=SIZE, RETRY_SCHEDULE=[])
    webhook = make_webhook(Fragile, url=inbox.url("ok"), **fields)
    Fragile.objects.create(name="ü")
    if not webhook.body_template:
        Event.objects.update(data=json.dumps({"name": '"' * SIZE}))
    drain()
    [attempt] = Attempt.objects.all()
    expected = (
        "would have more than the 20,000 bytes" if webhook.body_template else " bytes; PAYLOAD_BYTES allows 20,000"
    )
    assert expected in attempt.reason
    assert Delivery.objects.get().state == State.FAILED
    assert not inbox.received("ok")
