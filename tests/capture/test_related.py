"""``register(Thing, also_on=[Part])``: a thing hears of the changes of its parts."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.db.models import signals

import webhooks
from tests.support.makers import events, make_webhook
from tests.testapp.models import Label, Membership, Part, Thing
from webhooks import registry
from webhooks.capture import related
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
    with pytest.raises(ImproperlyConfigured, match="also_on of testapp.thing must be a list"):
        webhooks.register(Thing, also_on="testapp.Part")


def test_the_foreign_key_is_found_by_its_name() -> None:
    registration = registry.Registration(Thing, also_on=("testapp.Part:thing",))
    assert [field.name for field in registration.parents_of] == ["thing"]
    assert related.BEFORE not in vars(Thing(name="x"))
