"""Which models may have webhooks."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import models
from rest_framework.serializers import ModelSerializer

import webhooks
from dcim.api.serializers import SiteSerializer
from dcim.models import Site
from tests.support.makers import actions, events, last_data, make_webhook
from tests.testapp.api.serializers import LabelSerializer, ThingSerializer
from tests.testapp.models import Diner, Label, Place, Restaurant, Thing, ThingProxy, Unregistered
from users.models import User
from webhooks.ground import registry
from webhooks.ground.registry.registration import Registration, conventional_serializer

pytestmark = pytest.mark.usefixtures("own_registrations")


def registration(model: type[models.Model]) -> Registration:
    found = registry.registration_of(model)
    assert found is not None
    return found


def test_netboxs_convention_finds_the_serializer() -> None:
    assert registration(Site).serializer_class("") is SiteSerializer
    assert registration(Thing).serializer_class("") is ThingSerializer


def test_a_module_of_the_project_may_have_serializers_of_all_apps(
    monkeypatch: pytest.MonkeyPatch, webhooks_settings: Any
) -> None:
    class UnregisteredSerializer(ModelSerializer):
        class Meta:
            model = Unregistered
            fields = ("id",)

    class DinerSerializer(ModelSerializer):
        class Meta:
            model = Thing  # of the same name in another app
            fields = ("id",)

    module = ModuleType("project_serializers")
    vars(module).update(UnregisteredSerializer=UnregisteredSerializer, DinerSerializer=DinerSerializer)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    webhooks_settings(SERIALIZERS=[module.__name__])
    assert conventional_serializer(Unregistered) is UnregisteredSerializer
    assert conventional_serializer(Diner) is not DinerSerializer


def test_all_models_of_the_example_with_a_serializer_are_registered() -> None:
    apps = ("dcim", "ipam", "tenancy", "circuits", "virtualization")
    labels = [item.label for item in registry.registrations() if item.label.split(".")[0] in apps]
    assert len(labels) == 20
    assert labels == sorted(labels)
    assert "core.tag" not in labels


def test_a_star_takes_only_models_with_a_serializer() -> None:
    labels = {item.label for item in registry.registrations()}
    assert "testapp.thing" in labels
    assert "testapp.unregistered" not in labels
    assert "testapp.membership" not in labels
    assert "testapp.thingproxy" not in labels


@pytest.fixture
def plain_serializers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module ``serializers`` of the app, where REST framework's own documentation puts it."""
    module = ModuleType("tests.testapp.serializers")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_a_serializer_is_found_in_the_module_serializers_too(plain_serializers: Any) -> None:
    plain_serializers.UnregisteredSerializer = LabelSerializer
    plain_serializers.ThingSerializer = LabelSerializer
    registry.register_listed(["testapp.*"])
    assert registration(Unregistered).serializer_class("") is LabelSerializer
    assert registration(Thing).serializer_class("") is ThingSerializer  # of api.serializers, which comes first


def test_a_name_that_is_no_class_is_no_serializer(plain_serializers: Any) -> None:
    plain_serializers.UnregisteredSerializer = lambda instance: {}
    registry.register_listed(["testapp.*"])
    assert registry.registration_of(Unregistered) is None
    webhooks.register(Unregistered, serializer="tests.testapp.serializers.UnregisteredSerializer")
    with pytest.raises(ImproperlyConfigured, match="UnregisteredSerializer' is no class"):
        registration(Unregistered).serializer_class("")


def test_an_import_error_inside_serializers_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import tests.testapp

    (tmp_path / "serializers.py").write_text("import tests.testapp.nowhere")
    monkeypatch.setattr(tests.testapp, "__path__", [*tests.testapp.__path__, str(tmp_path)])
    with pytest.raises(ImportError, match="nowhere"):
        registry.register_listed(["testapp.*"])
    webhooks.register(Unregistered)
    with pytest.raises(ImproperlyConfigured, match=r"No serializer for testapp\.unregistered: No module .*nowhere"):
        registration(Unregistered).serializer_class("")


def test_a_single_star_takes_all_apps_but_django_and_webhooks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = {item.label for item in registry.registrations()}
    monkeypatch.setattr(registry, "_registrations", {})
    of_django = ModuleType("django.contrib.auth.serializers")
    of_django.GroupSerializer = LabelSerializer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, of_django.__name__, of_django)
    registry.register_listed(["*"])
    # The example lists its apps one by one, and leaves out core.
    assert {item.label for item in registry.registrations()} == known | {"core.tag"}


def test_models_of_webhooks_are_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="Delivery belongs to webhooks itself"):
        webhooks.register("rq_webhooks.Delivery", serializer=LabelSerializer)


@pytest.mark.parametrize("serializer", [LabelSerializer, "tests.testapp.api.serializers.LabelSerializer"])
def test_a_serializer_can_be_a_class_or_a_path(serializer: object) -> None:
    webhooks.register(Unregistered, serializer=serializer)
    assert registration(Unregistered).serializer_class("") is LabelSerializer


def test_a_model_can_be_a_label() -> None:
    webhooks.register("testapp.Unregistered", serializer=LabelSerializer)
    assert registry.registration_of(Unregistered)


def test_code_replaces_a_registration_and_the_setting_does_not() -> None:
    webhooks.register(Thing, serializer=LabelSerializer)
    registry.register_listed(["testapp.*", "testapp.thing"])
    assert registration(Thing).serializer_class("") is LabelSerializer


@pytest.mark.parametrize("label", ["testapp.nothing", "testapp", "Thing", "testapp.Thing.name", ""])
def test_an_unknown_label_is_refused_in_code(label: str) -> None:
    with pytest.raises(LookupError):
        webhooks.register(label)


class Abstract(models.Model):
    class Meta:
        abstract = True
        app_label = "testapp"


@pytest.mark.parametrize(("model", "kind"), [(ThingProxy, "a proxy"), (Abstract, "an abstract")])
def test_abstract_and_proxy_models_are_refused(model: type[models.Model], kind: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"{model.__name__} is {kind} model"):
        webhooks.register(model)


def test_a_missing_serializer_is_named_with_what_to_do() -> None:
    webhooks.register(User)
    with pytest.raises(ImproperlyConfigured) as raised:
        registration(User).serializer_class("")
    assert "users.user" in str(raised.value)
    assert "no users.api.serializers.UserSerializer" in str(raised.value)
    assert "no users.serializers.UserSerializer" in str(raised.value)


def test_a_proxy_has_the_registration_of_its_model() -> None:
    assert registry.registration_of(ThingProxy) is registry.registration_of(Thing)


def test_saving_a_child_touches_its_parents_first() -> None:
    touched = [item.model for item in registry.registrations_touched(Diner)]
    assert touched == [Place, Restaurant, Diner]


@pytest.mark.parametrize("label", ["testapp.nothing", "nothing.at", "nothing", ""])
def test_an_unknown_label_has_no_registration(label: str) -> None:
    assert registry.registration_by_label(label) is None


def test_unregistering_an_unregistered_model_does_nothing() -> None:
    webhooks.unregister(Unregistered)
    webhooks.unregister(Thing)
    assert registry.registration_of(Thing) is None


@pytest.mark.usefixtures("database")
def test_a_model_can_be_registered_and_unregistered_at_runtime() -> None:
    webhooks.register(Unregistered, serializer=LabelSerializer)
    make_webhook(Unregistered)
    row = Unregistered.objects.create(name="a")
    row.labels.add(Label.objects.create(name="red"))
    assert actions(Unregistered) == ["created", "updated"]
    webhooks.unregister(Unregistered)
    row.save()
    row.delete()
    assert len(events(Unregistered)) == 2


@pytest.mark.usefixtures("database")
def test_an_object_is_read_with_the_registered_queryset() -> None:
    from rest_framework import serializers

    class Counted(serializers.ModelSerializer):
        label_count = serializers.IntegerField()

        class Meta:
            model = Thing
            fields = ("id", "name", "label_count")

    webhooks.register(
        Thing, serializer=Counted, queryset=lambda: Thing.objects.annotate(label_count=models.Count("labels"))
    )
    make_webhook(Thing)
    thing = Thing.objects.create(name="a")
    thing.labels.add(Label.objects.create(name="red"), Label.objects.create(name="blue"))
    assert last_data() == {"id": thing.pk, "name": "a", "label_count": 2}
    thing.delete()
    assert last_data()["label_count"] == 2
    assert not any(event.error for event in events())
