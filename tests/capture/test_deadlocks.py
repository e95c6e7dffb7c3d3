"""Two transactions that change the same objects in Django's own order: the row of a parent, then the row of its child.
They may wait for each other only as without the app."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.db.models import signals

import webhooks
from tests.support.makers import actions, events, make_webhook
from tests.support.receivers import host_receiver
from tests.support.statements import are_merged, statements_of
from tests.support.threads import Beside
from tests.testapp.models import Diner, Label, Part, Place, Restaurant, Thing
from webhooks.ground.db import execute

pytestmark = [pytest.mark.usefixtures("database"), pytest.mark.postgresql]

SIGNALS = (signals.pre_save, signals.post_save, signals.pre_delete, signals.post_delete)


@pytest.fixture(autouse=True)
def no_deadlock(app_log: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert "deadlock" not in app_log.text


@pytest.fixture
def of_parts(own_registrations: None) -> Any:
    before = [(one, list(one.receivers)) for one in SIGNALS]
    webhooks.register(Thing, also_on=[Part])
    yield
    for signal, receivers in before:
        signal.receivers = receivers
        signal.sender_receivers_cache.clear()


def lock(table: str, column: str, pk: Any) -> None:
    execute("default", f"UPDATE testapp_{table} SET {column} = {column} WHERE {column} = %s", [pk])


def beside_django_order(change: Callable[[], Any], *rows: tuple[str, str, Any]) -> None:
    """Do the change in a transaction that meets another one, which locks these rows in their order."""
    with transaction.atomic():
        lock(*rows[0])
        other = Beside(transaction.atomic(change))
        other.wait_until_blocked_or_done()
        for row in rows[1:]:
            lock(*row)
    other.join()
    assert not [event.error for event in events() if event.error]


@pytest.mark.parametrize("wanted", [(Place,), (Restaurant, Place)])
@pytest.mark.parametrize("is_batched", [False, True])
def test_a_save_of_a_childs_columns_locks_the_parent_first(wanted: Any, is_batched: bool) -> None:
    restaurant = Restaurant.objects.create(name="a")
    make_webhook(*wanted)

    def change() -> None:
        with webhooks.batch() if is_batched else transaction.atomic():
            restaurant.save(update_fields=["cuisine"])

    beside_django_order(change, ("place", "id", restaurant.pk), ("restaurant", "place_ptr_id", restaurant.pk))
    assert actions() == ["updated"] * len(wanted)


@pytest.mark.parametrize("columns", [["is_open"], ["cuisine"], ["name"]])
def test_a_grandchild_is_locked_after_both_parents(columns: list[str]) -> None:
    diner = Diner.objects.create(name="a")
    make_webhook(Place, Restaurant, Diner)
    rows = ("place", "id"), ("restaurant", "place_ptr_id"), ("diner", "restaurant_ptr_id")
    for first in range(2):
        chosen = [(table, column, diner.pk) for table, column in rows[first:]]
        beside_django_order(lambda: diner.save(update_fields=columns), *chosen)


def test_an_edit_of_a_childs_relation_locks_the_parent_first() -> None:
    restaurant, red = Restaurant.objects.create(name="a"), Label.objects.create(name="red")
    make_webhook(Restaurant, Place)
    rows = ("place", "id", restaurant.pk), ("restaurant", "place_ptr_id", restaurant.pk)
    beside_django_order(lambda: restaurant.labels.add(red), *rows)


@pytest.mark.usefixtures("of_parts")
@pytest.mark.parametrize("change", [Part.save, Part.delete], ids=["save", "delete"])
def test_a_related_object_is_locked_before_the_row_that_points_to_it(change: Callable[[Part], Any]) -> None:
    thing = Thing.objects.create(name="a")
    part = Part.objects.create(thing=thing, name="b")
    make_webhook(Thing)
    beside_django_order(lambda: change(part), ("thing", "id", thing.pk), ("part", "id", part.pk))
    assert actions() == ["updated"]


@pytest.mark.cost
@pytest.mark.usefixtures("of_parts")
@pytest.mark.parametrize("prechange", [False, True])
def test_the_locks_take_no_round_trip(prechange: bool) -> None:
    thing, restaurant = Thing.objects.create(name="a"), Restaurant.objects.create(name="a")
    part = Part.objects.create(thing=thing, name="b")
    make_webhook(Part, prechange=prechange)
    make_webhook(Thing, Place)

    def in_transaction(change: Callable[[], Any]) -> int:
        with transaction.atomic():
            Thing.objects.create(name="first")
            return len(statements_of(change))

    # Its UPDATE, and a row and an Event for each object. Of a part, one more for the thing that the row has, and one
    # for its previous state.
    assert in_transaction(lambda: restaurant.save(update_fields=["cuisine"])) == (3 if are_merged() else 9)
    assert in_transaction(part.save) == (6 if are_merged() else 19) + prechange
    assert not connection.execute_wrappers


@pytest.mark.cost
@pytest.mark.usefixtures("of_parts")
def test_the_parts_of_many_things_are_deleted_with_one_statement_for_the_locks() -> None:
    things = Thing.objects.bulk_create(Thing(name=str(number)) for number in range(1200))
    Part.objects.bulk_create(Part(thing=thing, name="a") for thing in things)
    make_webhook(Thing)
    with webhooks.batch():
        statements = statements_of(Part.objects.all().delete)
    assert sum("FOR NO KEY UPDATE" in one for one in statements) == (1 if are_merged() else 1200)
    assert len(events(Thing)) >= 1200


def test_a_save_goes_on_if_the_parent_cannot_be_locked(app_log: pytest.LogCaptureFixture) -> None:
    restaurant = Restaurant.objects.create(name="a", cuisine="old")
    make_webhook(Place)
    restaurant.cuisine = "new"
    with transaction.atomic():
        lock("place", "id", restaurant.pk)

        def change() -> None:
            with transaction.atomic():
                execute("default", "SET LOCAL lock_timeout = '50ms'")
                restaurant.save(update_fields=["cuisine"])

        Beside(change).join()
    assert "The objects of a change cannot be locked before it" in app_log.text
    assert Restaurant.objects.get().cuisine == "new"


def test_an_error_of_the_save_is_djangos(app_log: pytest.LogCaptureFixture) -> None:
    restaurant = Restaurant.objects.create(name="a")
    make_webhook(Place)
    restaurant.cuisine = "x" * 100  # longer than its column
    with pytest.raises(DatabaseError, match="too long"), transaction.atomic():
        restaurant.save(update_fields=["cuisine"])
    restaurant.refresh_from_db()
    with transaction.atomic():
        restaurant.save(update_fields=["cuisine"])
    assert actions() == ["updated"]


def test_a_rollback_to_a_savepoint_forgets_the_locks() -> None:
    restaurant = Restaurant.objects.create(name="a")
    make_webhook(Place)

    def refuse(**kwargs: Any) -> None:
        raise ValueError("no")

    with transaction.atomic():
        Restaurant.objects.create(name="first")
        with (
            host_receiver(signals.pre_save, Restaurant, refuse, before=False),
            pytest.raises(ValueError, match="no"),
            transaction.atomic(),
        ):
            restaurant.save(update_fields=["cuisine"])
        assert not any("FOR NO KEY UPDATE" in one for one in statements_of(Label.objects.count))
        statements = statements_of(lambda: restaurant.save(update_fields=["cuisine"]))
        assert "FOR NO KEY UPDATE" in statements[0 if are_merged() else 1]
    assert not connection.execute_wrappers


@pytest.mark.usefixtures("of_parts")
@pytest.mark.parametrize("change", [Part.save, Part.delete], ids=["save", "delete"])
def test_a_change_goes_on_if_its_related_object_cannot_be_locked(
    change: Callable[[Part], Any], app_log: pytest.LogCaptureFixture
) -> None:
    thing = Thing.objects.create(name="a")
    part = Part.objects.create(thing=thing, name="b")
    make_webhook(Thing)

    def change_beside() -> None:
        with transaction.atomic():
            execute("default", "SET LOCAL lock_timeout = '50ms'")
            change(part)

    part.name = "c"
    with transaction.atomic():
        lock("thing", "id", thing.pk)
        Beside(change_beside).join()
    assert "The objects of a change cannot be locked before it" in app_log.text
    assert not Part.objects.filter(name="b").exists()
    assert ["lock timeout" in event.error for event in events()] == [True]


@pytest.mark.usefixtures("of_parts")
def test_an_error_of_a_save_that_locks_a_related_object_is_djangos() -> None:
    part = Part.objects.create(thing=Thing.objects.create(name="a"), name="b")
    make_webhook(Thing)
    with transaction.atomic():
        part.name = "x" * 100  # longer than its column
        with pytest.raises(DatabaseError, match="too long"), transaction.atomic():
            part.save()
        part.name = "c"
        part.save()
    assert actions() == ["updated"]
    assert Part.objects.get().name == "c"
