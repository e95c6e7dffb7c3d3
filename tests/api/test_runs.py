"""Runs in the REST API."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.urls import reverse
from rest_framework.test import APIClient

from tests.support.makers import make_attempt, make_delivery, make_event, make_webhook
from tests.support.rest import client_of
from tests.testapp.models import Thing
from users.models import User
from webhooks.ground.error_kinds import ErrorKind
from webhooks.models import Event, Run, RunState, State
from webhooks.operations import runs
from webhooks.operations.retries import DeliveryKind

API = "/api/webhooks"

pytestmark = [pytest.mark.one_database, pytest.mark.django_db]


@pytest.fixture(autouse=True)
def kept_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """These requests are no transactions, so a refusal would end the transaction of the test."""
    monkeypatch.setattr("rest_framework.views.set_rollback", lambda: None)


def failed_ones(count: int = 3) -> Any:
    webhook = make_webhook(Thing)
    for number in range(count):
        make_delivery(webhook, State.FAILED, object_id=str(number))
    return webhook


def test_a_run_is_begun_watched_paused_resumed_and_cancelled(api: APIClient) -> None:
    webhook = failed_ones()
    body = {"kind": "retry", "filters": {"webhook": webhook.pk, "state": ["failed"]}}
    answer = api.post(f"{API}/runs/", body, format="json")
    assert answer.status_code == 201
    run = answer.json()
    assert {name: run[name] for name in ("kind", "filters", "requested_by", "state", "total", "done", "percent")} == {
        "kind": "retry",
        "filters": {"webhook": webhook.pk, "state": ["failed"]},
        "requested_by": "admin@example.com",
        "state": "running",
        "total": None,
        "done": 0,
        "percent": None,
    }
    url = f"{API}/runs/{run['id']}"
    assert api.get(f"{url}/").json() == run
    assert api.get(f"{API}/runs/?state=running&kind=retry").json()["results"] == [run]
    assert api.get(f"{API}/runs/?state=done").json()["results"] == []
    assert api.post(f"{url}/resume/").status_code == 409
    assert api.post(f"{url}/pause/").json()["state"] == RunState.PAUSED
    assert api.post(f"{url}/resume/").json()["state"] == RunState.RUNNING
    assert api.post(f"{url}/cancel/").json()["state"] == RunState.CANCELLED
    assert api.post(f"{url}/cancel/").status_code == 409


def test_a_run_of_a_kind_of_another_release_is_listed_and_can_be_cancelled(api: APIClient) -> None:
    run = Run.objects.create(kind="shuffle")
    assert api.get(f"{API}/runs/").json()["results"] == [api.get(f"{API}/runs/{run.pk}/").json()]
    assert api.post(f"{API}/runs/{run.pk}/cancel/").json()["state"] == RunState.CANCELLED


def test_a_dry_run_counts_and_begins_nothing(api: APIClient) -> None:
    failed_ones()
    answer = api.post(f"{API}/runs/", {"kind": "discard", "all": True, "dry_run": True}, format="json")
    assert answer.status_code == 200
    assert {name: answer.json()[name] for name in ("count", "is_complete")} == {"count": 3, "is_complete": True}
    assert [one["name"].split(" →")[0] for one in answer.json()["sample"]] == [
        f"testapp.thing {number} updated" for number in range(3)
    ]
    assert not Run.objects.exists()


def test_a_refusal_names_the_choices(api: APIClient) -> None:
    body = {"kind": "explode", "filters": {"state": ["failed"]}}
    answer = api.post(f"{API}/runs/", body, format="json").json()
    assert answer == {"kind": ["“explode” is not one of these: retry, resend, discard, replay."]}
    answer = api.get(f"{API}/runs/?state=over").json()
    assert answer == {"state": ["“over” is not one of these: running, paused, done, cancelled, failed."]}


@pytest.mark.usefixtures("in_utc")
@pytest.mark.parametrize("time", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_a_recovery_begins_at_any_time(api: APIClient, time: str) -> None:
    webhook = failed_ones()
    answer = api.post(f"{API}/webhooks/{webhook.pk}/recover/", {"since": time, "dry_run": True}, format="json")
    assert answer.json()["count"] == (3 if time.startswith("0001") else 0)


@pytest.mark.sqlite
@pytest.mark.django_db(transaction=True)
def test_a_dry_run_holds_no_transaction(client: Client, admin_user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    webhook, is_atomic, look = failed_ones(), list[bool](), DeliveryKind.look
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)

    def observe(*args: Any) -> Any:
        is_atomic.append(connection.in_atomic_block)
        return look(*args)

    monkeypatch.setattr(DeliveryKind, "look", observe)
    client.force_login(admin_user)
    body = {"kind": "retry", "all": True, "dry_run": True}
    assert client.post(f"{API}/runs/", body, content_type="application/json").json()["count"] == 3
    url = f"{API}/webhooks/{webhook.pk}/recover/"
    assert client.post(url, {"hours": 1, "dry_run": True}, content_type="application/json").json()["count"] == 3
    url = reverse("admin:rq_webhooks_webhook_recover", args=[webhook.pk])
    assert "3 would be sent" in client.get(url, {"hours": "1"}).content.decode()
    assert is_atomic == [False] * 3


def every_object(user: Any, events: Any) -> Any:
    return events


def test_a_dry_run_names_no_row_that_the_user_may_not_view(webhooks_settings: Any) -> None:
    failed_ones(1)
    webhooks_settings(MAY_VIEW="tests.api.test_runs.every_object")
    body = {"kind": "retry", "all": True, "dry_run": True}
    [row] = client_of("add_run", "retry_delivery").post(f"{API}/runs/", body, format="json").json()["sample"]
    assert row["name"] == ""


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"kind": "retry"}, "filters"),
        ({"kind": "retry", "filters": {}}, "filters"),
        ({"kind": "retry", "filters": {"webhook": ""}}, "filters"),
        ({"kind": "retry", "filters": {"webhook": 1}, "all": True}, "all"),
        ({"kind": "explode", "filters": {}}, "kind"),
        ({"kind": "backfill", "filters": {}}, "kind"),
        ({"kind": "retry", "filters": {}, "dryrun": True}, "dryrun"),
        ({"kind": "retry", "filters": {"sate": "failed"}}, "filters"),
        ({"kind": "retry", "filters": {"state": ["unknown"]}}, "filters"),
        ({"kind": "retry", "filters": {"object_id": "1"}}, "filters"),
        ({"kind": "retry", "filters": {"created_after": "yesterday"}}, "filters"),
        ({"kind": "retry", "filters": {"webhook": 4711}}, "filters"),
        ({"kind": "retry", "filters": {"failed": True}}, "filters"),
        ({"kind": "retry", "filters": {"state": ["succeeded"]}}, "filters"),
        ({"kind": "retry", "filters": {"object_type": "testapp.thingy"}}, "filters"),
        ({"kind": "replay", "filters": {"state": ["failed"]}}, "filters"),
        ({"kind": "retry", "filters": [1]}, "filters"),
    ],
)
def test_an_invalid_run_is_refused(api: APIClient, body: Any, field: str) -> None:
    answer = api.post(f"{API}/runs/", body, format="json")
    assert answer.status_code == 400
    assert field in answer.json()
    assert not Run.objects.exists()


def test_an_event_is_replayed_with_the_data_of_today(api: APIClient) -> None:
    webhook = make_webhook(Thing)
    thing = Thing.objects.create(name="then")
    [event] = Event.objects.all()
    Thing.objects.filter(pk=thing.pk).update(name="now")
    url = f"{API}/events/{event.pk}/replay/"
    answer = api.post(url)
    assert answer.status_code == 201
    created = answer.json()
    assert (created["replay_of"], created["data"]["name"]) == (event.pk, "now")
    assert Event.objects.get(pk=created["id"]).webhook_ids == [webhook.pk]
    Thing.objects.all()._raw_delete("default")
    assert api.post(url).status_code == 409
    assert "the object is gone" in api.post(url).json()["detail"]
    assert api.post(url, {"force": True}, format="json").status_code == 400
    Event.objects.filter(pk=event.pk).update(action="ping")
    assert api.post(url).status_code == 409
    assert client_of("view_event").post(url).status_code == 403


@pytest.mark.parametrize(("error", "statuses"), [("", [201, 201]), ("KeyError", [201, 409])])
def test_each_request_replays_an_event_again_unless_it_failed(api: APIClient, error: str, statuses: list[int]) -> None:
    make_webhook(Thing)
    Thing.objects.create(name="a")
    Event.objects.update(error=error)
    url = f"{API}/events/{Event.objects.get().pk}/replay/"
    assert [api.post(url, HTTP_IDEMPOTENCY_KEY="1").status_code for _ in statuses] == statuses
    assert Event.objects.exclude(replay_of=None).count() == statuses.count(201)


def test_recover_and_backfill_begin_runs_of_one_webhook(api: APIClient) -> None:
    webhook = failed_ones()
    url = f"{API}/webhooks/{webhook.pk}"
    recovery = api.post(f"{url}/recover/", {"hours": 2}, format="json").json()
    assert (recovery["kind"], recovery["filters"]["webhook"]) == ("recover", webhook.pk)
    backfill = api.post(f"{url}/backfill/", {"since": "2026-01-01T00:00:00Z"}, format="json").json()
    assert backfill["kind"] == "backfill"
    assert backfill["filters"] == {"webhook": webhook.pk, "created_after": "2026-01-01T00:00:00+00:00"}
    assert api.post(f"{url}/recover/", {"hours": 2, "dry_run": True}, format="json").json() | {"sample": 0} == {
        "count": 3,
        "is_complete": True,
        "deliveries": 3,
        "events": 0,
        "left_out": 0,
        "superseded": 0,
        "unreadable": 0,
        "unjudged": 0,
        "note": "",
        "sample": 0,
    }
    for body in ({}, {"hours": 2, "since": "2026-01-01T00:00:00Z"}, {"hours": 0}):
        assert api.post(f"{url}/backfill/", body, format="json").status_code == 400
    for key in ("999", "abc", "9" * 40):
        for kind in ("recover", "backfill"):
            answer = api.post(f"{API}/webhooks/{key}/{kind}/", {"hours": 1}, format="json")
            assert (answer.status_code, answer["Content-Type"]) == (404, "application/json")


def test_a_recovery_requires_both_permissions() -> None:
    url, client = f"{API}/webhooks/{failed_ones().pk}/recover/", client_of("add_run", "view_webhook", "retry_delivery")
    refusal = client.post(url, {"hours": 1}, format="json")
    assert refusal.status_code == 403
    assert "rq_webhooks.replay_event" in refusal.json()["detail"]


@pytest.mark.parametrize(
    ("kind", "permission"),
    [
        ("retry", "retry_delivery"),
        ("resend", "resend_delivery"),
        ("discard", "discard_delivery"),
        ("replay", "replay_event"),
    ],
)
def test_a_run_requires_the_permission_for_its_act(kind: str, permission: str) -> None:
    client, body = client_of("add_run", "view_run"), {"kind": kind, "all": True}
    assert client.post(f"{API}/runs/", body, format="json").status_code == 403
    user = User.objects.get()
    user.user_permissions.add(Permission.objects.get(codename=permission))
    client.force_authenticate(User.objects.get())
    assert client.post(f"{API}/runs/", body, format="json").status_code == 201
    user.user_permissions.remove(Permission.objects.get(codename="add_run"))
    client.force_authenticate(User.objects.get())
    assert client.post(f"{API}/runs/", body, format="json").status_code == 403
    assert client.get(f"{API}/runs/").status_code == 200
    assert client.post(f"{API}/runs/{Run.objects.get().pk}/cancel/").status_code == 403


def test_an_idempotency_key_begins_one_run(api: APIClient) -> None:
    webhook, key = failed_ones(), {"HTTP_IDEMPOTENCY_KEY": "0b1c"}
    url, body = f"{API}/runs/", {"kind": "discard", "filters": {"webhook": webhook.pk}}
    first, again = (api.post(url, body, format="json", **key) for _ in range(2))
    assert (first.status_code, again.status_code, again.json()["id"]) == (201, 201, first.json()["id"])
    other = api.post(url, body | {"kind": "retry"}, format="json", **key)
    assert (other.status_code, Run.objects.count()) == (409, 1)
    assert "does something else" in other.json()["detail"]
    recover = f"{API}/webhooks/{webhook.pk}/recover/"
    recovered = [api.post(recover, {"hours": 2}, format="json", HTTP_IDEMPOTENCY_KEY="1") for _ in range(2)]
    assert [one.status_code for one in recovered] == [201, 201]
    Run.objects.update(state=RunState.DONE)
    assert api.post(url, body, format="json", **key).json()["id"] == first.json()["id"], "for ever"
    assert Run.objects.count() == 2
    assert api.post(url, body, format="json", HTTP_IDEMPOTENCY_KEY="x" * 256).status_code == 400
    assert api.post(url, body, format="json").status_code == 201


def test_a_key_of_another_user_begins_another_run() -> None:
    body: dict[str, Any] = {"kind": "retry", "all": True}
    for kind in ("retry", "resend"):
        client = client_of("add_run", f"{kind}_delivery", "view_delivery")
        assert (
            client.post(f"{API}/runs/", body | {"kind": kind}, format="json", HTTP_IDEMPOTENCY_KEY="1").status_code
            == 201
        )
    assert Run.objects.count() == 2


def test_a_replay_takes_each_event_of_an_object_on_demand(api: APIClient) -> None:
    webhook = make_webhook(Thing)
    for _ in range(3):
        make_event(webhook, dispatched=True)
    url, body = f"{API}/runs/", {"kind": "replay", "filters": {"webhook": webhook.pk}, "dry_run": True}
    for each, count, left_out in ((False, 1, 2), (True, 3, 0)):
        found = api.post(url, body | {"each": each}, format="json").json()
        assert (found["count"], found["left_out"]) == (count, left_out)
    assert api.post(url, {"kind": "replay", "all": True, "each": True}, format="json").status_code == 201
    refusal = api.post(url, {"kind": "retry", "all": True, "each": True}, format="json")
    assert refusal.json() == {"filters": {"each": ["A run of retry has no filter each."]}}


def test_an_identical_run_is_refused_until_the_first_one_has_ended(api: APIClient) -> None:
    webhook = failed_ones()
    url, body = f"{API}/runs/", {"kind": "replay", "filters": {"webhook": webhook.pk}}
    first = api.post(url, body, format="json").json()["id"]
    for state in (RunState.RUNNING, RunState.PAUSED):
        Run.objects.update(state=state)
        refusal = api.post(url, body, format="json")
        assert refusal.status_code == 409
        assert refusal.json()["detail"].startswith(f"Run {first} does the same and has not ended yet.")
    assert api.post(url, {"kind": "replay", "all": True}, format="json").status_code == 201
    assert api.post(f"{url}{first}/cancel/").status_code == 200
    assert api.post(url, body, format="json").status_code == 201


def test_a_bulk_retry_of_many_requires_the_permission_to_begin_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "AT_ONCE", 2)
    webhook = failed_ones()
    url, client = (
        f"{API}/deliveries/retry/?webhook={webhook.pk}",
        client_of("view_delivery", "retry_delivery", "view_thing"),
    )
    refusal = client.post(url)
    assert (refusal.status_code, Run.objects.count()) == (403, 0)
    assert refusal.json()["detail"] == (
        "More than 2 deliveries need a run. A run requires the permission rq_webhooks.add_run."
    )
    User.objects.get().user_permissions.add(Permission.objects.get(codename="add_run"))
    client.force_authenticate(User.objects.get())
    assert client.post(url, HTTP_IDEMPOTENCY_KEY="1").status_code == 202
    assert client.post(url, HTTP_IDEMPOTENCY_KEY="1").json()["run"] == Run.objects.get().pk
    assert client.post(url).status_code == 409


def test_deliveries_are_filtered_by_their_change_and_their_last_status(api: APIClient) -> None:
    webhook = make_webhook(Thing)
    event = make_event(webhook, object_id="1", username="ann", request_id="r1", action="created", dispatched=True)
    wanted = make_delivery(webhook, State.FAILED, event=event, attempt_count=1, error_kind=ErrorKind.HTTP_503)
    make_attempt(wanted, number=1, status=503)
    other = make_delivery(webhook, State.FAILED, object_id="2", attempt_count=2, error_kind=ErrorKind.HTTP_503)
    make_attempt(other, number=1, status=503)
    make_attempt(other, number=2, status=500)
    for parameters in ("user=ann", "request_id=r1", "action=created", "status=503"):
        found = api.get(f"{API}/deliveries/?{parameters}").json()["results"]
        assert [one["id"] for one in found] == [str(wanted.pk)], parameters
