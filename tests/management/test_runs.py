"""The commands that begin runs."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from tests.support.draining import drain, states
from tests.support.inbox import Inbox
from tests.support.makers import make_delivery, make_event, make_webhook
from tests.testapp.models import Thing
from webhooks.delivery.runs import kinds as run_kinds
from webhooks.management import base
from webhooks.models import Attempt, Event, Run, RunState, State, Webhook
from webhooks.models.ids import delivery_id

pytestmark = pytest.mark.usefixtures("database")


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def working(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker drains whenever the command waits."""
    monkeypatch.setattr(base, "wait", lambda seconds: drain())


def output(name: str, *arguments: str, stdout: Any = None) -> str:
    written = stdout or StringIO()
    call_command(name, *arguments, stdout=written, stderr=written)
    text: str = written.getvalue()
    return text


def test_a_resend_shows_its_progress_and_names_the_command(inbox: Inbox, working: None) -> None:
    webhook = make_webhook(Thing, url=inbox.url(), name="CMDB sync")
    for number in range(3):
        make_delivery(webhook, State.SUCCEEDED, object_id=str(number))
    text = output("webhooks_resend", "--webhook", "CMDB sync", "--since", "2h", stdout=Terminal())
    assert "0 of ? (running)" in text
    assert "[##############################] 3 of 3 (done)" in text
    assert text.endswith("Resent 3, 0 failed.\n")
    assert set(Attempt.objects.values_list("requested_by", flat=True)) == {"manage.py webhooks_resend"}
    assert states() == [State.SUCCEEDED] * 3


def test_a_retry_takes_the_filters_of_the_lists(inbox: Inbox, working: None) -> None:
    webhook, other = make_webhook(Thing, url=inbox.url()), make_webhook(Thing, url=inbox.url())
    event = make_event(webhook, object_id="7", username="ann", action="created", dispatched=True)
    make_delivery(webhook, State.FAILED, event=event, error_kind="http_503")
    make_delivery(webhook, State.FAILED, object_id="8")
    make_delivery(other, State.FAILED, object_id="9")
    chosen = (
        "--webhook", str(webhook.pk), "--object-type", "testapp.Thing", "--object-id", "7", "--user", "ann",
        "--state", "failed", "--error-kind", "http_503", "--action", "created", "--until", timezone.now().isoformat(),
    )  # fmt: skip
    assert output("webhooks_retry", *chosen).splitlines()[-1] == "Retried 1, 0 failed."
    assert sorted(states()) == [State.FAILED, State.FAILED, State.SUCCEEDED]


def test_a_recovery_counts_deliveries_and_failed_events(inbox: Inbox, working: None) -> None:
    webhook, thing = make_webhook(Thing, url=inbox.url(), name="CMDB sync"), Thing.objects.create(name="a")
    Event.objects.update(error="the serializer was broken", data="")
    for number in range(2):
        make_delivery(webhook, State.FAILED, object_id=f"{thing.pk}{number}")
    chosen = ("--webhook", "CMDB sync", "--since", "2h")
    lines = output("webhooks_recover", *chosen, "--dry-run").splitlines()
    assert lines[0] == "2 deliveries and 1 event. Nothing was changed: this was a dry run."
    assert output("webhooks_recover", *chosen).splitlines()[-1] == "Recovered 3, 0 failed."
    with pytest.raises(CommandError, match="required: --since"):
        output("webhooks_recover", "--webhook", "CMDB sync")


def test_a_recovery_since_a_time_finds_all_after_a_clock_was_set_back(working: None) -> None:
    webhook = make_webhook(Thing, name="CMDB sync")
    for minutes in (50, 30, 95, 70, 59, 10):
        moment = timezone.now() - timedelta(minutes=minutes)
        event = make_event(webhook, dispatched=True, timestamp=moment)
        make_delivery(webhook, State.FAILED, event=event, id=delivery_id(moment, event.pk, webhook.pk))
    shown = output("webhooks_recover", "--webhook", "CMDB sync", "--since", "1h", "--dry-run")
    assert shown.startswith("4 deliveries and 0 events.")


def test_a_recovery_of_a_paused_webhook_says_how_many_wait_and_resumes_it_on_demand(
    inbox: Inbox, working: None
) -> None:
    later = timezone.now() + timedelta(hours=1)
    webhook = make_webhook(Thing, url=inbox.url(), name="CMDB sync", probe_at=later, failures_in_a_row=9)
    for number in range(6):
        make_delivery(webhook, object_id=str(number), due_at=timezone.now())
    chosen = ("--webhook", "CMDB sync", "--since", "2h")
    held = "6 deliveries wait, because the webhook is paused. Resume the webhook: this sends them."
    assert output("webhooks_recover", *chosen, "--dry-run").splitlines() == [
        f"0 deliveries and 0 events. Nothing was changed: this was a dry run. {held}"
    ]
    make_webhook(Thing, name="other")
    assert not inbox.received()
    Webhook.objects.filter(pk=webhook.pk).update(paused_at=timezone.now(), probe_at=None)
    assert output("webhooks_recover", *chosen).splitlines()[-2:] == [
        "Recovered 0, 0 failed.",
        f"{held} Or repeat the command with --resume.",
    ]
    assert "Resumed the webhook CMDB sync." in output("webhooks_recover", *chosen, "--resume").splitlines()
    drain()
    assert len(inbox.received()) == 6
    with pytest.raises(CommandError, match="--resume: give --webhook as well"):
        output("webhooks_retry", "--state", "failed", "--resume")


def test_a_replay_takes_the_newest_event_of_each_object_or_each(inbox: Inbox, working: None) -> None:
    make_webhook(Thing, url=inbox.url())
    things = [Thing.objects.create(name=f"thing {number}") for number in range(2)]
    for number in range(6):
        Thing.objects.filter(pk=things[number % 2].pk).update(name=f"now {number}")
        things[number % 2].save(update_fields=["status"])
    Event.objects.update(error="the serializer was broken")
    assert output("webhooks_replay", "--failed", "--dry-run").splitlines()[0] == (
        "2 events. Nothing was changed: this was a dry run. "
        "It leaves out 6 earlier events of the same objects: their replays would have the same data."
    )
    assert output("webhooks_replay", "--failed", "--each", "--dry-run").startswith("8 events. ")
    assert output("webhooks_replay", "--failed").splitlines()[-1] == "Replayed 2, 0 failed."
    drain()
    assert len(inbox.received()) == 2
    assert not Event.objects.failed().exists(), "the earlier ones are done with the newest"
    assert (
        output("webhooks_replay", "--object-type", "testapp.thing", "--each").splitlines()[-1]
        == "Replayed 2, 0 failed."
    )
    with pytest.raises(CommandError, match="at least one filter"):
        output("webhooks_replay", "--each")


def test_a_backfill_sends_a_new_webhook_what_it_did_not_get(inbox: Inbox, working: None) -> None:
    make_webhook(Thing, url=inbox.url())
    Thing.objects.create(name="a")
    drain()
    make_webhook(Thing, url=inbox.url("ok/new"), name="new")
    chosen = ("--webhook", "new", "--since", "2h")
    assert output("webhooks_backfill", *chosen, "--dry-run").startswith("1 event. Nothing was changed")
    assert not inbox.received("ok/new")
    assert output("webhooks_backfill", *chosen).splitlines()[-1] == "Backfilled 1, 0 failed."
    assert len(inbox.received("ok/new")) == 1
    with pytest.raises(CommandError, match="required: --webhook, --since"):
        output("webhooks_backfill")


def test_a_dry_run_that_takes_too_long_says_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    webhook = make_webhook(Thing)
    for number in range(12):
        make_delivery(webhook, State.FAILED, object_id=str(number))
    monkeypatch.setattr(run_kinds, "LOOK_AT", 11)
    monkeypatch.setattr(base, "COUNT_SECONDS", 0)
    lines = output("webhooks_retry", "--all", "--dry-run").splitlines()
    assert lines[0].startswith("At least 11 deliveries: the count was stopped after 0 s.")
    assert lines[-1] == "  and at least 1 more"


def test_a_dry_run_shows_the_count_and_names_the_oldest_rows() -> None:
    webhook = make_webhook(Thing, name="CMDB sync")
    made = [str(make_delivery(webhook, State.FAILED, object_id=str(number)).pk) for number in range(12)]
    lines = output("webhooks_retry", "--all", "--dry-run").splitlines()
    assert lines[0] == "12 deliveries. Nothing was changed: this was a dry run."
    shown = [f"{pk}  testapp.thing {number} updated → CMDB sync" for number, pk in enumerate(made[:10])]
    assert [line.strip() for line in lines[1:]] == [*shown, "and 2 more"]
    assert not Run.objects.exists()


def test_a_dry_run_names_events_without_control_characters() -> None:
    event = make_event(make_webhook(Thing), error="the serializer was broken", object_repr="AMS1\x1b[2J", data="")
    shown = output("webhooks_replay", "--all", "--dry-run")
    assert f"{event.pk}  AMS1\\x1b[2J updated" in shown


def test_a_replay_that_fails_ends_with_an_error(inbox: Inbox, working: None) -> None:
    make_webhook(Thing, url=inbox.url())
    make_event(object_id="404", error="the serializer was broken", object_repr="gone", data="")
    with pytest.raises(CommandError, match=r"Run \d+ is done. gone: the object is gone"):
        output("webhooks_replay", "--all")


def test_an_error_has_no_control_characters(inbox: Inbox, working: None) -> None:
    make_webhook(Thing, url=inbox.url())
    make_event(object_id="404", error="the serializer was broken", object_repr="gone\x1b[2J\r\u202e", data="")
    with pytest.raises(CommandError, match=r"gone\\x1b\[2J\\r\\u202e: the object is gone"):
        output("webhooks_replay", "--all")


@pytest.mark.parametrize("since", ["0001-01-01", "99999d"])
def test_a_time_before_all_events_takes_all(since: str) -> None:
    make_delivery(make_webhook(Thing), State.FAILED)
    assert output("webhooks_retry", "--since", since, "--dry-run").startswith("1 delivery.")


def test_a_command_without_wait_leaves_the_run_to_workers() -> None:
    make_delivery(make_webhook(Thing), State.FAILED)
    assert output("webhooks_retry", "--all", "--no-wait") == f"Run {Run.objects.get().pk} has begun.\n"
    assert Run.objects.get().state == RunState.RUNNING


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "Give at least one filter, or --all"),
        (["--webhook", "unknown"], "There is no webhook “unknown”"),
        (["--webhook", ""], "There is no webhook “”"),
        (["--object-name", ""], "--object-name: An empty text is no filter"),
        (["--status", "2000"], "--status: Must be a number from 100 to 999"),
        (["--object-id", "7"], "--object-id: Give object_type as well"),
        (["--all", "--state", "failed"], "Give either filters or --all"),
        (["--object-type", "testapp.thingy"], "--object-type: No registered model and no stored event has the label"),
        (["--state", "succeeded"], "--state: A run of retry takes only these states"),
        (["--since", "yesterday"], "yesterday is no time"),
        (["--user", "\udcfc"], r"This is not UTF-8: '\\udcfc'"),
    ],
)
def test_a_command_without_a_sound_choice_is_refused(arguments: list[str], problem: str) -> None:
    with pytest.raises(CommandError, match=problem):
        output("webhooks_retry", "--no-wait", *arguments)
    assert not Run.objects.exists()
