"""The list of runs in the admin."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from html import unescape
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from tests.support.makers import make_delivery, make_event, make_webhook
from tests.testapp.models import Label, Thing
from users.models import User
from webhooks.delivery.runs import kinds as run_kinds
from webhooks.ground.db import to_utc
from webhooks.models import Delivery, Event, Run, RunState, State, Webhook
from webhooks.operations import runs
from webhooks.pages import run_start
from webhooks.pages.forms import runs as run_forms

pytestmark = [pytest.mark.one_database, pytest.mark.django_db]

RUNS = reverse("admin:rq_webhooks_run_changelist")


def make_run(name: str = "CMDB sync") -> Run:
    webhook = make_webhook(Thing, name=name)
    make_delivery(webhook, State.FAILED)
    return runs.start("retry", {"webhook": webhook.pk, "state": ["failed", "discarded"]})


def page_of(run: Run) -> str:
    return reverse("admin:rq_webhooks_run_change", args=[run.pk])


def act(client: Client, action: str, *chosen: Run) -> str:
    body = {"action": action, "_selected_action": [run.pk for run in chosen]}
    return client.post(RUNS, body, follow=True).content.decode()


def test_the_list_and_the_page_show_what_a_run_does_and_how_far_it_is(admin_client: Client) -> None:
    run = make_run()
    Run.objects.filter(pk=run.pk).update(total=1200, done=300, failed=3, problem="Amsterdam: the object is gone")
    listed, page = (admin_client.get(address).content.decode() for address in (RUNS, page_of(run)))
    for text in (
        f"Run {run.pk}: retry of deliveries of CMDB sync",
        "303 of 1,200 (25\N{NO-BREAK SPACE}%)",
        'value="25"',
    ):
        assert text in listed
        assert text in page
    filters = Run.objects.get(pk=run.pk).filters | {"error_kind": "http_401"}
    Run.objects.filter(pk=run.pk).update(filters=filters)
    assert "error: HTTP 401 Unauthorized" in admin_client.get(page_of(run)).content.decode()
    for text in ("state: failed, discarded", "Amsterdam: the object is gone", "<dd>300</dd>", "<dd>3</dd>"):
        assert text in page


@pytest.mark.cost
def test_the_list_takes_as_many_queries_for_many_runs_as_for_one(admin_client: Client) -> None:
    def statements() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert admin_client.get(RUNS).status_code == 200
        return len(captured)

    make_run("DNS updater")
    one = statements()
    for number in range(5):
        make_run(f"webhook {number}")
    assert statements() == one


@pytest.mark.usefixtures("in_utc")
def test_the_page_shows_times_in_words_and_no_percentage_of_nothing(admin_client: Client) -> None:
    run = make_run()
    times = {"created_after": "2026-11-26T03:11:40.345367+01:00", "created_before": "2026-11-26T06:00:00+00:00"}
    Run.objects.filter(pk=run.pk).update(filters=times, total=0)
    page = admin_client.get(page_of(run)).content.decode()
    assert "since 2026-11-26 02:11:40 UTC, before 2026-11-26 06:00:00 UTC" in page
    assert "0 of 0<" in page


def test_only_the_progress_of_an_open_run_asks_for_itself_again(admin_client: Client) -> None:
    run = make_run()
    address = reverse("admin:rq_webhooks_run_progress", args=[run.pk])
    assert f'hx-get="{address}"' in admin_client.get(page_of(run)).content.decode()
    Run.objects.update(state=RunState.DONE, total=1, done=1)
    part = admin_client.get(address).content.decode()
    assert "hx-get" not in part
    assert "<html" not in part
    assert "1 of 1 (100" in part


def test_the_page_of_a_run_says_what_becomes_of_it_until_it_has_ended(admin_client: Client) -> None:
    run = make_run()
    address = reverse("admin:rq_webhooks_run_progress", args=[run.pk])
    said = {}
    for state in (RunState.RUNNING, RunState.PAUSED, RunState.DONE):
        Run.objects.update(state=state)
        part = admin_client.get(address).content.decode()
        said[state] = (
            "You can leave this page" in part,
            "until you resume it" in part,
            f'href="{page_of(run)}"' in part,
        )
    assert said == {
        RunState.RUNNING: (True, False, True),
        RunState.PAUSED: (False, True, True),
        RunState.DONE: (False, False, False),
    }


def test_runs_are_paused_resumed_and_cancelled(admin_client: Client) -> None:
    run = make_run()
    for action, text, state in (
        ("pause_chosen", "1 run paused.", RunState.PAUSED),
        ("pause_chosen", "Skipped 1: only running ones can be paused.", RunState.PAUSED),
        ("resume_chosen", "1 run resumed.", RunState.RUNNING),
        ("cancel_chosen", "1 run cancelled.", RunState.CANCELLED),
        ("cancel_chosen", "Skipped 1: they have ended.", RunState.CANCELLED),
    ):
        assert text in act(admin_client, action, run)
        assert Run.objects.get().state == state
    shown = [entry.change_message for entry in LogEntry.objects.order_by("pk")]
    assert shown == [f"{done} run {run.pk}." for done in ("Paused", "Resumed", "Cancelled")]


def test_a_run_of_a_kind_of_another_release_is_shown_and_can_be_cancelled(admin_client: Client) -> None:
    other, known = Run.objects.create(kind="shuffle", filters={"state": ["failed"]}, total=9), make_run()
    answers = [admin_client.get(address) for address in (RUNS, page_of(other))]
    assert [answer.status_code for answer in answers] == [200, 200]
    listed, page = (answer.content.decode() for answer in answers)
    assert f"Run {known.pk}: retry of deliveries of CMDB sync" in listed
    for shown in (listed, page):
        assert f"Run {other.pk}: shuffle" in shown
    assert "waits for a worker of the release that began it" in page
    assert "1 run cancelled." in act(admin_client, "cancel_chosen", other)


def test_a_user_who_may_only_view_runs_cannot_steer_them(client: Client) -> None:
    run, user = make_run(), User.objects.create_user("bob", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_run"))
    client.force_login(user)
    page: Any = client.get(RUNS).content.decode()
    assert "retry of deliveries" in page
    assert "pause_chosen" not in page
    act(client, "pause_chosen", run)
    assert Run.objects.get().state == RunState.RUNNING


DELIVERIES, EVENTS = reverse("admin:rq_webhooks_delivery_changelist"), reverse("admin:rq_webhooks_event_changelist")


def choose_all(client: Client, address: str, action: str) -> tuple[str, str]:
    """Choose an action for all rows that match. Returns the address and the content of the page that asks."""
    answer: Any = client.post(address, {"action": action, "select_across": "1", "_selected_action": ["1"]}, follow=True)
    assert answer.status_code == 200
    return answer.redirect_chain[-1][0], answer.content.decode()


def test_an_action_on_a_whole_list_shows_what_it_will_do_and_begins_a_run(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "AT_ONCE", 2)
    webhook = make_webhook(Thing)
    for number in range(3):
        make_delivery(webhook, State.FAILED, event=make_event(webhook, object_repr=f"Thing {number}", dispatched=True))
    address, asked = choose_all(
        admin_client, f"{DELIVERIES}?state=failed&webhook={webhook.pk}&within=hour&q=Thing", "resend_chosen"
    )
    assert f'<h1 id="wh-question">Resend 3 deliveries of {webhook}?</h1>' in asked
    assert f"<li>Thing 0 updated → {webhook}</li>" in asked
    assert not Run.objects.exists()
    page = admin_client.post(address, follow=True)
    run = Run.objects.get()
    assert f"Run {run.pk} has begun: resend of deliveries of {webhook}." in page.content.decode()
    assert page.redirect_chain[-1][0] == page_of(run)
    after = run.filters.pop("created_after")
    assert run.filters == {"state": ["failed"], "webhook": webhook.pk, "name": "Thing"}
    assert datetime.fromisoformat(after) > datetime.now(UTC) - timedelta(hours=2)
    assert run.requested_by == "admin@example.com"


def test_the_button_of_a_page_begins_one_run_and_an_open_run_is_not_begun_twice(admin_client: Client) -> None:
    make_event(make_webhook(Thing), dispatched=True)
    address = f"{reverse('admin:rq_webhooks_run_add')}?kind=replay&object_type=testapp.thing"

    def press(nonce: str) -> str:
        page = admin_client.post(address, {"nonce": nonce}, follow=True)
        assert page.redirect_chain[-1][0] == page_of(Run.objects.earliest("pk"))
        return page.text

    [nonce] = re.findall(r'name="nonce" value="(\w+)"', admin_client.get(address).text)
    assert "has begun: replay of events" in press(nonce)
    run = Run.objects.get()
    assert f"This request has begun run {run.pk} already." in press(nonce)
    [other] = re.findall(r'name="nonce" value="(\w+)"', admin_client.get(address).text)
    assert f"Run {run.pk} does the same and has not ended yet." in press(other)
    Run.objects.update(state=RunState.DONE)
    assert f"This request has begun run {run.pk} already." in press(nonce)
    assert Run.objects.count() == 1
    admin_client.post(address, {"nonce": other})
    assert Run.objects.count() == 2


def test_a_replay_of_each_event_of_an_object_is_a_link_away(admin_client: Client) -> None:
    webhook = make_webhook(Thing)
    for _ in range(3):
        make_event(webhook, dispatched=True)
    address = f"{reverse('admin:rq_webhooks_run_add')}?kind=replay&object_type=testapp.thing"
    asked = admin_client.get(address).text
    assert '<h1 id="wh-question">Replay 1 event?</h1>' in asked
    assert "It leaves out 2 earlier events of the same objects" in asked
    [each] = re.findall(r'<a href="([^"]+)">Replay each of them</a>', asked)
    each = reverse("admin:rq_webhooks_run_add") + unescape(each)
    assert '<h1 id="wh-question">Replay 3 events?</h1>' in admin_client.get(each).text
    page = admin_client.post(each, follow=True).text
    assert "each event of an object" in page
    assert Run.objects.get().filters == {"object_type": "testapp.thing", "each": True}


def test_superseded_deliveries_are_a_link_away(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "AT_ONCE", 0)
    webhook = make_webhook(Thing)
    make_delivery(webhook, State.FAILED)
    make_delivery(webhook, State.FAILED, object_id="2")
    make_delivery(webhook, State.SUCCEEDED)
    asked = admin_client.get(f"{reverse('admin:rq_webhooks_run_add')}?kind=retry&webhook={webhook.pk}").text
    assert f'<h1 id="wh-question">Retry 1 delivery of {webhook}?</h1>' in asked
    assert "It leaves out 1 superseded delivery" in asked
    [url] = re.findall(r'<a href="([^"]+)">Send them, too</a>', asked)
    address = reverse("admin:rq_webhooks_run_add") + unescape(url)
    assert f'<h1 id="wh-question">Retry 2 deliveries of {webhook}?</h1>' in admin_client.get(address).text
    admin_client.post(address)
    assert Run.objects.get().filters == {"webhook": webhook.pk, "superseded": True}


@pytest.mark.parametrize("act", ["recover", "retry"])
def test_the_page_before_a_run_says_once_what_waits(admin_client: Client, act: str) -> None:
    webhook = make_webhook(Thing, paused_at=timezone.now())
    held = "1 delivery waits, because the webhook is paused. Resume the webhook: this sends it."
    address = f"{reverse('admin:rq_webhooks_run_add')}?kind=retry&webhook={webhook.pk}"
    if act == "recover":
        address = f"{reverse('admin:rq_webhooks_webhook_recover', args=[webhook.pk])}?hours=6"
    make_delivery(webhook, State.PENDING)
    nothing = admin_client.get(address).text
    assert nothing.count(held) == 1
    assert "Nothing matches" in nothing or "Nothing to send" in nothing
    make_delivery(webhook, State.FAILED, object_id="2")
    asked = admin_client.get(address).text
    assert 'id="wh-begin"' in asked
    assert asked.count(held) == 1


def test_few_rows_are_changed_without_a_run_and_without_a_second_preview(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_delivery(make_webhook(Thing), State.FAILED, object_id="0")
    address, asked = choose_all(admin_client, f"{DELIVERIES}?q=testapp.thing:0", "discard_chosen")
    assert f'<h1 id="wh-question">Discard 1 delivery of {made.webhook}?</h1>' in asked
    monkeypatch.setattr(runs, "preview", None)
    assert "1 delivery discarded." in admin_client.post(address, follow=True).content.decode()
    assert not Run.objects.exists()
    assert Delivery.objects.get().state == State.DISCARDED


def test_a_run_needs_the_permission_to_begin_runs(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "AT_ONCE", 2)
    webhook, user = make_webhook(Thing), User.objects.create_user("bob", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=("view_delivery", "retry_delivery", "view_thing")))
    client.force_login(user)
    for number in range(3):
        make_delivery(webhook, State.FAILED, object_id=str(number))
    address, asked = choose_all(client, f"{DELIVERIES}?state=failed", "retry_chosen")
    assert "You need permission to begin runs (rq_webhooks.add_run)." in asked
    assert client.post(address).status_code == 403
    assert client.get(address.replace("retry", "discard")).status_code == 403
    with monkeypatch.context() as slow:
        slow.setattr(run_kinds, "LOOK_AT", 1)
        slow.setattr(run_start, "COUNT_SECONDS", 0)
        assert "Not all are counted yet" in client.get(address).content.decode()
        assert client.post(address).status_code == 403
        assert client.post(f"{reverse('admin:rq_webhooks_run_add')}?kind=retry").status_code == 403, "all need a run"
    assert not Run.objects.exists()


@pytest.mark.parametrize("query", ["", "kind=nonsense", "kind=recover", "kind=retry&webhook=x"])
def test_an_unknown_run_is_not_found(admin_client: Client, query: str) -> None:
    assert admin_client.get(f"{reverse('admin:rq_webhooks_run_add')}?{query}").status_code == 404


def test_a_run_is_not_begun_without_a_filter_that_is_misspelt(admin_client: Client) -> None:
    address = f"{reverse('admin:rq_webhooks_run_add')}?kind=retry&sate=failed"
    assert {admin_client.get(address).status_code, admin_client.post(address).status_code} == {400}


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("kind=retry&webhook=4711", "There is no webhook 4711."),
        ("kind=resend&state=pending", "takes only these states: succeeded, failed, discarded."),
        ("kind=retry&state=succeeded", "takes only these states: failed, discarded, pending."),
    ],
)
def test_a_run_that_can_take_nothing_leads_back_to_the_list(admin_client: Client, query: str, reason: str) -> None:
    page = admin_client.get(f"{reverse('admin:rq_webhooks_run_add')}?{query}", follow=True)
    assert page.redirect_chain == [(DELIVERIES, 302)]
    assert reason in page.content.decode()


def test_the_list_of_replayed_events_does_not_offer_to_replay_them_again(admin_client: Client) -> None:
    make_event(make_webhook(Thing), error="KeyError", object_repr="Lisbon", replayed_at=timezone.now())
    for query, is_offered in (("", True), ("?state=replayed", False)):
        listed = admin_client.get(EVENTS + query).content.decode()
        assert "Lisbon" in listed
        assert ("replay_chosen" in listed, "action-select" in listed) == (is_offered, is_offered)


@pytest.mark.parametrize(("kind", "address"), [("retry", DELIVERIES), ("replay", EVENTS)])
def test_the_page_of_a_run_leads_to_what_matches_now(admin_client: Client, kind: str, address: str) -> None:
    event = make_event(make_webhook(Thing), object_repr="Lisbon & Porto", username="ann")
    Event.objects.update(webhook_ids=[Webhook.objects.get().pk])
    run = runs.start(kind, {"webhook": Webhook.objects.get().pk, "name": "Lisbon & P", "user": "ann"})
    found = re.search(r'<a href="([^"]+)">What matches now</a>', admin_client.get(page_of(run)).content.decode())
    assert found
    assert unescape(found[1]).startswith(address)
    listed: Any = admin_client.get(unescape(found[1]))
    assert listed.status_code == 200
    if kind == "replay":
        assert list(listed.context["cl"].result_list) == [event]


def test_the_page_of_a_backfill_leads_to_no_list_because_no_filter_finds_what_a_webhook_did_not_get(
    admin_client: Client,
) -> None:
    run = runs.start("backfill", runs.since_filters(make_webhook(Thing), datetime.now(UTC)))
    shown = admin_client.get(page_of(run)).content.decode()
    assert "backfill of events" in shown
    assert "What matches now" not in shown


def test_a_webhook_is_recovered_on_its_page(admin_client: Client, client: Client) -> None:
    webhook = make_webhook(Thing)
    make_delivery(webhook, State.FAILED)
    url = reverse("admin:rq_webhooks_webhook_recover", args=[webhook.pk])
    assert url in admin_client.get(reverse("admin:rq_webhooks_webhook_change", args=[webhook.pk])).content.decode()
    shown = admin_client.get(url, {"hours": "6"}).content.decode()
    assert "1 would be sent" in shown
    assert not Run.objects.exists(), "a dry run begins nothing"
    since = re.search(r'name="since" value="([^"]+)"', shown)
    assert since
    page = admin_client.post(url, {"since": since[1]}, follow=True).content.decode()
    assert f"has begun: recovery of deliveries and events of {webhook}." in page
    run = Run.objects.get()
    assert (run.kind, run.filters["webhook"]) == ("recover", webhook.pk)
    assert datetime.fromisoformat(run.filters["created_after"]) > datetime.now(UTC) - timedelta(hours=7)
    for invalid in ({"hours": "5"}, {"since": "2999-01-01T00:00:00"}, {"since": "9999-12-31T23:59:59-12:00"}, {}):
        assert "errorlist" in admin_client.post(url, invalid).content.decode()
    assert Run.objects.count() == 1
    user = User.objects.create_user("bob", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=("view_webhook", "retry_delivery")))
    client.force_login(user)
    assert client.post(url, {"hours": "6"}).status_code == 403


@pytest.mark.parametrize("page", ["recover", "backfill"])
def test_a_time_in_the_hour_that_autumn_repeats_is_taken(
    page: str, admin_client: Client, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.TIME_ZONE = "Europe/Berlin"
    webhook = make_webhook(Thing)
    make_delivery(webhook, State.FAILED)
    url = reverse(f"admin:rq_webhooks_webhook_{page}", args=[webhook.pk])
    second_time = datetime(2025, 10, 26, 1, 30, tzinfo=UTC)  # 02:30 in Berlin, as it was an hour before
    with monkeypatch.context() as patch:
        now = second_time + timedelta(hours=1)
        patch.setattr(run_forms, "timezone", SimpleNamespace(now=lambda: now, get_current_timezone_name=str))
        context: Any = admin_client.get(url, {"hours": "1"}).context
    assert datetime.fromisoformat(context["posted"]) == second_time
    # What the page posts is that moment. A user who types the time means the first of both.
    for typed, meant in ((context["posted"], second_time), ("2025-10-26T02:30:00", second_time - timedelta(hours=1))):
        form = run_forms.SinceForm({"since": typed})
        assert form.is_valid(), form.errors
        assert to_utc(form.cleaned_data["since"]) == meant
        assert admin_client.get(url, {"since": typed}).context["since"].startswith("2025-10-26 02:30:00 CE")


def test_a_webhook_is_recovered_without_time_zones(admin_client: Client, settings: Any) -> None:
    webhook = make_webhook(Thing)
    make_delivery(webhook, State.FAILED)
    settings.USE_TZ = False
    url = reverse("admin:rq_webhooks_webhook_recover", args=[webhook.pk])
    since = re.search(r'name="since" value="([^"]+)"', admin_client.get(url, {"hours": "6"}).content.decode())
    assert since
    admin_client.post(url, {"since": since[1]})
    begun = datetime.fromisoformat(Run.objects.get().filters["created_after"])
    assert timedelta(hours=6) <= datetime.now(UTC) - begun < timedelta(hours=6, minutes=5)
    for since, is_refused in (("2026-01-01T00:00:00Z", False), ("2999-01-01T00:00:00Z", True)):
        assert ("This time is in the future." in admin_client.get(url, {"since": since}).content.decode()) == is_refused


def test_a_recovery_of_many_is_counted_on_request(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_kinds, "LOOK_AT", 1)
    monkeypatch.setattr(run_kinds, "QUICK_SECONDS", 0)
    monkeypatch.setattr(run_start, "COUNT_SECONDS", 0)
    webhook = make_webhook(Thing)
    for number in range(3):
        make_delivery(webhook, State.FAILED, object_id=str(number))
    url = reverse("admin:rq_webhooks_webhook_recover", args=[webhook.pk])
    shown = admin_client.get(url, {"hours": "6"}).content.decode()
    assert ">Up to 3 would be sent" in shown
    count_on = re.search(r'<a href="([^"]+)">Count on</a>', shown)
    assert count_on
    assert f'hx-get="{count_on[1]}"' in shown, "the page counts on by itself"
    counted = admin_client.get(url + unescape(count_on[1])).text
    assert ">3 would be sent" in counted
    assert "Send 3 now" in counted
    assert "hx-get" not in counted


@pytest.mark.parametrize(
    ("query", "question"),
    [
        ("kind=retry&state=failed", "Retry up to 4 deliveries?"),
        ("kind=retry&webhook={}", "Retry up to 5 deliveries of CMDB?"),
        ("kind=retry&state=failed&error_kind=http_401", "Retry up to 3 deliveries?"),
        ("kind=retry&state=failed&webhook={}", "Retry up to 4 deliveries of CMDB?"),
        ("kind=retry&error_kind=http_401", "Retry up to 3 deliveries?"),
        ("kind=retry&state=failed&object_type=testapp.thing", "Retry at least 1 delivery?"),
        ("kind=discard&state=failed", "Discard up to 4 deliveries?"),
        ("kind=resend&webhook={}", "Resend at least 1 delivery of CMDB?"),
        ("kind=replay&object_type=testapp.thing", "Replay at least 1 event?"),
    ],
)
def test_the_question_has_a_number_before_all_are_counted_and_then_the_true_one(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch, query: str, question: str
) -> None:
    monkeypatch.setattr(runs, "AT_ONCE", 0)
    monkeypatch.setattr(run_kinds, "LOOK_AT", 1)
    monkeypatch.setattr(run_kinds, "QUICK_SECONDS", 0)
    webhook = make_webhook(Thing, name="CMDB")
    for key, kind in (("1", "http_401"), ("2", "http_401"), ("3", "http_401"), ("2", "http_503")):
        make_delivery(webhook, State.FAILED, object_id=key, error_kind=kind)
    make_delivery(webhook, State.SUCCEEDED, object_id="2")  # two are superseded
    make_delivery(webhook, State.PENDING, object_id="4", due_at=timezone.now() + timedelta(hours=1))
    address = f"{reverse('admin:rq_webhooks_run_add')}?{query.format(webhook.pk)}"
    with monkeypatch.context() as hurried:
        hurried.setattr(run_start, "COUNT_SECONDS", 0)
        hurried.setattr(runs, "SHORTEST_QUERY_SECONDS", 60)  # there is time for one query, on a busy machine too
        asked = admin_client.get(address).text
    assert f'<h1 id="wh-question">{question}</h1>' in asked
    assert "superseded" not in asked, "these are not counted yet, either"
    [count_on] = re.findall(r'<a href="([^"]+)">Count on</a>', asked)
    assert f'hx-get="{count_on}"' in asked
    counted = admin_client.get(reverse("admin:rq_webhooks_run_add") + unescape(count_on)).text
    whole = admin_client.get(address).text
    assert re.findall("<h1.*", counted) == re.findall("<h1.*", whole)
    assert not re.search("at least|up to", re.findall("<h1.*", whole)[0])
    assert "hx-get" not in counted


@pytest.mark.cost
def test_the_page_of_a_recovery_takes_as_many_queries_whatever_the_number_of_rows_webhooks_and_models(
    admin_client: Client,
) -> None:
    counts, webhook = [], make_webhook(Thing, prechange=True)
    url = reverse("admin:rq_webhooks_webhook_recover", args=[webhook.pk])
    for number in (1, 2, 4):
        others = [make_webhook(model, name=f"{model.__name__} {number}") for model in (Thing, Label)]
        for key in range(20 * number):
            for one in (webhook, others[key % 2]):
                make_delivery(one, State.FAILED, object_id=f"{number}-{key}")
            make_event(webhook, object_id=f"{number}-{key}", error="KeyError", dispatched=True)
        admin_client.get(url, {"hours": "6"})
        with CaptureQueriesContext(connection) as captured:
            shown = admin_client.get(url, {"hours": "6"}).text
        counts.append(len(captured))
    assert ">280 would be sent" in shown, "as many deliveries as events"
    assert counts == [counts[0]] * 3


def test_the_events_of_a_search_are_replayed_by_a_run(admin_client: Client) -> None:
    for number in range(3):
        make_event(make_webhook(Thing), object_id=str(number), object_repr=f"Thing {number}", error="KeyError")
    address, asked = choose_all(admin_client, f"{EVENTS}?state=failed&q=thing", "replay_chosen")
    assert '<h1 id="wh-question">Replay 3 events?</h1>' in asked
    assert "has begun: replay of events." in admin_client.post(address, follow=True).content.decode()
    assert Run.objects.get().filters == {"failed": True, "name": "thing"}
