"""The schemas of payloads: in the OpenAPI document of the host, and by ``webhooks_schema``. Real payloads fit them."""

from __future__ import annotations

import io
import json
from decimal import Decimal
from typing import Any

import jsonschema
import pytest
from django.core.management import CommandError, call_command
from django.db import models
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.settings import patched_settings
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.test import APIClient

from dcim.models import Device
from tests.support.makers import make_webhook
from tests.testapp.models import Label, Member, Note, Part, Thing
from webhooks.capture.serialize import serialize
from webhooks.ground import payloads, registry
from webhooks.ground.payloads.schema import json_schema
from webhooks.ground.registry.registration import Registration
from webhooks.models import Event
from webhooks.testing import capture_webhooks

pytestmark = [pytest.mark.one_database, pytest.mark.django_db]

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
    data = {
        label: one["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]["data"]
        for label, one in webhooks.items()
    }
    assert data["testapp.label"] == {"$ref": "#/components/schemas/Label"}
    assert data["dcim.site"]["properties"]["name"] == {"type": "string", "maxLength": 100}
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
    with pytest.raises(CommandError, match=r"dcim\.nothing is not registered\. Registered are: .*dcim\.site"):
        printed("dcim.nothing")
    assert Device in registry.registered_models().values()


def test_the_payloads_of_the_example_fit_their_schemas(api: APIClient) -> None:
    call_command("demo_data", stdout=io.StringIO())
    labels = [label for label in registry.registered_models() if not label.startswith("testapp.")]
    assert len(labels) == 20
    for label in labels:
        out, err = io.StringIO(), io.StringIO()
        call_command("webhooks_schema", label, stdout=out, stderr=err)
        assert len(json.loads(out.getvalue())["examples"]) == 1
        assert "does not fit" not in err.getvalue(), label


def test_the_payload_of_a_request_fits(api: APIClient) -> None:
    with capture_webhooks(["dcim.site"], prechange=True):
        made = api.post("/api/dcim/sites/?a=1&b", {"name": "Oslo", "slug": "oslo"}, format="json")
    assert made.status_code == 201
    registration = registry.registration_by_label("dcim.site")
    assert registration
    assert sent()["request"]["GET"] == {"a": "1", "b": ""}
    jsonschema.validate(sent(), json_schema(registration))


# Unusual serializers


def serializer_of(model: type[models.Model], *names: str, **fields: Any) -> type[serializers.ModelSerializer]:
    """A serializer of these columns and these fields."""
    meta = type("Meta", (), {"model": model, "fields": (*names, *fields)})
    return type(f"Odd{model.__name__}Serializer", (serializers.ModelSerializer,), {**fields, "Meta": meta})


LabelSerializer = serializer_of(Label, "id", "name")


class CountedSerializer(serializers.ModelSerializer):
    count = serializers.SerializerMethodField()

    class Meta:
        model = Thing
        fields = ("id", "count")

    def get_count(self, thing: Thing) -> int:
        return thing.labels.count()


class UntypedSerializer(CountedSerializer):
    def get_count(self, thing):  # type: ignore[no-untyped-def]
        return {"labels": 7}


class EnvelopeSerializer(CountedSerializer):
    def to_representation(self, thing: Thing) -> dict[str, Any]:
        return {"thing": super().to_representation(thing)}


class LabelledField(serializers.CharField):
    """Writes an object, as NetBox's choices."""

    def to_representation(self, value: str) -> Any:
        return {"value": value, "label": value.title()}


class HintedField(LabelledField):
    pass


extend_schema_field({"type": "object", "required": ["value"]})(HintedField)


class ObjectField(serializers.RelatedField):
    def to_representation(self, label: Label) -> Any:
        return {"id": label.pk}


class PersonalSerializer(serializers.ModelSerializer):
    """Needs the request in its context, and has other fields without a user."""

    class Meta:
        model = Thing
        fields = ("id", "name", "status")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.context["request"].user.is_anonymous:
            del self.fields["status"]
        self.fields["twice"] = serializers.IntegerField(source="pk", read_only=True)


class FreeSerializer(serializers.BaseSerializer):
    def to_representation(self, thing: Thing) -> list[str]:
        return [thing.name]


class PlainSerializer:
    """Not of REST framework."""

    def __init__(self, thing: Any = None, context: Any = None) -> None:
        self.thing = thing

    @property
    def data(self) -> dict[str, Any]:
        return {"name": self.thing.name}


class DemandingSerializer(CountedSerializer):
    def __init__(self, *args: Any, tenant: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


ODD: dict[str, Any] = {
    "typed method": CountedSerializer,
    "decimal with limits": serializer_of(
        Thing, pk=serializers.DecimalField(12, 2, min_value=Decimal("-90.5"), coerce_to_string=False)
    ),
    "method without a type": UntypedSerializer,
    "own fields": serializer_of(
        Thing,
        "id",
        name=LabelledField(),
        hinted=HintedField(source="status"),
        names=serializers.ListField(child=LabelledField(), source="name", read_only=True),
        labels=ObjectField(many=True, read_only=True),
    ),
    "nested, keys and names": serializer_of(
        Thing,
        "id",
        labels=LabelSerializer(many=True, read_only=True),
        friends=serializers.PrimaryKeyRelatedField(many=True, read_only=True),
        heroes=serializers.StringRelatedField(many=True),
    ),
    "fields of requests": serializer_of(
        Thing,
        "id",
        pin=serializers.CharField(write_only=True),
        labels=serializer_of(Label, "id", pin=serializers.CharField(write_only=True))(many=True, read_only=True),
    ),
    "fields of the moment": PersonalSerializer,
    "no fields": serializer_of(Thing),
    "free": FreeSerializer,
    "plain": PlainSerializer,
}


def data_schema(registration: Registration) -> dict[str, Any]:
    """The schema of the data, checked and complete."""
    schema = json_schema(registration)
    jsonschema.Draft202012Validator.check_schema(schema)
    return {**schema["properties"]["data"], "$defs": schema["$defs"]}


@pytest.fixture
def thing() -> Thing:
    made = Thing.objects.create(name="router")
    made.labels.add(Label.objects.create(name="core"))
    made.friends.add(Thing.objects.create(name="switch"))
    return made


@pytest.mark.parametrize("kind", ODD)
def test_what_an_unusual_serializer_writes_fits_its_schema(kind: str, thing: Thing) -> None:
    registration = Registration(Thing, ODD[kind])
    jsonschema.validate(json.loads(serialize(registration, thing).data), data_schema(registration))


def test_what_may_be_empty_fits_if_its_field_says_so() -> None:
    empty = {"read_only": True, "allow_null": True}
    related = serializers.PrimaryKeyRelatedField(**empty)
    name = serializers.CharField(source="spare_of.name", **empty)
    nested = serializer_of(Part, "id")(source="spare_of", **empty)
    registration = Registration(Part, serializer_of(Part, "id", spare_of=related, spare_name=name, spare=nested))
    data = json.loads(serialize(registration, Part(pk=1, name="fan")).data)
    jsonschema.validate(data, data_schema(registration))
    assert data == {"id": 1, "spare_of": None, "spare_name": None, "spare": None}


def test_a_field_that_describes_itself_keeps_its_schema_and_no_other_has_a_guess() -> None:
    nested = serializer_of(Thing, whole=EnvelopeSerializer(source="*", read_only=True))  # as the serializer of a model
    assert data_schema(Registration(Thing, nested))["$ref"] == "#/$defs/OddThing"
    found = data_schema(Registration(Thing, ODD["own fields"]))["properties"]
    assert found["hinted"] == {"type": "object", "required": ["value"]}
    assert found["id"]["type"] == "integer"
    assert [found[name] for name in ("name", "names", "labels")] == [{}, {}, {}]


def test_a_schema_without_declared_fields_says_nothing_of_the_data() -> None:
    for kind in (FreeSerializer, PlainSerializer):
        assert data_schema(Registration(Thing, kind)) == {"$defs": {}}


MEMBER = serializer_of(Member, "email", "last_login", phrase=serializers.CharField(source="password", read_only=True))


def test_a_renamed_secret_is_in_neither_the_payload_nor_its_schema() -> None:
    registration = Registration(Member, MEMBER)
    schema, data = data_schema(registration), serialize(registration, Member(email="a@example.org", password="s3cret"))
    jsonschema.validate(json.loads(data.data), schema)
    assert schema["properties"].keys() == {"email", "last_login"}
    assert "phrase" not in schema["required"]


def test_a_secret_of_a_nested_serializer_is_in_neither_the_payload_nor_its_schema(thing: Thing) -> None:
    renamed = serializer_of(Label, "id", api_token=serializers.CharField(source="name", read_only=True))
    nested = serializer_of(Part, "id", label=renamed(source="thing.labels.first", read_only=True))
    several = serializer_of(Part, "id", labels=renamed(source="thing.labels", many=True, read_only=True))
    for kind in (nested, several):
        registration, part = Registration(Part, kind), Part(pk=1, thing=thing, name="fan")
        schema, data = data_schema(registration), json.loads(serialize(registration, part).data)
        jsonschema.validate(data, schema)
        assert "api_token" not in json.dumps([data, schema["properties"]])


# The document of the host


def document_of(monkeypatch: pytest.MonkeyPatch, *registrations: Registration, hooks: list[str] = HOOKS) -> Any:
    monkeypatch.setattr(registry, "registrations", lambda: list(registrations))
    with patched_settings({"POSTPROCESSING_HOOKS": hooks, "OAS_VERSION": "3.1.1"}):
        return SchemaGenerator().get_schema(request=None, public=True)


def test_a_serializer_that_fails_takes_nothing_from_the_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = serializer_of(Thing, "missing")
    found = document_of(
        monkeypatch, Registration(Note, "nowhere.Serializer"), Registration(Thing, DemandingSerializer),
        Registration(Part, serializer_of(Part, "id", thing=failing())), Registration(Label, LabelSerializer),
    )  # fmt: skip
    assert found["webhooks"].keys() == {"testapp.label"}
    assert None not in found["components"]["schemas"].values()
    said = capsys.readouterr().err
    for label, error in (("note", "ImproperlyConfigured"), ("thing", "TypeError"), ("part", "ImproperlyConfigured")):
        assert f"testapp.{label} has no webhook in the document: {error}" in said


def add_example(result: Any, generator: Any, request: Any, public: bool) -> Any:
    """A hook of the host."""
    parts = result["components"]["schemas"]
    return {**result, "components": {"schemas": {**parts, "Site": {**parts["Site"], "example": "Oslo"}}}}


def test_what_another_hook_has_changed_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    registration = registry.registration_by_label("dcim.site")
    assert registration
    hooks = [HOOKS[0], f"{__name__}.add_example", HOOKS[1]]
    found = document_of(monkeypatch, registration, Registration(Label, LabelSerializer), hooks=hooks)
    assert found["components"]["schemas"]["Site"]["example"] == "Oslo"
    assert "OddLabel" in found["components"]["schemas"]


# The command


def test_an_example_that_does_not_fit_is_reported_with_its_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], thing: Thing
) -> None:
    for kind, expected in ((CountedSerializer, ""), (EnvelopeSerializer, "  data: 'id' is a required property")):
        registration = Registration(Thing, kind)
        monkeypatch.setattr(registry, "registration_by_label", lambda label, one=registration: one)
        err = io.StringIO()
        call_command("webhooks_schema", "testapp.thing", stdout=io.StringIO(), stderr=err)
        assert expected in err.getvalue()
        assert bool(expected) == bool(err.getvalue())


def test_a_project_with_another_schema_class_is_told_what_it_needs(settings: Any) -> None:
    other = {"DEFAULT_SCHEMA_CLASS": "rest_framework.schemas.openapi.AutoSchema"}
    settings.REST_FRAMEWORK = {**settings.REST_FRAMEWORK, **other}
    with pytest.raises(CommandError, match="drf-spectacular, as DEFAULT_SCHEMA_CLASS"):
        printed("testapp.thing")
