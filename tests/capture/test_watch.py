"""Serializers that write too much, or take too long."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from rest_framework import serializers

import webhooks
from tests.support.makers import events, make_webhook
from tests.testapp.models import Thing
from webhooks.capture import watch

pytestmark = [pytest.mark.usefixtures("database", "own_registrations")]

MOST, MANY = 20_000, 100_000


class Item(serializers.Serializer[Any]):
    """Writes a number, and counts the calls."""

    calls: ClassVar[int] = 0
    number = serializers.IntegerField()

    def to_representation(self, instance: Any) -> Any:
        Item.calls += 1
        clock.now += clock.step
        return super().to_representation(instance)


class clock:  # the time of these tests
    now = step = 0.0


class Numbers:
    """A list of objects of which each is made when it is asked for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[dict[str, int]]:
        return ({"number": number} for number in range(self.count))


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, webhooks_settings: Any) -> None:
    webhooks_settings(PAYLOAD_BYTES=MOST)
    Item.calls, clock.now, clock.step = 0, 0.0, 0.0
    monkeypatch.setattr(watch, "monotonic", lambda: clock.now)
    monkeypatch.setattr(watch, "_logged", set())


def save(count: int, *bases: type, exclude: tuple[str, ...] = (), **fields: Any) -> Any:
    """Save a thing with so many numbers, through a serializer with these fields. Returns its event."""
    body = {"Meta": type("Meta", (), {"model": Thing, "fields": ("id", *fields)}), **fields}
    serializer = type("ThingSerializer", (*bases, serializers.ModelSerializer), body)
    webhooks.unregister(Thing)
    webhooks.register(Thing, serializer=serializer, exclude=exclude)
    make_webhook(Thing)
    Thing.numbers = Numbers(count)  # type: ignore[attr-defined]
    try:
        Thing.objects.create(name="a")
    finally:
        del Thing.numbers  # type: ignore[attr-defined]
    return events(Thing)[-1]


def items() -> Any:
    return Item(source="numbers", many=True)


TOO_LARGE = "has more bytes than the 20,000 that PAYLOAD_BYTES allows."


@pytest.mark.parametrize(
    "field",
    [
        items,
        lambda: serializers.ListField(source="numbers", child=Item()),
        lambda: serializers.ListField(source="numbers", child=serializers.DictField()),
    ],
    ids=["serializer", "list", "list of dictionaries"],
)
def test_a_list_ends_with_the_item_that_cannot_fit(field: Any) -> None:
    event = save(MANY, shown=field())
    assert event.error == f"the payload of testapp.thing {event.object_id} {TOO_LARGE}"
    assert event.data == ""
    assert Item.calls <= MOST // 2


def test_a_list_that_fits_is_written_whole() -> None:
    event = save(300, shown=items(), again=serializers.ListField(source="numbers", child=Item()))
    data = json.loads(event.data)
    assert data["shown"] == data["again"] == [{"number": number} for number in range(300)]
    assert (event.error, Item.calls) == ("", 600)


class FirstTen:
    def to_representation(self, instance: Any) -> Any:
        data = super().to_representation(instance)  # type: ignore[misc]
        return data | {"shown": data["shown"][:10]}


class FirstTenOfList(serializers.ListSerializer[Any]):
    def to_representation(self, data: Any) -> Any:
        return super().to_representation(data)[:10]


class CutItem(Item):
    class Meta:
        list_serializer_class = FirstTenOfList


@pytest.mark.parametrize(
    ("bases", "field"),
    [((FirstTen,), items), ((), lambda: CutItem(source="numbers", many=True))],
    ids=["serializer", "list"],
)
def test_a_list_that_the_project_cuts_itself_is_not_counted(bases: tuple[type, ...], field: Any) -> None:
    event = save(MOST, *bases, shown=field())
    assert (event.error, len(json.loads(event.data)["shown"])) == ("", 10)


@pytest.mark.parametrize(("name", "exclude"), [("api_tokens", ()), ("shown", ("shown",)), ("shown", ("numbers",))])
def test_a_list_that_is_not_sent_is_not_counted(name: str, exclude: tuple[str, ...]) -> None:
    event = save(MOST, exclude=exclude, **{name: items()})
    assert (event.error, json.loads(event.data)) == ("", {"id": int(event.object_id)})


class Shelf(serializers.Serializer[Any]):
    shown = items()


class Room(serializers.Serializer[Any]):
    shelf = Shelf(source="*")


@pytest.mark.parametrize("field", [items, lambda: Shelf(source="*"), lambda: Room(source="*")], ids=["0", "1", "2"])
def test_a_serializer_whose_time_is_over_ends_with_an_item(field: Any, webhooks_settings: Any) -> None:
    webhooks_settings(SERIALIZE_TIMEOUT=5)
    clock.step = 0.5
    event = save(100, shown=field())
    said = "was not written to its end: after 5 s, SERIALIZE_TIMEOUT stopped it."
    assert event.error == f"the payload of testapp.thing {event.object_id} {said}"
    assert Item.calls == 11


class Slow:
    def to_representation(self, instance: Any) -> Any:
        clock.now += clock.step
        return super().to_representation(instance)  # type: ignore[misc]


def test_a_slow_serializer_of_the_project_is_not_stopped_and_logged_once(
    webhooks_settings: Any, app_log: pytest.LogCaptureFixture
) -> None:
    webhooks_settings(SERIALIZE_TIMEOUT=5)
    clock.step = 7.5
    assert [save(1, Slow).error for _ in range(2)] == ["", ""]
    [record] = [one for one in app_log.records if one.levelno == logging.WARNING]
    assert record.getMessage() == (
        "The serializer (default) of testapp.thing took 7.5 s, and the save waited for it. This process logs it once"
    )


def test_a_quick_serializer_is_not_logged(app_log: pytest.LogCaptureFixture) -> None:
    clock.step = watch.SLOW_SECONDS
    save(1, Slow)
    assert not [one for one in app_log.records if one.levelno == logging.WARNING]
