"""Runs: what each kind takes and sends, their previews, filters and history."""

from __future__ import annotations

import json
import re
import time
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from rest_framework.test import APIClient
from rq.timeouts import JobTimeoutException

import webhooks
from tests.support.draining import drain, finished, sent, states
from tests.support.inbox import Inbox
from tests.support.makers import events, make_delivery, make_event, make_webhook
from tests.testapp.models import Thing
from users.models import User
from webhooks.delivery import sweep
from webhooks.delivery.runs import kinds as run_kinds
from webhooks.models import Attempt, Delivery, Event, Run, RunState, State, Webhook
from webhooks.models.event import LOOP_PROTECTION
from webhooks.models.filters import filter_time
from webhooks.models.permissions import Operator
from webhooks.operations import backfills, runs
from webhooks.operations.kinds import OF_WEBHOOK, RUN_KINDS
from webhooks.operations.run_filters import RefusedFilter
from webhooks.pages.run import RunPage

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def user() -> User:
    return User.objects.create_superuser("ann")


def since_long_ago(webhook: Webhook) -> dict[str, Any]:
    return runs.since_filters(webhook, timezone.now() - timedelta(days=1))


def test_a_run_resends_all_chosen_deliveries_once_and_in_order(inbox: Inbox, user: User) -> None:
    webhook, other = (
        make_webhook(Thing, url=inbox.url(), name="CMDB sync"),
        make_webhook(Thing, url=inbox.url("ok/other")),
    )
    sent(webhook, 30)
    sent(other, 2)
    before = len(inbox.received("ok"))
    run = finished(runs.start("resend", {"webhook": webhook.pk}, user))
    assert (run.state, run.total, run.done, run.failed, run.skipped) == (RunState.DONE, 30, 30, 0, 0)
    again = inbox.received("ok")[before:]
    assert len(again) == len({one.headers["webhook-id"] for one in again}) == 30
    for key in ("0", "1", "2"):
        sequences = [one.json["sequence"] for one in again if one.json["data"]["id"] == key]
        assert sequences == sorted(sequences)
    assert len(inbox.received("ok/other")) == 2
    assert set(states()) == {State.SUCCEEDED}
    assert Attempt.objects.filter(requested_by="ann").count() == 30
    assert [entry.object_repr for entry in LogEntry.objects.order_by("pk")] == [
        "resend of deliveries of CMDB sync",
        "Resent 30 deliveries of CMDB sync",
    ]


@pytest.mark.parametrize(
    ("kind", "state", "after"),
    [
        ("retry", State.FAILED, State.SUCCEEDED),
        ("retry", State.DISCARDED, State.SUCCEEDED),
        ("resend", State.SUCCEEDED, State.SUCCEEDED),
        ("discard", State.FAILED, State.DISCARDED),
        ("discard", State.WAITING, State.DISCARDED),
    ],
)
def test_each_kind_takes_the_states_that_it_can(kind: str, state: State, after: State, inbox: Inbox) -> None:
    # The sweep would promote what waits behind nothing, and a worker would send it.
    webhook = make_webhook(Thing, url=inbox.url(), enabled=state != State.WAITING)
    taken = [make_delivery(webhook, state, object_id=str(number)) for number in range(3)]
    filters = {"state": ["discarded"]} if state == State.DISCARDED else {}
    run = finished(runs.start(kind, filters, takes_all=True))
    assert (run.state, run.total, run.done) == (RunState.DONE, 3, 3)
    assert states() == [after] * len(taken)


@pytest.mark.parametrize("kind", ["retry", "resend", "recover"])
def test_a_run_takes_discarded_deliveries_only_if_a_filter_names_them(kind: str) -> None:
    webhook = make_webhook(Thing)
    for number, state in enumerate((State.FAILED, State.DISCARDED)):
        make_delivery(webhook, state, object_id=str(number))
    filters = since_long_ago(webhook) if kind in OF_WEBHOOK else {"webhook": webhook.pk}
    assert [one.name for one in runs.preview(kind, filters).sample] == [f"testapp.thing 0 updated → {webhook}"]
    if kind not in OF_WEBHOOK:
        assert runs.preview(kind, filters | {"state": ["discarded"]}).count == 1
        assert runs.act(kind, filters) == 1
        assert sorted(states()) == [State.DISCARDED, State.PENDING]


def test_a_run_with_other_times_is_refused_while_the_first_one_is_open(inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    sent(webhook, 3)
    filters = {"webhook": webhook.pk}
    first = runs.start("resend", filters | {"created_after": filter_time(timezone.now() - timedelta(hours=6))})
    since = {"created_after": filter_time(timezone.now() - timedelta(hours=6))}
    with pytest.raises(runs.RunExists, match=f"Run {first.pk} does the same for another time"):
        runs.start("resend", filters | since)
    finished(first)
    assert finished(runs.start("resend", filters | since)).done == 3


def test_a_dry_run_counts_and_shows_the_oldest_rows(inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    sent(webhook, 12)
    found = runs.preview("resend", {"webhook": webhook.pk, "object_type": "testapp.thing"})
    assert found.count == 12
    assert [one.id for one in found.sample] == list(
        Delivery.objects.order_by("event_id").values_list("pk", flat=True)[: runs.SAMPLE]
    )
    assert not Run.objects.exists()
    assert runs.preview("retry", {}, takes_all=True).count == 0


def test_a_dry_run_without_time_says_how_many_rows_it_found_so_far(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_kinds, "LOOK_AT", 4)
    sent(make_webhook(Thing, url=inbox.url(), name="CMDB sync"), 12)
    found = runs.preview("resend", {}, takes_all=True, seconds=0)
    assert (found.count, found.is_complete) == (4, False)
    assert [one.name for one in found.sample] == [f"testapp.thing {key} updated → CMDB sync" for key in (0, 1, 2, 0)]


@pytest.mark.cost
@pytest.mark.parametrize("kind", list(RUN_KINDS))
def test_a_preview_takes_as_many_queries_for_many_webhooks_as_for_two(kind: str) -> None:
    counts = []
    for number in (2, 6):
        for _ in range(number):
            webhook = make_webhook(Thing)
            make_delivery(webhook, State.FAILED)
        filters = since_long_ago(webhook) if kind in OF_WEBHOOK else {}
        runs.preview(kind, filters, takes_all=True)  # the first one reads content types, too
        with CaptureQueriesContext(connection) as captured:
            runs.preview(kind, filters, takes_all=True)
        counts.append(len(captured))
    assert counts[0] == counts[1]


@pytest.mark.cost
def test_a_preview_takes_few_queries_for_each_range_of_events(monkeypatch: pytest.MonkeyPatch) -> None:
    webhook, counts = make_webhook(Thing), []
    for number in range(8):
        make_delivery(webhook, State.FAILED, object_id=str(number))
    monkeypatch.setattr(runs, "SAMPLE", 1)
    monkeypatch.setattr(run_kinds, "QUICK_SECONDS", 0)
    for events_each in (8, 1):
        monkeypatch.setattr(run_kinds, "LOOK_AT", events_each)
        with CaptureQueriesContext(connection) as captured:
            assert runs.preview("retry", {}, takes_all=True).count == 8
        counts.append(len(captured))
    # The rows, and the superseded ones. On PostgreSQL the end of a savepoint rides with the next one.
    assert counts[1] - counts[0] == 7 * 2


@pytest.mark.parametrize(
    ("kind", "filters", "reason"),
    [
        ("resend", {"colour": "red"}, "no filter colour"),
        ("resend", {}, "at least one filter"),
        ("retry", {"webhook": 999}, "There is no webhook 999"),
        ("retry", {"webhook": "CMDB"}, "There is no webhook CMDB"),
        ("retry", {"object_type": "testapp.thingy"}, "has the label testapp.thingy"),
        ("replay", {"action": "painted"}, "“painted” is not one of these: created, updated, deleted, ping"),
        ("retry", {"error_kind": "http_999"}, "“http_999” is not one of these"),
        ("retry", {"state": ["succeeded"]}, "only these states: failed, discarded, pending"),
        ("discard", {"state": ["sending", "succeeded"]}, "only these states: waiting, pending, failed"),
        ("retry", {"object_id": "7"}, "Give object_type as well"),
        ("retry", {"name": ""}, "An empty text is no filter"),
        ("retry", {"status": 99}, "from 100 to 999"),
    ],
)
def test_a_run_with_a_filter_that_can_choose_nothing_is_refused(
    kind: str, filters: dict[str, Any], reason: str
) -> None:
    for begin in (runs.start, runs.preview, runs.act):
        with pytest.raises(RefusedFilter, match=reason):
            begin(kind, filters)
    assert not Run.objects.exists()


def test_a_preview_says_if_nothing_matches_because_no_user_has_the_name(user: User) -> None:
    make_delivery(make_webhook(Thing), State.FAILED)
    notes = [runs.preview("retry", {"user": name}).note for name in ("jone", user.email)]
    assert notes == ["There is no user “jone”.", ""]
    make_delivery(make_webhook(Thing), State.FAILED, event=make_event(username="script", dispatched=True))
    assert runs.preview("retry", {"user": "script"}).note == ""


@pytest.mark.parametrize(
    ("held", "note"),
    [
        (
            {"probe_at": timezone.now() + timedelta(hours=1)},
            "1 delivery waits, because the webhook is paused. Resume the webhook: this sends it.",
        ),
        ({"enabled": False}, "1 delivery waits, because the webhook is disabled. Enable the webhook: this sends it."),
        ({}, ""),
    ],
)
def test_a_preview_says_if_nothing_matches_because_the_webhook_holds_its_deliveries_back(
    held: dict[str, Any], note: str
) -> None:
    webhook = make_webhook(Thing, **held)
    chosen = {"webhook": webhook.pk, "created_after": "2026-01-01T00:00:00+00:00"}
    assert runs.preview("recover", chosen).note == ""
    make_delivery(webhook, State.PENDING)
    found = runs.preview("recover", chosen)
    assert (found.count, found.note) == (0, note)


def test_a_preview_says_what_waits_beside_what_matches_and_what_it_leaves_out() -> None:
    webhook = make_webhook(Thing, paused_at=timezone.now())
    chosen = {"webhook": webhook.pk, "created_after": "2026-01-01T00:00:00+00:00"}
    make_delivery(webhook, State.PENDING)
    make_delivery(webhook, State.FAILED, object_id="2")
    held = "1 delivery waits, because the webhook is paused. Resume the webhook: this sends it."
    found = runs.preview("recover", chosen)
    assert (found.count, found.note) == (1, held)
    make_delivery(webhook, State.SUCCEEDED, object_id="2")
    found = runs.preview("recover", chosen)
    left_out = "It leaves out 1 superseded delivery: its receiver has a later state of the object."
    assert (found.count, found.note) == (0, f"{left_out} {held}")


def test_a_discard_of_pending_deliveries_leaves_those_behind_them(inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url(), paused_at=timezone.now())
    heads = [make_delivery(webhook, State.PENDING, object_id=str(number)) for number in range(3)]
    for number in (*range(3), *range(3)):
        make_delivery(webhook, State.WAITING, object_id=str(number))
    filters = {"webhook": webhook.pk, "state": ["pending"]}
    assert runs.preview("discard", filters).count == 3
    run = finished(runs.start("discard", filters))
    assert (run.total, run.done) == (3, 3)
    assert Delivery.objects.filter(outcome=State.DISCARDED).count() == len(heads)
    assert states().count(State.PENDING) == 3
    assert runs.preview("discard", filters).count == 3


def test_a_run_says_how_many_superseded_deliveries_it_left_out(inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    for number in range(3):
        make_delivery(webhook, State.FAILED, object_id=str(number))
    for number in range(2):
        make_delivery(webhook, State.SUCCEEDED, object_id=str(number))
    for kind, filters in (("recover", since_long_ago(webhook)), ("retry", {"webhook": webhook.pk})):
        run = finished(runs.start(kind, filters))
        assert (run.total, run.done + run.skipped, run.superseded) == (int(kind == "recover"), run.total, 2)
    assert RunPage(run, Operator("test")).note.startswith("It leaves out 2 superseded deliveries")


def test_a_run_takes_deliveries_of_a_model_that_is_not_registered_any_more() -> None:
    make_delivery(make_webhook(Thing), State.FAILED, event=make_event(object_type="gone.rack", dispatched=True))
    assert runs.preview("retry", {"object_type": "gone.rack", "state": ["failed", "succeeded"]}).count == 1


def test_the_history_names_the_webhooks_with_the_most_deliveries(user: User) -> None:
    for name, count in (("DNS", 2), ("CMDB sync", 3), ("IPAM", 1), ("Tickets", 1), ("Chat", 1)):
        webhook = make_webhook(Thing, name=name)
        for number in range(count):
            make_delivery(webhook, State.FAILED, object_id=str(number))
    finished(runs.start("discard", {"state": ["failed"]}, user))
    assert LogEntry.objects.latest("pk").object_repr == "Discarded 8 deliveries of CMDB sync, DNS, IPAM and 2 others"


def test_a_replay_run_replays_failed_events_and_counts_those_that_it_cannot(inbox: Inbox, user: User) -> None:
    make_webhook(Thing, url=inbox.url())
    things = [Thing.objects.create(name=f"thing {number}") for number in range(3)]
    drain()
    Event.objects.update(error="the serializer was broken", data="")
    things[1].delete()
    Event.objects.filter(action="deleted").delete()
    Thing.objects.filter(pk=things[0].pk).update(name="today")
    run = finished(runs.start("replay", {"failed": True}, user))
    assert (run.state, run.total, run.done, run.failed) == (RunState.DONE, 3, 2, 1)
    assert run.problem == "thing 1: the object is gone"
    assert sorted(one.json["data"]["name"] for one in inbox.received()[-2:]) == ["thing 2", "today"]
    assert LogEntry.objects.latest("pk").object_repr == "Replayed 2 events"


def test_events_of_different_webhooks_are_not_alike(inbox: Inbox) -> None:
    first, second = (make_webhook(Thing, url=inbox.url(name)) for name in ("ok/1", "ok/2"))
    thing = Thing.objects.create(name="a")
    Event.objects.all().delete()
    for webhook in (first, first, second, second):
        make_event(webhook, object_id=str(thing.pk), error="it failed", dispatched=True)
    run = finished(runs.start("replay", {"failed": True}))
    assert (run.total, run.done) == (2, 2)
    assert [len(inbox.received(name)) for name in ("ok/1", "ok/2")] == [1, 1]


def test_a_replay_closes_no_failed_event_of_another_webhook(inbox: Inbox) -> None:
    hopeless = {"attr": "name", "op": "regex", "value": "(?:a|aa)+$"}
    webhooks = make_webhook(Thing, conditions=hopeless), make_webhook(Thing, url=inbox.url())
    thing = Thing.objects.create(name="a" * 46 + "b")
    Event.objects.all().delete()
    left, _ = (make_event(one, object_id=str(thing.pk), error="it failed", dispatched=True) for one in webhooks)
    run = finished(runs.start("replay", {"failed": True}))
    assert (run.done, run.failed) == (1, 1)
    assert Event.objects.failed().get() == left


def test_custom_events_are_replayed_each(inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    for number in range(3):
        make_event(webhook, action="testapp.counted", data=json.dumps({"count": number}), error="it failed")
    assert finished(runs.start("replay", {"failed": True})).done == 3


def test_a_replay_run_takes_the_events_of_one_webhook_only_to_it(inbox: Inbox) -> None:
    webhook, other = make_webhook(Thing, url=inbox.url()), make_webhook(Thing, on="d", url=inbox.url("ok/other"))
    things = [Thing.objects.create(name=f"thing {number}") for number in range(3)]
    things[0].delete()
    drain()
    Thing.objects.update(name="today")
    assert runs.preview("replay", {"webhook": other.pk}).count == 1
    run = finished(runs.start("replay", {"webhook": webhook.pk, "action": "created"}))
    assert (run.state, run.total, run.done, run.failed) == (RunState.DONE, 3, 2, 1)
    assert [one.json["data"]["name"] for one in inbox.received("ok")[-2:]] == ["today", "today"]
    assert len(inbox.received("ok/other")) == 1


def test_a_backfill_sends_a_new_webhook_the_stored_events_that_it_wants(inbox: Inbox) -> None:
    make_webhook(Thing, url=inbox.url())
    for name in ("a", "b", "a"):
        thing = Thing.objects.create(name=name)
        thing.name = f"{name} again"
        thing.save()
    drain()
    new = make_webhook(Thing, on="c", url=inbox.url("ok/new"), conditions={"attr": "name", "value": "a"}, name="new")
    filters = runs.since_filters(new, timezone.now() - timedelta(hours=1))
    found = runs.preview("backfill", filters)
    wanted = [event.pk for event in events() if json.loads(event.data)["name"] == "a"]
    assert (found.count, [one.id for one in found.sample]) == (2, wanted)
    run = finished(runs.start("backfill", filters))
    assert (run.state, run.total, run.done, run.failed, run.skipped) == (RunState.DONE, 3, 2, 0, 1)
    assert sorted(one.json["sequence"] for one in inbox.received("ok/new")) == wanted
    assert finished(runs.start("backfill", filters)).done == 0, "it has them"


def test_a_backfill_leaves_out_the_changes_of_ignored_users(inbox: Inbox) -> None:
    for username in ("importer", "jane", ""):
        make_event(username=username, object_id=username, dispatched=True)
    new = make_webhook(Thing, url=inbox.url(), excluded_usernames=["importer"])
    assert finished(runs.start("backfill", since_long_ago(new))).done == 2
    assert sorted(one.json["username"] for one in inbox.received()) == ["", "jane"]


def test_a_backfill_judges_the_data_of_custom_events(inbox: Inbox, own_registrations: None) -> None:
    webhooks.register_event("testapp.counted")
    make_webhook(custom_events=["testapp.counted"], url=inbox.url())
    for count in (1, 2, 3):
        webhooks.send("testapp.counted", data={"count": count})
    drain()
    rule = {"attr": "count", "value": 1, "op": "gt"}
    new = make_webhook(
        custom_events=["testapp.counted"], url=inbox.url("ok/new"), conditions=rule, serializer="brief", name="new"
    )
    assert finished(runs.start("backfill", since_long_ago(new))).done == 2
    assert sorted(one.json["data"]["count"] for one in inbox.received("ok/new")) == [2, 3]


@pytest.mark.cost
def test_a_preview_of_a_backfill_takes_as_many_statements_for_many_events_as_for_one() -> None:
    old, counts = make_webhook(Thing), []
    new = make_webhook(Thing, conditions={"attr": "name", "value": "a"})
    for _ in range(3):
        for _ in range(5):
            make_event(old)
        with CaptureQueriesContext(connection) as captured:
            runs.preview("backfill", since_long_ago(new))
        counts.append(len(captured))
    assert counts[1] == counts[2], "the first one reads content types, too"


def test_a_step_of_a_backfill_reads_few_large_events_at_once(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfills, "JUDGED_BYTES", 250)
    old, new = make_webhook(Thing), make_webhook(Thing, url=inbox.url())
    sizes = [100, 100, 100, 900, 100, 900, 900]
    for number, size in enumerate(sizes):
        make_event(old, object_id=str(number), data=json.dumps("x" * (size - 2)), dispatched=True)
    read = list[list[int]]()
    real = backfills.Backfill._judge

    def judge(*args: Any) -> backfills.Judged:
        judged = real(*args)
        read.append([event.size for event in judged.wanted])
        return judged

    monkeypatch.setattr(backfills.Backfill, "_judge", judge)
    assert runs.preview("backfill", since_long_ago(new)).count == len(sizes)
    assert finished(runs.start("backfill", since_long_ago(new))).done == len(sizes)
    assert [one for one in read if one] == 2 * [[100, 100], [100], [900], [100], [900], [900]]


def test_a_backfill_keeps_the_order_of_each_object(inbox: Inbox, webhooks_settings: Any) -> None:
    webhooks_settings(BATCH=4)
    old = make_webhook(Thing, url=inbox.url())
    for number in range(20):
        make_event(old, object_id=str(number % 2))
    drain()
    new = make_webhook(Thing, url=inbox.url("ok/new"))
    assert finished(runs.start("backfill", since_long_ago(new))).done == 20
    for key in ("0", "1"):
        sequences = [one.json["sequence"] for one in inbox.received("ok/new") if one.json["data"]["id"] == key]
        assert len(sequences) == 10
        assert sequences == sorted(sequences)


def test_a_backfill_counts_events_without_the_data_of_its_serializer(inbox: Inbox) -> None:
    make_event(make_webhook(Thing, url=inbox.url()))
    drain()
    new = make_webhook(Thing, url=inbox.url("ok/new"), serializer="brief")
    run = finished(runs.start("backfill", since_long_ago(new)))
    assert (run.done, run.failed) == (0, 1)
    assert "no data of the serializer brief" in run.problem


def test_a_backfill_goes_on_if_retention_deletes_an_event_meanwhile(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    serializers = json.dumps({"brief": {"webhooks": [], "data": "{}", "snapshots": "", "changed": ""}})
    gone, stays = (make_event(object_id=name, serializers=serializers, dispatched=True) for name in "12")
    new = make_webhook(Thing, url=inbox.url(), serializer="brief")
    choose = backfills._choose_serializer

    def delete_and_choose(*given: Any) -> None:
        Event.objects.filter(pk=gone.pk).delete()
        choose(*given)

    monkeypatch.setattr(backfills, "_choose_serializer", delete_and_choose)
    run = finished(runs.start("backfill", since_long_ago(new)))
    assert (run.state, run.done, run.failed) == (RunState.DONE, 1, 0)
    assert [one.json["sequence"] for one in inbox.received()] == [stays.pk]


def slow_events(count: int) -> Webhook:
    """A webhook with conditions that cannot be judged in time, for so many stored events."""
    for number in range(count):
        make_event(object_id=str(number), data=json.dumps({"name": "a" * 100 + "b"}), dispatched=True)
    return make_webhook(Thing, conditions={"attr": "name", "op": "regex", "value": "(a|aa)+$"})


def test_a_dry_run_of_a_backfill_keeps_to_its_time_and_says_what_it_could_not_judge() -> None:
    filters, began = since_long_ago(slow_events(20)), time.thread_time()
    found = runs.preview("backfill", filters, seconds=0.5)
    assert time.thread_time() - began < 1.5
    assert (found.count, found.is_complete, found.is_stopped) == (0, False, True)
    assert 1 <= found.unjudged < 20
    assert re.fullmatch(r"\d+ events? could not be judged: the conditions took longer than the 0.2 s .*", found.note)


def test_a_dry_run_is_not_complete_with_an_event_that_it_could_not_judge(admin_client: Client, api: APIClient) -> None:
    webhook = slow_events(1)
    found = runs.preview("backfill", since_long_ago(webhook))
    assert (found.count, found.unjudged, found.is_complete, found.is_stopped) == (0, 1, False, False)
    answer = api.post(f"/api/webhooks/webhooks/{webhook.pk}/backfill/", {"hours": 1, "dry_run": True}, format="json")
    assert {name: answer.json()[name] for name in ("count", "unjudged", "is_complete", "note")} == {
        "count": 0,
        "unjudged": 1,
        "is_complete": False,
        "note": found.note,
    }
    page = admin_client.get(reverse("admin:rq_webhooks_webhook_backfill", args=[webhook.pk]), {"hours": 24})
    assert "1 event could not be judged: the conditions took longer" in page.text
    assert "Nothing to send" not in page.text


def test_the_time_limit_of_a_job_ends_the_judging_of_a_backfill(monkeypatch: pytest.MonkeyPatch) -> None:
    make_event(make_webhook(Thing))
    new = make_webhook(Thing, conditions={"attr": "name", "value": "a"})

    def slow(*args: Any) -> bool:
        raise JobTimeoutException

    monkeypatch.setattr(backfills, "wants", slow)
    with pytest.raises(JobTimeoutException):
        runs.preview("backfill", since_long_ago(new))


def test_a_recovery_sends_what_failed_since_a_time(inbox: Inbox, user: User) -> None:
    webhook, other = make_webhook(Thing, url=inbox.url()), make_webhook(Thing, url=inbox.url())
    make_event(
        webhook, other, object_id="early", error="KeyError", data="", timestamp=timezone.now() - timedelta(hours=2)
    )
    old = make_delivery(webhook, State.FAILED, object_id="old", finished_at=timezone.now() - timedelta(hours=3))
    for number, state in enumerate((State.FAILED, State.DISCARDED, State.SUCCEEDED)):
        make_delivery(webhook, state, object_id=f"sent-{number}")
    make_delivery(other, State.FAILED)
    for thing in (Thing.objects.create(name="a"), Thing.objects.create(name="b")):
        failed = {"error": "KeyError", "data": "", "replayed_at": None}
        Event.objects.filter(object_id=thing.pk).update(**failed)
    Event.objects.filter(object_id=thing.pk).update(error=LOOP_PROTECTION)
    make_event(other, object_id="other", error="KeyError", data="")
    filters = runs.since_filters(webhook, timezone.now() - timedelta(hours=1))
    found = runs.preview("recover", filters)
    assert (found.deliveries, found.events, found.count) == (1, 1, 2)
    assert all(one.name for one in found.sample)
    run = finished(runs.start("recover", filters, user))
    assert (run.state, run.total, run.done, run.failed) == (RunState.DONE, 2, 2, 0)
    assert [one.json["data"]["name"] for one in inbox.received() if "replay_of" in one.json] == ["a"] * 2
    assert Delivery.objects.get(pk=old.pk).state == State.FAILED
    assert runs.preview("recover", filters).count == 0
    assert LogEntry.objects.latest("pk").object_repr == f"Recovered 2 deliveries and events of {webhook}"


def test_a_pause_changes_neither_the_speed_nor_the_time_that_is_left(user: User) -> None:
    hour_ago = timezone.now() - timedelta(hours=1)
    run = Run.objects.create(kind="retry", total=600, done=100, failed=10, skipped=10, created=hour_ago)
    assert runs.pause(run, user)
    assert runs.time_left(run) == ""
    assert runs.resume(run, user)
    assert runs.time_left(run) == ""  # not even one percent since
    minute_ago = run.resumed_at - timedelta(minutes=1)
    Run.objects.filter(pk=run.pk).update(done=340, resumed_at=minute_ago)
    run.refresh_from_db()
    assert runs.time_left(run) == "4/s, about 1 min left"


def test_a_backfill_does_not_send_again_what_retention_has_deleted(inbox: Inbox) -> None:
    webhook, other = make_webhook(Thing, url=inbox.url()), make_webhook(Thing)
    ago = timezone.now() - timedelta(days=40)
    event = make_event(webhook, other, timestamp=ago, dispatched=True)
    make_delivery(webhook, State.SUCCEEDED, event=event, finished_at=ago)
    make_delivery(other, State.FAILED, event=event, finished_at=ago)  # so the event stays
    sweep.sweep()
    assert not webhook.deliveries.exists()
    filters = runs.since_filters(webhook, timezone.now() - timedelta(days=60))
    assert runs.preview("backfill", filters).count == 0
    assert finished(runs.start("backfill", filters)).done == 0
    assert inbox.received() == []
