"""Static data: keys that a webhook adds to the data of its payloads."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs

import pytest
from django.core.exceptions import ValidationError
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.test import APIClient

from tests.support.draining import drain
from tests.support.inbox import Inbox
from tests.support.makers import make_event, make_webhook
from tests.testapp.models import Thing
from users.models import User
from webhooks.ground.payloads import Bodies
from webhooks.insight.bodies import sent_bodies
from webhooks.models import Attempt, Webhook
from webhooks.models.attempt import BodyKind
from webhooks.operations.trial import Sample, try_out

pytestmark = pytest.mark.usefixtures("database")

STATIC = {"team": "noc", "name": "not this", "tags": [{"a": None}]}
DATA = json.dumps({"id": 7, "name": "Thing"}, separators=(",", ":"))
MERGED = {"team": "noc", "tags": [{"a": None}], "id": 7, "name": "Thing"}
FORM = "application/x-www-form-urlencoded"


def sent_by(inbox: Inbox, **fields: Any) -> Any:
    make_event(make_webhook(Thing, url=inbox.url(), static_data=STATIC, **fields), data=DATA)
    drain()
    [received] = inbox.received()
    return received


def test_keys_are_added_to_the_data_and_the_data_wins(inbox: Inbox) -> None:
    received = sent_by(inbox)
    assert received.json["data"] == MERGED
    assert received.json["event"] == "updated"


def test_a_form_has_them(inbox: Inbox) -> None:
    received = sent_by(inbox, content_type=FORM)
    assert json.loads(parse_qs(received.body.decode())["data"][0]) == MERGED


def test_templates_see_them(inbox: Inbox) -> None:
    received = sent_by(
        inbox, body_template="{{ data.team }} {{ data.name }}", additional_headers="X-Team: {{ data.team }}"
    )
    assert (received.body, received.headers["x-team"]) == (b"noc Thing", "noc")


def test_others_of_the_same_event_do_not_get_them(inbox: Inbox) -> None:
    wanted = {"plain": None, "noc": {"team": "noc"}, "lab": {"team": "lab"}}
    webhooks = [make_webhook(Thing, url=inbox.url(f"ok/{name}"), static_data=one) for name, one in wanted.items()]
    make_event(*webhooks, data=DATA)
    drain()
    teams = {received.path.rpartition("/")[2]: received.json["data"].get("team") for received in inbox.received()}
    assert teams == {"plain": None, "noc": "noc", "lab": "lab"}


@pytest.mark.parametrize("content_type", ["application/json", FORM])
def test_the_body_is_kept_as_it_was_sent(inbox: Inbox, content_type: str) -> None:
    received = sent_by(inbox, content_type=content_type)
    Webhook.objects.update(static_data={"team": "another"})
    attempt = Attempt.objects.get()
    assert attempt.body_kind == BodyKind.STATIC
    assert list(sent_bodies(attempt.delivery, [attempt]).values()) == [received.body]


def test_conditions_do_not_see_them() -> None:
    webhook = make_webhook(Thing, static_data=STATIC, conditions={"attr": "team", "value": "noc"})
    Thing.objects.create(name="Thing")
    from webhooks.models import Event

    assert not Event.objects.filter(error="").exists()
    assert webhook.static_data == STATIC


@pytest.mark.one_database
@pytest.mark.parametrize("data", ["null", "[1]", '"text"', "5", ""])
def test_data_that_is_no_object_stays_as_it_is(data: str) -> None:
    bodies = Bodies(make_event(data=data)).adding(STATIC)
    assert json.loads(bodies.body(as_form=False))["data"] == json.loads(data or "null")


@pytest.mark.one_database
@given(st.dictionaries(st.text(), st.none() | st.integers()), st.dictionaries(st.text(), st.none() | st.integers()))
def test_it_is_netbox_merge(static_data: dict[str, Any], data: dict[str, Any]) -> None:
    from webhooks.models import Event

    def unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), "a key comes twice, and receivers differ in which one they take"
        return dict(pairs)

    event = Event(pk=1, data=json.dumps(data, separators=(",", ":")))
    body = Bodies(event).adding(static_data).body(as_form=False)
    assert json.loads(body, object_pairs_hook=unrepeated)["data"] == {**static_data, **data}


@pytest.mark.one_database
@pytest.mark.parametrize("value", [[1], "text", 5, True])
def test_it_must_be_an_object(value: Any) -> None:
    webhook = Webhook(name="x", payload_url="http://10.0.0.5/", on_created=True, static_data=value)
    with pytest.raises(ValidationError, match="Must be a JSON object"):
        webhook.full_clean()


@pytest.mark.one_database
def test_it_may_not_be_nested_too_deep() -> None:
    nested: Any = {}
    for _ in range(60):
        nested = {"a": [nested]}
    webhook = Webhook(name="x", payload_url="http://10.0.0.5/", on_created=True, static_data=nested)
    with pytest.raises(ValidationError, match="nested too deep"):
        webhook.full_clean()


def test_it_is_a_field_of_the_rest_api(django_user_model: type[User]) -> None:
    client = APIClient()
    client.force_authenticate(django_user_model.objects.create_superuser("admin"))
    webhook = {"name": "x", "payload_url": "http://10.0.0.5/", "object_types": ["testapp.thing"], "on_created": True}
    answer = client.post("/api/webhooks/webhooks/", webhook | {"static_data": {"team": "noc"}}, format="json")
    assert answer.status_code == 201, answer.json()
    assert answer.json()["static_data"] == {"team": "noc"}
    address = f"/api/webhooks/webhooks/{answer.json()['id']}/"
    assert client.patch(address, {"static_data": {}}, format="json").json()["static_data"] is None


def test_a_trial_shows_them(django_user_model: type[User]) -> None:
    user = django_user_model.objects.create_superuser("admin")
    webhook = make_webhook(Thing, static_data={"team": "noc"})
    trial = try_out(webhook, webhook.object_types.all(), Sample(), user)
    assert trial.request is not None
    assert json.loads(trial.request.body)["data"]["team"] == "noc"
