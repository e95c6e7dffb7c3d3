"""What an admin does about what failed: retry, discard, replay."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import transaction

from tests.support.draining import drain
from tests.support.inbox import Inbox
from tests.support.makers import events, last_data, make_delivery, make_event, make_webhook
from tests.support.threads import Beside
from tests.testapp.models import Thing
from webhooks.models import Delivery, Event, State, Webhook
from webhooks.models.event import CUT
from webhooks.operations import retries

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes ThingSerializer raise until it is called."""
    from tests.testapp.api.serializers import ThingSerializer

    def refuse(self: Any, instance: Thing) -> Any:
        raise ValueError("the serializer is broken")

    with monkeypatch.context() as patched:
        patched.setattr(ThingSerializer, "to_representation", refuse)
        yield patched.undo


def test_a_delivery_between_two_attempts_has_the_next_one_now_and_its_schedule_goes_on(
    inbox: Inbox, webhooks_settings: Any
) -> None:
    webhooks_settings(RETRY_SCHEDULE=[3600, 7200], RETRY_JITTER=0)
    make_event(make_webhook(Thing, url=inbox.url("fail-first/1")))
    drain()
    assert (Delivery.objects.get().state, len(inbox.received())) == (State.PENDING, 1)
    drain()
    assert len(inbox.received()) == 1, "it waits for an hour"
    assert retries.retry(Delivery.objects.all()).changed == 1
    drain()
    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.attempt_count, delivery.failures) == (State.SUCCEEDED, 2, 1)


@pytest.mark.parametrize("state", [State.WAITING, State.PENDING, State.SENDING, State.SUCCEEDED])
def test_what_is_due_or_under_way_or_has_succeeded_is_not_retried(state: State) -> None:
    make_delivery(make_webhook(Thing), state)
    assert retries.retry(Delivery.objects.all()).changed == 0
    assert Delivery.objects.get().state == state


def test_a_failed_event_is_made_anew_with_the_data_of_today_and_says_so(broken: Any) -> None:
    make_webhook(Thing)
    thing = Thing.objects.create(name="then")
    failed = Event.objects.failed().get()
    broken()
    Thing.objects.filter(pk=thing.pk).update(name="today")
    [replayed] = retries.replay([failed])
    assert replayed.event is not None
    assert (replayed.event.action, replayed.event.replay_of) == ("created", failed.pk)
    assert json.loads(replayed.event.data)["name"] == "today"
    assert replayed.event.webhook_ids == failed.webhook_ids
    assert not Event.objects.failed().exists()


def test_a_deletion_that_cannot_be_read_any_more_is_told_by_key_and_name(broken: Any) -> None:
    thing = Thing.objects.create(name="gone")
    make_webhook(Thing)
    pk = thing.pk
    thing.delete()
    [replayed] = retries.replay(Event.objects.failed())
    assert replayed.event is not None
    assert json.loads(replayed.event.data) == {"id": str(pk), "display": "gone"}


def test_an_event_whose_payload_still_cannot_be_made_stays_as_it_is(broken: Any) -> None:
    make_webhook(Thing)
    Thing.objects.create(name="a")
    [replayed] = retries.replay(Event.objects.failed())
    assert replayed.event is None
    assert "the serializer is broken" in replayed.problem
    assert Event.objects.failed().count() == len(events()) == 1


SLOW = {"attr": "name", "op": "regex", "value": "(?:a|aa)+$"}


def test_who_wants_the_data_of_today_is_judged_anew() -> None:
    thing = Thing.objects.create(name="before")
    fixed, without = make_webhook(Thing, conditions=SLOW, prechange=True), make_webhook(Thing, conditions=SLOW)
    thing.name = "a" * 46 + "b"
    thing.save()
    [failed] = events()
    assert failed.webhook_ids == [fixed.pk, without.pk]
    [still] = retries.replay([failed])
    assert "took longer" in still.problem
    assert Event.objects.failed().count() == 1
    for webhook, value in ((fixed, "today"), (without, "never")):
        webhook.conditions = {"attr": "name", "value": value}
        webhook.enabled = False  # which makes no difference to what it wants
        webhook.save()
    Thing.objects.filter(pk=thing.pk).update(name="today")
    [replayed] = retries.replay([failed])
    assert replayed.event
    assert (replayed.event.webhook_ids, replayed.event.changed) == ([fixed.pk], '["name"]')
    assert json.loads(replayed.event.snapshots)["prechange"]["name"] == "before"
    assert not Event.objects.failed().exists()


def test_what_nobody_wants_any_more_is_done_with() -> None:
    webhook = make_webhook(Thing, conditions=SLOW)
    thing = Thing.objects.create(name="a" * 46 + "b")
    thing.delete()
    created, deleted = Event.objects.failed().order_by("pk")
    assert json.loads(deleted.data)["name"] == "a" * 46 + "b"
    webhook.conditions = {"attr": "name", "value": "something else"}
    webhook.save()
    user = User.objects.create_superuser("root")
    gone, unwanted = retries.replay([created, deleted], user)
    assert gone.problem == "the object is gone"
    assert (unwanted.event, unwanted.problem) == (None, "no webhook of it wants the object as it is today")
    assert list(Event.objects.failed()) == [created]
    entry = LogEntry.objects.get()
    assert (entry.object_id, entry.change_message) == (str(deleted.pk), "Replayed: nobody wants it.")


def test_a_deletion_whose_object_is_there_again_is_not_replayed(broken: Any) -> None:
    make_webhook(Thing)
    Thing.objects.bulk_create([Thing(pk=5, name="a")])
    Thing.objects.get(pk=5).delete()
    failed = Event.objects.failed().get()
    Thing.objects.bulk_create([Thing(pk=5, name="again")])
    broken()
    [replayed] = retries.replay([failed])
    assert (replayed.event, replayed.problem) == (None, "the object is there again")
    assert Event.objects.failed().count() == 1


def test_a_cut_event_is_not_replayed_over_what_was_told_later() -> None:
    webhook = make_webhook(Thing)
    first, second = (make_event(webhook, error=f"{CUT}too deep", depth=4) for _ in range(2))
    make_event(webhook, object_id="2")
    [replayed] = retries.replay([first])
    assert replayed.event
    [replayed] = retries.replay([second])
    assert replayed.event, "what was replayed before it is older"
    third = make_event(webhook, error=f"{CUT}too deep", depth=4)
    make_event(webhook)
    [replayed] = retries.replay([third])
    assert (replayed.event, replayed.problem) == (
        None, "a later change of the object is on file, which tells what it is now",
    )  # fmt: skip


@pytest.mark.postgresql
def test_a_replay_waits_for_a_change_that_is_under_way(broken: Any) -> None:
    make_webhook(Thing)
    thing = Thing.objects.create(name="then")
    failed = Event.objects.failed().get()
    broken()
    with transaction.atomic():
        thing.name = "now"
        thing.save()
        replaying = Beside(lambda: retries.replay([failed]))
        replaying.wait_until_blocked_or_done()
    replaying.join()
    assert last_data()["name"] == "now"


def test_an_event_is_replayed_once(broken: Any) -> None:
    make_webhook(Thing)
    Thing.objects.create(name="a")
    failed = Event.objects.failed().get()
    broken()
    first, second = [*retries.replay([failed]), *retries.replay([failed])]
    assert first.event
    assert (second.event, second.problem) == (None, "it has been replayed already")


def test_many_are_retried_in_the_order_of_their_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "CHUNK", 2)
    webhook = make_webhook(Thing)
    deliveries = [make_delivery(webhook, State.FAILED) for _ in range(5)]
    assert retries.retry(Delivery.objects.all()).changed == 5
    states = dict(Delivery.objects.values_list("pk", "state"))
    assert [states[delivery.pk] for delivery in deliveries] == [State.PENDING, *[State.WAITING] * 4]


def test_a_retry_probes_a_paused_webhook_at_once() -> None:
    from django.utils import timezone

    webhook = make_webhook(Thing, probe_at=timezone.now() + timedelta(hours=1))
    make_delivery(webhook, State.FAILED)
    retries.retry(Delivery.objects.all())
    assert Webhook.objects.get().probe_at <= timezone.now()


def test_what_is_discarded_lets_the_next_one_pass() -> None:
    webhook = make_webhook(Thing)
    first, second = make_delivery(webhook, State.PENDING), make_delivery(webhook, State.WAITING)
    assert retries.discard(Delivery.objects.filter(pk=first.pk)).changed == 1
    states = dict(Delivery.objects.values_list("pk", "state"))
    assert (states[first.pk], states[second.pk]) == (State.DISCARDED, State.PENDING)
