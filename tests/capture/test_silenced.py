"""``webhooks.silenced()``: changes that no webhook hears of."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.db import connection, transaction

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
