"""Rows and relations that are read in one round trip: the same as Django reads one by one."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from unittest.mock import patch

import pytest
from django.db import connection, connections, models, transaction
from django.db.models import Count, F, OuterRef, Subquery, Window
from django.db.models.functions import RowNumber

from tests.testapp.models import Cabinet, Gadget, Item
from tests.threads import Beside
from webhooks import snapshots
from webhooks.holdings import Holder, Holding
from webhooks.registration import Registration
from webhooks.sql import round_trips
from webhooks.sql.round_trips import Asks, Query, asking_nothing

pytestmark = pytest.mark.usefixtures("database")

KEYS = ["a'; DROP TABLE x; --", "100% %s %(x)s", 'q"u', "\\ back", "plain"]
RELATIONS = ("items", "spares", "gadgets")


def values(number: int, extra: Any) -> dict[str, Any]:
    return {
        "key": KEYS[number],
        "is_open": bool(number % 2),
        "at": datetime(2024, 1, 1, 12, 0, 0, number, tzinfo=UTC),
        "day": date(2024, 1, 2),
        "time": time(1, 2, 3, 4),
        "weight": Decimal("123456.100"),
        "size": number,
        "raw": b"\x00%s;'",
        "uuid": uuid.UUID(int=number),
        "address": "::1",
        "lasted": timedelta(1, 2, 3),
        "extra": extra,
        "file": "a/b.txt",
    }


MANAGERS: dict[str, Callable[[models.QuerySet[Item]], models.QuerySet[Item]]] = {
    "plain": lambda rows: rows,
    "joined": lambda rows: rows.select_related("above"),
    "counted": lambda rows: rows.defer("extra").annotate(x_count=Count("cabinets")),
    "with a subquery": lambda rows: rows.annotate(x_at=Subquery(Item.objects.filter(pk=OuterRef("pk")).values("at"))),
    "with a window": lambda rows: rows.annotate(x_row=Window(RowNumber(), order_by=F("size").desc())),
    "with more columns": lambda rows: rows.extra(select={"x_sum": "size + %s", "x_open": "is_open"}, select_params=[1]),
    "deferred": lambda rows: rows.defer("at", "size"),
    "distinct": lambda rows: rows.defer("extra").distinct(),
    "sorted by another": lambda rows: rows.defer("extra").order_by("-above__size", "key").distinct(),
    "followed": lambda rows: rows.prefetch_related("cabinets"),
    "none": lambda rows: rows.none(),
}


@pytest.fixture(params=MANAGERS)
def manager(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """That through which items are read as related ones."""

    class Manager(models.Manager[Item]):
        def get_queryset(self) -> models.QuerySet[Item]:
            return MANAGERS[request.param](super().get_queryset())

    manager = Manager()
    manager.model, manager.name = Item, "manager"
    monkeypatch.setitem(Item._meta.__dict__, "default_manager", manager)
    yield request.param
    monkeypatch.undo()
    forget_managers()


def forget_managers() -> None:
    for relation in RELATIONS:
        getattr(Cabinet, relation).__dict__.pop("related_manager_cls", None)


def told(one: models.Model) -> dict[str, str]:
    columns = {column.attname: getattr(one, column.attname) for column in one._meta.concrete_fields}
    columns |= {name: value for name, value in vars(one).items() if name.startswith("x_")}
    return {name: repr(bytes(it) if isinstance(it, memoryview) else it) for name, it in columns.items()}


def test_what_is_read_together_is_what_django_reads_one_by_one(manager: str) -> None:
    cabinets = [Cabinet.objects.create(**values(number, {"a": [None, "%s; \" '"]})) for number in range(len(KEYS))]
    items = [Item.objects.create(**values(number, number)) for number in range(len(KEYS))]
    items += [Item.objects.create(key="of nulls", above=items[1])]
    with connection.cursor() as cursor:
        for model in (Cabinet, Item):
            cursor.execute(f"UPDATE {model._meta.db_table} SET stamp = '2024-01-01 10:00:00'")
    for cabinet in cabinets[1:]:
        cabinet.items.set(items)
        cabinet.spares.set(items[:2])
        cabinet.gadgets.set([Gadget.objects.create(name="a"), Gadget.objects.create(name="b")])
    forget_managers()
    expected = list(Cabinet.objects.order_by("pk"))
    models.prefetch_related_objects(expected, *RELATIONS)
    holders = [Holder(key, {"key": key}) for key in [*KEYS, "not there"]]
    for is_first_guarded in (True, False):
        compare(expected, holders, is_first_guarded)
    shown = [len(one.items.all()) for one in expected]
    assert sorted(shown) == ([0] * 5 if manager == "none" else [0, 6, 6, 6, 6])


def compare(expected: list[Cabinet], holders: list[Holder], is_first_guarded: bool) -> None:
    with transaction.atomic():
        holdings = [Holding(Cabinet, relation, holders, "default") for relation in RELATIONS]
        rows = snapshots.rows(Registration(Cabinet), [holder.pk for holder in holders], "default", lock=True)
        queries = [Query(rows, "default"), *(holding.query for holding in holdings)]
        found, *members = round_trips.fetch(queries, "default", is_first_guarded=is_first_guarded)
        for holding, those in zip(holdings, members, strict=True):
            holding.give(found, those)
    assert [told(one) for one in found] == [told(one) for one in expected]
    for one, same in zip(found, expected, strict=True):
        for relation in RELATIONS:
            assert list(map(told, getattr(one, relation).all())) == list(map(told, getattr(same, relation).all()))


def test_code_that_may_not_ask_the_database_is_found_out_whatever_it_catches() -> None:
    for kind in (Exception, BaseException):
        with pytest.raises(Asks), asking_nothing("default"), suppress(kind):
            Item.objects.count()
    with asking_nothing("default"):
        Item.objects.filter(pk="a")
    assert Item.objects.count() == 0


def test_it_may_not_ask_it_by_a_cursor_of_the_server_either() -> None:
    with pytest.raises(Asks), asking_nothing("default"), transaction.atomic():
        list(Item.objects.iterator())
    with transaction.atomic():
        assert list(Item.objects.iterator()) == []


def test_whatever_somebody_put_in_place_of_a_cursor_is_there_again() -> None:
    """As tools that show queries do it."""
    mine = connection.cursor
    with patch.object(connection, "cursor", lambda *args: mine(*args)):
        theirs = connection.cursor
        with asking_nothing("default"), suppress(Asks), asking_nothing("default"):
            connection.cursor()
        assert connection.cursor is theirs
    with asking_nothing("default"):
        connection.cursor = mine  # type: ignore[method-assign]
        del connection.cursor
    assert connection.cursor == mine


def test_another_thread_that_shares_the_connection_may_ask() -> None:
    """As a live server does where SQLite is in memory."""
    shared = connections["default"]

    def ask() -> Any:
        with shared.cursor() as cursor:
            cursor.execute("SELECT 1")
            return cursor.fetchone()

    shared.inc_thread_sharing()
    try:
        with asking_nothing("default"):
            assert Beside(ask).join() == (1,)
    finally:
        shared.dec_thread_sharing()
