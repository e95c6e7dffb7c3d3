"""Rows that are read or locked in the round trip of the next statement, if the driver can send several at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.db.models import Count
from django.db.models.signals import pre_save

from tests.support.makers import actions, changed, events, last_data, make_webhook, rename, sides
from tests.support.receivers import host_receiver
from tests.support.statements import are_merged, statements_of
from tests.support.threads import Beside
from tests.testapp.api.serializers import ThingSerializer
from tests.testapp.models import Label, Thing
from webhooks.ground import registry
from webhooks.ground.db.django_internals import savepoint

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def thing() -> Thing:
    return Thing.objects.create(name="old")


def in_open_transaction(change: Callable[[], Any]) -> list[str]:
    """The statements of a change, after another one has looked the webhooks up."""
    with transaction.atomic():
        Thing.objects.create(name="first")
        return statements_of(change)


@pytest.mark.cost
def test_a_save_reads_the_previous_state_in_the_round_trip_of_its_update(thing: Thing) -> None:
    webhook = make_webhook(Thing)
    plain = in_open_transaction(lambda: rename(thing))
    webhook.prechange = True
    webhook.save()
    other = Thing.objects.create(name="old")
    found = in_open_transaction(lambda: rename(other))
    assert len(found) - len(plain) == (0 if are_merged() else 1)
    assert (sides()[0]["name"], sides()[1]["name"], changed()) == ("old", "new", ["name"])
    assert not connection.execute_wrappers


@contextmanager
def watching(seen: list[str]) -> Iterator[None]:
    """A wrapper of the project, which looks at its statements."""

    def watch(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        seen.append(sql)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(watch):
        yield


def test_a_wrapper_of_the_project_sees_its_own_statements(thing: Thing) -> None:
    make_webhook(Thing, prechange=True)
    seen = list[str]()
    with transaction.atomic(), watching(seen):
        rename(thing)
    assert [sql for sql in seen if sql.startswith('UPDATE "testapp_thing"')]
    assert sides()[0]["name"] == "old"
    assert not connection.execute_wrappers


@pytest.mark.parametrize("statement", ["SELECT 1", "UPDATE testapp_thing SET status = 'x%'"])
def test_another_statement_before_the_update_reads_the_previous_state(thing: Thing, statement: str) -> None:
    make_webhook(Thing, prechange=True)

    def execute(**kwargs: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement)

    with host_receiver(pre_save, Thing, execute, before=False), transaction.atomic():
        rename(thing)
    assert (sides()[0]["name"], sides()[0]["status"]) == ("old", "active")


def test_a_save_that_fails_before_its_update_leaves_nothing_to_read(thing: Thing) -> None:
    make_webhook(Thing, prechange=True)

    def refuse(**kwargs: Any) -> None:
        raise ValueError("no")

    with transaction.atomic():
        with host_receiver(pre_save, Thing, refuse, before=False), pytest.raises(ValueError, match="no"):
            rename(thing)
        Thing.objects.filter(pk=thing.pk).update(status="retired")
        thing.refresh_from_db()
        rename(thing)
    assert (sides()[0]["name"], sides()[0]["status"]) == ("old", "active")
    with transaction.atomic(), suppress(ValueError), host_receiver(pre_save, Thing, refuse, before=False):
        rename(thing)
    assert Thing.objects.count() == 1
    assert not connection.execute_wrappers


def test_a_rollback_to_a_savepoint_forgets_what_the_next_statement_was_to_read(thing: Thing) -> None:
    make_webhook(Thing, prechange=True)

    def refuse(**kwargs: Any) -> None:
        raise ValueError("no")

    with transaction.atomic():
        Thing.objects.create(name="first")
        with suppress(ValueError), host_receiver(pre_save, Thing, refuse, before=False), transaction.atomic():
            rename(thing)
        assert len(statements_of(Label.objects.count)) == 1
    assert not connection.execute_wrappers


def test_an_update_that_fails_leaves_the_transaction_usable(thing: Thing) -> None:
    make_webhook(Thing, prechange=True)
    with transaction.atomic():
        with suppress(DatabaseError), transaction.atomic():
            thing.name = None  # type: ignore[assignment]
            thing.save()
        rename(thing)
    assert (actions(), sides()[0]["name"]) == (["updated"], "old")


@pytest.mark.postgresql
def test_the_previous_state_is_what_another_transaction_committed_meanwhile(thing: Thing) -> None:
    make_webhook(Thing, prechange=True)
    with transaction.atomic():
        Thing.objects.filter(pk=thing.pk).update(status="retired")

        def save() -> None:
            with transaction.atomic():
                rename(Thing.objects.get(pk=thing.pk))

        beside = Beside(save)
        beside.wait_until_blocked_or_done()
    beside.join()
    assert (sides()[0]["name"], sides()[0]["status"]) == ("old", "retired")


@pytest.mark.cost
def test_a_lock_and_a_read_with_annotations_take_one_round_trip(thing: Thing, own_registrations: None) -> None:
    def costs() -> int:
        one = Thing.objects.create(name="one")
        return len(in_open_transaction(lambda: one.delete()))

    make_webhook(Thing, on="d")
    registry.register(Thing, ThingSerializer)
    plain = costs()
    registry.register(Thing, ThingSerializer, lambda: Thing.objects.annotate(count=Count("labels")))
    relations = 4  # the serializer reads these: the queryset might have its own way
    lock = 1 if connection.vendor == "sqlite" else 0
    assert costs() - plain == (relations if are_merged() else lock)
    assert [event.object_repr for event in events()] == ["one", "one"]
    assert last_data()["name"] == "one"


@pytest.mark.cost
def test_the_members_of_relations_are_read_in_the_round_trip_of_the_row(thing: Thing) -> None:
    red, blue = (Label.objects.create(name=name) for name in ("red", "blue"))
    other = Thing.objects.create(name="other")
    thing.labels.add(red, blue)
    thing.friends.add(other)
    make_webhook(Thing)
    found = in_open_transaction(lambda: rename(thing))
    if connection.vendor == "postgresql":
        assert len(found) == (3 if are_merged() else 9)  # the UPDATE, everything, and the Event
    data = last_data()
    assert (sorted(data["labels"]), data["friends"], data["heroes"]) == (["blue", "red"], [other.pk], [])


@pytest.mark.postgresql
def test_members_are_what_another_transaction_committed_before_the_lock(thing: Thing) -> None:
    make_webhook(Thing, on="d")
    with transaction.atomic():
        Thing.objects.filter(pk=thing.pk).update(status="retired")
        thing.labels.add(Label.objects.create(name="red"))
        beside = Beside(Thing.objects.get(pk=thing.pk).delete)
        beside.wait_until_blocked_or_done()
    beside.join()
    assert (actions(), last_data()["labels"]) == (["deleted"], ["red"])


@pytest.mark.postgresql
@pytest.mark.usefixtures("merged")
def test_a_savepoint_left_open_is_not_released_in_the_next_transaction(
    thing: Thing, webhooks_settings: Callable[..., None]
) -> None:
    """COPY begins a transaction past Django's statements."""
    webhooks_settings(SKIP_DAYS=0)
    make_webhook(Thing, conditions={"attr": "name", "value": "never"})

    def copy_and(work: Callable[[], Any]) -> None:
        with connection.cursor() as cursor, cursor.copy("COPY testapp_label (name) FROM STDIN") as copy:
            copy.write_row(("copied",))
        work()

    @transaction.atomic  # the same block in each call
    def do(work: Callable[[], Any]) -> None:
        work()

    for work in (Label.objects.count, thing.save):  # the latter begins a savepoint itself
        with transaction.atomic():
            rename(thing)
            assert connection.execute_wrappers, "the savepoint waits for the next statement"
        with transaction.atomic():
            copy_and(work)
        do(lambda: rename(thing))
        assert connection.execute_wrappers
        do(partial(copy_and, work))
    assert Label.objects.count() == 4


def test_many_statements_of_the_project_go_on_between_a_change_and_the_next_one(thing: Thing) -> None:
    red = Label.objects.create(name="red")
    make_webhook(Thing, prechange=True)

    def execute_many(**kwargs: Any) -> None:
        with connection.cursor() as cursor:
            cursor.executemany("UPDATE testapp_label SET name = %s WHERE name <> %s", [("blue", "a"), ("green", "b")])

    with host_receiver(pre_save, Thing, execute_many, before=False), transaction.atomic():
        Thing.objects.create(name="first")
        with savepoint("default"):
            Label.objects.count()
        rename(thing)
    red.refresh_from_db()
    assert (red.name, sides()[0]["name"]) == ("green", "old")
    assert not connection.execute_wrappers
