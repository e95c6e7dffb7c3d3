"""Events are replayed. ``test_runs`` has the runs that do it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from rq.timeouts import JobTimeoutException

from tests.support.draining import drain
from tests.support.inbox import Inbox
from tests.support.makers import events, last_data, make_event, make_webhook
from tests.support.threads import Beside, aside
from tests.testapp.models import Thing
from users.models import User
from webhooks.models import Event, Webhook
from webhooks.models.event import LOOP_PROTECTION
from webhooks.operations import replays

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make ThingSerializer raise until this is called."""
    from tests.testapp.api.serializers import ThingSerializer

    def refuse(self: Any, instance: Thing) -> Any:
        raise ValueError("the serializer is broken")

    with monkeypatch.context() as patched:
        patched.setattr(ThingSerializer, "to_representation", refuse)
        yield patched.undo


def test_a_replay_creates_an_event_with_todays_data(broken: Any) -> None:
    make_webhook(Thing)
    thing = Thing.objects.create(name="then")
    failed = Event.objects.failed().get()
    broken()
    Thing.objects.filter(pk=thing.pk).update(name="today")
    [replayed] = replays.replay([failed])
    assert replayed.event is not None
    assert (replayed.event.action, replayed.event.replay_of) == ("created", failed.pk)
    assert json.loads(replayed.event.data)["name"] == "today"
    assert replayed.event.webhook_ids == failed.webhook_ids
    assert not Event.objects.failed().exists()


def test_a_replayed_deletion_without_data_has_the_key_and_the_name(broken: Any) -> None:
    thing = Thing.objects.create(name="gone")
    make_webhook(Thing)
    pk = thing.pk
    thing.delete()
    [replayed] = replays.replay(Event.objects.failed())
    assert replayed.event is not None
    assert json.loads(replayed.event.data) == {"id": str(pk), "display": "gone"}


def test_an_event_stays_failed_if_the_serializer_still_raises(broken: Any) -> None:
    make_webhook(Thing)
    Thing.objects.create(name="a")
    [replayed] = replays.replay(Event.objects.failed())
    assert replayed.event is None
    assert "the serializer is broken" in replayed.problem
    assert Event.objects.failed().count() == len(events()) == 1


SLOW = {"attr": "name", "op": "regex", "value": "(?:a|aa)+$"}


def test_the_time_limit_of_a_job_ends_a_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.testapp.api.serializers import ThingSerializer

    make_webhook(Thing)
    Thing.objects.create(name="slow")

    def slow(self: Any, instance: Thing) -> Any:
        raise JobTimeoutException

    monkeypatch.setattr(ThingSerializer, "to_representation", slow)
    with pytest.raises(JobTimeoutException):
        replays.replay(Event.objects.all())


def test_a_replay_evaluates_the_conditions_again() -> None:
    thing = Thing.objects.create(name="before")
    fixed, without = make_webhook(Thing, conditions=SLOW, prechange=True), make_webhook(Thing, conditions=SLOW)
    thing.name = "a" * 46 + "b"
    thing.save()
    [failed] = events()
    assert failed.webhook_ids == [fixed.pk, without.pk]
    [still] = replays.replay([failed])
    assert "took longer" in still.problem
    assert Event.objects.failed().count() == 1
    for webhook, value in ((fixed, "today"), (without, "never")):
        webhook.conditions = {"attr": "name", "value": value}
        webhook.enabled = False  # its conditions are evaluated all the same
        webhook.save()
    Thing.objects.filter(pk=thing.pk).update(name="today")
    [replayed] = replays.replay([failed])
    assert replayed.event
    assert (replayed.event.webhook_ids, replayed.event.changed) == ([fixed.pk], '["name"]')
    assert json.loads(replayed.event.snapshots)["prechange"]["name"] == "before"
    assert not Event.objects.failed().exists()


def test_a_failed_event_that_no_webhook_matches_is_closed() -> None:
    webhook = make_webhook(Thing, conditions=SLOW)
    thing = Thing.objects.create(name="a" * 46 + "b")
    thing.delete()
    created, deleted = Event.objects.failed().order_by("pk")
    assert json.loads(deleted.data)["name"] == "a" * 46 + "b"
    webhook.conditions = {"attr": "name", "value": "something else"}
    webhook.save()
    user = User.objects.create_superuser("root")
    gone, unwanted = replays.replay([created, deleted], user)
    assert gone.problem == "the object is gone"
    assert (unwanted.event, unwanted.problem) == (None, "none of its webhooks matches the object as it is today")
    assert list(Event.objects.failed()) == [created]
    entry = LogEntry.objects.get()
    assert (entry.object_id, entry.change_message) == (str(deleted.pk), "Replayed: no webhook matches.")


def test_a_deletion_is_not_replayed_if_the_object_exists_again(broken: Any) -> None:
    make_webhook(Thing)
    Thing.objects.bulk_create([Thing(pk=5, name="a")])
    Thing.objects.get(pk=5).delete()
    failed = Event.objects.failed().get()
    Thing.objects.bulk_create([Thing(pk=5, name="again")])
    broken()
    [replayed] = replays.replay([failed])
    assert (replayed.event, replayed.problem) == (None, "the object exists again")
    assert Event.objects.failed().count() == 1


def test_a_stopped_event_is_not_replayed_after_a_later_change() -> None:
    webhook = make_webhook(Thing)
    first, second = (make_event(webhook, error=f"{LOOP_PROTECTION}too deep", depth=4) for _ in range(2))
    make_event(webhook, object_id="2")
    [replayed] = replays.replay([first])
    assert replayed.event
    [replayed] = replays.replay([second])
    assert replayed.event, "what was replayed before it is older"
    third = make_event(webhook, error=f"{LOOP_PROTECTION}too deep", depth=4)
    make_event(webhook)
    [replayed] = replays.replay([third])
    assert (replayed.event, replayed.problem) == (
        None, "a later change of the object was recorded, and has its newer state",
    )  # fmt: skip


@pytest.mark.postgresql
def test_a_replay_waits_for_an_uncommitted_change(broken: Any) -> None:
    make_webhook(Thing)
    thing = Thing.objects.create(name="then")
    failed = Event.objects.failed().get()
    broken()
    with transaction.atomic():
        thing.name = "now"
        thing.save()
        replaying = Beside(lambda: replays.replay([failed]))
        replaying.wait_until_blocked_or_done()
    replaying.join()
    assert last_data()["name"] == "now"


def test_a_replay_captures_the_object_of_an_event_that_was_sent_as_it_is_today(inbox: Inbox) -> None:
    make_webhook(Thing, url=inbox.url())
    thing = Thing.objects.create(name="then")
    drain()
    Thing.objects.filter(pk=thing.pk).update(name="now")
    [original] = Event.objects.all()
    for _ in range(2):  # it did not fail, so it may be replayed again
        [result] = replays.replay([original])
        assert result.event
        assert (result.event.replay_of, result.event.action) == (original.pk, "created")
    drain()
    names = [(one.json["data"]["name"], one.json.get("replay_of")) for one in inbox.received()]
    assert names == [("then", None), ("now", original.pk), ("now", original.pk)]
    assert Event.objects.get(pk=original.pk).replayed_at is None


def test_a_replay_to_one_webhook_leaves_out_the_others_unless_the_event_failed(broken: Any) -> None:
    one, other = make_webhook(Thing), make_webhook(Thing)
    Thing.objects.create(name="failed")
    broken()
    Thing.objects.create(name="sent")
    failed, sent = Event.objects.order_by("pk")
    for original, expected in ((failed, [one.pk, other.pk]), (sent, [one.pk])):
        result = replays.replay_one(original, one.pk)
        assert result.event
        assert result.event.webhook_ids == expected


def test_a_replay_of_an_object_that_is_gone_is_refused() -> None:
    make_webhook(Thing)
    thing = Thing.objects.create(name="a")
    created = Event.objects.get()
    thing.delete()
    assert [one.problem for one in replays.replay([created])] == ["the object is gone"]


def test_an_event_is_replayed_once(broken: Any) -> None:
    make_webhook(Thing)
    Thing.objects.create(name="a")
    failed = Event.objects.failed().get()
    broken()
    first, second = [*replays.replay([failed]), *replays.replay([failed])]
    assert first.event
    assert (second.event, second.problem) == (None, "it has been replayed already")


EVENTS = reverse("admin:rq_webhooks_event_changelist")


@pytest.fixture
def webhook(database: str) -> Webhook:
    return make_webhook(Thing)


@pytest.fixture
def client(database: str) -> Client:
    browser = Client()
    browser.force_login(User.objects.create_superuser("root"))
    return browser


def make_failed(webhook: Webhook, *object_ids: Any) -> list[Event]:
    """Failed events of these things, without data."""
    return [make_event(webhook, object_id=str(key), data="", error="KeyError") for key in object_ids]


def new_things(count: int) -> list[int]:
    return [thing.pk for thing in Thing.objects.bulk_create(Thing(name=f"thing {key}") for key in range(count))]


def replay_all(client: Client) -> list[str]:
    """Select all events that failed, replay them, and return the messages."""
    failed = list(Event.objects.exclude(error="").values_list("pk", flat=True))
    chosen = {"action": "replay_chosen", "_selected_action": failed}
    response = client.post(EVENTS, chosen, follow=True)
    return [str(message) for message in response.context["messages"]]


def test_each_replay_is_committed_before_the_next_one(
    client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_failed(webhook, *new_things(3))
    replay, committed = replays.replay_one, list[int]()

    def look_and_replay(failed: Event, **options: Any) -> Any:
        committed.append(aside(Event.objects.exclude(replay_of=None).count))
        return replay(failed, **options)

    monkeypatch.setattr(replays, "replay_one", look_and_replay)
    assert replay_all(client) == ["3 events replayed."]
    assert committed == [0, 1, 2]


def test_the_result_says_if_there_is_nothing_to_replay(client: Client, webhook: Webhook) -> None:
    make_failed(webhook, *new_things(2))
    assert replay_all(client) == ["2 events replayed."]
    said = "Nothing to replay: these are tests, or failed events that were replayed."
    assert replay_all(client) == [said]


def test_events_that_cannot_be_replayed_do_not_block_others(client: Client, webhook: Webhook) -> None:
    make_failed(webhook, *range(10_000, 10_015), *new_things(2))
    shown = replay_all(client)
    assert (shown[0], shown[-1]) == ("2 events replayed.", "10 more events could not be replayed.")
    assert len(shown) == 7


@pytest.mark.cost
def test_the_queries_of_a_replay_read_each_event_once(client: Client, webhook: Webhook) -> None:
    make_failed(webhook, *new_things(10))
    with CaptureQueriesContext(connection) as queries:
        replay_all(client)
    reading = [one["sql"] for one in queries if one["sql"].startswith("SELECT") and '."data",' in one["sql"]]
    assert len(reading) == 1
