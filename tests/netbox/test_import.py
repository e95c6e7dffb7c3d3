"""``webhooks_import --from-this-netbox`` takes over NetBox's own event rules."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from extras.models import ConfigContext, CustomField, EventRule, NotificationGroup, Tag

from core.models import ObjectChange, ObjectType
from dcim.models import Device
from ipam.models import FHRPGroup
from tests.support.netbox import IS_OLDER
from tests.support.netbox_rules import make_original, make_rule
from webhooks.capture.serialize import serialize
from webhooks.ground import registry
from webhooks.ground.registry import label_of, register, registration_of
from webhooks.management.imports import DURABLY
from webhooks.models import Webhook

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
    reason = ": its webhook does not send all that it sends: event types: job_completed\n"
    assert reason in text.partition("Originals that stay enabled:")[2]
    rule.refresh_from_db()
    assert rule.enabled


@pytest.fixture
def secrets(rule: EventRule) -> None:
    """Sensitive names in every place that NetBox's event rules send: columns, config contexts and custom fields."""
    ConfigContext.objects.create(name="SNMP", data={"snmp": [{"community_secret": "x"}], "ntp": "10.0.0.1"})
    field = CustomField.objects.create(name="api_key", type="text")
    field.object_types.set([ObjectType.objects.get_for_model(Device)])


def enabled_rules() -> list[str]:
    return list(EventRule.objects.filter(enabled=True).values_list("name", flat=True))


@pytest.mark.parametrize(
    ("label", "fields"),
    [
        ("ipam.fhrpgroup", "auth_key"),
        ("vpn.ikepolicy", "preshared_key"),
        ("wireless.wirelesslan", "auth_psk"),
        ("dcim.device", "config_context.snmp.community_secret, custom_fields.api_key"),
    ],
)
def test_an_original_stays_enabled_if_it_sends_fields_that_are_left_out(
    rule: EventRule, secrets: None, label: str, fields: str
) -> None:
    rule.delete()
    make_rule(make_original("All"), label, name="All")
    text = run("--noinput", "--disable-originals")
    assert enabled_rules() == ["All"]
    assert f"  ! left out of the data of {label}: {fields}\n" in text
    assert f": its webhook does not send all that it sends: left out of the data of {label}: {fields}\n" in text


@pytest.mark.parametrize(
    ("fields", "difference"),
    [
        ({"body_template": "{{ data.auth_key }}"}, "its body template reads"),
        ({"body_template": "{% for name in data %}{{ name }}{% endfor %}"}, "its body template reads"),
        (
            {"body_template": "{{ data.name }}", "payload_url": "http://10.0.0.5/{{ data['auth_key'] }}"},
            "its URL reads",
        ),
        ({"body_template": "{{ data.name }}", "additional_headers": "X-Key: {{ data.auth_key }}"}, "its headers read"),
    ],
)
def test_an_original_stays_enabled_if_its_template_reads_a_field_that_is_left_out(
    rule: EventRule, fields: dict[str, str], difference: str
) -> None:
    rule.delete()
    make_rule(make_original("Key", **fields), "ipam.fhrpgroup", name="Key")
    text = run("--noinput", "--disable-originals")
    assert enabled_rules() == ["Key"]
    assert f"! {difference} what is left out of the data of ipam.fhrpgroup: auth_key\n" in text


@pytest.mark.parametrize("attr", ["auth_key", "snapshots.prechange.auth_key"])
def test_an_original_stays_enabled_if_its_conditions_judge_a_field_that_is_left_out(rule: EventRule, attr: str) -> None:
    rule.delete()
    original = make_original("Key", body_template="{{ data.name }}")
    make_rule(original, "ipam.fhrpgroup", name="Key", conditions={"or": [{"attr": attr, "value": "x"}]})
    text = run("--noinput", "--disable-originals")
    assert enabled_rules() == ["Key"]
    assert "! its conditions judge what is left out of the data of ipam.fhrpgroup: auth_key\n" in text


def test_an_original_is_disabled_if_its_template_reads_nothing_that_is_left_out(rule: EventRule, secrets: None) -> None:
    original = make_original("Name", body_template="{{ data.name }} {{ data.custom_fields.cost }} {{ event }}")
    make_rule(original, "ipam.fhrpgroup", "dcim.device", name="Name")
    run("--noinput", "--disable-originals")
    assert enabled_rules() == []


def test_an_original_is_disabled_if_the_settings_include_its_sensitive_fields(
    rule: EventRule, secrets: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    included = {"dcim.device": ["community_secret", "api_key"], "ipam.FHRPGroup": ["auth_key"]}
    monkeypatch.setitem(settings.WEBHOOKS, "INCLUDE_SENSITIVE", included)
    kept = {model: registration_of(model) for model in (Device, FHRPGroup)}
    try:
        for model in kept:
            register(model)
        rule.delete()
        make_rule(make_original("All"), "ipam.fhrpgroup", "dcim.device", name="All")
        run("--noinput", "--disable-originals")
        assert enabled_rules() == []
        group = FHRPGroup.objects.create(group_id=7, protocol="vrrp2", auth_key="s3cret")
        assert json.loads(serialize(registration_of(FHRPGroup), group).data)["auth_key"] == "s3cret"
    finally:
        for model, registration in kept.items():
            registry._registrations[model] = registration


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
