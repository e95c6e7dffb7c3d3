"""The lists of events and of skipped changes, the page of one event, replay."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse
from django.utils import timezone, translation

from dcim.models import Site
from tests.support.admin_pages import EVENTS, WEBHOOKS, change_of, form, messages_after, page, staff, statements
from tests.support.html_forms import fields_of
from tests.support.makers import make_site_delivery, make_site_event, make_site_skip, make_webhook
from tests.testapp.models import Thing
from webhooks.admin.base import list_url
from webhooks.insight.wording import skip_reason
from webhooks.models import Event, Skip, State, Webhook
from webhooks.models.event import LOOP_PROTECTION
from webhooks.models.ids import first_id, new_id
from webhooks.models.skip import Rule

pytestmark = pytest.mark.one_database

SKIPS = reverse("admin:rq_webhooks_skip_changelist")


class TestEvents:
    def test_one_shows_its_data_and_its_deliveries(self, admin_client: Client, webhook: Webhook) -> None:
        event = make_site_event(12, "AMS1", username="jstretch")
        delivery = make_site_delivery(webhook, event=event)
        shown = page(admin_client, change_of(event))
        for text in ("AMS1", "jstretch", "&quot;AMS1&quot;", change_of(delivery), "CMDB"):
            assert text in shown

    def test_one_shows_which_webhooks_skipped_it(self, admin_client: Client, webhook: Webhook) -> None:
        event = make_site_event(12, "AMS1", request_id="r-1")
        same = {"action": "updated", "timestamp": event.timestamp, "id": first_id(event.timestamp)}
        make_site_skip(make_webhook(Site, name="DNS"), 12, request_id="r-1", **same)
        make_site_skip(make_webhook(Site, name="Chat"), 12, request_id="r-2", **same | {"id": new_id()})
        shown = page(admin_client, change_of(event))
        assert "<dt>DNS</dt><dd>The condition wants status.value" in shown
        assert "Chat" not in shown

    def test_one_shows_the_skips_of_its_change_and_of_no_other(self, admin_client: Client, webhook: Webhook) -> None:
        event = make_site_event(12, "AMS1", webhook_ids=[webhook.pk])
        backfilled, dns = make_webhook(Site, name="Backfilled"), make_webhook(Site, name="DNS")
        make_site_delivery(backfilled, event=event)
        for skipped_by, seconds, rule in (
            (webhook, 1, Rule.CONDITION),
            (backfilled, 0, Rule.DISABLED),
            (dns, 0, Rule.NO_CHANGE),
            (dns, 1, Rule.CONDITION),
        ):
            moment = event.timestamp + timedelta(seconds=seconds)
            make_site_skip(skipped_by, 12, timestamp=moment, id=new_id(), rule=rule)
        assert [skip.webhook for skip, _ in admin_client.get(change_of(event)).context["shown"].skips] == [dns]
        assert "<dt>DNS</dt><dd>The update changed nothing" in page(admin_client, change_of(event))

    def test_a_loop_protected_one_shows_the_skips_of_its_webhooks(self, admin_client: Client, webhook: Webhook) -> None:
        event = make_site_event(12, "AMS1", webhook_ids=[webhook.pk], error=LOOP_PROTECTION)
        stopped = {"rule": Rule.LOOP_PROTECTION, "detail": '{"depth": 6, "limit": 5}'}
        make_site_skip(webhook, 12, timestamp=event.timestamp, **stopped)
        assert [skip.webhook for skip, _ in admin_client.get(change_of(event)).context["shown"].skips] == [webhook]

    def test_one_shows_a_skip_with_an_id_from_the_begin_of_a_long_transaction(self, admin_client: Client) -> None:
        event = make_site_event(12, "AMS1")
        began = first_id(event.timestamp - timedelta(minutes=1))
        make_site_skip(make_webhook(Site, name="DNS"), 12, timestamp=event.timestamp, id=began)
        assert "<dt>DNS</dt><dd>The condition wants status.value" in page(admin_client, change_of(event))

    def test_failed_filters_are_shown(self, admin_client: Client) -> None:
        failed = make_site_event(1, "AMS1", error="TypeError")
        assert "the filters of a webhook failed" in page(admin_client, change_of(failed))
        Event.objects.update(replayed_at=failed.timestamp)
        assert "No webhook matched then" in page(admin_client, change_of(failed))

    @pytest.mark.parametrize(
        ("fields", "pill", "sentence", "button"),
        [
            ({"data": "", "error": "KeyError"}, "payload failed", "creating the payload failed", "with current data"),
            ({"error": "Undecided"}, "filters failed", "the filters of a webhook failed", "with current data"),
            ({"error": LOOP_PROTECTION}, "loop protection", "the chain is too deep", "as the first of a new chain"),
        ],
    )
    def test_each_kind_of_failure_has_a_label(
        self, admin_client: Client, fields: dict[str, Any], pill: str, sentence: str, button: str
    ) -> None:
        failed = make_site_event(**fields)
        shown = page(admin_client, change_of(failed))
        assert sentence in shown
        assert re.search(rf"<button[^>]*>Replay [^<]*{button}\s*</button>", shown)
        for listed in (shown, page(admin_client, EVENTS)):
            assert f'wh-failed">{pill}</span>' in listed

    @pytest.mark.cost
    def test_the_list_shows_the_kind_of_failure_without_more_queries(self, admin_client: Client) -> None:
        make_site_event(1, error="KeyError")
        few = statements(admin_client, EVENTS)
        make_site_event(2, error="KeyError", data="")
        assert len(statements(admin_client, EVENTS)) == len(few)

    def test_a_failed_one_shows_its_traceback_and_can_be_found(self, admin_client: Client, webhook: Webhook) -> None:
        failed = make_site_event(1, "broken", data="", error="Traceback:\nKeyError: 'name'")
        make_site_event(2, "in order")
        shown = page(admin_client, change_of(failed))
        assert "KeyError: &#x27;name&#x27;" in shown
        assert "No values are stored." in shown
        shown = page(admin_client, EVENTS, state="failed")
        assert "broken" in shown
        assert "in order" not in shown

    @pytest.mark.cost
    def test_the_list_has_a_fixed_number_of_capped_queries(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_event()
        page(admin_client, EVENTS)
        few = statements(admin_client, EVENTS)
        for key in range(20):
            make_site_delivery(webhook, event=make_site_event(key))
        assert len(statements(admin_client, EVENTS)) == len(few)
        assert all("LIMIT" in sql or "GROUP BY" in sql for sql in few if "COUNT(" in sql)

    def test_the_list_and_the_page_say_what_became_of_the_deliveries(
        self, admin_client: Client, webhook: Webhook
    ) -> None:
        event = make_site_event()
        for one, state in (
            (webhook, State.FAILED),
            (make_webhook(Site), State.WAITING),
            (make_webhook(Site), State.PENDING),
        ):
            make_site_delivery(one, state, event)
        for address in (EVENTS, reverse("admin:rq_webhooks_event_change", args=[event.pk])):
            shown = page(admin_client, address)
            assert shown.index("1 failed") < shown.index("2 not sent yet")
            assert "1 failed" not in page(staff("view_event"), address)

    def test_a_replay_sends_current_data(self, admin_client: Client) -> None:
        site = Site.objects.create(name="Lisbon", slug="lis")
        webhook = make_webhook(Site)
        failed = make_site_event(site.pk, "old name", data="", error="KeyError", webhook_ids=[webhook.pk])
        address = reverse("admin:rq_webhooks_event_replay", args=[failed.pk])
        assert address in page(admin_client, change_of(failed))
        assert messages_after(admin_client, address) == ["1 event replayed."]
        made = Event.objects.get(replay_of=failed.pk)
        assert '"Lisbon"' in made.data
        assert change_of(made) in page(admin_client, change_of(failed))
        assert change_of(failed) in page(admin_client, change_of(made))
        assert LogEntry.objects.get().change_message == "Replayed."

    @pytest.mark.parametrize("from_list", [False, True])
    def test_a_form_that_comes_twice_replays_once(self, admin_client: Client, from_list: bool) -> None:
        site = Site.objects.create(name="Lisbon", slug="lis")
        sent = make_site_event(site.pk, "Lisbon", webhook_ids=[make_webhook(Site).pk])
        button = reverse("admin:rq_webhooks_event_replay", args=[sent.pk])
        address, opened, begin = button, change_of(sent), f'action="{button}"'
        chosen = {}
        if from_list:
            address, opened, begin = EVENTS, EVENTS, 'id="changelist-form"'
            chosen = {"action": "replay_chosen", "_selected_action": [sent.pk]}
        [moment] = fields_of(page(admin_client, opened), begin)["opened_at"]
        refused = "“Lisbon” was not replayed: it was replayed after this page was opened."
        for expected in ("1 event replayed.", refused, refused):
            assert messages_after(admin_client, address, opened_at=moment, **chosen) == [expected]
        [again] = fields_of(page(admin_client, opened), begin)["opened_at"]
        assert messages_after(admin_client, address, opened_at=again, **chosen) == ["1 event replayed."]
        assert Event.objects.filter(replay_of=sent.pk).count() == 2

    @pytest.mark.parametrize("moment", ["", "nonsense", "0001-01-01T00:00:00+14:00", "2026-11-26T16:00:00"])
    def test_an_invented_time_of_the_page_is_no_server_error(self, admin_client: Client, moment: str) -> None:
        sent = make_site_event(Site.objects.create(name="Lisbon", slug="lis").pk, webhook_ids=[make_webhook(Site).pk])
        address = reverse("admin:rq_webhooks_event_replay", args=[sent.pk])
        assert messages_after(admin_client, address, opened_at=moment) == ["1 event replayed."]

    def test_a_refused_replay_says_why(self, admin_client: Client, webhook: Webhook) -> None:
        gone = make_site_event(99, "gone", data="", error="KeyError", webhook_ids=[webhook.pk])
        messages = messages_after(admin_client, EVENTS, action="replay_chosen", _selected_action=[gone.pk])
        assert messages == ["“gone” was not replayed: the object is gone."]

    def test_viewing_does_not_imply_replaying(self, webhook: Webhook) -> None:
        failed = make_site_event(1, error="KeyError")
        assert staff("view_event").post(reverse("admin:rq_webhooks_event_replay", args=[failed.pk])).status_code == 403


# Skips

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
        "The webhook was disabled at an unknown time: every attempt failed for longer than DISABLE_AFTER.",
    ),
}


@pytest.mark.usefixtures("in_utc")
@pytest.mark.parametrize(("rule", "detail", "words"), WORDS.values(), ids=WORDS)
def test_each_rule_is_shown_in_words(
    admin_client: Client, webhook: Webhook, rule: Rule, detail: str, words: str
) -> None:
    make_site_skip(webhook, rule=rule, detail=detail, username="robot")
    shown = page(admin_client, SKIPS)
    for text in (words, "AMS1", "dcim.site 1", "robot", "CMDB"):
        assert text in shown


@pytest.mark.parametrize(("rule", "detail"), [("rule_of_tomorrow", "{}"), (Rule.CONDITION, '{"path":"a"}')])
def test_a_skip_of_a_newer_version_is_shown(admin_client: Client, webhook: Webhook, rule: str, detail: str) -> None:
    make_site_skip(webhook, rule=rule, detail=detail)
    why = f"{reverse('webhooks_why')}?object_type=dcim.site&object_id=1&webhook={webhook.pk}"
    for shown in (page(admin_client, SKIPS), page(admin_client, why)):
        assert f"Another version of the app stored the reason: {rule}." in shown


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
        address = reverse(f"admin:rq_webhooks_skip_{what}", args=[skip.pk])
        assert admin_client.get(address).status_code in (302, 403)
    assert admin_client.get(reverse("admin:rq_webhooks_skip_add")).status_code == 403
    assert Skip.objects.count() == 1


def test_the_value_that_a_condition_found_requires_the_permission_to_view_payloads(webhook: Webhook) -> None:
    make_site_skip(webhook, actual="xyzzy")
    assert "xyzzy" not in page(staff("view_skip"), SKIPS)
    assert "It was &quot;xyzzy&quot;" in page(staff("view_skip", "read_payload_event"), SKIPS)
    assert staff("read_payload_event").get(SKIPS).status_code == 403


@pytest.mark.cost
def test_the_number_of_queries_does_not_grow_with_the_rows(admin_client: Client, webhook: Webhook) -> None:
    make_site_skip(webhook)
    few = len(statements(admin_client, SKIPS))
    for key in range(20):
        make_site_skip(webhook, key)
    assert len(statements(admin_client, SKIPS)) == few


def test_the_form_and_the_action_record_who_disabled_a_webhook(admin_client: Client, webhook: Webhook) -> None:
    admin_client.post(WEBHOOKS, {"action": "disable", "_selected_action": [webhook.pk]})
    webhook.refresh_from_db()
    assert (webhook.disabled_by, webhook.disabled_at is None) == ("admin@example.com", False)
    admin_client.post(WEBHOOKS, {"action": "enable", "_selected_action": [webhook.pk]})
    webhook.refresh_from_db()
    assert (webhook.disabled_by, webhook.disabled_at) == ("", None)
    admin_client.post(reverse("admin:rq_webhooks_webhook_add"), form(name="new", enabled=None))
    new = Webhook.objects.get(name="new")
    assert (new.enabled, new.disabled_by, new.disabled_at is None) == (False, "admin@example.com", False)


def test_skips_of_the_last_hour_lead_to_their_recovery(admin_client: Client, webhook: Webhook) -> None:
    make_site_skip(webhook, 12)
    recover = reverse("admin:rq_webhooks_webhook_recover_skipped", args=[webhook.pk])
    shown = page(admin_client, f"{SKIPS}?webhook={webhook.pk}&within=hour&rule=condition")
    [link] = re.findall(rf'<a href="({recover}[^"]+)">Recover skipped', shown)
    assert "&amp;rule=condition" in link
    assert "would be" in page(admin_client, unescape(link))
