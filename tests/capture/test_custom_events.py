"""``webhooks.send()``: Events that are no change of a model."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

import webhooks
from dcim.models import Device, Rack, Site
from tests.support.makers import actions, events, make_webhook, recorded
from tests.support.rollbacks import bare_savepoint
from tests.support.statements import are_merged, statements_of
from tests.support.threads import Beside
from tests.testapp.models import Diner, Gadget, Thing, ThingProxy
from webhooks import testing
from webhooks.capture import context, subscriptions
from webhooks.ground import payloads, registry
from webhooks.ground.db import execute
from webhooks.models import Event, Webhook

AUDITED = "dcim.rack_audited"
CHECKED = "testapp.thing_checked"


@pytest.fixture(autouse=True)
def registered(own_registrations: None) -> None:
    webhooks.register_event(CHECKED, "Thing checked")


def listening(*names: str, on: str = "", **fields: Any) -> Webhook:
    return make_webhook(on=on, custom_events=list(names or [CHECKED]), **fields)


def body(event: Event) -> Any:
    return json.loads(payloads.json_body(event))


# Names


@pytest.mark.parametrize(
    "name", ["", "audited", ".audited", "dcim.", "dcim audited", "nowhere.audited", "Dcim.audited", "dcim.a b",
             "dcim." + "a" * 100, None, 5, "dcim.a\n"],
)  # fmt: skip
def test_a_name_needs_an_app_and_a_dot(name: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="needs the label of an installed app"):
        webhooks.register_event(name)


@pytest.mark.parametrize("name", ["dcim.rack_audited2", "testapp.a.b-c", "rq_webhooks.X9"])
def test_names_are_registered_with_labels_and_forgotten(name: str) -> None:
    webhooks.register_event(name)
    assert registry.custom_events()[name] == name
    webhooks.register_event(name, label="Audited")
    assert registry.custom_events()[name] == "Audited"
    webhooks.unregister_event(name)
    webhooks.unregister_event(name)
    assert name not in registry.custom_events()


# Mistakes of the programmer are refused, with or without subscribers


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("enabled", [True, False])
def test_a_mistake_of_the_caller_raises(enabled: bool, webhooks_settings: Any) -> None:
    webhooks_settings(ENABLED=enabled)
    with pytest.raises(ValueError, match=r"No event is registered as testapp\.nothing\. These are: dcim\.rack_audited"):
        webhooks.send("testapp.nothing")
    with pytest.raises(ValueError, match="No event is registered as"):
        webhooks.send("")
    for data in ({"a": object()}, {"a": float("nan")}, {(1, 2): 3}):
        with pytest.raises(ValueError, match=r"data of the event testapp\.thing_checked cannot be written as JSON"):
            webhooks.send(CHECKED, None, data)
    with pytest.raises(ValueError, match="not saved, or deleted already"):
        webhooks.send(CHECKED, Thing(name="a"))
    with pytest.raises(TypeError, match="must be about an object of a model or None"):
        webhooks.send(CHECKED, {"id": 1})  # type: ignore[arg-type]
    webhooks.send(CHECKED, None, {"a": datetime(2026, 1, 1, tzinfo=UTC)})
    assert events() == []


# Recorded events


@pytest.mark.usefixtures("database")
def test_it_has_its_name_the_object_and_the_data_as_they_were_given() -> None:
    webhook = listening()
    thing = Thing.objects.create(name="a")
    with context.actor(username="ann", request_id="r1"):
        webhooks.send(CHECKED, thing, {"token_count": 3, "at": datetime(2026, 1, 1, tzinfo=UTC)})
    [event] = events()
    payload = body(event)
    assert recorded() == [(CHECKED, "testapp.thing", str(thing.pk))]
    assert (payload["event"], payload["model"], payload["object_type"]) == (CHECKED, "thing", "testapp.thing")
    assert payload["data"] == {"token_count": 3, "at": "2026-01-01T00:00:00Z"}
    assert (payload["username"], payload["request_id"], payload["sequence"]) == ("ann", "r1", event.pk)
    assert payload["snapshots"] == {"prechange": None, "postchange": None}
    assert (event.webhook_ids, event.object_repr) == ([webhook.pk], "a")


@pytest.mark.usefixtures("database")
def test_it_may_be_about_nothing_and_have_no_data() -> None:
    listening()
    webhooks.send(CHECKED)
    payload = body(events()[0])
    assert (payload["event"], payload["model"], payload["object_type"], payload["data"]) == (CHECKED, "", "", None)
    assert (events()[0].object_type, events()[0].object_id) == ("", CHECKED)
    assert events()[0].object_repr == "Thing checked"


@pytest.mark.usefixtures("database")
def test_it_goes_in_the_lane_of_the_objects_changes() -> None:
    make_webhook(Thing, Gadget, Diner)
    listening()
    for made in (Thing.objects.create(name="a"), Gadget.objects.create(name="b"), Diner.objects.create(name="c")):
        changed = events(type(made))[-1]
        webhooks.send(CHECKED, made)
        assert about(events()[-1]) == about(changed)
    webhooks.send(CHECKED, ThingProxy.objects.get())
    assert about(events()[-1]) == about(events(Thing)[0])


def about(event: Event) -> tuple[str, str]:
    return event.object_type, event.object_id


@pytest.mark.usefixtures("database")
@pytest.mark.postgresql
@pytest.mark.parametrize("around", [transaction.atomic, webhooks.batch])
def test_a_later_change_of_its_object_waits_and_comes_after_it(around: Any) -> None:
    make_webhook(Thing, custom_events=[CHECKED])
    thing = Thing.objects.create(name="old")
    with around():
        webhooks.send(CHECKED, thing, {"name": "old"})
        change = Beside(lambda: Thing.objects.get(pk=thing.pk).save())
        change.wait_until_blocked_or_done()
        assert change.is_running
    change.join()
    assert actions() == ["created", CHECKED, "updated"]


@pytest.mark.usefixtures("database")
@pytest.mark.postgresql
def test_it_is_recorded_where_its_object_cannot_be_locked(app_log: pytest.LogCaptureFixture) -> None:
    make_webhook(Thing, custom_events=[CHECKED])
    thing = Thing.objects.create(name="old")
    with transaction.atomic():
        Thing.objects.filter(pk=thing.pk).update(name="locked here")
        Beside(lambda: send_impatiently(thing)).join()
    assert actions() == ["created", CHECKED]
    assert f"testapp.thing {thing.pk} cannot be locked" in app_log.text


def send_impatiently(thing: Thing) -> None:
    with transaction.atomic():
        execute("default", "SET LOCAL lock_timeout = '100ms'")
        webhooks.send(CHECKED, thing)


@pytest.mark.usefixtures("database")
def test_only_webhooks_that_chose_a_custom_event_get_it() -> None:
    listening("dcim.rack_audited")
    make_webhook(Thing)
    disabled = listening(enabled=False)
    wanted = [listening(), listening(CHECKED, AUDITED)]
    wanted.append(make_webhook(Gadget, on="c", custom_events=[CHECKED]))
    webhooks.send(CHECKED, Thing.objects.create(name="a"))
    [event] = [one for one in events() if one.action == CHECKED]
    assert event.webhook_ids == [one.pk for one in wanted]
    assert disabled.pk not in event.webhook_ids


@pytest.mark.usefixtures("database")
def test_a_webhook_that_names_it_twice_gets_it_once() -> None:
    webhook = listening(CHECKED, CHECKED)
    webhooks.send(CHECKED)
    assert events()[0].webhook_ids == [webhook.pk]


# Transactions


@pytest.mark.usefixtures("database")
def test_it_is_merged_with_nothing_and_rolled_back_with_its_transaction() -> None:
    make_webhook(Thing)
    listening()
    with transaction.atomic():
        thing = Thing.objects.create(name="a")
        webhooks.send(CHECKED, thing, 1)
        thing.name = "b"
        thing.save()
        webhooks.send(CHECKED, thing, 2)
        with transaction.atomic():
            sid = bare_savepoint()
            webhooks.send(CHECKED, thing, 3)
            transaction.savepoint_rollback(sid)
    assert [(event.action, json.loads(event.data)) for event in events() if event.action == CHECKED] == [
        (CHECKED, 1), (CHECKED, 2),
    ]  # fmt: skip
    assert actions() == ["created", CHECKED, CHECKED]
    with pytest.raises(IntegrityError), transaction.atomic():
        webhooks.send(CHECKED, thing, 4)
        raise IntegrityError
    assert len(events()) == 3


@pytest.mark.usefixtures("database")
def test_an_event_about_an_object_that_is_created_and_deleted_stays() -> None:
    make_webhook(Thing)
    listening()
    with transaction.atomic():
        thing = Thing.objects.create(name="a")
        webhooks.send(CHECKED, thing)
        thing.delete()
    assert actions() == [CHECKED]


@pytest.mark.usefixtures("database")
def test_in_a_batch_it_keeps_its_place_among_the_changes() -> None:
    make_webhook(Thing)
    listening()
    with webhooks.batch():
        first = Thing.objects.create(name="a")
        webhooks.send(CHECKED, first, 1)
        Thing.objects.create(name="b")
        webhooks.send(CHECKED, first, 2)
        with pytest.raises(IntegrityError), transaction.atomic():
            webhooks.send(CHECKED, first, 3)
            raise IntegrityError
    assert actions() == ["created", CHECKED, "created", CHECKED]


@pytest.mark.cost
@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("others", [0, 50])
def test_without_subscribers_it_costs_one_query_for_each_transaction(others: int) -> None:
    for _ in range(others):
        make_webhook(Thing)
    thing = Gadget.objects.create(name="a")
    with CaptureQueriesContext(connection) as captured:
        webhooks.send(CHECKED, thing)
    assert len(captured) == 1
    with transaction.atomic():
        webhooks.send(CHECKED, thing)
        with CaptureQueriesContext(connection) as captured:
            webhooks.send(CHECKED, thing, {"a": 1})
    assert len(captured) == 0
    listening()
    with transaction.atomic():
        webhooks.send(CHECKED, thing)
        with CaptureQueriesContext(connection) as captured:
            webhooks.send(CHECKED, thing)
    # The lock of the object, and the Event, each in a savepoint. On SQLite savepoint, Event, dispatch, release.
    assert len(captured) == (2 if are_merged() else 6 if connection.vendor == "postgresql" else 4)


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("atomic", [True, False])
def test_an_error_of_the_database_does_not_reach_the_caller(
    atomic: bool, monkeypatch: pytest.MonkeyPatch, app_log: Any
) -> None:
    listening()
    thing = Thing.objects.create(name="a")

    def broken(self: Event, using: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT nothing FROM nowhere")

    monkeypatch.setattr(Event, "insert", broken)
    if atomic:
        with transaction.atomic():
            webhooks.send(CHECKED, thing)
            thing.name = "still there"
            thing.save()
        assert Thing.objects.get().name == "still there"
    else:
        webhooks.send(CHECKED, thing)
    assert f"no webhook gets it: a {CHECKED}" in app_log.text


@pytest.mark.usefixtures("database")
def test_an_error_of_reading_the_webhooks_does_not_reach_the_caller(
    monkeypatch: pytest.MonkeyPatch, app_log: Any
) -> None:
    def broken(using: str) -> Any:
        raise DatabaseError("gone")

    monkeypatch.setattr(subscriptions, "current", broken)
    webhooks.send(CHECKED)
    assert "no webhook gets it" in app_log.text


@pytest.mark.usefixtures("database")
def test_conditions_are_judged_over_the_data_that_are_given() -> None:
    sure = listening(conditions={"attr": "severity", "value": 5, "op": "gte"})
    broken = listening(conditions={"and": [{"attr": "severity", "value": "(", "op": "regex"}]})
    webhooks.send(CHECKED, None, {"severity": 4})
    webhooks.send(CHECKED, None, {"severity": 7})
    whole = [event for event in events() if not event.error]
    assert [(event.webhook_ids, json.loads(event.data)) for event in whole] == [([sure.pk], {"severity": 7})]
    assert all(event.webhook_ids == [broken.pk] for event in events() if event.error)


@pytest.mark.usefixtures("database")
def test_tests_of_host_projects_capture_it() -> None:
    with testing.capture_webhooks() as captured:
        webhooks.send(CHECKED, None, {"a": 1})
    assert [(one.action, one.data) for one in captured] == [(CHECKED, {"a": 1})]
    with testing.capture_webhooks(subscribe=["testapp.thing"]) as captured:
        webhooks.send(CHECKED)
    assert captured == []


# Picking it


PICK = {"name": "audits", "payload_url": "https://receiver.example.com/"}


@pytest.mark.usefixtures("database")
def test_the_database_and_the_model_want_an_action_or_an_event() -> None:
    Webhook(**PICK, custom_events=[CHECKED]).full_clean()
    with pytest.raises(ValidationError, match="Choose at least one action"):
        Webhook(**PICK).full_clean()
    with pytest.raises(ValidationError, match=r"No event is registered as testapp\.gone"):
        Webhook(**PICK, custom_events=["testapp.gone", CHECKED]).full_clean()
    for wrong in ("", {"a": 1}):
        with pytest.raises(ValidationError, match="No event is registered as"):
            Webhook(**PICK, custom_events=[wrong]).full_clean()
    with pytest.raises(ValidationError, match="Give a list of names"):
        Webhook(**PICK, custom_events={"a": 1}).full_clean()
    with pytest.raises(ValidationError, match="Name each event once"):
        Webhook(**PICK, custom_events=[CHECKED, CHECKED]).full_clean()
    Webhook.objects.create(**PICK, custom_events=[CHECKED])
    with pytest.raises(IntegrityError), transaction.atomic():
        Webhook.objects.create(name="none", payload_url="https://a.example.com/", custom_events=[])


@pytest.mark.usefixtures("database")
def test_the_api_takes_it_with_and_without_models(api: APIClient) -> None:
    made = api.post("/api/webhooks/webhooks/", PICK | {"custom_events": [AUDITED]}, format="json")
    assert (made.status_code, made.json()["custom_events"], made.json()["object_types"]) == (201, [AUDITED], [])
    page = f"/api/webhooks/webhooks/{made.json()['id']}/"
    refused = api.patch(page, {"on_created": True}, format="json")
    assert refused.json() == {"object_types": ["Choose at least one model, or none of the actions."]}
    refused = api.patch(page, {"custom_events": ["dcim.nothing"]}, format="json")
    assert "No event is registered as dcim.nothing. These are: dcim.rack_audited" in refused.json()["custom_events"][0]
    assert api.patch(page, {"custom_events": []}, format="json").status_code == 400
    both = api.patch(page, {"on_created": True, "object_types": ["dcim.site"]}, format="json")
    assert (both.status_code, both.json()["custom_events"]) == (200, [AUDITED])


def test_the_admin_offers_it_and_lists_who_wants_it(admin_client: Client) -> None:
    page = admin_client.get("/admin/rq_webhooks/webhook/add/").content.decode()
    assert "Rack audited (dcim.rack_audited)" in page
    fields = PICK | {"http_method": "POST", "content_type": "application/json", "enabled": "on"}
    refused = admin_client.post("/admin/rq_webhooks/webhook/add/", fields)
    error = "Choose at least one action (created, updated, deleted) or one custom event."
    assert refused.content.decode().count(error) == 1
    refused = admin_client.post("/admin/rq_webhooks/webhook/add/", fields | {"on_created": "on"})
    assert refused.content.decode().count("Choose at least one model.") == 1
    assert (
        admin_client.post("/admin/rq_webhooks/webhook/add/", fields | {"custom_events": [AUDITED]}).status_code == 302
    )
    assert Webhook.objects.get().custom_events == [AUDITED]
    assert AUDITED in admin_client.get("/admin/rq_webhooks/webhook/").content.decode()
    site = Site.objects.create(name="Berlin", slug="berlin")
    webhooks.send(AUDITED, Rack.objects.create(name="R1", site=site))
    webhooks.send(AUDITED)
    assert actions() == [AUDITED, AUDITED]
    for query in ("", "?action=dcim.rack_audited"):
        assert len(admin_client.get(f"/admin/rq_webhooks/event/{query}").context["cl"].result_list) == 2
    assert len(admin_client.get("/admin/rq_webhooks/event/?action=ping").context["cl"].result_list) == 0
    for event in events():
        page = admin_client.get(f"/admin/rq_webhooks/event/{event.pk}/change/")
        assert AUDITED in page.content.decode()


def test_one_that_is_no_longer_registered_is_shown_and_must_go_before_it_is_saved(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook = listening(CHECKED, AUDITED)
    webhooks.unregister_event(CHECKED)
    page = f"/admin/rq_webhooks/webhook/{webhook.pk}/change/"
    assert "testapp.thing_checked (no longer registered)" in admin_client.get(page).content.decode()
    fields = PICK | {"http_method": "POST", "content_type": "application/json", "enabled": "on"}
    refused = admin_client.post(page, fields | {"custom_events": [CHECKED, AUDITED]})
    assert "No event is registered as testapp.thing_checked" in refused.content.decode()
    assert admin_client.post(page, fields | {"custom_events": [AUDITED]}).status_code == 302


# The example


@pytest.mark.parametrize("way", ["api", "admin"])
def test_an_audit_of_a_rack_arrives_in_its_lane(way: str, api: APIClient, admin_client: Client, inbox: Any) -> None:
    site = Site.objects.create(name="Berlin", slug="berlin")
    rack = Rack.objects.create(name="R1", site=site)
    Device.objects.create(name="sw1", device_type="S", role="access", site=site, rack=rack, face="front", position=2)
    listening(AUDITED, url=inbox.url())
    if way == "api":
        answer = api.post(f"/api/dcim/racks/{rack.pk}/audit/", {"note": "all there"}, format="json")
        assert (answer.status_code, answer.json()["note"]) == (200, "all there")
    else:
        chosen = {"action": "audit", "_selected_action": [rack.pk]}
        assert admin_client.post("/admin/dcim/rack/", chosen).status_code == 302
    testing.deliver()
    [request] = inbox.received()
    assert request.json["event"] == AUDITED
    assert request.json["object_type"] == "dcim.rack"
    assert request.json["data"]["rack"] == {"id": rack.pk, "name": "R1", "site": "berlin"}
    assert request.json["data"]["devices"] == [{"name": "sw1", "position": 2.0}]
    assert request.json["username"] == "admin@example.com"


def test_data_that_is_too_large_fails_the_event_with_a_reason(db: None, webhooks_settings: Any) -> None:
    webhooks_settings(PAYLOAD_BYTES=10)
    webhook = listening()
    webhooks.send(CHECKED, data="x" * 9)
    [event] = events()
    assert (event.error, event.data, event.webhook_ids) == (
        f"the data of the event {CHECKED} has 11 bytes; PAYLOAD_BYTES allows 10.", "", [webhook.pk]
    )  # fmt: skip


def test_events_of_users_that_are_left_out_are_not_sent(db: None) -> None:
    listening(excluded_usernames=["robot"])
    with webhooks.actor("robot"):
        webhooks.send(CHECKED)
    assert not events()
    with webhooks.actor("person", depth=4):
        webhooks.send(CHECKED)
    assert events()[0].is_loop_protected


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("data", [[1, 2], "text", 5, None])
def test_conditions_do_not_match_data_that_have_no_fields(data: Any) -> None:
    listening(conditions={"attr": "severity", "value": 5})
    negated = listening(conditions={"attr": "severity", "value": 5, "negate": True})
    plain = listening()
    webhooks.send(CHECKED, None, data)
    assert [(event.webhook_ids, event.error) for event in events()] == [([plain.pk], "")]
    assert negated.pk not in events()[0].webhook_ids


@pytest.mark.cost
@pytest.mark.postgresql
@pytest.mark.usefixtures("database")
def test_an_event_without_an_object_costs_one_round_trip() -> None:
    make_webhook(custom_events=["dcim.rack_audited"])
    with transaction.atomic():
        webhooks.send("dcim.rack_audited")  # it looks the webhooks up
        assert len(statements_of(lambda: webhooks.send("dcim.rack_audited"))) == (1 if are_merged() else 3)
