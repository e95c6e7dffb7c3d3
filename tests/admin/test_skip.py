"""The list of skipped changes, and the links to it."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone, translation

from tests.support.admin_pages import WEBHOOKS, change_of, form, page, staff, statements
from tests.support.makers import make_site_event, make_site_skip, make_webhook
from tests.testapp.models import Thing
from webhooks.admin.lists import list_url
from webhooks.models import Skip, Webhook
from webhooks.models.skip import Rule
from webhooks.operations.wording import skip_reason

SKIPS = reverse("admin:webhooks_skip_changelist")

WORDS: dict[str, tuple[Rule, str, str]] = {
    "condition": (
        Rule.CONDITION,
        '{"path":"status.value","operator":"in","expected":["a"],"actual":"b","place":"and[1]"}',
        "The condition at and[1] wants status.value in [&quot;a&quot;]. It was &quot;b&quot;.",
    ),
    "negated change": (
        Rule.CONDITION,
        '{"path":"status","operator":"changed","expected":null,"actual":["a","b"],"negate":true}',
        "The condition wants status not changed. It was [&quot;a&quot;, &quot;b&quot;].",
    ),
    "problem": (
        Rule.CONDITION,
        '{"path":"x","operator":"eq","expected":1,"problem":"there is no \'x\'"}',
        "The condition wants x eq 1. There is no &#x27;x&#x27;.",
    ),
    "fields": (
        Rule.CHANGED_FIELDS,
        '{"wanted":["status","tags"],"changed":["name"]}',
        "Only name changed, and none of status, tags.",
    ),
    "many fields": (
        Rule.CHANGED_FIELDS,
        '{"wanted":["status"],"changed":"[\\"a\\", \\"b\\u2026"}',
        "Only [&quot;a&quot;, &quot;b… changed, and none of status.",
    ),
    "no change": (Rule.NO_CHANGE, "{}", "The update changed nothing."),
    "user": (Rule.IGNORED_USER, "{}", "Changes by robot are ignored."),
    "loop": (Rule.LOOP_PROTECTION, '{"depth":4,"limit":3}', "depth 4 of a chain of changes that webhooks caused"),
    "disabled": (
        Rule.DISABLED,
        '{"since":"2026-11-26T16:00:00+00:00","by":"root"}',
        "The webhook was disabled at 2026-11-26 16:00:00 UTC by root.",
    ),
    "disabled automatically": (
        Rule.DISABLED,
        '{"since":"","by":"","reason":"failing"}',
        "The webhook was disabled: every attempt failed for longer than DISABLE_AFTER.",
    ),
}


@pytest.mark.one_database
@pytest.mark.parametrize(("rule", "detail", "words"), WORDS.values(), ids=WORDS)
def test_each_rule_is_shown_in_words(
    admin_client: Client, webhook: Webhook, rule: Rule, detail: str, words: str
) -> None:
    make_site_skip(webhook, rule=rule, detail=detail, username="robot")
    shown = page(admin_client, SKIPS)
    for text in (words, "AMS1", "dcim.site 1", "robot", "CMDB"):
        assert text in shown


def test_a_reason_has_its_time_in_the_language_and_the_time_zone_of_the_reader(webhook: Webhook) -> None:
    skip = make_site_skip(webhook, rule=Rule.DISABLED, detail='{"since":"2026-11-26T23:30:00+00:00","by":"root"}')
    with translation.override("de"), timezone.override("Europe/Berlin"):
        shown = skip_reason(skip, shows_actual=False)
    assert shown == "Der Webhook wurde am 27.11.2026 00:30:00 CET von root deaktiviert."


def test_the_pages_of_a_webhook_and_of_an_event_lead_to_their_skips(admin_client: Client, webhook: Webhook) -> None:
    other = make_webhook(Thing)
    mine, theirs = make_site_skip(webhook, 12), make_site_skip(other, 12)
    of_another = make_site_skip(webhook, 1)
    assert list_url("skip", webhook=webhook.pk) in page(admin_client, change_of(webhook))
    event = make_site_event(12)
    of_object = list_url("skip", object_type="dcim.site", object_id="12").replace("&", "&amp;")
    assert of_object in page(admin_client, change_of(event))

    def shown(**query: Any) -> set[Skip]:
        return set(admin_client.get(SKIPS, query).context["cl"].result_list)

    assert shown(webhook=webhook.pk) == {mine, of_another}
    assert shown(q="dcim.site:12") == {mine, theirs}
    assert shown(q="1") == {of_another}
    assert shown(q="dcim.site:2") == set()
    assert shown(rule="disabled") == set()
    assert shown(object_type="dcim.site", action="updated", within="hour") == {mine, theirs, of_another}


def test_a_skip_has_no_page_and_cannot_be_changed(admin_client: Client, webhook: Webhook) -> None:
    skip = make_site_skip(webhook)
    for what in ("change", "delete", "history"):
        address = reverse(f"admin:webhooks_skip_{what}", args=[skip.pk])
        assert admin_client.get(address).status_code in (302, 403)
    assert admin_client.get(reverse("admin:webhooks_skip_add")).status_code == 403
    assert Skip.objects.count() == 1


def test_the_value_that_a_condition_found_requires_the_permission_to_view_payloads(webhook: Webhook) -> None:
    make_site_skip(webhook, actual="xyzzy")
    assert "xyzzy" not in page(staff("view_skip"), SKIPS)
    assert "It was &quot;xyzzy&quot;" in page(staff("view_skip", "view_payload"), SKIPS)
    assert staff("view_payload").get(SKIPS).status_code == 403


def test_the_number_of_queries_does_not_grow_with_the_rows(admin_client: Client, webhook: Webhook) -> None:
    make_site_skip(webhook)
    few = len(statements(admin_client, SKIPS))
    for key in range(20):
        make_site_skip(webhook, key)
    assert len(statements(admin_client, SKIPS)) == few


def test_the_form_and_the_action_record_who_disabled_a_webhook(admin_client: Client, webhook: Webhook) -> None:
    admin_client.post(WEBHOOKS, {"action": "disable", "_selected_action": [webhook.pk]})
    webhook.refresh_from_db()
    assert (webhook.disabled_by, webhook.disabled_at is None) == ("admin", False)
    admin_client.post(WEBHOOKS, {"action": "enable", "_selected_action": [webhook.pk]})
    webhook.refresh_from_db()
    assert (webhook.disabled_by, webhook.disabled_at) == ("", None)
    admin_client.post(reverse("admin:webhooks_webhook_add"), form(name="new", enabled=None))
    new = Webhook.objects.get(name="new")
    assert (new.enabled, new.disabled_by, new.disabled_at is None) == (False, "admin", False)
