"""``webhooks.silenced()``: changes that no webhook hears of."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import copy_context
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

import webhooks
from tests.support.makers import make_webhook
from tests.testapp.models import Label, Part, Thing
from webhooks.models import Event


@pytest.fixture(params=["autocommit", "transaction"])
def either(request: pytest.FixtureRequest, database: str) -> Any:
    if request.param == "autocommit":
        yield
    else:
        with transaction.atomic():
            yield


def test_no_change_in_the_block_is_recorded(either: Any) -> None:
    make_webhook(Thing, Label, Part, prechange=True)
    thing = Thing.objects.create(name="before")
    Event.objects.all().delete()
    with webhooks.silenced():
        red = Label.objects.create(name="red")
        thing.labels.add(red)
        thing.name = "renamed"
        thing.save()
        thing.delete()
    assert not Event.objects.exists()
    Label.objects.create(name="after")
    assert [event.object_repr for event in Event.objects.all()] == ["after"]


def test_the_block_ends_with_an_error(either: Any) -> None:
    make_webhook(Label)
    with pytest.raises(ZeroDivisionError), webhooks.silenced():
        raise ZeroDivisionError
    Label.objects.create(name="after")
    assert Event.objects.count() == 1


def test_other_threads_are_not_silenced(database: str) -> None:
    make_webhook(Label)

    def create() -> None:
        Label.objects.create(name="elsewhere")
        connection.close()

    with webhooks.silenced():
        other = threading.Thread(target=create)
        other.start()
        other.join()
        Label.objects.create(name="here")
    assert [event.object_repr for event in Event.objects.all()] == ["elsewhere"]


def names() -> list[str]:
    return [event.object_repr for event in Event.objects.order_by("pk")]


def test_an_inner_block_ends_without_the_outer_one(either: Any) -> None:
    make_webhook(Label)
    with webhooks.silenced():
        with webhooks.silenced():
            Label.objects.create(name="inner")
        Label.objects.create(name="outer")
    Label.objects.create(name="after")
    assert names() == ["after"]


def test_each_call_of_a_decorated_function_is_a_block(either: Any) -> None:
    make_webhook(Label)

    @webhooks.silenced()
    def create() -> None:
        Label.objects.create(name="in it")

    create()
    create()
    Label.objects.create(name="after")
    assert names() == ["after"]


@pytest.mark.parametrize("block", [webhooks.silenced, webhooks.batch, lambda: webhooks.actor("sync")])
def test_a_decorator_that_would_do_nothing_is_refused(block: Callable[[], Any]) -> None:
    async def task() -> None: ...

    def parts() -> Iterator[int]:
        yield 1

    async def async_parts() -> AsyncIterator[int]:
        yield 1

    for late in (task, parts, async_parts):
        with pytest.raises(TypeError, match=f"{late.__name__}.. runs after its call"):
            block()(late)


def test_other_tasks_are_not_silenced(database: str) -> None:
    make_webhook(Label)

    async def create(name: str) -> None:
        await asyncio.sleep(0.02)
        await Label.objects.acreate(name=name)

    async def create_silently() -> None:
        with webhooks.silenced():
            await create("quiet")
            await asyncio.sleep(0.04)
            await create("still quiet")

    @async_to_sync
    async def main() -> None:
        await asyncio.gather(create_silently(), create("loud"), create_silently())
        await Label.objects.acreate(name="after")

    main()
    assert names() == ["loud", "after"]


@pytest.mark.parametrize("block", [webhooks.silenced, lambda: webhooks.actor("sync")])
def test_the_block_of_a_generator_may_end_in_another_context(block: Callable[[], Any]) -> None:
    def parts() -> Iterator[int]:
        with block():
            yield 1

    found = parts()
    copy_context().run(next, found)
    assert copy_context().run(list, found) == []


@pytest.mark.cost
def test_a_deletion_in_the_block_costs_no_query_more(either: Any) -> None:
    def deletion() -> int:
        part = Part.objects.create(thing=Thing.objects.create(name="router"), name="fan")
        Part.objects.create(thing=part.thing, name="spare", spare_of=part)
        with webhooks.silenced(), CaptureQueriesContext(connection) as queries:
            part.delete()
        return len(queries)

    before = deletion()
    make_webhook(Part, Thing, prechange=True)
    assert deletion() == before


def test_a_batch_leaves_out_what_is_silenced_in_it(database: str) -> None:
    make_webhook(Label)
    loud = Label.objects.create(name="old")
    Event.objects.all().delete()
    with webhooks.batch():
        loud.name = "new"
        loud.save()
        with webhooks.silenced():
            Label.objects.create(name="quiet")
    assert names() == ["new"]
    with webhooks.silenced(), webhooks.batch():
        Label.objects.create(name="quiet")
    assert names() == ["new"]
