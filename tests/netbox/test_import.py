"""``webhooks_import --from-this-netbox`` takes over NetBox's own event rules."""

from __future__ import annotations

import io
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from extras.models import EventRule, NotificationGroup, Tag

from core.models import ObjectChange
from tests.support.netbox import IS_OLDER
from tests.support.netbox_rules import make_original, make_rule
from webhooks.management.imports import DURABLY
from webhooks.models import Webhook
from webhooks.registry import label_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def rule() -> EventRule:
    original = make_original(
        secret="s3cret",
        additional_headers="X-Env: lab\nAuthorization: Token abc",
        body_template="{{ data.name }}",
        **({} if IS_OLDER else {"timeout": 30}),
        ssl_verification=False,
        http_method="PUT",
    )
    conditions = {"and": [{"attr": "status.value", "value": "active"}]}
    return make_rule(original, "dcim.site", "dcim.device", conditions=conditions, event_types=["object_updated"])


def run(*options: str) -> str:
    output = io.StringIO()
    call_command("webhooks_import", "--from-this-netbox", *(options or ["--noinput"]), stdout=output)
    return output.getvalue()


def test_a_rule_becomes_a_webhook_with_its_secret(rule: EventRule) -> None:
    assert "1 webhook new, 0 existing, 0 skipped." in run()
    webhook = Webhook.objects.get()
    assert (webhook.name, webhook.payload_url, webhook.http_method) == ("Sites", "http://10.0.0.5/hooks", "PUT")
    assert (webhook.secret.reveal(), webhook.secret_headers.reveal()) == ("s3cret", "Authorization: Token abc")
    assert (webhook.additional_headers, webhook.body_template) == ("X-Env: lab", "{{ data.name }}")
    assert (webhook.timeout, webhook.ssl_verification, webhook.prechange) == (None if IS_OLDER else 30, False, True)
    assert sorted(map(label_of, webhook.object_types.all())) == ["dcim.device", "dcim.site"]
    assert (webhook.on_created, webhook.on_updated, webhook.on_deleted) == (False, True, False)
    assert webhook.conditions == rule.conditions


def test_the_description_and_static_data_come_along(rule: EventRule) -> None:
    EventRule.objects.update(description="Mirror", action_data={"team": "noc"})
    text = run()
    webhook = Webhook.objects.get()
    assert (webhook.description, webhook.static_data) == ("Mirror", {"team": "noc"})
    assert "left out" not in text


@pytest.mark.skipif(IS_OLDER, reason="NetBox 4.6 has no event rules that deliver durably")
def test_a_rule_that_delivers_durably_becomes_a_webhook_too(rule: EventRule) -> None:
    EventRule.objects.update(action_type=DURABLY)
    assert "1 webhook new, 0 existing, 0 skipped." in run("--noinput", "--disable-originals")
    webhook = Webhook.objects.get(name="Sites")
    assert (webhook.enabled, webhook.payload_url, webhook.secret.reveal()) == (True, "http://10.0.0.5/hooks", "s3cret")
    assert not EventRule.objects.get().enabled


def test_tags_are_left_out_and_named(rule: EventRule) -> None:
    rule.tags.add(Tag.objects.create(name="prod", slug="prod"))
    assert "! left out: tags\n" in run("--dry-run")


def test_a_second_run_creates_nothing(rule: EventRule) -> None:
    run()
    assert "There is nothing to create." in run()
    assert Webhook.objects.count() == 1


def test_a_dry_run_changes_nothing(rule: EventRule) -> None:
    text = run("--dry-run", "--disable-originals")
    assert 'Originals to disable:\n  event rule "Sites" with webhook "CMDB"\n' in text
    assert not Webhook.objects.exists()
    rule.refresh_from_db()
    assert rule.enabled


def test_what_has_no_equal_is_named(rule: EventRule) -> None:
    group = NotificationGroup.objects.create(name="NOC")
    make_rule(group, name="Tell", action_type="notification")
    make_rule(rule.action_object, name="Jobs", event_types=["job_started"])
    make_original("Unused")
    text = run()
    assert 'event rule "Tell": its action is a notification: only webhooks have an equivalent here' in text
    assert 'event rule "Jobs": none of its event types has an equivalent here: job_started' in text
    assert 'webhook "Unused": no event rule uses it' in text


def test_originals_are_disabled_together_with_the_import(rule: EventRule) -> None:
    text = run("--noinput", "--disable-originals")
    assert "Created 1 webhook.\nDisabled 1 original.\n" in text
    rule.refresh_from_db()
    assert not rule.enabled
    [change] = ObjectChange.objects.filter(changed_object_type__model="eventrule")
    assert (change.user_name, change.message) == ("manage.py webhooks_import", "Imported as a webhook.")
    assert change.diff() == {"pre": {"enabled": True}, "post": {"enabled": False}}


def test_originals_can_be_disabled_later(rule: EventRule) -> None:
    run()
    text = run("--noinput", "--disable-originals")
    assert "Created 0 webhooks.\nDisabled 1 original.\n" in text
    rule.refresh_from_db()
    assert not rule.enabled


def test_a_second_run_says_that_the_originals_are_disabled_already(rule: EventRule) -> None:
    run("--noinput", "--disable-originals")
    text = run("--noinput", "--disable-originals")
    assert 'Originals that are disabled already:\n  event rule "Sites" with webhook "CMDB"\n' in text
    assert "stay" not in text
    assert text.endswith("There is nothing to create or to disable.\n")


@pytest.mark.parametrize(
    ("difference", "reason"),
    [
        ({"enabled": False}, "its webhook is disabled"),
        ({"payload_url": "http://10.0.0.9/"}, "its webhook differs in payload_url"),
        ({"conditions": None, "timeout": 9}, "its webhook differs in conditions, timeout"),
    ],
)
def test_an_original_stays_enabled_if_the_webhook_differs(
    rule: EventRule, difference: dict[str, Any], reason: str
) -> None:
    run()
    Webhook.objects.update(**difference)
    text = run("--noinput", "--disable-originals")
    assert f'Originals that stay enabled:\n  event rule "Sites" with webhook "CMDB": {reason}\n' in text
    rule.refresh_from_db()
    assert rule.enabled


def test_an_original_stays_enabled_if_it_also_sends_events_of_jobs(rule: EventRule) -> None:
    EventRule.objects.update(event_types=["object_updated", "job_completed"])
    text = run("--noinput", "--disable-originals")
    assert "! event types: job_completed" in text
    assert ": its webhook does not send all that it sends\n" in text.partition("Originals that stay enabled:")[2]
    rule.refresh_from_db()
    assert rule.enabled


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--from-this-netbox", "webhooks.json"], "Give at least one SOURCE or --from-this-netbox, not both."),
        ([], "Give at least one SOURCE or --from-this-netbox."),
        (["webhooks.json", "--disable-originals"], "--disable-originals is for originals on this site."),
        (["--from-this-netbox", "--disable-originals", "--disabled"], "nothing would be sent."),
    ],
)
def test_options_that_do_not_go_together(options: list[str], problem: str) -> None:
    with pytest.raises(CommandError, match=problem):
        call_command("webhooks_import", *options)
