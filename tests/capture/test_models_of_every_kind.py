"""The data of models of every kind: relations, inheritance, keys, values. Which changes are recorded is in
``test_signals``."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings
from django.db import transaction
from django.db.models import F, Value
from django.db.models.functions import Concat, Now, Upper
from django.test import Client

from core.models import Tag
from dcim.models import Device, Interface, Site
from ipam.models import IPAddress
from tests.support.makers import actions, events, last_data, make_webhook, recorded
from tests.testapp.models import Counted, Country, Gadget, Label, Member, Membership, Note, Specimen, Thing
from webhooks.capture import context

pytestmark = pytest.mark.usefixtures("database")

ID = uuid.UUID("00000000-0000-4000-8000-000000000001")


def arrives() -> dict[str, Any]:
    """The data of the last Event, which must not have failed."""
    event = events()[-1]
    assert not event.error, event.error
    return last_data()


# The assigned value, and the value in the data

WITH_ZONE, WITHOUT = ("2026-11-24T13:19:33+01:00", "2026-11-24T12:19:33Z"), ("2026-11-24T12:19:33",) * 2
FOUND_AT = WITH_ZONE if settings.USE_TZ else WITHOUT

VALUES: list[tuple[str, Any, Any]] = [
    ("weight", "1.5", 1.5),
    ("weight", 2, 2.0),
    ("weight", Decimal("1.004"), 1.0),  # as the column rounds it
    ("number", "7", 7),
    ("number", True, 1),
    ("number", F("number") + 2, 3),
    ("number", Value(5), 5),
    ("description", Upper(Value("loud")), "LOUD"),
    ("description", Concat("description", Value("!")), "old!"),
    ("description", 5, "5"),
    ("found_on", "2026-11-24", "2026-11-24"),
    ("found_on", date(2026, 11, 24), "2026-11-24"),
    ("found_at", *FOUND_AT),
    ("lasted", timedelta(minutes=90), "01:30:00"),
    ("country_id", "de", "de"),
    ("gadget_id", str(ID), str(ID)),
    ("extra", {"a": [1, None]}, {"a": [1, None]}),
]


@pytest.mark.parametrize("way", ["save", "update_fields", "only", "defer"])
def test_the_data_are_those_of_the_row(way: str) -> None:
    Country.objects.create(code="de", name="Germany")
    Gadget.objects.create(id=ID, name="gadget")
    make_webhook(Specimen)
    for field, assigned, arriving in VALUES:
        key = Specimen.objects.create(description="old", number=1).pk
        rows: dict[str, Callable[[], Specimen]] = {
            "only": lambda key=key: Specimen.objects.only("id").get(pk=key),
            "defer": lambda key=key, field=field: Specimen.objects.defer(field, "extra").get(pk=key),
        }
        specimen = rows.get(way, lambda key=key: Specimen.objects.get(pk=key))()
        setattr(specimen, field, assigned)
        specimen.save(update_fields=[field] if way == "update_fields" else None)
        name = field.removesuffix("_id")
        assert arrives()[name] == arriving, (field, assigned)


def test_the_data_of_a_new_object_are_those_of_the_row() -> None:
    make_webhook(Specimen)
    Specimen.objects.create(id=str(ID), weight="1.5", found_on="2026-11-24", number="7", found_at=Now())
    data = arrives()
    assert (data["id"], data["weight"], data["found_on"], data["number"]) == (str(ID), 1.5, "2026-11-24", 7)
    assert data["found_at"].startswith("20")
    assert data["found_at"].endswith("Z") == settings.USE_TZ


def test_a_deferred_field_is_not_lost_where_another_is_saved() -> None:
    specimen = Specimen.objects.create(description="whole", extra={"a": 1}, weight="2")
    make_webhook(Specimen)
    partly = Specimen.objects.only("number").get(pk=specimen.pk)
    partly.number = 9
    partly.save()
    data = arrives()
    assert (data["number"], data["description"], data["extra"], data["weight"]) == (9, "whole", {"a": 1}, 2.0)
    Specimen.objects.only("id").get(pk=specimen.pk).delete()
    assert arrives()["description"] == "whole"


# Relations


@pytest.mark.parametrize("prechange", [False, True])
def test_an_object_with_a_grouping_manager_arrives(prechange: bool) -> None:
    label = Label.objects.create(name="red")
    make_webhook(Counted, prechange=prechange)
    counted = Counted.objects.create(name="old")
    with transaction.atomic():
        counted.name = "new"
        counted.save()
    counted.labels.add(label)
    with transaction.atomic():
        counted.delete()
    found = [(event.action, event.error, json.loads(event.data)["label_count"]) for event in events()]
    assert found == [("created", "", 0), ("updated", "", 0), ("updated", "", 1), ("deleted", "", 1)]


def test_relations_to_many_arrive_with_and_without_a_model_between() -> None:
    make_webhook(Thing)
    red, blue = (Label.objects.create(name=name) for name in ("red", "blue"))
    thing = Thing.objects.create(name="a")
    thing.labels.set([red, blue])
    assert sorted(arrives()["labels"]) == ["blue", "red"]
    thing.groups.add(red, through_defaults={"role": "owner"})
    assert arrives()["groups"] == [red.pk]
    # Django signals a save of a through model, but not of the relation. The next Event of the object has it.
    Membership.objects.create(thing=thing, label=blue)
    assert actions() == ["created", "updated", "updated"]
    thing.save()
    assert sorted(arrives()["groups"]) == [red.pk, blue.pk]


def test_an_object_arrives_with_its_generic_relation() -> None:
    make_webhook(Specimen, Note)
    specimen = Specimen.objects.create(description="bone")
    note = Note.objects.create(text="old", about=specimen)
    assert recorded()[-1] == ("created", "testapp.note", str(note.pk))
    assert arrives() == {"id": note.pk, "text": "old", "about": "bone"}
    specimen.save()
    assert arrives()["notes"] == ["old"]
    key = str(specimen.pk)
    specimen.delete()
    assert sorted(recorded()[-2:]) == [
        ("deleted", "testapp.note", str(note.pk)),
        ("deleted", "testapp.specimen", key),
    ]


def test_a_generic_relation_of_the_example_arrives_from_both_sides(site: Site) -> None:
    device = Device.objects.create(name="sw1", device_type="S", role="access", site=site)
    interface = Interface.objects.create(device=device, name="eth0", type="1000base-t")
    make_webhook(Interface, IPAddress)
    IPAddress.objects.create(address="192.0.2.1/24", assigned_object=interface)
    assert arrives()["assigned_object_type"] == "dcim.interface"
    assert arrives()["assigned_object"]["name"] == "eth0"
    interface.save()
    assert arrives()["count_ipaddresses"] == 1


@pytest.fixture
def site() -> Site:
    return Site.objects.create(name="Berlin", slug="berlin")


def test_tags_arrive_as_they_were_set_from_either_side(site: Site) -> None:
    make_webhook(Site)
    production = Tag.objects.create(name="Production", slug="production")
    site.tags.set([production])
    assert [tag["slug"] for tag in arrives()["tags"]] == ["production"]
    production.site_set.clear()
    assert arrives()["tags"] == []


# Inheritance and keys


def test_fields_and_relations_of_an_abstract_parent_arrive() -> None:
    make_webhook(Specimen)
    specimen = Specimen.objects.create(description="inherited")
    label = Label.objects.create(name="red")
    specimen.labels.add(label)
    assert (arrives()["description"], arrives()["labels"]) == ("inherited", ["red"])
    label.specimens.clear()
    assert arrives()["labels"] == []
    assert actions() == ["created", "updated", "updated"]


def test_keys_that_are_uuids_and_texts_arrive_as_text_and_lead_back_to_their_objects() -> None:
    make_webhook(Specimen, Country)
    country = Country.objects.create(code="de/ü 1", name="Germany")
    assert arrives()["code"] == "de/ü 1"
    specimen = Specimen.objects.create(id=ID, country=country)
    assert (arrives()["id"], arrives()["country"]) == (str(ID), "de/ü 1")
    assert recorded() == [("created", "testapp.country", "de/ü 1"), ("created", "testapp.specimen", str(ID))]
    key = specimen.pk
    specimen.delete()
    assert recorded()[-1] == ("deleted", "testapp.specimen", str(key))


# Users


def test_a_custom_user_model_arrives_without_its_password() -> None:
    make_webhook(Member)
    member = Member(email="ann@example.org")
    member.set_password("s3cret")
    member.save()
    assert arrives() == {"email": "ann@example.org", "last_login": None}
    assert "password" not in events()[-1].snapshots


def test_a_custom_user_model_is_named_by_its_username_field(site: Site, rf: Any) -> None:
    make_webhook(Site)
    request = rf.get("/")
    request.user = Member(email="ann@example.org")
    with context.acting(context.RequestActor(request)):
        site.save()
    assert events()[-1].username == "ann@example.org"


def test_a_change_in_the_admin_has_its_user(site: Site, admin_user: Any) -> None:
    make_webhook(Site)
    client = Client()
    client.force_login(admin_user)
    client.post(f"/admin/dcim/site/{site.pk}/change/", {"name": "B", "slug": "b", "status": "active",
                                                        "custom_field_data": "{}"})  # fmt: skip
    assert (events()[-1].username, arrives()["name"]) == (admin_user.email, "B")
