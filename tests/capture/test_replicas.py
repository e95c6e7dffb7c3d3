"""A host whose router sends reads to a replica, which does not have the open transaction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connections, models, router, transaction
from rest_framework import serializers

import webhooks
from dcim.models import Site
from tenancy.models import Tenant
from tests.support.makers import actions, changed, events, last_data, make_webhook, sides
from tests.support.replicated import Replicated
from tests.testapp.models import Label, Part, Thing
from webhooks.ground import registry
from webhooks.operations import replays

pytestmark = pytest.mark.usefixtures("database", "replica")


@pytest.fixture
def replica(settings: Any) -> Iterator[None]:
    """Another connection to the same database: it does not see what the open transaction has written."""
    connections.settings["replica"] = connections.settings["default"]
    settings.DATABASE_ROUTERS = [Replicated()]
    yield
    connections["replica"].close()
    del connections["replica"], connections.settings["replica"]


class ShownPart(serializers.ModelSerializer[Part]):
    """Reads what it shows in every way: a nested serializer, a lazy relation, a manager and a queryset."""

    class ShownThing(serializers.ModelSerializer[Thing]):
        labels = serializers.SlugRelatedField("name", many=True, read_only=True)

        class Meta:
            model = Thing
            fields = ("name", "labels")

    thing = ShownThing()
    lazy = serializers.CharField(source="thing.name")
    siblings = serializers.SerializerMethodField()
    others = serializers.SerializerMethodField()

    class Meta:
        model = Part
        fields = ("id", "name", "thing", "lazy", "siblings", "others")

    def get_siblings(self, part: Part) -> list[str]:
        return [one.name for one in part.thing.parts.order_by("pk").prefetch_related("spares")]

    def get_others(self, part: Part) -> int:
        return Thing.objects.count()


@pytest.fixture
def shown_part() -> Iterator[None]:
    before = registry.registration_of(Part)
    webhooks.register(Part, ShownPart)
    yield
    registry._registrations[Part] = before  # type: ignore[assignment]


def test_an_object_is_sent_with_what_its_transaction_created(shown_part: None) -> None:
    make_webhook(Part)
    with transaction.atomic():
        thing = Thing.objects.create(name="whole")
        thing.labels.add(Label.objects.create(name="red"))
        Part.objects.create(name="a", thing=thing)
        Part.objects.create(name="b", thing=thing)
    shown = {"thing": {"name": "whole", "labels": ["red"]}, "lazy": "whole", "siblings": ["a", "b"], "others": 1}
    assert not events()[-1].error
    assert last_data() == {"id": last_data()["id"], "name": "b"} | shown


def test_a_related_object_of_the_same_transaction_is_not_null() -> None:
    make_webhook(Site)
    with transaction.atomic():
        Site.objects.create(name="Oslo", slug="oslo", tenant=Tenant.objects.create(name="A", slug="a"))
    assert last_data()["tenant"]["name"] == "A"


@pytest.mark.parametrize("count", [1, 2])
def test_a_batch_reads_the_members_that_it_added(count: int) -> None:
    make_webhook(Thing)
    things = [Thing.objects.create(name=str(number)) for number in range(count)]
    with webhooks.batch():
        label = Label.objects.create(name="red")
        for thing in things:
            thing.labels.add(label)
    assert last_data()["labels"] == ["red"]


def test_the_members_before_an_edit_are_those_of_the_written_database() -> None:
    make_webhook(Thing, prechange=True, changed_fields=["labels"])
    thing = Thing.objects.create(name="a")
    red, blue = Label.objects.create(name="red"), Label.objects.create(name="blue")
    with transaction.atomic():
        thing.labels.add(red)
    with transaction.atomic():
        thing.labels.add(blue)
    assert (sides()[0]["labels"], changed()) == (["red"], ["labels"])


def test_a_name_is_read_from_the_written_database(monkeypatch: pytest.MonkeyPatch) -> None:
    make_webhook(Part)
    monkeypatch.setattr(Part, "__str__", lambda part: f"{part.name} of {part.thing.name}")
    with transaction.atomic():
        Part.objects.create(name="a", thing=Thing.objects.create(name="whole"))
    assert events()[-1].object_repr == "a of whole"


def test_a_replay_reads_the_written_database(shown_part: None, monkeypatch: pytest.MonkeyPatch) -> None:
    make_webhook(Part)
    monkeypatch.setattr(Part, "__str__", lambda part: f"{part.name} of {part.thing.name}")
    with transaction.atomic():
        Part.objects.create(name="a", thing=Thing.objects.create(name="whole"))
    with transaction.atomic():
        Thing.objects.update(name="renamed")
        replays.replay(events())
    assert (last_data()["lazy"], events()[-1].object_repr) == ("renamed", "a of renamed")


def test_all_else_is_read_where_the_routers_say() -> None:
    make_webhook(Thing)
    with transaction.atomic():
        Thing.objects.create(name="a")
        assert Thing.objects.count() == 0
        assert Thing.objects.using("default").count() == 1
    assert (Thing.objects.all().db, actions()) == ("replica", ["created"])


class Elsewhere(Replicated):
    """Some models are written to another database, or to none."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "replica" if model in (Label, Thing) else "default"

    def db_for_write(self, model: Any, **hints: Any) -> str:
        if model is Label:
            raise PermissionError("these are only read")
        return "replica" if model is Thing else "default"


@pytest.mark.parametrize("model", [Label, Thing])
def test_a_model_that_is_not_written_there_is_read_where_the_routers_say(
    settings: Any, model: type[models.Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_webhook(Site)
    seen = []
    settings.DATABASE_ROUTERS = [Elsewhere()]
    monkeypatch.setattr(Site, "__str__", lambda site: seen.append(router.db_for_read(model)) or "a site")
    Site.objects.create(name="Oslo", slug="oslo")
    assert set(seen) == {"replica"}


def test_the_project_may_change_its_routers_at_any_time(settings: Any) -> None:
    make_webhook(Site)
    settings.DATABASE_ROUTERS = []
    settings.DATABASE_ROUTERS = [Replicated()]
    with transaction.atomic():
        Site.objects.create(name="Oslo", slug="oslo", tenant=Tenant.objects.create(name="A", slug="a"))
    assert last_data()["tenant"]["name"] == "A"


def test_a_router_may_ask_where_to_read(settings: Any) -> None:
    asked = []

    class WritesWhereItReads(Replicated):
        def db_for_read(self, model: Any, **hints: Any) -> str:
            return "default"

        def db_for_write(self, model: Any, **hints: Any) -> str:
            asked.append(model)
            found: str = router.db_for_read(model, **hints)
            return found

    settings.DATABASE_ROUTERS = [WritesWhereItReads()]
    make_webhook(Thing)
    Thing.objects.create(name="a")
    assert actions() == ["created"]
    assert len(asked) < 100
