"""What an object was before its change: in the payload, and in what webhooks demand of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from django.db import DatabaseError, connection, models, transaction
from django.db.models import F, Value
from django.db.models.functions import Concat
from django.test.utils import CaptureQueriesContext
from rest_framework import serializers

from dcim.models import Site
from tests.capture.test_recording import ROLLBACKS, Rollback, Subject
from tests.support.makers import actions, events, make_webhook
from tests.support.modes import MODES, in_transaction
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
from webhooks import TrackedQuerySet, registry
from webhooks.models import Event
from webhooks.payloads import snapshots

pytestmark = pytest.mark.usefixtures("database")


class Told(serializers.ModelSerializer):
    """Shows a relation by a method that asks the database, by another name, and by code of its own."""

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
    """No serializer of REST framework's."""

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


def sides(event: Event | None = None) -> tuple[Any, Any]:
    snapshots = json.loads((event or events()[-1]).snapshots)
    return snapshots["prechange"], snapshots["postchange"]


def changed(event: Event | None = None) -> Any:
    return json.loads((event or events()[-1]).changed or "null")


def rename(thing: Any) -> None:
    thing.name = "new"
    thing.save()


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
def test_an_update_tells_what_was_there_before_and_what_changed(
    thing: Thing, mode: Callable[..., None], change: Callable[[Thing], None], before: str, after: str
) -> None:
    make_webhook(Thing, prechange=True)
    mode(lambda: change(thing))
    old, new = sides()
    assert (old["name"], new["name"]) == (before, after)
    assert changed() == ["name"]
    assert {**old, "name": after} == new


@MODES
def test_what_was_created_or_deleted_has_one_side(mode: Callable[..., None]) -> None:
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


def test_where_nobody_needs_it_the_state_before_is_not_known(thing: Thing) -> None:
    make_webhook(Thing)
    make_webhook(Label, prechange=True)
    make_webhook(Thing, on="d", only_changes=True)
    rename(thing)
    assert (sides()[0], changed()) == (None, None)


def test_of_several_changes_the_first_state_and_the_last_count(thing: Thing) -> None:
    make_webhook(Thing, prechange=True)
    with transaction.atomic():
        rename(thing)
        thing.name, thing.status = "newest", "retired"
        thing.save()
    assert (sides()[0]["name"], sides()[1]["name"]) == ("old", "newest")
    assert changed() == ["name", "status"]


def test_what_was_deleted_and_made_again_tells_what_it_was(thing: Thing) -> None:
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
def test_relations_to_many_are_compared_too(thing: Thing, mode: Callable[..., None]) -> None:
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
    told = {event.object_id: (sides(event), changed(event)) for event in events()[-2:]}
    for one, other in ((thing, friend), (friend, thing)):
        (old, new), names = told[str(one.pk)]
        assert (old["friends"], new["friends"], names) == ([], [other.pk], ["friends"])


@MODES
def test_inherited_rows_have_a_state_before_of_their_own(mode: Callable[..., None]) -> None:
    diner = Diner.objects.create(name="old")
    make_webhook(Place, Restaurant, Diner, prechange=True)
    mode(lambda: rename(Diner.objects.get(pk=diner.pk)))
    for model in (Place, Restaurant, Diner):
        [event] = events(model)
        assert (sides(event)[0]["name"], changed(event)) == ("old", ["name"])


def test_keys_of_other_kinds_are_found_again() -> None:
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
def test_what_is_rolled_back_changes_nothing_of_the_state_before(
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
def test_what_another_changes_after_a_rollback_gave_the_lock_back_is_what_was_before(thing: Thing) -> None:
    make_webhook(Thing, prechange=True)
    with transaction.atomic():
        with pytest.raises(Rollback), transaction.atomic():
            rename(thing)
            raise Rollback
        Beside(lambda: Thing.objects.filter(pk=thing.pk).update(name="meanwhile")).join()
        thing.name = "last"
        thing.save()
    assert (sides()[0]["name"], sides()[1]["name"]) == ("meanwhile", "last")


@pytest.mark.postgresql
def test_two_transactions_each_tell_their_own_change(thing: Thing) -> None:
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
def test_what_a_relation_held_is_read_once_the_object_is_locked(thing: Thing) -> None:
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
def test_so_is_what_those_held_that_are_edited_after_another_change(
    thing: Thing, first: Callable[[Thing], Any]
) -> None:
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
def test_a_webhook_may_want_only_updates_of_some_fields(thing: Thing, mode: Callable[..., None]) -> None:
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
def test_a_webhook_may_want_no_update_that_changes_nothing(thing: Thing, mode: Callable[..., None]) -> None:
    make_webhook(Thing, only_changes=True)
    mode(lambda: thing.save())
    assert actions() == []
    mode(lambda: rename(thing))
    assert actions() == ["updated"]


def test_a_change_that_is_undone_in_the_transaction_changes_nothing(thing: Thing) -> None:
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


def test_conditions_may_look_at_the_change(thing: Thing) -> None:
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


# Bulk operations, and what it costs


def statements(work: Callable[[], Any]) -> list[str]:
    with CaptureQueriesContext(connection) as captured:
        work()
    return [query["sql"] for query in captured.captured_queries]


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
    without = [len(statements(update)), len(statements(bulk_update))]
    Tracked.objects.update(status="active")
    for number, row in enumerate(rows):
        Tracked.objects.filter(pk=row.pk).update(name=f"old {number}")
    Event.objects.all().delete()
    webhook.prechange = True
    webhook.save()
    assert [len(statements(update)), len(statements(bulk_update))] == [one + 1 for one in without]
    assert [changed(event) for event in events()] == [["status"]] * count + [["name"]] * count
    assert sides()[0]["name"].startswith("old")


@pytest.mark.parametrize("webhooks", [1, 50])
def test_the_state_before_costs_one_query_for_each_object_and_none_where_nobody_needs_it(webhooks: int) -> None:
    label = Label.objects.create(name="red")

    def costs() -> list[int]:
        thing = Thing.objects.create(name="old")
        with transaction.atomic():
            Thing.objects.create(name="the first looks the webhooks up")
            return [
                len(statements(lambda: rename(thing))),
                len(statements(lambda: rename(thing))),
                len(statements(lambda: Thing.objects.create(name="a"))),
                len(statements(lambda: thing.labels.add(label))),
                len(statements(lambda: thing.labels.clear())),
                len(statements(lambda: thing.delete())),
            ]

    def alone() -> list[int]:
        thing = Thing.objects.create(name="old")
        return [len(statements(lambda: rename(thing))), len(statements(lambda: Thing.objects.create(name="a")))]

    for _ in range(webhooks):
        make_webhook(Thing)
    plain, plain_alone = costs(), alone()
    for _ in range(webhooks):
        make_webhook(Thing, prechange=True)
    # What a relation held: a savepoint, one query and the release, once for each relation.
    assert [ours - one for ours, one in zip(costs(), plain, strict=True)] == [1, 0, 0, 3, 0, 0]
    assert [ours - one for ours, one in zip(alone(), plain_alone, strict=True)] == [1, 0]


def test_an_edit_of_a_relation_costs_four_queries_for_the_state_before_whichever_way_it_is_made(thing: Thing) -> None:
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
        return [len(statements(partial(in_transaction, change))) for change in changes]

    webhook = make_webhook(Thing, Course, Ship)
    plain = costs()
    webhook.prechange = True
    webhook.save()
    # Savepoint, rows, what the relation held, release.
    assert [ours - one for ours, one in zip(costs(), plain, strict=True)] == [4] * len(changes)


@pytest.mark.parametrize("serializer", [Brief, Told, ByHand, Varying])
def test_a_relation_that_no_field_shows_is_read_when_it_is_edited(
    thing: Thing, serializer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    red, blue = (Label.objects.create(name=name) for name in ("red", "blue"))
    monkeypatch.setattr(registry, "_registrations", dict(registry._registrations))
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
def test_a_webhook_may_choose_another_serializer_after_an_edit(
    thing: Thing, is_saved_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_registrations", dict(registry._registrations))
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


def test_what_a_relation_held_is_told_of_those_alone_that_are_edited(
    thing: Thing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queryset that an object is serialized from may show less of a relation than it holds."""
    few = models.Prefetch("labels", queryset=Label.objects.filter(name="blue"))
    monkeypatch.setattr(registry, "_registrations", dict(registry._registrations))
    registry.register(Thing, Told, queryset=lambda: Thing.objects.prefetch_related(few))
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
def test_where_the_state_before_cannot_be_read_the_save_and_its_event_go_on_without(
    thing: Thing, mode: Callable[..., None], monkeypatch: pytest.MonkeyPatch, app_log: pytest.LogCaptureFixture
) -> None:
    make_webhook(Thing, changed_fields=["status"])

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise ValueError("a field of it cannot be read")

    monkeypatch.setattr("webhooks.payloads.snapshots.read_rows", refuse)
    mode(lambda: rename(thing))
    assert Thing.objects.get().name == "new"
    assert (actions(), sides()[0], changed()) == (["updated"], None, None)
    assert f"testapp.thing {thing.pk}" in app_log.text


@pytest.mark.parametrize("name", ["status", "custom_fields", "custom_fields.zone", "custom_fields.room"])
def test_a_name_may_go_on_into_what_a_field_holds(name: str) -> None:
    site = Site.objects.create(name="a", slug="a", custom_field_data={"zone": "a", "room": {"floor": 1}})
    make_webhook(Site, on="u", changed_fields=[name])
    site.custom_field_data = {"zone": "b", "room": {"floor": 1}}
    site.save()
    assert actions() == (["updated"] if name in ("custom_fields", "custom_fields.zone") else [])


@MODES
def test_a_relation_is_compared_however_the_payload_shows_it(
    thing: Thing, mode: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    red, blue = (Label.objects.create(name=name) for name in ("red", "blue"))
    thing.labels.add(red)
    monkeypatch.setattr(registry, "_registrations", dict(registry._registrations))
    registry.register(Thing, Told)
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


def test_the_names_that_may_be_chosen_are_those_that_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registrations", dict(registry._registrations))
    registry.register(Thing, Told)
    found = snapshots.snapshot_fields(registry.registration_of(Thing))  # type: ignore[arg-type]
    assert {name: field.name for name, field in found.items()} == {
        "id": "id", "name": "name", "labels": "labels", "label_names": "labels",
    }  # fmt: skip


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
def test_changed_fields_are_those_that_differ(before: Any, after: Any, names: list[str]) -> None:
    assert snapshots.changed_fields(before, after) == names
