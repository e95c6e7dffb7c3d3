"""Replay from the list of events: many at once, in one request."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from tests.support.makers import make_event, make_webhook
from tests.support.threads import aside
from tests.testapp.models import Thing
from webhooks.admin import event as event_admin
from webhooks.models import Event, Webhook
from webhooks.operations import retries

pytestmark = pytest.mark.usefixtures("database")

EVENTS = reverse("admin:webhooks_event_changelist")


@pytest.fixture
def webhook(database: str) -> Webhook:
    return make_webhook(Thing)


@pytest.fixture
def client(database: str) -> Client:
    browser = Client()
    browser.force_login(User.objects.create_superuser("root"))
    return browser


def make_failed(webhook: Webhook, *object_ids: Any) -> list[Event]:
    """Events of these things, or of new ones, that could not be made."""
    return [make_event(webhook, object_id=str(key), data="", error="KeyError") for key in object_ids]


def new_things(count: int) -> list[int]:
    return [thing.pk for thing in Thing.objects.bulk_create(Thing(name=f"thing {key}") for key in range(count))]


def replay_all(client: Client, query: str = "") -> list[str]:
    """Select all events of a list, replay them, and give what is said."""
    first = Event.objects.order_by("-pk").values_list("pk", flat=True)[0]
    chosen = {"action": "replay_chosen", "_selected_action": [first], "select_across": "1"}
    response = client.post(EVENTS + query, chosen, follow=True)
    return [str(message) for message in response.context["messages"]]


def hasten_the_end(monkeypatch: pytest.MonkeyPatch, at_once: int = 2) -> None:
    """A request has taken long enough as soon as the first few are replayed."""
    monkeypatch.setattr(event_admin, "CHUNK", at_once)
    monkeypatch.setattr(retries, "REQUEST_SECONDS", 0)


def test_what_is_replayed_is_committed_before_the_next_one(
    client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_failed(webhook, *new_things(3))
    replay, committed = retries._replay, list[int]()

    def look_and_replay(failed: Event) -> Any:
        committed.append(aside(Event.objects.exclude(replay_of=None).count))
        return replay(failed)

    monkeypatch.setattr(retries, "_replay", look_and_replay)
    assert replay_all(client) == ["3 events replayed."]
    assert committed == [0, 1, 2]


def test_a_request_ends_in_time_and_says_how_many_are_left(
    client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_failed(webhook, *new_things(5))
    hasten_the_end(monkeypatch)
    said = "There were too many for one request, {} left. Repeat the action for the rest."
    assert replay_all(client, "?state=failed") == ["2 events replayed.", said.format(3)]
    assert replay_all(client) == ["2 events replayed.", said.format(1)]
    assert replay_all(client) == ["1 event replayed."]
    assert replay_all(client) == ["Nothing to replay: none of these events failed."]


def test_no_more_are_looked_for_than_a_list_counts(
    client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_failed(webhook, *new_things(5))
    monkeypatch.setattr(event_admin, "TOTAL_CAP", 3)
    rest = "There were too many for one request, 1 or more left. Repeat the action for the rest."
    assert replay_all(client) == ["3 events replayed.", rest]
    assert replay_all(client) == ["2 events replayed."]


def test_those_that_cannot_be_replayed_do_not_keep_others_from_it(client: Client, webhook: Webhook) -> None:
    make_failed(webhook, *range(10_000, 10_000 + event_admin.CHUNK + 5), *new_things(2))
    assert replay_all(client)[0] == "2 events replayed."


def test_the_queries_of_a_replay_read_each_event_once(client: Client, webhook: Webhook) -> None:
    make_failed(webhook, *new_things(event_admin.CHUNK))
    with CaptureQueriesContext(connection) as queries:
        replay_all(client)
    reading = [one["sql"] for one in queries if one["sql"].startswith("SELECT") and '."data",' in one["sql"]]
    assert len(reading) == 1
