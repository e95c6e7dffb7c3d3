"""The body that receivers get."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs

import pytest
from django.db import transaction
from django.utils import timezone, translation
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import strategies as st
from rest_framework import serializers
from rest_framework.renderers import JSONRenderer

from core.models import Tag
from dcim.api.serializers import SiteSerializer
from dcim.models import Site
from ipam.models import Prefix
from tests.support.makers import events, make_webhook
from tests.testapp.models import Label, Thing
from webhooks.ground import payloads, registry
from webhooks.ground.text.json_text import dumps
from webhooks.models import Event

WHEN = datetime(2026, 11, 24, 13, 19, 33, 120456, tzinfo=UTC)

KEYS = {
    "event", "timestamp", "object_type", "model", "username", "request_id", "request", "sequence", "data", "snapshots",
    "changed",
}  # fmt: skip


def an_event(**fields: Any) -> Event:
    defaults: dict[str, Any] = {
        "pk": 4711,
        "action": "created",
        "timestamp": WHEN,
        "object_type": "dcim.site",
        "object_id": "1",
        "data": '{"id":1,"name":"R\\u00fcm"}',
        "username": "jstretch",
        "request_id": "c3fb7a2e",
        "request": '{"id":"c3fb7a2e","method":"POST"}',
    }
    return Event(**defaults | fields)


def test_the_body_has_netboxs_keys_and_more() -> None:
    assert json.loads(payloads.json_body(an_event())) == {
        "event": "created",
        "timestamp": "2026-11-24T13:19:33.120456+00:00",
        "object_type": "dcim.site",
        "model": "site",
        "username": "jstretch",
        "request_id": "c3fb7a2e",
        "request": {"id": "c3fb7a2e", "method": "POST"},
        "sequence": 4711,
        "data": {"id": 1, "name": "Rüm"},
        "snapshots": {"prechange": None, "postchange": None},
        "changed": None,
    }


def test_a_change_outside_of_a_request_has_no_request() -> None:
    body = json.loads(payloads.json_body(an_event(request="", request_id="", username="")))
    assert (body["request"], body["request_id"], body["username"]) == (None, "", "")


def test_the_form_has_the_keys_of_the_json_body() -> None:
    form = parse_qs(payloads.form_body(an_event()).decode(), strict_parsing=True)
    body = json.loads(payloads.json_body(an_event()))
    assert set(form) == set(body) == KEYS
    for key, [value] in form.items():
        plain = isinstance(body[key], str)
        assert (value if plain else json.loads(value)) == body[key]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(data=st.dictionaries(st.text(), JSON), name=st.text(), request=st.none() | st.dictionaries(st.text(), JSON))
def test_random_bodies_are_valid_json_and_equal_forms(data: Any, name: str, request: Any) -> None:
    event = an_event(data=dumps(data), username=name, request=json.dumps(request) if request is not None else "")
    body = json.loads(payloads.json_body(event))
    assert set(body) == KEYS
    assert (body["data"], body["username"], body["request"]) == (data, name, request)
    form = parse_qs(payloads.form_body(event).decode(), keep_blank_values=True, strict_parsing=True)
    assert json.loads(form["data"][0]) == data
    if "\ud800" <= max(name, default="") <= "\udfff":
        return
    assert form["username"] == [name]


def test_values_become_json_like_in_rest_framework() -> None:
    values = {"a": Decimal("1.50"), "b": WHEN, "c": timedelta(seconds=90), "d": uuid.uuid4(), "e": "ü"}
    assert json.loads(dumps(values)) == json.loads(JSONRenderer().render(values))


# From a saved object


@pytest.mark.usefixtures("database")
def test_data_come_from_the_projects_serializer() -> None:
    make_webhook(Site)
    site = Site.objects.create(name="Berlin", slug="berlin", latitude=Decimal("52.520008"))
    site.refresh_from_db()
    [event] = events()
    expected = json.loads(dumps(SiteSerializer(site, context={"request": None}).data))
    assert json.loads(payloads.json_body(event))["data"] == expected
    assert expected["status"] == {"value": "active", "label": "Active"}


@pytest.mark.usefixtures("database")
def test_network_fields_become_json() -> None:
    make_webhook(Prefix)
    Prefix.objects.create(prefix="192.0.2.0/24")
    [event] = events()
    assert not event.error, event.error
    assert json.loads(event.data)["prefix"] == "192.0.2.0/24"
    assert json.loads(event.snapshots)["postchange"]["prefix"] == "192.0.2.0/24"


@pytest.mark.usefixtures("database")
def test_snapshots_show_the_columns_after_a_change_and_before_a_deletion() -> None:
    make_webhook(Thing)
    thing = Thing.objects.create(name="a")
    thing.labels.add(Label.objects.create(name="red"))
    pk = thing.pk
    thing.delete()
    created, updated, deleted = (json.loads(event.snapshots) for event in events())
    new = {"id": pk, "name": "a", "status": "active", "labels": [], "friends": [], "heroes": [], "groups": []}
    labelled = new | {"labels": ["red"]}
    assert created == {"prechange": None, "postchange": new}
    assert updated == {"prechange": None, "postchange": labelled}
    assert deleted == {"prechange": labelled, "postchange": None}


@pytest.mark.usefixtures("database")
def test_snapshots_have_tags_and_custom_fields_like_netbox() -> None:
    make_webhook(Site, prechange=True)
    edge, alpha = (Tag.objects.create(name=name, slug=name.lower()) for name in ("Edge", "Alpha"))
    site = Site.objects.create(name="a", slug="a", custom_field_data={"zone": "a"})
    with transaction.atomic():
        site.tags.set([edge, alpha])
        site.custom_field_data = {"zone": "b"}
        site.save()
    snapshots = json.loads(events()[-1].snapshots)
    before, after = snapshots["prechange"], snapshots["postchange"]
    assert (before["tags"], after["tags"]) == ([], ["Alpha", "Edge"])
    assert (before["custom_fields"], after["custom_fields"]) == ({"zone": "a"}, {"zone": "b"})
    assert (before["status"], before["tenant"]) == ("active", None)
    assert "last_updated" not in before  # it says that there was a save, not what changed
    assert json.loads(events()[-1].changed) == ["custom_fields", "tags"]


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("use_tz", [True, False])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu"])
def test_the_timestamp_is_utc_in_every_time_zone(settings: Any, use_tz: bool, zone: str) -> None:
    settings.USE_TZ, settings.TIME_ZONE = use_tz, zone
    make_webhook(Thing)
    before = datetime.now(UTC)
    Thing.objects.create(name="a")
    [event] = events()
    stamp = datetime.fromisoformat(json.loads(payloads.json_body(event))["timestamp"])
    assert stamp.tzinfo is not None, "without an offset the time is ambiguous"
    assert stamp.utcoffset() == timedelta(0)
    assert before - timedelta(seconds=1) <= stamp <= datetime.now(UTC)
    assert timezone.is_aware(event.timestamp) == use_tz


class Worded(serializers.ModelSerializer):
    word = serializers.SerializerMethodField()
    seen = serializers.SerializerMethodField()
    made = serializers.DateTimeField(source="created")

    class Meta:
        model = Site
        fields = ("word", "seen", "made")

    def get_word(self, site: Site) -> Any:
        return gettext_lazy("Yes")

    def get_seen(self, site: Site) -> str:
        return str(translation.get_language())


@pytest.mark.usefixtures("database")
def test_the_users_language_and_time_zone_do_not_change_the_payload(own_registrations: None) -> None:
    registry.register(Site, Worded)
    make_webhook(Site)
    with translation.override("de"), timezone.override("Asia/Kathmandu"):
        Site.objects.create(name="a", slug="a")
        assert translation.get_language() == "de"
    data = json.loads(events()[-1].data)
    made = Site.objects.get().created.isoformat().replace("+00:00", "Z")
    assert data == {"word": "Yes", "seen": "en-us", "made": made}
