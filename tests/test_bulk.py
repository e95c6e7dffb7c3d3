"""Bulk work: ``webhooks.batch()`` and the querysets of ``webhooks.WebhookManager``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

import webhooks
from tests.makers import actions, events, last_data, make_webhook, recorded
from tests.testapp.models import Label, Thing, Tracked, TrackedPart
from webhooks.capture import subscriptions
from webhooks.models import Event

pytestmark = pytest.mark.usefixtures("database")


def make(count: int) -> list[Tracked]:
    return Tracked.objects.bulk_create(Tracked(name=f"number {number}") for number in range(count))


def queries(work: Callable[[], Any]) -> int:
    with CaptureQueriesContext(connection) as captured:
        work()
    return len(captured)


def test_objects_created_in_bulk_are_created_events() -> None:
    make_webhook(Tracked)
    made = make(3)
    assert recorded() == [("created", "testapp.tracked", str(one.pk)) for one in made]
    assert [json.loads(event.data)["name"] for event in events()] == ["number 0", "number 1", "number 2"]


def test_rows_that_are_updated_together_are_updated_events_with_their_new_state() -> None:
    made = make(3)
    make_webhook(Tracked)
    assert Tracked.objects.filter(pk__in=[made[0].pk, made[2].pk]).update(status="retired") == 2
    assert [event.object_id for event in events()] == [str(made[0].pk), str(made[2].pk)]
    assert {json.loads(event.data)["status"] for event in events()} == {"retired"}


def test_an_update_of_the_column_that_it_filters_by_tells_of_the_rows_it_changed() -> None:
    make(2)
    make_webhook(Tracked)
    assert Tracked.objects.filter(status="active").update(status="retired") == 2
    assert actions() == ["updated", "updated"]


def test_objects_updated_in_bulk_are_updated_events() -> None:
    made = make(3)
    make_webhook(Tracked)
    for one in made:
        one.name = f"new {one.pk}"
    Tracked.objects.bulk_update(made, ["name"])
    assert [json.loads(event.data)["name"] for event in events()] == [f"new {one.pk}" for one in made]


def test_rows_that_are_deleted_together_are_deleted_events_with_their_last_state() -> None:
    whole = make(2)[0]
    TrackedPart.objects.create(whole=whole, name="goes with it")
    make_webhook(Tracked, TrackedPart)
    Tracked.objects.all().delete()
    assert actions(Tracked) == ["deleted", "deleted"]
    assert actions(TrackedPart) == ["deleted"]
    assert last_data(TrackedPart)["name"] == "goes with it"


def test_rows_that_are_created_with_ignored_conflicts_are_no_events() -> None:
    make_webhook(Tracked)
    Tracked.objects.bulk_create([Tracked(name="a")], ignore_conflicts=True)
    assert events() == []


@pytest.mark.parametrize(
    "work",
    [
        lambda rows: make(len(rows)),
        lambda rows: Tracked.objects.all().update(status="retired"),
        lambda rows: Tracked.objects.bulk_update(rows, ["name"]),
        lambda rows: Tracked.objects.all().delete(),
    ],
    ids=["bulk_create", "update", "bulk_update", "delete"],
)
def test_the_number_of_queries_does_not_grow_with_the_rows(work: Callable[[list[Tracked]], Any]) -> None:
    make_webhook(Tracked)

    def cost(rows: int) -> int:
        Tracked.objects.all()._raw_delete("default")
        made = make(rows)
        return queries(lambda: work(made))

    assert cost(3) == cost(90)  # Django itself deletes a hundred at a time


def test_with_nobody_subscribed_bulk_work_costs_one_query_more() -> None:
    make(3)
    assert queries(lambda: Tracked.objects.all().update(status="retired")) == 2
    assert events() == []


def test_a_batch_is_one_event_for_each_object_inserted_in_one_statement() -> None:
    make_webhook(Thing)
    label = Label.objects.create(name="red")
    with CaptureQueriesContext(connection) as captured, webhooks.batch():
        for number in range(20):
            Thing.objects.create(name=f"number {number}").labels.add(label)
    assert actions() == ["created"] * 20
    assert last_data()["labels"] == ["red"]
    inserts = [query["sql"] for query in captured.captured_queries if "INSERT INTO webhooks_event " in query["sql"]]
    assert len(inserts) == 1


def test_a_batch_that_is_rolled_back_leaves_nothing() -> None:
    make_webhook(Thing)
    with pytest.raises(ZeroDivisionError), webhooks.batch():
        Thing.objects.create(name="a")
        1 / 0  # noqa: B018
    assert events() == []


def test_what_is_rolled_back_within_a_batch_is_not_sent() -> None:
    kept, other = Thing.objects.create(name="kept"), Thing.objects.create(name="other")
    make_webhook(Thing)
    with webhooks.batch():
        kept.save()
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            other.delete()
            1 / 0  # noqa: B018
    assert recorded() == [("updated", "testapp.thing", str(kept.pk))]


def test_a_batch_within_a_batch_adds_to_the_outer_one() -> None:
    make_webhook(Thing)
    with webhooks.batch():
        thing = Thing.objects.create(name="a")
        with webhooks.batch():
            thing.name = "b"
            thing.save()
        assert not Event.objects.exists()
    assert (actions(), last_data()["name"]) == (["created"], "b")


def test_an_object_created_and_deleted_in_a_batch_is_nothing() -> None:
    make_webhook(Thing)
    with webhooks.batch():
        Thing.objects.create(name="a").delete()
    assert events() == []


def test_an_event_recorded_before_the_batch_becomes_the_batchs() -> None:
    make_webhook(Thing)
    with transaction.atomic():
        thing = Thing.objects.create(name="a")
        with webhooks.batch():
            thing.name = "b"
            thing.save()
    assert (actions(), last_data()["name"]) == (["created"], "b")


def test_one_object_that_cannot_be_serialized_does_not_keep_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.testapp.api.serializers import ThingSerializer

    make_webhook(Thing)
    plain = ThingSerializer.to_representation

    def choosy(self: Any, instance: Thing) -> Any:
        if instance.name == "bad":
            raise ValueError("no payload for this one")
        return plain(self, instance)

    monkeypatch.setattr(ThingSerializer, "to_representation", choosy)
    with webhooks.batch():
        for name in ("good", "bad", "fine"):
            Thing.objects.create(name=name)
    failed = Event.objects.failed().get()
    assert "no payload for this one" in failed.error
    assert Event.objects.undispatched().count() == 2


def test_the_batch_of_a_table_nobody_subscribed_to_looks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    current = subscriptions.current
    monkeypatch.setattr(subscriptions, "current", lambda using, *more: (looks.append(using), current(using, *more))[1])
    with webhooks.batch():
        for number in range(5):
            Thing.objects.create(name=str(number))
    assert looks == ["default"]
    assert events() == []
