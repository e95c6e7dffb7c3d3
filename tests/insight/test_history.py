"""The history names the object and the act, from each entry point."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.core.exceptions import ValidationError
from django.test import Client
from django.urls import reverse
from django.utils.translation import gettext_lazy
from rest_framework.test import APIClient

from dcim.models import Site
from tests.support.admin_pages import DELIVERIES, EVENTS, RETRY_ALL, STATUS, WEBHOOKS
from tests.support.inbox import ROOT
from tests.support.makers import make_site_delivery, make_site_event, make_webhook
from users.models import User
from webhooks.insight import history
from webhooks.models import Delivery, Event, Webhook
from webhooks.models.permissions import Operator, find_user
from webhooks.operations import kinds, retries
from webhooks.operations.webhooks import pause, set_enabled

pytestmark = [pytest.mark.usefixtures("redis"), pytest.mark.one_database]

UUID = re.compile("[0-9a-f]{8}-?[0-9a-f]{4}", re.IGNORECASE)
WEBHOOK, DELIVERY, EVENT = "CMDB sync", "Amsterdam AMS1 updated → CMDB sync", "Amsterdam AMS1 updated"

# The answers to the questions before a deletion, which Django asks, and before a discard.
CONFIRMED = {"post": "yes", "confirmed": "1"}


@pytest.fixture
def delivery(db: None) -> Delivery:
    webhook = make_webhook(Site, name=WEBHOOK)
    event = make_site_event(1, "Amsterdam AMS1", action="updated")
    return make_site_delivery(webhook, event=event)


def listed(client: Client, address: str, action: str, row: Any) -> Any:
    return client.post(address, {"action": action, "_selected_action": [str(row.pk)], **CONFIRMED})


def pressed(client: Client, row: Any, name: str) -> Any:
    return client.post(reverse(f"admin:rq_webhooks_{row._meta.model_name}_{name}", args=[row.pk]), CONFIRMED)


def entries() -> list[tuple[int, str, str]]:
    return [(one.action_flag, one.object_repr, one.get_change_message()) for one in LogEntry.objects.order_by("pk")]


@pytest.mark.parametrize(
    ("way", "flag", "name", "message"),
    [
        (lambda client, row: pressed(client, row, "retry"), CHANGE, DELIVERY, "Retried."),
        (lambda client, row: pressed(client, row, "discard"), CHANGE, DELIVERY, "Discarded."),
        (lambda client, row: listed(client, DELIVERIES, "retry_chosen", row), CHANGE, DELIVERY, "Retried."),
        (lambda client, row: listed(client, DELIVERIES, "discard_chosen", row), CHANGE, DELIVERY, "Discarded."),
        (lambda client, row: client.post(RETRY_ALL, {"next": STATUS}), CHANGE, DELIVERY, "Retried."),
        (lambda client, row: pressed(client, row.webhook, "ping"), CHANGE, WEBHOOK, "Sent a test."),
        (lambda client, row: pressed(client, row.webhook, "pause"), CHANGE, WEBHOOK, "Paused."),
        (lambda client, row: listed(client, WEBHOOKS, "pause", row.webhook), CHANGE, WEBHOOK, "Paused."),
        (lambda client, row: listed(client, WEBHOOKS, "disable", row.webhook), CHANGE, WEBHOOK, "Disabled."),
        (lambda client, row: listed(client, WEBHOOKS, "delete_selected", row.webhook), DELETION, WEBHOOK, ""),
        (lambda client, row: pressed(client, row.webhook, "delete"), DELETION, WEBHOOK, ""),
    ],
)  # fmt: skip
def test_an_act_in_the_admin(
    admin_client: Client, delivery: Delivery, way: Any, flag: int, name: str, message: str
) -> None:
    assert way(admin_client, delivery).status_code == 302
    assert entries() == [(flag, name, message)]


@pytest.mark.parametrize(
    ("method", "address", "flag", "name", "message"),
    [
        ("post", "deliveries/{delivery}/retry/", CHANGE, DELIVERY, "Retried."),
        ("post", "deliveries/{delivery}/discard/", CHANGE, DELIVERY, "Discarded."),
        ("post", "deliveries/retry/?webhook={webhook}", CHANGE, DELIVERY, "Retried."),
        ("post", "webhooks/{webhook}/ping/", CHANGE, WEBHOOK, "Sent a test."),
        ("post", "webhooks/{webhook}/pause/", CHANGE, WEBHOOK, "Paused."),
        ("delete", "webhooks/{webhook}/", DELETION, WEBHOOK, ""),
    ],
)
def test_an_act_by_the_api(
    api: APIClient, delivery: Delivery, method: str, address: str, flag: int, name: str, message: str
) -> None:
    path = address.format(delivery=delivery.pk, webhook=delivery.webhook_id)
    assert getattr(api, method)(f"/api/webhooks/{path}").status_code < 300
    assert entries() == [(flag, name, message)]


def test_a_replay_names_the_event(admin_client: Client, db: None) -> None:
    site = Site.objects.create(name="Amsterdam AMS1", slug="ams1")
    webhook = make_webhook(Site, name=WEBHOOK)
    failed = make_site_event(
        site.pk, site.name, action="updated", data="", error="KeyError", webhook_ids=[webhook.pk], dispatched=False
    )
    assert listed(admin_client, EVENTS, "replay_chosen", failed).status_code == 302
    assert entries() == [(CHANGE, EVENT, "Replayed.")]


def test_long_names_are_cut_and_leave_room_for_the_webhook(admin_user: User, db: None) -> None:
    webhook = make_webhook(Site, name="w" * 150)
    make_site_delivery(webhook, event=make_site_event(1, "o" * 200, action="updated"))
    kinds.DISCARD.perform(Delivery.objects.all(), admin_user)
    [(_, name, _)] = entries()
    assert name == f"{'o' * 79}… updated → {'w' * 79}…"


def test_an_event_without_an_object_has_the_name_of_its_kind() -> None:
    assert str(Event(action="dcim.rack_audited", object_id="dcim.rack_audited")) == "dcim.rack_audited"
    assert str(Event(action="deleted", object_type="dcim.site", object_id="7")) == "dcim.site 7 deleted"


def test_a_command_leaves_a_line_in_the_log(delivery: Delivery, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "webhooks")
    kinds.RETRY.perform(Delivery.objects.all(), Operator("webhooks_retry"))
    assert f"History: manage.py webhooks_retry changed delivery “{DELIVERY}”: Retried." in caplog.text
    assert not LogEntry.objects.exists()


def test_a_line_in_the_log_names_what_it_is_about(delivery: Delivery, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "webhooks")
    kinds.RETRY.perform(Delivery.objects.all(), Operator("webhooks_retry"))
    pause(Webhook.objects.all(), Operator("test"))
    history.record(Operator("test"), Event.objects.all(), DELETION)
    records = [vars(one) for one in caplog.records if one.message.startswith("History: ")]
    assert [(one["webhook"], one["delivery"], one["event"]) for one in records] == [
        ("", str(delivery.pk), None), (WEBHOOK, "", None), ("", "", delivery.event_id),
    ]  # fmt: skip
    assert records[-1]["message"] == f"History: manage.py test deleted event “{EVENT}”"


def test_no_entry_is_a_bare_id(admin_user: User, delivery: Delivery) -> None:
    kinds.RETRY.perform(Delivery.objects.all(), admin_user)
    kinds.DISCARD.perform(Delivery.objects.all(), admin_user)
    assert Webhook.objects.count() == 1
    assert not [entry for entry in entries() if UUID.search(f"{entry[1]} {entry[2]}")]


@pytest.mark.parametrize(("name", "stored"), [(7, "7"), (None, ""), (gettext_lazy("Yes"), "Yes")])
def test_a_user_whose_name_is_no_text_can_act(
    delivery: Delivery, monkeypatch: pytest.MonkeyPatch, name: Any, stored: str
) -> None:
    monkeypatch.setattr(User, "get_username", lambda user: name)
    user = User.objects.create_superuser("root")
    assert retries.name_of(user) == (stored or retries.PROGRAM)
    assert kinds.RETRY.perform(Delivery.objects.all(), user) == 1
    pause(Webhook.objects.all(), user)
    assert Webhook.objects.get().paused_by == stored
    set_enabled(Webhook.objects.all(), user, enabled=False)
    assert Webhook.objects.get().disabled_by == stored


@pytest.mark.parametrize("error", [ValueError, TypeError, ValidationError, User.DoesNotExist, AttributeError])
def test_a_name_that_no_user_can_have_finds_none(monkeypatch: pytest.MonkeyPatch, error: Any) -> None:
    """Where names are numbers or UUIDs, a text is no name."""

    def refuse(manager: Any, username: str) -> Any:
        raise error(username)

    monkeypatch.setattr(type(User.objects), "get_by_natural_key", refuse)
    assert find_user("a program") is None
    assert history.user_named("a program") == "a program"


# The callable of the project


taken: list[history.HistoryEntry] = []


def take(entry: history.HistoryEntry) -> None:
    taken.append(entry)


def fail(entry: history.HistoryEntry) -> None:
    Webhook.objects.create(name="by the callable")
    raise LookupError("no such thing")


@pytest.fixture
def callable_of_project(webhooks_settings: Any) -> None:
    taken.clear()
    webhooks_settings(HISTORY=f"{__name__}.take")


@pytest.mark.usefixtures("callable_of_project")
def test_the_callable_gets_what_the_admin_shows(admin_client: Client, admin_user: User, delivery: Delivery) -> None:
    listed(admin_client, WEBHOOKS, "pause", delivery.webhook)
    pressed(admin_client, delivery, "discard")
    pressed(admin_client, delivery.webhook, "delete")
    assert [(one.user, one.verb, one.name, one.message) for one in taken] == [
        (admin_user, "changed", WEBHOOK, "Paused."),
        (admin_user, "changed", DELIVERY, "Discarded."),
        (admin_user, "deleted", WEBHOOK, ""),
    ]
    assert [(one.model, one.pk) for one in taken][:2] == [(Webhook, delivery.webhook_id), (Delivery, delivery.pk)]
    assert len(entries()) == 3, "its pages still show it"


@pytest.mark.usefixtures("callable_of_project")
def test_the_callable_gets_the_edits_of_forms_and_of_the_api(api: APIClient, delivery: Delivery) -> None:
    address = f"/api/webhooks/webhooks/{delivery.webhook_id}/"
    assert api.patch(address, {"name": "CMDB", "ordered": False}, format="json").status_code == 200
    assert [(one.verb, one.name, one.message) for one in taken] == [("changed", "CMDB", "Changed Name and Ordered.")]


@pytest.mark.usefixtures("callable_of_project")
def test_the_callable_gets_the_acts_of_commands_and_no_line_is_logged(
    delivery: Delivery, caplog: pytest.LogCaptureFixture
) -> None:
    kinds.RETRY.perform(Delivery.objects.all(), Operator("webhooks_retry"))
    assert [(one.username, one.name, one.message) for one in taken] == [
        ("manage.py webhooks_retry", DELIVERY, "Retried.")
    ]
    assert "History:" not in caplog.text


def test_an_act_does_not_fail_with_the_callable_and_the_log_has_the_entry(
    admin_user: User, delivery: Delivery, webhooks_settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    webhooks_settings(HISTORY=f"{__name__}.fail")
    pause(Webhook.objects.all(), admin_user)
    assert Webhook.objects.get().paused_at, "what the callable wrote is rolled back, and nothing else"
    assert f'WEBHOOKS["HISTORY"]: {__name__}.fail failed' in caplog.text
    assert f"History: {admin_user.get_username()} changed webhook “{WEBHOOK}”: Paused." in caplog.text


LOGGING_OF_HOSTS: dict[str, Any] = {
    "the default of Django": {},
    "a handler of the root": {
        "version": 1,
        "handlers": {"console": {"class": "logging.StreamHandler"}},
        "root": {"handlers": ["console"], "level": "WARNING"},
    },
}


@pytest.mark.parametrize("logging", LOGGING_OF_HOSTS.values(), ids=LOGGING_OF_HOSTS)
def test_a_host_without_the_admin_finds_the_history_in_its_log(logging: dict[str, Any]) -> None:
    code = f"""
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django_rq", "webhooks"],
    DATABASES={{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}}},
    RQ_QUEUES={{"webhooks": {{"URL": "redis://127.0.0.1:1/0"}}}},
    WEBHOOKS={{"ENABLED": True}},
    LOGGING={logging!r},
    USE_TZ=True,
)
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from django.contrib.auth.models import User
from webhooks.models import Webhook
from webhooks.operations.webhooks import pause
Webhook.objects.create(name="CMDB", payload_url="http://127.0.0.1:1/", on_created=True)
pause(Webhook.objects.all(), User.objects.create_user("jane"))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "History: jane changed webhook “CMDB”: Paused." in ran.stderr
