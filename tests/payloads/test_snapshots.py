"""The state of an object before its change, in payloads and in filters of webhooks."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from django.db import DatabaseError, connection, models, transaction
from django.db.models import F, Value
from django.db.models.functions import Concat
from rest_framework import serializers

from dcim.models import Site
from tests.support.makers import actions, changed, events, make_webhook, rename, sides
from tests.support.modes import MODES, in_transaction
from tests.support.rollbacks import ROLLBACKS, Subject
from tests.support.statements import statements_of
from tests.support.threads import Beside
from tests.testapp.api.serializers import ThingSerializer
from tests.testapp.models import (
    Country,
    Course,
    Diner,
    Gadget,
    Label,
    Person,
    Place,
    Restaurant,
    Ship,
    Specimen,
    Thing,
    ThingProxy,
    Tracked,
)
from webhooks import TrackedQuerySet
from webhooks.ground import registry
from webhooks.ground.payloads import snapshots
from webhooks.models import Event

pytestmark = pytest.mark.usefixtures("database")


class Mixed(serializers.ModelSerializer):
    """Shows a relation by a method that queries the database, by another name, and by custom code."""

    labels = serializers.SerializerMethodField()
    label_names = serializers.SlugRelatedField("name", many=True, source="labels", read_only=True)

    class Meta:
        model = Thing
        fields = ("id", "name", "labels", "label_names")

    def get_labels(self, thing: Thing) -> list[str]:
        return [label.name for label in thing.labels.order_by("-name")]

    def to_representation(self, instance: Thing) -> dict[str, Any]:
        return super().to_representation(instance) | {"groups": len(instance.groups.all())}


class Brief(serializers.ModelSerializer):
    class Meta:
        model = Thing
        fields = ("id", "name")


class ByHand:
    """A serializer that is not based on REST framework."""

    def __init__(self, instance: Thing | None = None, context: Any = None) -> None:
        self._instance = instance

    @property
    def data(self) -> dict[str, Any]:
        assert self._instance
        return {"name": self._instance.name, "groups": [label.pk for label in self._instance.groups.all()]}


class Varying(Brief):
    """Has more fields for an object than without one."""

    def get_fields(self) -> dict[str, Any]:
        more = (
            {} if self.instance is None else {"groups": serializers.PrimaryKeyRelatedField(many=True, read_only=True)}
        )
        return super().get_fields() | more


@pytest.fixture
def thing() -> Thing:
    return Thing.objects.create(name="old")


def update(thing: Thing) -> None:
    TrackedQuerySet(Thing).filter(pk=thing.pk).update(name="new")


def rename_stale(thing: Thing) -> None:
    stale = Thing.objects.get(pk=thing.pk)
    Thing.objects.filter(pk=thing.pk).update(name="newer than the instance")
    stale.name, stale.status = "new", "stale"
    stale.save(update_fields=["name"])


def rename_deferred(thing: Thing) -> None:
    rename(Thing.objects.only("id").get(pk=thing.pk))


def rename_by_expression(thing: Thing) -> None:
    thing.name = Concat(F("name"), Value("er"))
    thing.save()


def rename_by_a_proxy(thing: Thing) -> None:
    rename(ThingProxy.objects.get(pk=thing.pk))


def rename_by_a_new_instance(thing: Thing) -> None:
    Thing(pk=thing.pk, name="new").save()


@MODES
@pytest.mark.parametrize(
    ("change", "before", "after"),
    [
        (rename, "old", "new"),
        (rename_stale, "newer than the instance", "new"),
        (rename_deferred, "old", "new"),
        (rename_by_expression, "old", "older"),
        (rename_by_a_proxy, "old", "new"),
        (rename_by_a_new_instance, "old", "new"),
    ],
)
def test_an_update_has_both_states_and_the_changed_fields(
    thing: Thing, mode: Callable[..., None], change: Callable[[Thing], None], before: str, after: str
) -> None:
    make_webhook(Thing, prechange=True)
    mode(lambda: change(thing))
    old, new = sides()
    assert (old["name"], new["name"]) == (before, after)
    assert changed() == ["name"]
    assert {**old, "name": after} == new


@MODES
def test_a_creation_and_a_deletion_have_one_snapshot(mode: Callable[..., None]) -> None:
    make_webhook(Thing, prechange=True)
    mode(lambda: Thing.objects.create(name="a"))
    before, after = sides()
    assert (before, after["name"], changed()) == (None, "a", None)
    mode(lambda: Thing.objects.get().delete())
    before, after = sides()
    assert (before["name"], after, changed()) == ("a", None, None)


def test_a_decimal_is_compared_and_sent_as_text_with_all_its_digits() -> None:
    make_webhook(Specimen, prechange=True)
    specimen = Specimen.objects.create(weight=Decimal("52.50"))
    assert sides()[1]["weight"] == "52.50"
    specimen.weight = Decimal("52.5")
    specimen.save()
    assert changed() == []
    specimen.weight = Decimal("52.51")
    specimen.save()
    assert ([side["weight"] for side in sides()], changed()) == (["52.50", "52.51"], ["weight"])


def test_the_previous_state_is_unknown_if_no_webhook_needs_it(thing: Thing) -> None:
    make_webhook(Thing)
    make_webhook(Label, prechange=True)
    make_webhook(Thing, on="d", only_changes=True)
    rename(thing)
    assert (sides()[0], changed()) == (None, None)


def test_several_changes_compare_the_first_and_the_last_state(thing: Thing) -> None:
    make_webhook(Thing, prechange=True)
    with transaction.atomic():
        rename(thing)
        thing.name, thing.status = "newest", "retired"
        thing.save()
    assert (sides()[0]["name"], sides()[1]["name"]) == ("old", "newest")
    assert changed() == ["name", "status"]


def test_deleted_and_recreated_has_the_previous_state(thing: Thing) -> None:
    make_webhook(Thing, prechange=True)
    thing.labels.add(Label.objects.create(name="red"))
    pk = thing.pk
    with transaction.atomic():
        thing.status = "retired"
        thing.save()
        thing.delete()
        Thing.objects.create(pk=pk, name="new")
    assert (events()[-1].action, changed()) == ("updated", ["labels", "name"])
    assert (sides()[0]["labels"], sides()[0]["status"]) == (["red"], "active")


@MODES
def test_many_to_many_relations_are_compared(thing: Thing, mode: Callable[..., None]) -> None:
    make_webhook(Thing, prechange=True)
    red, blue = (Label.objects.create(name=name) for name in ("red", "blue"))
    friend = Thing.objects.create(name="friend")

    def both() -> None:
        thing.labels.add(red, blue)
        blue.things.remove(thing)

    table: list[tuple[Callable[[], Any], list[str], list[str]]] = [
        (lambda: thing.labels.add(red), [], ["red"]),
        (lambda: blue.things.add(thing), ["red"], ["blue", "red"]),
        (lambda: thing.labels.set([blue]), ["blue", "red"], ["blue"]),
        (lambda: blue.things.clear(), ["blue"], []),
    ]
    for change, before, after in table:
        Event.objects.all().delete()
        mode(change)
        old, new = sides(events()[0])[0], sides()[1]
        assert (old["labels"], new["labels"]) == (before, after)
        assert changed() == ["labels"]
    with transaction.atomic():
        both()
    assert (sides()[0]["labels"], sides()[1]["labels"], changed()) == ([], ["red"], ["labels"])
    mode(lambda: friend.friends.add(thing))
    actual = {event.object_id: (sides(event), changed(event)) for event in events()[-2:]}
    for one, other in ((thing, friend), (friend, thing)):
        (old, new), names = actual[str(one.pk)]
        assert (old["friends"], new["friends"], names) == ([], [other.pk], ["friends"])


@MODES
def test_parent_rows_have_a_previous_state(mode: Callable[..., None]) -> None:
    diner = Diner.objects.create(name="old")
    make_webhook(Place, Restaurant, Diner, prechange=True)
    mode(lambda: rename(Diner.objects.get(pk=diner.pk)))
    for model in (Place, Restaurant, Diner):
        [event] = events(model)
        assert (sides(event)[0]["name"], changed(event)) == ("old", ["name"])


def test_primary_keys_of_every_kind_are_found() -> None:
    gadget, country = Gadget.objects.create(name="old"), Country.objects.create(code="x", name="old")
    make_webhook(Gadget, Country, prechange=True)
    rename(gadget)
    rename(country)
    assert [changed(event) for event in events()] == [["name"], ["name"]]
    with transaction.atomic():
        loaded = Gadget.objects.get()
        loaded.pk = str(loaded.pk)
        loaded.save()
    assert changed() == []


# Rolled back


@pytest.mark.parametrize("rollback", ROLLBACKS)
@pytest.mark.parametrize("undone", [("update",), ("tag",), ("update", "delete"), ("delete", "create", "tag")])
@pytest.mark.parametrize("first", [(), ("update",), ("tag",)])
def test_a_rollback_does_not_change_the_previous_state(
    rollback: str, undone: tuple[str, ...], first: tuple[str, ...]
) -> None:
    subject = Subject(1, Label.objects.create(name="red"))
    subject.create()
    make_webhook(Thing, prechange=True)
    before = subject.state()
    assert before
    with transaction.atomic():
        for change in first:
            getattr(subject, change)()
        ROLLBACKS[rollback](subject, undone)
        subject.update()
    after = subject.state()
    assert after
    assert (sides()[0]["name"], sides()[0]["labels"]) == (before["name"], before["labels"])
    assert changed() == sorted(name for name in after if after[name] != before[name])


@pytest.mark.postgresql
def test_two_transactions_each_have_their_change(thing: Thing) -> None:
    make_webhook(Thing, prechange=True)
    red, blue = (Label.objects.create(name=name) for name in ("red", "blue"))

    def other() -> None:
        with transaction.atomic():
            mine = Thing.objects.get(pk=thing.pk)
            mine.status = "retired"
            mine.save(update_fields=["status"])
            mine.labels.add(blue)

    with transaction.atomic():
        thing.name = "new"
        thing.save(update_fields=["name"])
        thing.labels.add(red)
        beside = Beside(other)
        beside.wait_until_blocked_or_done()
    beside.join()
    first, second = events()
    assert (changed(first), sides(first)[1]["labels"]) == (["labels", "name"], ["red"])
    assert (changed(second), sides(second)[0]["labels"]) == (["labels", "status"], ["red"])


@pytest.mark.postgresql
def test_the_previous_members_are_read_after_the_lock(thing: Thing) -> None:
    """Read together with the lock, it would be what the statement saw before it waited."""
    make_webhook(Thing, prechange=True)
    red, blue = (Label.objects.create(name=name) for name in ("red", "blue"))
    with transaction.atomic():
        thing.labels.add(red)
        beside = Beside(lambda: thing.labels.add(blue))
        beside.wait_until_blocked_or_done()
    beside.join()
    first, second = events()
    assert (sides(first)[0]["labels"], sides(first)[1]["labels"]) == ([], ["red"])
    assert (sides(second)[0]["labels"], sides(second)[1]["labels"]) == (["red"], ["blue", "red"])


@pytest.mark.postgresql
@pytest.mark.parametrize("first", [rename, lambda thing: thing.heroes.clear(), lambda thing: thing.delete()])
def test_the_members_of_other_objects_are_read_after_the_lock(thing: Thing, first: Callable[[Thing], Any]) -> None:
    make_webhook(Thing, prechange=True)
    thing.heroes.add(thing)
    red, blue = (Label.objects.create(name=name) for name in ("red", "blue"))

    def other() -> None:
        mine = Thing.objects.get(pk=thing.pk)
        with transaction.atomic():
            first(mine)
            if mine.pk:
                mine.labels.add(blue)

    with transaction.atomic():
        thing.labels.add(red)
        beside = Beside(other)
        beside.wait_until_blocked_or_done()
        assert beside.is_running
    beside.join()
    assert sides()[0]["labels"] == ["red"]


# What webhooks demand


@MODES
def test_a_webhook_can_choose_updates_of_some_fields(thing: Thing, mode: Callable[..., None]) -> None:
    make_webhook(Thing, changed_fields=["status", "labels"])
    label = Label.objects.create(name="red")
    mode(lambda: rename(thing))
    assert actions() == []
    thing.status = "retired"
    mode(lambda: thing.save())
    mode(lambda: label.things.add(thing))
    mode(lambda: Thing.objects.create(name="created passes"))
    mode(lambda: thing.delete())
    assert actions() == ["updated", "updated", "created", "deleted"]


@MODES
def test_a_webhook_can_skip_updates_that_change_nothing(thing: Thing, mode: Callable[..., None]) -> None:
    make_webhook(Thing, only_changes=True)
    mode(lambda: thing.save())
    assert actions() == []
    mode(lambda: rename(thing))
    assert actions() == ["updated"]


def test_a_change_undone_in_the_transaction_changes_nothing(thing: Thing) -> None:
    label = Label.objects.create(name="red")
    make_webhook(Thing, only_changes=True)
    with transaction.atomic():
        rename(thing)
        thing.labels.add(label)
        assert actions() == ["updated"]
        thing.name = "old"
        thing.save()
        thing.labels.clear()
    assert actions() == []


def test_conditions_can_use_the_previous_state(thing: Thing) -> None:
    retired = make_webhook(
        Thing,
        conditions={
            "and": [
                {"attr": "snapshots.prechange.status", "value": "active"},
                {"attr": "status", "value": "retired"},
            ]
        },
    )
    renamed = make_webhook(Thing, conditions={"attr": "name", "op": "changed"})
    rename(thing)
    thing.status = "retired"
    thing.save()
    thing.save()
    assert [event.webhook_ids for event in events()] == [[renamed.pk], [retired.pk]]


# Bulk operations and costs


@pytest.mark.cost
@pytest.mark.parametrize("count", [2, 50])
def test_bulk_operations_read_all_old_rows_in_one_query(count: int) -> None:
    rows = Tracked.objects.bulk_create([Tracked(name=f"old {number}") for number in range(count)])

    def update() -> None:
        Tracked.objects.filter(name__startswith="old").update(status="retired")

    def bulk_update() -> None:
        for row in rows:
            row.name = "new"
        Tracked.objects.bulk_update(rows, ["name"])

    webhook = make_webhook(Tracked)
    without = [len(statements_of(update)), len(statements_of(bulk_update))]
    Tracked.objects.update(status="active")
    for number, row in enumerate(rows):
        Tracked.objects.filter(pk=row.pk).update(name=f"old {number}")
    Event.objects.all().delete()
    webhook.prechange = True
    webhook.save()
    assert [len(statements_of(update)), len(statements_of(bulk_update))] == [one + 1 for one in without]
    assert [changed(event) for event in events()] == [["status"]] * count + [["name"]] * count
    assert sides()[0]["name"].startswith("old")


@pytest.mark.cost
@pytest.mark.parametrize("webhooks", [1, 50])
def test_the_previous_state_costs_at_most_one_query_for_each_object(webhooks: int) -> None:
    label = Label.objects.create(name="red")

    def costs() -> list[int]:
        thing = Thing.objects.create(name="old")
        with transaction.atomic():
            Thing.objects.create(name="the first looks the webhooks up")
            return [
                len(statements_of(lambda: rename(thing))),
                len(statements_of(lambda: rename(thing))),
                len(statements_of(lambda: Thing.objects.create(name="a"))),
                len(statements_of(lambda: thing.labels.add(label))),
                len(statements_of(lambda: thing.labels.clear())),
                len(statements_of(lambda: thing.delete())),
            ]

    def alone() -> list[int]:
        thing = Thing.objects.create(name="old")
        return [len(statements_of(lambda: rename(thing))), len(statements_of(lambda: Thing.objects.create(name="a")))]

    for _ in range(webhooks):
        make_webhook(Thing)
    plain, plain_alone = costs(), alone()
    for _ in range(webhooks):
        make_webhook(Thing, prechange=True)
    # What a relation held: one query, and on SQLite a savepoint and the release, once for each relation.
    relation = 1 if connection.vendor == "postgresql" else 3
    row = 0 if connection.vendor == "postgresql" else 1  # PostgreSQL reads it in the round trip of the UPDATE
    assert [ours - one for ours, one in zip(costs(), plain, strict=True)] == [row, 0, 0, relation, 0, 0]
    assert [ours - one for ours, one in zip(alone(), plain_alone, strict=True)] == [1, 0]


@pytest.mark.cost
def test_the_previous_state_of_a_relation_costs_three_round_trips(thing: Thing) -> None:
    red, blue = (Label.objects.create(name=name) for name in ("red", "blue"))
    course, ship = Course.objects.create(code="b2"), Ship.objects.create(code="a")
    person = Person.objects.create(name="a")
    things = [thing, *(Thing.objects.create(name=str(number)) for number in range(9))]
    changes: list[Callable[[], Any]] = [
        lambda: thing.labels.add(red),
        lambda: thing.labels.set([blue]),
        lambda: thing.labels.remove(blue),
        lambda: blue.things.add(*things),
        lambda: blue.things.clear(),
        lambda: thing.friends.add(*things[1:]),
        lambda: thing.friends.clear(),
        lambda: course.students.add(person),
        lambda: person.courses.clear(),
        lambda: person.courses.add(course),
        lambda: course.students.remove(person),
        lambda: ship.labels.add(red),
        lambda: ship.labels.clear(),
    ]

    def costs() -> list[int]:
        thing.save()  # looks the webhooks up
        return [len(statements_of(partial(in_transaction, change))) for change in changes]

    webhook = make_webhook(Thing, Course, Ship)
    plain = costs()
    webhook.prechange = True
    webhook.save()
    # Rows, what the relation held. On SQLite also the savepoint and the release.
    more = 2 if connection.vendor == "postgresql" else 4
    assert [ours - one for ours, one in zip(costs(), plain, strict=True)] == [more] * len(changes)


@pytest.mark.parametrize("serializer", [Brief, Mixed, ByHand, Varying])
def test_a_relation_without_a_serializer_field_is_read_when_edited(
    thing: Thing, serializer: Any, own_registrations: None
) -> None:
    red, blue = (Label.objects.create(name=name) for name in ("red", "blue"))
    registry.register(Thing, serializer)
    thing.groups.set([red])
    make_webhook(Thing, prechange=True)
    with transaction.atomic():
        rename(thing)
        thing.groups.add(blue)
        thing.groups.remove(red)
    before, after = sides()
    shown = ([red.pk], [blue.pk]) if serializer is not Brief else (None, None)
    assert (before.get("groups"), after.get("groups")) == shown


@pytest.mark.parametrize("is_saved_first", [False, True])
def test_a_webhook_can_choose_another_serializer_after_an_edit(
    thing: Thing, is_saved_first: bool, own_registrations: None
) -> None:
    registry.register(Thing, ThingSerializer, serializers={"brief": Brief})
    webhook = make_webhook(Thing, prechange=True, serializer="brief")
    with transaction.atomic():
        if is_saved_first:
            thing.save()
        thing.labels.add(Label.objects.create(name="red"))
        webhook.serializer = ""
        webhook.save()
        rename(thing)
    assert (sides()[0]["labels"], sides()[1]["labels"], changed()) == ([], ["red"], ["labels", "name"])


def test_only_edited_relations_have_previous_members(thing: Thing, own_registrations: None) -> None:
    """The queryset that an object is serialized from may show less of a relation than it holds."""
    few = models.Prefetch("labels", queryset=Label.objects.filter(name="blue"))
    registry.register(Thing, Mixed, queryset=lambda: Thing.objects.prefetch_related(few))
    thing.labels.add(*(Label.objects.create(name=name) for name in ("red", "blue")))
    make_webhook(Thing, prechange=True)
    with transaction.atomic():
        rename(thing)
        thing.heroes.add(thing)
    assert (sides()[0]["label_names"], sides()[1]["label_names"], changed()) == (["blue"], ["blue"], ["name"])


def test_a_save_that_fails_leaves_nothing_behind(thing: Thing) -> None:
    make_webhook(Thing, prechange=True)
    thing.name = None  # type: ignore[assignment]
    with pytest.raises(DatabaseError):
        thing.save()
    with transaction.atomic():
        thing.name = "new"
        thing.save()
    assert (changed(), sides()[0]["name"]) == (["name"], "old")


@MODES
def test_a_save_succeeds_if_the_previous_state_cannot_be_read(
    thing: Thing, mode: Callable[..., None], monkeypatch: pytest.MonkeyPatch, app_log: pytest.LogCaptureFixture
) -> None:
    make_webhook(Thing, changed_fields=["status"])

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise ValueError("a field of it cannot be read")

    monkeypatch.setattr("webhooks.ground.payloads.snapshots.rows_query", refuse)
    mode(lambda: rename(thing))
    assert Thing.objects.get().name == "new"
    assert (actions(), sides()[0], changed()) == (["updated"], None, None)
    assert f"testapp.thing {thing.pk}" in app_log.text


@pytest.mark.parametrize("name", ["status", "custom_fields", "custom_fields.zone", "custom_fields.room"])
def test_a_name_can_address_a_key_inside_json(name: str) -> None:
    site = Site.objects.create(name="a", slug="a", custom_field_data={"zone": "a", "room": {"floor": 1}})
    make_webhook(Site, on="u", changed_fields=[name])
    site.custom_field_data = {"zone": "b", "room": {"floor": 1}}
    site.save()
    assert actions() == (["updated"] if name in ("custom_fields", "custom_fields.zone") else [])


@pytest.mark.parametrize(
    ("old", "new", "is_change"), [(0, False, True), (1, True, True), (1, 1.0, False), ([0], [False], True)]
)
def test_a_key_inside_json_is_compared_as_conditions_compare_it(old: Any, new: Any, is_change: bool) -> None:
    site = Site.objects.create(name="a", slug="a", custom_field_data={"flag": old, "other": 1})
    make_webhook(Site, on="u", changed_fields=["custom_fields.flag"])
    site.custom_field_data = {"flag": new, "other": 2}
    site.save()
    assert actions() == (["updated"] if is_change else [])


@MODES
def test_a_relation_is_compared_in_every_shape_of_the_payload(
    thing: Thing, mode: Callable[..., None], own_registrations: None
) -> None:
    red, blue = (Label.objects.create(name=name) for name in ("red", "blue"))
    thing.labels.add(red)
    registry.register(Thing, Mixed)
    make_webhook(Thing, changed_fields=["labels"])
    renamed = make_webhook(Thing, changed_fields=["label_names"])
    mode(lambda: thing.save())
    mode(lambda: thing.groups.add(blue))
    assert events() == []
    mode(lambda: thing.labels.add(blue))
    [event] = events()
    assert changed() == ["label_names", "labels"]
    assert renamed.pk in event.webhook_ids
    old, new = sides()
    assert (old["labels"], new["labels"]) == ([red.pk], sorted([red.pk, blue.pk]))
    assert (old["label_names"], new["label_names"]) == (["red"], ["blue", "red"])
    assert (old["groups"], new["groups"]) == ([blue.pk], [blue.pk])


def test_the_names_to_choose_are_the_compared_ones(own_registrations: None) -> None:
    registry.register(Thing, Mixed)
    found = snapshots.snapshot_fields(registry.registration_of(Thing))  # type: ignore[arg-type]
    assert {name: field.name for name, field in found.items()} == {
        "id": "id", "name": "name", "labels": "labels", "label_names": "labels",
    }  # fmt: skip


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("before", "after", "names"),
    [
        ({"a": 1, "b": 2, "c": [1]}, {"a": 1, "b": 3, "c": [1, 2]}, ["b", "c"]),
        ({"a": 1}, {"a": 1}, []),
        ({"a": None}, {"b": None}, ["a", "b"]),
        (None, {"b": 1, "a": None}, ["a", "b"]),
        ({"a": 1}, None, ["a"]),
        (None, None, []),
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": 1, "b": False, "c": True}, {"a": True, "b": 0, "c": True}, ["a", "b"]),
        ({"a": {"x": [1]}, "b": [0], "c": [True]}, {"a": {"x": [True]}, "b": [False], "c": [True]}, ["a", "b"]),
        ({"a": {"x": 1}, "b": [1]}, {"a": {"y": 1}, "b": [1, 1]}, ["a", "b"]),
        ({"a": {"x": 1}}, {"a": {"x": 2}}, ["a"]),
    ],
)
def test_changed_fields_lists_the_differences(before: Any, after: Any, names: list[str]) -> None:
    assert snapshots.changed_fields(before, after) == names
