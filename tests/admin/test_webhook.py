"""The pages of webhooks: form, secrets, list, deletion."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from dcim.models import Device, Site
from tests.support.admin_pages import (
    STATUS,
    WEBHOOKS,
    change_of,
    form,
    messages_after,
    page,
    staff,
    statements,
)
from tests.support.html_forms import fields_of
from tests.support.makers import make_attempt, make_site_deliveries, make_site_delivery, make_webhook
from users.models import User
from webhooks.delivery.wake_up import wake_up
from webhooks.models import Attempt, Delivery, State, StatisticDelta, Webhook

pytestmark = pytest.mark.one_database

FORM = 'id="webhook_form"'


def add_unregistered(webhook: Webhook) -> Webhook:
    """Add the model User, as if it had been registered once."""
    users = ContentType.objects.get_for_model(User)
    Webhook.object_types.through.objects.create(webhook=webhook, contenttype=users)
    return webhook


class TestForm:
    def test_it_offers_registered_models_by_app(self, admin_client: Client) -> None:
        shown = page(admin_client, reverse("admin:rq_webhooks_webhook_add"))
        user = ContentType.objects.get_for_model(User)
        assert "<legend>DCIM</legend>" in shown
        assert f'name="object_types" value="{ContentType.objects.get_for_model(Site).pk}"' in shown
        assert f'name="object_types" value="{user.pk}"' not in shown

    def test_a_valid_form_creates_a_webhook(self, admin_client: Client) -> None:
        messages_after(admin_client, reverse("admin:rq_webhooks_webhook_add"), **form(secret="s3cret"))
        webhook = Webhook.objects.get()
        assert (webhook.name, webhook.secret, webhook.actions) == ("CMDB", "s3cret", ["created"])
        assert [one.model for one in webhook.object_types.all()] == ["site"]

    @pytest.mark.parametrize(
        ("changes", "error"),
        [
            ({"object_types": []}, "Choose at least one model."),
            ({"on_created": None}, "Choose at least one action (created, updated, deleted) or one custom event."),
            ({"payload_url": "ftp://cmdb.example/"}, "Enter an http:// or https:// URL."),
            ({"payload_url": "javascript:alert(1)"}, "Enter an http:// or https:// URL."),
            ({"payload_url": "http://2130706433/"}, "is an odd way to write 127.0.0.1: write that."),
            ({"payload_url": "http://169.254.169.254/"}, "169.254.169.254 is a cloud metadata address, where nothing"),
            ({"payload_url": "http://u:p@cmdb.example/"}, "a user name or a password in it, which everybody would see"),
            ({"payload_url": "http://bad.example/"}, "bad.example resolves to a forbidden address: 169.254.0.1 is"),
            ({"payload_url": ""}, "This field is required."),
            ({"payload_url": "https://cmdb.example/{{ data.id"}, "Line 1: unexpected end of template"),
            ({"payload_url": "ftp://cmdb.example/{{ data.id }}"}, "Enter an http:// or https:// URL."),
            ({"payload_url": "http://169.254.169.254/{{ data.id }}"}, "is a cloud metadata address, where nothing"),
            ({"body_template": "{\r\n{{ data.id }\r\n}"}, "Line 2: unexpected"),
            ({"body_template": "{{ data.id | nope }}"}, "Line 1: No filter named"),
            ({"additional_headers": "X-A: 1\r\nno colon"}, "Line 2: there is no colon in"),
            ({"additional_headers": "X-A: 1\r\nhost: a.example"}, "Line 2: host is not for a template to set"),
            ({"content_type": "json"}, "Enter a content type, such as application/json."),
            ({"http_method": "HEAD"}, "HEAD is not one of the available choices"),
            ({"timeout": "121"}, "less than or equal to 120"),
            ({"ssl_verification": None, "ca_file_path": "/ca.pem"}, "A CA file has no effect"),
        ],
    )
    def test_an_invalid_form_shows_its_error_once(
        self, admin_client: Client, names: dict[str, list[str]], changes: dict[str, Any], error: str
    ) -> None:
        names["bad.example"] = ["10.0.0.1", "169.254.0.1"]
        response = admin_client.post(reverse("admin:rq_webhooks_webhook_add"), form(**changes))
        assert response.content.decode().count(error) == 1
        assert not Webhook.objects.exists()

    @pytest.mark.parametrize(
        "url",
        [
            "https://cmdb.example/{{ data.id }}",
            "https://{{ data.host }}/in",
            "{% if data.site %}https://a.example/{% else %}https://b.example/{% endif %}",
            "http{{ 's' }}://cmdb.example/",
            "HTTPS://cmdb.example:8443{{ path }}",
        ],
    )
    def test_templates_are_stored_unchanged(self, admin_client: Client, url: str) -> None:
        headers = "X-Event: {{ event }}\r\nX-By: {{ username | header_safe }}"
        said = {"http_method": "PATCH", "content_type": "text/x; charset=utf-8", "body_template": "{{ data | tojson }}"}
        messages_after(
            admin_client,
            reverse("admin:rq_webhooks_webhook_add"),
            **form(payload_url=url, additional_headers=headers, **said),
        )
        webhook = Webhook.objects.get()
        assert {name: getattr(webhook, name) for name in said} == said
        assert (webhook.payload_url, webhook.additional_headers.splitlines()) == (url, headers.splitlines())

    def test_common_content_types_are_suggested(self, admin_client: Client) -> None:
        shown = page(admin_client, reverse("admin:rq_webhooks_webhook_add"))
        assert 'list="content_type_suggestions"' in shown
        assert '<option value="application/x-www-form-urlencoded">' in shown

    @pytest.mark.parametrize(
        ("operator", "words", "widget"),
        [
            ("eq", "ist", "value"), ("in", "ist eins von", "list"), ("regex", "beginnt mit dem Muster", "text"),
            ("changed", "hat sich geändert", "none"),
        ],
    )  # fmt: skip
    def test_the_script_gets_each_operator_in_the_language_of_the_reader(
        self, admin_client: Client, operator: str, words: str, widget: str
    ) -> None:
        shown = admin_client.get(reverse("admin:rq_webhooks_webhook_add"), headers={"Accept-Language": "de"})
        builder = shown.content.decode().partition('<script id="wh-condition-builder" type="application/json">')[2]
        operators = json.loads(builder.partition("</script>")[0])["operators"]
        assert operators[operator] == {"words": words, "widget": widget}

    def test_viewers_see_no_headers(self, webhook: Webhook) -> None:
        Webhook.objects.update(additional_headers="Authorization: Token t0ps3cret")
        shown = page(staff("view_webhook"), change_of(webhook))
        assert "shown to users who may change the webhook" in shown
        assert "t0ps3cret" not in shown

    def test_a_forbidden_destination_can_be_disabled_but_not_enabled(
        self, admin_client: Client, webhook: Webhook
    ) -> None:
        forbidden = {"payload_url": "http://169.254.169.254/"}
        Webhook.objects.update(**forbidden)
        messages_after(admin_client, change_of(webhook), **form(**forbidden, enabled=None))
        assert not Webhook.objects.get().enabled
        response = admin_client.post(change_of(webhook), form(**forbidden))
        assert "is a cloud metadata address" in response.content.decode()
        assert not Webhook.objects.get().enabled

    @pytest.mark.parametrize(("was", "left"), [("True", "on"), ("False", None)])
    def test_saving_an_old_form_does_not_switch_it_back(
        self, admin_client: Client, webhook: Webhook, was: str, left: str | None
    ) -> None:
        Webhook.objects.update(enabled=not left, disabled_reason="gone" if left else "")
        opened = form(name="renamed", enabled=left) | {"initial-enabled": was}
        [warning, success] = messages_after(admin_client, change_of(webhook), **opened)
        assert f"“renamed” was {'disabled' if left else 'enabled'}" in warning
        assert ("no more deliveries. It stays disabled" in warning) == bool(left)
        assert "was changed successfully" in success
        assert Webhook.objects.values_list("name", "enabled").get() == ("renamed", not left)

    @pytest.mark.parametrize(("was", "wanted"), [("True", None), ("False", "on")])
    def test_the_form_enables_and_disables(
        self, admin_client: Client, webhook: Webhook, was: str, wanted: str | None
    ) -> None:
        Webhook.objects.update(enabled=not wanted)
        assert f'name="initial-enabled" value="{was}"' in page(admin_client, change_of(webhook))
        [success] = messages_after(admin_client, change_of(webhook), **form(enabled=wanted) | {"initial-enabled": was})
        assert "was changed successfully" in success
        assert Webhook.objects.get().enabled == bool(wanted)

    def test_the_form_shows_its_problems(self, admin_client: Client, webhook: Webhook) -> None:
        assert "wh-alarm" not in page(admin_client, change_of(webhook))
        Webhook.objects.update(failures_in_a_row=10, last_failure="HTTP 503", probe_at=timezone.now())
        shown = page(admin_client, change_of(webhook))
        assert "is paused after 10 failed attempts: HTTP 503." in shown
        assert "<p>the next delivery is the probe</p>" in shown
        Webhook.objects.update(enabled=False, probe_at=None, disabled_reason="gone")
        assert "was disabled automatically: the receiver answered 410 Gone" in page(
            staff("view_webhook"), change_of(webhook)
        )

    def test_the_form_shows_its_problems_without_time_zones(
        self, admin_client: Client, webhook: Webhook, settings: Any
    ) -> None:
        settings.USE_TZ = False
        Webhook.objects.update(failures_in_a_row=10, last_failure="HTTP 503", probe_at=timezone.now())
        assert "<p>the next delivery is the probe</p>" in page(admin_client, change_of(webhook))

    def test_an_unregistered_model_is_refused(self, admin_client: Client) -> None:
        users = ContentType.objects.get_for_model(User)
        response = admin_client.post(reverse("admin:rq_webhooks_webhook_add"), form(object_types=[users.pk]))
        assert "is not one of the available choices" in response.content.decode()
        assert not Webhook.objects.exists()

    def test_a_model_that_is_not_registered_stays_until_it_is_unchecked(
        self, admin_client: Client, webhook: Webhook
    ) -> None:
        users = ContentType.objects.get_for_model(User)
        shown = page(admin_client, change_of(add_unregistered(webhook)))
        assert "users.user (not registered)</label>" in shown
        assert "It stays with the webhook until you uncheck it and save." in shown
        filled = fields_of(shown, FORM)
        assert str(users.pk) in filled["object_types"]
        messages_after(admin_client, change_of(webhook), **filled | {"name": ["renamed"]})
        assert Webhook.objects.get().name == "renamed"
        assert users in webhook.object_types.all()
        assert "Models" not in LogEntry.objects.get().get_change_message()
        left = [key for key in filled["object_types"] if key != str(users.pk)]
        messages_after(admin_client, change_of(webhook), **filled | {"name": ["renamed"], "object_types": left})
        assert users not in webhook.object_types.all()
        shown = page(admin_client, change_of(webhook))
        assert "not registered" not in shown
        assert f'name="object_types" value="{users.pk}"' not in shown

    def test_a_model_that_the_site_does_not_have_any_more_stays_as_the_only_one(
        self, admin_client: Client, webhook: Webhook
    ) -> None:
        gone = ContentType.objects.create(app_label="racks", model="rack")
        Webhook.object_types.through.objects.update(contenttype=gone)
        filled = fields_of(page(admin_client, change_of(webhook)), FORM)
        assert filled["object_types"] == [str(gone.pk)]
        messages_after(admin_client, change_of(webhook), **filled | {"name": ["renamed"]})
        assert Webhook.objects.get().name == "renamed"
        assert list(webhook.object_types.all()) == [gone]

    def test_a_model_that_is_not_registered_and_that_another_user_removes_meanwhile_does_not_come_back(
        self, admin_client: Client, webhook: Webhook
    ) -> None:
        users = ContentType.objects.get_for_model(User)
        filled = fields_of(page(admin_client, change_of(add_unregistered(webhook))), FORM)
        webhook.object_types.remove(users)
        response = admin_client.post(change_of(webhook), filled)
        assert "This was changed while the form was open." in response.content.decode()
        assert admin_client.post(change_of(webhook), fields_of(response.content.decode(), FORM)).status_code == 302
        assert users not in webhook.object_types.all()

    def test_the_filters_of_a_webhook_with_a_model_that_is_not_registered_are_tried(
        self, admin_client: Client, webhook: Webhook
    ) -> None:
        filled = fields_of(page(admin_client, change_of(add_unregistered(webhook))), FORM)
        answer = admin_client.post(reverse("admin:rq_webhooks_webhook_condition_preview"), filled)
        assert answer.json()["text"].startswith("There are no stored events of these models and actions")


class TestSecret:
    @pytest.fixture
    def signed(self, db: None) -> Webhook:
        return make_webhook(Site, name="signed", secret="hush-hush")

    def test_it_is_never_shown_again(self, admin_client: Client, signed: Webhook) -> None:
        for shown in (page(admin_client, change_of(signed)), page(admin_client, WEBHOOKS)):
            assert "hush-hush" not in shown
        assert "A value is stored. Leave this empty to keep it." in page(admin_client, change_of(signed))

    def test_a_form_with_errors_asks_for_it_again(self, admin_client: Client, signed: Webhook) -> None:
        response = admin_client.post(change_of(signed), form(name="", secret="another-one"))
        assert "another-one" not in response.content.decode()
        assert list(response.context["errors"]) == [
            ["This field is required."],
            ["Enter it again: nothing was saved, and the entered value is not shown."],
        ]

    def test_viewers_do_not_see_it(self, signed: Webhook) -> None:
        shown = page(staff("view_webhook"), change_of(signed))
        assert "Payload URL" in shown
        assert "ecret" not in shown
        assert "hush-hush" not in shown

    @pytest.mark.parametrize(
        ("sent", "kept"),
        [({"secret": ""}, "hush-hush"), ({"secret": "new"}, "new"), ({"clear_secret": "on"}, "")],
    )
    def test_it_is_kept_replaced_or_cleared(
        self, admin_client: Client, signed: Webhook, sent: dict[str, str], kept: str
    ) -> None:
        messages_after(admin_client, change_of(signed), **form(name="signed", **sent))
        signed.refresh_from_db()
        assert signed.secret == kept

    def test_new_and_clear_at_once_is_refused(self, admin_client: Client, signed: Webhook) -> None:
        response = admin_client.post(change_of(signed), form(secret="new", clear_secret="on"))
        assert "not both" in response.content.decode()
        signed.refresh_from_db()
        assert signed.secret == "hush-hush"

    @pytest.mark.parametrize(
        ("sent", "kept"),
        [
            ({}, "X-Token: hush"),
            ({"secret_headers": "X-Other: new"}, "X-Other: new"),
            ({"clear_secret_headers": "on"}, ""),
        ],
    )
    def test_secret_headers_are_kept_replaced_or_cleared(
        self, admin_client: Client, signed: Webhook, sent: dict[str, str], kept: str
    ) -> None:
        Webhook.objects.update(secret_headers="X-Token: hush")
        shown = page(admin_client, change_of(signed))
        assert "A value is stored. Leave this empty to keep it." in shown
        assert "X-Token" not in shown
        messages_after(admin_client, change_of(signed), **form(name="signed", **sent))
        assert Webhook.objects.get().secret_headers == kept

    def test_a_form_without_their_fields_clears_secrets_too(self, admin_client: Client, signed: Webhook) -> None:
        """Such a form also names a new receiver: nothing that it clears may be sent there."""
        Webhook.objects.update(secret_headers="X-Token: hush")
        sent = {"secret": None, "secret_headers": None, "clear_secret": "on", "clear_secret_headers": "on"}
        messages_after(admin_client, change_of(signed), **form(payload_url="https://other.example/", **sent))
        signed.refresh_from_db()
        assert (signed.payload_url, signed.secret, signed.secret_headers) == ("https://other.example/", "", "")

    def test_invalid_secret_headers_are_not_shown(self, admin_client: Client, signed: Webhook) -> None:
        response = admin_client.post(change_of(signed), form(secret_headers="X-Token: hush\nHost: hush"))
        shown = response.content.decode()
        assert "Line 2: Host cannot be set" in shown
        assert "hush" not in shown

    def test_an_encrypted_value_cannot_be_entered(self, admin_client: Client, signed: Webhook) -> None:
        response = admin_client.post(change_of(signed), form(secret=signed.secret.stored))
        assert "which marks encrypted texts" in response.content.decode()

    def test_unusable_encryption_keys_are_reported(self, admin_client: Client, webhooks_settings: Any) -> None:
        webhooks_settings(ENCRYPTION_KEYS=["no key"])
        response = admin_client.post(reverse("admin:rq_webhooks_webhook_add"), form(secret="new"))
        assert "ENCRYPTION_KEYS" in response.content.decode()
        assert not Webhook.objects.exists()

    def test_an_unchanged_secret_is_not_logged(self, admin_client: Client, signed: Webhook) -> None:
        messages_after(admin_client, change_of(signed), **form(name="renamed"))
        assert "ecret" not in LogEntry.objects.get().change_message


class TestList:
    def test_it_shows_counts_and_the_last_error(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_deliveries(webhook, 3)
        make_site_delivery(webhook, State.WAITING)
        Webhook.objects.update(failures_in_a_row=2, last_failure="HTTP 500", last_failure_at=timezone.now())
        shown = page(admin_client, WEBHOOKS)
        assert 'state=failed">3</a>' in shown
        assert 'state=open">1</a>' in shown
        assert "failing" in shown
        assert "HTTP 500" in shown

    @pytest.mark.cost
    def test_the_number_of_queries_does_not_grow(self, admin_client: Client, webhook: Webhook) -> None:
        add_unregistered(webhook)
        page(admin_client, WEBHOOKS)
        few = len(statements(admin_client, WEBHOOKS))
        for _ in range(5):
            make_site_deliveries(add_unregistered(make_webhook(Site, Device)), 2)
        assert len(statements(admin_client, WEBHOOKS)) == few

    @pytest.mark.parametrize(
        ("action", "before", "wakes"),
        [
            ("disable", {"enabled": True}, []),
            ("enable", {"enabled": False}, [wake_up]),
            ("enable", {"enabled": True}, []),
            ("resume", {"probe_at": timezone.now()}, [wake_up]),
        ],
    )
    def test_enable_and_resume_wake_a_worker(
        self,
        admin_client: Client,
        webhook: Webhook,
        django_capture_on_commit_callbacks: Any,
        action: str,
        before: dict[str, Any],
        wakes: list[Any],
    ) -> None:
        Webhook.objects.update(**before)
        with django_capture_on_commit_callbacks() as callbacks:
            messages_after(admin_client, WEBHOOKS, action=action, _selected_action=[webhook.pk])
        assert [one for one in callbacks if one is wake_up] == wakes

    @pytest.mark.parametrize(
        ("action", "before", "after", "message"),
        [
            ("disable", {"enabled": True}, False, "1 webhook disabled."),
            ("disable", {"enabled": False}, False, "Skipped 1: already disabled."),
            ("enable", {"enabled": False, "disabled_reason": "gone"}, True, "1 webhook enabled."),
        ],
    )
    def test_webhooks_are_enabled_and_disabled(
        self, admin_client: Client, webhook: Webhook, action: str, before: dict[str, Any], after: bool, message: str
    ) -> None:
        Webhook.objects.update(**before)
        assert messages_after(admin_client, WEBHOOKS, action=action, _selected_action=[webhook.pk]) == [message]
        webhook.refresh_from_db()
        assert (webhook.enabled, webhook.disabled_reason) == (after, "")

    def test_rows_that_leave_a_filtered_list_are_counted(self, admin_client: Client, webhook: Webhook) -> None:
        Webhook.objects.update(enabled=False)
        messages = messages_after(
            admin_client, f"{WEBHOOKS}?enabled__exact=0", action="enable", _selected_action=[webhook.pk]
        )
        assert messages == ["1 webhook enabled."]

    def test_a_paused_one_is_resumed(self, admin_client: Client, webhook: Webhook) -> None:
        Webhook.objects.update(probe_at=timezone.now() + timedelta(hours=1), failures_in_a_row=20)
        messages = messages_after(admin_client, WEBHOOKS, action="resume", _selected_action=[webhook.pk])
        assert messages == ["1 webhook resumed."]
        webhook.refresh_from_db()
        assert not webhook.is_paused
        assert LogEntry.objects.get().change_message == "Resumed."


class TestState:
    """The sentence at the top of the page, and the figures below."""

    @pytest.mark.parametrize(
        ("last_success", "last_failure", "failures", "sentence"),
        [
            (None, None, 0, "Nothing was sent yet."),
            (1, None, 0, "The receiver accepted the last request"),
            (1, 2, 0, "The receiver accepted the last request"),
            (2, 1, 0, "The last attempt failed"),  # a user has resumed it since
            (None, 1, 0, "The last attempt failed"),
            (2, 1, 3, "3 attempts failed in a row"),
        ],
    )
    def test_it_says_what_became_of_the_last_attempt(
        self,
        admin_client: Client,
        webhook: Webhook,
        last_success: int | None,
        last_failure: int | None,
        failures: int,
        sentence: str,
    ) -> None:
        """Successes and failures are given in hours ago."""
        success, failure = (at and timezone.now() - timedelta(hours=at) for at in (last_success, last_failure))
        known = Webhook.objects.filter(pk=webhook.pk)
        known.update(last_success_at=success, last_failure_at=failure, failures_in_a_row=failures)
        shown = page(admin_client, change_of(webhook))
        sentences = ("Nothing was sent yet.", "The receiver accepted", "The last attempt failed", "attempts failed")
        assert [one for one in sentences if one in shown] == [one for one in sentences if one in sentence]
        assert sentence in shown

    def test_it_does_not_say_that_nothing_was_sent_beside_a_delivery_or_an_attempt(
        self, admin_client: Client, webhook: Webhook
    ) -> None:
        """A worker may send the first delivery while the page is read, after the row of the webhook."""
        attempt = {"webhook_id": webhook.pk, "error_kind": "http_401", "attempted": 1}
        make_site_delivery(webhook, State.PENDING)
        assert "Nothing was sent yet." not in page(admin_client, change_of(webhook))
        Delivery.objects.all().delete()
        assert "Nothing was sent yet." in page(admin_client, change_of(webhook))
        StatisticDelta.objects.insert([attempt])
        shown = page(admin_client, change_of(webhook))
        assert "Nothing was sent yet." not in shown
        assert "<dt>attempt in 24 h</dt>" in shown
        StatisticDelta.objects.insert([attempt])
        assert "<dt>attempts in 24 h</dt>" in page(admin_client, change_of(webhook))


class TestDeletion:
    def test_the_preview_counts_deliveries(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_deliveries(webhook, 3)
        make_site_delivery(webhook, State.WAITING)
        shown = page(admin_client, reverse("admin:rq_webhooks_webhook_delete", args=[webhook.pk]))
        assert "4 deliveries (1 not sent yet, 3 failed) with all attempts." in shown

    def test_the_preview_of_several_counts_each(self, admin_client: Client, webhook: Webhook) -> None:
        other = make_webhook(Site, name="Chat")
        make_site_delivery(other)
        chosen = {"action": "delete_selected", "_selected_action": [webhook.pk, other.pk]}
        shown = admin_client.post(WEBHOOKS, chosen).content.decode()
        assert "1 delivery (0 not sent yet, 1 failed)" in shown
        assert "0 deliveries with all attempts." in shown
        messages_after(admin_client, WEBHOOKS, **chosen, post="yes")
        assert not Webhook.objects.exists()

    @pytest.mark.cost
    def test_deletion_does_not_load_deliveries(self, admin_client: Client, webhook: Webhook) -> None:
        other = make_site_delivery(make_webhook(Site))
        for delivery in make_site_deliveries(webhook, 30):
            make_attempt(delivery)
        address = reverse("admin:rq_webhooks_webhook_delete", args=[webhook.pk])
        with CaptureQueriesContext(connection) as captured:
            messages_after(admin_client, address, post="yes")
        assert list(Delivery.objects.all()) == [other]
        assert not Attempt.objects.exists()
        read = [one["sql"] for one in captured if one["sql"].startswith('SELECT "rq_webhooks_delivery"')]
        assert read
        assert '"reason"' not in "".join(read), "only their keys are read"

    def test_it_needs_permission(self, webhook: Webhook) -> None:
        address = reverse("admin:rq_webhooks_webhook_delete", args=[webhook.pk])
        assert staff("view_webhook", "change_webhook").get(address).status_code == 403


@pytest.mark.parametrize("asked", ["additional_headers__startswith", "secret__contains", "body_template__regex"])
def test_hidden_columns_cannot_be_filtered(webhook: Webhook, asked: str) -> None:
    viewer = staff("view_webhook")
    assert viewer.get(WEBHOOKS, {asked: "A"}).status_code == 400
    assert viewer.get(WEBHOOKS, {"enabled__exact": "1"}).status_code == 200


def test_separators_of_thousands_stay_out_of_addresses(admin_client: Client, settings: Any) -> None:
    settings.USE_THOUSAND_SEPARATOR = True
    webhook = make_webhook(Site, id=12345)
    make_site_delivery(webhook, State.FAILED)
    for address in (change_of(webhook), WEBHOOKS, STATUS):
        addresses = re.findall(r'(?:href|action|value|hx-get)="([^"]*)"', page(admin_client, address))
        assert any("12345" in one for one in addresses)
        assert not [one for one in addresses if "12,345" in one or "12%2C345" in one]
