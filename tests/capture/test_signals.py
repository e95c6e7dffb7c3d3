"""Which changes are recorded, and as what."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core import serializers
from django.core.management import call_command
from django.db import IntegrityError, connection, models, transaction

from core.models import Tag
from dcim.models import Site
from tests.support.makers import actions, events, last_data, make_webhook, recorded, sides
from tests.support.modes import MODES
from tests.support.receivers import host_receiver
from tests.support.statements import statements_of
from tests.testapp.models import (
    Album,
    AlbumLabel,
    Annex,
    Box,
    Country,
    Course,
    Craft,
    Diner,
    DinerProxy,
    Gadget,
    Label,
    Part,
    Peer,
    Peering,
    Person,
    Place,
    Restaurant,
    Secretive,
    Shelved,
    Ship,
    Team,
    Thing,
    ThingProxy,
    ThingProxyOfProxy,
    Unregistered,
)
from webhooks import TrackedQuerySet, WebhookManager
from webhooks.capture import subscriptions
from webhooks.capture.signals import RelationEdit
from webhooks.models import Event

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def thing() -> Thing:
    """An object from before the first subscription."""
    return Thing.objects.create(name="thing")


def test_a_creation_an_update_and_a_deletion_are_recorded_as_they_were() -> None:
    make_webhook(Thing)
    thing = Thing.objects.create(name="first")
    thing.name = "second"
    thing.save()
    key = str(thing.pk)
    thing.delete()
    assert recorded() == [
        ("created", "testapp.thing", key),
        ("updated", "testapp.thing", key),
        ("deleted", "testapp.thing", key),
    ]
    assert [json.loads(event.data)["name"] for event in events()] == ["first", "second", "second"]
    assert [event.object_repr for event in events()] == ["first", "second", "second"]


def test_a_save_is_recorded_after_one_of_the_same_instance_that_failed(thing: Thing) -> None:
    copied = Thing(pk=thing.pk, name="copied")
    with pytest.raises(IntegrityError):
        copied.save(force_insert=True)
    make_webhook(Thing)
    copied.pk = None
    copied.save()
    assert actions() == ["created"]


def test_a_deletion_carries_the_state_before_it_with_its_relations(thing: Thing) -> None:
    make_webhook(Thing)
    thing.labels.set([Label.objects.create(name="red"), Label.objects.create(name="blue")])
    thing.delete()
    assert actions(Thing)[-1] == "deleted"
    assert sorted(last_data(Thing)["labels"]) == ["blue", "red"]


def test_an_unregistered_model_is_not_recorded() -> None:
    make_webhook(Thing, Label)
    other = Unregistered.objects.create(name="other")
    other.labels.add(Label.objects.create(name="red"))
    other.delete()
    assert actions(Label) == ["created"]
    assert len(events()) == 1


@pytest.mark.parametrize("wanted", ["c", "u", "d", "cu", "cd", "ud"])
def test_only_the_chosen_actions_are_recorded(wanted: str) -> None:
    make_webhook(Thing, on=wanted)
    thing = Thing.objects.create(name="a")
    thing.save()
    thing.delete()
    assert actions() == [action for action in ("created", "updated", "deleted") if action[0] in wanted]


def test_a_disabled_webhook_gets_nothing() -> None:
    make_webhook(Thing, enabled=False)
    Thing.objects.create(name="a")
    assert events() == []


# Deletions


def test_cascades_of_a_deletion_are_recorded(thing: Thing) -> None:
    parts = [Part.objects.create(thing=thing, name=f"part {number}") for number in range(3)]
    keys = {str(part.pk) for part in parts}
    make_webhook(Thing, Part)
    thing.delete()
    assert {event.object_id for event in events(Part)} == keys
    assert actions(Part) == ["deleted"] * 3
    assert actions(Thing) == ["deleted"]


def test_a_deleted_queryset_is_recorded_row_by_row() -> None:
    keys = {str(Thing.objects.create(name=f"thing {number}").pk) for number in range(5)}
    make_webhook(Thing)
    Thing.objects.all().delete()
    assert {event.object_id for event in events()} == keys
    assert actions() == ["deleted"] * 5


def test_a_row_that_a_deletion_sets_to_null_is_not_signalled_by_django(thing: Thing) -> None:
    main = Part.objects.create(thing=thing, name="main")
    Part.objects.create(thing=thing, name="spare", spare_of=main)
    make_webhook(Part)
    main.delete()
    assert actions() == ["deleted"]


def test_the_deletion_of_a_label_is_one_of_the_label_alone(thing: Thing) -> None:
    label = Label.objects.create(name="red")
    thing.labels.add(label)
    make_webhook(Thing, Label)
    label.delete()
    assert [(event.action, event.object_type) for event in events()] == [("deleted", "testapp.label")]


# Many-to-many relations


@pytest.fixture
def label() -> Label:
    return Label.objects.create(name="red")


def test_an_add_is_an_update_of_the_object_that_holds_the_field(thing: Thing, label: Label) -> None:
    make_webhook(Thing, Label)
    thing.labels.add(label)
    assert recorded() == [("updated", "testapp.thing", str(thing.pk))]
    assert last_data()["labels"] == ["red"]


def test_an_add_from_the_other_side_is_an_update_of_the_same_object(thing: Thing, label: Label) -> None:
    other = Thing.objects.create(name="other")
    make_webhook(Thing, Label)
    label.things.add(thing, other)
    assert sorted(recorded()) == sorted(("updated", "testapp.thing", str(one.pk)) for one in (thing, other))
    assert [json.loads(event.data)["labels"] for event in events()] == [["red"], ["red"]]


@pytest.mark.parametrize("side", ["holder", "other"])
def test_a_removal_is_recorded_from_either_side(thing: Thing, label: Label, side: str) -> None:
    thing.labels.add(label)
    make_webhook(Thing, Label)
    if side == "holder":
        thing.labels.remove(label)
    else:
        label.things.remove(thing)
    assert recorded() == [("updated", "testapp.thing", str(thing.pk))]
    assert last_data()["labels"] == []


@pytest.mark.parametrize("side", ["holder", "other"])
def test_a_clear_is_recorded_from_either_side(thing: Thing, label: Label, side: str) -> None:
    thing.labels.add(label)
    make_webhook(Thing, Label)
    if side == "holder":
        thing.labels.clear()
    else:
        label.things.clear()
    assert recorded() == [("updated", "testapp.thing", str(thing.pk))]
    assert last_data()["labels"] == []


@pytest.mark.parametrize("side", ["holder", "other"])
def test_a_set_that_removes_and_adds_is_one_event_for_each_object(thing: Thing, label: Label, side: str) -> None:
    blue = Label.objects.create(name="blue")
    other = Thing.objects.create(name="other")
    thing.labels.add(label)
    make_webhook(Thing)
    if side == "holder":
        thing.labels.set([blue])
        assert recorded() == [("updated", "testapp.thing", str(thing.pk))]
        assert last_data()["labels"] == ["blue"]
    else:
        label.things.set([other])
        assert {event.object_id: json.loads(event.data)["labels"] for event in events()} == {
            str(thing.pk): [],
            str(other.pk): ["red"],
        }


def test_an_add_of_nothing_new_records_nothing(thing: Thing, label: Label) -> None:
    thing.labels.add(label)
    make_webhook(Thing)
    thing.labels.add()
    thing.labels.add(label)
    label.things.add(thing)
    assert events() == []


def test_a_removal_of_a_missing_member_does_no_harm(thing: Thing, label: Label) -> None:
    make_webhook(Thing)
    thing.labels.remove(label)
    assert set(actions()) <= {"updated"}


@pytest.mark.parametrize("prechange", [False, True])
def test_tags_of_django_taggit_are_no_relation_among_the_tagged(prechange: bool) -> None:
    box = Box.objects.bulk_create([Box(name=str(number)) for number in range(5)])[0]  # others have the keys of the tags
    make_webhook(Box, prechange=prechange)
    tags = []
    for change in (
        lambda: box.tags.add("red", "blue"),
        lambda: box.tags.set(["blue", "green"]),
        lambda: box.tags.remove("blue"),
        lambda: box.tags.set(["black"], clear=True),
        lambda: box.tags.clear(),
    ):
        with transaction.atomic():
            change()
        tags.append(sorted(last_data(Box)["tags"]))
        assert {event.object_id for event in events()} == {str(box.pk)}
    assert tags == [["blue", "red"], ["blue", "green"], ["green"], ["black"], []]
    assert len(events()) == len(tags)


def test_tags_can_be_cleared_without_subscribers() -> None:
    box = Box.objects.create(name="a")
    box.tags.add("red")
    box.tags.clear()
    assert list(box.tags.names()) == []


def test_relations_that_share_a_through_model_are_both_recorded() -> None:
    team, person = Team.objects.create(name="a"), Person.objects.create(name="b")
    make_webhook(Team, only_changes=True)
    for change in (lambda: team.leaders.add(person), lambda: person.led.clear(), lambda: person.teams.add(team)):
        with transaction.atomic():
            change()
    shown = [json.loads(event.data) for event in events()]
    assert [(data["members"], data["leaders"]) for data in shown] == [([], [person.pk]), ([], []), ([person.pk], [])]


def test_objects_of_a_relation_are_locked_in_one_order(label: Label) -> None:
    edit = RelationEdit(Thing.labels.through, Thing, label, reverse=True, using="default")
    assert list(edit.changed("pre_add", {8, 1}).values()) == [[1, 8]]


@pytest.mark.parametrize("prechange", [False, True])
def test_a_through_model_may_refer_to_another_field_than_the_key(prechange: bool) -> None:
    course, person = Course.objects.create(code="b2"), Person.objects.create(name="a")
    Course.objects.create(code="a1")
    make_webhook(Course, prechange=prechange)
    for change in (
        lambda: person.courses.add(course),
        lambda: course.students.remove(person),
        lambda: course.students.add(person),
        lambda: person.courses.remove(course),
        lambda: person.courses.set(["b2"]),
        lambda: person.courses.clear(),
    ):
        with transaction.atomic():
            change()
    assert recorded() == [("updated", "testapp.course", str(course.pk))] * 6
    assert [json.loads(event.data)["students"] for event in events()] == [[person.pk], []] * 3


def test_both_ends_of_a_symmetrical_relation_change(thing: Thing) -> None:
    friend = Thing.objects.create(name="friend")
    make_webhook(Thing)
    thing.friends.add(friend)
    found = {event.object_id: json.loads(event.data)["friends"] for event in events()}
    assert found == {str(thing.pk): [friend.pk], str(friend.pk): [thing.pk]}


def test_both_ends_change_if_an_instance_has_its_key_as_text(thing: Thing) -> None:
    friend = Thing.objects.create(name="friend")
    make_webhook(Thing)
    Thing(pk=str(thing.pk)).friends.add(friend.pk)
    assert set(recorded()) == {("updated", "testapp.thing", str(one.pk)) for one in (thing, friend)}


def test_both_ends_of_a_symmetrical_relation_change_at_a_removal(thing: Thing) -> None:
    friend = Thing.objects.create(name="friend")
    thing.friends.add(friend)
    make_webhook(Thing)
    friend.friends.remove(thing)
    assert {event.object_id: json.loads(event.data)["friends"] for event in events()} == {
        str(thing.pk): [],
        str(friend.pk): [],
    }


def test_all_ends_of_a_symmetrical_relation_change_at_a_clear(thing: Thing) -> None:
    friends = [Thing.objects.create(name=f"friend {number}") for number in range(2)]
    thing.friends.add(*friends)
    make_webhook(Thing)
    thing.friends.clear()
    assert {event.object_id: json.loads(event.data)["friends"] for event in events()} == {
        str(one.pk): [] for one in (thing, *friends)
    }


def test_rows_that_django_writes_after_its_signal_are_in_the_next_event() -> None:
    peer, other = Peer.objects.create(), Peer.objects.create()
    make_webhook(Peer)
    with transaction.atomic():
        peer.peers.add(other, through_defaults={"kind": "ring"})
    found = {event.object_id: json.loads(event.data)["peers"] for event in events()}
    assert found == {str(peer.pk): [other.pk], str(other.pk): []}
    assert list(Peering.objects.values_list("kind", flat=True)) == ["ring", "ring"]
    with transaction.atomic():
        peer.peers.add(other, through_defaults={"kind": "ring"})
        other.save()
    assert last_data()["peers"] == [peer.pk]
    peer.peers.clear()
    assert [json.loads(event.data)["peers"] for event in events()[-2:]] == [[], []]


def test_only_the_holder_of_a_one_way_relation_to_its_own_model_changes(thing: Thing) -> None:
    hero = Thing.objects.create(name="hero")
    make_webhook(Thing)
    thing.heroes.add(hero)
    assert recorded() == [("updated", "testapp.thing", str(thing.pk))]
    hero.fans.clear()
    assert recorded()[1:] == [("updated", "testapp.thing", str(thing.pk))]
    assert last_data()["heroes"] == []


def test_a_relation_with_a_through_model_is_recorded_when_it_is_edited(thing: Thing, label: Label) -> None:
    make_webhook(Thing)
    thing.groups.add(label, through_defaults={"role": "owner"})
    label.members.clear()
    assert actions() == ["updated", "updated"]
    assert last_data()["groups"] == []


@pytest.mark.parametrize("is_tracked", [False, True])
def test_rows_that_a_relation_inserts_are_recorded_if_the_through_model_has_the_manager(
    label: Label, is_tracked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_tracked:
        manager = WebhookManager()
        manager.model = AlbumLabel
        monkeypatch.setitem(AlbumLabel._meta.__dict__, "default_manager", manager)
    album = Album.objects.create(name="a")
    make_webhook(Album, AlbumLabel)

    def happened(change: Callable[[], Any]) -> set[tuple[str, str]]:
        known = len(recorded())
        with transaction.atomic():
            change()
        return {(action, label) for action, label, _key in recorded()[known:]}

    updated, created, deleted = (
        {("updated", "testapp.album")},
        {("created", "testapp.albumlabel")},
        {("deleted", "testapp.albumlabel")},
    )
    inserted = created if is_tracked else set()
    assert happened(lambda: album.labels.add(label)) == updated | inserted
    assert happened(lambda: album.labels.remove(label)) == updated | deleted
    assert happened(lambda: label.albums.set([album])) == updated | inserted
    assert happened(label.delete) == deleted, "by a cascade"


def test_a_relation_of_objects_with_uuids_is_recorded(label: Label) -> None:
    gadget = Gadget.objects.create(name="gadget")
    make_webhook(Gadget)
    gadget.labels.add(label)
    label.gadgets.clear()
    assert recorded() == [("updated", "testapp.gadget", str(gadget.pk))] * 2
    assert last_data()["labels"] == []


# Proxies and parents


@pytest.mark.parametrize("proxy", [ThingProxy, ThingProxyOfProxy])
def test_a_change_through_a_proxy_is_one_of_the_concrete_model(proxy: type[Thing], label: Label) -> None:
    make_webhook(Thing)
    thing = proxy.objects.create(name="by proxy")
    key = str(thing.pk)
    thing.save()
    thing.labels.add(label)
    thing.labels.clear()
    thing.delete()
    assert {(event.object_type, event.object_id) for event in events()} == {("testapp.thing", key)}
    assert actions() == ["created", "updated", "updated", "updated", "deleted"]


def test_a_child_is_recorded_with_all_of_its_parents() -> None:
    make_webhook(Place, Restaurant, Diner)
    diner = Diner.objects.create(name="Joe's", cuisine="all")
    key = str(diner.pk)
    family = {"testapp.place", "testapp.restaurant", "testapp.diner"}
    assert set(recorded()) == {("created", label, key) for label in family}
    assert last_data(Place) == {"id": diner.pk, "name": "Joe's", "labels": []}
    diner.name = "Moe's"
    diner.save()
    assert set(recorded()[3:]) == {("updated", label, key) for label in family}
    assert last_data(Place)["name"] == "Moe's"
    diner.delete()
    assert sorted(recorded()[6:]) == sorted(("deleted", label, key) for label in family)
    assert len(events()) == 9


def test_a_proxy_of_a_child_is_recorded_with_all_of_the_childs_parents() -> None:
    make_webhook(Place, Diner)
    DinerProxy.objects.create(name="Joe's").delete()
    assert sorted(event.object_type for event in events()) == ["testapp.diner"] * 2 + ["testapp.place"] * 2


def test_a_parent_is_recorded_for_a_child_without_subscribers() -> None:
    make_webhook(Place)
    diner = Diner.objects.create(name="Joe's")
    assert recorded() == [("created", "testapp.place", str(diner.pk))]


def test_a_parent_that_is_kept_is_not_deleted() -> None:
    restaurant = Restaurant.objects.create(name="bistro")
    make_webhook(Place, Restaurant)
    restaurant.delete(keep_parents=True)
    assert [event.object_type for event in events() if event.action == "deleted"] == ["testapp.restaurant"]


def test_the_deletion_of_a_parent_takes_its_child_along() -> None:
    restaurant = Restaurant.objects.create(name="bistro")
    make_webhook(Place, Restaurant)
    key = str(restaurant.pk)
    Place.objects.get(pk=restaurant.pk).delete()
    assert sorted(recorded()) == [("deleted", "testapp.place", key), ("deleted", "testapp.restaurant", key)]


def test_a_parent_link_of_another_name_leads_to_the_parent() -> None:
    make_webhook(Place, Annex)
    annex = Annex.objects.create(name="annex", floor=2)
    annex.labels.add(Label.objects.create(name="red"))
    key = str(annex.pk)
    annex.delete()
    for label in ("testapp.place", "testapp.annex"):
        assert [action for action, model, pk in recorded() if (model, pk) == (label, key)] == [
            "created", "updated", "deleted",
        ]  # fmt: skip


def test_a_relation_that_a_child_inherits_changes_the_parent_too(label: Label) -> None:
    diner = Diner.objects.create(name="Joe's")
    make_webhook(Place, Diner)
    diner.labels.add(label)
    assert sorted(recorded()) == [
        ("updated", "testapp.diner", str(diner.pk)),
        ("updated", "testapp.place", str(diner.pk)),
    ]
    assert last_data(Place)["labels"] == last_data(Diner)["labels"] == ["red"]


@pytest.mark.parametrize("prechange", [False, True])
def test_a_child_with_another_key_is_distinguished_from_its_parent(prechange: bool, label: Label) -> None:
    others = [Craft.objects.create(name="other") for _ in range(3)]
    key = str(others[1].pk)  # which is that of another craft, too
    ship = Ship.objects.create(code=key, name="Argo")
    parent = ship.craft_ptr_id
    make_webhook(Craft, Ship, prechange=prechange)
    both = {("updated", "testapp.craft", str(parent)), ("updated", "testapp.ship", key)}
    other = ("updated", "testapp.craft", str(others[0].pk))
    table: list[tuple[Callable[[], Any], set[tuple[str, str, str]]]] = [
        (lambda: ship.save(), both),
        (lambda: ship.labels.add(label), both),
        (lambda: label.crafts.clear(), {("updated", "testapp.craft", str(parent))}),
        (lambda: ship.ports.add(label), {("updated", "testapp.ship", key)}),
        (lambda: label.ships.clear(), {("updated", "testapp.ship", key)}),
        (lambda: ship.consorts.add(others[0]), {*both, other}),
        (lambda: ship.consorts.clear(), {*both, other}),
        (lambda: TrackedQuerySet(Ship).update(name="Argo II"), both),
        (lambda: ship.delete(), {("deleted", *which) for _, *which in both}),
    ]
    for number, (change, wanted) in enumerate(table):
        Event.objects.all().delete()
        with transaction.atomic():
            change()
        assert set(recorded()) == wanted, number
        assert len(events()) == len(wanted), number


def test_other_ends_that_inherit_have_their_own_keys() -> None:
    ship, consort = (Ship.objects.create(code=code, name=code) for code in ("a", "b"))
    make_webhook(Craft, Ship)
    ship.consorts.add(consort.craft_ptr)
    assert {event.object_id: json.loads(event.data)["consorts"] for event in events()} == {
        "a": [consort.craft_ptr_id],
        "b": [ship.craft_ptr_id],
        str(ship.craft_ptr_id): [consort.craft_ptr_id],
        str(consort.craft_ptr_id): [ship.craft_ptr_id],
    }


def test_a_relation_that_only_a_child_has_changes_nothing_of_its_parent(label: Label) -> None:
    ship = Ship.objects.create(code=str(Craft.objects.create(name="other").pk), name="Argo")
    make_webhook(Craft)
    ship.ports.add(label)
    assert recorded() == []


def test_a_proxy_created_at_runtime_is_recorded(database: str) -> None:
    make_webhook(Thing)
    meta = type("Meta", (), {"proxy": True, "app_label": "testapp"})
    proxy = type(f"Late{database}", (Thing,), {"Meta": meta, "__module__": __name__})
    proxy.objects.create(name="late")
    assert actions() == ["created"]


# Managers, fixtures


@MODES
def test_a_row_that_the_base_manager_hides_is_recorded(mode: Callable[..., None]) -> None:
    row = Shelved.objects.create(name="book")
    red = Label.objects.create(name="red")
    make_webhook(Shelved, prechange=True)

    def hide() -> None:
        row.hidden = True
        row.save()

    mode(hide)
    assert (last_data()["hidden"], sides()[0]["hidden"]) == (True, False)
    mode(lambda: red.shelved.add(row))
    assert last_data()["labels"] == [red.pk]
    mode(row.delete)
    assert actions() == ["updated", "updated", "deleted"]


def test_a_row_that_the_default_manager_hides_is_recorded() -> None:
    make_webhook(Secretive)
    row = Secretive.objects.create(name="spy", hidden=True)
    row.save()
    row.delete()
    assert actions() == ["created", "updated", "deleted"]


def test_a_fixture_is_not_recorded(tmp_path: Path, thing: Thing) -> None:
    thing.labels.add(Label.objects.create(name="red"))
    thing.friends.add(Thing.objects.create(name="friend"))
    text = serializers.serialize("json", [*Label.objects.all(), thing])
    thing.labels.clear()
    thing.friends.clear()
    make_webhook(Thing, Label, prechange=True)
    fixture = tmp_path / "things.json"
    fixture.write_text(text)
    call_command("loaddata", str(fixture), verbosity=0)
    assert (thing.labels.count(), thing.friends.count()) == (1, 1)
    assert events() == []


def test_an_object_of_a_fixture_is_recorded_at_its_next_save(thing: Thing) -> None:
    [loaded] = serializers.deserialize("json", serializers.serialize("json", [thing]))
    loaded.save()
    make_webhook(Thing)
    loaded.object.save()
    loaded.object.labels.add(Label.objects.create(name="red"))
    assert actions() == ["updated", "updated"]


def test_an_edit_of_a_relation_after_a_raw_save_is_recorded(thing: Thing) -> None:
    [loaded] = serializers.deserialize("json", serializers.serialize("json", [thing]))
    loaded.save()
    make_webhook(Thing, prechange=True)
    for instance in (loaded.object, thing):
        instance.save_base(raw=True)
        instance.labels.add(Label.objects.create(name="red"))
    assert [(event.action, json.loads(event.data)["labels"] != []) for event in events()] == [("updated", True)] * 2


def test_an_edit_of_another_loaded_object_is_recorded_while_one_is_loaded(thing: Thing) -> None:
    text = serializers.serialize("json", [thing, Thing.objects.create(name="next")])
    first, following = serializers.deserialize("json", text)
    red = Label.objects.create(name="red")
    first.save()
    make_webhook(Thing)
    with host_receiver(models.signals.post_save, Thing, lambda **signal: first.object.labels.add(red)):
        following.save()
    assert recorded() == [("updated", "testapp.thing", str(thing.pk))]


def test_signals_that_a_project_sends_without_arguments_are_recorded(thing: Thing) -> None:
    make_webhook(Thing, prechange=True)
    label, signals = Label.objects.create(name="red"), models.signals
    signals.pre_save.send(sender=Thing, instance=thing)
    signals.post_save.send(sender=Thing, instance=thing, created=True)
    signals.post_save.send(sender=Thing, instance=thing)
    through = Thing.labels.through
    signals.m2m_changed.send(sender=through, instance=thing, action="pre_add")
    signals.m2m_changed.send(sender=through, instance=thing, action="post_add")
    signals.m2m_changed.send(
        sender=through, instance=label, action="post_add", reverse=True, model=Thing, pk_set=[thing.pk]
    )
    signals.pre_delete.send(sender=Thing, instance=thing)
    assert recorded() == [
        *[(action, "testapp.thing", str(thing.pk)) for action in ("created", *["updated"] * 3, "deleted")]
    ]


def test_a_save_with_update_or_create_is_one_event_each() -> None:
    make_webhook(Country)
    Country.objects.update_or_create(code="de", defaults={"name": "Germany"})
    Country.objects.update_or_create(code="de", defaults={"name": "Deutschland"})
    Country.objects.get_or_create(code="de")
    assert actions() == ["created", "updated"]
    assert last_data()["name"] == "Deutschland"


def test_a_webhook_created_in_the_same_transaction_counts() -> None:
    with transaction.atomic():
        Thing.objects.create(name="before")
        webhook = make_webhook(Thing)
        Thing.objects.create(name="after")
    assert [json.loads(event.data)["name"] for event in events()] == ["after"]
    assert events()[0].webhook_ids == [webhook.pk]


def test_a_webhook_changed_in_the_same_transaction_counts_as_it_is_then() -> None:
    webhook = make_webhook(Thing)
    with transaction.atomic():
        Thing.objects.create(name="before")
        webhook.enabled = False
        webhook.save()
        Thing.objects.create(name="after")
    assert [json.loads(event.data)["name"] for event in events()] == ["before"]


def test_a_webhook_deleted_in_the_same_transaction_gets_nothing() -> None:
    webhook = make_webhook(Thing)
    with transaction.atomic():
        Thing.objects.create(name="before")
        webhook.delete()
        Thing.objects.create(name="after")
    assert "after" not in [json.loads(event.data)["name"] for event in events()]


def test_a_model_removed_from_a_webhook_is_not_recorded() -> None:
    webhook = make_webhook(Thing, Label)
    webhook.object_types.remove(*webhook.object_types.filter(model="thing"))
    Thing.objects.create(name="thing")
    Label.objects.create(name="label")
    assert [event.object_type for event in events()] == ["testapp.label"]


def test_an_unregistered_model_is_refused() -> None:
    from django.core.exceptions import ValidationError

    with pytest.raises(ValidationError, match=r"testapp\.unregistered"):
        make_webhook(Unregistered)


def test_a_change_on_another_database_is_not_recorded(app_log: pytest.LogCaptureFixture, thing: Thing) -> None:
    make_webhook(Thing)
    models.signals.post_save.send(Thing, instance=thing, created=True, using="other", raw=False)
    assert app_log.text == ""
    assert events() == []


# What an edit from the other side costs


@pytest.mark.cost
@pytest.mark.parametrize("prechange", [False, True])
def test_an_edit_from_the_other_side_takes_as_many_queries_for_many_objects_as_for_two(
    label: Label, prechange: bool
) -> None:
    make_webhook(Thing, Site, prechange=prechange)
    subscriptions.current("default")  # as an earlier transaction has asked
    tag = Tag.objects.create(name="red", slug="red")

    def costs(count: int) -> list[int]:
        keys = [f"{count}-{number}" for number in range(count)]
        sites = Site.objects.bulk_create([Site(name=key, slug=key) for key in keys])
        things = Thing.objects.bulk_create([Thing(name=key) for key in keys])
        edits: list[Callable[[], Any]] = [
            lambda: label.things.add(*things),
            lambda: label.things.remove(*things),
            lambda: label.things.set(things),
            lambda: label.things.set(things, clear=True),
            lambda: label.things.clear(),
            lambda: things[0].friends.add(*things[1:]),
            lambda: things[0].friends.clear(),
            lambda: sites_of(tag).add(*sites),
            lambda: sites_of(tag).clear(),
        ]
        found = [len(statements_of(edit)) for edit in edits]
        assert len({event.object_id for event in events(Thing)}) == count
        Event.objects.all().delete()
        return found

    of_two, of_six = costs(2), costs(6)
    assert of_six == of_two
    assert max(of_six) < 40


def sites_of(tag: Tag) -> Any:
    return getattr(tag, Site.tags.rel.get_accessor_name())


@pytest.mark.cost
def test_where_no_webhook_wants_the_objects_a_relation_is_cleared_without_reading_them(label: Label) -> None:
    make_webhook(Label, prechange=True)
    subscriptions.current("default")  # as an earlier transaction has asked
    things = Thing.objects.bulk_create([Thing(name=str(number)) for number in range(2000)])
    label.things.add(*things)
    with transaction.atomic():
        [lookup, deletion] = statements_of(label.things.clear)
    assert "rq_webhooks_webhook" in lookup
    assert deletion.startswith("DELETE")


# Receivers that fail


@contextmanager
def failing(part: str, nth: int) -> Iterator[None]:
    """Let the nth statement that has this part fail at the database."""
    seen = 0

    def run(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        nonlocal seen
        seen += part in sql
        if part in sql and seen == nth:
            return execute("SELECT nowhere", None, False, context)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(run):
        yield
    assert seen >= nth


def clear_from_the_other_side(thing: Thing) -> None:
    Label.objects.get(name="red").things.clear()


def befriend(thing: Thing) -> None:
    thing.friends.add(Thing.objects.create(name="friend"))


def rename(thing: Thing) -> None:
    thing.name = "new"
    thing.save(update_fields=["name"])


def save_an_inherited_row(thing: Thing) -> None:
    Diner.objects.get().save()


@MODES
@pytest.mark.parametrize(
    ("change", "part", "nth", "message"),
    [
        (
            clear_from_the_other_side,
            'SELECT "testapp_thing"."id"',
            1,
            "Thing_labels of testapp.label {label}",
        ),
        (befriend, 'INTO "testapp_thing_friends"', 2, "testapp.thing {thing} may be sent without it"),
        (rename, 'SELECT "testapp_thing"."id", "testapp_thing"."name"', 1, "cannot be read: testapp.thing {thing}"),
        (save_an_inherited_row, 'SELECT "testapp_place"', 2, "cannot be read: testapp.place {diner}"),
        (
            lambda thing: thing.labels.clear(),
            'SELECT ("testapp_thing_labels"',
            1,
            "cannot be read: testapp.thing {thing}",
        ),
    ],
)
def test_a_receiver_that_fails_at_the_database_fails_no_change(
    thing: Thing,
    label: Label,
    mode: Callable[..., None],
    change: Callable[[Thing], None],
    part: str,
    nth: int,
    message: str,
    app_log: pytest.LogCaptureFixture,
) -> None:
    thing.labels.add(label)
    place = Place.objects.create(name="corner")
    diner = Diner.objects.create(name="Joe's") if change is save_an_inherited_row else place
    make_webhook(Thing, Place, Restaurant, Diner, prechange=True)
    subscriptions.current("default")

    def work() -> None:
        with failing(part, nth):
            change(thing)
        Label.objects.create(name="the transaction goes on")

    mode(work)
    assert Label.objects.filter(name="the transaction goes on").exists()
    assert message.format(thing=thing.pk, label=label.pk, place=place.pk, diner=diner.pk) in app_log.text
