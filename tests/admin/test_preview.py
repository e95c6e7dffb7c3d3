"""The preview of conditions on stored events."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.db.models.signals import post_init
from django.test import Client
from rest_framework import serializers

import webhooks
from tests.support.makers import make_event, make_webhook
from tests.testapp.models import Label, Thing
from webhooks.models import Event, Webhook
from webhooks.operations import trial

pytestmark = [pytest.mark.one_database, pytest.mark.usefixtures("database")]

ADDRESS = "/admin/rq_webhooks/webhook/condition-preview/"


class Name(serializers.Serializer):
    name = serializers.CharField()


class Loud(serializers.Serializer):
    name = serializers.SerializerMethodField()

    def get_name(self, label: Label) -> str:
        return label.name.upper()


@pytest.fixture
def client() -> Client:
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("admin"))
    return client


def preview(client: Client, conditions: Any = None, *models: Any, **fields: str) -> str:
    chosen = [ContentType.objects.get_for_model(model).pk for model in models or (Thing,)]
    text = conditions if isinstance(conditions, str) else json.dumps(conditions)
    posted = {"on_created": "on", "on_updated": "on", "object_types": chosen, "conditions": text} | fields
    answer = client.post(ADDRESS, posted)
    assert answer.status_code == 200, answer.content
    text: str = answer.json()["text"]
    return text


def test_it_counts_the_last_events_of_the_chosen_models_and_actions(client: Client) -> None:
    make_webhook(Thing, Label)
    for status in ("active", "active", "retired"):
        Thing.objects.create(name=status, status=status)
    Label.objects.create(name="active")
    Thing.objects.first().delete()  # type: ignore[union-attr]
    active = {"attr": "status", "value": "active"}
    assert preview(client, active) == "Tried on the last 3 events: 2 would have been sent, 1 would not."
    assert preview(client) == "Tried on the last 3 events: 3 would have been sent, 0 would not."
    text = preview(client, active, Thing, Label)
    assert text.startswith("Tried on the last 4 events: 2 would have been sent, 1 would not. 1 could not be judged")
    assert "testapp.label active: there is no 'status'" in text
    assert (Webhook.objects.count(), Event.objects.count()) == (1, 5)


def test_without_a_recorded_previous_state_an_event_cannot_be_judged(client: Client) -> None:
    webhook = make_webhook(Thing)
    thing = Thing.objects.create(name="a")
    thing.save()
    webhook.prechange = True
    webhook.save()
    thing.save()
    thing.name = "b"
    thing.save()
    for demands in ({"changed_fields": "name"}, {"only_changes": "on"}):
        text = preview(client, None, **demands)
        assert text.startswith(
            "Tried on the last 4 events: 2 would have been sent, 1 would not. 1 cannot be judged now; "
        )
        assert "was not recorded" in text
    text = preview(client, {"attr": "name", "op": "changed"})
    assert "1 cannot be judged now" in text
    assert "could not be judged" not in text


@pytest.mark.parametrize(
    ("conditions", "text"),
    [
        ("{", "Conditions: This is not JSON"),
        ("[" * 100_000, "Conditions: This is not JSON"),
        ({"and": [{"attr": "a", "op": "is"}]}, "Conditions: and[0].op: there is no operator 'is'"),
        (None, "There are no stored events of these models and actions to try it on."),
    ],
)
def test_invalid_conditions_say_why(client: Client, conditions: Any, text: str) -> None:
    assert text in preview(client, conditions)


def test_a_slow_pattern_ends_the_preview(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "MAX_FILTER_SECONDS", 0)
    for key in range(5):
        make_event(object_id=str(key), data=json.dumps({"name": "a" * 46 + "b"}))
    text = preview(client, {"attr": "name", "op": "regex", "value": "(?:a|aa)+$"})
    assert text.startswith("Tried on the last event: 0 would have been sent, 0 would not. 1 could not be judged")
    assert "took longer" in text


def test_its_time_limit_includes_the_reading_of_payloads(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 events may have 200 MB."""
    for number in range(2 * trial.READ):
        make_event(object_id=str(number))
    monkeypatch.setattr(trial, "MAX_FILTER_SECONDS", 0)
    read: list[Event] = []
    post_init.connect(collect := lambda instance, **_: read.append(instance), sender=Event)
    try:
        assert "Tried on the last event" in preview(client, {"attr": "name", "value": "a"})
    finally:
        post_init.disconnect(collect, sender=Event)
    assert len(read) == trial.READ


def test_it_needs_a_model_and_an_action(client: Client) -> None:
    for posted in ({"object_types": ["1"]}, {"on_created": "on"}, {"on_created": "on", "object_types": ["x", "²"]}):
        assert "Choose at least one" in client.post(ADDRESS, posted).json()["text"]


def test_changes_by_ignored_users_count_as_not_sent(client: Client) -> None:
    for name in ("sync", "admin", "", "sync 2"):
        make_event(username=name)
    assert preview(client, excluded_usernames="sync\r\n nobody \r\n") == (
        "Tried on the last 4 events: 3 would have been sent, 1 would not."
    )


def test_custom_events_can_be_tried_with_models_and_without(client: Client) -> None:
    make_event(action="dcim.rack_audited", object_type="", object_id="", data='{"note": "fine"}')
    make_event(action="dcim.rack_audited", object_type="dcim.rack", data="null")
    make_event(action="dcim.other", object_type="dcim.rack", data='{"note": "fine"}')
    make_event(data='{"note": "bad"}')
    fine = {"attr": "note", "value": "fine"}
    posted = {"custom_events": ["dcim.rack_audited"], "conditions": json.dumps(fine), "serializer": "brief"}
    text = client.post(ADDRESS, posted).json()["text"]
    assert text.startswith("Tried on the last 2 events: 1 would have been sent, 0 would not. 1 could not be judged"), (
        text
    )
    assert preview(client, fine, custom_events="dcim.rack_audited").startswith(
        "Tried on the last 3 events: 1 would have been sent, 1 would not. 1 could not be judged"
    )


def test_a_serializer_that_no_webhook_used_then_cannot_be_judged(client: Client, own_registrations: None) -> None:
    webhooks.register(Label, serializer=Name, serializers={"loud": Loud, "name": Name})
    usual, loud = make_webhook(Label), make_webhook(Label, serializer="loud")
    Label.objects.create(name="a")
    usual.delete()
    Label.objects.create(name="a")
    loud.delete()
    make_webhook(Label)
    Label.objects.create(name="a")
    unknown = "cannot be judged now; testapp.label a: no webhook used this serializer"
    for serializer, name, missing in (("", "a", 1), ("loud", "A", 1), ("name", "a", 3)):
        text = preview(client, {"attr": "name", "value": name}, Label, serializer=serializer)
        assert text.startswith(f"Tried on the last 3 events: {3 - missing} would have been sent, 0 would not. "), text
        assert f"{missing} {unknown}" in text


def test_it_needs_permission_to_define_webhooks() -> None:
    user = get_user_model().objects.create_user("viewer", password="x", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=["view_webhook", "view_event"]))
    client = Client()
    assert client.post(ADDRESS, {}).status_code == 302
    client.force_login(user)
    assert client.post(ADDRESS, {}).status_code == 403
    assert client.get(ADDRESS).status_code == 405
    user.user_permissions.add(Permission.objects.get(codename="add_webhook"))
    assert client.post(ADDRESS, {}).status_code == 200


@pytest.mark.parametrize("data", ["[1, 2]", '"text"', "5", "null"])
def test_data_without_fields_can_be_judged(client: Client, data: str) -> None:
    Event.objects.create(action="created", object_type="testapp.thing", object_id="1", webhook_ids=[], data=data)
    assert "there is no 'name'" in preview(client, {"attr": "name", "value": "a"})
