"""Enabled webhooks that send nothing, although nothing fails: every report names them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from rest_framework.test import APIClient

from tests.support.admin_pages import STATUS, WEBHOOKS, page
from tests.support.draining import drain
from tests.support.inbox import Inbox
from tests.support.makers import make_webhook
from tests.support.users import make_user
from tests.testapp.models import Label, Thing, Unregistered
from users.models import User
from webhooks.ground import registry
from webhooks.insight import history
from webhooks.insight.alarms import Alarm, Level
from webhooks.insight.silence import is_surprising
from webhooks.insight.status import read_status
from webhooks.insight.why import Cause, why
from webhooks.insight.wording import clock_time
from webhooks.management import checks
from webhooks.models import Skip, Webhook
from webhooks.models.permissions import Operator
from webhooks.models.skip import Rule
from webhooks.operations.webhooks import ping

pytestmark = pytest.mark.usefixtures("database", "redis", "own_registrations")

TEXT = "“CMDB” sends nothing of testapp.thing: it is not registered, so its changes are not recorded."
REMEDY = (
    'Name it in the setting WEBHOOKS["MODELS"], or call webhooks.register() for it. Then restart the site and the '
    "workers. If it should not be sent, remove it from the webhook."
)


def alarms() -> dict[str, Alarm]:
    return {alarm.problem: alarm for alarm in read_status(Operator("a test")).alarms}


@pytest.fixture
def listed(webhooks_settings: Callable[..., None]) -> None:
    """No pattern of ``MODELS`` matches the models of the testapp."""
    webhooks_settings(MODELS=["dcim.*"])


@pytest.fixture
def webhook(inbox: Inbox, listed: None) -> Webhook:
    """A webhook that sent a thing, before the model was removed from ``MODELS``."""
    webhook = make_webhook(Thing, name="CMDB", url=inbox.url())
    Thing.objects.create(name="a")
    drain()
    registry.unregister(Thing)
    return webhook


def test_the_status_names_a_webhook_with_a_model_that_is_not_registered_any_more(webhook: Webhook) -> None:
    alarm = alarms()["not_registered"]
    assert (alarm.level, alarm.text, alarm.remedy, alarm.webhook_id) == (Level.ERROR, TEXT, REMEDY, webhook.pk)
    registry.register(Thing)
    assert "not_registered" not in alarms()


def test_the_command_exits_with_an_error(webhook: Webhook, capsys: Any) -> None:
    with pytest.raises(SystemExit) as end:
        call_command("webhooks_status", no_color=True)
    assert end.value.code == 2
    assert f"ERROR  {TEXT}\n    {REMEDY}" in capsys.readouterr().out


def test_the_pages_and_the_rest_api_name_it(webhook: Webhook, admin_client: Client, api: APIClient) -> None:
    own = reverse("admin:rq_webhooks_webhook_change", args=[webhook.pk])
    for address in (STATUS, own):
        assert TEXT in page(admin_client, address)
    assert "The receiver accepted the last request" not in page(admin_client, own)
    [alarm] = [one for one in api.get("/api/webhooks/status/").json()["alarms"] if one["problem"] == "not_registered"]
    assert (alarm["level"], alarm["text"], alarm["remedy"], alarm["webhook"]) == ("error", TEXT, REMEDY, webhook.pk)
    assert api.get(f"/api/webhooks/webhooks/{webhook.pk}/").json()["unregistered"] == ["testapp.thing"]


def test_the_list_of_webhooks_names_the_models_that_are_not_registered(webhook: Webhook, admin_client: Client) -> None:
    make_webhook(Label, name="labels")
    assert re.findall(r">(not registered: .*?)</span>", page(admin_client, WEBHOOKS)) == [
        "not registered: testapp.thing"
    ]
    assert TEXT in page(admin_client, WEBHOOKS)
    Webhook.objects.filter(pk=webhook.pk).update(enabled=False)
    assert "not registered" not in page(admin_client, WEBHOOKS)


def test_the_check_of_a_deployment_names_it(webhook: Webhook) -> None:
    [error] = [one for one in checks.check_stored(None, databases=["default"]) if one.id == "webhooks.E015"]
    assert (error.is_serious(), error.hint) == (True, REMEDY)
    assert (
        error.msg == "Webhook “CMDB” sends nothing of testapp.thing: not registered, so the changes are not recorded."
    )


def test_a_pattern_names_the_missing_serializer(webhook: Webhook, webhooks_settings: Callable[..., None]) -> None:
    webhooks_settings(MODELS=["testapp.*"])
    assert alarms()["not_registered"].remedy.startswith(
        "Define the serializer of testapp.thing, tests.testapp.api.serializers.ThingSerializer or "
        "tests.testapp.serializers.ThingSerializer, or name it in webhooks.register(…, serializer=…). Then restart"
    )


def test_why_sees_that_the_object_differs_from_its_last_event(webhook: Webhook) -> None:
    thing = Thing.objects.get()
    [verdict] = why(thing)
    assert (verdict.cause, verdict.changed, verdict.remedy) == (Cause.NOT_REGISTERED, (), REMEDY)
    assert verdict.earlier
    assert verdict.earlier.cause == Cause.SENT
    thing.name = "b"
    thing.save()
    [verdict] = why(thing)
    assert (verdict.cause, verdict.changed) == (Cause.NOT_REGISTERED, ("name",))
    assert verdict.text == (
        "The object differs from its last event in name. The model testapp.thing is not registered, so its changes are "
        "not recorded."
    )


def test_why_sees_the_difference_without_the_serializer(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.testapp.api import serializers

    monkeypatch.delattr(serializers, "ThingSerializer")
    thing = Thing.objects.get()
    assert why(thing)[0].changed == ()
    Thing.objects.update(name="b")
    assert why(Thing.objects.get())[0].changed == ("name",)


def test_why_about_a_webhook_begins_with_its_unregistered_models(webhook: Webhook) -> None:
    first, second = why(webhook=webhook)
    assert (first.cause, first.remedy, first.change) == (Cause.NOT_REGISTERED, REMEDY, None)
    assert second.cause == Cause.SENT


def test_a_disabled_webhook_and_one_without_the_model_are_no_problem(webhook: Webhook) -> None:
    make_webhook(Label, name="labels")
    assert alarms()["not_registered"].webhook_id == webhook.pk
    Webhook.objects.filter(pk=webhook.pk).update(enabled=False)
    assert "not_registered" not in alarms()


def test_one_lost_registration_of_many_webhooks_is_one_alarm(webhook: Webhook) -> None:
    for model in (Thing, Unregistered):
        registry.register(model, serializer="tests.testapp.api.serializers.ThingSerializer")
    make_webhook(Thing, Unregistered, name="DNS")
    for model in (Thing, Unregistered):
        registry.unregister(model)
    alarm = alarms()["not_registered"]
    assert alarm.text == "Nothing is sent of what is not registered, although 2 webhooks want it."
    assert [one.text.partition(":")[0] for one in alarm.consequences] == [
        "“CMDB” sends nothing of testapp.thing",
        "“DNS” sends nothing of testapp.thing, testapp.unregistered",
    ]


@pytest.fixture
def gone(database: str) -> Iterator[ContentType]:
    """The content type of a model that the site had. Content types outlive a test, so it deletes this one."""
    made = ContentType.objects.create(app_label="racks", model="rack")
    yield made
    made.delete()


def test_a_model_that_the_site_does_not_have_any_more(listed: None, gone: ContentType) -> None:
    webhook = make_webhook(name="CMDB")
    Webhook.object_types.through.objects.create(webhook=webhook, contenttype=gone)
    assert alarms()["not_registered"].remedy == (
        "This site has no model racks.rack. If it should not be sent, remove it from the webhook."
    )


def test_a_custom_event_that_is_not_registered_any_more(listed: None) -> None:
    registry.register_event("testapp.audited")
    make_webhook(on="", name="CMDB", custom_events=["testapp.audited"])
    assert "not_registered" not in alarms()
    registry.unregister_event("testapp.audited")
    alarm = alarms()["not_registered"]
    assert "“CMDB” sends nothing of testapp.audited" in alarm.text
    assert alarm.remedy.startswith("Call webhooks.register_event() for it. Then restart the site and the workers.")


@pytest.mark.parametrize("label", ["taggit.*", "nonsense.*", "dcim.sites"])
def test_a_label_in_models_that_registers_nothing_is_an_error(
    webhooks_settings: Callable[..., None], label: str
) -> None:
    webhooks_settings(MODELS=["dcim.*", label])
    alarm = alarms()["no_model"]
    assert (alarm.level, alarm.command) == (Level.ERROR, "python manage.py check")
    assert alarm.text.startswith(f'WEBHOOKS["MODELS"] lists “{label}”, which registers no model')


# Webhooks that skip everything

WRONG = {"attr": "name", "value": "nothing"}


@pytest.mark.parametrize(
    ("skipped", "sent", "skipped_before", "surprising"),
    [
        (2, 20, 0, False),
        (3, 20, 0, True),
        (3, 5, 0, True),
        (3, 1, 0, False),
        (6, 1, 0, True),
        (10, 10, 90, False),
        (40, 10, 90, True),
        (100, 1, 500, False),
        (30, 0, 0, False),
        (40, 0, 0, True),
    ],
)
def test_a_run_of_skips_is_judged_by_what_the_webhook_sent_before(
    skipped: int, sent: int, skipped_before: int, surprising: bool
) -> None:
    assert is_surprising(skipped, sent, skipped_before) == surprising


def change(count: int, name: str = "a") -> None:
    for number in range(count):
        Thing.objects.create(name=f"{name}{number}")


@pytest.fixture
def picky(inbox: Inbox) -> Webhook:
    """A webhook with a condition, which sent six things."""
    webhook = make_webhook(
        Thing, name="CMDB", url=inbox.url(), conditions={"attr": "name", "op": "regex", "value": "."}
    )
    change(6)
    drain()
    return webhook


def edit(webhook: Webhook, conditions: Any) -> User:
    """As the form in the admin does. Returns the user."""
    webhook.conditions = conditions
    webhook.save_settings(["conditions"])
    user = make_user("change_webhook")
    history.record(user, [webhook], history.CHANGE, [{"changed": {"fields": ["Conditions"]}}])
    return user


def test_a_webhook_that_skips_everything_since_an_edit_is_a_problem(picky: Webhook, admin_client: Client) -> None:
    user = edit(picky, WRONG)
    change(2, "b")
    assert "skips_all" not in alarms()
    change(3, "c")
    alarm = alarms()["skips_all"]
    begun = Skip.objects.earliest("pk").timestamp
    assert (alarm.level, alarm.webhook_id, alarm.since) == (Level.WARNING, picky.pk, begun)
    edited = clock_time(LogEntry.objects.get().action_time)
    assert alarm.text == (
        "“CMDB” has skipped each of the last 5 changes, by one rule: a condition. "
        f"The last edit before: {edited} {user}: Changed Conditions."
    )
    assert "“Recover skipped…” sends the objects as they are now" in alarm.remedy
    shown = page(admin_client, STATUS)
    assert reverse("admin:rq_webhooks_webhook_recover_skipped", args=[picky.pk]) in shown
    assert "has skipped each of the last 5 changes" in page(admin_client, reverse("admin:index"))
    assert "has skipped each of the last 5" in page(
        admin_client, reverse("admin:rq_webhooks_webhook_change", args=[picky.pk])
    )


def test_a_test_and_a_replay_do_not_end_the_problem_and_a_wanted_change_does(picky: Webhook) -> None:
    edit(picky, WRONG)
    change(5, "b")
    ping(picky)
    drain()
    change(1, "c")
    assert "skips_all" in alarms()
    edit(picky, None)
    assert "skips_all" not in alarms(), "it has no filter any more"
    edit(picky, {"attr": "name", "op": "regex", "value": "."})
    change(1, "d")
    drain()
    assert "skips_all" not in alarms()


def test_a_webhook_that_wants_few_changes_is_no_problem(inbox: Inbox) -> None:
    make_webhook(Thing, url=inbox.url(), conditions={"attr": "name", "value": "a0"})
    for _ in range(3):
        change(10)
    drain()
    change(10, "b")
    assert "skips_all" not in alarms()


def test_skips_by_several_rules_are_no_problem(picky: Webhook) -> None:
    edit(picky, WRONG)
    change(5, "b")
    Skip.objects.filter(pk=Skip.objects.earliest("pk").pk).update(rule=Rule.CHANGED_FIELDS)
    assert "skips_all" not in alarms()


def test_a_webhook_that_never_sent_anything_is_no_problem(listed: None) -> None:
    make_webhook(Thing, conditions=WRONG)
    change(50)
    assert "skips_all" not in alarms()
