"""Recover skipped: a webhook gets the objects of changes that it skipped, as they are now, in a run."""

from __future__ import annotations

import json
import uuid
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from rest_framework.test import APIClient

from tests.support.admin_pages import page, staff
from tests.support.draining import drain, finished
from tests.support.inbox import Inbox
from tests.support.makers import make_webhook, rename
from tests.support.users import api_client, make_user
from tests.testapp.models import Thing
from webhooks.delivery.runs.kinds import TimeLeft
from webhooks.ground.db import to_db_time
from webhooks.management import base
from webhooks.models import Event, Run, RunState, Skip, Webhook
from webhooks.models.ids import first_at, new_id, position_of
from webhooks.models.skip import Rule
from webhooks.operations import backfills, runs
from webhooks.operations.runs import Preview

pytestmark = pytest.mark.usefixtures("database")

WRONG, RIGHT = {"attr": "name", "value": "nothing"}, {"attr": "name", "op": "contains", "value": "a"}


def filters(webhook: Webhook, **more: Any) -> dict[str, Any]:
    return runs.since_filters(webhook, timezone.now() - timedelta(hours=1)) | more


def preview(webhook: Webhook, **more: Any) -> Preview:
    return runs.preview("recover_skipped", filters(webhook, **more))


def recover(webhook: Webhook, **more: Any) -> Run:
    return finished(runs.start("recover_skipped", filters(webhook, **more)))


def mend(webhook: Webhook, conditions: Any = RIGHT) -> None:
    webhook.conditions = conditions
    webhook.save()


@pytest.fixture
def webhook(inbox: Inbox) -> Webhook:
    """A webhook with a wrong condition, which skipped three things: a, ab and xx."""
    webhook = make_webhook(Thing, name="CMDB", url=inbox.url(), conditions=WRONG)
    for name in ("a", "ab", "xx"):
        thing = Thing.objects.create(name=name)
        thing.note = "now"
        thing.save()
    drain()
    assert Skip.objects.count() == 6
    return webhook


@pytest.mark.parametrize("case", ["not dispatched", "deleted since"])
def test_an_object_that_the_receiver_may_know_is_updated(
    case: str, webhook: Webhook, inbox: Inbox, webhooks_settings: Any
) -> None:
    mend(webhook)
    if case == "deleted since":
        webhooks_settings(RETENTION_DAYS={"succeeded": 1})
        Skip.objects.update(timestamp=to_db_time(timezone.now() - timedelta(days=2)))
        recover(webhook)
    else:
        thing = Thing.objects.get(name="a")
        thing.save()
        mend(webhook, WRONG)
        thing.save()
        mend(webhook)
        [skip] = Skip.objects.filter(object_id=thing.pk).order_by("-pk")[:1]
        assert backfills._action(webhook, skip) == "updated"
        drain()
    assert "created" not in {post.json["event"] for post in inbox.received()}


def test_each_object_that_matches_now_is_sent_once_as_it_is_now(webhook: Webhook, inbox: Inbox) -> None:
    mend(webhook)
    Thing.objects.filter(name="a").update(name="a2")
    assert preview(webhook).events == 3
    run = recover(webhook)
    assert (run.state, run.total, run.done, run.failed, run.skipped) == (RunState.DONE, 3, 2, 0, 1)
    assert sorted(post.json["data"]["name"] for post in inbox.received()) == ["a2", "ab"]
    assert {post.json["event"] for post in inbox.received()} == {"created"}, "the receiver has none of them"


def test_what_was_recovered_is_not_recovered_again(webhook: Webhook, inbox: Inbox) -> None:
    mend(webhook)
    run = runs.start("recover_skipped", filters(webhook))
    finished(run)
    assert preview(webhook).events == 1, "the one that did not match"
    assert recover(webhook).done == 0
    assert len(inbox.received()) == 2


def test_an_object_that_the_webhook_got_later_is_left_out(webhook: Webhook, inbox: Inbox) -> None:
    mend(webhook)
    thing = Thing.objects.get(name="a")
    thing.note = "later"
    thing.save()
    assert preview(webhook).events == 2
    drain()
    assert preview(webhook).events == 2
    assert recover(webhook).done == 1
    assert sorted(post.json["data"]["name"] for post in inbox.received()) == ["a", "ab"]


def test_an_object_that_the_receiver_has_is_updated(webhook: Webhook, inbox: Inbox) -> None:
    mend(webhook)
    recover(webhook)
    mend(webhook, WRONG)
    rename(Thing.objects.get(name="a"))
    mend(webhook, None)
    recover(webhook)
    assert [post.json["event"] for post in inbox.received() if post.json["data"]["name"] == "new"] == ["updated"]


def test_deleted_objects_are_counted_and_named(webhook: Webhook, inbox: Inbox) -> None:
    Thing.objects.get(name="a").delete()
    mend(webhook)
    found = preview(webhook)
    assert (found.events, found.unreadable) == (2, 1)
    assert found.note.startswith("1 more object cannot be read: it is deleted,")
    run = recover(webhook)
    assert (run.state, run.done, run.failed, run.skipped) == (RunState.DONE, 1, 1, 1)
    assert run.problem == "a: the object is deleted, so it cannot be read: correct the receiver by hand"


def test_the_changes_of_other_rules_models_and_times_are_left_out(webhook: Webhook) -> None:
    mend(webhook)
    assert preview(webhook, rule=Rule.CONDITION).events == 3
    assert preview(webhook, rule=Rule.DISABLED).events == 0
    future = {"created_after": (timezone.now() + timedelta(days=1)).isoformat()}
    assert runs.preview("recover_skipped", filters(webhook) | future).events == 0
    webhook.object_types.clear()
    assert preview(webhook).events == 0


def test_changes_while_the_webhook_was_disabled_are_recovered(webhook: Webhook, inbox: Inbox) -> None:
    mend(webhook, None)
    webhook.enabled = False
    webhook.save()
    rename(Thing.objects.get(name="a"))
    webhook.enabled = True
    webhook.save()
    assert recover(webhook, rule=Rule.DISABLED).done == 1
    assert [post.json["data"]["name"] for post in inbox.received()] == ["new"]


def test_ignored_users_and_stopped_loops_stay_out(webhook: Webhook) -> None:
    mend(webhook, None)
    Skip.objects.update(rule=Rule.LOOP_PROTECTION)
    assert preview(webhook).events == 0
    Skip.objects.update(rule=Rule.IGNORED_USER, username="robot")
    assert preview(webhook).events == 3
    webhook.excluded_usernames = ["robot"]
    webhook.save()
    assert preview(webhook).events == 0


def test_a_broken_serializer_fails_its_object_alone(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.testapp.api.serializers import ThingSerializer

    mend(webhook)
    written = ThingSerializer.to_representation

    def refuse(self: Any, instance: Thing) -> Any:
        if instance.name == "a":
            raise ValueError("broken")
        return written(self, instance)

    monkeypatch.setattr(ThingSerializer, "to_representation", refuse)
    run = recover(webhook)
    assert (run.state, run.done, run.failed, run.problem) == (RunState.DONE, 1, 1, "a: ValueError: broken")


@pytest.mark.parametrize("is_over", [False, True], ids=["", "time is over"])
def test_skips_at_one_position_are_all_taken(
    webhook: Webhook, inbox: Inbox, monkeypatch: pytest.MonkeyPatch, is_over: bool
) -> None:
    monkeypatch.setattr(TimeLeft, "is_over", is_over)
    mend(webhook, None)
    first = Skip.objects.order_by("pk")[0]
    same = [uuid.UUID(int=first.pk.int >> 54 << 54 | number) for number in range(6)]
    assert {position_of(pk) for pk in same} == {position_of(first.pk)}
    for old, pk in zip(Skip.objects.order_by("pk").values_list("pk", flat=True), same, strict=True):
        Skip.objects.filter(pk=old).update(id=pk)
    run = recover(webhook)
    assert (run.state, run.total, run.done, run.skipped) == (RunState.DONE, 3, 3, 0)
    assert len(inbox.received()) == 3


def test_a_position_is_the_place_of_an_id() -> None:
    ids = sorted(new_id() for _ in range(1000))
    assert [position_of(pk) for pk in ids] == sorted(position_of(pk) for pk in ids)
    for pk in ids:
        assert first_at(position_of(pk)) <= pk < first_at(position_of(pk) + 1)
        assert position_of(pk) < 2**63


def test_a_run_ends_without_its_webhook(webhook: Webhook) -> None:
    run = runs.start("recover_skipped", filters(webhook))
    Webhook.objects.all().delete()
    assert finished(run).problem == "the webhook was deleted"


def test_the_command_counts_first(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "wait", lambda seconds: drain())
    mend(webhook)
    chosen = ("--webhook", "CMDB", "--since", "2h", "--rule", "condition")
    written = StringIO()
    call_command("webhooks_recover_skipped", *chosen, "--dry-run", stdout=written)
    assert written.getvalue().startswith("3 objects. Nothing was changed: this was a dry run.\n")
    assert not Run.objects.exists()
    call_command("webhooks_recover_skipped", *chosen, stdout=written)
    assert written.getvalue().endswith("Recovered 2, 0 failed, 1 skipped.\n")
    with pytest.raises(CommandError, match="required: --webhook"):
        call_command("webhooks_recover_skipped", "--since", "2h")


def test_the_rest_api_counts_and_begins_it(webhook: Webhook, api: APIClient) -> None:
    Thing.objects.get(name="a").delete()
    mend(webhook)
    address = f"/api/webhooks/webhooks/{webhook.pk}/recover_skipped/"
    found = api.post(address, {"hours": 1, "dry_run": True}, format="json").json()
    assert (found["count"], found["unreadable"], found["is_complete"]) == (2, 1, True)
    begun = api.post(address, {"hours": 1, "rule": "condition"}, format="json")
    assert (begun.status_code, begun.json()["kind"]) == (201, "recover_skipped")
    assert begun.json()["filters"]["rule"] == "condition"


@pytest.mark.parametrize(("given", "rule", "status"), [("resend", "condition", 403), ("replay", "no such", 400)])
def test_the_rest_api_refuses_it(webhook: Webhook, given: str, rule: str, status: int) -> None:
    permission = {"resend": "resend_delivery", "replay": "replay_event"}[given]
    client = api_client(make_user("add_run", permission, "view_webhook"))
    address = f"/api/webhooks/webhooks/{webhook.pk}/recover_skipped/"
    assert client.post(address, {"hours": 1, "rule": rule}, format="json").status_code == status


def test_the_admin_counts_first_and_begins_it(webhook: Webhook, admin_client: Client) -> None:
    Thing.objects.get(name="a").delete()
    mend(webhook)
    own = reverse("admin:rq_webhooks_webhook_change", args=[webhook.pk])
    address = reverse("admin:rq_webhooks_webhook_recover_skipped", args=[webhook.pk])
    assert f'href="{address}"' in page(admin_client, own)
    skips = reverse("admin:rq_webhooks_skip_changelist")
    assert f"{address}?hours=168&amp;rule=condition" in page(
        admin_client, f"{skips}?webhook={webhook.pk}&rule=condition"
    )
    assert address not in page(admin_client, skips)
    shown = page(admin_client, f"{address}?hours=24")
    assert "At most 2 would be sent" in shown
    assert "1 more object cannot be read" in shown
    since = (timezone.localtime() - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S")
    admin_client.post(address, {"since": since, "nonce": "1", "rule": "condition"})
    run = finished(Run.objects.get())
    assert (run.kind, run.done, run.filters["rule"]) == ("recover_skipped", 1, "condition")
    shown = page(admin_client, reverse("admin:rq_webhooks_run_change", args=[run.pk]))
    assert "recovery of skipped changes of CMDB" in shown
    assert f'href="{skips}?' in shown, "what matches now"


def test_it_needs_the_permission_to_replay(webhook: Webhook) -> None:
    address = reverse("admin:rq_webhooks_webhook_recover_skipped", args=[webhook.pk])
    assert staff("view_webhook", "resend_delivery", "add_run").get(address).status_code == 403
    assert staff("view_webhook", "replay_event", "add_run").get(address).status_code == 200


def test_an_event_of_a_recovery_has_the_user_of_the_change(webhook: Webhook) -> None:
    mend(webhook)
    Skip.objects.update(username="jstretch", request_id="r1")
    recover(webhook)
    found = Event.objects.all()  # those of skips of one millisecond have no order
    assert {json.loads(event.data)["name"] for event in found} == {"a", "ab"}
    for event in found:
        assert (event.username, event.request_id, event.webhook_ids) == ("jstretch", "r1", [webhook.pk])
