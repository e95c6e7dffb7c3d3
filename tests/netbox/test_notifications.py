"""Alarms are notifications of NetBox for the groups that the settings name."""

from __future__ import annotations

from typing import Any

import pytest
from django.core import checks
from django.test import Client
from extras.models import Notification, NotificationGroup

from users.models import Group, User
from webhooks import hooks
from webhooks.contrib.netbox import notifications
from webhooks.contrib.netbox.notifications import HOOK, Notifications, list_hook
from webhooks.hooks import NoticedProblem
from webhooks.insight import problems
from webhooks.models import Sweep, Webhook

pytestmark = pytest.mark.django_db

PAUSED = NoticedProblem("paused", "warning", "“CMDB” is paused.", "Repair the receiver.", 1, "2026-11-30T10:00:00Z")
NO_WORKER = NoticedProblem("no_worker", "error", "No worker is running.", "Start one.", None, "2026-11-30T10:00:00Z")
REDIS = NoticedProblem("redis", "warning", "Redis does not answer.", "Start it.", None, "2026-11-30T10:00:00Z")


@pytest.fixture
def webhook() -> Webhook:
    return Webhook.objects.create(pk=1, name="CMDB", payload_url="http://10.0.0.5/", on_updated=True)


@pytest.fixture
def noc(settings: Any) -> NotificationGroup:
    """A group of two users: one for herself, and one of a group of users."""
    settings.WEBHOOKS = {**settings.WEBHOOKS, "NOTIFY_GROUPS": ["NOC"]}
    noc = NotificationGroup.objects.create(name="NOC")
    operators = Group.objects.create(name="operators")
    noc.users.add(User.objects.create_user("ada"))
    noc.groups.add(operators)
    User.objects.create_user("ben").groups.add(operators)
    User.objects.create_user("eve")
    return noc


def shown(username: str = "ada") -> list[tuple[str, str]]:
    return [
        (one.event.kind, one.object_repr) for one in Notification.objects.filter(user__username=username).order_by("pk")
    ]


@pytest.mark.usefixtures("noc")
def test_an_alarm_of_a_webhook_notifies_each_member(webhook: Webhook) -> None:
    Notifications().problem_began(PAUSED)
    assert sorted(Notification.objects.values_list("user__username", flat=True)) == ["ada", "ben"]
    assert shown() == [("warning", "“CMDB” is paused.")]
    assert Notification.objects.first().object == webhook


@pytest.mark.usefixtures("noc", "webhook")
def test_the_end_takes_the_place_of_the_beginning_and_is_unread() -> None:
    Notifications().problem_began(PAUSED)
    begun = Notification.objects.filter(user__username="ada").get()
    Notification.objects.update(read=begun.created)
    Notifications().problem_ended(PAUSED)
    assert shown() == [("success", "Over: “CMDB” is paused.")]
    over = Notification.objects.filter(user__username="ada").get()
    assert over.read is None
    assert over.created > begun.created


@pytest.mark.usefixtures("noc")
def test_alarms_without_a_webhook_stay_apart() -> None:
    for problem in (NO_WORKER, REDIS):
        Notifications().problem_began(problem)
    Notifications().problem_ended(REDIS)
    assert shown() == [("danger", "No worker is running."), ("success", "Over: Redis does not answer.")]


@pytest.mark.usefixtures("noc")
def test_a_long_text_is_cut() -> None:
    Notifications().problem_began(NoticedProblem("redis", "error", "x" * 300, "", None, ""))
    assert shown() == [("danger", "x" * 199 + "…")]


@pytest.mark.usefixtures("noc", "webhook")
def test_netbox_shows_them(client: Client, settings: Any) -> None:
    settings.DEFAULT_PERMISSIONS = {"extras.view_notification": ({"user": "$user"},)}  # NetBox's default
    for problem in (PAUSED, NO_WORKER):
        Notifications().problem_began(problem)
    client.force_login(User.objects.get(username="ada"))
    for page in (
        client.get("/user/notifications/"),
        client.get("/extras/notifications/", headers={"hx-request": "true"}),
    ):
        assert page.status_code == 200
        assert "No worker is running." in page.text
        assert "Webhooks: error" in page.text
    [of_site] = Notification.objects.filter(user__username="ada", object_repr__startswith="No worker")
    assert client.get(f"/extras/notifications/{of_site.pk}/read/").url == "/user/notifications/"


@pytest.mark.usefixtures("noc")
def test_the_rest_api_lists_them(admin_client: Client) -> None:
    Notifications().problem_began(NO_WORKER)
    answer = admin_client.get("/api/extras/notifications/")
    assert answer.status_code == 200
    assert [one["display"] for one in answer.json()["results"]] == ["No worker is running."] * 2


def test_a_member_of_two_groups_gets_one(noc: NotificationGroup, settings: Any) -> None:
    settings.WEBHOOKS = {**settings.WEBHOOKS, "NOTIFY_GROUPS": ["NOC", "On call"]}
    NotificationGroup.objects.create(name="On call").users.add(*noc.users.all())
    Notifications().problem_began(NO_WORKER)
    assert shown() == [("danger", "No worker is running.")]


@pytest.mark.usefixtures("noc")
def test_an_alarm_that_a_worker_notices_arrives(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    Sweep.objects.update_or_create(pk=1, defaults={"swept_at": "2026-11-30T10:00:00Z", "looked_at": None})
    Webhook.objects.update(enabled=False, disabled_reason="failing")
    called: list[tuple[str, Any]] = []
    monkeypatch.setattr(
        hooks, "announce", lambda name, using, values, own=(): called.extend((name, one) for one in values())
    )
    problems.look()
    for name, problem in called:
        getattr(Notifications(), name)(problem)
    assert any("CMDB" in text for _, text in shown())


def test_only_alarms_are_hooks() -> None:
    assert hooks.load(HOOK).keys() == {"problem_began", "problem_ended"}


def test_the_hook_is_listed_only_for_groups(settings: Any) -> None:
    config: dict[str, Any] = {"HOOKS": ["project.hooks.Mine"]}
    list_hook(config)
    assert config["HOOKS"] == ["project.hooks.Mine"]
    settings.WEBHOOKS = {**settings.WEBHOOKS, "NOTIFY_GROUPS": ["NOC"]}
    list_hook(config)
    assert config["HOOKS"] == ["project.hooks.Mine", HOOK]


def test_a_group_that_does_not_exist_is_a_warning_of_the_check(noc: NotificationGroup, settings: Any) -> None:
    settings.WEBHOOKS = {**settings.WEBHOOKS, "NOTIFY_GROUPS": ["NOC", "Nobody"]}
    found = [one for one in checks.run_checks(include_deployment_checks=True, databases=["default"])
             if one.id == "webhooks.netbox.W001"]  # fmt: skip
    assert [one.msg for one in found] == ["NOTIFY_GROUPS names notification groups that do not exist: Nobody."]


def test_a_wrong_value_is_an_error_of_the_check(settings: Any) -> None:
    settings.WEBHOOKS = {**settings.WEBHOOKS, "NOTIFY_GROUPS": "NOC"}
    assert "webhooks.E007" in {one.id for one in checks.run_checks()}
    assert notifications.netbox_conf.notify_groups == ()


def test_a_missing_group_is_in_the_log(noc: NotificationGroup, settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    settings.WEBHOOKS = {**settings.WEBHOOKS, "NOTIFY_GROUPS": ["NOC", "Nobody"]}
    Notifications().problem_began(NO_WORKER)
    assert "NOTIFY_GROUPS names groups that NetBox does not have: Nobody" in caplog.text
    assert shown() == [("danger", "No worker is running.")]
