"""Serializers that webhooks choose by name: one Event has the data of each."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from rest_framework import serializers
from rest_framework.test import APIClient

import webhooks
from dcim.models import Device, Rack, Site
from tests.support.makers import events, make_webhook
from tests.testapp.api.serializers import FragileSerializer
from tests.testapp.models import Fragile, Tracked
from webhooks import testing
from webhooks.delivery.claims import load_claimed
from webhooks.ground import payloads
from webhooks.ground.payloads import bodies_by_webhook
from webhooks.models import Webhook
from webhooks.models.queue import ClaimedRow
from webhooks.operations import replays

pytestmark = pytest.mark.usefixtures("database")


class Name(serializers.Serializer):
    name = serializers.CharField()


class Shouted(serializers.Serializer):
    runs = 0
    name = serializers.SerializerMethodField()

    def get_name(self, instance: Any) -> str:
        Shouted.runs += 1
        return str(instance.name).upper()


@pytest.fixture(autouse=True)
def registered(own_registrations: None) -> None:
    webhooks.register(Fragile, serializer=FragileSerializer, serializers={"name": Name, "shouted": Shouted})
    webhooks.register(Tracked, serializers={"name": Name, "shouted": f"{__name__}.Shouted", "gone": f"{__name__}.Gone"})


def gets(webhook: Webhook, place: int = -1) -> Any:
    """The data that a webhook gets of an Event."""
    return json.loads(payloads.json_body(payloads.as_sent_to(events()[place], webhook.pk)))["data"]


def test_each_webhook_gets_its_serializers_data_and_each_serializer_runs_once() -> None:
    usual, name, shouted, too = (make_webhook(Fragile, serializer=one) for one in ("", "name", "shouted", "shouted"))
    Shouted.runs = 0
    row = Fragile.objects.create(name="a")
    assert Shouted.runs == 1
    [event] = events()
    assert event.webhook_ids == [usual.pk, name.pk, shouted.pk, too.pk]
    assert gets(usual) == {"id": row.pk, "name": "a", "behaviour": "fine"}
    assert (gets(name), gets(shouted), gets(too)) == ({"name": "a"}, {"name": "A"}, {"name": "A"})
    bodies = [json.loads(payloads.json_body(payloads.as_sent_to(event, one.pk))) for one in (usual, name)]
    assert bodies[0]["snapshots"]["postchange"] == {"id": row.pk, "name": "a", "behaviour": "fine"}
    assert bodies[1]["snapshots"]["postchange"] == {"name": "a"}, "not more than the data show"
    assert bodies[0].keys() == bodies[1].keys()


def test_a_claim_of_many_deliveries_of_an_event_reads_the_texts_of_each_serializer_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    webhooks_ = [make_webhook(Fragile, serializer="name" if number % 2 else "") for number in range(10)]
    Fragile.objects.create(name="a")
    [event] = events()
    rows = [ClaimedRow(uuid.uuid4(), webhook.pk, event.pk, None, False) for webhook in webhooks_]
    texts, read = list[str](), json.loads
    monkeypatch.setattr("webhooks.ground.payloads.json.loads", lambda text: texts.append(text) or read(text))
    held = load_claimed(rows, uuid.uuid4(), bodies_by_webhook, {webhook.pk: webhook for webhook in webhooks_}, [event])
    assert texts.count(event.serializers) == 2, "for the names, and for the serializer with a name"
    bodies = [read(one.bodies.body(as_form=False))["data"].keys() for one in held]
    assert bodies == [{"id", "name", "behaviour"}, {"name"}] * 5


def test_the_default_serializer_does_not_run_if_no_webhook_uses_it() -> None:
    webhook = make_webhook(Fragile, serializer="name")
    Fragile.objects.create(name="a", behaviour="raises")
    [event] = events()
    assert (event.error, json.loads(event.data), gets(webhook)) == ("", {"name": "a"}, {"name": "a"})


def test_choosing_another_serializer_does_not_change_old_events() -> None:
    first, second = make_webhook(Fragile, serializer="name"), make_webhook(Fragile)
    Fragile.objects.create(name="a")
    Webhook.objects.filter(pk=first.pk).update(serializer="")
    Webhook.objects.filter(pk=second.pk).update(serializer="name")
    assert (gets(first), gets(second)["behaviour"]) == ({"name": "a"}, "fine")
    Fragile.objects.create(name="b")
    assert (gets(first)["behaviour"], gets(second)) == ("fine", {"name": "b"})


def test_several_changes_are_one_event_in_every_serializer() -> None:
    name, usual = make_webhook(Fragile, serializer="name"), make_webhook(Fragile)
    with transaction.atomic():
        row = Fragile.objects.create(name="a")
        row.name = "b"
        row.save()
    assert len(events()) == 1
    assert (gets(name), gets(usual)["name"]) == ({"name": "b"}, "b")


@pytest.mark.parametrize("behaviour", ["raises", "bad sql", "nan"])
@pytest.mark.parametrize("way", ["single", "batch"])
def test_a_failing_serializer_does_not_affect_the_others(behaviour: str, way: str) -> None:
    usual, name = make_webhook(Fragile), make_webhook(Fragile, serializer="name")
    if way == "single":
        row = Fragile.objects.create(name="a", behaviour=behaviour)
    else:
        with webhooks.batch():
            row = Fragile.objects.create(name="a", behaviour=behaviour)
            Fragile.objects.create(name="b")
    whole, failed = sorted((one for one in events() if one.object_id == str(row.pk)), key=lambda one: bool(one.error))
    assert (whole.error, whole.webhook_ids, json.loads(whole.data)) == ("", [name.pk], {"name": "a"})
    assert failed.webhook_ids == [usual.pk]
    assert "Serializer (default)" in failed.error
    Fragile.objects.filter(pk=row.pk).update(behaviour="fine")
    [replayed] = replays.replay([failed])
    assert replayed.event is not None, replayed.problem
    assert (gets(usual)["behaviour"], replayed.event.webhook_ids) == ("fine", [usual.pk])


def test_a_failing_named_serializer_can_be_replayed() -> None:
    usual, gone = make_webhook(Tracked), make_webhook(Tracked, serializer="gone")
    row = Tracked.objects.create(name="a")
    whole, failed = events()
    assert (whole.webhook_ids, whole.error) == ([usual.pk], "")
    assert failed.webhook_ids == [gone.pk]
    assert "Serializer gone" in failed.error
    assert "importing tests.payloads.test_serializers.Gone failed" in failed.error
    webhooks.register(Tracked, serializers={"gone": Shouted})
    Webhook.objects.filter(pk=gone.pk).update(serializer="")
    [replayed] = replays.replay([failed])
    assert replayed.event is not None, replayed.problem
    assert gets(gone) == {"name": row.name.upper()}


def test_one_failed_event_if_all_serializers_fail() -> None:
    webhooks.register(Fragile, serializer=FragileSerializer, serializers={"too": FragileSerializer})
    both = [make_webhook(Fragile).pk, make_webhook(Fragile, serializer="too").pk]
    Fragile.objects.create(name="a", behaviour="raises")
    [event] = events()
    assert event.webhook_ids == both
    assert "this serializer is broken" in event.error


def test_bulk_operations_and_deletions_use_named_serializers() -> None:
    name, usual = make_webhook(Tracked, serializer="name"), make_webhook(Tracked)
    Tracked.objects.bulk_create(Tracked(name=f"row {number}") for number in range(3))
    assert [gets(name, place) for place in range(3)] == [{"name": f"row {number}"} for number in range(3)]
    Tracked.objects.all().delete()
    assert len(events()) == 6
    assert (gets(name), gets(usual)["status"]) == ({"name": "row 2"}, "active")
    snapshots = json.loads(payloads.as_sent_to(events()[-1], name.pk).snapshots)
    assert snapshots == {"prechange": {"name": "row 2"}, "postchange": None}


@pytest.mark.cost
@pytest.mark.parametrize("named", [1, 30])
def test_the_cost_does_not_grow_with_the_webhooks(named: int) -> None:
    make_webhook(Tracked)
    for _ in range(named):
        make_webhook(Tracked, serializer="name")
    row = Tracked.objects.create(name="a")
    with transaction.atomic():
        row.save()
        with CaptureQueriesContext(connection) as captured:
            row.save()
    # The UPDATE; row, Event. On SQLite also the savepoint, its release, and one around each of the two serializers.
    assert len(captured) == (3 if connection.vendor == "postgresql" else 5 + 2 * 2)
    with CaptureQueriesContext(connection) as captured:
        Tracked.objects.bulk_create(Tracked(name=str(number)) for number in range(20))
    assert len(captured) < 20


def test_excluded_fields_are_missing_from_every_serializer() -> None:
    webhooks.register(Site, exclude=["name"], serializers={"brief": "dcim.api.serializers.BriefSiteSerializer"})
    brief = make_webhook(Site, serializer="brief")
    site = Site.objects.create(name="Berlin", slug="berlin")
    assert gets(brief) == {
        "id": site.pk, "url": f"/api/dcim/sites/{site.pk}/", "display": "Berlin", "slug": "berlin", "description": "",
    }  # fmt: skip


def test_bodies_and_templates_use_the_chosen_serializer(inbox: Any) -> None:
    template = "{{ data | tojson }} {{ snapshots.postchange | tojson }} {{ event }}"
    url = inbox.url()
    form = "application/x-www-form-urlencoded"
    make_webhook(Fragile, url=url, additional_headers="x-of: usual")
    make_webhook(Fragile, url=url, additional_headers="x-of: name", serializer="name")
    make_webhook(Fragile, url=url, additional_headers="x-of: template", serializer="name", body_template=template)
    make_webhook(Fragile, url=url, additional_headers="x-of: form", serializer="shouted", content_type=form)
    Fragile.objects.create(name="a")
    testing.deliver()
    sent = {request.headers["x-of"]: request.body for request in inbox.received()}
    assert json.loads(sent["usual"])["data"]["behaviour"] == "fine"
    assert json.loads(sent["name"])["data"] == {"name": "a"}
    assert sent["template"] == b'{"name": "a"} {"name": "a"} created'
    assert b"data=%7B%22name%22%3A%22A%22%7D" in sent["form"]


# Choosing one


PICK = {"name": "brief ones", "payload_url": "https://receiver.example.com/", "on_created": True}


@pytest.mark.one_database
def test_the_api_refuses_a_serializer_that_a_model_lacks(api: APIClient) -> None:
    fields = PICK | {"serializer": "brief", "object_types": ["dcim.site", "dcim.device"]}
    made = api.post("/api/webhooks/webhooks/", fields, format="json")
    assert (made.status_code, made.json()["serializer"]) == (201, "brief")
    page = f"/api/webhooks/webhooks/{made.json()['id']}/"
    refused = api.patch(page, {"object_types": ["dcim.site", "dcim.rack", "ipam.prefix"]}, format="json")
    assert refused.json() == {"serializer": ["There is no serializer “brief” for dcim.rack, ipam.prefix."]}
    misspelt = api.patch(page, {"serializer": "brieff", "changed_fields": ["name"]}, format="json")
    assert (misspelt.status_code, list(misspelt.json())) == (400, ["serializer"])
    both = api.patch(page, {"serializer": "", "object_types": ["dcim.rack"]}, format="json")
    assert (both.status_code, both.json()["serializer"]) == (200, "")


@pytest.mark.one_database
def test_the_admin_refuses_a_serializer_that_a_model_lacks(admin_client: Client) -> None:
    page = admin_client.get("/admin/rq_webhooks/webhook/add/").content.decode()
    assert '<option value="brief">' in page

    def post(*models: Any, **fields: Any) -> Any:
        ids = [one.pk for one in registry_types(*models)]
        data = PICK | {"http_method": "POST", "content_type": "application/json", "object_types": ids}
        return admin_client.post("/admin/rq_webhooks/webhook/add/", data | {"serializer": "brief"} | fields)

    assert "There is no serializer “brief” for dcim.rack." in post(Site, Rack).content.decode()
    assert post(Site, Device).status_code == 302
    assert Webhook.objects.get().serializer == "brief"


def registry_types(*models: Any) -> Any:
    from django.contrib.contenttypes.models import ContentType

    return ContentType.objects.get_for_models(*models).values()


@pytest.mark.one_database
def test_the_condition_preview_uses_the_chosen_serializer(admin_client: Client) -> None:
    webhooks.register(Site, serializers={"shouted": Shouted})
    make_webhook(Site)
    make_webhook(Site, serializer="shouted")
    Site.objects.create(name="Berlin", slug="berlin")
    [site_type] = registry_types(Site)
    fields = {"object_types": [site_type.pk], "on_created": "on", "conditions": '{"attr": "name", "value": "BERLIN"}'}
    for serializer, actual in (("", "0 would have been sent"), ("shouted", "1 would have been sent")):
        answer = admin_client.post("/admin/rq_webhooks/webhook/condition-preview/", fields | {"serializer": serializer})
        assert actual in answer.json()["text"]


@pytest.mark.one_database
def test_the_pages_show_the_data_of_each_serializer(
    admin_client: Client, api: APIClient, names: dict[str, list[str]]
) -> None:
    make_webhook(Fragile)
    shouted = make_webhook(Fragile, serializer="shouted")
    Fragile.objects.create(name="quiet", behaviour="fine")
    event = events()[0]
    page = admin_client.get(f"/admin/rq_webhooks/event/{event.pk}/change/").content.decode()
    assert "Serializer “shouted”" in page
    assert "Serializer “default”" in page
    assert "QUIET" in page
    from webhooks.delivery.dispatch import dispatch

    dispatch()
    delivery = event.deliveries.get(webhook=shouted)
    page = admin_client.get(f"/admin/rq_webhooks/delivery/{delivery.pk}/change/").content.decode()
    assert "QUIET" in page
    assert "behaviour" not in page
    assert api.get(f"/api/webhooks/deliveries/{delivery.pk}/").json()["payload"]["data"] == {"name": "QUIET"}
    shown = api.get(f"/api/webhooks/events/{event.pk}/").json()
    texts = {key: json.loads(text or "null") for key, text in _texts(event, "shouted").items()}
    assert shown["serializers"] == {"shouted": {"webhooks": [shouted.pk], **texts}}


def _texts(event: Any, name: str) -> dict[str, str]:
    return {key: value for key, value in json.loads(event.serializers)[name].items() if key != "webhooks"}


@pytest.mark.parametrize("way", ["updated", "deleted and created again", "changed, deleted and created again"])
def test_each_serializer_has_its_previous_state(way: str) -> None:
    row = Fragile.objects.create(name="a")
    usual, name = make_webhook(Fragile, prechange=True), make_webhook(Fragile, serializer="name", only_changes=True)
    with transaction.atomic():
        if "changed" in way:
            Fragile.objects.filter(pk=row.pk).get().save()
        if "again" in way:
            Fragile.objects.get(pk=row.pk).delete()
            Fragile.objects.create(pk=row.pk, name="a", behaviour="odd")
        else:
            row.behaviour = "odd"
            row.save()
    [event] = events()
    assert event.webhook_ids == [usual.pk], "what the other one shows has not changed"
    assert json.loads(event.changed) == ["behaviour"]
    with transaction.atomic():
        Fragile.objects.get(pk=row.pk).delete()
        Fragile.objects.create(pk=row.pk, name="b", behaviour="odd")
    actual = json.loads(payloads.json_body(payloads.as_sent_to(events()[-1], name.pk)))
    assert (actual["event"], actual["changed"]) == ("updated", ["name"])
    assert actual["snapshots"] == {"prechange": {"name": "a"}, "postchange": {"name": "b"}}


def test_conditions_use_the_chosen_serializer() -> None:
    condition = {"attr": "name", "value": "A"}
    make_webhook(Fragile, conditions=condition)
    shouted = make_webhook(Fragile, serializer="shouted", conditions=condition)
    Fragile.objects.create(name="a")
    [event] = events()
    assert event.webhook_ids == [shouted.pk]


def test_a_replay_keeps_each_serializers_previous_state() -> None:
    webhooks.register(Fragile, serializer=Name, serializers={"whole": FragileSerializer})
    row = Fragile.objects.create(name="a", behaviour="odd")
    late = {"attr": "name", "op": "regex", "value": "(?:a|aa)+$"}
    usual = make_webhook(Fragile, prechange=True, conditions=late)
    whole = make_webhook(Fragile, serializer="whole", conditions=late)
    row.name = "a" * 46 + "b"
    row.save()
    [failed] = events()
    assert sorted(failed.webhook_ids) == [usual.pk, whole.pk]
    Webhook.objects.update(conditions=None)
    [replayed] = replays.replay([failed])
    assert replayed.event is not None, replayed.problem
    actual = [json.loads(payloads.as_sent_to(replayed.event, one.pk).changed) for one in (usual, whole)]
    assert actual == [["name"], ["name"]]
