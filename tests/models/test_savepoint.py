"""``MergedSavepoint``: a savepoint that takes no round trip where the driver can send several statements at once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import django
import pytest
from django.db import DatabaseError, connection, transaction

from tests.support.rollbacks import bare_savepoint
from tests.support.statements import statements_of
from tests.testapp.models import Thing
from webhooks.ground.db import django_internals, execute
from webhooks.ground.db.django_internals import MergedSavepoint

pytestmark = pytest.mark.usefixtures("database")


def names() -> list[str]:
    return sorted(Thing.objects.values_list("name", flat=True))


def read_and_write() -> None:
    with MergedSavepoint("default") as savepoint:
        Thing.objects.get(name="outside")
        with savepoint.last():
            Thing.objects.create(name="inside")


@pytest.mark.cost
@pytest.mark.postgresql
@pytest.mark.usefixtures("merged")
def test_savepoint_and_release_go_with_the_first_and_the_last_statement() -> None:
    with transaction.atomic():
        Thing.objects.create(name="outside")
        [first, last] = statements_of(read_and_write)
    assert first.startswith("SAVEPOINT ")
    assert f"RELEASE {first.partition(';')[0]}" in last
    assert names() == ["inside", "outside"]


@pytest.mark.postgresql
def test_with_a_django_that_was_not_tested_savepoint_and_release_are_statements(
    monkeypatch: pytest.MonkeyPatch, app_log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(django, "VERSION", (99, 0, 0, "final", 0))
    django_internals.merges_statements.cache_clear()
    try:
        with transaction.atomic():
            Thing.objects.create(name="outside")
            [first, _, _, last] = statements_of(read_and_write)
            read()
    finally:
        django_internals.merges_statements.cache_clear()
    assert last == f"RELEASE {first}"
    assert names() == ["inside", "outside"]
    assert app_log.messages == ["This app was not tested with Django 99.0: each savepoint takes its own round trips"]


def read() -> None:
    with MergedSavepoint("default"):
        names()


@pytest.mark.cost
@pytest.mark.postgresql
@pytest.mark.usefixtures("merged")
def test_a_block_without_a_last_statement_is_released_with_the_next_statement() -> None:
    with transaction.atomic():
        [first, second, third] = statements_of(lambda: (read(), names(), names()))
    assert second.startswith(f"RELEASE {first.partition(';')[0]}; SELECT")
    assert third.startswith("SELECT")
    assert not connection.execute_wrappers


@pytest.mark.cost
@pytest.mark.postgresql
@pytest.mark.usefixtures("merged")
def test_the_next_block_releases_the_one_before() -> None:
    with transaction.atomic():
        [first, second] = statements_of(lambda: (read(), read()))
    assert second.startswith(f"RELEASE {first.partition(';')[0]}; SAVEPOINT ")


def in_a_savepoint_of_django() -> None:
    with suppress(ZeroDivisionError), transaction.atomic():
        read()
        raise ZeroDivisionError


def with_a_statement_that_fails() -> None:
    with suppress(DatabaseError), transaction.atomic():
        read()
        execute("default", "SELECT no_column FROM testapp_thing")


def with_an_empty_block() -> None:
    read()
    with MergedSavepoint("default"):
        pass


@pytest.mark.parametrize("work", [in_a_savepoint_of_django, with_a_statement_that_fails, with_an_empty_block, read])
def test_a_block_that_is_still_to_be_released_does_no_harm(work: Callable[[], None]) -> None:
    with transaction.atomic():
        Thing.objects.create(name="before")
        work()
        Thing.objects.create(name="after")
        sid = bare_savepoint()
        work()
        transaction.savepoint_rollback(sid)
        work()
    names_before = names()
    with transaction.atomic():
        work()
    work()
    assert names() == names_before == ["after", "before"]


def test_a_first_statement_that_fails_ends_no_block_around_its_own() -> None:
    with transaction.atomic():
        with MergedSavepoint("default"):
            with suppress(DatabaseError), MergedSavepoint("default"):
                execute("default", "SELECT no_column FROM testapp_thing")
            Thing.objects.create(name="inside")
        Thing.objects.create(name="after")
    assert names() == ["after", "inside"]


@pytest.mark.cost
@pytest.mark.postgresql
def test_the_next_transaction_releases_nothing() -> None:
    with transaction.atomic():
        read()
    with transaction.atomic():
        [statement, _] = statements_of(lambda: (names(), names()))
    assert statement.startswith("SELECT")
    assert not connection.execute_wrappers


@pytest.mark.cost
@pytest.mark.postgresql
@pytest.mark.usefixtures("merged")
def test_a_block_without_statements_sends_none() -> None:
    def nothing() -> None:
        with MergedSavepoint("default"):
            pass

    with transaction.atomic():
        assert statements_of(nothing) == []


def test_an_error_rolls_back_the_block_alone_and_forgets_its_callbacks() -> None:
    called = []
    with transaction.atomic():
        Thing.objects.create(name="outside")
        with pytest.raises(ZeroDivisionError), MergedSavepoint("default"):
            Thing.objects.create(name="inside")
            transaction.on_commit(lambda: called.append("inside"))
            raise ZeroDivisionError
        Thing.objects.create(name="after")
        transaction.on_commit(lambda: called.append("after"))
    assert (names(), called) == (["after", "outside"], ["after"])


def test_an_error_before_the_first_statement_forgets_callbacks_too() -> None:
    called = []
    with transaction.atomic():
        with pytest.raises(ZeroDivisionError), MergedSavepoint("default"):
            transaction.on_commit(lambda: called.append("inside"))
            raise ZeroDivisionError
        Thing.objects.create(name="after")
    assert (names(), called) == (["after"], [])


@pytest.mark.parametrize("statement", ["SELECT no_column FROM testapp_thing", "SELECT %s"])
@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("is_last", [True, False])
def test_the_transaction_goes_on_after_a_statement_that_fails(statement: str, is_first: bool, is_last: bool) -> None:
    """The driver itself refuses the second one: it sends nothing."""
    parameters = [object()] if "%" in statement else []
    with transaction.atomic():
        Thing.objects.create(name="outside")
        with pytest.raises((DatabaseError, TypeError)), MergedSavepoint("default") as savepoint:
            if not is_first:
                Thing.objects.create(name="inside")
            if is_last:
                with savepoint.last():
                    execute("default", statement, parameters)
            execute("default", statement, parameters)
        Thing.objects.create(name="after")
    assert names() == ["after", "outside"]


def test_the_block_may_begin_with_a_cursor_of_the_server_and_with_many_rows() -> None:
    with transaction.atomic():
        Thing.objects.create(name="outside")
        with pytest.raises(ZeroDivisionError), MergedSavepoint("default"):
            assert [thing.name for thing in Thing.objects.iterator()] == ["outside"]
            raise ZeroDivisionError
        with pytest.raises(ZeroDivisionError), MergedSavepoint("default"), connection.cursor() as cursor:
            cursor.executemany("INSERT INTO testapp_thing (name, status) VALUES (%s, '')", [("a",), ("b",)])
            raise ZeroDivisionError
    assert names() == ["outside"]


def test_blocks_and_savepoints_of_django_nest_in_it() -> None:
    with transaction.atomic():
        Thing.objects.create(name="outside")
        with MergedSavepoint("default") as savepoint:
            with pytest.raises(ZeroDivisionError), transaction.atomic():
                Thing.objects.create(name="rolled back")
                raise ZeroDivisionError
            with savepoint.last():
                Thing.objects.create(name="inside")
    assert names() == ["inside", "outside"]


def test_without_a_transaction_it_is_one() -> None:
    with pytest.raises(ZeroDivisionError), MergedSavepoint("default") as savepoint:
        with savepoint.last():
            Thing.objects.create(name="inside")
        raise ZeroDivisionError
    assert names() == []


def test_what_fails_after_the_last_statement_undoes_nothing() -> None:
    """It is released already, and the transaction goes on."""
    with transaction.atomic():
        with pytest.raises(ZeroDivisionError), MergedSavepoint("default") as savepoint:
            with savepoint.last():
                Thing.objects.create(name="inside")
            raise ZeroDivisionError
        Thing.objects.create(name="after")
    assert "after" in names()
