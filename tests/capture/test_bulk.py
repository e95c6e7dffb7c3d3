"""Bulk work: ``webhooks.batch()`` and the querysets of ``webhooks.WebhookManager``."""

from __future__ import annotations

import collections
import json
import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import FieldDoesNotExist
from django.db import IntegrityError, NotSupportedError, OperationalError, connection, models, transaction
from django.db.models import Count, F, Max, Subquery, Value
from django.db.models.functions import Cast, Concat, Random, Substr, Upper
from django.test.utils import CaptureQueriesContext

import webhooks
from tests.support import servers
from tests.support.makers import actions, changed, events, last_data, make_webhook, recorded
from tests.support.modes import autocommit, in_batch, in_transaction
from tests.support.rollbacks import bare_savepoint
from tests.support.statements import statements_of
from tests.support.threads import Beside
from tests.testapp.models import (
    Counter,
    Country,
    Craft,
    Diner,
    Edition,
    Gadget,
    Label,
    Paired,
    Place,
    Ship,
    Shout,
    Thing,
    Tide,
    Tracked,
    TrackedPart,
)
from webhooks.capture import subscriptions
from webhooks.ground.db import execute, host_rows, to_db_time
from webhooks.models import Delivery, Event, Webhook

pytestmark = pytest.mark.usefixtures("database")


def make(count: int) -> list[Tracked]:
    return Tracked.objects.bulk_create(Tracked(name=f"number {number}") for number in range(count))


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


def test_an_update_of_the_filtered_column_records_the_rows_it_changed() -> None:
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


@pytest.mark.cost
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
        return len(statements_of(lambda: work(made)))

    assert cost(3) == cost(90)  # Django itself deletes a hundred at a time


@pytest.mark.cost
def test_without_subscribers_bulk_work_costs_one_query_more() -> None:
    make(3)
    assert len(statements_of(lambda: Tracked.objects.all().update(status="retired"))) == 2
    assert events() == []


def test_a_batch_is_one_event_for_each_object_inserted_in_one_statement() -> None:
    make_webhook(Thing)
    label = Label.objects.create(name="red")
    with CaptureQueriesContext(connection) as captured, webhooks.batch():
        for number in range(20):
            Thing.objects.create(name=f"number {number}").labels.add(label)
    assert actions() == ["created"] * 20
    assert last_data()["labels"] == ["red"]
    inserts = [query["sql"] for query in captured.captured_queries if "INSERT INTO rq_webhooks_event " in query["sql"]]
    assert len(inserts) == 1


def test_events_that_are_large_together_are_inserted_in_several_statements() -> None:
    data = json.dumps(random.Random(0).randbytes(500_000).hex())  # does not compress well
    new = [Event(action="updated", object_type="testapp.thing", object_id=str(n), data=data) for n in range(25)]
    sizes = []

    def measure(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if "INSERT INTO rq_webhooks_event" in sql:
            sizes.append(len(params[0]))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(measure):
        Event.insert_all(new, "default")
    assert sum(sizes) > 25_000_000
    assert (len(sizes), max(sizes) < 17_000_000) == (2, True)
    assert [(event.pk, event.object_id) for event in events()] == [(one.pk, one.object_id) for one in new]


def test_a_batch_that_is_rolled_back_leaves_nothing() -> None:
    make_webhook(Thing)
    with pytest.raises(ZeroDivisionError), webhooks.batch():
        Thing.objects.create(name="a")
        1 / 0  # noqa: B018
    assert events() == []


def test_a_rollback_within_a_batch_leaves_no_event() -> None:
    kept, other = Thing.objects.create(name="kept"), Thing.objects.create(name="other")
    make_webhook(Thing)
    with webhooks.batch():
        kept.save()
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            other.delete()
            1 / 0  # noqa: B018
    assert recorded() == [("updated", "testapp.thing", str(kept.pk))]


def test_a_rollback_to_a_savepoint_within_a_batch_keeps_the_changes_before_it() -> None:
    deleted, updated, kept = (Thing.objects.create(name=name) for name in ("deleted", "updated", "kept"))
    make_webhook(Thing)
    heard: list[str] = []
    with webhooks.batch():
        kept.save()
        savepoint = bare_savepoint()
        transaction.on_commit(lambda: heard.append("of the host"))
        Thing.objects.get(pk=deleted.pk).delete()
        updated.save()
        kept.delete()
        transaction.savepoint_rollback(savepoint)
        Label.objects.create(name="after it")
    assert recorded() == [("updated", "testapp.thing", str(Thing.objects.get(name="kept").pk))]
    assert heard == ["of the host"]


def test_a_batch_within_a_batch_adds_to_the_outer_one() -> None:
    make_webhook(Thing)
    with webhooks.batch():
        thing = Thing.objects.create(name="a")
        with webhooks.batch():
            thing.name = "b"
            thing.save()
        assert not Event.objects.exists()
    assert (actions(), last_data()["name"]) == (["created"], "b")


def test_a_manager_has_the_methods_of_djangos_and_so_cannot_delete_every_row() -> None:
    make_webhook(Tracked)
    made = make(2)
    assert not hasattr(Tracked.objects, "delete")
    assert set(dir(webhooks.WebhookManager)) - {"_queryset_class"} == set(dir(models.Manager)) - {"_queryset_class"}
    assert Tracked.objects.filter(pk__in=[one.pk for one in made]).delete()[0] == 2
    assert actions(Tracked)[2:] == ["deleted", "deleted"]


def test_a_manager_of_this_app_cannot_end_every_row() -> None:
    assert not hasattr(Webhook.objects, "delete")
    assert not hasattr(Delivery.objects, "discard")


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


def test_a_batch_without_subscribers_reads_the_webhooks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    current = subscriptions.current
    monkeypatch.setattr(subscriptions, "current", lambda using, *more: (looks.append(using), current(using, *more))[1])
    with webhooks.batch():
        for number in range(5):
            Thing.objects.create(name=str(number))
    assert looks == ["default"]
    assert events() == []


# As Django's own


@pytest.mark.parametrize(
    "update",
    [
        lambda: Tracked.objects.annotate(loud=Upper("name")).update(name=F("loud")),
        lambda: Tracked.objects.distinct().update(name="new"),
        lambda: Tracked.objects.order_by("status").distinct("status").update(name="new"),
        lambda: Tracked.objects.annotate(count=Count("parts")).filter(count__gt=1).update(name="new"),
        lambda: Tracked.objects.filter(parts__name__startswith="part").update(name="new"),
        lambda: Tracked.objects.select_for_update().distinct().order_by("name").update(name="new"),
        lambda: Tracked.objects.exclude(pk__in=Tracked.objects.filter(name="number 0")).update(name="new"),
    ],
    ids=[
        "annotated",
        "distinct",
        "distinct on",
        "grouped",
        "joined",
        "locked and distinct",
        "by a query of its own table",
    ],
)
def test_an_update_works_like_djangos(update: Callable[[], int]) -> None:
    def outcome() -> tuple[int | str, list[Any]]:
        Tracked.objects.all()._raw_delete("default")
        for pk, made in enumerate(make(3), 1):
            Tracked.objects.filter(pk=made.pk)._raw_delete("default")
            whole = Tracked.objects.bulk_create([Tracked(pk=pk, name=made.name)])[0]
            TrackedPart.objects.bulk_create(TrackedPart(whole=whole, name=f"part {one}") for one in range(pk))
        Event.objects.all().delete()
        try:
            done: int | str = update()
        except TypeError as error:  # Django 6.1 refuses some
            done = str(error)
        return done, list(Tracked.objects.order_by("pk").values_list("pk", "name"))

    plainly = outcome()
    TrackedPart.objects.all()._raw_delete("default")
    make_webhook(Tracked)
    assert outcome() == plainly
    assert plainly[0], "rows, or why there are none"
    assert len(events()) == (plainly[0] if isinstance(plainly[0], int) else 0)


def test_a_queryset_that_was_read_is_read_again_after_its_update() -> None:
    make(1)
    make_webhook(Tracked)
    rows = Tracked.objects.all()
    assert [one.status for one in rows] == ["active"]
    rows.update(status="retired")
    assert [one.status for one in rows] == ["retired"]


def test_inherited_rows_are_updated_as_well() -> None:
    Diner.objects.create(name="old")
    make_webhook(Place, Diner, prechange=True)
    assert webhooks.TrackedQuerySet(Diner).filter(cuisine="any").update(name="new", is_open=False) == 1
    assert (actions(Place), actions(Diner)) == (["updated"], ["updated"])
    assert json.loads(events(Diner)[0].changed) == ["is_open", "name"]


@pytest.mark.parametrize(
    "refused",
    [
        lambda rows: rows[:1].update(name="new"),
        lambda rows: rows.union(rows).update(name="new"),
        lambda rows: rows.update(nothing="there"),
        lambda rows: rows[:1].delete(),
        lambda rows: rows.union(rows).delete(),
        lambda rows: rows.distinct("name").delete(),
        lambda rows: rows.values("name").delete(),
    ],
)
def test_django_refuses_in_its_own_words(refused: Callable[[Any], Any]) -> None:
    def words() -> str:
        with pytest.raises((TypeError, NotSupportedError, FieldDoesNotExist)) as caught:
            refused(Tracked.objects.all())
        return f"{type(caught.value).__name__}: {caught.value}"

    make(2)
    plainly = words()
    make_webhook(Tracked)
    assert words() == plainly


def test_options_of_bulk_create_may_be_given_by_position() -> None:
    make_webhook(Tracked)
    Tracked.objects.bulk_create([Tracked(pk=1, name="a")], None, True)
    assert events() == []
    Tracked.objects.bulk_create([Tracked(pk=1, name="b")], None, False, True, ["name"], ["id"])
    assert (actions(), last_data()["name"]) == (["updated"], "b")


@pytest.mark.parametrize("unique", ["pk", "id"])
def test_an_upsert_distinguishes_new_from_existing_rows(unique: str) -> None:
    Tracked.objects.bulk_create([Tracked(pk=1, name="old")])
    created, updated = make_webhook(Tracked, on="c"), make_webhook(Tracked, on="u", prechange=True)
    rows = [Tracked(pk=pk, name="new") for pk in range(1, 500)]
    Tracked.objects.bulk_create(rows, update_conflicts=True, update_fields=["name"], unique_fields=[unique])
    first, *others = events()
    assert (first.action, first.webhook_ids, first.object_id) == ("updated", [updated.pk], "1")
    assert json.loads(first.changed) == ["name"]
    assert {(event.action, *event.webhook_ids) for event in others} == {("created", created.pk)}
    assert len(others) == 498


def test_an_upsert_by_several_fields_finds_existing_rows() -> None:
    old = Paired.objects.bulk_create([Paired(left="a", right=1, note="old"), Paired(left=None, right=2)])
    make_webhook(Paired, prechange=True)
    rows = [Paired(left="a", right=1, note="new"), Paired(left="a", right=2), Paired(left=None, right=2)]
    options: Any = {"update_fields": ["note"], "unique_fields": ["left", "right"]}
    Paired.objects.bulk_create(rows, update_conflicts=True, **options)
    assert actions() == ["updated", "created", "created"]
    assert (events()[0].object_id, json.loads(events()[0].changed)) == (str(old[0].pk), ["note"])


@pytest.mark.postgresql
def test_an_upsert_over_a_null_that_is_not_distinct_is_an_update(monkeypatch: pytest.MonkeyPatch) -> None:
    Paired.objects.bulk_create([Paired(left=None, right=1, note="old")])
    make_webhook(Paired, prechange=True)
    monkeypatch.setattr(Paired._meta.constraints[0], "nulls_distinct", False)
    with transaction.atomic():
        execute("default", "ALTER TABLE testapp_paired DROP CONSTRAINT unique_pair")
        execute(
            "default",
            'ALTER TABLE testapp_paired ADD CONSTRAINT "unique_pair" UNIQUE NULLS NOT DISTINCT ("left", "right")',
        )
        rows = [Paired(left=None, right=1, note="new")]
        Paired.objects.bulk_create(rows, update_conflicts=True, update_fields=["note"], unique_fields=["left", "right"])
        found = [(event.action, json.loads(event.snapshots)["prechange"]["note"]) for event in events()]
        transaction.set_rollback(True)
    assert found == [("updated", "old")]


def test_an_upsert_records_the_row_that_it_updates_even_if_the_instance_has_another_key() -> None:
    [old] = Paired.objects.bulk_create([Paired(left="a", right=1, note="old")])
    make_webhook(Paired, prechange=True)
    rows = [Paired(pk=old.pk + 1000, left="a", right=1, note="new")]
    Paired.objects.bulk_create(rows, update_conflicts=True, update_fields=["note"], unique_fields=["left", "right"])
    assert recorded() == [("updated", "testapp.paired", str(old.pk))]


# The filter counts once, and the statement is one


@pytest.mark.parametrize(
    "choose",
    [
        lambda rows: rows.annotate(chance=Random()).filter(chance__lt=0.5),
        lambda rows: rows.filter(pk__in=rows.order_by("?").values("pk")[:3]),
        lambda rows: rows.annotate(chance=Random(), count=Count("parts")).filter(chance__lt=0.5, count=0),
    ],
    ids=["rows", "three rows", "groups"],
)
def test_a_random_filter_chooses_the_rows_once(choose: Callable[[Any], Any]) -> None:
    make(40)
    make_webhook(Tracked)
    for _ in range(5):
        with transaction.atomic():
            count = choose(Tracked.objects.all()).update(status="chosen")
            chosen = Tracked.objects.filter(status="chosen").values_list("pk", flat=True)
            assert {event.object_id for event in events()} == set(map(str, chosen))
            assert count == len(chosen)
            transaction.set_rollback(True)


@pytest.mark.cost
@pytest.mark.parametrize(
    ("filters", "values"),
    [
        (lambda: {"status__in": Tracked.objects.order_by("-pk").values("status")[:1]}, {"status": "retired"}),
        (dict, {"status": Concat(Subquery(Tracked.objects.values(most=Max("status"))[:1]), Value("!"))}),
    ],
    ids=["by a subquery on the updated column", "to a subquery on the updated column"],
)
def test_many_rows_are_updated_in_one_statement(
    filters: Callable[[], dict[str, Any]], values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_rows, "MAX_KEYS", 5)
    make(12)
    make_webhook(Tracked, prechange=True)
    statements = statements_of(lambda: Tracked.objects.filter(**filters()).update(**values))
    assert sum(one.startswith('UPDATE "testapp_tracked"') for one in statements) == 1
    assert len(Tracked.objects.values_list("status", flat=True).distinct()) == 1
    assert actions() == ["updated"] * 12


@pytest.mark.postgresql
@pytest.mark.parametrize("prechange", [False, True])
def test_an_update_waits_for_another_transaction_and_then_looks_again(prechange: bool) -> None:
    first, second = make(2)
    make_webhook(Tracked, on="u", prechange=prechange)
    with transaction.atomic():
        models.QuerySet(Tracked).filter(pk=first.pk).update(status="reserved")
        other = Beside(lambda: Tracked.objects.filter(status="active").update(name="new"))
        other.wait_until_blocked_or_done()
        assert other.is_running
    assert other.join() == 1
    assert recorded() == [("updated", "testapp.tracked", str(second.pk))]
    assert Tracked.objects.get(name="new") == second


UTC_NOON = to_db_time(datetime(2026, 11, 24, 12, tzinfo=UTC))
OF_EVERY_TYPE: list[tuple[type[models.Model], list[Any]]] = [
    (Thing, [1, 2, 2**62]),
    (Country, ["de/ü 1", "it's", 'a"b\\c', "1e5", "{1,2}", "NULL", "", " x "]),
    (Gadget, [uuid.UUID(int=n) for n in (1, 2)]),
    (Edition, [Decimal("1.50"), Decimal(2), Decimal("-3.25"), Decimal("123456.78")]),
    (Tide, [UTC_NOON, UTC_NOON + timedelta(microseconds=1)]),
    (Shout, ["hello", "WORLD"]),
]


@pytest.mark.parametrize(("model", "keys"), OF_EVERY_TYPE, ids=lambda one: getattr(one, "__name__", ""))
def test_rows_with_keys_of_every_type_are_updated(model: Any, keys: list[Any]) -> None:
    rows = webhooks.TrackedQuerySet(model)
    models.QuerySet(model).bulk_create(model(pk=key, name="old") for key in [*keys])
    make_webhook(model, prechange=True)
    assert rows.filter(name="old").update(name="new") == len(keys)
    assert [changed(event) for event in events()] == [["name"]] * len(keys)
    assert rows.filter(pk=keys[0]).update(name="newer") == 1
    assert rows.filter(name="newer").update(name="newest") == 1
    assert len(events()) == len(keys) + 2


# A new primary key


@pytest.mark.parametrize("prechange", [False, True])
def test_an_update_of_the_key_deletes_the_object_and_creates_another(prechange: bool) -> None:
    Counter.objects.bulk_create(Counter(code=code, name=code) for code in ("a", "b", "c"))
    make_webhook(Counter, prechange=prechange)
    assert Counter.objects.exclude(code="c").update(code=Concat("code", Value("!")), name="new") == 2
    assert [(event.action, event.object_id, json.loads(event.data)["name"]) for event in events()] == [
        ("deleted", "a", "a"), ("deleted", "b", "b"), ("created", "a!", "new"), ("created", "b!", "new"),
    ]  # fmt: skip


def test_an_object_with_a_key_that_was_another_ones_before_is_updated() -> None:
    Counter.objects.bulk_create(Counter(code=code, name=code) for code in ("a", "b"))
    make_webhook(Counter, prechange=True)
    Counter.objects.update(code=F("code"), name="same key")
    assert [(event.action, event.object_id) for event in events()] == [("updated", "a"), ("updated", "b")]
    assert [changed(event) for event in events()] == [["name"]] * 2
    with transaction.atomic():
        Counter.objects.filter(code="b").update(code="c")
        Counter.objects.filter(code="a").update(code="b")
    assert sorted(recorded()[2:]) == [
        ("created", "testapp.counter", "c"), ("deleted", "testapp.counter", "a"), ("updated", "testapp.counter", "b"),
    ]  # fmt: skip


def test_a_key_that_only_the_database_knows_is_found() -> None:
    Counter.objects.bulk_create(Counter(code=code) for code in ("a", "b"))
    make_webhook(Counter)
    at_random = Concat(Value("r"), Substr(Cast(Random(), models.CharField()), 1, 10))
    assert Counter.objects.update(code=at_random) == 2
    codes = Counter.objects.order_by("code").values_list("code", flat=True)
    assert sorted(recorded()) == [
        *(("created", "testapp.counter", code) for code in codes),
        ("deleted", "testapp.counter", "a"), ("deleted", "testapp.counter", "b"),
    ]  # fmt: skip


def test_a_new_key_of_a_parent_row_or_of_a_child_row_counts_for_that_one() -> None:
    Ship.objects.create(name="old", code="a")
    make_webhook(Craft, Ship)
    assert webhooks.TrackedQuerySet(Ship).filter(name="old").update(code="b", name="new") == 1
    assert [(event.action, event.object_type) for event in events()] == [
        ("deleted", "testapp.ship"), ("created", "testapp.ship"), ("updated", "testapp.craft"),
    ]  # fmt: skip


def test_a_key_that_is_taken_is_refused_and_nothing_is_recorded() -> None:
    Counter.objects.bulk_create(Counter(code=code) for code in ("a", "b"))
    make_webhook(Counter)
    with transaction.atomic():
        with pytest.raises(IntegrityError):
            Counter.objects.filter(code="a").update(code="b")
        assert connection.needs_rollback
        transaction.set_rollback(True)
    with pytest.raises(IntegrityError):
        Counter.objects.filter(code="a").update(code="b")
    assert events() == []


@pytest.mark.cost
def test_many_new_keys_take_as_few_queries_as_one() -> None:
    make_webhook(Counter)

    def cost(rows: int) -> int:
        Counter.objects.all()._raw_delete("default")
        Counter.objects.bulk_create(Counter(code=f"c{number}") for number in range(rows))
        return len(statements_of(lambda: Counter.objects.update(code=Concat("code", Value("!")))))

    assert cost(2) == cost(30)


# Deletions


def test_an_object_that_a_deletion_left_is_sent_later_as_it_is_then(monkeypatch: pytest.MonkeyPatch) -> None:
    one = make(1)[0]
    make_webhook(Tracked)
    with webhooks.batch():
        with monkeypatch.context() as patched:
            patched.setattr(models.QuerySet, "delete", lambda rows: (0, {}))  # as if its random filter chose none
            Tracked.objects.all().delete()
        Tracked.objects.update(name="new")
        Tracked.objects.get(pk=one.pk).delete()
    assert (actions()[-1], last_data()["name"]) == ("deleted", "new")


def test_a_locking_queryset_with_groups_is_deleted() -> None:
    make(2)
    make_webhook(Tracked)
    with transaction.atomic():
        grouped = Tracked.objects.select_for_update().annotate(count=Count("parts")).order_by("count")
        assert grouped.delete()[0] == 2
    assert actions()[-2:] == ["deleted", "deleted"]


# Without tables, and with many rows


@pytest.mark.parametrize(
    "work",
    [
        lambda: Tracked.objects.update(status="retired"),
        lambda: Tracked.objects.all().delete(),
        lambda: make(2),
        lambda: Tracked.objects.bulk_create(
            [Tracked(pk=1, name="a")], update_conflicts=True, update_fields=["name"], unique_fields=["pk"]
        ),
        lambda: Thing.objects.create(name="in a batch"),
    ],
    ids=["update", "delete", "bulk_create", "upsert", "batch"],
)
@pytest.mark.parametrize("mode", [autocommit, in_transaction, in_batch])
def test_bulk_work_goes_through_where_the_tables_are_not_migrated_yet(
    work: Callable[[], Any],
    mode: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    app_log: pytest.LogCaptureFixture,
) -> None:
    make(2)
    make_webhook(Tracked, Thing)
    monkeypatch.setattr(subscriptions, "_cached", {})  # as in a process that has just begun
    execute("default", "ALTER TABLE rq_webhooks_webhook RENAME TO webhooks_aside")
    try:
        mode(work)
    finally:
        execute("default", "ALTER TABLE webhooks_aside RENAME TO rq_webhooks_webhook")
    assert "no webhook gets it" in app_log.text
    assert events() == []
    mode(work)
    assert mode is autocommit or events() or not Tracked.objects.exists()


MOST = 100  # parameters, so that few rows exceed it


def refuse_many(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
    # Django itself looks for the cascades of a deletion with up to 500, or with all.
    if params and len(params) > MOST and "testapp_trackedpart" not in sql:
        raise OperationalError("number of parameters")
    return execute(sql, params, many, context)


@pytest.fixture
def few_parameters(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """PostgreSQL has a limit if the server binds the parameters."""
    monkeypatch.setattr(host_rows, "MAX_KEYS", host_rows.MAX_KEYS * MOST // 32_766)
    binding = servers.default_options(server_side_binding=True) if database == servers.POSTGRESQL else nullcontext()
    with binding, connection.execute_wrapper(refuse_many):
        # Of the statements of Django. It reads the limit from the class or, since 6.1, from the connection.
        monkeypatch.setattr(type(connection.features), "max_query_params", MOST)
        yield


def test_more_rows_than_a_statement_takes_parameters(few_parameters: None, app_log: pytest.LogCaptureFixture) -> None:
    make_webhook(Tracked, prechange=True)
    make(120)
    with transaction.atomic():
        assert Tracked.objects.filter(status="active").update(status="retired") == 120
        assert Tracked.objects.all().delete()[0] == 120
    made = make(120)
    Tracked.objects.update(status="retired")
    with webhooks.batch():
        for one in made:
            one.save()
    assert Event.objects.filter(changed='["status"]').count() == 240
    assert collections.Counter(actions()) == {"created": 240, "deleted": 120, "updated": 240}
    assert app_log.text == ""
