"""``register(Thing, also_on=[Part])``: a thing hears of the changes of its parts."""

from __future__ import annotations

import json
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, models, transaction
from django.db.models import signals
from django.test.utils import CaptureQueriesContext, isolate_apps

import webhooks
from tests.support.makers import actions, events, make_webhook
from tests.support.receivers import host_receiver
from tests.testapp.api.serializers import plain
from tests.testapp.models import (
    Country,
    Course,
    Enrolment,
    Gadget,
    Label,
    Membership,
    Part,
    Person,
    Seat,
    Sounding,
    Specimen,
    Thing,
    ThingProxy,
    Tracked,
    TrackedPart,
)
from webhooks.capture import related
from webhooks.ground import registry
from webhooks.models import Event, Webhook

SIGNALS = (signals.pre_save, signals.post_save, signals.pre_delete, signals.post_delete)


@pytest.fixture(autouse=True)
def of_parts(own_registrations: None) -> Any:
    before = [(one, list(one.receivers)) for one in SIGNALS]
    webhooks.register(Thing, also_on=[Part])
    yield
    for signal, receivers in before:
        signal.receivers = receivers
        signal.sender_receivers_cache.clear()


@pytest.fixture
def thing(database: str) -> Thing:
    thing = Thing.objects.create(name="router")
    make_webhook(Thing)
    return thing


def found() -> list[tuple[str, str, str]]:
    """The events so far, which are then forgotten."""
    all_of_them = [(event.action, event.object_type, event.object_repr) for event in events()]
    Event.objects.all().delete()
    return all_of_them


UPDATED = ("updated", "testapp.thing", "router")


def test_each_change_of_a_part_is_an_update_of_its_thing(thing: Thing) -> None:
    part = Part.objects.create(thing=thing, name="fan")
    assert found() == [UPDATED]
    part.name = "fan 2"
    part.save()
    assert found() == [UPDATED]
    part.delete()
    assert found() == [UPDATED]


def test_many_changes_in_one_transaction_are_one_event(thing: Thing) -> None:
    with transaction.atomic():
        parts = [Part.objects.create(thing=thing, name=str(number)) for number in range(3)]
        parts[0].delete()
    assert found() == [UPDATED]


def test_if_a_part_moves_both_things_are_updated(thing: Thing) -> None:
    other = Thing.objects.create(name="switch")
    part = Part.objects.create(thing=thing, name="fan")
    found()
    part.thing = other
    part.save()
    assert sorted(found()) == [UPDATED, ("updated", "testapp.thing", "switch")]
    part.name = "fan 2"
    part.save(update_fields=["name"])
    assert found() == [("updated", "testapp.thing", "switch")]


def test_a_stale_instance_still_finds_the_thing_that_the_row_has(thing: Thing) -> None:
    other = Thing.objects.create(name="switch")
    part = Part.objects.create(thing=thing, name="fan")
    Part.objects.filter(pk=part.pk).update(thing=other)
    found()
    part.save()
    assert sorted(found()) == [UPDATED, ("updated", "testapp.thing", "switch")]


def test_a_stale_instance_that_is_deleted_updates_the_thing_of_its_row(thing: Thing) -> None:
    other = Thing.objects.create(name="switch")
    part = Part.objects.create(thing=thing, name="fan")
    Part.objects.filter(pk=part.pk).update(thing=other)
    found()
    part.delete()
    assert found() == [("updated", "testapp.thing", "switch")]


def test_a_foreign_key_that_is_set_and_not_saved_does_not_count(thing: Thing) -> None:
    other = Thing.objects.create(name="switch")
    part = Part.objects.create(thing=thing, name="fan")
    found()
    part.thing = other
    part.save(update_fields=["name"])
    assert found() == [UPDATED]
    part.delete()
    assert found() == [UPDATED]


def test_a_new_instance_with_the_key_of_a_row_updates_the_thing_that_the_row_had(thing: Thing) -> None:
    other = Thing.objects.create(name="switch")
    part = Part.objects.create(thing=thing, name="fan")
    found()
    Part(pk=part.pk, thing=other, name="fan").save()
    assert sorted(found()) == [UPDATED, ("updated", "testapp.thing", "switch")]


def test_an_instance_without_the_foreign_key_updates_its_thing(thing: Thing) -> None:
    Part.objects.create(thing=thing, name="fan")
    found()
    part = Part.objects.only("name").get()
    part.save()
    assert found() == [UPDATED]
    part.delete()
    assert found() == [UPDATED]


@pytest.mark.parametrize("in_block", [True, False])
def test_a_row_that_is_gone_changes_nothing_for_the_project(thing: Thing, in_block: bool) -> None:
    with transaction.atomic() if in_block else nullcontext():
        Part.objects.create(thing=thing, name="fan")
        part = Part.objects.only("name").get()
        Part.objects.all()._raw_delete("default")  # type: ignore[attr-defined]
        Event.objects.all().delete()
        assert part.delete()[0] == 0
    assert found() == []


@pytest.mark.parametrize("model", [Part, Enrolment])
def test_a_key_that_no_parent_can_have_is_refused_by_django_alone(database: str, model: Any) -> None:
    webhooks.register(Course, also_on=[Enrolment])
    make_webhook(Thing, Course, prechange=True)
    instance = Part(thing_id="no number") if model is Part else Enrolment(course_id="C1", person_id="no number")
    with pytest.raises(ValueError, match=r"Field '(id|thing|person)' expected a number but got 'no number'"):
        instance.save()


def test_a_receiver_that_saves_the_part_again_hides_no_move(thing: Thing) -> None:
    other = Thing.objects.create(name="switch")
    part = Part.objects.create(thing=thing, name="fan")
    found()

    def number(instance: Part, **kwargs: Any) -> None:
        if instance.name == "fan":
            instance.name = "fan 1"
            instance.save()

    with host_receiver(signals.post_save, Part, number, before=False):
        webhooks.register(Thing, also_on=[Part])  # its receivers come after that
        part.thing = other
        part.save()
    assert Part.objects.get().name == "fan 1"
    assert {name for _, _, name in found()} == {"router", "switch"}


def test_a_receiver_that_saves_a_part_while_it_is_deleted_hides_no_deletion(thing: Thing) -> None:
    part = Part.objects.create(thing=thing, name="fan")
    found()

    def count(instance: Part, **kwargs: Any) -> None:
        instance.save(update_fields=["name"])

    webhooks.register(Thing, also_on=[Part], serializer=plain(Thing, "id", "parts"))
    with host_receiver(signals.pre_delete, Part, count, before=False), transaction.atomic():
        part.delete()
    [event] = events()
    assert (event.action, json.loads(event.data)["parts"]) == ("updated", [])


def reads_of(table: str, queries: Any) -> int:
    return sum(f'FROM "{table}"' in query["sql"] for query in queries)


@pytest.mark.cost
def test_a_save_takes_one_query_for_the_parent_and_a_new_row_none(thing: Thing) -> None:
    with CaptureQueriesContext(connection) as queries, transaction.atomic():
        part = Part.objects.create(thing=thing, name="fan")
    assert reads_of("testapp_part", queries) == 0
    for update_fields in (None, ["name"], ["thing"]):
        with CaptureQueriesContext(connection) as queries, transaction.atomic():
            part.save(update_fields=update_fields)
        assert reads_of("testapp_part", queries) == 1
    with CaptureQueriesContext(connection) as queries:
        part.delete()
    assert reads_of("testapp_part", queries) == 2  # Django reads its spares


@pytest.mark.cost
def test_rows_that_django_reads_to_delete_them_are_not_read_again(thing: Thing) -> None:
    for number in range(3):
        Part.objects.create(thing=thing, name=str(number))
    with CaptureQueriesContext(connection) as queries:
        Part.objects.filter(name__in="01").delete()
    deleted = reads_of("testapp_part", queries)
    found()
    webhooks.register(Thing)
    Part.objects.create(thing=thing, name="3")
    with CaptureQueriesContext(connection) as queries:
        Part.objects.filter(name__in="23").delete()
    assert reads_of("testapp_part", queries) == deleted


@pytest.mark.cost
def test_a_foreign_key_to_another_field_takes_one_more_query(database: str) -> None:
    webhooks.register(Course, also_on=[Enrolment])
    make_webhook(Course)
    course = Course.objects.create(code="C1")
    enrolment = Enrolment.objects.create(course=course, person=Person.objects.create(name="Ann"))
    with CaptureQueriesContext(connection) as queries, transaction.atomic():
        enrolment.save()
    keys = [one for one in queries if '"testapp_course"."code" IN' in one["sql"]]
    assert (reads_of("testapp_enrolment", queries), len(keys)) == (1, 1)


ROWS: dict[Any, dict[str, Any]] = {
    Seat: {"number": 1},  # a composite key with the foreign key in it
    Sounding: {"at": datetime(2026, 1, 1, tzinfo=UTC), "depth": "1.5", "place": "North"},
    TrackedPart: {"name": "fan"},
    Specimen: {},  # a key with a default
    Part: {"name": "fan"},
}


@pytest.mark.parametrize(
    ("parent", "child"),
    [(Thing, Seat), (Gadget, Sounding), (Tracked, TrackedPart), (Country, Specimen), (Part, "testapp.Part:spare_of")],
)
def test_rows_with_keys_of_every_kind_update_their_parents(database: str, parent: Any, child: Any) -> None:
    webhooks.register(parent, also_on=[child])
    owners = {"thing": Thing.objects.create(name="router")} if parent is Part else {}
    one = parent.objects.create(name="one", **owners)
    [link] = registry.registration_of(parent).parents_of  # type: ignore[union-attr]
    make_webhook(parent, prechange=True)
    values = ROWS[link.model] | owners | {link.name: one}
    row = link.model(**values)
    for change in (row.save, row.save, row.delete):
        Event.objects.all().delete()
        change()
        about = [event for event in events() if event.object_id == str(one.pk)]
        assert [event.action for event in about] == ["updated"]
        assert json.loads(about[0].snapshots)["prechange"]


@isolate_apps("tests.testapp")
def test_a_foreign_key_to_a_proxy_is_one_to_the_model() -> None:
    class Sticker(models.Model):
        thing = models.ForeignKey(ThingProxy, models.CASCADE)

        class Meta:
            app_label = "testapp"

    [link] = registry.Registration(Thing, also_on=(Sticker,)).parents_of
    assert link.name == "thing"


def test_no_attribute_is_left_on_the_part(thing: Thing) -> None:
    part = Part.objects.create(thing=thing, name="fan")
    part.save()
    assert related.BEFORE not in vars(part)


def test_a_deleted_thing_is_deleted_and_not_updated(thing: Thing) -> None:
    for number in range(3):
        Part.objects.create(thing=thing, name=str(number))
    found()
    thing.delete()
    assert found() == [("deleted", "testapp.thing", "router")]


def test_the_payload_has_the_state_before_if_the_webhook_wants_it(thing: Thing) -> None:
    Webhook.objects.update(prechange=True)
    Part.objects.create(thing=thing, name="fan")
    [event] = events()
    assert event.snapshots
    assert '"prechange": {' in event.snapshots.replace('":{', '": {')


def test_a_rolled_back_change_leaves_nothing(thing: Thing) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        Part.objects.create(thing=thing, name="fan")
        raise ZeroDivisionError
    assert found() == []


@pytest.mark.cost
def test_without_a_webhook_for_the_thing_a_part_costs_no_query_of_it(
    database: str, django_assert_num_queries: Any
) -> None:
    thing = Thing.objects.create(name="router")
    part = Part.objects.create(thing=thing, name="fan")
    with transaction.atomic():
        part.save()
        with django_assert_num_queries(1):
            part.save()


def test_a_later_registration_replaces_the_models(thing: Thing) -> None:
    webhooks.register(Thing)
    Part.objects.create(thing=thing, name="fan")
    assert found() == []
    webhooks.register(Thing, also_on=["testapp.Membership"])
    Membership.objects.create(thing=thing, label=Label.objects.create(name="red"))
    assert found() == [UPDATED]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (Label, "testapp.Label has no foreign key to it"),
        ("testapp.Part:name", "testapp.Part has no foreign key name to it"),
    ],
)
def test_a_model_without_a_foreign_key_is_refused(given: Any, problem: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=problem):
        webhooks.register(Thing, also_on=[given])


def test_one_text_is_no_list(thing: Thing) -> None:
    with pytest.raises(ImproperlyConfigured, match="must be a list of names, not 'testapp"):
        webhooks.register(Thing, also_on="testapp.Part")


def test_the_foreign_key_is_found_by_its_name() -> None:
    registration = registry.Registration(Thing, also_on=("testapp.Part:thing",))
    assert [field.name for field in registration.parents_of] == ["thing"]
    assert related.BEFORE not in vars(Thing(name="x"))


def test_a_row_may_point_to_an_object_that_is_created_later(database: str) -> None:
    make_webhook(Thing, on="c")
    with transaction.atomic():
        Part.objects.create(thing_id=4711, name="first")
        Thing.objects.create(pk=4711, name="second")
    assert actions() == ["created"]
