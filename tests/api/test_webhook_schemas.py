"""The schemas of payloads: in the OpenAPI document of the host, and by ``webhooks_schema``. Real payloads fit them."""

from __future__ import annotations

import io
import json
from typing import Any

import jsonschema
import pytest
from django.core.management import CommandError, call_command
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.settings import patched_settings

from dcim.models import Device
from tests.support.makers import make_webhook
from tests.testapp.models import Thing
from webhooks import payloads, registry
from webhooks.models import Event
from webhooks.payloads.schema import json_schema
from webhooks.testing import capture_webhooks

pytestmark = pytest.mark.django_db

HOOKS = ["drf_spectacular.hooks.postprocess_schema_enums", "webhooks.api.openapi.add_webhooks"]


def document(version: str = "3.1.1") -> Any:
    with patched_settings({"POSTPROCESSING_HOOKS": HOOKS, "OAS_VERSION": version}):
        return SchemaGenerator().get_schema(request=None, public=True)


def printed(*arguments: str) -> Any:
    out = io.StringIO()
    call_command("webhooks_schema", *arguments, stdout=out)
    return json.loads(out.getvalue())


def sent() -> Any:
    """The payload of the last event."""
    event = Event.objects.order_by("-pk").first()
    assert event
    return json.loads(payloads.json_body(event))


def test_the_document_of_the_host_has_a_webhook_for_each_model(capsys: pytest.CaptureFixture[str]) -> None:
    webhooks = document()["webhooks"]
    assert webhooks.keys() == registry.registered_models().keys()
    schema = webhooks["dcim.site"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"]["data"] == {"$ref": "#/components/schemas/Site"}
    assert "webhooks" not in capsys.readouterr().err


def test_a_document_before_openapi_3_1_stays_as_it_is() -> None:
    assert "webhooks" not in document("3.0.3")


def test_every_reference_of_the_document_leads_to_a_component() -> None:
    found = document()
    known = {f"#/components/schemas/{name}" for name in found["components"]["schemas"]}
    used = {part.split('"')[0] for part in json.dumps(found["webhooks"]).split('"$ref": "')[1:]}
    assert used <= known


@pytest.mark.parametrize("label", ["dcim.site", "dcim.device", "testapp.thing"])
def test_the_schema_of_a_model_is_valid(label: str) -> None:
    registration = registry.registration_by_label(label)
    assert registration
    jsonschema.Draft202012Validator.check_schema(json_schema(registration))


def test_real_payloads_fit_the_schema_and_others_do_not() -> None:
    make_webhook(Thing, prechange=True)
    registration = registry.registration_of(Thing)
    assert registration
    schema = json_schema(registration)
    with capture_webhooks(["testapp.thing"]):
        thing = Thing.objects.create(name="router")
    payload = sent()
    jsonschema.validate(payload, schema)
    with capture_webhooks(["testapp.thing"], prechange=True):
        thing.name = "switch"
        thing.save()
    jsonschema.validate(sent(), schema)
    with capture_webhooks(["testapp.thing"]):
        thing.delete()
    jsonschema.validate(sent(), schema)
    for wrong in ({"event": "renamed"}, {"sequence": "1"}, {"data": {"name": 1}}, {"object_type": "dcim.rack"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(payload | wrong, schema)


def test_the_command_writes_the_schema_with_the_newest_object_as_an_example() -> None:
    assert "examples" not in printed("testapp.thing")
    Thing.objects.create(name="router")
    schema = printed("TestApp.Thing")
    [example] = schema["examples"]
    assert (example["event"], example["data"]["name"]) == ("updated", "router")
    jsonschema.validate(example, schema)
    assert "examples" not in printed("testapp.thing", "--no-example")


def test_fields_that_are_not_sent_are_not_in_the_schema() -> None:
    registration = registry.Registration(
        Thing, registry.registration_of(Thing).serializer, exclude=frozenset({"status"})
    )
    schema = json_schema(registration)
    assert "name" in schema["properties"]["data"]["properties"]
    assert "status" not in schema["properties"]["data"]["properties"]


def test_a_model_that_is_not_registered_is_named_with_the_known_ones() -> None:
    with pytest.raises(CommandError, match="dcim.nothing is not registered. Registered are: .*dcim.site"):
        printed("dcim.nothing")
    assert Device in registry.registered_models().values()
