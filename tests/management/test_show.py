"""``manage.py webhooks_show``: stored rows as people read them."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from tests.support.draining import drain
from tests.support.inbox import Inbox
from tests.support.makers import make_webhook
from tests.testapp.models import Thing
from webhooks.models import Delivery, Event

pytestmark = pytest.mark.usefixtures("database")


def show(key: object) -> Any:
    output = io.StringIO()
    call_command("webhooks_show", str(key), stdout=output)
    return json.loads(output.getvalue())


def test_the_stored_rows_of_a_delivery_can_be_read(inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    Thing.objects.create(name="a name of a thing")
    drain()
    event, delivery = Event.objects.get(), Delivery.objects.get()
    shown = show(delivery.pk)
    assert shown["event"] == show(event.pk)
    assert shown["event"]["data"]["name"].startswith("a name")
    assert (shown["state"], shown["webhook_id"]) == ("succeeded", webhook.pk)
    [attempt] = shown["attempts"]
    assert json.loads(attempt["request_body"])["data"] == shown["event"]["data"]
    assert attempt["request_headers"]["webhook-id"] == str(delivery.pk)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("7", "There is no event 7."),
        ("00000000-0000-0000-0000-000000000007", "There is no delivery 00000000-0000-0000-0000-000000000007."),
        ("site", "Give the number of an event or the UUID of a delivery, not 'site'."),
    ],
)
def test_a_row_that_is_not_there_is_named(key: str, reason: str) -> None:
    with pytest.raises(CommandError) as refused:
        show(key)
    assert str(refused.value) == reason
