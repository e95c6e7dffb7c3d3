"""A framework on top of Django, such as NetBox, has ways of its own to read and to serialize its models."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import pytest
from django.apps import apps
from django.contrib.contenttypes.models import ContentType
from django.core import serializers as fixtures
from django.db import connection, models, transaction
from django.db.models import Count
from django.test import RequestFactory
from rest_framework import serializers

from tests.support.makers import actions, changed, events, last_data, make_webhook, rename, sides
from tests.testapp.models import Label, Part, Thing
from webhooks.ground import registry
from webhooks.ground.payloads import snapshots
from webhooks.ground.registry import framework
from webhooks.ground.registry.framework import Framework, set_framework

pytestmark = pytest.mark.usefixtures("database", "own_registrations")


class BriefSerializer(serializers.ModelSerializer):
    label_count = serializers.ReadOnlyField()

    class Meta:
        model = Thing
        fields = ("id", "name", "label_count")


class Brief(Framework):
    """Serializes things briefly, with a count, and shows more of them in snapshots."""

    def serializer(self, model: type[models.Model]) -> type[Any] | None:
        return BriefSerializer if model is Thing else None

    def queryset(self, model: type[models.Model]) -> models.QuerySet[Any]:
        found = super().queryset(model)
        return found.annotate(label_count=Count("labels")) if model is Thing else found

    def snapshot_columns(self, model: type[models.Model]) -> Collection[str]:
        return ["status"] if model is Thing else []

    def related_snapshot(self, model: type[models.Model]) -> Callable[[Any], Mapping[str, Any]] | None:
        return (lambda row: {"parts": list(row.parts.values_list("name", flat=True))}) if model is Thing else None


@pytest.fixture
def use() -> Iterator[Callable[[Framework], None]]:
    """Set the framework of the project, for this test."""
    before = framework.framework()
    yield set_framework
    set_framework(before)


@pytest.fixture
def thing(use: Callable[[Framework], None]) -> Thing:
    use(Brief())
    registry.register(Thing)
    return Thing.objects.create(name="old")


def test_it_names_the_serializer_and_annotates_the_rows(thing: Thing) -> None:
    thing.labels.add(Label.objects.create(name="red"))
    make_webhook(Thing)
    rename(thing)
    assert last_data() == {"id": thing.pk, "name": "new", "label_count": 1}
    thing.delete()
    assert (actions(), last_data()["label_count"]) == (["updated", "deleted"], 1)


def test_snapshots_show_its_columns_and_what_it_reads_elsewhere(thing: Thing) -> None:
    Part.objects.create(thing=thing, name="lid")
    make_webhook(Thing, prechange=True)
    with transaction.atomic():
        rename(thing)
        thing.status = "retired"
        thing.save()
        Part.objects.create(thing=thing, name="foot")
        thing.save()
    before, after = sides()
    assert before == {"id": thing.pk, "name": "old", "status": "active", "parts": ["lid"]}
    assert after == {"id": thing.pk, "name": "new", "status": "retired", "parts": ["lid", "foot"]}
    assert changed() == ["name", "parts", "status"]
    assert "status" not in last_data()


def test_an_object_that_is_created_again_is_compared_with_all_of_its_snapshot(thing: Thing) -> None:
    make_webhook(Thing, prechange=True)
    with transaction.atomic():
        pk = thing.pk
        thing.delete()
        Thing.objects.create(pk=pk, name="old", status="retired")
    assert (actions(), changed()) == (["updated"], ["status"])


class MaskingSerializer(BriefSerializer):
    """Shows the status of a thing and its labels, unless its name says that it is a secret."""

    class Meta(BriefSerializer.Meta):
        fields = ("id", "name", "status", "labels")

    def to_representation(self, instance: Thing) -> dict[str, Any]:
        data = super().to_representation(instance)
        match instance.name:
            case "masked":
                return {"id": data["id"], "name": data["name"], "status": "***"}
            case "removed":
                return {"id": data["id"], "name": data["name"]}
        return data


class ComputingSerializer(BriefSerializer):
    """Does not show the status, with code of its own."""

    def to_representation(self, instance: Thing) -> dict[str, Any]:
        return dict(super().to_representation(instance))


class RenamingSerializer(BriefSerializer):
    state = serializers.CharField(source="status")

    class Meta(BriefSerializer.Meta):
        fields = ("id", "name", "state")


@pytest.mark.parametrize(
    ("serializer", "again", "expected"),
    [
        (MaskingSerializer, {"name": "masked", "status": "retired"}, ["name", "status"]),
        (MaskingSerializer, {"name": "masked", "status": "active"}, ["name"]),
        (ComputingSerializer, {"name": "old", "status": "retired"}, ["status"]),  # the snapshots alone show it
    ],
)
def test_an_object_that_is_created_again_has_changed_what_its_serializer_hides(
    thing: Thing, serializer: type[Any], again: dict[str, str], expected: list[str]
) -> None:
    registry.register(Thing, serializer)
    make_webhook(Thing, prechange=True)
    with transaction.atomic():
        pk = thing.pk
        thing.delete()
        Thing.objects.create(pk=pk, **again)
    assert (actions(), changed()) == (["updated"], expected)


@pytest.mark.parametrize(
    ("serializer", "name", "shown"),
    [(MaskingSerializer, "removed", set()), (RenamingSerializer, "new", {"state"})],
)
def test_snapshots_keep_no_column_that_the_serializer_decides_about(
    thing: Thing, serializer: type[Any], name: str, shown: set[str]
) -> None:
    registry.register(Thing, serializer)
    make_webhook(Thing, prechange=True)
    thing.name = name
    thing.save()
    assert sides()[1].keys() == {"id", "name", "parts", *shown}


def test_what_is_excluded_stays_out_of_its_snapshots(thing: Thing) -> None:
    registry.register(Thing, exclude=["status", "parts"])
    make_webhook(Thing, prechange=True)
    rename(thing)
    assert sides() == ({"id": thing.pk, "name": "old"}, {"id": thing.pk, "name": "new"})
    registration = registry.registration_of(Thing)
    assert snapshots.snapshot_fields(registration).keys() == {"id", "name"}
    assert snapshots.related_snapshot(registration, thing) == {}


def test_a_webhook_may_choose_its_columns_as_changed_fields(thing: Thing) -> None:
    make_webhook(Thing, on="u", changed_fields=["status"])
    rename(thing)
    thing.status = "retired"
    thing.save()
    assert [changed(event) for event in events()] == [["status"]]


class Recording(Framework):
    def records_raw_saves(self) -> bool:
        return True


@pytest.mark.parametrize(("chosen", "recorded"), [(Framework(), []), (Recording(), ["created"])])
def test_it_may_record_objects_that_are_saved_as_those_of_a_fixture(
    use: Callable[[Framework], None], chosen: Framework, recorded: list[str]
) -> None:
    use(chosen)
    make_webhook(Thing)
    Label.objects.create(pk=1, name="red")
    fields = {"name": "new", "status": "active", "labels": [1], "friends": [], "heroes": []}
    text = json.dumps([{"model": "testapp.thing", "pk": 7, "fields": fields}])
    with transaction.atomic():
        for one in fixtures.deserialize("json", text):
            one.save()
    assert actions() == recorded
    assert [last_data()["labels"]] == [["red"]] if recorded else not events()


class Acting(Framework):
    def request(self) -> Any | None:
        request = RequestFactory().post("/merge/")
        request.id, request.user = "m-1", None
        return request


def test_its_request_is_behind_a_change(use: Callable[[Framework], None]) -> None:
    use(Acting())
    make_webhook(Thing)
    Thing.objects.create(name="new")
    [event] = events()
    assert (event.request_id, json.loads(event.request)["path"]) == ("m-1", "/merge/")


class Creating(Framework):
    def serializer(self, model: type[models.Model]) -> type[Any] | None:
        if model.__name__ != "Crate":
            return None
        meta = type("Meta", (), {"model": model, "fields": ("id", "name")})
        return type("CrateSerializer", (serializers.ModelSerializer,), {"Meta": meta})

    def creates(self, model: type[models.Model]) -> bool:
        return model.__name__ == "Crate"


@pytest.mark.parametrize(("listed", "recorded"), [(["*"], ["created"]), (["testapp.*"], ["created"]), (["dcim.*"], [])])
def test_a_model_of_a_listed_app_is_registered_when_it_is_created(
    use: Callable[[Framework], None], listed: list[str], recorded: list[str], settings: Any
) -> None:
    use(Creating())
    settings.WEBHOOKS = {**settings.WEBHOOKS, "MODELS": listed}
    meta = type("Meta", (), {"app_label": "testapp"})
    fields = {"__module__": "tests.testapp.models", "Meta": meta, "name": models.CharField(max_length=50)}
    crate: Any = type("Crate", (models.Model,), fields)
    try:
        with connection.schema_editor() as editor:
            editor.create_model(crate)
        if recorded:
            make_webhook(crate)
        crate.objects.create(name="new")
        assert actions() == recorded
    finally:
        with connection.schema_editor() as editor:
            editor.delete_model(crate)
        del apps.all_models["testapp"]["crate"]
        apps.clear_cache()
        ContentType.objects.filter(model="crate").delete()
        ContentType.objects.clear_cache()
